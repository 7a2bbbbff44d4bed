"""Workloads: the fleet's telemetry and the manifest of its tenants.

What belongs here: the two tables that all other tables are made from. What does not: reading and
checking sources (`fleets`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.time_grid import TimeGrid
from tsfm_pipeline.evaluation.cohort import cohort_folds
from tsfm_pipeline.evaluation.requests import (
    OUTSIDE,
    TUNING_FOLD,
    RequestSpans,
    minimum_history,
    request_spans,
    split_tenants,
)
from tsfm_pipeline.fleets import FleetSource
from tsfm_pipeline.fleets.spec import FleetSpec
from tsfm_pipeline.settings import Settings


def tenant_telemetry_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Return the shard's part of `tenant_telemetry`, read from the fleet's source."""
    return telemetry_shard(fleet.source, shard)


def tenant_telemetry_provenance(fleet: Fleet) -> dict[str, Any]:
    """Return `telemetry_provenance` of the fleet's source."""
    return telemetry_provenance(fleet.source)


def describe_telemetry(fleet: Fleet) -> dict[str, Any]:
    """Return the size of the telemetry, and the notes of its source."""
    source = fleet.source
    return {
        "notes": list(source.notes),
        "n_tenants": source.n_tenants,
        "n_steps": source.n_steps,
    }


def telemetry_provenance(source: FleetSource) -> dict[str, Any]:
    """Return what readers of the telemetry need besides its rows: the time grid, the number of
    tenants, and the fingerprint of the source.
    """
    return {
        "grid": grid_of(source).to_json(),
        "n_tenants": source.n_tenants,
        "source_fingerprint": source.fingerprint(),
    }


def grid_of(source: FleetSource) -> TimeGrid:
    """Return the time grid and the metrics of a source."""
    return TimeGrid(
        source.start,
        source.step_minutes,
        source.n_steps,
        tuple(source.metrics),
        tuple(source.seasons),
    )


def telemetry_shard(source: FleetSource, shard: Sequence[int]) -> pl.DataFrame:
    """Return telemetry of the shard's tenants as rows (tenant_id, timestamp, one float32 column per
    metric); null = missing.
    """
    values = source.values(shard)  # [N, D, T]
    ids = source.manifest()["tenant_id"].gather(list(shard))
    tenant = ids.gather(np.repeat(np.arange(len(ids)), source.n_steps))
    times = source.timestamps().dt.cast_time_unit("ms")
    columns = {
        metric: pl.Series(np.ascontiguousarray(values[:, d]).ravel()).fill_nan(None)
        for d, metric in enumerate(source.metrics)
    }
    return pl.DataFrame(
        {"tenant_id": tenant, "timestamp": pl.concat([times] * len(ids)), **columns}
    )


def tenant_manifest(fleet: Fleet) -> pl.DataFrame:
    """Return the tenants with tier, archetype if known, data quality, fold, and the first step of
    their test period.

    fold: -1 tuning tenant, 0 and above test tenant of that fold (see
    `evaluation.requests.split_tenants`), -2 outside of the cohort (see `evaluation.cohort`).
    """
    return manifest_of(fleet.source, fleet.grid, fleet.settings)


def manifest_of(source: FleetSource, grid: TimeGrid, settings: Settings) -> pl.DataFrame:
    """Return the table `tenant_manifest` of a source that need not be stored."""
    evaluation = settings.evaluation
    manifest = source.manifest().sort("tenant_number")
    folds = split_tenants(
        manifest["tenant_id"].to_list(),
        manifest["archetype"].fill_null("").to_list(),
        evaluation.seed,
        tuning_share=evaluation.tuning_share,
        n_folds=evaluation.cross_fitting_folds,
    )
    if evaluation.cohort_tenants is not None:
        tiers = manifest["tier"].fill_null("").to_list()
        ids = manifest["tenant_id"].to_list()
        folds = cohort_folds(folds, tiers, ids, evaluation.cohort_tenants, evaluation.seed)
    starts = spans_of(manifest, grid, source.spec).test_start
    return manifest.with_columns(
        pl.Series("fold", folds, dtype=pl.Int32),
        pl.Series("test_start_step", starts, dtype=pl.Int32),
    )


def spans_of(manifest: pl.DataFrame, grid: TimeGrid | FleetSource, spec: FleetSpec) -> RequestSpans:
    """Return the steps at which the requests of a manifest's tenants may have their origins.

    With `calendar: own`, tenants are compared by the time since their own first step, and the
    `tuning_end` is such a time.
    """
    first, last = (
        manifest[column].to_numpy().astype(np.int64) for column in ("first_step", "last_step")
    )
    begin = first if spec.calendar == "own" else 0 * first
    spans = request_spans(
        first - begin,
        last - begin,
        steps_per_day=grid.steps_per_day,
        horizon=spec.horizon,
        minimum_history=minimum_history(first, last),
    )
    return spans.later(begin, last) if spec.calendar == "own" else spans


def describe_manifest(fleet: Fleet) -> dict[str, Any]:
    """Return how tenants are split, their numbers by split and tier, and the numbers of missing
    values, duplicate rows and gaps.
    """
    manifest = fleet.manifest
    by_tier = manifest.group_by("tier").len().sort("tier")
    in_cohort = pl.col("fold") != OUTSIDE
    n_outside = int((manifest["fold"] == OUTSIDE).sum())
    if manifest.height == 1:
        split = "one tenant, tuned on its own past"
    elif (manifest["fold"] == TUNING_FOLD).any():
        split = "tuning tenants and test tenants are disjoint"
    else:
        split = (
            f"cross-fitting: each of {manifest.filter(in_cohort)['fold'].n_unique()} folds is "
            "tested on what the others chose"
        )
    return {
        "split": split,
        "n_tuning_tenants": int((manifest["fold"] == TUNING_FOLD).sum()),
        "n_test_tenants": int((manifest["fold"] >= 0).sum()),
        **({"n_tenants_outside_the_cohort": n_outside} if n_outside else {}),
        "n_missing_values": int(manifest["n_missing"].sum()),
        "n_duplicate_rows": int(manifest["n_duplicates"].sum()),
        "n_gaps": int(manifest["n_gaps"].sum()),
        **{f"n_{row['tier']}_tenants": row["len"] for row in by_tier.iter_rows(named=True)},
    }
