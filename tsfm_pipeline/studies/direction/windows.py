"""Moving windows and recursive averages over a series of days.

What belongs here: the two ways in which an indicator or a volatility looks back, and division that
is defined on a market that stands still. What does not: any indicator (`indicators`, `features`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tsfm_pipeline.studies.direction.bars import Floats


def moving(statistic: Callable[..., Any], values: Floats, days: int) -> Floats:
    """Return a statistic (such as `np.mean`, called with `axis`) of the last `days` values of each
    day: float64 [T].

    NaN while there are fewer, and where one of them is NaN. A value depends on its window alone.
    """
    out = np.full(len(values), np.nan)
    if len(values) >= days:
        windows = np.lib.stride_tricks.sliding_window_view(values, days)
        out[days - 1 :] = statistic(windows, axis=-1)
    return out


def smoothed(values: Floats, weight: float, seed_days: int) -> Floats:
    """Return s[t] = s[t-1] + weight (values[t] - s[t-1]) as float64 [T].

    values [T]: NaN on the first days only. The recursion starts with the mean of the first
    `seed_days` of the other values, on the last day of these; the days before are NaN.
    """
    from scipy.signal import lfilter

    out = np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < seed_days:
        return out
    start = known[0] + seed_days - 1
    seed = values[known[0] : start + 1].mean()
    rest = lfilter([weight], [1, weight - 1], values[start + 1 :], zi=[(1 - weight) * seed])[0]
    out[start:] = [seed, *rest]
    return out


def exponential(values: Floats, days: int) -> Floats:
    """Return the exponential moving average with weight 2 / (days + 1): float64 [T]."""
    return smoothed(values, 2 / (days + 1), days)


def wilder(values: Floats, days: int) -> Floats:
    """Return the average with weight 1 / days (Wilder 1978): float64 [T]."""
    return smoothed(values, 1 / days, days)


def ratio(numerator: Floats, denominator: Floats, otherwise: float) -> Floats:
    """Return numerator / denominator, and `otherwise` where the denominator is zero: float64 [T].

    A window in which nothing moved or nothing was traded leads to 0 / 0 in many indicators.
    """
    at_rest = denominator == 0
    return np.where(at_rest, otherwise, numerator / np.where(at_rest, 1.0, denominator))
