"""Uncertainty of results: bootstrap intervals, permutation tests, and the robustness of a ratio.

What belongs here: seeded statistics of existing losses, from flat arrays to small frozen results.
What does not: computing losses (`losses`), oracles (`headroom`), and deciding whether a figure
meets its target (`criteria`).

Requests are clustered: errors of one tenant's requests are correlated, and so are those of one
day's. Intervals therefore resample tenants and days, never requests, and label swaps swap whole
tenants.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsfm_pipeline.evaluation.resampling import (
    calibrated_interval,
    cells_of,
    chunks_of_draws,
    multiplicities,
    paired,
    paired_cells,
    ratio_of,
)


@dataclass(frozen=True)
class RatioInterval:
    """Ratio of two methods' losses and paired win rate of the first, with 95 % two-way bootstrap
    intervals.

    The limits are NaN where there is only one tenant or one day, because nothing then shows how
    others differ.
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
    and counted. Each draw resamples tenants and days with replacement, independently, and weights
    every request by the product of both multiplicities (Owen 2007, "The pigeonhole bootstrap").
    Limits are percentiles at a level calibrated to cover 95 %, see `calibrated_interval`.
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
    tenant: its requests share one history, so all of them are swapped or none. The statistic is the
    difference of the two sums, divided by its two-way standard error (Cameron, Gelbach and Miller
    2011): the test is exact where tenants are exchangeable. Where all tenants also share the
    effects of a day, which swapping tenants does not reproduce, the standard error keeps the test
    near its level (8 % instead of 5 %, 10 % where days decide everything). The add-one estimate is
    never zero; a single tenant gives 1.0.
    """
    cells, a, b = paired_cells(loss_a, loss_b, tenant, day)
    if cells.n_tenants < 2:
        return 1.0
    difference = cells.total(a - b)  # [N, D]
    observed = _swap_statistic(difference, np.ones((1, cells.n_tenants)))[0]
    rng = np.random.default_rng(seed)
    n_as_large = 0
    for n in chunks_of_draws(n_permutations):
        signs = rng.choice(np.array([-1.0, 1.0]), size=(n, cells.n_tenants))
        n_as_large += int((_swap_statistic(difference, signs) >= observed * (1 - 1e-12)).sum())
    return (1 + n_as_large) / (1 + n_permutations)


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
        [(_, low, high)] = _bootstrapped_ratios([pair], n_draws, int(rng.integers(2**32)))
        n_rejected += low > 1.0 or high < 1.0
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
    loss_a, loss_b, tenant, day [R], and the resampling of tenants and days, are those of
    `two_way_bootstrap`. Tenants where a sum is zero have no ratio and are counted. Limits are
    calibrated as there, for the logarithm.
    """
    cells, a, b = paired_cells(loss_a, loss_b, tenant, day)
    sums_a, sums_b = cells.total(a), cells.total(b)
    usable = (sums_a.sum(axis=1) > 0) & (sums_b.sum(axis=1) > 0)
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
    rng = np.random.default_rng(seed)
    draws = []
    for n in chunks_of_draws(n_draws):
        weights = multiplicities(rng, n, n_tenants)
        by_day = multiplicities(rng, n, n_days)
        drawn_a, drawn_b = by_day @ sums_a.T, by_day @ sums_b.T  # [n, N]
        # A tenant none of whose days was drawn has no ratio in this draw.
        known = (drawn_a > 0) & (drawn_b > 0)
        ratios = np.divide(drawn_a, drawn_b, out=np.ones_like(drawn_a), where=known)
        weights *= known
        draws.append(ratio_of((weights * np.log(ratios)).sum(axis=1), weights.sum(axis=1)))
    # Of the mean's linear form; over its days, a tenant's parts add up to its own deviation.
    parts = sums_a / totals[0] - sums_b / totals[1] + (logs - mean) / n_days
    limits = calibrated_interval(np.concatenate(draws), parts / n_tenants)
    figure, low, high = np.exp([mean, *limits]).tolist()
    return GeometricMeanRatio(figure, low, high, n_tenants, n_excluded)


def _swap_statistic(
    difference: NDArray[np.float64], signs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return |sum| / two-way standard error of the cell differences [N, D] under signs [P, N] ->
    [P].
    """
    n_tenants, n_days = difference.shape
    by_day = signs @ difference  # [P, D]
    total = by_day.sum(axis=1)
    variance_tenant = (
        ((difference.sum(axis=1) ** 2).sum() - total**2 / n_tenants) * n_tenants / (n_tenants - 1)
    )
    if n_days > 1:
        variance_cell = (difference**2).sum() - total**2 / (n_tenants * n_days)
        variance_day = ((by_day**2).sum(axis=1) - total**2 / n_days) * n_days / (n_days - 1)
        variance = np.maximum(
            variance_tenant + variance_day - variance_cell, np.maximum(variance_tenant, 0.0)
        )
    else:
        variance = variance_tenant
    floor = np.finfo(np.float64).eps * (difference**2).sum()
    return np.abs(total) / np.sqrt(np.maximum(variance, floor) + np.finfo(np.float64).tiny)


def _bootstrapped_ratios(
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]], n_draws: int, seed: int
) -> list[tuple[float, float, float]]:
    """Return (ratio, low, high) of each pair of cell sums (numerator [N, D], denominator [N, D]);
    all pairs use the same draws.
    """
    n_tenants, n_days = pairs[0][0].shape
    points = [
        float(ratio_of(numerator.sum(), denominator.sum())) for numerator, denominator in pairs
    ]
    if n_tenants < 2 or n_days < 2 or not np.isfinite(points).all():
        return [(point, float("nan"), float("nan")) for point in points]
    rng = np.random.default_rng(seed)
    # [N, pairs * 2 * D]
    stacked = np.concatenate([sums for pair in pairs for sums in pair], axis=1)
    draws = []
    for n in chunks_of_draws(n_draws):
        by_day = (multiplicities(rng, n, n_tenants) @ stacked).reshape(n, 2 * len(pairs), n_days)
        draws.append(np.einsum("npd,nd->np", by_day, multiplicities(rng, n, n_days)))
    sums = np.concatenate(draws)  # [draws, pairs * 2]
    intervals = []
    for i, (numerator, denominator) in enumerate(pairs):
        ratios = ratio_of(sums[:, 2 * i], sums[:, 2 * i + 1])
        intervals.append(
            (points[i], *calibrated_interval(ratios, numerator - points[i] * denominator))
        )
    return intervals


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
