"""The ablation report in words.

What belongs here: sentences of `ablation_report`. What does not: tables (`tables`), figures
(`figures`), markup (`reports.page.markdown`).
"""

import math
from collections.abc import Sequence

from tsfm_pipeline.evaluation.methods import FIXED, MATCHED_COMPUTE, SEARCH
from tsfm_pipeline.reports.ablation.model import AblationReport, RivalRow
from tsfm_pipeline.reports.ablation.tables import overall_steps
from tsfm_pipeline.reports.shared.answer import Answer, Effect, effect_of
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.wording import (
    count,
    is_part_of_the_search,
    method_label,
    percent,
    percent_interval,
    ratio_interval,
)


def ablation_answer(report: AblationReport) -> Answer:
    """Say what the steps add, what the search does not beat, who is worse off, and what adds
    nothing.
    """
    steps = steps_answer(report)
    further_answers = (
        rivals_answer,
        harm_answer,
        headroom_answer,
        dimensions_answer,
        events_answer,
        floor_answer,
    )
    sentences = [steps.sentence, *(answer(report).sentence for answer in further_answers)]
    return Answer(steps.effect, " ".join(sentence for sentence in sentences if sentence))


def steps_answer(report: AblationReport) -> Answer:
    """Say which steps from the fixed configuration to the search lower the cost, each by itself."""
    tier = report.headline_tier
    rows = [row for row in overall_steps(report) if row.tier == tier]
    if not rows:
        return Answer("unknown", "The steps were not measured.")
    first, last = rows[0], rows[-1]
    steps_after_fixed = rows[[row.method for row in rows].index(FIXED) + 1 :]
    groups: dict[Effect, list[str]] = {"gain": [], "loss": [], "null": [], "unknown": []}
    for row in steps_after_fixed:
        groups[effect_of(*row.step_ratio)].append(f"{row.adds} {ratio_interval(*row.step_ratio)}")
    words: dict[Effect, str] = {
        "gain": "lower the cost: ",
        "loss": "raise it: ",
        "null": "no effect is shown for: ",
        "unknown": "no interval for: ",
    }
    parts = [
        f"{words[effect]}{', '.join(members)}" for effect, members in groups.items() if members
    ]
    return Answer(
        effect_of(*last.ratio),
        f"At the {tier} tier the median of the best fixed configuration costs "
        f"{ratio_interval(*first.ratio)} times the configuration to "
        f"beat, the search {ratio_interval(*last.ratio)} times. Of the steps after that "
        "configuration, each against the one before: "
        f"{'; '.join(parts)}.",
    )


def rivals_answer(report: AblationReport) -> Answer:
    """Say whether the headline survives its rivals, and which of them the search does not beat."""
    rows = [
        row
        for row in report.table_rivals
        if row.tier == report.headline_tier and row.method != SEARCH
    ]
    rivals = [row for row in rows if not is_part_of_the_search(row.method)]
    if not rivals:
        return Answer("unknown", "")
    undecided = [row for row in rivals if effect_of(*row.search_ratio) in ("null", "unknown")]
    lost = [row for row in rivals if effect_of(*row.search_ratio) == "loss"]
    n_beaten = len(rivals) - len(undecided) - len(lost)

    def named(members: Sequence[RivalRow]) -> str:
        return ", ".join(
            f"{method_label(row.method)} {ratio_interval(*row.search_ratio)}" for row in members
        )

    parts = [
        f"Against {n_beaten} of {count(len(rivals), 'rival')} the search costs less with an "
        "interval below 1."
    ]
    if undecided:
        parts.append(f"It does not demonstrably beat {named(undecided)}.")
    if lost:
        parts.append(f"It loses to {named(lost)}.")
    matched = [row for row in rivals if row.method in MATCHED_COMPUTE]
    if matched:
        parts.append(f"At matched compute (the same K forecasts) its ratio is {named(matched)}.")
    parts.append(
        f"So the search is {'' if not undecided and not lost else 'not '}shown to beat all of them."
    )
    return Answer(
        "gain" if not undecided and not lost else "loss" if lost else "null", " ".join(parts)
    )


