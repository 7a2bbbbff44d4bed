"""Resampling tenants and days: the draws of the two-way bootstrap, and the calibrated limits of an
interval.

What belongs here: what every bootstrapped statistic of paired losses needs. What does not: the
statistics (`statistics`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
_DRAWS_PER_CHUNK = 1000


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


def multiplicities(rng: np.random.Generator, n_draws: int, size: int) -> NDArray[np.float64]:
    """Return how often each of `size` units occurs in `size` draws with replacement -> [n_draws,
    size].
    """
    drawn = rng.integers(0, size, size=(n_draws, size)) + size * np.arange(n_draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n_draws * size).astype(np.float64)
    return counts.reshape(n_draws, size)


def chunks_of_draws(total: int) -> list[int]:
    """Return how many draws to take at once, so that memory is bounded."""
    return [min(_DRAWS_PER_CHUNK, total - start) for start in range(0, total, _DRAWS_PER_CHUNK)]


def calibrated_interval(
    draws: NDArray[np.float64], influence: NDArray[np.float64]
) -> tuple[float, float]:
    """Return calibrated percentile limits of bootstrapped ratios; influence [N, D]: each cell's
    share in the linearised ratio.

    Plain percentiles of the pigeonhole bootstrap cover more than 95 % where requests are noisy,
    because it counts their variance three times. They cover less where days dominate, because seven
    resampled days understate the variance and lack Student's tails. The percentiles are therefore
    read at the level at which a normal distribution with the bootstrap's variance has the width of
    the two-way cluster-robust interval (Cameron, Gelbach and Miller 2011, Satterthwaite's degrees
    of freedom). The idea is that of the expanded percentile interval (Hesterberg 2015, "What
    teachers should know about the bootstrap").
    """
    from scipy import stats

    n_tenants, n_days = influence.shape
    tenant, day = ((influence.sum(axis=axis) ** 2).sum() for axis in (1, 0))
    cell = (influence**2).sum()
    bootstrap_variance = tenant * (1 - 1 / n_days) + day * (1 - 1 / n_tenants) + cell
    tenant, day = tenant * n_tenants / (n_tenants - 1), day * n_days / (n_days - 1)
    variance = cell + max(tenant - cell, 0.0) + max(day - cell, 0.0)
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    if variance > 0.0:
        degrees = max(1.0, variance**2 / (tenant**2 / (n_tenants - 1) + day**2 / (n_days - 1)))
        z = stats.t.ppf((1 + CONFIDENCE) / 2, degrees) * np.sqrt(variance / bootstrap_variance)
    low, high = np.nanquantile(draws, stats.norm.cdf([-z, z]))
    return float(low), float(high)


def ratio_of(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Return numerator / denominator, NaN where the denominator is zero."""
    above, below = (np.asarray(part, dtype=np.float64) for part in (numerator, denominator))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
