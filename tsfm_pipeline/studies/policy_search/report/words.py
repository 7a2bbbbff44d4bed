"""The study's report in sentences.

What belongs here: sentences about the experiments. What does not: tables (`tables`), figures
(`figures`), how they are computed (`numbers`, `importance`), the page (`page`).
"""

import math

from tsfm_pipeline.evaluation.protocol import headline_tier
from tsfm_pipeline.reports.shared.answer import Answer, Effect, effect_of
from tsfm_pipeline.reports.shared.wording import (
    count,
    milliseconds,
    number,
    percent,
    percent_interval,
    ratio_interval,
    ratio_texts,
    whole,
)
from tsfm_pipeline.studies.policy_search.report.model import LookRow, PolicySearchReport
from tsfm_pipeline.studies.policy_search.report.tables import interval_text, names_text

MOST_REFUSED = 8
"""Refused policies that are shown without opening a table, besides all promoted ones."""
CONTEXT = (
    "A policy is a set of settings of the search. An experiment scores one policy on the tuning "
    "requests of every fleet; it is kept if it costs less than the best one so far, or the same "
    "and is simpler. A loss is given relative to that of the default policy, at the standard tier."
)
FOLDS = (
    "The choosing folds screen, keep and discard, and every driver sees their figures. The "
    "confirming folds are other tenants, which no driver sees. Test requests are looked at once "
    "per promotion, and nothing is chosen by that look."
)
IMPORTANCE = (
    "A random forest learns the order of the experiments from the fields that they change. The "
    "importance of a field is how much of the held-out order it no longer explains after the "
    "field's values are shuffled; intervals hold 95 % of the bootstrap draws. Drivers choose what "
    "to try, so this describes what was tried: a field that was hardly moved, or moved only "
    "together with another one, may matter more than is shown."
)


def search_answer(report: PolicySearchReport) -> Answer:
    """Say what the loop found, and what is left of it on tenants that chose nothing."""
    if not report.n_experiments:
        return Answer("unknown", "No experiment was run on this yardstick yet.")
    tried = (
        f"Of {count(report.n_experiments, 'experiment')} on {names_text(report.fleets)}, "
        f"{whole(report.n_kept)} {_was(report.n_kept)} kept."
    )
    best = (
        f"The last kept policy costs {ratio_texts(report.incumbent_objective)[0]} of the default "
        "policy on the folds that chose it."
        if report.incumbent_changes != "{}"
        else "No policy was better than the default one on the folds that choose."
    )
    effect, promoted = _promoted(report)
    return Answer(effect, f"{tried} {best} {promoted}")


def _promoted(report: PolicySearchReport) -> tuple[Effect, str]:
    """Return the direction of the last promotion at its look at test requests, and the sentence."""
    considered = count(report.n_promotions_considered, "kept policy", "kept policies")
    if not report.n_promoted:
        refused = (
            f"None of {considered} was promoted: on the confirming folds, an interval corrected "
            "for the number of experiments does not exclude that there is no gain, or a guard is "
            "harmed."
            if report.n_promotions_considered
            else "None was compared on the confirming folds yet, so nothing is promoted."
        )
        return "null", refused
    last = [row for row in report.table_promotions if row.promoted][-1]
    confirmed = "; ".join(
        f"{row.fleet} {percent_interval(*row.confirming)}"
        for row in report.table_gains
        if row.promotion == last.number
    )
    everyone = [row for row in report.table_looks if row.promotion == last.number and not row.group]
    looks = [
        row
        for row in everyone
        if row.tier == headline_tier(own.tier for own in everyone if own.fleet == row.fleet)
    ]
    seen = "; ".join(f"{row.fleet} {ratio_interval(*row.ratio)}" for row in looks)
    tested = (
        f"At the one look at test requests it costs this share of the policy before it: {seen}."
        if looks
        else "Its look at test requests is not recorded."
    )
    sentence = (
        f"{whole(report.n_promoted)} of {considered} {_was(report.n_promoted)} promoted. The last "
        f"one, {last.challenger}, gains on the confirming folds: {confirmed}. {tested} So far, "
        f"test requests {looked(report.n_final_looks)}."
    )
    return _effect(looks), sentence


def _effect(looks: list[LookRow]) -> Effect:
    """Return a loss if any fleet shows one, else a gain if any shows one, else no effect."""
    effects = [effect_of(*row.ratio) for row in looks]
    for effect in ("loss", "gain", "null"):
        if effect in effects:
            return effect
    return "unknown"


def progress_sentence(report: PolicySearchReport) -> str:
    """Say how the experiments ended, and how long they took."""
    parts = [
        (report.n_kept, "kept"),
        (report.n_discarded, "discarded after all requests"),
        (report.n_screened_out, "screened out after a third of the requests"),
        (report.n_crashed, "crashed"),
        (report.n_timed_out, "timed out"),
    ]
    ends = ", ".join(f"{whole(n)} {text}" for n, text in parts if n)
    if not report.n_experiments:
        return "The ledger has no line of this yardstick."
    each = report.experiment_seconds / report.n_experiments
    return (
        f"{count(report.n_experiments, 'experiment')}: {ends}. They took "
        f"{number(report.experiment_seconds / 60)} minutes, {number(each)} s each."
    )


