"""What the study's report says.

What belongs here: sentences about its figures. What does not: their computation (`numbers`),
tables (`tables`), figures (`figures`), and which section they stand in (`sections`).

A ratio is called lower or higher only where its interval excludes 1; everything else is said to be
undecided, with the interval.
"""

import math

from tsfm_pipeline.reports.shared.answer import Answer, Effect, effect_of
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    count,
    interval,
    milliseconds,
    number,
    percent,
    percent_interval,
    ratio_interval,
    whole,
)
from tsfm_pipeline.studies.time_r1.methods import (
    DRAFT,
    GRIP_MEDIAN,
    MATCHED_WITH_GRIP,
    REFERENCES,
    SEASONAL_NAIVE,
    SEASONS_MEAN,
    SFT_PLAIN_GREEDY,
    SLOW_THINKING,
    SLOW_THINKING_ONE_PASS,
    title_of,
)
from tsfm_pipeline.studies.time_r1.report.model import Question, SlowThinkingReport
from tsfm_pipeline.studies.time_r1.report.names import question_text

HEADLINES = {
    "gain": "Slow thinking has a lower error than the draft that it starts from",
    "loss": "Slow thinking has a higher error than the draft that it starts from",
    "null": "No difference between slow thinking and its draft is shown",
    "unknown": "Whether slow thinking differs from its draft cannot be said",
}
MASE = (
    "MASE is the mean absolute error over the mean absolute difference of values one season apart "
    "in the training rows: 1 is what repeating the last season scored there, 0 is perfect."
)
FOUR_DAYS = (
    "The four-day mean has no parameters. On the paper's windows of ETTh1 it scores close to what "
    "the paper prints for its own models, so a gain over seasonal naive alone says little."
)
OWN_SHARE = (
    "A gain over greedy SFT has several sources: the draft, the median of many answers, longer "
    "training, and GRIP. GRIP's own share is what remains against the same policy before GRIP, "
    "against as many tokens spent on more SFT, and against GRPO on as many rollouts."
)
GATE_NOTE = (
    "The gate sees the backtest at earlier origins and never the truth. The oracle takes the "
    "lower error of the two in each window; it shows what a perfect gate would gain and cannot be "
    "had."
)
KL_NOTE = (
    "The divergence is measured after a given reason, as slow thinking asks: it covers the numbers "
    "of the answer and the tag that closes it, and no word of a reason."
)
CHECKS = (
    "Each data set is compared with its description, and its values and training windows with its "
    "file or telemetry, read again by another reader: mean, standard deviation and deciles."
)
CHOICE = "Nothing was chosen on test windows: neither weights, nor steps, nor the gate's rule."


def verdict_answer(report: SlowThinkingReport) -> Answer:
    """Return whether slow thinking differs from its draft, in a line."""
    effect = effect_of(*report.over(DRAFT))
    return Answer(effect, HEADLINES[effect])


def context(report: SlowThinkingReport) -> str:
    """Say what was done, for a reader who does not know the project."""
    return (
        f"A language model reads {report.look_back} values, a draft of the next "
        f"{report.horizon} by a frozen forecasting model, and findings about both. It corrects the "
        "draft by one answer without chance, half of which is taken. A gate keeps it where the "
        "same procedure did no harm at earlier origins, and then "
        f"{count(report.n_samples, 'sampled answer')} give its deciles; otherwise the draft "
        "stands. The model first learned from given answers (SFT), then from "
        f"rewards for its own (GRIP). Figures are of {question_text(report.headline)}, on test "
        "windows that no training and no choice has seen."
    )


def first_lines(report: SlowThinkingReport) -> list[tuple[str, str]]:
    """Return the five lines that answer the question, each with a word of what it is about."""
    return [
        ("Slow thinking", slow_thinking_line(report)),
        ("Without a draft", plain_line(report)),
        ("GRIP's share", share_line(report)),
        ("Form and KL", form_line(report)),
        ("Cost", cost_line(report)),
    ]


def slow_thinking_line(report: SlowThinkingReport) -> str:
    """Say what slow thinking scores, against its draft and the simple forecasts."""
    row = report.method(SLOW_THINKING)
    if row is None:
        return "Slow thinking was not evaluated."
    parts = [
        compared(report.over(name), title_of(name))
        for name in (DRAFT, SEASONAL_NAIVE, SEASONS_MEAN)
    ]
    return (
        f"MASE is {interval(*row.mase)} on {count(row.n_windows, 'window')} of "
        f"{count(row.n_channels, 'channel')}, {'; '.join(part for part in parts if part)}."
    )


def plain_line(report: SlowThinkingReport) -> str:
    """Say what slow thinking scores against the supervised policy that sees no draft."""
    plain = report.method(SFT_PLAIN_GREEDY)
    said = compared(report.over(SFT_PLAIN_GREEDY), title_of(SFT_PLAIN_GREEDY))
    if plain is None or not said:
        return "The supervised policy without a draft was not evaluated."
    return (
        f"SFT that answers at once has a MASE of {interval(*plain.mase)}. The MASE of slow "
        f"thinking is {said}."
    )


