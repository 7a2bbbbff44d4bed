"""The ten acceptance criteria: what each one asks, and the verdict on given figures.

What belongs here: the table of titles and targets, and one pure function per criterion from
estimates to a verdict. What does not: computing the estimates (`numbers`, other reports), and
showing them (`words`, `figures`).

A verdict is PASS (target met and, if there is an interval, it excludes no effect on the right
side), FAIL (target missed), NULL (the interval holds no effect) or N/A (the fleet cannot answer, or
figures are missing). Source: docs/evidence-protocol.md, "The criteria".
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from tsfm_pipeline.evaluation.protocol import LATENCY_BUDGET_MS, TIERS, headline_tier
from tsfm_pipeline.reports.acceptance.model import Criterion, Verdict
from tsfm_pipeline.reports.shared.model import Estimate

MIN_LATENCY_REQUESTS = 500
LATENCY_K = 8
"""The configurations of the request that C4 times."""
HARD_ARCHETYPES = ("wp-cron-heavy", "cache-driven", "idle-ish")


@dataclass(frozen=True)
class Target:
    """One row of the criteria table: `threshold` is the number that the figure is compared with,
    `target` its wording.
    """

    title: str
    target: str
    threshold: float


CRITERIA: dict[str, Target] = {
    "C1": Target(
        f"paired win rate of the search, {headline_tier(TIERS)} tier",
        "lower 95 % limit > 0.50 and point >= 0.55",
        0.55,
    ),
    "C2": Target(
        f"relative cut of mean cost-asymmetric loss, {headline_tier(TIERS)} tier (primary)",
        ">= 5 %",
        0.05,
    ),
    "C3": Target(f"win rate on each of {', '.join(HARD_ARCHETYPES)}", ">= 0.60 each", 0.60),
    "C4": Target(
        f"p95 latency of one request from history to decision, K = {LATENCY_K}, in ms",
        f"<= {LATENCY_BUDGET_MS:g} ms",
        LATENCY_BUDGET_MS,
    ),
    "C5": Target(f"largest K with p95 latency within {LATENCY_BUDGET_MS:g} ms", ">= 8", 8),
    "C6": Target("top-1 archetype retrieval of held-out tenants, full history", ">= 0.90", 0.90),
    "C7": Target(
        "top-1 archetype retrieval of held-out tenants, 120 minutes of history", ">= 0.70", 0.70
    ),
    "C8": Target(
        "share of the cold-start gap at 120 minutes that the retrieved prior closes",
        ">= 50 % and better than the fleet-wide prior",
        0.50,
    ),
    "C9": Target(
        f"mean decision forecast {' > '.join(TIERS)}: smallest difference",
        "> 0, separated by more than the interval",
        0.0,
    ),
    "C10": Target(
        "loss of each tier's own forecast relative to another tier's, under its own alpha: "
        "largest ratio",
        "< 1 for every pair of tiers, both ways",
        1.0,
    ),
}


def with_tiers(criterion: Criterion, tiers: Collection[str]) -> Criterion:
    """Return the criterion with the names of the fleet's own tiers in its title."""
    title = criterion.title.replace(" > ".join(TIERS), " > ".join(tiers))
    title = title.replace(f"{headline_tier(TIERS)} tier", f"{headline_tier(tiers)} tier")
    return criterion.model_copy(update={"title": title})


def judge(
    estimate: Estimate,
    threshold: float,
    *,
    no_effect: float | None = None,
    higher_is_better: bool = True,
    strict: bool = False,
) -> Verdict:
    """Return the verdict on one estimate against one threshold.

    A figure that is not finite is N/A. If the criterion has a value of `no_effect`, it needs an
    interval: an interval that holds this value is NULL, whatever the figure. Without an interval
    (NaN limits) the target can be missed but not met: FAIL or N/A. `strict`: the figure must exceed
    the threshold; reaching it is not enough.
    """
    figure, low, high = estimate
    if not math.isfinite(figure):
        return "N/A"
    sign = 1.0 if higher_is_better else -1.0
    met = sign * figure > sign * threshold if strict else sign * figure >= sign * threshold
    if no_effect is None:
        return "PASS" if met else "FAIL"
    if math.isnan(low) or math.isnan(high):
        return "N/A" if met else "FAIL"
    if low <= no_effect <= high:
        return "NULL"
    right_side = low > no_effect if higher_is_better else high < no_effect
    return "PASS" if met and right_side else "FAIL"


def not_applicable(criterion_id: str, reason: str) -> Criterion:
    """Return the criterion as N/A, with the reason why this fleet or run cannot answer it."""
    return _criterion(criterion_id, Estimate(float("nan")), "N/A", reason)


def judge_win_rate(win_rate: Estimate) -> Criterion:
    """Judge C1: does the search win more than half of the paired requests?"""
    return _judged("C1", win_rate, judge(win_rate, CRITERIA["C1"].threshold, no_effect=0.5))


def judge_loss_cut(cut: Estimate) -> Criterion:
    """Judge C2: how much of the fixed configuration's loss does the search save?

    `cut`: 1 - ratio, its limits likewise.
    """
    return _judged("C2", cut, judge(cut, CRITERIA["C2"].threshold, no_effect=0.0))


def judge_hard_archetypes(win_rates: Mapping[str, Estimate]) -> Criterion:
    """Judge C3: does the search win on each of the hard archetypes? The figure is the lowest win
    rate.
    """
    missing = [name for name in HARD_ARCHETYPES if name not in win_rates]
    if missing:
        return not_applicable("C3", f"no requests of {', '.join(missing)}")
    return _worst("C3", {name: win_rates[name] for name in HARD_ARCHETYPES}, no_effect=0.5)


