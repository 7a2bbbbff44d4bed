"""The study's report on one market in sentences.

What belongs here: sentences about its figures. What does not: tables (`tables`), figures
(`figures`), names (`names`), how figures are computed (`numbers`). No sentence may promise a
signal that can be traded: costs, and days after the data, are no part of this study.
"""

import math
import re

from tsfm_pipeline.reports.shared.answer import Answer, Effect
from tsfm_pipeline.reports.shared.wording import count, p_value, percent, whole
from tsfm_pipeline.studies.direction import references
from tsfm_pipeline.studies.direction.report.gates import (
    FINE_TUNE,
    INVESTIGATE,
    RSI_ON_THE_SAME_DAYS,
    STOP,
)
from tsfm_pipeline.studies.direction.report.model import (
    DirectionReport,
    Gate,
    VerdictKind,
)
from tsfm_pipeline.studies.direction.report.names import (
    FAMILIES,
    OF_THE_MODEL,
    READINGS,
    days_ahead,
    label_text,
    scorer_label,
)
from tsfm_pipeline.studies.direction.report.wording import (
    auc_text,
    difference_text,
    gate_text,
    rate_text,
    times,
)

EFFECTS: dict[VerdictKind, tuple[Effect, str]] = {
    "direction": ("gain", "Direction: some of it is predicted"),
    "volatility only": ("null", "Volatility only: how much it moves, not where to"),
    "nothing": ("null", "Nothing: neither volatility nor direction is predicted"),
    "undecided": ("unknown", "Undecided"),
}
GATE_TEXTS: dict[Gate, str] = {
    "stop": "stop",
    "undecided": "undecided",
    "fine_tune": "fine-tune",
    "investigate": "investigate",
}
KIND_TEXTS = {
    "forecast": "Fine-tuned to forecast (TFM-03)",
    "labels": "Fine-tuned on the labels (TFM-04)",
}
AUC = (
    "An AUC is the chance that a day with the label is scored higher than a day without it: .5 is "
    "what a coin scores, 1 is perfect. On a touch, only days of the same test year are compared "
    "with each other. On sign all days are, with each year's scores in units of the year before: "
    "within one year, a score that falls slowly as the market rises would seem to know the sign."
)
TOUCH = (
    "A touch says how far the price swings on a day, so a calm day has few and a stormy day has "
    "many, up and down alike. Whoever knows the volatility of the last days scores far above .5 on "
    "it and knows no direction."
)
CHOSEN = (
    "Where a family has several variants (contexts, representations, layers), the one with the "
    "highest AUC in the first validation year is shown, because that year lies before all test "
    "days. All variants are in the tables, and the tests over all variants allow for each of them."
)
MIRROR = (
    "A reading whose AUC is below .5 is not turned round: that would be a choice made on test "
    "days, and it hides why. A mean forecast of returns follows the last returns; low returns come "
    "with volatility; and the label is about volatility."
)
NO_PROMISE = (
    "This is a comparison of forecasts on past prices. It includes no costs, no execution and no "
    "days after the data; nothing in it is advice or a strategy."
)


def context(report: DirectionReport) -> str:
    """Say what is asked of the days ahead, for a reader who does not know the project."""
    share = f"{100 * report.threshold:g} %"
    return (
        "Does a frozen time-series foundation model know where a market goes, or only how much it "
        f"moves? Two labels tell these apart. Touch up: the highest price of the {_ahead(report)} "
        f"is at least {share} above today's close. Sign: the close then is higher than today's. "
        "Every model is scored on the same days, which no training, choice or threshold has seen."
    )


def verdict_answer(report: DirectionReport) -> Answer:
    """Return the verdict in a line; where it is undecided, why."""
    effect, headline = EFFECTS[report.verdict]
    is_plain = report.headline == report.verdict
    return Answer(effect, headline if is_plain else report.headline.capitalize())


def first_lines(report: DirectionReport) -> list[tuple[str, str]]:
    """Return the five lines that answer the question, each with a word of what it is about."""
    return [
        ("Base rate", base_rate_line(report)),
        ("Volatility", volatility_line(report)),
        ("Models", models_line(report)),
        ("Direction", direction_line(report)),
        ("Variants", variants_line(report)),
    ]


def base_rate_line(report: DirectionReport) -> str:
    """Say how often the labels occur, and on how many days that was counted."""
    touch, sign = report.target("touch_up"), report.target("sign")
    years = [fold.year for fold in report.table_folds if fold.horizon == report.horizon]
    if touch is None or sign is None or not years:
        return "No label was evaluated."
    period = f"{years[0]}" if len(years) == 1 else f"{years[0]} to {years[-1]}"
    return (
        f"On {percent(touch.base_rate)} of {count(touch.n_days, 'test day')} ({period}, "
        f"{count(len(years), 'yearly fold')}) the high of the {_ahead(report)} touches "
        f"+{100 * report.threshold:g} %; on {percent(sign.base_rate)} the close is higher."
    )


