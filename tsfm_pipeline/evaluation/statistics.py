"""Uncertainty of results: bootstrap intervals, permutation tests, and the robustness of a ratio.

What belongs here: seeded statistics of existing losses, from flat arrays to small frozen results.
What does not: computing losses (`losses`), oracles (`headroom`), and deciding whether a figure
meets its target (`criteria`).

Requests are clustered: errors of one tenant's requests are correlated, and so are those of one
day's. Bootstraps and label swaps therefore take whole tenants and days, never requests.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsfm_pipeline.evaluation.resampling import (
    CONFIDENCE,
    cells_of,
    paired,
    paired_cells,
    ratio_of,
    wild_bootstraps,
)


@dataclass(frozen=True)
class RatioInterval:
    """Ratio of two methods' losses and paired win rate of the first, with 95 % two-way bootstrap
    intervals.

    The limits are NaN where there is only one tenant or one day, because nothing then shows how
    others differ, and where too few tenants bound the ratio on one side.
    """

    ratio: float
    low: float
    high: float
    win_rate: float
    win_low: float
    win_high: float
    n_requests: int
    n_tenants: int
    n_days: int
    n_dropped: int


@dataclass(frozen=True)
class MeanInterval:
    """Mean with its 95 % two-way bootstrap interval; limits are NaN for one tenant or day."""

    mean: float
    low: float
    high: float
    n_requests: int
    n_tenants: int
    n_days: int
    n_dropped: int


@dataclass(frozen=True)
class LeaveOneOut:
    """Range of a loss ratio with each series left out in turn, and the series whose absence moves
    it most.
    """

    lowest: float
    highest: float
    most_influential: str


@dataclass(frozen=True)
class MeanLogRatio:
    """Mean over series of log(sum of losses a / sum of losses b): every series has the same weight.

    `ratio` is its exponential; `log_ratios[i]` belongs to `series[i]`; series where a sum is zero
    or NaN are counted, not averaged.
    """

    mean: float
    ratio: float
    series: tuple[str, ...]
    log_ratios: tuple[float, ...]
    n_excluded: int


AT_REST = 0.01
"""Share of the median tenant's mean loss below which a tenant has no ratio of its own."""


@dataclass(frozen=True)
class GeometricMeanRatio:
    """Geometric mean over tenants of the ratio of two methods' losses, with its 95 % two-way
    bootstrap interval; limits are NaN for one tenant or day.
    """

    ratio: float
    low: float
    high: float
    n_tenants: int
    n_excluded: int


def two_way_bootstrap(
    loss_a: ArrayLike, loss_b: ArrayLike, tenant: ArrayLike, day: ArrayLike, n_draws: int, seed: int
) -> RatioInterval:
    """Return sum(loss_a) / sum(loss_b) and the rate at which a beats b (ties count half), with 95 %
    intervals.

    loss_a, loss_b, tenant, day [R]: one row per paired request; rows with a NaN loss are dropped
    and counted. The limits are the nearest ratios that a wild bootstrap over tenants and days
    rejects at 5 %, see `resampling.WildBootstrap`.
    """
    cells, a, b = paired_cells(loss_a, loss_b, tenant, day)
    sums_a, sums_b, counts = cells.total(a), cells.total(b), cells.total(np.ones_like(a))
    wins = cells.total((a < b) + 0.5 * (a == b))
    (ratio, low, high), (win_rate, win_low, win_high) = _bootstrapped_ratios(
        [(sums_a, sums_b), (wins, counts)], n_draws, seed
    )
    return RatioInterval(ratio, low, high, win_rate, win_low, win_high, *cells.sizes())


def two_way_bootstrap_mean(
    values: ArrayLike, tenant: ArrayLike, day: ArrayLike, n_draws: int, seed: int
) -> MeanInterval:
    """Return the mean of `values` [R], for example of a difference, with its interval as in
    `two_way_bootstrap`.
    """
    values = np.asarray(values, dtype=np.float64)
    cells = cells_of(tenant, day, ~np.isnan(values))
    kept = values[cells.kept]
    [(mean, low, high)] = _bootstrapped_ratios(
        [(cells.total(kept), cells.total(np.ones_like(kept)))], n_draws, seed
    )
    return MeanInterval(mean, low, high, *cells.sizes())


