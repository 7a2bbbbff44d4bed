"""Define the rolling protocol of the real fleets: windows, the reference's metrics, and the methods
to compare with a model.

What belongs here: forecasts at origins of a fleet, their losses per series, and the metrics of
`reference_figures.json` over them. What does not: reading the fleets (`sources`), and conclusions
from the figures (`yardsticks`, `bars`).

Protocol: the first targets are at `round(linspace(floor(.8 n), n - H, origins))`. A window counts
if at least half of its actuals are present. MASE is scaled by the mean seasonal difference over the
first 80 %, and pinball loss by the mean |y| of the whole series.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from tsfm_pipeline.baselines.empirical import trailing_windows
from tsfm_pipeline.evaluation.losses import DECILE_LEVELS, decision_quantile, mean_pinball
from tsfm_pipeline.evaluation.protocol import PROTOCOL
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, PATCH_LEN, ForecastConfig
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.panel import FloatArray, Panel
from tsfm_pipeline.pretraining.sources import RealFleet

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]
Method = Callable[[Panel, IntArray, int], FloatArray]
"""(panel, origins int [S, O], horizon) -> deciles [S, O, H, 9]."""

MEDIAN = 0.5
ALPHAS = tuple(sorted(PROTOCOL.alphas))
"""The alphas of the default tiers for every fleet, so that yardsticks stay comparable."""
LEVELS = (MEDIAN, *ALPHAS)
CHANGE_DAYS = 7
MIN_PRESENT = 0.5


@dataclass(frozen=True)
class Windows:
    """Origins [S, O] (last observed steps) and actuals [S, O, H]. Actuals are NaN where they are
    missing and throughout windows that do not count.
    """

    origins: IntArray
    actual: FloatArray

    def first(self, horizon: int) -> "Windows":
        """Return the same origins with a shorter horizon."""
        return Windows(self.origins, self.actual[:, :, :horizon])


def windows(fleet: RealFleet, horizon: int, n_origins: int) -> Windows:
    """Return the windows of the protocol."""
    share = np.linspace(0.0, 1.0, n_origins)
    start = np.floor(0.8 * fleet.lengths)[:, None]
    first_target = np.round(start + share * (fleet.lengths[:, None] - horizon - start)).astype(
        np.int64
    )
    rows = np.arange(fleet.n_series)[:, None, None]
    actual = fleet.values[rows, first_target[..., None] + np.arange(horizon)]
    actual[np.isnan(actual).mean(-1) > 1 - MIN_PRESENT] = np.nan
    return Windows(first_target - 1, actual)


def panel_of(fleet: RealFleet) -> Panel:
    """Return the fleet as the forecaster's input. Its lower bound is zero because no machine metric
    is negative.
    """
    return Panel(fleet.values, seasons=(fleet.season,), lower=0.0)


def at_levels(deciles: FloatArray) -> dict[float, FloatArray]:
    """Return the forecasts at the scored levels from deciles [..., 9]."""
    return {level: decision_quantile(deciles, level) for level in LEVELS}


def model_method(forecaster: FrozenForecaster, context: int) -> Method:
    """Return a model as a method with one context length. A shorter history is used whole, rounded
    down to full patches.
    """

    def deciles(panel: Panel, origins: IntArray, horizon: int) -> FloatArray:
        usable = np.minimum(context, (origins.min(axis=1) + 1) // PATCH_LEN * PATCH_LEN)
        result = np.empty((*origins.shape, horizon, len(DECILE_LEVELS)), dtype=np.float32)
        for length in np.unique(usable):
            rows = np.flatnonzero(usable == length)
            part = Panel(panel.values[rows], panel.seasons, panel.lower, panel.upper)
            grid = forecaster.forecast_grid(
                part, origins[rows], [ForecastConfig(context_len=int(length))], horizon
            )
            result[rows] = grid[:, :, 0, :, DECILE_COLUMNS]
        return result

    return deciles


def change_quantiles(panel: Panel, origins: IntArray, horizon: int) -> dict[float, FloatArray]:
    """Return the last value plus the quantiles of the h-step changes of the trailing seven days:
    level -> [S, O, H].

    As in the reference, the quantiles are taken at the levels themselves. The pipeline's baseline
    of the same name emits deciles. Interpolating them at .65 and .75 raises its loss by up to
    1.2 %.
    """
    length = min(CHANGE_DAYS * panel.seasons[0], panel.n_steps)
    last = np.take_along_axis(panel.filled, origins, axis=1)
    result = {level: np.empty((*origins.shape, horizon), dtype=np.float32) for level in LEVELS}
    beyond = np.full(horizon, np.nan, dtype=np.float32)
    steps = np.arange(horizon)
    for series, values in enumerate(panel.values):
        for request, window in enumerate(trailing_windows(values, origins[series], length)):
            later = sliding_window_view(np.concatenate([window, beyond]), length)[1:]
            changes = np.sort(later - window, axis=1)  # NaN last
            n_samples = np.count_nonzero(changes == changes, axis=1)
            for level, forecast in result.items():
                position = level * (n_samples - 1)
                below = position.astype(np.int64)
                low, high = (
                    changes[steps, below],
                    changes[steps, np.minimum(below + 1, n_samples - 1)],
                )
                forecast[series, request] = (
                    last[series, request] + low + (position - below) * (high - low)
                )
    if panel.lower is not None:
        result = {
            level: np.maximum(forecast, np.float32(panel.lower))
            for level, forecast in result.items()
        }
    return result


@dataclass(frozen=True)
class SeriesLosses:
    """Per series [S]: mean and total pinball loss at each level, the summed size of the observed
    targets, and the series' own scales.
    """

    mean: Mapping[float, DoubleArray]
    total: Mapping[float, DoubleArray]
    total_size: DoubleArray
    size: DoubleArray
    seasonal_difference: DoubleArray


def series_losses(
    fleet: RealFleet, actual: FloatArray, forecast: Mapping[float, FloatArray]
) -> SeriesLosses:
    """Return the losses of a method's forecasts: level -> [S, O, H]."""
    observed = ~np.isnan(actual)
    n_observed = observed.sum(axis=-1)
    mean, total = {}, {}
    for level, values in forecast.items():
        loss = mean_pinball(actual, values, level)  # [S, O]
        mean[level] = np.nanmean(loss, axis=1)
        total[level] = np.nansum(loss * n_observed, axis=1)
    size, seasonal = np.empty(fleet.n_series), np.empty(fleet.n_series)
    for s, (row, n) in enumerate(zip(fleet.values, fleet.lengths, strict=True)):
        values = row[:n].astype(np.float64)
        past = values[: int(np.floor(0.8 * n))]
        size[s] = np.nanmean(np.abs(values))
        seasonal[s] = np.nanmean(np.abs(past[fleet.season :] - past[: -fleet.season]))
    total_size = np.nansum(np.abs(actual.astype(np.float64)), axis=(1, 2))
    return SeriesLosses(mean, total, total_size, size, seasonal)


