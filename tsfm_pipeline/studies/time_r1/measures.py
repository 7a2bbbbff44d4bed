"""Error measures of forecasts: MSE, MAE, MAPE, R2, NRMSE, MASE and WQL.

What belongs here: arithmetic on arrays of actuals and forecasts. What does not: which windows are
scored (`splits`), intervals and comparisons (`evaluation`).

Errors are of each window [N], so that they can be paired and resampled; R2, NRMSE and WQL are
ratios of sums over windows and are single numbers. Throughout, NaN among the actuals means "not
observed" and is never scored; NaN among the forecasts at an observed step means "unavailable" and
makes the error of that window NaN, and every mean with it. A caller must replace unavailable
forecasts and count them; none is dropped here. Actuals without any observed step give NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsfm_pipeline.evaluation.losses import crps_from_deciles
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints


@dataclass(frozen=True)
class Measures:
    """All measures of one method on N windows.

    mse, mae, mape (a fraction, not per cent), mase: means over windows. r2, nrmse: means over
    channels. wql: over all windows together. mse is in squared units of the data, mae in units of
    the data. n_floored: steps whose actual was so small that the floor replaced it in `mape`.
    n_unavailable: windows without a forecast at some observed step. n_unscaled: windows of channels
    that have no scale, which are left out of `mase`.
    """

    mse: float
    mae: float
    mape: float
    r2: float
    nrmse: float
    mase: float
    wql: float | None
    n_windows: int
    n_floored: int
    n_unavailable: int
    n_unscaled: int


def measures(
    truth: Floats,
    forecast: Floats,
    channels: Sequence[str],
    scale: Floats,
    floor: Floats,
    deciles: Floats | None = None,
) -> Measures:
    """Return all measures of forecasts [N, H] (medians) of truth [N, H].

    channels: of each window [N]. scale: what MASE divides by, of each window [N]
    (`splits.scales_of`); NaN where a channel has none. floor: least denominator of MAPE [N],
    above 0 (`percentage_floor`). deciles: [N, H, 9] at levels .1 to .9; without them WQL is None.
    Raises ValueError for other shapes.
    """
    if len(channels) != len(truth):
        raise ValueError(f"{len(channels)} channels for {len(truth)} windows")
    percentage, n_floored = percentage_error(truth, forecast, floor)
    absolute = absolute_error(truth, forecast)
    scaled = scaled_error(truth, forecast, scale)
    unscaled = np.isnan(scale)
    names = np.array(channels)
    by_channel = [names == name for name in dict.fromkeys(channels)]
    return Measures(
        mse=float(squared_error(truth, forecast).mean()),
        mae=float(absolute.mean()),
        mape=float(percentage.mean()),
        r2=float(np.mean([r2(truth[rows], forecast[rows]) for rows in by_channel])),
        nrmse=float(np.mean([nrmse(truth[rows], forecast[rows]) for rows in by_channel])),
        mase=float(scaled[~unscaled].mean()) if not unscaled.all() else float("nan"),
        wql=None if deciles is None else wql(truth, deciles),
        n_windows=len(truth),
        n_floored=int(n_floored.sum()),
        n_unavailable=int((np.isnan(forecast) & ~np.isnan(truth)).any(axis=1).sum()),
        n_unscaled=int(unscaled.sum()),
    )


def squared_error(truth: Floats, forecast: Floats) -> Floats:
    """Return the mean squared error of each window: [N, H], [N, H] -> float64 [N]."""
    return _observed_mean(truth, _errors(truth, forecast) ** 2)


def absolute_error(truth: Floats, forecast: Floats) -> Floats:
    """Return the mean absolute error of each window: [N, H], [N, H] -> float64 [N]."""
    return _observed_mean(truth, np.abs(_errors(truth, forecast)))


def percentage_error(truth: Floats, forecast: Floats, floor: Floats) -> tuple[Floats, Ints]:
    """Return the mean absolute percentage error of each window as a fraction, float64 [N], and how
    many of its steps the floor replaced, int64 [N].

    Each absolute error is divided by max(|actual|, floor); floor [N], above 0. Without a floor,
    steps near 0 would decide the mean (loads of ETT cross 0).
    """
    if not (np.asarray(floor) > 0).all():
        raise ValueError(f"the least floor is {np.min(floor)}; allowed: above 0")
    size = np.abs(truth)
    least = np.asarray(floor, dtype=np.float64)[:, None]
    ratio = np.abs(_errors(truth, forecast)) / np.maximum(size, least)
    return _observed_mean(truth, ratio), (size < least).sum(axis=1).astype(np.int64)


def percentage_floor(training: Floats, share: float = 0.01) -> Floats:
    """Return a floor for each channel, float64 [C]: a share of its mean absolute value on the
    training rows [T, C].

    A channel that is 0 on all of them has the smallest positive number as its floor.
    """
    level = np.nanmean(np.abs(training), axis=0)
    return np.maximum(share * level, np.finfo(np.float64).tiny)


def scaled_error(truth: Floats, forecast: Floats, scale: Floats) -> Floats:
    """Return the mean absolute scaled error of each window, float64 [N]: its absolute error divided
    by `scale` [N], the mean absolute seasonal difference of its channel on the training rows
    (Hyndman and Koehler, 2006). NaN where the scale is NaN.
    """
    return absolute_error(truth, forecast) / scale


def r2(truth: Floats, forecast: Floats) -> float:
    """Return 1 - sum (y - f)^2 / sum (y - mean y)^2 over all observed steps of [N, H]. NaN for
    actuals that are all equal.
    """
    errors, observed = _errors(truth, forecast), ~np.isnan(truth)
    if not observed.any():
        return float("nan")
    total = float(((truth - truth[observed].mean()) ** 2)[observed].sum())
    return 1.0 - float((errors**2)[observed].sum()) / total if total > 0 else float("nan")


def nrmse(truth: Floats, forecast: Floats) -> float:
    """Return the root of the mean squared error over all observed steps of [N, H], divided by the
    mean absolute actual. NaN for actuals that are all 0.
    """
    errors, observed = _errors(truth, forecast), ~np.isnan(truth)
    if not observed.any():
        return float("nan")
    level = float(np.abs(truth)[observed].mean())
    return float(np.sqrt((errors**2)[observed].mean())) / level if level > 0 else float("nan")


def wql(truth: Floats, deciles: Floats) -> float:
    """Return the weighted quantile loss: the sum over all observed steps of twice the pinball loss,
    averaged over the nine deciles, divided by the sum of the absolute actuals.

    truth [N, H], deciles [N, H, 9] at levels .1 to .9. NaN for actuals that are all 0. Source: the
    definition of GluonTS and fev.
    """
    if deciles.shape[:-1] != truth.shape:
        raise ValueError(f"deciles {deciles.shape} do not fit actuals {truth.shape}; allowed: + 9")
    n_observed = (~np.isnan(truth)).sum(axis=1)
    some = n_observed > 0
    losses = crps_from_deciles(truth[some], deciles[some]) * n_observed[some]
    size = float(np.nansum(np.abs(truth)))
    return float(losses.sum()) / size if size > 0 else float("nan")


def _errors(truth: Floats, forecast: Floats) -> Floats:
    if truth.ndim != 2 or truth.shape != forecast.shape:
        raise ValueError(
            f"actuals have shape {truth.shape} and forecasts {forecast.shape}; both must be [N, H]"
        )
    return forecast - truth


def _observed_mean(truth: Floats, losses: Floats) -> Floats:
    """Return the mean of losses [N, H] over the observed steps of each window, float64 [N]; NaN
    where none was observed.
    """
    observed = ~np.isnan(truth)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(observed, losses, 0.0).sum(axis=1) / observed.sum(axis=1)
    return means
