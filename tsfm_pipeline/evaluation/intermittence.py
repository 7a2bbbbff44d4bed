"""Intermittent series: idle at most steps, busy for single ones.

What belongs here: the rule by which a series is intermittent. What does not: what is recommended
then (`steps.recommendations`), and forecasts.

A quantile of the steps says little about a job that runs one step in twelve: nine of ten steps are
idle, so the 0.75-quantile reserves nothing for the tenth. The maximum of a block is what such a
tenant needs.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

CUT_OFF = 1.32
"""A series is intermittent from this mean number of steps per busy step on: the cut-off of
Syntetos, Boylan and Croston (2005), On the categorization of demand patterns, for the average
interval between demands.
"""
IDLE_SHARE = 0.05
"""A step is idle up to this share of the typical load above the lowest one."""
MIN_BUSY_STEPS = 10
"""With fewer busy steps there is no interval to speak of: one spike is no intermittent load."""


def demand_intervals(values: Floats, ends: NDArray[np.integer], horizon: int) -> Floats:
    """Return the mean number of steps per busy step of each intermittent series: values [S, T] (NaN
    = missing), of which those before ends [S] are used -> [S]; NaN where a series is not
    intermittent.

    A step is busy if it lies more than `IDLE_SHARE` of the typical load above the series' lowest
    value. The typical load is the mean weighted by the load itself, sum(x^2) / sum(x) above the
    lowest value, which for a load that is on or off is the load when on, however seldom that is.

    The interval is that within a block of `horizon` steps, as a busy step sees it: one divided by
    the mean, over busy steps, of the share of busy steps in the same block. Idle blocks do not
    count: a series that is busy for whole days and idle for whole nights is not intermittent,
    because forecasts can tell its blocks apart. A series is intermittent from `CUT_OFF` on.
    """
    intervals = np.full(len(values), np.nan)
    for s, (series, end) in enumerate(zip(values, ends, strict=True)):
        n_blocks = int(end) // horizon
        blocks = series[end - n_blocks * horizon : end].reshape(n_blocks, horizon)
        load = blocks.astype(np.float64) - np.fmin.reduce(blocks, axis=None, initial=np.inf)
        known = np.nan_to_num(load)
        total = known.sum()
        if not total > 0:
            continue
        busy = known > IDLE_SHARE * (known**2).sum() / total
        n_busy, n_known = busy.sum(axis=1), (~np.isnan(blocks)).sum(axis=1)
        share = n_busy / np.maximum(n_known, 1)
        interval = n_busy.sum() / (n_busy * share).sum()
        if n_busy.sum() >= MIN_BUSY_STEPS and interval >= CUT_OFF:
            intervals[s] = interval
    return intervals
