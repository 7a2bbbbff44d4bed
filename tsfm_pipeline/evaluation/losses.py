"""Losses and the scales that make them comparable: pinball loss, quantiles between deciles,
per-series scale.

What belongs here: pure arithmetic on arrays of actuals and forecasts, in numpy alone. What does
not: the choice of requests (`requests`), statistics of many losses (`statistics`), and reading or
writing tables.

Throughout, NaN among the actuals means "not observed" and is never scored; NaN among the forecasts
means "unavailable" and makes the loss NaN, so that an unavailable forecast can neither win nor lose
silently.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsfm_pipeline.evaluation.protocol import DECILES, HIGHEST_ALPHA

N_DECILES = len(DECILES)
DECILE_LEVELS: NDArray[np.float64] = np.array(DECILES)
SCALE_FLOOR = 1e-3
_SERIES_PER_BLOCK = 64


def pinball_loss(actual: ArrayLike, forecast: ArrayLike, alpha: float) -> NDArray[np.floating]:
    """Return the cost-asymmetric loss of each element.

    It is alpha * max(0, y - f) + (1 - alpha) * max(0, f - y). `actual` and `forecast` broadcast
    against each other; NaN in either gives NaN. Raises ValueError unless 0 < alpha < 1.
    Source: docs/evidence-protocol.md, "What is claimed"; Koenker and Bassett (1978).
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha!r}; the pinball loss needs 0 < alpha < 1")
    shortfall = np.subtract(actual, forecast)
    return np.maximum(alpha * shortfall, (alpha - 1.0) * shortfall)


