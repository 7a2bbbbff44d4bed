"""ARIMA(1,0,1) with a constant, per series: fitted once before the test period, then filtered
forward to each origin.

What belongs here: the fit by statsmodels, the exact filter of an ARMA(1,1) over many series at
once, and its Gaussian forecasts. What does not: other baselines. statsmodels is imported only
inside the fit.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.baselines.protocol import DirectBaseline, FloatArray
from tsfm_pipeline.evaluation.methods import ARIMA_101
from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.forecaster.panel import Panel

Float64Array = npt.NDArray[np.float64]

N_FIT = 4_000
"""Observed points before `fit_end` to which a series is fitted."""
MIN_FIT = 30
"""Fewest points to which a series is fitted."""
MAX_WIDTH_RATIO = 1.05
"""A fit counts as failed if its innovations are wider than this multiple of a random walk's."""


@dataclass(frozen=True)
class ArmaFit:
    """An ARMA(1,1) per series: all fields [S].

    z = (x - mean) / scale and z[t] = phi z[t-1] + e[t] + theta e[t-1], e ~ N(0, sigma^2). start:
    first step of the fit window. fallback: the optimiser failed, and the series is a random walk
    (phi 1, theta 0) whose sigma is the root mean square of its one-step changes. constant: the
    series does not change, and is a random walk without innovations. A series with too few points
    is NaN throughout.
    """

    phi: Float64Array
    theta: Float64Array
    sigma: Float64Array
    mean: Float64Array
    scale: Float64Array
    start: npt.NDArray[np.int64]
    fallback: npt.NDArray[np.bool_]
    constant: npt.NDArray[np.bool_]

    @property
    def n_fallbacks(self) -> int:
        """Series whose optimiser failed."""
        return int(self.fallback.sum())


class Arima101(DirectBaseline):
    """ARIMA(1,0,1) with a constant, fitted to the last 4,000 observed points before `fit_end` and
    never refitted.

    Quantile rule: Gaussian, from the closed-form h-step mean and variance of the filtered state;
    parameters are treated as known. Fit: maximum likelihood by the innovations algorithm (Brockwell
    & Davis 2016, section 5.2; statsmodels), of the standardised points; the constant is their mean,
    and missing steps between them are skipped. The filter takes missing steps as missing. Where the
    optimiser fails, the series is a random walk with Gaussian steps, counted in `n_fallbacks` (of
    all forecasts so far). A series that is constant before `fit_end` is forecast at its last value.
    History: thirty observed points before `fit_end`.

    fit_end: first step that the fit must not use, for all series or one each [S]. No origin may lie
    before `fit_end - 1`.
    """

    name: ClassVar[str] = ARIMA_101

    def __init__(self, fit_end: int | npt.NDArray[np.integer]) -> None:
        if np.min(fit_end) < 0:
            raise ValueError(
                f"{self.name}: fit_end is {fit_end}; allowed: a step of the panel, 0 or later"
            )
        self.fit_end = fit_end
        self.n_fallbacks = 0

    def fit(self, panel: Panel) -> ArmaFit:
        """Fit one ARMA(1,1) per series of the panel."""
        ends = np.broadcast_to(np.asarray(self.fit_end, dtype=np.int64), panel.n_series)
        parameters = np.full((5, panel.n_series), np.nan)
        start = np.array(ends)
        fallback, constant = np.zeros((2, panel.n_series), dtype=np.bool_)
        for series, end in enumerate(ends):
            steps = np.flatnonzero(~np.isnan(panel.values[series, :end]))[-N_FIT:]
            if len(steps) < MIN_FIT:
                continue
            start[series] = steps[0]
            points = panel.values[series, steps].astype(np.float64)
            if np.ptp(points) == 0:
                constant[series] = True
                parameters[:, series] = 1, 0, 0, points[0], 1
                continue
            mean, scale = points.mean(), points.std()
            arma = _fit_arma((points - mean) / scale)
            fallback[series] = arma is None
            parameters[:, series] = (
                *(arma or (1.0, 0.0, _change_width(points) / scale)),
                mean,
                scale,
            )
        phi, theta, sigma, means, scales = parameters
        return ArmaFit(phi, theta, sigma, means, scales, start, fallback, constant)

    def _deciles(self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int) -> FloatArray:
        earliest = np.asarray(self.fit_end) - 1
        if (origins < np.broadcast_to(earliest, panel.n_series)[:, None]).any():
            raise ValueError(
                f"{self.name}: origins begin at {origins.min()}, but the fit sees steps up to "
                f"{np.max(earliest)}; "
                "allowed: origins from fit_end - 1 on"
            )
        arma = self.fit(panel)
        self.n_fallbacks += arma.n_fallbacks
        mean, variance = forecast_arma(arma, *filter_arma(arma, panel.values, origins), horizon)
        normal = np.array([NormalDist().inv_cdf(level) for level in QUANTILE_LEVELS])
        return (mean[..., None] + np.sqrt(variance)[..., None] * normal).astype(np.float32)