def share_line(report: SlowThinkingReport) -> str:
    """Say what GRIP adds to the same policy, and to other ways to spend its cost."""
    parts = [compared(report.over(name, GRIP_MEDIAN), title_of(name)) for name in MATCHED_WITH_GRIP]
    said = [part for part in parts if part]
    if not said:
        return "GRIP was not compared with the same policy at matched cost."
    return f"The median of GRIP's answers has a MASE {'; '.join(said)}."


def form_line(report: SlowThinkingReport) -> str:
    """Say how many completions can be read, and how far the policy is from its reference."""
    free, constrained = report.parsing("free"), report.parsing("constrained")
    rates = [
        f"{percent(row.rate.figure)} {how}" if row and row.n else ""
        for row, how in ((free, "without"), (constrained, "with"))
    ]
    read = " and ".join(rate for rate in rates if rate)
    said = f"Readable answers: {read} a grammar." if read else "No completion was counted."
    if not math.isfinite(report.exact_kl.figure):
        return f"{said} The KL divergence was not measured."
    return (
        f"{said} Exact KL divergence from the reference: {interval(*report.exact_kl)} nats per "
        "token of the answer."
    )


def cost_line(report: SlowThinkingReport) -> str:
    """Say what a request costs, and what the training cost."""
    row = report.cost()
    if row is None:
        return "The cost of a request was not measured."
    return (
        f"A request takes {milliseconds(row.p50_ms)} at the median and {milliseconds(row.p95_ms)} "
        f"at the 95th percentile: {count(row.n_answers, 'answer')}, {number(row.tokens)} tokens. "
        f"GRIP trained for {number(row.training_cpu_s / 60)} minutes of processor time."
    )


def compared(ratio: Estimate, title: str) -> str:
    """Return how an error compares with another one, e.g. "lower than that of the draft
    (ratio 0.950, 0.920 to 0.981)"; empty where there is no ratio.
    """
    if not math.isfinite(ratio.figure):
        return ""
    effect = effect_of(*ratio)
    said = {
        "gain": f"lower than that of {title}",
        "loss": f"higher than that of {title}",
        "null": f"not distinguishable from that of {title}",
        "unknown": f"without an interval against that of {title}",
    }[effect]
    return f"{said} (ratio {ratio_text(ratio)})"


def ratio_text(ratio: Estimate) -> str:
    """Return a ratio with its interval for use in parentheses, e.g. "0.950, 0.920 to 0.981"."""
    return ratio_interval(*ratio).replace(" (", ", ").removesuffix(")")


def baseline_sentence(report: SlowThinkingReport) -> str:
    """Say from which methods slow thinking differs on the headline, and from which it does not."""
    found: dict[str, list[str]] = {"gain": [], "loss": [], "null": [], "unknown": []}
    for row in report.comparisons(SLOW_THINKING):
        found[effect_of(*row.ratio)].append(title_of(row.reference))
    said = {
        "gain": "Slow thinking has a lower MASE than {}",
        "loss": "it has a higher MASE than {}",
        "null": "no difference is shown from {}",
        "unknown": "there is no interval for {}",
    }
    parts = [said[effect].format(names_text(names)) for effect, names in found.items() if names]
    if not parts:
        return "Slow thinking was compared with nothing."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def passes_sentence(report: SlowThinkingReport) -> str:
    """Say what further passes add; empty where only one was evaluated."""
    one, all_ = report.method(SLOW_THINKING_ONE_PASS), report.method(SLOW_THINKING)
    if one is None or all_ is None:
        return ""
    return (
        f"With a single pass MASE is {interval(*one.mase)}, with up to "
        f"{whole(report.max_iterations)} it is {interval(*all_.mase)}; over its draft "
        f"{ratio_interval(*report.over(DRAFT, SLOW_THINKING_ONE_PASS))} and "
        f"{ratio_interval(*report.over(DRAFT))}. Further passes over a single one: "
        f"{ratio_interval(*report.over(SLOW_THINKING_ONE_PASS))}."
    )


def across_sentence(report: SlowThinkingReport) -> str:
    """Say on how many questions slow thinking differs from its draft, and in which direction."""
    effects = [
        effect_of(*report.over(DRAFT, question=question))
        for question in report.questions
        if math.isfinite(report.over(DRAFT, question=question).figure)
    ]
    if not effects:
        return "Slow thinking was compared with its draft on no question."
    words: dict[Effect, str] = {
        "gain": "a lower MASE than its draft",
        "loss": "a higher MASE than its draft",
        "null": "a MASE that cannot be told from its draft's",
        "unknown": "a MASE without an interval",
    }
    counted = [(words[effect], effects.count(effect)) for effect in words if effect in effects]
    parts = [f"{text} on {whole(n)}" for text, n in counted]
    return (
        f"Of {count(len(effects), 'question')} (a data set, a horizon and a set of windows), slow "
        f"thinking has {', '.join(parts)}."
    )