def volatility_line(report: DirectionReport) -> str:
    """Say what volatility alone scores on touch and on sign."""
    touch, sign = (report.score(references.VOLATILITY, name) for name in ("touch_up", "sign"))
    if touch is None or sign is None:
        return "The volatility logit did not take part."
    return (
        "A logit of past volatilities, which knows nothing of direction, has an AUC of "
        f"{auc_text(touch.auc)} on touch up within the years, of "
        f"{auc_text(touch.auc_over_all_days)} over all days, and of {auc_text(sign.auc)} on sign."
    )


def models_line(report: DirectionReport) -> str:
    """Say what PatchTST and each use of the foundation model score against volatility, paired."""
    rows = [r for r in report.chosen("touch_up") if r.family in ("patchtst", *OF_THE_MODEL)]
    if not rows:
        return "Neither PatchTST nor the foundation model took part."
    parts = [f"{FAMILIES[row.family]} {difference_text(row.minus_volatility)}" for row in rows]
    return f"AUC on touch up minus that of volatility, on the same days: {'; '.join(parts)}."


def direction_line(report: DirectionReport) -> str:
    """Say whether a direction is found, with the AUC on sign and its interval."""
    said = {
        "direction": "Yes, some",
        "volatility only": "No",
        "nothing": "No",
        "undecided": "Not decided",
    }[report.verdict]
    horizon = report.direction_horizon
    row = report.score(report.direction_scorer, "sign", horizon)
    if row is None:
        return f"{said}: no scorer of the sign took part."
    who = (
        f"on sign, {days_ahead(horizon)}, {scorer_label(row.scorer)}"
        if report.n_found
        else "the scorer of the sign that was best in the first validation year "
        f"({scorer_label(row.scorer)})"
    )
    return (
        f"{said}: {who} has an AUC of {auc_text(row.auc)} on test days, and of "
        f"{auc_text(row.auc_given_move)} on those that move by more than "
        f"{100 * report.threshold:g} %."
    )


def variants_line(report: DirectionReport) -> str:
    """Say how many variants were tried, and what tests that allow for them say."""
    sign = report.target("sign")
    survivors = [row.scorer for row in report.scores("sign") if row.survives_stepm]
    tests = ""
    if sign is not None and math.isfinite(sign.spa_p_value):
        kept = (
            f"StepM keeps {', '.join(map(scorer_label, survivors))}"
            if survivors
            else "StepM keeps none"
        )
        tests = (
            f" On sign, the test that none of them is better than a coin (SPA) has a "
            f"p-value of {p_value(sign.spa_p_value)}; {kept}."
        )
    return f"{count(report.n_variants, 'variant')} of all scorers were tried.{tests}"


def touch_sentence(report: DirectionReport) -> str:
    """Say which scorers differ from volatility on touch up, with the interval's side."""
    rows = [r for r in report.scores("touch_up") if r.scorer != references.VOLATILITY]
    above = [row for row in rows if row.minus_volatility.low > 0]
    below = [row for row in rows if row.minus_volatility.high < 0]
    known = sum(math.isfinite(row.minus_volatility.low) for row in rows)
    return (
        f"Of {count(known, 'other scorer')}, {whole(len(above))} "
        f"{_have(len(above))} a higher AUC on touch up than the volatility logit and "
        f"{whole(len(below))} a lower one, by 95 % intervals of the difference that allow for none "
        "of the others."
    )


def sign_sentence(report: DirectionReport) -> str:
    """Say how many scorers of the sign lie off .5, against what chance gives."""
    rows = [row for row in report.scores("sign") if math.isfinite(row.auc.low)]
    off = [row for row in rows if row.auc.low > 0.5 or row.auc.high < 0.5]
    expected = (1 - report.confidence) * len(rows)
    return (
        f"Of {count(len(rows), 'interval')} on sign, {whole(len(off))} "
        f"{'excludes' if len(off) == 1 else 'exclude'} .5; about {expected:.0f} would if no scorer "
        "knew anything, more or fewer because scorers resemble each other."
    )


def volatility_sentence(report: DirectionReport) -> str:
    """Say what is left of the AUC on touch up where volatility is held fixed."""
    parts = [
        f"{FAMILIES[row.family]} {auc_text(row.volatility_matched_auc)}"
        for row in report.chosen("touch_up")
        if row.family in ("untrained", "patchtst", *READINGS)
        and math.isfinite(row.volatility_matched_auc.figure)
    ]
    if not parts:
        return ""
    return (
        "Among days of the same tenth of expected volatility, the AUC on touch up is: "
        f"{'; '.join(parts)}. This is a control: a large planted direction moves it by less than "
        ".01."
    )


def reliability_sentence(report: DirectionReport) -> str:
    """Say how far probabilities lie from what was observed."""
    rows = report.table_reliability
    said = []
    for label in dict.fromkeys(row.label for row in rows):
        parts = []
        for scorer in dict.fromkeys(row.scorer for row in rows if row.label == label):
            bins = [row for row in rows if (row.label, row.scorer) == (label, scorer)]
            off = sum(row.n_days * abs(row.forecast - row.observed.figure) for row in bins)
            parts.append(f"{scorer_label(scorer)} {percent(off / sum(r.n_days for r in bins))}")
        said.append(f"of {label_text(label)}: {', '.join(parts)}")
    if not said:
        return "No scorer gave a probability."
    return f"Mean distance of the probability from what happened, {'; '.join(said)}."


