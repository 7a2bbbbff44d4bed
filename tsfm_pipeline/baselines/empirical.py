"""Baselines with empirical deciles: sample quantiles of values observed up to the origin.

What belongs here: quantiles of past changes, of the last day, of the same hours, and percentile
plus margin; the sample quantile itself. What does not: point baselines (`point`) and fitted models
(`arima`). Samples omit missing steps; nothing is imputed.
"""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from tsfm_pipeline.baselines.protocol import DirectBaseline, FloatArray
from tsfm_pipeline.evaluation.methods import (
    LAST_DAY_QUANTILES,
    LAST_VALUE_CHANGE_QUANTILES,
    PERCENTILE_MARGIN,
    SAME_HOUR_QUANTILES,
)
from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.forecaster.panel import Panel

N_DAYS = 7
"""Length of the trailing windows, in days."""
MIN_SAMPLES = 10
"""Fewest observations from which deciles are computed: one in each tenth."""


def empirical_deciles(samples: FloatArray, min_samples: int = MIN_SAMPLES) -> FloatArray:
    """Return deciles [..., 9] of samples [..., N], ignoring NaN; NaN where fewer than `min_samples`
    remain.

    Linear interpolation between order statistics (type 7 of Hyndman & Fan 1996, numpy's default).
    Sorting whole rows is faster than partitioning at 18 order statistics: numpy sorts float32 with
    vector instructions.
    """
    ordered = np.sort(samples, axis=-1)  # NaN last
    n_samples = np.count_nonzero(samples == samples, axis=-1)[..., None]
    position = np.maximum(n_samples - 1, 0) * np.asarray(QUANTILE_LEVELS)  # [..., 9]
    below = position.astype(np.int64)
    low = np.take_along_axis(ordered, below, axis=-1)
    high = np.take_along_axis(ordered, np.minimum(below + 1, np.maximum(n_samples - 1, 0)), axis=-1)
    deciles = low + (position - below).astype(np.float32) * (high - low)
    return np.where(n_samples >= min_samples, deciles, np.float32(np.nan))


def trailing_windows(values: FloatArray, origins: npt.NDArray[np.int64], length: int) -> FloatArray:
    """Return the `length` steps of one series [T] that end with each origin [O]: [O, length], NaN
    before the first step.
    """
    padded = np.concatenate([np.full(length - 1, np.nan, dtype=np.float32), values])
    return sliding_window_view(padded, length)[origins]


def _trailing_deciles(panel: Panel, origins: npt.NDArray[np.int64], length: int) -> FloatArray:
    """Return deciles of the trailing `length` steps, the same at every step of the horizon: [S, O,
    1, 9].
    """
    deciles = np.empty((*origins.shape, 1, len(QUANTILE_LEVELS)), dtype=np.float32)
    # One series at a time, because the windows of a whole shard would take gigabytes.
    for series, values in enumerate(panel.values):
        deciles[series, :, 0] = empirical_deciles(trailing_windows(values, origins[series], length))
    return deciles


class LastValueChangeQuantiles(DirectBaseline):
    """The last value plus the deciles of past h-step changes, for each step h.

    The strongest of the simple baselines on real fleets. Quantile rule: sample deciles of x[t + h]
    - x[t] over all t with both ends observed within the seven days that end with the origin, or
    within the whole history where that is shorter. The median moves with the median change.
    History: one observation, and ten changes of the longest step.
    """

    name: ClassVar[str] = LAST_VALUE_CHANGE_QUANTILES

    def _deciles(self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int) -> FloatArray:
        length = min(N_DAYS * self._day(panel), panel.n_steps)
        last = np.take_along_axis(panel.filled, origins, axis=1)  # [S, O]
        beyond = np.full(horizon, np.nan, dtype=np.float32)
        deciles = np.empty((*origins.shape, horizon, len(QUANTILE_LEVELS)), dtype=np.float32)
        for series, values in enumerate(panel.values):
            for request, window in enumerate(trailing_windows(values, origins[series], length)):
                later = sliding_window_view(np.concatenate([window, beyond]), length)[
                    1:
                ]  # [H, length]
                deciles[series, request] = last[series, request] + empirical_deciles(later - window)
        return deciles


class LastDayQuantiles(DirectBaseline):
    """The deciles of the day before the origin, at every step.

    Quantile rule: sample deciles of the values in the day that ends with the origin, or in the
    whole history where that is shorter. History: ten observations within that day.
    """

    name: ClassVar[str] = LAST_DAY_QUANTILES

    def _deciles(self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int) -> FloatArray:
        return _trailing_deciles(panel, origins, self._day(panel))


class SameHourQuantiles(DirectBaseline):
    """For each step, the deciles of the values around the same time on the previous days.

    Quantile rule: sample deciles of the values within half an hour (a 48th of the day, rounded
    down) of the step's time of day, on the last seven days whose time of day has been reached at
    the origin, or on fewer days where the history is shorter. History: one observation within the
    half hours of every step. No more is required, because hourly telemetry has one a day.
    """

    name: ClassVar[str] = SAME_HOUR_QUANTILES

    def _deciles(self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int) -> FloatArray:
        day = self._day(panel)
        around = np.arange(-(day // 48), day // 48 + 1)
        offsets = (
            1
            + np.arange(horizon)[:, None, None] % day  # the step's time of day
            - np.arange(1, N_DAYS + 1)[None, :, None] * day
            + around[None, None, :]
        ).reshape(horizon, -1)  # [H, 7 * width], relative to the origin
        offsets = np.where(
            offsets <= 0, offsets, -panel.n_steps
        )  # after the origin: points before the first step, so missing
        deciles = np.empty((*origins.shape, horizon, len(QUANTILE_LEVELS)), dtype=np.float32)
        for series, values in enumerate(panel.values):
            steps = origins[series][:, None, None] + offsets
            samples = np.where(steps >= 0, values[np.maximum(steps, 0)], np.float32(np.nan))
            deciles[series] = empirical_deciles(samples, min_samples=1)
        return deciles


class PercentileMargin(DirectBaseline):
    """A percentile of the trailing week plus 15 %, the rule of Kubernetes' Vertical Pod Autoscaler.

    Quantile rule: sample deciles of the seven days that end with the origin (or of the whole
    history where that is shorter), each raised by 15 % of its magnitude, the same at every step.
    The recommender (kubernetes/autoscaler, `--target-cpu-percentile` .9,
    `--recommendation-margin-fraction` .15) weights samples by age with a half-life of 24 hours over
    eight days; here all samples have the same weight. History: ten observations within the week.
    """

    name: ClassVar[str] = PERCENTILE_MARGIN
    margin_fraction: ClassVar[float] = 0.15

    def _deciles(self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int) -> FloatArray:
        deciles = _trailing_deciles(panel, origins, N_DAYS * self._day(panel))
        margin: FloatArray = np.float32(self.margin_fraction) * np.abs(deciles)
        return deciles + margin
