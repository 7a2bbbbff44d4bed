"""The future-shuffle test: no forecast may change when all values after its origin become noise.

What belongs here: the test on a fleet's own telemetry, for the tables that read it. What does not:
the reaction to a failure (`defs`).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.evidence import GridForecaster, validation_losses
from tsfm_pipeline.baselines import direct_forecasters
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.requests import Role
from tsfm_pipeline.forecaster.panel import Panel

N_TENANTS = 2


def grid_leakage(fleet: Fleet, forecaster: GridForecaster) -> float:
    """Return the largest change of the grid, relative to the level of the values."""
    return largest_change(
        fleet,
        lambda panel, origins: forecaster.forecast_grid(
            panel, origins, fleet.configs, fleet.spec.horizon
        ),
    )


def validation_leakage(fleet: Fleet, forecaster: GridForecaster) -> float:
    """Return the largest change of a validation loss, relative to the level of the values."""

    def forecast(panel: Panel, origins: NDArray[np.int64]) -> NDArray[np.floating]:
        alphas = fleet.protocol.alphas
        return validation_losses(
            forecaster, panel, origins, fleet.configs, fleet.spec.horizon, fleet.offsets, alphas
        )[0]

    return largest_change(fleet, forecast)


def baseline_leakage(fleet: Fleet) -> float:
    """Return the largest change of a baseline's deciles, relative to the level of the values."""

    def forecast(panel: Panel, origins: NDArray[np.int64]) -> NDArray[np.floating]:
        fit_end = origins.min(axis=1) + 1
        return np.stack(
            [
                make(fit_end).forecast(panel, origins, fleet.spec.horizon)
                for make in direct_forecasters().values()
            ]
        )

    return largest_change(fleet, forecast)


def largest_change(
    fleet: Fleet,
    forecast: Callable[[Panel, NDArray[np.int64]], NDArray[np.floating]],
    role: Role = "test",
) -> float:
    """Compare forecasts at one origin per tenant, that of a request of this role, with those on
    telemetry whose future is noise at ten times the mean level. Returns inf if a forecast appears
    or disappears.
    """
    shard = next(
        (shard for shard in fleet.cohort_shards if len(fleet.arrays.requests(role, shard).rows)),
        None,
    )
    if shard is None:
        return 0.0
    requests = fleet.arrays.requests(role, shard)
    values = fleet.arrays.values(shard)[requests.rows[:N_TENANTS]]
    origins = np.repeat(requests.origins[:N_TENANTS, :1], values.shape[1], axis=0)
    level = np.nanmean(np.abs(values)) + 1e-9
    before = forecast(fleet.arrays.panel(values), origins)
    rng = np.random.default_rng(fleet.settings.evaluation.seed)
    shuffled = values.reshape(-1, values.shape[-1]).copy()
    for row, origin in zip(shuffled, origins[:, 0], strict=True):
        row[origin + 1 :] = rng.exponential(10 * level, len(row) - origin - 1)
    after = forecast(fleet.arrays.panel(shuffled.reshape(values.shape)), origins)
    if not np.array_equal(np.isnan(before), np.isnan(after)):
        return float("inf")
    return float(np.abs(before - after)[~np.isnan(before)].max(initial=0.0) / level)