def front_sentence(report: PolicySearchReport) -> str:
    """Say what the best policy costs in latency, against the budget and the default policy."""
    default = report.default
    if default is None or not math.isfinite(report.incumbent_p95_ms):
        return ""
    return (
        f"The last kept policy's predicted p95 latency is "
        f"{milliseconds(report.incumbent_p95_ms)}, the default policy's "
        f"{milliseconds(default.p95_ms)}, and the budget {milliseconds(report.budget_ms)}. "
        f"{count(len(report.front), 'policy is', 'policies are')} on the front: none has both a "
        "lower loss and a lower latency."
    )


def importance_sentence(report: PolicySearchReport) -> str:
    """Say how well the forest predicts, and so whether its importances mean anything."""
    if not report.table_importance:
        return (
            f"{count(report.n_importance, 'experiment has', 'experiments have')} an objective: too "
            "few to say which fields matter."
        )
    low = report.importance_r2.low
    verdict = (
        "Its order of fields is worth reading"
        if low > 0
        else "It does not predict held-out experiments, so its order of fields means little"
    )
    return (
        f"{verdict}: its R2 on held-out experiments is {interval_text(report.importance_r2)}, from "
        f"{count(report.n_importance, 'experiment')} with an objective (those that were screened "
        "out with their screening's)."
    )


def optimism_sentence(report: PolicySearchReport) -> str:
    """Say how much of the tuning gain is left on confirming folds and at test requests."""
    if not report.n_promotions_considered:
        return "No kept policy was compared on the confirming folds yet."
    sentences = [
        f"Over {count(report.n_promotions_considered, 'comparison')}, the gain on the folds that "
        f"chose is {_points(report.optimism)} the gain on those that did not."
    ]
    if math.isfinite(report.test_optimism):
        sentences.append(
            f"Over {count(report.n_promoted, 'promotion')}, it is {_points(report.test_optimism)} "
            "the gain at test requests."
        )
    sentences.append(f"Test requests {looked(report.n_final_looks)}; every promotion has one look.")
    return " ".join(sentences)


def fixed_sentence(report: PolicySearchReport) -> str:
    """Say where the search under the last kept policy is not shown to beat one configuration for
    all.
    """
    if not report.table_fixed:
        return "No experiment has finished on all requests yet."
    weak = [row for row in report.table_fixed if not row.incumbent.low > 0]
    where = names_text(
        [" ".join(filter(None, (row.fleet, row.group, f"({row.tier})"))) for row in weak]
    )
    shown = len(report.table_fixed) - len(weak)
    rest = f"; not at {where}" if weak else ""
    return (
        "On the choosing folds, the search under the last kept policy is shown to cost less than "
        f"the fixed configuration in {whole(shown)} of "
        f"{count(len(report.table_fixed), 'tier and group', 'tiers and groups')} of the fleets"
        f"{rest}. The policy was chosen on these folds, and intervals are not corrected for their "
        "number. Cold start has no tuning request, and is in the fleets' own reports."
    )


def promotions_sentence(report: PolicySearchReport) -> str:
    """Say how many policies were compared, and how many of them were promoted."""
    if not report.n_promotions_considered:
        return "No kept policy was compared on the confirming folds yet."
    return (
        f"{count(report.n_promotions_considered, 'kept policy', 'kept policies')} compared with "
        f"the promoted one, {whole(report.n_promoted)} promoted. A policy is promoted if its gain "
        "on the confirming folds is shown on at least two fleets, by intervals that allow for the "
        "number of experiments so far, and if no fleet, tier, group or latency is harmed."
    )


def promotion_points(report: PolicySearchReport) -> list[tuple[str, str]]:
    """Return every promotion and the last refusals, newest first: the verdict, and its reasons."""
    refused = [row.number for row in report.table_promotions if not row.promoted][-MOST_REFUSED:]
    return [
        (
            f"{row.number} {'promoted' if row.promoted else 'refused'}",
            f"policy {row.challenger} against {row.replaced}, after "
            f"{count(row.n_experiments, 'experiment')}: {'; '.join(row.reasons)}",
        )
        for row in report.table_promotions[::-1]
        if row.promoted or row.number in refused
    ]


def untried(report: PolicySearchReport) -> str:
    """Name the fields that no experiment has moved; empty if every field was."""
    names = names_text(report.untried_fields)
    return f"Never moved so far: {names}." if report.untried_fields else ""


def looked(n: int) -> str:
    """Return how often test requests were looked at, e.g. "were never looked at"."""
    often = {1: "once", 2: "twice"}.get(n, f"{whole(n)} times")
    return f"were looked at {often}" if n else "were never looked at"


def _points(share: float) -> str:
    if not math.isfinite(share):
        return "an unknown distance from"
    side = "below" if share < 0 else "above"
    return f"{percent(abs(share)).removesuffix(' %')} percentage points {side}"


def _was(n: int) -> str:
    return "was" if n == 1 else "were"