def judge_latency(p95_latency_ms: Estimate, n_requests: int) -> Criterion:
    """Judge C4: is one request answered within the budget?

    Fewer than 500 timed requests give no reliable p95.
    """
    if n_requests < MIN_LATENCY_REQUESTS:
        return not_applicable(
            "C4", f"{n_requests} requests timed; at least {MIN_LATENCY_REQUESTS} are needed"
        )
    verdict = judge(p95_latency_ms, CRITERIA["C4"].threshold, higher_is_better=False)
    return _judged("C4", p95_latency_ms, verdict, f"{n_requests} requests")


def judge_largest_k(p95_latency_ms_by_k: Mapping[int, float]) -> Criterion:
    """Judge C5: how many candidate configurations fit into the budget? 0 if not even one does."""
    if not p95_latency_ms_by_k:
        return not_applicable("C5", "no latency was measured")
    largest = max(
        (k for k, p95 in p95_latency_ms_by_k.items() if p95 <= LATENCY_BUDGET_MS), default=0
    )
    measured = ", ".join(f"K = {k}: {p95:.0f} ms" for k, p95 in sorted(p95_latency_ms_by_k.items()))
    return _judged(
        "C5", Estimate(largest), judge(Estimate(largest), CRITERIA["C5"].threshold), measured
    )


def judge_retrieval(
    criterion_id: Literal["C6", "C7"],
    top1_accuracy: Estimate,
    balanced_accuracy: float,
    chance: float,
) -> Criterion:
    """Judge C6 or C7: is a held-out tenant's archetype found?

    `chance`: the accuracy of always naming the most frequent archetype.
    """
    verdict = judge(top1_accuracy, CRITERIA[criterion_id].threshold, no_effect=chance)
    return _judged(
        criterion_id,
        top1_accuracy,
        verdict,
        f"balanced accuracy {balanced_accuracy:.3f}, most frequent archetype {chance:.3f}",
    )


def judge_cold_start(share_closed: Estimate, gap: Estimate, advantage: Estimate) -> Criterion:
    """Judge C8: does the retrieved prior help a tenant with two hours of history?

    `gap`: loss without a prior minus loss with full history. `share_closed`: the part of the gap
    that the retrieved prior closes. `advantage`: loss with the fleet-wide prior minus loss with the
    retrieved one. NULL if the gap or the advantage could be zero.
    """
    verdicts = {
        "gap": judge(gap, 0.0, no_effect=0.0, strict=True),
        "share closed": judge(share_closed, CRITERIA["C8"].threshold, no_effect=0.0),
        "advantage over the fleet-wide prior": judge(advantage, 0.0, no_effect=0.0, strict=True),
    }
    verdict = "NULL" if verdicts["gap"] == "NULL" else _weakest(verdicts.values())
    return _judged(
        "C8", share_closed, verdict, "; ".join(f"{name}: {v}" for name, v in verdicts.items())
    )


def judge_tier_order(differences: Mapping[str, Estimate]) -> Criterion:
    """Judge C9: do tiers that pay more for shortfall get more capacity?

    `differences`: mean decision forecast of one tier minus that of the next lower one, by the name
    of the pair.
    """
    return _worst("C9", differences, no_effect=0.0, strict=True)


def judge_tier_losses(ratios: Mapping[str, Estimate]) -> Criterion:
    """Judge C10: is each tier's forecast the best one under its own alpha?

    `ratios`: loss under one tier's alpha of its own forecast, divided by that of another tier's
    forecast, by the name of the pair, for both directions of each pair.
    """
    return _worst("C10", ratios, no_effect=1.0, higher_is_better=False, strict=True)


def _worst(
    criterion_id: str,
    estimates: Mapping[str, Estimate],
    *,
    no_effect: float,
    higher_is_better: bool = True,
    strict: bool = False,
) -> Criterion:
    """Judge a target that every estimate must meet; the figure shown is the worst one."""
    if not estimates:
        return not_applicable(criterion_id, "there is nothing to compare")
    threshold = CRITERIA[criterion_id].threshold
    verdicts = {
        name: judge(
            estimate,
            threshold,
            no_effect=no_effect,
            higher_is_better=higher_is_better,
            strict=strict,
        )
        for name, estimate in estimates.items()
    }
    sign = 1.0 if higher_is_better else -1.0
    worst = min(
        estimates.values(), key=lambda e: sign * e.figure if math.isfinite(e.figure) else math.inf
    )
    note = "; ".join(
        f"{name}: {estimate.figure:.3f} {verdicts[name]}" for name, estimate in estimates.items()
    )
    return _judged(criterion_id, worst, _weakest(verdicts.values()), note)


def _weakest(verdicts: Collection[Verdict]) -> Verdict:
    """Return the verdict on a target of several parts: FAIL if one part fails, else N/A or NULL if
    one part is undecided.
    """
    order: tuple[Verdict, ...] = ("FAIL", "N/A", "NULL", "PASS")
    return next(verdict for verdict in order if verdict in verdicts)


def _judged(criterion_id: str, estimate: Estimate, verdict: Verdict, note: str = "") -> Criterion:
    if verdict == "N/A" and not note:
        note = "the figure or its interval could not be computed"
    return _criterion(criterion_id, estimate, verdict, note)


def _criterion(criterion_id: str, estimate: Estimate, verdict: Verdict, note: str) -> Criterion:
    if criterion_id not in CRITERIA:
        raise ValueError(
            f"there is no criterion {criterion_id!r}; the criteria are {', '.join(CRITERIA)}"
        )
    row = CRITERIA[criterion_id]
    return Criterion(
        id=criterion_id,
        title=row.title,
        target=row.target,
        reached=Estimate(*(figure if math.isfinite(figure) else math.nan for figure in estimate)),
        verdict=verdict,
        note=note,
    )
