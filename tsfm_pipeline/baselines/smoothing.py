"""Baselines of the most recent values: exponential smoothing, a local level, a rolling quantile.

What belongs here: the three baselines by which the online service answers without the model. What
does not: that answer itself (`serving.fallback`), and baselines that know seasons (`empirical`,
`point`) or fit a process before the test period (`arima`). Missing steps are left out of the
samples and widen the forecast; nothing is imputed. Axes: S series, O origins, H horizon, R = S * O
requests, N values, G ratios of variances.

Constants were chosen once, by the mean CRPS over 60 steps at 4,800 origins before the test period
of the synthetic fleet; `python benchmarks/smoothing.py` prints the figures given here.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.baselines.empirical import MIN_SAMPLES, empirical_deciles
from tsfm_pipeline.baselines.protocol import DirectBaseline, FloatArray
from tsfm_pipeline.evaluation.methods import EWMA, LOCAL_LEVEL_KALMAN, ROLLING_QUANTILE
from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.forecaster.panel import Panel

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

N_SMOOTHED = 120
"""Observed values up to the origin that are smoothed. From 40 to 288 the average's CRPS differs by
3 %.
"""
SMOOTHING = 0.2
"""Weight of the newest value, in the middle of the customary .1 to .3. A weight of .1 has a CRPS
that is 2 % lower over 60 steps and 1 % higher over 12; its intervals of 80 % hold 76 %, not 80 %.
"""
VARIANCE_RATIOS = (0.0, *(10.0 ** (power / 2) for power in range(-6, 5)))
"""Variance of the level's steps in units of the observations' variance: from a constant to a random
walk, two per factor of ten.
"""
N_ROLLING = 30
"""Observed values up to the origin whose quantiles are taken: the lowest CRPS of 10 to 3,000."""
MIN_ROLLING = 5
"""Fewest values of a rolling quantile: each decile lies strictly between the extremes."""


@dataclass(frozen=True)
class RecentValues:
    """The last N observed values up to the origin of each request.

    values [N, R]: oldest first; where a request has fewer, its first one is repeated before it.
    elapsed [N, R]: steps since the observed value before; 1 at the request's first one and before.
    counts [R]: how many values a request has. ages [R]: steps from its last one to its origin.
    """

    values: Float64Array
    elapsed: IntArray
    counts: IntArray
    ages: IntArray

    @property
    def later(self) -> npt.NDArray[np.bool_]:
        """Where a value is observed after the request's first one [N, R]."""
        n_values = len(self.values)
        return np.arange(n_values)[:, None] > n_values - self.counts

    def steps_ahead(self, horizon: int) -> IntArray:
        """Return the steps from the last observed value to each forecast one [R, H]."""
        return self.ages[:, None] + np.arange(1, horizon + 1)


def recent_values(values: FloatArray, origins: IntArray, n_values: int) -> RecentValues:
    """Return the last `n_values` observed values [S, T] up to each origin [S, O]."""
    shape = (n_values, *origins.shape)
    recent, elapsed = np.full(shape, np.nan), np.ones(shape, dtype=np.int64)
    counts, ages = np.zeros((2, *origins.shape), dtype=np.int64)
    for series, row in enumerate(values):
        observed = np.flatnonzero(~np.isnan(row))
        if not len(observed):
            continue
        ends = np.searchsorted(observed, origins[series], side="right")
        first = np.maximum(ends - n_values, 0)
        places = np.maximum(ends + np.arange(-n_values, 0)[:, None], first)  # [N, O]
        steps = observed[places]
        recent[:, series] = row[steps]
        elapsed[1:, series] = np.maximum(np.diff(steps, axis=0), 1)
        counts[series] = ends - first
        ages[series] = np.maximum(origins[series] - observed[np.maximum(ends - 1, 0)], 0)
    return RecentValues(
        recent.reshape(n_values, -1),
        elapsed.reshape(n_values, -1),
        counts.reshape(-1),
        ages.reshape(-1),
    )


def _gaussian_deciles(
    level: Float64Array, variance: Float64Array, counts: IntArray, shape: tuple[int, ...]
) -> FloatArray:
    """Return normal deciles [S, O, H, 9] of levels [R] and variances [R, H]; NaN for a request with
    fewer than `MIN_SAMPLES` values.
    """
    normal = np.array([NormalDist().inv_cdf(quantile) for quantile in QUANTILE_LEVELS])
    deciles = level[:, None, None] + np.sqrt(variance)[..., None] * normal
    deciles[counts < MIN_SAMPLES] = np.nan
    return deciles.reshape(*shape, *deciles.shape[1:]).astype(np.float32)


class Ewma(DirectBaseline):
    """The exponentially weighted moving average (simple exponential smoothing), at every step.

    Quantile rule: Gaussian, with the variance of the h-step error of its state-space form,
    ETS(A,N,N): s^2 (1 + (h - 1) a^2), where a is the weight of the newest value and s^2 the mean
    squared one-step error over the last 120 values (Hyndman, Koehler, Ord & Snyder 2008,
    Forecasting with Exponential Smoothing, chapter 6). The average starts at the first of them. A
    missing step leaves the average alone and adds a step to h, as in the local level model whose
    steady state this is (Durbin & Koopman 2012, sections 2.7 and 2.11). History: ten observations.
    """

    name: ClassVar[str] = EWMA
    n_values: ClassVar[int] = N_SMOOTHED
    weight: ClassVar[float] = SMOOTHING

    def _deciles(self, panel: Panel, origins: IntArray, horizon: int) -> FloatArray:
        recent = recent_values(panel.values, origins, self.n_values)
        level, squares = recent.values[0].copy(), np.zeros(origins.size)
        growth = 1 + (recent.elapsed - 1) * self.weight**2
        for step in range(1, self.n_values):
            surprise = recent.values[step] - level
            squares += surprise**2 / growth[step]
            level += self.weight * surprise
        one_step = squares / np.maximum(recent.counts - 1, 1)
        growth_ahead = 1 + (recent.steps_ahead(horizon) - 1) * self.weight**2
        return _gaussian_deciles(
            level, one_step[:, None] * growth_ahead, recent.counts, origins.shape
        )


