"""What may be emitted: values within the limits of their metric, and no less for a higher tier.

What belongs here: the limits of metrics or series as arrays, and the two rules that every decision
obeys before it is stored, scored or answered. What does not: where limits come from
(`fleets.fields`, `forecaster.panel`), and the decisions themselves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bounds = tuple[float | None, float | None]
"""Lowest and highest value; None means no limit."""


@dataclass(frozen=True, eq=False)
class Limits:
    """The lowest and the highest value of each metric or series: float32 [S], infinite where there
    is no limit.

    They are float32 because telemetry is: a series that is constant at its limit is forecast at
    exactly that value.
    """

    lower: NDArray[np.float32]
    upper: NDArray[np.float32]

    @classmethod
    def of(cls, bounds: Iterable[Bounds]) -> "Limits":
        """Return the limits of metrics or series, given the bounds of each, in their order."""
        pairs = list(bounds)
        lower = [-np.inf if low is None else low for low, _ in pairs]
        upper = [np.inf if high is None else high for _, high in pairs]
        return cls(np.array(lower, dtype=np.float32), np.array(upper, dtype=np.float32))

    @cached_property
    def unlimited(self) -> bool:
        """Whether there is no limit at all."""
        return bool(np.isinf(self.lower).all() and np.isinf(self.upper).all())

    def take(self, rows: NDArray[np.integer]) -> "Limits":
        """Return the limits of some of the series, int [N], which may repeat."""
        if self.unlimited:
            return self
        return Limits(self.lower[rows], self.upper[rows])

    def clip(self, values: Floats, axis: int = 0) -> Floats:
        """Return values with each metric or series, which lie along `axis`, within its limits. NaN
        stays NaN.
        """
        if self.unlimited:
            return values
        shape = [1] * values.ndim
        shape[axis] = -1
        # Equal to np.clip, and several times as fast: these two are vectorised for any shape.
        return np.minimum(np.maximum(values, self.lower.reshape(shape)), self.upper.reshape(shape))


UNLIMITED = Limits.of(())
"""No limits, for any number of series."""


def in_tier_order(decision: Floats, alphas: Sequence[float], axis: int) -> Floats:
    """Return decisions that never fall with alpha: the values of all tiers, which lie along `axis`
    in the order of `alphas`, are sorted at each step.

    Each tier has constants of its own, so its decision may cross that of another. Sorted values
    never cost more in total: for two crossed quantiles the pinball losses of both together fall by
    the difference of the alphas times that of the values, whatever is observed (Chernozhukov,
    Fernandez-Val and Galichon, 2010, Quantile and probability curves without crossing). Where a
    tier has no decision (NaN), nothing is moved.
    """
    rank = np.argsort(np.argsort(alphas))
    ordered = np.take(np.sort(decision, axis=axis), rank, axis=axis)
    unknown = np.isnan(decision).any(axis=axis, keepdims=True)
    return np.where(unknown, decision, ordered)


def emitted(
    decision: Floats, alphas: Sequence[float], limits: Limits, *, metric_axis: int, tier_axis: int
) -> Floats:
    """Return decisions as they are stored, scored and answered: within the limits of their metrics
    (`Limits.clip`), and in the order of their tiers (`in_tier_order`).
    """
    return in_tier_order(limits.clip(decision, metric_axis), alphas, tier_axis)
