"""The backtest of the recommendations, aggregated. It scores the same constants that are published.

What belongs here: the contents of `recommendation_report`. What does not: single scores
(`steps.blocks`), statistics (`evaluation.statistics`), the outcome of recommendations in use
(`reports.recommendations.review`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import (
    BLOCK_CONSTANTS,
    EIGHT_DAY_QUANTILE,
    FIXED,
    LARGEST_STEP,
    LAST_BLOCK,
    PERCENTILE_MARGIN,
    SEARCH,
    SEARCH_PEAK,
    USAGE_HISTOGRAM,
)
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap_mean
from tsfm_pipeline.reports.recommendations.model import (
    BacktestOfTier,
    ConstantRow,
    MoneyRow,
    NotMadeRow,
    RecommendationReport,
)
from tsfm_pipeline.reports.recommendations.publication import spanned, with_money
from tsfm_pipeline.reports.recommendations.reserved import reserved_rows
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.steps.headline import compared

RIVALS = (FIXED, LAST_BLOCK, PERCENTILE_MARGIN)


def recommendation_report(fleet: Fleet) -> RecommendationReport:
    """Compare the constants with their rivals per tier, and count the recommendations.

    Cost, violations, coverage of the block's maximum; money where the fleet has prices.
    """
    table = fleet.tables.read("recommendations").filter("own_tier")
    unmade = table.filter(~pl.col("made"))
    first, last = spanned(table)
    losses = block_losses(fleet)
    requests = _per_request(losses)
    tiers: dict[str, BacktestOfTier] = {}
    methods: list[ConstantRow] = []
    for tier, alpha in fleet.protocol.tiers.items():
        of_method = {
            name: frame
            for (name,), frame in requests.filter(pl.col("tier") == tier)
            .partition_by("method", as_dict=True)
            .items()
        }
        rows = {method: _method_row(fleet, tier, method, of_method) for method in BLOCK_CONSTANTS}
        methods += rows.values()
        to_last, to_margin, to_quantile, to_histogram = (
            _compared(fleet, of_method[SEARCH], of_method[rival])[0]
            for rival in (LAST_BLOCK, PERCENTILE_MARGIN, EIGHT_DAY_QUANTILE, USAGE_HISTOGRAM)
        )
        tiers[tier] = BacktestOfTier(
            ratio=rows[SEARCH].ratio,
            ratio_last_block=to_last,
            ratio_percentile_margin=to_margin,
            ratio_eight_day_quantile=to_quantile,
            ratio_usage_histogram=to_histogram,
            violation_rate_search=rows[SEARCH].violation_rate,
            violation_rate_fixed=rows[FIXED].violation_rate,
            violation_rate_target=round(1 - alpha, 10),
            covered_target=alpha,
            covered=rows[SEARCH_PEAK].covered,
            covered_largest_step=rows[LARGEST_STEP].covered.figure,
            n_requests_scored=rows[SEARCH].n_requests,
        )
    seldom = table.filter(pl.col("demand_interval").is_not_null())
    reasons = unmade["note"].str.replace_all(r"\d+", "N").value_counts(sort=True)
    money = _money(fleet, losses) if fleet.spec.prices else Money()
    return RecommendationReport(
        fleet=fleet.name,
        block_steps=fleet.spec.horizon,
        block_minutes=fleet.spec.horizon * fleet.grid.step_minutes,
        n_tenants=table["tenant_id"].n_unique(),
        n_series=table.height,
        n_not_made=unmade.height,
        first_block_start=first,
        last_block_start=last,
        median_relative_validation_loss=table["relative_validation_loss"].median(),
        tiers=tiers,
        n_intermittent=seldom.height or None,
        intermittent_covered_max=_covered_in(fleet, losses, seldom, SEARCH_PEAK),
        intermittent_covered=_covered_in(fleet, losses, seldom, SEARCH),
        currency=fleet.spec.currency if fleet.spec.prices else None,
        saved_per_tenant_day_vs_fixed_quantile=money.saved.get(FIXED),
        saved_per_tenant_day_vs_last_block=money.saved.get(LAST_BLOCK),
        saved_per_tenant_day_vs_percentile_margin=money.saved.get("percentile_margin"),
        table_methods=tuple(methods),
        table_money=money.table,
        table_not_made=tuple(
            NotMadeRow(reason=reason, n_series=n) for reason, n in reasons.iter_rows()
        ),
        table_reserved=reserved_rows(fleet),
    )


@dataclass(frozen=True)
class Money:
    """The cost of reservations per tenant and day; empty without prices.

    saved: what the search saves against each rival.
    """

    saved: Mapping[str, Estimate] = field(default_factory=dict)
    table: tuple[MoneyRow, ...] = ()


def block_losses(fleet: Fleet) -> pl.DataFrame:
    """Return scores of the valid test requests, with tenant and day: one row per request x metric x
    method x tier.
    """
    requests = fleet.tables.read("forecast_requests").filter(pl.col("valid"))
    days = requests.select("request_id", "tenant_id", day=pl.col("origin_time").cast(pl.Date))
    scores = fleet.tables.read("recommendation_scores").join(
        days, on="request_id", how="inner", maintain_order="left"
    )
    scale = fleet.tables.read("request_targets", columns=["request_id", "metric", "scale"])
    joined = scores.join(scale, on=["request_id", "metric"], maintain_order="left").filter(
        pl.col("scale").is_finite()
    )
    return joined.with_columns((pl.col("slack") / pl.col("scale")).alias("scaled_slack"))


def _per_request(losses: pl.DataFrame) -> pl.DataFrame:
    """Return means over a request's metrics, one row per tier, method and request; NaN where a
    metric failed.
    """
    means = pl.col("scaled_loss", "violation_rate", "scaled_slack", "covered").mean()
    keys = ["tier", "method", "request_id"]
    return losses.group_by(keys).agg(means, pl.col("tenant_number", "day").first()).sort(keys)


def _method_row(
    fleet: Fleet, tier: str, method: str, of_method: dict[str, pl.DataFrame]
) -> ConstantRow:
    frame = of_method[method]
    ratio, n_requests = _compared(fleet, frame, of_method[FIXED])
    return ConstantRow(
        tier=tier,
        method=method,
        for_maximum=BLOCK_CONSTANTS[method].for_maximum,
        mean_scaled_loss=_mean(frame["scaled_loss"]),
        ratio=ratio,
        n_requests=n_requests,
        violation_rate=_mean(frame["violation_rate"]),
        covered=_covered(fleet, frame),
        mean_scaled_slack=_mean(frame["scaled_slack"]),
        n_failed=int(frame["scaled_loss"].is_nan().sum()),
    )


def _covered(fleet: Fleet, frame: pl.DataFrame) -> Estimate:
    """Return the mean of `covered`, with its interval over tenants and days."""
    known = frame.filter(pl.col("covered").is_finite())
    if not known.height:
        return Estimate()
    tenant, days = known["tenant_number"].to_numpy(), known["day"].cast(pl.Int32).to_numpy()
    mean = two_way_bootstrap_mean(
        known["covered"].to_numpy(), tenant, days, **fleet.settings.evaluation.group_bootstrap
    )
    return Estimate(mean.mean, mean.low, mean.high)


def _covered_in(
    fleet: Fleet, losses: pl.DataFrame, series: pl.DataFrame, method: str
) -> Estimate | None:
    """Return how often a method's constants covered the test blocks of some series at their own
    tier; None where there are no such series.
    """
    if not series.height:
        return None
    keys = ["tenant_number", "metric", "tier"]
    rows = losses.filter(pl.col("method") == method).join(
        series.select(keys), on=keys, maintain_order="left"
    )
    return _covered(fleet, rows)


def _compared(fleet: Fleet, frame: pl.DataFrame, reference: pl.DataFrame) -> tuple[Estimate, int]:
    """Return the ratio of mean scaled losses to the reference's, and the number of requests."""
    comparison = compared(
        frame, reference, "scaled_loss", **fleet.settings.evaluation.group_bootstrap
    )
    return Estimate(comparison.ratio, comparison.low, comparison.high), comparison.n_requests


