"""Workloads: the fleet's telemetry and the manifest of its tenants.

What belongs here: the two tables that everything else reads. What does not: reading and checking sources (`fleets`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.evaluation.requests import split_tenants, test_period
from tsfm_pipeline.fleets import FleetSource
from tsfm_pipeline.workspace import Fleet, Grid


def telemetry_provenance(source: FleetSource) -> dict[str, Any]:
    """What readers of the telemetry need besides its rows: the grid and the number of tenants."""
    grid = Grid(source.start, source.step_minutes, source.n_steps, tuple(source.metrics), tuple(source.seasons))
    return {"grid": grid.to_json(), "n_tenants": source.n_tenants}


def telemetry_shard(source: FleetSource, shard: Sequence[int]) -> pl.DataFrame:
    """Telemetry of the shard's tenants as rows (tenant_id, timestamp, one float32 column per metric); null = missing."""
    values = source.values(shard)  # [N, D, T]
    ids = source.manifest()["tenant_id"].gather(list(shard))
    tenant = ids.gather(np.repeat(np.arange(len(ids)), source.n_steps))
    times = source.timestamps().dt.cast_time_unit("ms")
    columns = {metric: pl.Series(np.ascontiguousarray(values[:, d]).ravel()).fill_nan(None) for d, metric in enumerate(source.metrics)}
    return pl.DataFrame({"tenant_id": tenant, "timestamp": pl.concat([times] * len(ids)), **columns})


def tenant_manifest(fleet: Fleet) -> pl.DataFrame:
    """Tenants with tier, archetype where known, data quality, split, and where their test period begins.

    fold: -1 tuning tenant, 0 and above test tenant of that fold (see `evaluation.requests.split_tenants`).
    """
    evaluation = fleet.settings.evaluation
    manifest = fleet.source.manifest().sort("tenant_number")
    folds = split_tenants(
        manifest["tenant_id"].to_list(),
        manifest["archetype"].fill_null("").to_list(),
        evaluation.seed,
        tuning_share=evaluation.tuning_share,
        n_folds=evaluation.cross_fitting_folds,
    )
    steps_per_day = fleet.grid.steps_per_day
    starts = [test_period(row["first_step"], row["last_step"], steps_per_day) for row in manifest.iter_rows(named=True)]
    return manifest.with_columns(pl.Series("fold", folds, dtype=pl.Int32), pl.Series("test_start_step", starts, dtype=pl.Int32))


def describe_manifest(fleet: Fleet) -> dict[str, Any]:
    """Tenants by tier, archetype and split, and what is missing, as a markdown table and figures."""
    manifest = fleet.manifest
    by_tier = manifest.group_by("tier").len().sort("tier")
    return {
        "n_tuning_tenants": int((manifest["fold"] < 0).sum()),
        "n_test_tenants": int((manifest["fold"] >= 0).sum()),
        "n_missing_values": int(manifest["n_missing"].sum()),
        "n_duplicate_rows": int(manifest["n_duplicates"].sum()),
        "n_gaps": int(manifest["n_gaps"].sum()),
        **{f"n_{row['tier']}_tenants": row["len"] for row in by_tier.iter_rows(named=True)},
    }
