"""Forecast quality of every method: the per-request table, the report, and where fev's summary is written.

What belongs here: which methods and deciles are scored, and what `forecast_quality` and `forecast_quality_report` hold. What does not:
scores (`evaluation.quality`), fev's columns (`stages.fev_summary`).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER, TIERS
from tsfm_pipeline.evaluation.quality import NOMINAL_COVERAGE, SKILLS, compare, quality, seasonal_error
from tsfm_pipeline.stages.fev_summary import write_fev_summary
from tsfm_pipeline.stages.forecasts import Floats, SearchBatch, grid_arrays
from tsfm_pipeline.stages.rows import keyed_rows
from tsfm_pipeline.stages.scores import CONFIG_PREFIX, FIXED, SEARCH, searched, unsearched
from tsfm_pipeline.workspace import Fleet

ALL_TIERS = "all"
"""The tier of a method whose deciles are the same for every tier."""
REFERENCE = "seasonal_naive"
COMBINATIONS = (FIXED, "static_ensemble", "uniform_average")
"""The rivals with deciles of their own per tier. Of the others, one that corrects its level moves its decision and no decile, and one that
picks a configuration by rule has that configuration's deciles."""
SAME_FOR_ALL_TIERS = "uniform_average"
SUMS = ("n_steps", "quantile_loss_sum", "abs_actual_sum", "abs_error_sum", "coverage_80", "seasonal_error")