@dataclass(frozen=True)
class FilteredLevels:
    """The local level after the last observed value of each request: all fields [G, R].

    level: its estimate. variance: that of the estimate, in units of the observations' variance.
    noise: the observations' variance of maximum likelihood, given the ratio. likelihood: the
    concentrated diffuse log-likelihood, without its constant.
    """

    level: Float64Array
    variance: Float64Array
    noise: Float64Array
    likelihood: Float64Array


def filter_local_level(recent: RecentValues, ratios: Float64Array) -> FilteredLevels:
    """Return the level of a local level model after the last value of each request, for each ratio
    [G] of its two variances.

    The model is y[t] = m[t] + e[t], m[t + 1] = m[t] + u[t], with level m and var u = ratio * var e.
    The Kalman filter starts diffuse, which makes the first value the first level; a missing step
    adds the ratio to the variance of the level (Harvey 1989, Forecasting, Structural Time Series
    Models and the Kalman Filter, section 3.2; Durbin & Koopman 2012, Time Series Analysis by State
    Space Methods, sections 2.2, 2.7, 2.9 and 2.10.2).
    """
    shape = (len(ratios), recent.values.shape[1])
    level, variance = np.broadcast_to(recent.values[0], shape).copy(), np.ones(shape)
    squares, logarithms = np.zeros((2, *shape))
    for value, elapsed, later in zip(
        recent.values[1:], recent.elapsed[1:], recent.later[1:], strict=True
    ):
        predicted = variance + ratios[:, None] * elapsed
        total = predicted + 1
        gain = predicted / total
        surprise = value - level
        squares += surprise**2 / total
        logarithms += np.log(total, where=later, out=np.zeros(shape))
        level += gain * surprise
        # In units of the observations' variance, the updated variance is the gain.
        variance = np.where(later, gain, variance)
    n_later = np.maximum(recent.counts - 1, 1)
    noise = squares / n_later
    likelihood = -(n_later * np.log(np.maximum(noise, np.finfo(float).tiny)) + logarithms) / 2
    return FilteredLevels(level, variance, noise, likelihood)


class LocalLevelKalman(DirectBaseline):
    """The level of a local level model (random walk plus noise), at every step.

    Quantile rule: Gaussian, with the variance of the h-step error, v (1 + p + h q): v is the
    variance of the observations, q v that of the level's steps, p v that of the level at the last
    value; parameters are treated as known (Durbin & Koopman 2012, section 2.8). Fit, at every
    origin: maximum likelihood over the last 120 values, with v in closed form and q from
    `VARIANCE_RATIOS` (section 2.10.2). Missing steps are predicted and not updated: each adds a
    step to h. History: ten observations.
    """

    name: ClassVar[str] = LOCAL_LEVEL_KALMAN
    n_values: ClassVar[int] = N_SMOOTHED

    def _deciles(self, panel: Panel, origins: IntArray, horizon: int) -> FloatArray:
        ratios = np.array(VARIANCE_RATIOS)
        recent = recent_values(panel.values, origins, self.n_values)
        filtered = filter_local_level(recent, ratios)
        best = filtered.likelihood.argmax(axis=0), np.arange(origins.size)
        ahead = ratios[best[0]][:, None] * recent.steps_ahead(horizon)
        variance = filtered.noise[best][:, None] * (1 + filtered.variance[best][:, None] + ahead)
        return _gaussian_deciles(filtered.level[best], variance, recent.counts, origins.shape)


class RollingQuantile(DirectBaseline):
    """The deciles of the last thirty values, whose distances from their median grow with the step.

    Quantile rule: sample deciles of the last n <= 30 observed values; at step h their distances
    from the median are multiplied by sqrt(1 + (h - 1) / n), so that their squares grow linearly, as
    for a random walk, and double after as many steps as there are values. (With sqrt(h), intervals
    of 80 % would hold 97 % of the values of 60 steps, and the CRPS would be 51 % higher.) A missing
    step before the origin adds a step to h. History: five observations.
    """

    name: ClassVar[str] = ROLLING_QUANTILE
    n_values: ClassVar[int] = N_ROLLING

    def _deciles(self, panel: Panel, origins: IntArray, horizon: int) -> FloatArray:
        recent = recent_values(panel.values, origins, self.n_values)
        known = recent.later | (np.arange(self.n_values)[:, None] == self.n_values - recent.counts)
        samples = np.where(known, recent.values, np.nan).astype(np.float32)
        deciles = empirical_deciles(samples.T, MIN_ROLLING)[:, None]  # [R, 1, 9]
        growth = 1 + (recent.steps_ahead(horizon) - 1) / np.maximum(recent.counts, 1)[:, None]
        median = deciles[..., 4:5]
        wider = median + np.sqrt(growth)[..., None] * (deciles - median)
        return wider.reshape(*origins.shape, *wider.shape[1:]).astype(np.float32)