def _money(fleet: Fleet, losses: pl.DataFrame) -> Money:
    """Return the cost of reservations per tenant and day, every tenant at its own tier, over the
    metrics that have a price.
    """
    own = fleet.manifest.select("tenant_number", own_tier="tier")
    own_tier_losses = losses.join(own, on="tenant_number").filter(
        (pl.col("tier") == pl.col("own_tier")) & pl.col("metric").is_in(list(fleet.spec.prices))
    )
    priced = with_money(own_tier_losses, fleet, slack="slack", shortfall="shortfall").filter(
        pl.col("slack").is_finite()
    )
    costs = (
        priced.group_by("method", "tier", "tenant_number", "day", "request_id")
        .agg(pl.col("slack_cost_per_day", "sla_cost_per_day").sum())
        .with_columns(
            (pl.col("slack_cost_per_day") + pl.col("sla_cost_per_day")).alias("cost_per_day")
        )
        .sort("method", "request_id")
    )
    draws = fleet.settings.evaluation.group_bootstrap
    saved_against = {}
    search = costs.filter(pl.col("method") == SEARCH)
    for rival in RIVALS:
        pairs = search.join(
            costs.filter(pl.col("method") == rival), on="request_id", suffix="_rival"
        )
        saved = (pairs["cost_per_day_rival"] - pairs["cost_per_day"]).to_numpy()
        if not len(saved):
            continue
        days = pairs["day"].cast(pl.Int32).to_numpy()
        mean = two_way_bootstrap_mean(saved, pairs["tenant_number"].to_numpy(), days, **draws)
        saved_against[rival] = Estimate(mean.mean, mean.low, mean.high)
    names = ("slack_cost", "sla_cost", "cost")
    by_method = costs.group_by("method", "tier").agg(
        *(pl.col(f"{name}_per_day").mean().alias(f"{name}_per_tenant_day") for name in names),
        pl.len().alias("n_requests"),
    )
    order = (
        pl.col("tier").cast(pl.Enum(list(fleet.protocol.tiers))),
        pl.col("method").cast(pl.Enum(list(BLOCK_CONSTANTS))),
    )
    return Money(saved_against, MoneyRow.from_rows(by_method.sort(*order)))


def _mean(series: pl.Series) -> float:
    values = series.to_numpy()
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
