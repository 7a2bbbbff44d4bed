"""Cold start: what a tenant with half an hour to eight hours of history may expect, with and
without the experience of other tenants.

What belongs here: the contents of `cold_start_report`. What does not: the losses of the strategies
(`steps.cold_start`), retrieval (`archetypes`).
"""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl

from tsfm_pipeline.archetypes.index import retrieval_accuracy
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap, two_way_bootstrap_mean
from tsfm_pipeline.reports.cold_start.model import (
    ColdStartReport,
    GapRow,
    RetrievalRow,
    StrategyRow,
)
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.steps.cold_start import PRIORS, STRATEGIES, short_configs


def cold_start_report(fleet: Fleet) -> ColdStartReport:
    """Compute losses by length of history and strategy, the share of the gap to full history that
    each prior closes, and retrieval accuracy.

    The tables are empty if a step is so long that no cold-start length holds two of them.
    """
    rows, gaps = [], []
    draws = fleet.settings.evaluation.bootstrap
    for (minutes, tier), group in _losses(fleet).group_by("minutes", "tier", maintain_order=True):
        tenant, day = (group[name].to_numpy() for name in ("tenant_number", "day"))
        columns = {name: group[name].to_numpy() for name in STRATEGIES}
        for strategy, values in columns.items():
            if np.isnan(values).all():
                continue
            ratio = two_way_bootstrap(values, columns["full_history"], tenant, day, **draws)
            rows.append(
                StrategyRow(
                    minutes=minutes,
                    tier=tier,
                    strategy=strategy,
                    mean_scaled_loss=float(np.nanmean(values)),
                    ratio=Estimate(ratio.ratio, ratio.low, ratio.high),
                    n_requests=ratio.n_requests,
                    n_tenants=ratio.n_tenants,
                )
            )
        gap = columns["no_prior"] - columns["full_history"]
        gap_mean = two_way_bootstrap_mean(gap, tenant, day, **draws)
        advantage = two_way_bootstrap_mean(
            columns["fleet_prior"] - columns["retrieved_prior"], tenant, day, **draws
        )
        over_fleet = Estimate(advantage.mean, advantage.low, advantage.high)
        for prior in PRIORS:
            if np.isnan(columns[prior]).all():
                continue
            closed = two_way_bootstrap(
                columns["no_prior"] - columns[prior], gap, tenant, day, **draws
            )
            gaps.append(
                GapRow(
                    minutes=minutes,
                    tier=tier,
                    prior=prior,
                    gap=Estimate(gap_mean.mean, gap_mean.low, gap_mean.high),
                    gap_closed=Estimate(closed.ratio, closed.low, closed.high),
                    advantage_over_fleet_prior=over_fleet
                    if prior == "retrieved_prior"
                    else Estimate(),
                )
            )
    return _report(fleet, rows, gaps)


def _losses(fleet: Fleet) -> pl.DataFrame:
    """Return the scaled losses of all strategies at every test request: one row per request x
    minutes x tier, with its tenant and the day since 1970.
    """
    days = fleet.tables.scan("forecast_requests").select(
        "request_id", day=pl.col("origin_time").cast(pl.Date).cast(pl.Int32)
    )
    by_strategy = [
        pl.col("scaled_loss")
        .filter(pl.col("strategy") == strategy)
        .first()
        .cast(pl.Float64)
        .alias(strategy)
        for strategy in STRATEGIES
    ]
    return (
        fleet.tables.scan("cold_start_losses")
        .group_by("request_id", "tenant_number", "minutes", "tier", maintain_order=True)
        .agg(by_strategy)
        .join(days, on="request_id", how="left", maintain_order="left")
        .collect()
    )


def _report(
    fleet: Fleet,
    rows: Sequence[StrategyRow],
    gaps: Sequence[GapRow],
) -> ColdStartReport:
    """Return the report of these tables, with the accuracy of retrieval."""
    retrieval = _retrieval(fleet)
    by_history = {
        row.history: (row.top1_accuracy.figure, row.balanced_accuracy) for row in retrieval
    }
    full_top1, full_balanced = by_history.get("full", (math.nan, math.nan))
    short_top1, short_balanced = by_history.get("120", (math.nan, math.nan))
    return ColdStartReport(
        fleet=fleet.name,
        configs=tuple(config.name for config in short_configs(fleet)),
        retrieval_full_top1=full_top1,
        retrieval_full_balanced=full_balanced,
        retrieval_120_top1=short_top1,
        retrieval_120_balanced=short_balanced,
        table_cold_start=tuple(rows),
        table_gap=tuple(gaps),
        table_retrieval=tuple(retrieval),
    )


def _retrieval(fleet: Fleet) -> list[RetrievalRow]:
    """Return the accuracy of archetype retrieval from each length of history, the full one last."""
    table = fleet.tables.read("archetype_retrieval")
    rows = []
    for (history,), group in table.group_by("history", maintain_order=True):
        accuracy = retrieval_accuracy(
            group["retrieved"].to_list(), group["actual"].to_list(), group["tenant_id"].to_list()
        )
        rows.append(
            RetrievalRow(
                history=history,
                top1_accuracy=Estimate(accuracy.top1, accuracy.low, accuracy.high),
                balanced_accuracy=accuracy.balanced,
                majority_share=accuracy.majority_share,
                n_queries=accuracy.n_queries,
            )
        )
    return sorted(
        rows,
        key=lambda row: (row.history == "full", int(row.history) if row.history != "full" else 0),
    )