def _fit_arma(z: Float64Array) -> tuple[float, float, float] | None:
    """Return (phi, theta, sigma) of standardised points, or None where the optimiser fails."""
    from statsmodels.tsa.arima.estimators.innovations import innovations_mle

    # The search starts from the AR(1) that the lag-1 autocorrelation implies. From the estimator's
    # own start it ended where the AR and MA roots cancel, for one in thirty series of smd.
    lag_1 = float(np.clip(np.mean(z[1:] * z[:-1]), -0.99, 0.99))
    # The objective sums over all points, so the default tolerance of 1e-5 is below rounding error:
    # the search never converges, and takes twice the time to gain a hundredth of a nat.
    search = {"options": {"gtol": 0.1}}
    try:
        estimate = innovations_mle(
            z,
            order=(1, 0, 1),
            demean=False,
            start_params=[lag_1, 0.0, 1 - lag_1**2],
            minimize_kwargs=search,
        )[0]
    except (ValueError, np.linalg.LinAlgError):
        return None
    phi, theta, variance = (float(value) for value in estimate.params)
    failed = not abs(phi) < 1 or not 0 < variance <= (MAX_WIDTH_RATIO * _change_width(z)) ** 2
    return None if failed else (phi, theta, variance**0.5)


def _change_width(points: Float64Array) -> float:
    """Return root mean square of the one-step changes: the innovations of a random walk."""
    return float(np.sqrt(np.mean(np.diff(points) ** 2)))


def filter_arma(
    arma: ArmaFit, values: FloatArray, origins: npt.NDArray[np.int64]
) -> tuple[Float64Array, Float64Array]:
    """Return one-step prediction after each origin: mean [S, O] in units of z, and variance [S, O]
    in units of sigma^2.

    The innovations algorithm of an ARMA(1,1) (Brockwell & Davis 2016, example 5.3.3), exact, with
    missing steps: a value observed with prediction variance r leaves 1 + theta^2 - theta^2 / r to
    the next, a missing one phi^2 r + 2 phi theta + 1 + theta^2. values float32 [S, T]; nothing
    after the last origin is read.
    """
    phi, theta = arma.phi, arma.theta
    mean_at, variance_at = np.full((2, origins.size), np.nan)
    if origins.size == 0:
        return mean_at.reshape(origins.shape), variance_at.reshape(origins.shape)
    first, last = int(arma.start.min()), int(origins.max())
    z = (values[:, first : last + 1] - arma.mean[:, None]).T / arma.scale  # [steps, S]
    # A series' filter starts with its fit window.
    z[np.arange(first, last + 1)[:, None] < arma.start] = np.nan
    observed = ~np.isnan(z)
    by_origin = np.argsort(origins, axis=None, kind="stable")
    bounds = np.searchsorted(origins.ravel()[by_origin], np.arange(first, last + 2))
    # phi 1 has no stationary variance, but the first value makes the start irrelevant.
    stationary = (1 + 2 * phi * theta + theta**2) / np.where(np.abs(phi) < 1, 1 - phi**2, 1.0)
    mean, variance = np.zeros_like(phi), stationary
    for step in range(last - first + 1):
        surprise = np.where(observed[step], z[step] - mean, 0.0)
        mean = phi * mean + (phi + theta / variance) * surprise
        variance = (
            1
            + theta**2
            + np.where(observed[step], -(theta**2) / variance, phi**2 * variance + 2 * phi * theta)
        )
        requests = by_origin[bounds[step] : bounds[step + 1]]
        series = requests // origins.shape[1]
        mean_at[requests], variance_at[requests] = mean[series], variance[series]
    return mean_at.reshape(origins.shape), variance_at.reshape(origins.shape)


def forecast_arma(
    arma: ArmaFit, mean: Float64Array, variance: Float64Array, horizon: int
) -> tuple[Float64Array, Float64Array]:
    """Return mean and variance [S, O, H] in units of the values, from the one-step predictions [S,
    O] of `filter_arma`.

    The h-step mean is phi^(h-1) m; its variance phi^(2h-2) r + (1 + 2 phi theta + theta^2) times
    1 + phi^2 + ... + phi^(2h-4).
    """
    decay = arma.phi[:, None, None] ** np.arange(horizon)  # [S, 1, H]
    accumulated = np.concatenate(
        [np.zeros_like(decay[..., :1]), np.cumsum(decay**2, axis=-1)[..., :-1]], axis=-1
    )
    innovation = (1 + 2 * arma.phi * arma.theta + arma.theta**2)[:, None, None]
    units = arma.scale[:, None, None]
    spread = (units * arma.sigma[:, None, None]) ** 2
    return (
        arma.mean[:, None, None] + units * decay * mean[..., None],
        spread * (decay**2 * variance[..., None] + innovation * accumulated),
    )