def gate_sentence(report: DirectionReport) -> str:
    """Say what the earlier work's gates say, and what they measure."""
    volatility = next((r for r in report.table_gates if r.family == "volatility"), None)
    said = (
        f" Here the volatility logit, which is no foundation model, meets the gate "
        f"'{GATE_TEXTS[volatility.seed_gate]}' with {auc_text(volatility.auc)}."
        if volatility
        else ""
    )
    return (
        "The plan of the earlier work decides by one AUC on touch up: above "
        f"{gate_text(INVESTIGATE)} investigate, from {gate_text(FINE_TUNE)} fine-tune, below "
        f"{gate_text(STOP)} with collapsed forecasts stop; between, it has no rule.{said} So the "
        "gates measure how volatile the days are that they are read on, and decide nothing here."
    )


def gate_side_note() -> str:
    """Say what an untrained indicator scores on the days of the .718."""
    return (
        f"The {gate_text(INVESTIGATE)} is PatchTST's AUC on 422 days of SPY, 2023 and 2024, at its "
        f"best epoch on these days. Same days: −RSI {gate_text(RSI_ON_THE_SAME_DAYS)}, without any "
        "training."
    )


def rule_sentence(report: DirectionReport) -> str:
    """Say what the verdict requires."""
    other = report.second_market or "a second market, which was not given"
    return (
        "A direction is said to be found only where three things hold: the interval of the AUC on "
        "sign lies above .5, StepM keeps the scorer after allowing for all variants, and the "
        f"interval of its AUC on days that move by more than {100 * report.threshold:g} % lies "
        f"above .5; and where the same scorer shows the same on {other}."
    )


def reason_points(report: DirectionReport) -> list[tuple[str, str]]:
    """Return the reasons of the verdict, numbered, with plain names of scorers."""
    names = sorted({row.scorer for row in report.table_scores}, key=len, reverse=True)
    pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names) or r"(?!)")
    labels = re.compile(r"\b(touch_up|touch_down)\b")
    return [
        (
            str(number),
            labels.sub(
                lambda match: label_text(match[0]),
                pattern.sub(lambda match: scorer_label(match[0]), reason),
            ),
        )
        for number, reason in enumerate(report.reasons, 1)
    ]


def truth_sentence(report: DirectionReport) -> str:
    """Say what a simulated market was made with; empty for a real one."""
    if not report.simulated_truth:
        return ""
    return f"This market is simulated, so the truth is known: {report.simulated_truth}."


def rates_sentence(report: DirectionReport) -> str:
    """Say which learning rates were chosen, and whether training lowered the validation loss."""
    parts = []
    for kind, text in KIND_TEXTS.items():
        rows = [row for row in report.table_learning_rates if row.kind == kind]
        if not rows:
            continue
        chosen = ", ".join(
            f"{rate_text(row.learning_rate)} {times(row.n_chosen)}" for row in rows if row.n_chosen
        )
        gain = max(1 - row.best_loss / row.loss_before for row in rows)
        diverged = sum(row.n_diverged for row in rows)
        parts.append(
            f"{text}: chosen by the lowest validation loss {chosen or 'none'}; the best rate "
            f"lowers that loss by {percent(gain)} on average, and "
            f"{count(diverged, 'training')} diverged"
        )
    return f"{'. '.join(parts)}." if parts else "Nothing was fine-tuned."


def checks_sentence(report: DirectionReport) -> str:
    """Say how many checks are red."""
    red = [row for row in report.table_checks if not row.passed]
    if not report.table_checks:
        return "No check was run."
    return (
        f"{whole(len(report.table_checks) - len(red))} of "
        f"{count(len(report.table_checks), 'check')} are green. A red one says what is wrong with "
        "a model or a reading; the scores stay in all tables."
    )


def days_sentence(report: DirectionReport) -> str:
    """Say which days the market has, and how they are used."""
    return (
        f"{report.title}: {count(report.n_market_days, 'trading day')} from {report.first_day} to "
        f"{report.last_day}, {count(report.n_features, 'feature')} a day. Each test year is scored "
        "by models that were trained on all years before its validation year, which is the year "
        "before; days whose label looks into the next part are left out."
    )


def statistics_note(report: DirectionReport) -> str:
    """Say where the intervals come from."""
    return (
        f"Intervals hold {100 * report.confidence:g} % of {count(report.n_draws, 'draw')} of the "
        "stationary bootstrap over days, whose blocks are as long as the scores' memory asks for; "
        "differences are paired on the same days and draws."
    )


def _ahead(report: DirectionReport) -> str:
    ahead = days_ahead(report.horizon)
    return ahead if report.horizon == 1 else f"next {ahead}"


def _have(n: int) -> str:
    return "has" if n == 1 else "have"