def metrics(losses: SeriesLosses, rows: IntArray) -> dict[str, float]:
    """Return the reference's metrics over the series `rows`. MAE is twice the pinball loss at the
    median.
    """
    mae = 2 * losses.mean[MEDIAN][rows]
    size = losses.size[rows]
    moving = losses.seasonal_difference[rows] > 0
    mase = mae[moving] / losses.seasonal_difference[rows][moving]
    pooled = losses.total_size[rows].sum()
    table = {
        "MAE": mae.mean(),
        "nMAE": (mae / size).mean(),
        "nMAE_median": np.median(mae / size),
        "ND": 2 * losses.total[MEDIAN][rows].sum() / pooled,
        "MASE": mase.mean(),
        "MASE_median": np.median(mase),
    }
    for alpha in ALPHAS:
        scaled = losses.mean[alpha][rows] / size
        name = f"pb{alpha * 100:.0f}"
        table |= {
            name: scaled.mean(),
            f"{name}_median": np.median(scaled),
            f"{name}_pooled": losses.total[alpha][rows].sum() / pooled,
        }
    return {name: float(value) for name, value in table.items()}


def by_group(fleet: RealFleet, losses: SeriesLosses) -> dict[str, dict[str, float]]:
    """Return `metrics` for each group of the fleet."""
    return {group: metrics(losses, fleet.rows_of(group)) for group in dict.fromkeys(fleet.groups)}


def coverage(actual: FloatArray, deciles: FloatArray) -> dict[str, list[float]]:
    """Return the share of actuals at or below each decile and the share below it, nine shares each,
    from [S, O, H] and [S, O, H, 9].

    The two differ where actuals equal a forecast. A decile is calibrated if its level lies between
    the two shares.
    """
    observed = ~np.isnan(actual)
    truth = actual[observed][:, None]
    forecast = deciles[observed]
    return {
        "at_or_below": (truth <= forecast).mean(axis=0).tolist(),
        "below": (truth < forecast).mean(axis=0).tolist(),
    }