def forecast_quality_shard(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Quality of every method's deciles at every test request of the shard: request x metric x method x tier.

    The deciles are those that a method emits, before any level correction, which moves the decision alone. Tiers differ because each
    weighs (the search) or chooses (fixed configuration, static ensemble) configurations by its own loss.
    """
    requests = fleet.requests("test", shard)
    numbers, metrics = requests.tenants, fleet.grid.metrics
    shape = (len(numbers), len(metrics))
    actual = np.empty((*shape, fleet.spec.horizon), np.float32)
    series = np.empty(shape)
    emitted: Iterator[tuple[str, str, Floats]] = iter([("", "", np.empty((*actual.shape, 9), np.float32))])
    if len(numbers):
        batch = SearchBatch(fleet, requests)
        actual = grid_arrays(fleet, requests)[1]
        series = np.repeat(_seasonal_errors(fleet, shard)[requests.rows], requests.ids.shape[1], axis=0)
        emitted = _deciles(fleet, batch)
    frames = []
    for method, tier, deciles in emitted:
        columns: dict[str, Any] = quality(actual, deciles)
        columns |= {"n_steps": columns["n_steps"].astype(np.int32), "crps": columns["crps"].astype(np.float32), "seasonal_error": series}
        axes = {"metric": metrics, "method": [method], "tier": [tier]}
        frames.append(keyed_rows(requests.ids.ravel(), numbers, axes, {name: v[:, :, None, None] for name, v in columns.items()}))
    return pl.concat(frames).sort("request_id", "metric", "method", "tier")


def _deciles(fleet: Fleet, batch: SearchBatch) -> Iterator[tuple[str, str, Floats]]:
    """(method, tier, deciles [R, D, H, 9]) of every method that is scored; one tier, `all`, where they are the same for every tier."""
    for name, forecast in unsearched(fleet, batch):
        if forecast.deciles.shape[2] == 1 or name in COMBINATIONS:
            deciles = forecast.deciles[:, :, :1] if name == SAME_FOR_ALL_TIERS else forecast.deciles
            for a in range(deciles.shape[2]):
                yield name, ALL_TIERS if deciles.shape[2] == 1 else list(TIERS)[a], deciles[:, :, a]
    found = searched(fleet, batch).deciles
    for a, tier in enumerate(TIERS):
        yield SEARCH, tier, found[:, :, a]


def _seasonal_errors(fleet: Fleet, shard: Sequence[int]) -> Floats:
    """MASE's scale of each series of a shard [N, D], from before the tenant's test period, over the fleet's first season."""
    values = fleet.values(shard)  # [N, D, T]
    starts = fleet.manifest.filter(pl.col("tenant_number").is_in(list(shard)))["test_start_step"].to_numpy()
    n_metrics = values.shape[1]
    errors = seasonal_error(values.reshape(-1, values.shape[-1]), np.repeat(starts, n_metrics), fleet.grid.seasons[0])
    return errors.reshape(-1, n_metrics)


def request_quality(fleet: Fleet) -> pl.DataFrame:
    """`forecast_quality` of the valid test requests, with the tenant, day and number (from 0) of each request's origin."""
    sql = """
        SELECT q.*, CAST(r.origin_time AS DATE) AS day, r.origin_number
        FROM forecast_quality q
        JOIN (SELECT *, row_number() OVER (PARTITION BY tenant_number ORDER BY request_id) - 1 AS origin_number
              FROM forecast_requests WHERE role = 'test') r USING (request_id)
        WHERE r.valid
        ORDER BY q.method, q.tier, q.request_id, q.metric
    """
    return fleet.tables.query(sql, "forecast_quality", "forecast_requests")


def forecast_quality_report(fleet: Fleet) -> dict[str, Any]:
    """The report's JSON: WQL, MASE, coverage, and skill beside seasonal naive with intervals, over all metrics and per metric.

    Also writes `fev_summary.csv` beside it.
    """
    rows = request_quality(fleet)
    evaluation, metrics = fleet.settings.evaluation, sorted(fleet.grid.metrics)
    table = _compared(rows, metrics, evaluation.bootstrap)
    per_metric = []
    kept = rows.filter(~pl.col("method").str.starts_with(CONFIG_PREFIX))
    for metric in metrics:
        part = _compared(kept.filter(pl.col("metric") == metric), [metric], evaluation.group_bootstrap)
        per_metric += [{"metric": metric, **row} for row in part]
    first = rows.filter((pl.col("method") == SEARCH) & (pl.col("tier") == HEADLINE_TIER))
    unscaled = first.filter(pl.col("seasonal_error").is_nan()).select("tenant_number", "metric").unique()
    report: dict[str, Any] = {
        "fleet": fleet.name,
        "horizon_steps": fleet.spec.horizon,
        "season_steps": fleet.grid.seasons[0],
        "n_requests": first["request_id"].n_unique(),
        "n_series_without_seasonal_error": unscaled.height,
        "reference": REFERENCE,
        "headline_tier": HEADLINE_TIER,
        "coverage_80_target": NOMINAL_COVERAGE,
    }
    for row in table:
        if (row["method"], row["tier"]) in ((SEARCH, HEADLINE_TIER), (FIXED, HEADLINE_TIER), (REFERENCE, ALL_TIERS)):
            report |= {f"{row['method']}_{key}": value for key, value in row.items() if key not in ("method", "tier", "n_failed")}
    rivals = rows.filter(pl.col("method").is_in([SEARCH, FIXED]) & (pl.col("tier") == HEADLINE_TIER))
    over_fixed = _compared(rivals, metrics, evaluation.bootstrap, (FIXED, HEADLINE_TIER))
    search = next(row for row in over_fixed if row["method"] == SEARCH)
    for score, end in product(SKILLS, ("", "_low", "_high")):
        report[f"{SEARCH}_{score}_skill_over_fixed{end}"] = search[f"{score}_skill{end}"]
    n_rows = write_fev_summary(fleet, rows)
    return report | {"fev_summary_rows": n_rows, "table_methods": table, "table_metrics": per_metric}


def _compared(
    rows: pl.DataFrame,
    metrics: Sequence[str],
    draws: Mapping[str, int],
    reference: tuple[str, str] = (REFERENCE, ALL_TIERS),
) -> list[dict[str, Any]]:
    """One record per method and tier over these metrics: rows of `request_quality`, lowest WQL first, skill beside the reference.

    Raises ValueError where the methods were not scored at the same requests.
    """
    groups = rows.partition_by("method", "tier", as_dict=True, maintain_order=True)
    names = list(groups)
    keys = groups[names[0]].select("request_id", "metric")
    if not all(frame.select("request_id", "metric").equals(keys) for frame in groups.values()):
        raise ValueError(f"the {len(names)} methods of table 'forecast_quality' were not scored at the same requests, or not in one order")
    shape = (len(names), -1, len(metrics))  # [M, R, D]
    sums = {column: np.stack([frame[column].to_numpy() for frame in groups.values()]).reshape(shape) for column in SUMS}
    requests = groups[names[0]][:: len(metrics)]
    tenant, day = requests["tenant_number"].to_numpy(), requests["day"].cast(pl.Int32).to_numpy()
    scores = compare(sums, names.index(reference), tenant, day, **draws)
    failed = np.isnan(sums["quantile_loss_sum"]).sum(axis=(1, 2))
    records = []
    for m, (method, tier) in enumerate(names):
        record: dict[str, Any] = {"method": method, "tier": tier}
        for score, intervals in scores.items():
            interval = intervals[m]
            record |= {score: interval.figure, f"{score}_low": interval.low, f"{score}_high": interval.high}
        records.append(record | {"n_failed": int(failed[m])})
    return sorted(records, key=lambda r: (r["wql"] != r["wql"], r["wql"], r["method"], r["tier"]))
