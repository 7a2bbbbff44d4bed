"""The two-way bootstrap: sums by tenant and day, random signs, and the limits of an interval.

What belongs here: what every bootstrapped statistic of paired losses needs. What does not: the
statistics (`statistics`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
LEAST_TENANTS = 7
"""With fewer, the signs have too few outcomes: the rarest has a share of 3 % or more."""
_DRAWS_PER_CHUNK = 1000
_HALVINGS = 10
_FARTHEST = 100.0
"""Standard errors from a ratio beyond which no limit is searched."""
_NO_ERROR = 1e-12


@dataclass(frozen=True)
class Cells:
    """Rows without NaN, as codes of their [tenant, day] cells."""

    code: NDArray[np.int64]
    n_tenants: int
    n_days: int
    kept: NDArray[np.bool_]

    def sizes(self) -> tuple[int, int, int, int]:
        """Return the numbers of requests, tenants, days and dropped rows."""
        return len(self.code), self.n_tenants, self.n_days, int((~self.kept).sum())

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums of values [R] of the kept rows by cell -> [N, D]."""
        sums = np.bincount(
            self.code, weights=values, minlength=self.n_tenants * self.n_days
        ).astype(np.float64)
        return sums.reshape(self.n_tenants, self.n_days)


def cells_of(tenant: ArrayLike, day: ArrayLike, kept: NDArray[np.bool_]) -> Cells:
    """Return the cells of the kept rows: tenant, day, kept [R]. Raises ValueError for arrays of
    other shapes, or if no row is kept.
    """
    tenant, day = np.asarray(tenant), np.asarray(day)
    if not tenant.shape == day.shape == kept.shape or kept.ndim != 1:
        raise ValueError(
            f"losses {kept.shape}, tenant {tenant.shape} and day {day.shape} must be "
            "one-dimensional and of one length"
        )
    if not kept.any():
        raise ValueError(
            f"none of the {len(kept)} requests has all its losses; there is nothing to compare"
        )
    tenants, tenant_code = np.unique(tenant[kept], return_inverse=True)
    days, day_code = np.unique(day[kept], return_inverse=True)
    return Cells(tenant_code * len(days) + day_code, len(tenants), len(days), kept)


def paired_cells(
    loss_a: ArrayLike, loss_b: ArrayLike, tenant: ArrayLike, day: ArrayLike
) -> tuple[Cells, NDArray[np.float64], NDArray[np.float64]]:
    """Return the cells, and the losses of the rows that have both."""
    a, b = paired(loss_a, loss_b)
    cells = cells_of(tenant, day, ~(np.isnan(a) | np.isnan(b)))
    return cells, a[cells.kept], b[cells.kept]


