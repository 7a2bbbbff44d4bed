"""Scores of prediction intervals: coverage, width, Winkler score, breaches and what follows them.

What belongs here: pure arithmetic on arrays of actuals and interval ends. What does not:
calibrating intervals (`conformal`), the loss of single quantiles (`losses`), means over requests
with their uncertainty (`statistics`).

NaN among the actuals means "not observed" and is never scored. An interval whose ends are swapped
is scored as if they were in order.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MOVE = 0.03
"""Least move, as a share of the metric's range, that makes a breach one that was followed."""
MOVE_HOURS = 6.0
"""Time after a breach within which the move must happen."""
LEAST_OBSERVED = 0.5
"""Share of the time after a breach that must be observed to say that no move followed."""
_MOST_VALUES = 2_000
"""Values of a series that its range is taken from."""


class Breaches(NamedTuple):
    """The first breach of each of R forecasts. step int [R]: its place among the horizon's steps,
    -1 where there is none; sign [R]: 1 above the interval, -1 below, 0 where there is none.
    """

    step: NDArray[np.int64]
    sign: NDArray[np.int64]


def covered(actual: ArrayLike, low: ArrayLike, high: ArrayLike) -> Floats:
    """Return 1 where an interval holds the value, ends included, 0 where not, NaN where the value
    or an end is unknown; the arrays broadcast.
    """
    actual, low, high = _ordered(actual, low, high)
    inside = ((actual >= low) & (actual <= high)).astype(np.float64)
    return np.where(np.isnan(actual + low + high), np.nan, inside)


def nested(middle: Floats, *ends: tuple[Floats, Floats]) -> list[tuple[Floats, Floats]]:
    """Return intervals, lower and upper ends of any one shape, each widened to hold the one before
    it, and the first one to hold the middle.
    """
    low, high, wider = middle, middle, []
    for lower, upper in ends:
        low, high = np.minimum(lower, low), np.maximum(upper, high)
        wider.append((low, high))
    return wider


def winkler_score(actual: ArrayLike, low: ArrayLike, high: ArrayLike, target: float) -> Floats:
    """Return the width of each interval plus 2 / (1 - target) times its distance to the value; NaN
    where something is unknown. Less is better: no interval of that coverage can do better on
    average than the true one (Winkler 1972; Gneiting and Raftery 2007, section 6.2).
    """
    if not 0.0 < target < 1.0:
        raise ValueError(f"target is {target!r}; allowed: between 0 and 1")
    actual, low, high = _ordered(actual, low, high)
    beyond = np.maximum(low - actual, 0.0) + np.maximum(actual - high, 0.0)
    return np.asarray(high - low + 2.0 / (1.0 - target) * beyond)


def first_breaches(actual: ArrayLike, low: ArrayLike, high: ArrayLike) -> Breaches:
    """Return the first step of each forecast whose value lies outside its interval: all [R, H]."""
    actual, low, high = _ordered(actual, low, high)
    signs = (actual > high).astype(np.int64) - (actual < low).astype(np.int64)  # NaN: neither
    step = np.argmax(signs != 0, axis=1)
    sign = np.take_along_axis(signs, step[:, None], axis=1)[:, 0]
    return Breaches(np.where(sign == 0, -1, step), sign)


def followed(
    values: NDArray[np.floating],
    series: NDArray[np.integer],
    steps: NDArray[np.integer],
    sign: ArrayLike,
    by: ArrayLike,
    reach: int,
) -> Floats:
    """Return whether breaches were followed by a move of at least `by` in their direction: 1 or 0
    [R], NaN where that is not known.

    values [S, T]; series, steps [R]: which series left its interval, and at which step; sign [R]:
    its direction; by [R]: the least move, in the units of the values; reach: steps after the breach
    within which it counts. It is not known before these steps have passed, also where the move was
    seen already: the breaches that are not followed would be known later than the others, and the
    share of the known ones would be too high. For the same reason a missing value is no move; where
    less than `LEAST_OBSERVED` of the steps have a value, and where `by` is no positive number,
    nothing is known.
    """
    direction, least = np.asarray(sign), np.asarray(by, dtype=np.float64)
    result = np.full(len(steps), np.nan)
    for r, (row, step) in enumerate(zip(series, steps, strict=True)):
        later = direction[r] * (values[row, step + 1 : step + 1 + reach] - values[row, step])
        observed = np.count_nonzero(~np.isnan(later))
        if observed >= LEAST_OBSERVED * reach and len(later) == reach and least[r] > 0:
            result[r] = float((later >= least[r]).any())
    return result


def ranges(
    values: ArrayLike, lower: float | None = None, upper: float | None = None
) -> NDArray[np.float64]:
    """Return the range of each series [S], which moves are measured against: values [S, T].

    It is the distance of the metric's limits where it has both (1 for a share or a probability);
    otherwise from the .01 to the .99 quantile of the observed values. NaN for a series without
    values.
    """
    array = np.asarray(values, dtype=np.float64)
    if lower is not None and upper is not None:
        return np.full(len(array), float(upper) - float(lower))
    every = max(1, array.shape[1] // _MOST_VALUES)
    spread = np.full(len(array), np.nan)
    for s, series in enumerate(array[:, ::every]):
        known = series[~np.isnan(series)]
        if len(known):
            low, high = np.quantile(known, (0.01, 0.99))
            spread[s] = high - low
    return spread


def width_at_coverage(
    actual: ArrayLike, low: ArrayLike, middle: ArrayLike, high: ArrayLike, coverage: float
) -> float:
    """Return the factor by which intervals must be stretched about their middle to hold a share
    `coverage` of the values in hindsight; NaN where no value is known, infinite where none can.

    It lets intervals of one method be compared at the coverage of another. All arrays broadcast.
    """
    actual, low, high = _ordered(actual, low, high)
    middle = np.asarray(middle, dtype=np.float64)
    needed = np.maximum(
        _share(actual - middle, high - middle), _share(middle - actual, middle - low)
    )
    known = np.sort(needed[~np.isnan(needed)])
    if not len(known):
        return float("nan")
    return float(known[min(len(known) - 1, max(0, int(np.ceil(coverage * len(known))) - 1))])


def _share(distance: Floats, half: Floats) -> Floats:
    """Return distance / half; 0 where there is no distance to cover."""
    unreachable = np.where(distance > 0, np.inf, np.where(np.isnan(distance), np.nan, 0.0))
    return np.divide(np.maximum(distance, 0.0), half, out=unreachable, where=half > 0)


def _ordered(actual: ArrayLike, low: ArrayLike, high: ArrayLike) -> tuple[Floats, Floats, Floats]:
    one, other = (np.asarray(end, dtype=np.float64) for end in (low, high))
    return np.asarray(actual, dtype=np.float64), np.minimum(one, other), np.maximum(one, other)
