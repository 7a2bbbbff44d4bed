"""Forecasts: targets, the grid of every configuration, the evidence of the search, and its
decisions.

What belongs here: one function per table of the group `forecasts`. What does not: the choice of
requests (`requests`), the mathematics of forecasting (`forecaster`) and deciding (`autoresearch`).
Axes: N tenants, O origins, D metrics, K configurations, J validation origins, A tiers, H horizon;
R = N * O requests.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.evidence import GridForecaster, validation_losses
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.arrays import targets_after, tier_losses
from tsfm_pipeline.evaluation.losses import series_scale, series_std
from tsfm_pipeline.steps.evidence import (
    SearchBatch,
    by_request,
    grid_arrays,
    score_columns,
    tunes,
)

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster


def request_targets_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the observed values after each request of the shard, and the scale of its series (from
    before the tenant's test period).
    """
    values = fleet.arrays.values(shard)
    n_metrics = values.shape[1]
    starts = fleet.manifest["test_start_step"].gather(list(shard)).to_numpy()
    flat = values.reshape(-1, values.shape[-1])
    ends = np.repeat(starts, n_metrics)
    scale = series_scale(flat, ends).reshape(-1, n_metrics)
    std = series_std(flat, ends).reshape(-1, n_metrics)
    frames = []
    for requests in _both_roles(fleet, shard):
        series = values[requests.rows].reshape(-1, values.shape[-1])
        actual = targets_after(series, requests.series_origins(n_metrics), fleet.spec.horizon)
        n_origins = requests.origins.shape[1]
        frames.append(
            _rows(
                fleet,
                requests,
                {},
                {
                    "scale": np.repeat(scale[requests.rows], n_origins, axis=0),
                    "std_scale": np.repeat(std[requests.rows], n_origins, axis=0),
                    "actual": by_request(actual, n_metrics).astype(np.float32),
                },
            )
        )
    return pl.concat(frames).sort("request_id", maintain_order=True)


def forecast_grid_shard(
    fleet: Fleet, shard: Sequence[int], forecaster: GridForecaster
) -> pl.DataFrame:
    """Return the forecasts of every configuration at every request of the shard."""
    values = fleet.arrays.values(shard)
    frames = []
    for requests in _both_roles(fleet, shard):
        grid = forecaster.forecast_grid(
            fleet.arrays.panel(values[requests.rows]),
            requests.series_origins(values.shape[1]),
            fleet.configs,
            fleet.spec.horizon,
        )
        names = [config.name for config in fleet.configs]
        frames.append(
            _rows(
                fleet, requests, {"config": names}, {"forecast": by_request(grid, values.shape[1])}
            )
        )
    return pl.concat(frames).sort("request_id", maintain_order=True)


def validation_losses_shard(
    fleet: Fleet, shard: Sequence[int], forecaster: GridForecaster
) -> pl.DataFrame:
    """Return the loss of every configuration at earlier origins of each request that the search
    answers or is tuned on.

    Requests before the test period are skipped for tenants that never tune: their rows are never
    read.
    """
    values = fleet.arrays.values(shard)
    names = [config.name for config in fleet.configs]
    frames = []
    for requests in _searched_roles(fleet, shard):
        losses, violations = validation_losses(
            forecaster,
            fleet.arrays.panel(values[requests.rows]),
            requests.series_origins(values.shape[1]),
            fleet.configs,
            fleet.spec.horizon,
            fleet.offsets,
            fleet.protocol.alphas,
        )
        losses, violations = (by_request(array, values.shape[1]) for array in (losses, violations))
        tiers = fleet.protocol.tiers
        columns = score_columns(losses, violations, tiers, tiers)
        frames.append(
            _rows(fleet, requests, {"config": names, "offset_steps": fleet.offsets}, columns)
        )
    return pl.concat(frames).sort("request_id", maintain_order=True)