def two_way_bootstrap_ratios(
    numerators: ArrayLike,
    denominators: ArrayLike,
    tenant: ArrayLike,
    day: ArrayLike,
    n_draws: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return sum(numerators[p]) / sum(denominators[p]) of each of P pairs with its interval as in
    `two_way_bootstrap`: [P, 3].

    numerators and denominators [P, R], tenant and day [R]. All pairs see the same draws. A row that
    does not count for a pair must be 0 in both; a pair whose ratio is undefined is NaN throughout.
    Raises ValueError for arrays of other shapes.
    """
    above, below = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    if above.shape != below.shape or above.ndim != 2:
        raise ValueError(
            f"numerators {above.shape} and denominators {below.shape} must both be [P, R], of one "
            "shape"
        )
    cells = cells_of(tenant, day, np.ones(above.shape[1], dtype=bool))
    pairs = [(cells.total(a), cells.total(b)) for a, b in zip(above, below, strict=True)]
    defined = np.flatnonzero(np.isfinite(ratio_of(above.sum(axis=1), below.sum(axis=1))))
    intervals = np.full((len(pairs), 3), np.nan)
    if len(defined):
        intervals[defined] = _bootstrapped_ratios([pairs[p] for p in defined], n_draws, seed)
    return intervals


def label_swap_pvalue(
    loss_a: ArrayLike,
    loss_b: ArrayLike,
    tenant: ArrayLike,
    day: ArrayLike,
    n_permutations: int,
    seed: int,
) -> float:
    """Return the two-sided p-value of "the labels a and b are exchangeable", from swapping them
    tenant by tenant.

    loss_a, loss_b, tenant, day [R]; rows with a NaN are dropped. The exchangeable unit is the
    tenant: its requests share one history, so all of them are swapped or none. It is the test
    behind `two_way_bootstrap`, so that the p-value is below 5 % where that interval excludes 1:
    where days have an effect that all tenants share, its sign is drawn too. A single tenant or day
    gives 1.0.
    """
    cells, a, b = paired_cells(loss_a, loss_b, tenant, day)
    if min(cells.n_tenants, cells.n_days) < 2:
        return 1.0
    [bootstrap] = wild_bootstraps([(cells.total(a), cells.total(b))], n_permutations, seed)
    return bootstrap.p_value(1.0)


def label_swap_rejection_rate(
    loss_a: ArrayLike,
    loss_b: ArrayLike,
    tenant: ArrayLike,
    day: ArrayLike,
    n_permutations: int,
    n_draws: int,
    seed: int,
) -> float:
    """Return how often the loss ratio's interval excludes 1 once labels a and b are swapped for
    random tenants.

    Swapped labels have no effect by construction, so about 5 % should be rejected
    (docs/evidence-protocol.md, "The label-swap control"). If many more are, the intervals are too
    narrow on this data set. Arguments as in `label_swap_pvalue`.
    """
    cells, a, b = paired_cells(loss_a, loss_b, tenant, day)
    sums_a, sums_b = cells.total(a), cells.total(b)
    rng = np.random.default_rng(seed)
    n_rejected = 0
    for _ in range(n_permutations):
        swapped = rng.random((cells.n_tenants, 1)) < 0.5
        pair = np.where(swapped, sums_b, sums_a), np.where(swapped, sums_a, sums_b)
        [bootstrap] = wild_bootstraps([pair], n_draws, int(rng.integers(2**32)))
        n_rejected += bootstrap.p_value(1.0) <= 1 - CONFIDENCE
    return n_rejected / n_permutations


def leave_one_out_ratios(loss_a: ArrayLike, loss_b: ArrayLike, series: ArrayLike) -> LeaveOneOut:
    """Return the range of sum(loss_a) / sum(loss_b) with each series left out in turn.

    loss_a, loss_b, series [R]; rows with a NaN are dropped. NaN where there is only one series.
    """
    names, sums_a, sums_b = _series_sums(loss_a, loss_b, series)
    if len(names) < 2:
        return LeaveOneOut(float("nan"), float("nan"), str(names[0]) if len(names) else "")
    ratios = ratio_of(sums_a.sum() - sums_a, sums_b.sum() - sums_b)
    overall = ratio_of(sums_a.sum(), sums_b.sum())
    moved = np.nan_to_num(np.abs(ratios - overall), nan=np.inf)
    return LeaveOneOut(float(ratios.min()), float(ratios.max()), str(names[np.argmax(moved)]))


def mean_log_ratio(loss_a: ArrayLike, loss_b: ArrayLike, series: ArrayLike) -> MeanLogRatio:
    """Return the mean of the per-series log ratios of summed losses; shapes as in
    `leave_one_out_ratios`.
    """
    every_name, sums_a, sums_b = _series_sums(loss_a, loss_b, series)
    usable = (sums_a > 0) & (sums_b > 0)
    log_ratios = np.log(sums_a[usable] / sums_b[usable])
    mean = float(log_ratios.mean()) if usable.any() else float("nan")
    names = tuple(str(name) for name in every_name[usable])
    return MeanLogRatio(
        mean, float(np.exp(mean)), names, tuple(log_ratios.tolist()), int((~usable).sum())
    )


def geometric_mean_ratio(
    loss_a: ArrayLike, loss_b: ArrayLike, tenant: ArrayLike, day: ArrayLike, n_draws: int, seed: int
) -> GeometricMeanRatio:
    """Return the geometric mean over tenants of sum(loss_a) / sum(loss_b), with its interval.

    Every tenant has the same weight, so that no burst and no unit of a scale decides the figure.
    loss_a, loss_b, tenant, day [R], and the limits, those of the logarithm's mean, are as in
    `two_way_bootstrap`. Tenants where a sum is zero have no ratio and are counted. So are tenants
    at rest, whose mean losses are both below `AT_REST` of the median tenant's: the ratio of two
    rounding errors is no effect.
    """
    cells, a, b = paired_cells(loss_a, loss_b, tenant, day)
    sums_a, sums_b = cells.total(a), cells.total(b)
    totals_a, totals_b = sums_a.sum(axis=1), sums_b.sum(axis=1)
    larger = np.maximum(totals_a, totals_b) / cells.total(np.ones(len(a))).sum(axis=1)
    usable = (totals_a > 0) & (totals_b > 0) & (larger >= AT_REST * np.median(larger))
    sums_a, sums_b = sums_a[usable], sums_b[usable]
    n_tenants, n_days = sums_a.shape
    n_excluded = int((~usable).sum())
    nothing = float("nan")
    if not n_tenants:
        return GeometricMeanRatio(nothing, nothing, nothing, 0, n_excluded)
    totals = sums_a.sum(axis=1, keepdims=True), sums_b.sum(axis=1, keepdims=True)
    logs = np.log(totals[0] / totals[1])  # [N, 1]
    mean = float(logs.mean())
    if n_tenants < 2 or n_days < 2:
        return GeometricMeanRatio(float(np.exp(mean)), nothing, nothing, n_tenants, n_excluded)
    # Linearised: a tenant's parts add up to its logarithm, a denominator's to 1.
    parts = sums_a / totals[0] - sums_b / totals[1] + logs / n_days
    [bootstrap] = wild_bootstraps([(parts, np.full_like(parts, 1 / n_days))], n_draws, seed)
    limits = bootstrap.interval()
    figure, low, high = np.exp([mean, *limits]).tolist()
    return GeometricMeanRatio(figure, low, high, n_tenants, n_excluded)


def _bootstrapped_ratios(
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]], n_draws: int, seed: int
) -> list[tuple[float, float, float]]:
    """Return (ratio, low, high) of each pair of cell sums (numerator [N, D], denominator [N, D]);
    all pairs use the same draws.
    """
    points = [
        float(ratio_of(numerator.sum(), denominator.sum())) for numerator, denominator in pairs
    ]
    if min(pairs[0][0].shape) < 2 or not np.isfinite(points).all():
        return [(point, float("nan"), float("nan")) for point in points]
    bootstraps = wild_bootstraps(pairs, n_draws, seed)
    return [(p, *own.interval()) for p, own in zip(points, bootstraps, strict=True)]


def _series_sums(
    loss_a: ArrayLike, loss_b: ArrayLike, series: ArrayLike
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Return names and summed losses by series, without rows with a NaN."""
    a, b = paired(loss_a, loss_b)
    kept = ~(np.isnan(a) | np.isnan(b))
    names, code = np.unique(np.asarray(series)[kept], return_inverse=True)
    sums_a, sums_b = (
        np.bincount(code, losses[kept], len(names)).astype(np.float64) for losses in (a, b)
    )
    return names, sums_a, sums_b
