"""The table `forecast_quality`: scores of whole forecasts.

What belongs here: one shard of the table. What does not: the report over it (`reports.quality`),
the scores' formulas (`evaluation.quality`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.rows import keyed_rows
from tsfm_pipeline.evaluation.methods import SEARCH, method_of
from tsfm_pipeline.evaluation.quality import quality, seasonal_error
from tsfm_pipeline.steps.evidence import Floats, SearchBatch, target_arrays
from tsfm_pipeline.steps.scores import searched, unsearched

ALL_TIERS = "all"
"""The value of `tier` for a method whose deciles are the same for every tier."""

SUMS = (
    "n_steps",
    "quantile_loss_sum",
    "abs_actual_sum",
    "abs_error_sum",
    "coverage_80",
    "seasonal_error",
)


def forecast_quality_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the quality of every method's deciles at every test request of the shard: request x
    metric x method x tier.

    The deciles are those that a method emits, before any level correction, which moves only the
    decision. Tiers differ because each of them weighs (the search) or chooses (fixed configuration,
    static ensemble) configurations by its own loss.
    """
    requests = fleet.arrays.requests("test", shard)
    numbers, metrics = requests.tenants, fleet.grid.metrics
    shape = (len(numbers), len(metrics))
    actual = np.empty((*shape, fleet.spec.horizon), np.float32)
    series = np.empty(shape)
    emitted: Iterator[tuple[str, str, Floats]] = iter(
        [("", "", np.empty((*actual.shape, 9), np.float32))]
    )
    if len(numbers):
        batch = SearchBatch(fleet, requests)
        actual = target_arrays(fleet, requests)[0]
        series = np.repeat(
            _seasonal_errors(fleet, shard)[requests.rows], requests.ids.shape[1], axis=0
        )
        emitted = _deciles(fleet, batch)
    frames = []
    for method, tier, deciles in emitted:
        columns: dict[str, Any] = quality(actual, deciles)
        columns |= {
            "n_steps": columns["n_steps"].astype(np.int32),
            "crps": columns["crps"].astype(np.float32),
            "seasonal_error": series,
        }
        axes = {"metric": metrics, "method": [method], "tier": [tier]}
        frames.append(
            keyed_rows(
                requests.ids.ravel(),
                numbers,
                axes,
                {name: v[:, :, None, None] for name, v in columns.items()},
            )
        )
    return pl.concat(frames).sort("request_id", "metric", "method", "tier")


def _deciles(fleet: Fleet, batch: SearchBatch) -> Iterator[tuple[str, str, Floats]]:
    """Yield (method, tier, deciles [R, D, H, 9]) for every method with deciles of its own; the tier
    is `all` if they are the same for every tier.
    """
    for name, forecast in unsearched(fleet, batch):
        own = method_of(name).deciles
        if own == "shared":
            yield name, ALL_TIERS, forecast.deciles[:, :, 0]
        elif own == "by tier":
            for a, tier in enumerate(fleet.protocol.tiers):
                yield name, tier, forecast.deciles[:, :, a]
    search_deciles = searched(fleet, batch).deciles
    for a, tier in enumerate(fleet.protocol.tiers):
        yield SEARCH, tier, search_deciles[:, :, a]


def _seasonal_errors(fleet: Fleet, shard: Sequence[int]) -> Floats:
    """Return MASE's scale of each series of a shard [N, D], from the steps before the tenant's test
    period, over the fleet's first season.
    """
    values = fleet.arrays.values(shard)  # [N, D, T]
    starts = fleet.manifest["test_start_step"].gather(list(shard)).to_numpy()
    n_metrics = values.shape[1]
    errors = seasonal_error(
        values.reshape(-1, values.shape[-1]), np.repeat(starts, n_metrics), fleet.grid.season
    )
    return errors.reshape(-1, n_metrics)