def baseline_forecasts_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the forecasts of the baselines without a model at every test request of the shard."""
    from tsfm_pipeline.baselines import direct_forecasters

    requests = fleet.arrays.requests("test", shard)
    if not len(requests.rows):
        return _rows(
            fleet,
            requests,
            {"method": [""]},
            {
                "deciles": np.empty(
                    (0, len(fleet.grid.metrics), 1, fleet.spec.horizon, 9), np.float32
                )
            },
        )
    values = fleet.arrays.values(shard)[requests.rows]
    starts = fleet.manifest["test_start_step"].gather(requests.tenant_numbers).to_numpy()
    n_metrics = values.shape[1]
    panel = fleet.arrays.panel(values)
    origins = requests.series_origins(n_metrics)
    names, deciles = [], []
    for name, make in direct_forecasters().items():
        names.append(name)
        deciles.append(
            make(np.repeat(starts, n_metrics)).forecast(panel, origins, fleet.spec.horizon)
        )  # [S, O, H, 9]
    # Forecasters of other packages are trusted with neither the limits nor the order.
    within = panel.limits.clip(np.stack(deciles, axis=2))
    stacked = by_request(np.maximum.accumulate(within, axis=-1), n_metrics)
    return _rows(fleet, requests, {"method": names}, {"deciles": stacked})


def tuning_losses_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the loss of every configuration at each tuning request of the shard, at each tier's
    alpha and at the median, and its violation rate.
    """
    requests = fleet.arrays.requests("tuning", shard)
    deciles, actual, _ = grid_arrays(fleet, requests)
    alphas = (*fleet.protocol.alphas, 0.5)
    losses, violations = tier_losses(
        actual[:, :, None], deciles, alphas, fleet.arrays.limits, axis=1
    )
    tiers = fleet.protocol.tiers
    columns = score_columns(losses, violations, (*tiers, "median"), tiers)
    return _rows(fleet, requests, {"config": [config.name for config in fleet.configs]}, columns)


def autoresearch_forecasts_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the search's decision at every test request of the shard, for every tier."""
    requests = fleet.arrays.requests("test", shard)
    decided = SearchBatch(fleet, requests).decide()
    names = np.array([config.name for config in fleet.configs])
    chosen = np.where(
        np.isfinite(decided.weights).all(axis=-1),
        names[np.nan_to_num(decided.weights).argmax(axis=-1)],
        "",
    )
    return _rows(
        fleet,
        requests,
        {"tier": list(fleet.protocol.tiers)},
        {
            "chosen": chosen,
            "shift": decided.shift.astype(np.float32),
            "weights": decided.weights.astype(np.float32),
            "posterior": decided.posterior.astype(np.float32),
            "decision": decided.decision.astype(np.float32),
            "deciles": decided.deciles.astype(np.float32),
        },
    )


def recorded_plan(forecaster: "FrozenForecaster") -> dict[str, Any]:
    """Return what changes the last bits of forecasts besides fleet, settings and checkpoint. Tables
    with the same plan are byte-identical.

    Another device or matrix product sums in another order, and on a GPU the order also depends on
    the batches. The number of threads does not matter.
    """
    return {"plan": forecaster.plan}


def _both_roles(fleet: Fleet, shard: Sequence[int]) -> list[Requests]:
    requests = [fleet.arrays.requests("tuning", shard), fleet.arrays.requests("test", shard)]
    return [r for r in requests if len(r.rows)]


def _searched_roles(fleet: Fleet, shard: Sequence[int]) -> list[Requests]:
    tuners = np.asarray(shard)[tunes(fleet)[list(shard)]].tolist()
    requests = [
        fleet.arrays.requests("tuning", shard, only=tuners),
        fleet.arrays.requests("test", shard),
    ]
    return [r for r in requests if len(r.rows)]


def _rows(
    fleet: Fleet,
    requests: Requests,
    axes: dict[str, Sequence[Any]],
    columns: dict[str, NDArray[Any]],
) -> pl.DataFrame:
    """Return one row per (request, metric, *axes); columns [R, D, *lengths of axes, ...]."""
    numbers = requests.tenants
    return keyed_rows(
        requests.ids.ravel(), numbers, {"metric": fleet.grid.metrics, **axes}, columns
    )
