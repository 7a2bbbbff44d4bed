"""The inner loop's evidence: what each configuration would have cost at earlier origins of the same series.

What belongs here: forecasting at validation origins and scoring against what is already known at the request's origin. What does not:
deciding from it (`rules`).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.arrays import Floats, targets_after, tier_losses
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS, ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel


class GridForecaster(Protocol):
    """What the search needs of a frozen model; `forecaster.load_forecaster` returns one."""

    def forecast_grid(
        self, panel: Panel, origins: NDArray[np.integer], configs: Sequence[ForecastConfig], horizon: int
    ) -> NDArray[np.float32]:
        """Forecasts [S, O, K, H, 10]: mean, then deciles; NaN where a configuration is unavailable."""
        ...


def validation_losses(
    forecaster: GridForecaster,
    panel: Panel,
    origins: NDArray[np.integer],
    configs: Sequence[ForecastConfig],
    horizon: int,
    offsets: Sequence[int],
    alphas: Sequence[float],
) -> tuple[Floats, Floats]:
    """Losses and violation rates of K configurations at J validation origins before each request.

    origins int [S, O] of the requests, offsets [J] in steps, all at least `horizon` -> two float32 arrays [S, O, K, J, A], in units of the
    values and as shares; NaN where the history does not reach. Raises ValueError for an offset below the horizon: its window would
    end after the request's origin.
    """
    earlier, reachable = _validation_origins(origins, offsets, horizon)
    grid = forecaster.forecast_grid(panel, earlier, configs, horizon)  # [S, O * J, K, H, 10]
    return _scored(panel, earlier, reachable, grid, alphas)


def forecast_with_evidence(
    forecaster: GridForecaster,
    panel: Panel,
    origin: int,
    configs: Sequence[ForecastConfig],
    horizon: int,
    offsets: Sequence[int],
    alphas: Sequence[float],
) -> tuple[Floats, Floats, Floats]:
    """One request's forecasts and evidence from one grid: deciles [S, K, H, 9], losses and violation rates [S, K, J, A]."""
    request = np.full((panel.n_series, 1), origin, dtype=np.int64)
    earlier, reachable = _validation_origins(request, offsets, horizon)
    grid = forecaster.forecast_grid(panel, np.concatenate([request, earlier], axis=1), configs, horizon)
    losses, violations = _scored(panel, earlier, reachable, grid[:, 1:], alphas)
    return grid[:, 0, ..., DECILE_COLUMNS], losses[:, 0], violations[:, 0]


def _validation_origins(origins: NDArray[np.integer], offsets: Sequence[int], horizon: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Validation origins [S, O * J] (0 where there is no such step), and which of them exist [S, O, J]."""
    if any(offset < horizon for offset in offsets):
        raise ValueError(
            f"validation offsets {tuple(offsets)} must all be at least the horizon, {horizon} steps: "
            "a shorter one would be scored on what the request has to forecast"
        )
    earlier = origins[:, :, None].astype(np.int64) - np.asarray(offsets, dtype=np.int64)
    reachable = earlier >= 0
    return np.where(reachable, earlier, 0).reshape(len(origins), -1), reachable


def _scored(
    panel: Panel, earlier: NDArray[np.int64], reachable: NDArray[np.bool_], grid: Floats, alphas: Sequence[float]
) -> tuple[Floats, Floats]:
    """Losses and violation rates [S, O, K, J, A] of forecasts [S, O * J, K, H, 10] at the validation origins."""
    actual = targets_after(panel.values, earlier, grid.shape[3])  # [S, O * J, H]
    results = []
    for scores in tier_losses(actual[:, :, None], grid[..., DECILE_COLUMNS], alphas):  # [S, O * J, K, A]
        shaped = scores.reshape(*reachable.shape, *scores.shape[2:])
        shaped = np.where(reachable[..., None, None], shaped, np.nan)
        results.append(np.ascontiguousarray(shaped.swapaxes(2, 3), dtype=np.float32))
    return results[0], results[1]
