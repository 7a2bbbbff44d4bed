"""Judging one experiment: its objective, whether screening ends it, and keep or discard.

What belongs here: pure functions of results and of the ledger's rows. What does not: running an
experiment (`process`), and promotion, which other folds decide (`promotion`).

All comparisons are paired by tenant: both policies were scored at the same requests.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.evaluation.resampling import CONFIDENCE
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome, Status

TIE = 0.0005
"""Objectives that differ by no more count as equal: then the simpler policy wins. A twentieth of a
percent is less than any gain that a promotion could show."""
_TINY = float(np.finfo(np.float64).tiny)
"""Added to losses that are divided, so that two policies without any loss are equal."""


class Estimate(NamedTuple):
    """A mean with its 95 % limits over tenants; the limits are NaN if a fleet has one tenant."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """A finished experiment that others are compared with.

    row: its row of the ledger, with the columns of `ledger.SCHEMA`.
    """

    experiment: str
    policy: Policy
    outcome: Outcome
    row: Mapping[str, Any]


def incumbent_of(history: pl.DataFrame) -> Standing | None:
    """Return the last experiment that was kept, from the ledger's rows of one yardstick; None if
    there is none yet.
    """
    kept = history.filter(pl.col("status") == "keep")
    return _standing(kept.row(-1, named=True)) if kept.height else None


def default_of(history: pl.DataFrame) -> Standing | None:
    """Return the experiment of the default policy, which is the first that was kept under a
    yardstick; None if there is none yet.
    """
    kept = history.filter(pl.col("status") == "keep")
    return _standing(kept.row(0, named=True)) if kept.height else None


def objective(results: Sequence[FleetResult], default: Sequence[FleetResult]) -> float:
    """Return exp of the mean over fleets of log(loss / loss of the default policy), where a fleet's
    loss is the mean over tenants of their mean scaled losses at the standard tier. Below 1 is
    better; infinite where a loss is not finite. A fleet without a tier of this name counts with its
    middle one.

    Raises `ValueError` if the two were not scored on the same fleets and tenants.
    """
    ratios = [
        (float(np.mean(own)) + _TINY) / (float(np.mean(others)) + _TINY)
        for own, others in _paired(results, default)
    ]
    return float(np.exp(np.mean(np.log(ratios)))) if np.isfinite(ratios).all() else np.inf


def is_screened_out(results: Sequence[FleetResult], incumbent: Sequence[FleetResult]) -> bool:
    """Return whether the first third of the requests already speaks against a policy.

    It does if the mean over fleets of the relative difference of tenant means is above one standard
    error (over tenants, independent between fleets). A fleet of one tenant has no standard error,
    so that nothing is screened out with it. A loss that is not finite is screened out.
    Raises `ValueError` if the two were not scored on the same fleets and tenants.
    """
    differences, variances = [], []
    for own, others in _paired(results, incumbent):
        if not np.isfinite(own).all():
            return True
        level = float(np.mean(others)) + _TINY
        differences.append(float(np.mean(own - others)) / level)
        variances.append(_variance_of_mean(own - others) / level**2)
    standard_error = np.sqrt(np.sum(variances)) / len(variances)
    return bool(np.mean(differences) > standard_error)


def mean_loss(results: Sequence[FleetResult], tier: str) -> Estimate | None:
    """Return the mean over fleets of the mean scaled loss at a tier, with 95 % limits over tenants;
    None if a fleet lacks the tier.

    Limits are those of Student's t. The degrees of freedom are Welch's (1947, Biometrika 34),
    because fleets have their own variances.
    """
    if not all(tier in result.losses for result in results):
        return None
    losses = [result.loss(tier) for result in results]
    losses = [values[np.isfinite(values)] for values in losses]
    if not all(values.size for values in losses):
        return Estimate(np.nan, np.nan, np.nan)
    mean = float(np.mean([values.mean() for values in losses]))
    if min(values.size for values in losses) < 2:
        return Estimate(mean, np.nan, np.nan)
    parts = np.array([_variance_of_mean(values) for values in losses]) / len(losses) ** 2
    degrees = np.array([values.size - 1 for values in losses])
    variance = float(parts.sum())
    if variance == 0:
        return Estimate(mean, mean, mean)
    freedom = variance**2 / float(np.sum(parts**2 / degrees))
    margin = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * np.sqrt(variance)
    return Estimate(mean, mean - margin, mean + margin)


def is_kept(
    row: Mapping[str, Any], incumbent: Mapping[str, Any], best: float, budget_ms: float
) -> bool:
    """Return whether a policy that finished becomes the incumbent, by their rows of the ledger:
    within the latency budget or no slower than the incumbent, and either better by more than `TIE`,
    or equal to within `TIE` and simpler (fewer changed fields, or as many and fewer tokens).

    best: the lowest objective that was kept so far. A simpler policy must be equal to it as well:
    a row of ties, each with the incumbent alone, would let the loss rise by `TIE` again and again.
    """
    if row["screened_out"] or row["p95_ms"] > max(budget_ms, incumbent["p95_ms"]):
        return False
    gain = incumbent["objective"] - row["objective"]
    simpler = (row["n_changes"], row["tokens"]) < (incumbent["n_changes"], incumbent["tokens"])
    equal = abs(gain) <= TIE and row["objective"] - best <= TIE
    return bool(gain > TIE or (equal and simpler))


def judge(
    policy: Policy, outcome: Outcome, history: pl.DataFrame, budget_ms: float
) -> dict[str, Any]:
    """Return what a ledger's row says of an outcome: the status, and every figure.

    history: the ledger's rows of this yardstick; the caller holds the ledger's lock, so that of two
    experiments that end at once the second is compared with the first. The first policy that
    finishes under a yardstick is the default one, and it is kept whatever it costs. A policy whose
    losses are not finite counts as crashed. A screened-out policy has the figures of the screening.
    """
    default, incumbent = default_of(history), incumbent_of(history)
    results = outcome.screening if outcome.screened_out else outcome.results
    if outcome.status is None and not _all_finite(results):
        outcome = outcome.model_copy(
            update={"status": "crash", "message": "some of its losses are not finite"}
        )
    if outcome.status is not None:
        results = ()
    row: dict[str, Any] = {
        "policy": policy.digest,
        "changes": policy.changes,
        "n_changes": policy.n_changes,
        "screened_out": outcome.screened_out and outcome.status is None,
        "seconds": outcome.seconds,
        "peak_mib": outcome.peak_mib,
        "outcome": outcome.model_dump_json(),
        **_figures(results, outcome, default),
    }
    status: Status
    if outcome.status is not None:
        status = outcome.status
    elif incumbent is None or is_kept(row, incumbent.row, _best(history), budget_ms):
        status = "keep"
    else:
        status = "discard"
    return row | {"status": status}


def _figures(
    results: Sequence[FleetResult], outcome: Outcome, default: Standing | None
) -> dict[str, Any]:
    """Return the columns of the ledger that hold figures; nulls where there are no results.

    Latency and tokens are the highest of any fleet, because the budget holds on each of them.
    """
    columns = [f"loss_{tier}{suffix}" for tier in TIERS for suffix in ("", "_low", "_high")]
    columns += ["objective", "mae", "p50_ms", "p95_ms", "tokens"]
    row: dict[str, Any] = {"fleets": ",".join(result.fleet for result in results)}
    row |= dict.fromkeys(columns)
    if not results:
        return row
    reference = default.outcome if default else outcome
    compared = reference.screening if outcome.screened_out else reference.results
    row["objective"] = objective(results, compared)
    for tier in TIERS:
        if estimate := mean_loss(results, tier):
            row[f"loss_{tier}"], row[f"loss_{tier}_low"], row[f"loss_{tier}_high"] = estimate
    row["mae"] = float(np.mean([result.mae for result in results]))
    return row | {
        name: max(float(getattr(result, name)) for result in results)
        for name in ("p50_ms", "p95_ms", "tokens")
    }


def _best(history: pl.DataFrame) -> float:
    """Return the lowest objective that was kept."""
    return float(history.filter(pl.col("status") == "keep")["objective"].to_numpy().min())


def _standing(row: Mapping[str, Any]) -> Standing:
    return Standing(
        experiment=row["experiment"],
        policy=policy_of(json.loads(row["changes"]), f"experiment {row['experiment']}"),
        outcome=Outcome.model_validate_json(row["outcome"]),
        row=row,
    )


def _paired(
    results: Sequence[FleetResult], others: Sequence[FleetResult]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield both policies' losses at the headline tier, by tenant, of each fleet."""
    if [_scored(result) for result in results] != [_scored(other) for other in others]:
        raise ValueError(
            f"results of {[_scored(result)[:3] for result in results]} cannot be compared with "
            f"those of {[_scored(other)[:3] for other in others]}: both must be scored on the same "
            "fleets, folds, shares and tenants"
        )
    return ((result.loss(), other.loss()) for result, other in zip(results, others, strict=True))


def _scored(result: FleetResult) -> tuple[str, tuple[int, ...], float, tuple[int, ...]]:
    return result.fleet, result.folds, result.share, result.tenants


def _all_finite(results: Sequence[FleetResult]) -> bool:
    return all(np.isfinite(losses).all() for result in results for losses in result.losses.values())


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    """Return the squared standard error of a mean; infinite for a single value."""
    return float(np.var(values, ddof=1)) / values.size if values.size > 1 else np.inf