def gate_sentence(report: SlowThinkingReport) -> str:
    """Say how often the gate kept the answer, how often it was right, and what that is worth."""
    row = report.method(SLOW_THINKING)
    if row is None or not report.table_rules:
        return "There is no gate to judge."
    n = {outcome.outcome: outcome.n for outcome in report.table_gate}
    right = n["kept, lower"] + n["dropped, higher"]
    wrong = n["kept, higher"] + n["dropped, lower"]
    decided = right + wrong
    share = f", so in {percent(right / decided)} of those that differ" if decided else ""
    return (
        f"The gate kept the refined answer in {percent_interval(*row.gate_rate)} of the windows. "
        f"It decided rightly in {count(right, 'window')} and wrongly in {whole(wrong)}{share}. "
        f"MASE over the draft's: {ratio_interval(*report.rule('gate'))} with the gate, "
        f"{ratio_interval(*report.rule('always refined'))} without, "
        f"{ratio_interval(*report.rule('oracle'))} with an oracle."
    )


def null_points(report: SlowThinkingReport) -> list[tuple[str, str]]:
    """Return every question of the headline whose answer is no, or that the data leave open."""
    points = []
    for method, names in ((SLOW_THINKING, REFERENCES), (GRIP_MEDIAN, MATCHED_WITH_GRIP)):
        for name in names:
            ratio = report.over(name, method)
            effect = effect_of(*ratio)
            if effect in ("null", "loss"):
                word = "not shown" if effect == "null" else "no"
                points.append(
                    (word, f"The MASE of {title_of(method)} is {compared(ratio, title_of(name))}.")
                )
    kept = report.kept_validation("grip")
    if kept is not None and not kept.gain.low > 0:
        points.append(("not shown", "GRIP raises the reward on validation windows."))
    ungated = report.rule("always refined")
    if effect_of(*ungated) == "loss":
        points.append(
            ("no", f"Without the gate, the MASE is {compared(ungated, title_of(DRAFT))}.")
        )
    return points


def null_sentence(report: SlowThinkingReport) -> str:
    """Say how many answers are no or open."""
    points = null_points(report)
    if not points:
        return "Every comparison above has an interval that excludes 1 on the side of a gain."
    n_no = sum(word == "no" for word, _ in points)
    return (
        f"Answered with no: {whole(n_no)}. Not shown either way: {whole(len(points) - n_no)}. Both "
        "kinds are results, too."
    )


def data_sentence(report: SlowThinkingReport) -> str:
    """Say how many data sets were used, and which are missing."""
    missing = [row.name for row in report.table_data_sets if not row.role]
    used = len(report.table_data_sets) - len(missing)
    said = f"Missing: {names_text(missing)}." if missing else "None is missing."
    return f"Data sets used: {used} of {len(report.table_data_sets)}. {said}"


def checks_sentence(report: SlowThinkingReport) -> str:
    """Say what the checks of schema and drift found, and which data sets are not pinned."""
    used = [row for row in report.table_data_sets if row.role]
    problems = [problem for row in used for problem in row.problems]
    said = f"The checks found: {'; '.join(problems)}." if problems else "The checks found nothing."
    unpinned = [row.name for row in used if not row.pinned]
    known = "Every data set that was used is pinned by a digest or a seed."
    if unpinned:
        known = f"Not pinned, because no digest is known: {names_text(unpinned)}."
    return f"{CHECKS} {said} {known}"


def statistics_note(report: SlowThinkingReport) -> str:
    """Say where the intervals come from."""
    return (
        f"Intervals hold {100 * report.confidence:g} % of {count(report.n_draws, 'draw')} of a "
        "bootstrap that resamples channels and origins; ratios are paired on the same windows and "
        "draws. Each interval stands for itself and allows for none of the others."
    )


def example_caption(report: SlowThinkingReport, index: int) -> tuple[str, str]:
    """Return title and details of a window of the gallery."""
    row = report.table_gallery[index]
    decision = "the gate kept the refined answer" if row.kept else "the gate kept the draft"
    return (
        f"{'Lower' if row.kind == 'best' else 'Higher'} error: {row.channel}, row {row.origin}",
        f"MASE {number(row.draft_mase)} of the draft, {number(row.refined_mase)} refined; "
        f"{decision}. Reasoning: “{row.reason}”",
    )


def short_question(question: Question) -> str:
    """Return a question for the row of a figure."""
    data_set, horizon, windows = question
    return f"{data_set}, {horizon} steps, {windows}"


def names_text(names: list[str]) -> str:
    """Return names as part of a sentence, e.g. "a, b and c"."""
    if not names:
        return NO_FIGURE
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
