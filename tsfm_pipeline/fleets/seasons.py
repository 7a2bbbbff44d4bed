"""The seasons of series, and their names for people.

What belongs here: correlations of series with their own past. What does not: reading the series
(`fleets.table`), writing seasons into a fleet file (`fleets.inference`).
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.fleets.fields import MINUTES_PER_DAY

LEAST_CORRELATION = 0.3
"""Least correlation of a series with itself one season ago, for a season other than a day or a
week.
"""
NEAR_BEST = 0.9
_MOST_LAGS = 800
_OUTLIER = 4.0
"""Robust standard deviations from the median beyond which a value counts as that far away: a few
high days, such as holidays, would decide every correlation otherwise."""
_ROBUST_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class Season:
    """A season in steps, its name for people, and the correlation of series with themselves one
    season ago (None: too short to tell).
    """

    steps: int
    called: str
    correlation: float | None


def find_seasons(
    step: timedelta, values: NDArray[np.float32] | None
) -> tuple[tuple[Season, ...], tuple[str, ...]]:
    """Return the seasons, with notes: day and week where the step is shorter than a day and the
    history covers two days; otherwise the season that the series show, or none.
    """
    day = timedelta(days=1) // step
    week = 7 * day
    n_steps = 0 if values is None else values.shape[1]
    calendar = [
        Season(steps, name, None if values is None else correlation(values, steps))
        for steps, name in ((day, "one day"), (week, "one week"))
        if steps > 0
    ]
    if day > 1 and (values is None or n_steps >= 2 * day):
        return tuple(calendar), ()
    detected = None if values is None else detect_season(values)
    if detected is not None:
        steps, strength = detected
        called = "one week" if steps == week else duration(steps * (step / timedelta(minutes=1)))
        return (Season(steps, called, strength),), ()
    shorter = " in less than two days" if day > 1 else ""
    return (), (f"no season was found{shorter}: 'seasons: []'",)


def correlation(values: NDArray[np.float32], lag: int) -> float | None:
    """Return the median over series [S, T] of their correlation with themselves `lag` steps ago;
    None where no series has two such spans and varies.
    """
    if values.shape[1] < 2 * lag:
        return None
    now, before = values[:, lag:].astype(np.float64), values[:, :-lag].astype(np.float64)
    both = ~(np.isnan(now) | np.isnan(before))
    n = np.maximum(both.sum(axis=1, keepdims=True), 1)
    centred = [
        np.where(both, x, 0.0) - np.where(both, x, 0.0).sum(axis=1, keepdims=True) / n
        for x in (now, before)
    ]
    a, b = (np.where(both, x, 0.0) for x in centred)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    usable = (scale > 0) & (both.sum(axis=1) >= lag)
    return float(np.median((a * b).sum(axis=1)[usable] / scale[usable])) if usable.any() else None


def detect_season(values: NDArray[np.float32]) -> tuple[int, float] | None:
    """Return the shortest lag after which series [S, T] repeat themselves nearly as well as after
    any other lag, with its correlation; None where there is none.

    A lag counts where its correlation exceeds that of both neighbours and reaches
    `LEAST_CORRELATION`. The series' linear trends are removed first, and outliers are drawn in.
    """
    longest = min(values.shape[1] // 3, _MOST_LAGS)
    flat = _without_outliers(_without_trend(values))
    by_lag = [-1.0 if (r := correlation(flat, lag)) is None else r for lag in range(1, longest + 2)]
    peaks = [
        (lag, by_lag[lag - 1])
        for lag in range(2, longest + 1)
        if by_lag[lag - 1] >= LEAST_CORRELATION
        and by_lag[lag - 1] > max(by_lag[lag - 2], by_lag[lag])
    ]
    if not peaks:
        return None
    best = max(r for _, r in peaks)
    return next((lag, r) for lag, r in peaks if r >= NEAR_BEST * best)


def _without_trend(values: NDArray[np.float32]) -> NDArray[np.float32]:
    steps = np.arange(values.shape[1], dtype=np.float64)
    flat = values.astype(np.float64)
    for series in flat:
        known = ~np.isnan(series)
        if known.sum() > 2:
            series -= np.polyval(np.polyfit(steps[known], series[known], 1), steps)
    return flat.astype(np.float32)


def _without_outliers(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the series within `_OUTLIER` of their medians; those at rest most of the time, whose
    median absolute deviation is 0, as they are.
    """
    drawn_in = values.copy()
    for series in drawn_in:
        known = series[~np.isnan(series)]
        if not known.size:
            continue
        median = np.median(known)
        reach = _OUTLIER * _ROBUST_DEVIATION * np.median(np.abs(known - median))
        if reach > 0:
            np.clip(series, median - reach, median + reach, out=series)
    return drawn_in


def duration(minutes: float) -> str:
    """Return a duration in the largest unit that divides it, such as '2 hours'."""
    for length, unit in (
        (7 * MINUTES_PER_DAY, "week"),
        (MINUTES_PER_DAY, "day"),
        (60, "hour"),
        (1, "minute"),
    ):
        if minutes >= length and minutes % length == 0:
            count = int(minutes // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{minutes:g} minutes"