def paired(loss_a: ArrayLike, loss_b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both losses as float64 [R]. Raises ValueError unless they have one shape."""
    a, b = np.asarray(loss_a, dtype=np.float64), np.asarray(loss_b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"losses {a.shape} and {b.shape} are not paired; they must be one-dimensional and of "
            "one length"
        )
    return a, b


def chunks_of_draws(total: int) -> list[int]:
    """Return how many draws to take at once, so that memory is bounded."""
    return [min(_DRAWS_PER_CHUNK, total - start) for start in range(0, total, _DRAWS_PER_CHUNK)]


def random_signs(rng: np.random.Generator, n_draws: int, size: int) -> NDArray[np.float64]:
    """Return random signs, 1 or -1, [n_draws, size]."""
    return np.where(rng.integers(0, 2, size=(n_draws, size), dtype=np.int8), 1.0, -1.0)


@dataclass(frozen=True)
class TwoWaySums:
    """What the two-way standard error of a sum over cells [N, D] needs, for one array of cells or
    for P of them: the totals, and the sums of squares of tenants' sums, days' sums and cells.
    """

    total: Any
    of_tenants: Any
    of_days: Any
    of_cells: Any

    @classmethod
    def of(cls, cells: NDArray[np.float64]) -> "TwoWaySums":
        tenants, days = cells.sum(axis=1), cells.sum(axis=0)
        return cls(cells.sum(), (tenants**2).sum(), (days**2).sum(), (cells**2).sum())

    def variances(self, n_tenants: int, n_days: int) -> tuple[Any, Any, Any]:
        """Return the variance of the total over tenants, over days and over cells, each about its
        mean.
        """
        square = self.total**2
        return (
            (self.of_tenants - square / n_tenants) * n_tenants / (n_tenants - 1),
            (self.of_days - square / n_days) * n_days / (n_days - 1),
            self.of_cells - square / (n_tenants * n_days),
        )

    def error(self, n_tenants: int, n_days: int) -> Any:
        """Return the two-way standard error of the total (Cameron, Gelbach and Miller 2011), at
        least that of independent cells.
        """
        tenant, day, cell = self.variances(n_tenants, n_days)
        cell = np.maximum(cell, 0.0)  # rounding may leave less
        return np.sqrt(cell + np.maximum(tenant - cell, 0.0) + np.maximum(day - cell, 0.0))

    def studentised(self, n_tenants: int, n_days: int) -> Any:
        """Return |total| / its two-way standard error."""
        least = np.sqrt(np.finfo(np.float64).eps * self.of_cells) + np.finfo(np.float64).tiny
        return np.abs(self.total) / np.maximum(self.error(n_tenants, n_days), least)


class WildBootstrap:
    """Test of "the ratio of two sums over [tenant, day] cells is r", by a wild bootstrap over
    tenants and days, studentised and with the hypothesis imposed; and its 95 % interval.

    Under the hypothesis the cells d = a - r * b sum to zero apart from chance. Each draw gives a
    random sign to the cells of each tenant, and one to what all tenants share on each day, and the
    test counts in how many draws |sum| / (two-way standard error) is as large as observed (Cameron,
    Gelbach and Miller 2008; MacKinnon, Nielsen and Webb 2021). A day's share is the mean of its
    cells, shrunken by what chance alone puts into such means; where days share nothing, the test is
    that of swapping the labels of whole tenants, which has exactly the level it states. With fewer
    than `LEAST_TENANTS` tenants the signs have too few outcomes to judge by at 5 %; Student's
    distribution of the ratio over its standard error takes their place.
    """

    def __init__(
        self,
        above: NDArray[np.float64],
        below: NDArray[np.float64],
        flipped: NDArray[np.float64],
        day_signs: NDArray[np.float64],
        sign_sums: NDArray[np.float64],
    ) -> None:
        """Take the cell sums a and b [N, D], their sums over tenants under P draws of signs
        [P, 2, D], the days' signs [P, D] and the sums of the tenants' signs [P].
        """
        self.above, self.below = above, below
        self.flipped_above, self.flipped_below = flipped[:, 0], flipped[:, 1]
        self.day_signs, self.sign_sums = day_signs, sign_sums[:, None]

    def interval(self) -> tuple[float, float]:
        """Return the ratios nearest to a / b on both sides that the test rejects; NaN where it
        rejects none on one side, as may be with a few tenants of which one decides the sum. A ratio
        of sums that cannot be negative, or above one, stays within that, and ends there where the
        test rejects nothing before it.
        """
        ratio = float(self.above.sum() / self.below.sum())
        sums = TwoWaySums.of(self.above - ratio * self.below)
        n_tenants, n_days = self.above.shape
        error = float(sums.error(n_tenants, n_days)) / abs(self.below.sum())
        if error <= _NO_ERROR * max(abs(ratio), 1.0):
            return ratio, ratio
        if n_tenants < LEAST_TENANTS:
            limit = _students_t(sums, n_tenants, n_days).ppf((1 + CONFIDENCE) / 2)
            low, high = ratio - float(limit) * error, ratio + float(limit) * error
        else:
            low, high = (self._limit(ratio, step * error) for step in (-1.0, 1.0))
        if (self.above >= 0).all():
            low = float(np.fmax(low, 0.0))
        if (self.above <= self.below).all():
            high = float(np.fmin(high, 1.0))
        if np.isnan(low + high):
            return float("nan"), float("nan")
        return low, high

    def _limit(self, ratio: float, step: float) -> float:
        """Return the first rejected value beyond the ratio in the direction of the step, which is
        one standard error long; NaN where there is none within `_FARTHEST` of them.
        """
        inside, outside = ratio, ratio + 2.0 * step
        while self.p_value(outside) > 1 - CONFIDENCE:
            if abs(outside - ratio) > _FARTHEST * abs(step):
                return float("nan")
            inside, outside = outside, ratio + 2.0 * (outside - ratio)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2.0
            rejected = self.p_value(middle) <= 1 - CONFIDENCE
            inside, outside = (inside, middle) if rejected else (middle, outside)
        return outside

    def p_value(self, ratio: float) -> float:
        """Return the two-sided p-value of the ratio. The add-one estimate is never zero."""
        n_tenants, n_days = self.above.shape
        cells = self.above - ratio * self.below
        sums = TwoWaySums.of(cells)
        observed = float(sums.studentised(n_tenants, n_days))
        if n_tenants < LEAST_TENANTS:
            return float(2.0 * _students_t(sums, n_tenants, n_days).sf(observed))
        _, day, cell = sums.variances(n_tenants, n_days)
        share = np.sqrt(max(0.0, 1.0 - cell / day)) if day > 0 else 0.0
        shared = share * cells.mean(axis=0)  # [D]
        own = cells - shared
        own_by_day = self.flipped_above - ratio * self.flipped_below - self.sign_sums * shared
        shared_by_day = self.day_signs * shared  # [P, D]
        by_day = own_by_day + n_tenants * shared_by_day
        own_total, shared_total = own_by_day.sum(axis=1), shared_by_day.sum(axis=1)
        drawn = TwoWaySums(
            total=by_day.sum(axis=1),
            of_tenants=(own.sum(axis=1) ** 2).sum()
            + 2.0 * shared_total * own_total
            + n_tenants * shared_total**2,
            of_days=(by_day**2).sum(axis=1),
            of_cells=(own**2).sum()
            + 2.0 * (shared_by_day * own_by_day).sum(axis=1)
            + n_tenants * (shared**2).sum(),
        ).studentised(n_tenants, n_days)
        n_as_large = int((drawn >= observed * (1 - 1e-12)).sum())
        return (1 + n_as_large) / (1 + len(drawn))


def _students_t(sums: TwoWaySums, n_tenants: int, n_days: int) -> Any:
    """Return Student's distribution with Satterthwaite's degrees of freedom of a two-way standard
    error, at least 1.
    """
    from scipy import stats

    tenant, day, _ = sums.variances(n_tenants, n_days)
    spread = tenant**2 / (n_tenants - 1) + day**2 / (n_days - 1)
    fourth = float(sums.error(n_tenants, n_days)) ** 4
    return stats.t(max(1.0, fourth / spread) if spread > 0 else 1.0)


def wild_bootstraps(
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]], n_draws: int, seed: int
) -> list[WildBootstrap]:
    """Return the bootstrap of each pair of cell sums (a [N, D], b [N, D]); all pairs see the same
    signs.
    """
    n_tenants, n_days = pairs[0][0].shape
    rng = np.random.default_rng(seed)
    stacked = np.concatenate([sums for pair in pairs for sums in pair], axis=1)
    flipped, sign_sums = [], []
    for n in chunks_of_draws(n_draws):
        signs = random_signs(rng, n, n_tenants)
        flipped.append((signs @ stacked).reshape(n, len(pairs), 2, n_days))
        sign_sums.append(signs.sum(axis=1))
    every, sums = np.concatenate(flipped), np.concatenate(sign_sums)
    day_signs = random_signs(rng, n_draws, n_days)
    return [
        WildBootstrap(above, below, every[:, p], day_signs, sums)
        for p, (above, below) in enumerate(pairs)
    ]


def ratio_of(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Return numerator / denominator, NaN where the denominator is zero."""
    above, below = (np.asarray(part, dtype=np.float64) for part in (numerator, denominator))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
