"""Forecast quality of every method: scores per request, and the report.

What belongs here: which methods and deciles are compared, and the contents of
`forecast_quality_report`. What does not: scores (`evaluation.quality`), fev's columns
(`reports.quality.fev_summary`).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED, SEARCH, SEASONAL_NAIVE
from tsfm_pipeline.evaluation.quality import NOMINAL_COVERAGE, compare
from tsfm_pipeline.reports.quality.fev_summary import write_fev_summary
from tsfm_pipeline.reports.quality.model import (
    ALL_TIERS,
    MethodRow,
    MetricRow,
    QualityReport,
    Scores,
)
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.steps.quality import SUMS

REFERENCE = SEASONAL_NAIVE


def request_quality(fleet: Fleet) -> pl.DataFrame:
    """Return `forecast_quality` of the valid test requests, with the tenant, day and number (from
    0) of each request's origin.
    """
    sql = """
        SELECT q.*, CAST(r.origin_time AS DATE) AS day, r.origin_number
        FROM forecast_quality q
        JOIN (SELECT *, row_number() OVER (PARTITION BY tenant_number ORDER BY request_id) - 1
                     AS origin_number
              FROM forecast_requests WHERE role = 'test') r USING (request_id)
        WHERE r.valid
        ORDER BY q.method, q.tier, q.request_id, q.metric
    """
    return fleet.tables.query(sql, "forecast_quality", "forecast_requests")


def forecast_quality_report(fleet: Fleet) -> QualityReport:
    """Compute WQL, MASE, coverage, and skill relative to seasonal naive, over all metrics and per
    metric.

    Also writes `fev_summary.csv` beside the report's JSON.
    """
    rows = request_quality(fleet)
    evaluation, metrics, headline = (
        fleet.settings.evaluation,
        sorted(fleet.grid.metrics),
        fleet.protocol.headline_tier,
    )
    table = compared(rows, metrics, evaluation.bootstrap)
    kept = rows.filter(~pl.col("method").str.starts_with(CONFIG_PREFIX))
    per_metric = [
        MetricRow(metric=metric, **dict(row))
        for metric in metrics
        for row in compared(
            kept.filter(pl.col("metric") == metric), [metric], evaluation.group_bootstrap
        )
    ]
    first = rows.filter((pl.col("method") == SEARCH) & (pl.col("tier") == headline))
    unscaled = (
        first.filter(pl.col("seasonal_error").is_nan()).select("tenant_number", "metric").unique()
    )
    named = ((SEARCH, headline), (FIXED, headline), (REFERENCE, ALL_TIERS))
    rivals = rows.filter(pl.col("method").is_in([SEARCH, FIXED]) & (pl.col("tier") == headline))
    over_fixed = compared(rivals, metrics, evaluation.bootstrap, (FIXED, headline))
    search = next(row for row in over_fixed if row.method == SEARCH)
    return QualityReport(
        fleet=fleet.name,
        horizon_steps=fleet.spec.horizon,
        season_steps=fleet.grid.season,
        n_requests=first["request_id"].n_unique(),
        n_series_without_seasonal_error=unscaled.height,
        reference=REFERENCE,
        headline_tier=headline,
        coverage_80_target=NOMINAL_COVERAGE,
        scores={row.method: _scores(row) for row in table if (row.method, row.tier) in named},
        search_wql_skill_over_fixed=search.wql_skill,
        search_mase_skill_over_fixed=search.mase_skill,
        fev_summary_rows=write_fev_summary(fleet, rows),
        table_methods=table,
        table_metrics=tuple(per_metric),
    )


def _scores(row: MethodRow) -> Scores:
    return Scores(**{name: getattr(row, name) for name in Scores.model_fields})


def compared(
    rows: pl.DataFrame,
    metrics: Sequence[str],
    draws: Mapping[str, int],
    reference: tuple[str, str] = (REFERENCE, ALL_TIERS),
) -> tuple[MethodRow, ...]:
    """Return one row per method and tier over these metrics, lowest WQL first, with skill relative
    to the reference.

    rows: of `request_quality`. Raises ValueError if the methods were not scored at the same
    requests.
    """
    groups = rows.partition_by("method", "tier", as_dict=True, maintain_order=True)
    names = list(groups)
    keys = groups[names[0]].select("request_id", "metric")
    if not all(frame.select("request_id", "metric").equals(keys) for frame in groups.values()):
        raise ValueError(
            f"the {len(names)} methods of table 'forecast_quality' were not scored at the same "
            "requests, or their rows are in different orders"
        )
    shape = (len(names), -1, len(metrics))  # [M, R, D]
    sums = {
        column: np.stack([frame[column].to_numpy() for frame in groups.values()]).reshape(shape)
        for column in SUMS
    }
    requests = groups[names[0]][:: len(metrics)]
    tenant, day = requests["tenant_number"].to_numpy(), requests["day"].cast(pl.Int32).to_numpy()
    scores = compare(sums, names.index(reference), tenant, day, **draws)
    failed = np.isnan(sums["quantile_loss_sum"]).sum(axis=(1, 2))
    made = (
        MethodRow(
            method=method,
            tier=tier,
            n_failed=int(failed[m]),
            **{
                score: Estimate(of[m].figure, of[m].low, of[m].high) for score, of in scores.items()
            },
        )
        for m, (method, tier) in enumerate(names)
    )
    return tuple(
        sorted(
            made, key=lambda row: (math.isnan(row.wql.figure), row.wql.figure, row.method, row.tier)
        )
    )