def harm_answer(report: AblationReport) -> Answer:
    """Name the groups that are made worse by more than 2 %, with an interval above 1."""
    harmed = [row for row in report.table_steps if row.harmed]
    if not harmed:
        return Answer(
            "gain",
            f"No {report.group_scope} is made worse by more than 2 % with an interval above 1, at "
            "any tier.",
        )
    names = ", ".join(
        f"{row.scope_value} at {row.tier} {ratio_interval(*row.ratio)}" for row in harmed
    )
    return Answer("loss", f"Made worse by more than 2 % with an interval above 1: {names}.")


def headroom_answer(report: AblationReport) -> Answer:
    """Say how much of the headroom of a choice per tenant the search captures."""
    own = report.tiers[report.headline_tier]
    headroom, low, high = (
        own.headroom_cross_fitted.figure,
        own.headroom_null_low,
        own.headroom_null_high,
    )
    if not math.isfinite(headroom):
        return Answer("unknown", "")
    sentence = (
        f"One configuration per tenant, cross-fitted, would gain {percent(headroom)} (by "
        f"chance {percent(low)} to {percent(high)})"
    )
    if headroom <= 0:
        return Answer(
            "null",
            f"{sentence}: choosing per tenant gains nothing beyond noise here.",
        )
    if not math.isfinite(own.headroom_captured.low):
        return Answer(
            "null", f"{sentence}: too little to say which share of it the search captures."
        )
    captured = percent_interval(*own.headroom_captured)
    return Answer(
        "gain" if headroom > high else "null", f"{sentence}; the search captures {captured} of it."
    )


def dimensions_answer(report: AblationReport) -> Answer:
    """Say which dimensions of the search space earn their place, and which show no effect."""
    rows = [
        row
        for row in report.table_dimensions
        if row.tier == report.headline_tier and row.method == SEARCH
    ]
    if not rows:
        return Answer("unknown", "")
    parts = [f"{row.dimension} {row.verdict} {ratio_interval(*row.ratio)}" for row in rows]
    earns = any(effect_of(*row.ratio) == "gain" for row in rows)
    return Answer(
        "gain" if earns else "null",
        f"Search with against without each dimension: {', '.join(parts)}.",
    )


def events_answer(report: AblationReport) -> Answer:
    """Say what the known events were worth on the requests that they change."""
    rows = [row for row in report.table_events if row.tier == report.headline_tier]
    if not rows:
        return Answer("unknown", "")
    (row,) = rows
    effect = effect_of(*row.ratio)
    words: dict[Effect, str] = {
        "gain": "which is less",
        "loss": "which is more",
        "null": "so no effect is shown",
        "unknown": "without an interval",
    }
    return Answer(
        effect,
        f"{count(row.n_requests, 'request')} ({percent(row.share)}) had evidence from another kind "
        f"of time than their own, by {count(row.n_events, 'known event')}; leaving it out cost "
        f"{ratio_interval(*row.ratio)} times as much there as hearing it, {words[effect]}.",
    )


def floor_answer(report: AblationReport) -> Answer:
    """Say how far the search is from the irreducible loss."""
    tier = report.headline_tier
    multiples = {
        row.method: row.multiple
        for row in report.table_floor
        if row.tier == tier and row.scope == "all"
    }
    if SEARCH not in multiples or FIXED not in multiples:
        return Answer("unknown", "")
    captured = percent_interval(*(report.tiers[tier].reducible_captured or Estimate()))
    return Answer(
        "gain",
        f"The search costs {ratio_interval(*multiples[SEARCH])} times the irreducible loss, the "
        "fixed configuration "
        f"{ratio_interval(*multiples[FIXED])} times; of what lies between that configuration and "
        f"the floor the search takes {captured}.",
    )