def mean_pinball(actual: ArrayLike, forecast: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Return the pinball loss averaged over the observed steps of the horizon.

    actual [..., H], forecast [..., H] -> float64 [...]. A request without an observed step, or with
    an unavailable forecast at an observed step, gives NaN.
    """
    actual = np.asarray(actual)
    observed = ~np.isnan(actual)
    losses = pinball_loss(actual, forecast, alpha)
    if not observed.all():
        losses = np.where(observed, losses, 0.0)
    total = losses.sum(axis=-1, dtype=np.float64)
    n_observed = observed.sum(axis=-1)  # [...]
    return np.divide(
        total,
        n_observed,
        out=np.full(total.shape, np.nan),
        where=np.broadcast_to(n_observed > 0, total.shape),
    )


def decision_quantile(deciles: ArrayLike, alpha: float) -> NDArray[np.floating]:
    """Return the alpha-quantile by linear interpolation between the neighbouring deciles.

    deciles [..., 9], at levels .1 to .9 (without the mean that the model puts first) -> [...]. The
    model gives no quantile above .9. There an exponential tail through the upper two deciles is
    assumed, as for blocks (`blocks.pooled_quantiles`): P(x > q.9 + t) = 0.1 * 2^(-t / (q.9 - q.8)).
    All methods use the same tail; the level shifts that are chosen on tuning tenants correct its
    errors. Raises ValueError where alpha lies outside [.1, `HIGHEST_ALPHA`].
    """
    deciles = np.asarray(deciles)
    if deciles.ndim == 0 or deciles.shape[-1] != N_DECILES:
        raise ValueError(
            f"deciles have shape {deciles.shape}; the last axis must hold the 9 deciles .1 to .9, "
            "without the mean"
        )
    if not DECILE_LEVELS[0] <= alpha <= HIGHEST_ALPHA:
        raise ValueError(
            f"alpha is {alpha!r}; a decision quantile can be read from deciles only for .1 <= "
            f"alpha <= {HIGHEST_ALPHA:g}"
        )
    if alpha > DECILE_LEVELS[-1]:
        reach = math.log2((1.0 - DECILE_LEVELS[-1]) / (1.0 - alpha))
        return deciles[..., -1] + (deciles[..., -1] - deciles[..., -2]) * reach
    position = round(float(alpha) * 10, 9) - 1.0
    lower = min(int(position), N_DECILES - 2)
    weight = position - lower
    if weight == 0.0:
        return deciles[..., lower].copy()
    if weight == 1.0:
        return deciles[..., lower + 1].copy()
    return deciles[..., lower] * (1.0 - weight) + deciles[..., lower + 1] * weight


def crps_from_deciles(actual: ArrayLike, deciles: ArrayLike) -> NDArray[np.float64]:
    """Return the continuous ranked probability score as twice the mean pinball loss over the nine
    deciles.

    actual [..., H], deciles [..., H, 9] -> float64 [...], averaged over the observed steps of the
    horizon. Source: Gneiting and Ranjan (2011), quantile form of the CRPS.
    """
    deciles = np.asarray(deciles)
    if deciles.ndim < 2 or deciles.shape[-1] != N_DECILES:
        raise ValueError(
            f"deciles have shape {deciles.shape}; expected [..., H, 9] with the deciles .1 to .9 "
            "on the last axis"
        )
    losses = [
        mean_pinball(actual, deciles[..., q], float(level)) for q, level in enumerate(DECILE_LEVELS)
    ]
    return 2.0 * np.mean(losses, axis=0)


def series_scale(
    values: ArrayLike, end: ArrayLike, season: int | None = None, floor: float = SCALE_FLOOR
) -> NDArray[np.float64]:
    """Return the divisor of each series' losses: its mean absolute one-step difference before
    `end`.

    values [S, T] (NaN = not observed), end [S] or int: only values[s, :end[s]] is read -> float64
    [S]. Differences are taken between neighbours that are both observed, one step apart, or one
    `season` of steps apart where that is given. The scale is at least `floor` times the mean
    absolute level. A series with neither differences nor a level is NaN; with `floor` 0, so is a
    series that does not change. The caller must exclude such a series and count it. Source:
    docs/evidence-protocol.md, "Scale".
    """
    lag = 1 if season is None else season
    if lag < 1:
        raise ValueError(f"season is {season!r}; it must be at least one step")

    def mean_absolute_difference(block: NDArray[np.float64]) -> NDArray[np.float64]:
        return _observed_mean(np.abs(block[:, lag:] - block[:, :-lag]))

    return _floored_scale(values, end, mean_absolute_difference, floor)


def series_std(values: ArrayLike, end: ArrayLike) -> NDArray[np.float64]:
    """Return the standard deviation of each series before `end`, another scale that is reported
    beside the headline.

    Shapes, floor and NaN as in `series_scale`.
    """

    def standard_deviation(block: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sqrt(_observed_mean((block - _observed_mean(block)[:, None]) ** 2))

    return _floored_scale(values, end, standard_deviation, SCALE_FLOOR)


def _floored_scale(
    values: ArrayLike,
    end: ArrayLike,
    spread: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    floor: float,
) -> NDArray[np.float64]:
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"values have shape {values.shape}; expected [S, T], one row per series")
    n_series, n_steps = values.shape
    ends = np.broadcast_to(np.asarray(end), (n_series,))
    if n_series and (ends.min() < 0 or ends.max() > n_steps):
        raise ValueError(
            f"end lies in {ends.min()}..{ends.max()}; it must lie within 0..{n_steps}, the length "
            "of the series"
        )
    scale = np.full(n_series, np.nan)
    for start in range(0, n_series, _SERIES_PER_BLOCK):
        rows = slice(start, start + _SERIES_PER_BLOCK)
        width = int(ends[rows].max())
        block = values[rows, :width].astype(np.float64)
        block[np.arange(width) >= ends[rows, None]] = np.nan
        level = _observed_mean(np.abs(block))
        scale[rows] = np.fmax(spread(block), floor * level)
    scale[~(scale > 0.0)] = np.nan
    return scale


def _observed_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the values that are not NaN over the last axis; NaN, without a warning,
    where there is none.
    """
    observed = ~np.isnan(values)
    n_observed = observed.sum(axis=-1)
    total = np.where(observed, values, 0.0).sum(axis=-1)
    return np.divide(total, n_observed, out=np.full(total.shape, np.nan), where=n_observed > 0)
