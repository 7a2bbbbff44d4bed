"""What is reserved today and what would have been recommended, aggregated over test requests.

What belongs here: the rows of `table_reserved`. What does not: the scores of single requests
(`steps.reserved`), the comparison with other methods (`numbers`).
"""

import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap_mean
from tsfm_pipeline.reports.recommendations.model import ReservedRow
from tsfm_pipeline.reports.recommendations.publication import with_money
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.steps.reserved import Scores, reserved_metrics, reserved_scores


def reserved_rows(fleet: Fleet) -> tuple[ReservedRow, ...]:
    """Return one row per metric with a reserved column and tier; none where the fleet's table has
    no such column. Every test tenant counts at every tier.
    """
    metrics = reserved_metrics(fleet)
    if not metrics:
        return ()
    scores = reserved_scores(fleet)
    rows = []
    for metric in metrics:
        for tier in fleet.protocol.tiers:
            part = scores.filter(pl.col("metric") == metric, pl.col("tier") == tier)
            rows.append(_row(fleet, metric, tier, _known(part)))
    return tuple(rows)


def _known(part: pl.DataFrame) -> pl.DataFrame:
    """Return the requests at which both reservations are known."""
    both = pl.col("reservation").is_finite() & pl.col("reservation_today").is_finite()
    return part.filter(both)


def _row(fleet: Fleet, metric: str, tier: str, part: pl.DataFrame) -> ReservedRow:
    means = {
        name: float("nan") if not part.height else part[name].mean()
        for score in Scores._fields
        for name in (score, f"{score}_today")
    }
    recommended, today = means.pop("reservation"), means.pop("reservation_today")
    return ReservedRow(
        metric=metric,
        tier=tier,
        n_requests=part.height,
        n_tenants=part["tenant_number"].n_unique(),
        reserved_today=today,
        recommended=recommended,
        saved=_mean(fleet, part, pl.col("reservation_today") - pl.col("reservation")),
        saved_cost_per_tenant_day=(
            _mean(fleet, _priced(fleet, part), pl.col("today") - pl.col("recommended"))
            if metric in fleet.spec.prices
            else None
        ),
        **means,
    )


def _priced(fleet: Fleet, part: pl.DataFrame) -> pl.DataFrame:
    """Return the requests with the cost per day of what is reserved `today` and of what is
    `recommended`: slack and shortfall at the fleet's prices.
    """
    for name, suffix in (("today", "_today"), ("recommended", "")):
        costs = with_money(part, fleet, slack=f"slack{suffix}", shortfall=f"shortfall{suffix}")
        both = costs["slack_cost_per_day"] + costs["sla_cost_per_day"]
        part = part.with_columns(both.alias(name))
    return part


def _mean(fleet: Fleet, part: pl.DataFrame, of: pl.Expr) -> Estimate:
    """Return the mean over requests, with its interval over tenants and days."""
    if not part.height:
        return Estimate()
    values = part.select(of.alias("values"))["values"].to_numpy()
    tenant, day = part["tenant_number"].to_numpy(), part["day"].cast(pl.Int32).to_numpy()
    mean = two_way_bootstrap_mean(values, tenant, day, **fleet.settings.evaluation.group_bootstrap)
    return Estimate(mean.mean, mean.low, mean.high)
