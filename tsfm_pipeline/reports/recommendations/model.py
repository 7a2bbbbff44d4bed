"""The figures of the recommendations' backtest, and of the review of earlier recommendations.

What belongs here: their names, units and meanings. What does not: computing (`numbers`, `review`),
wording (`words`) and drawing (`figures`) them.
"""

from tsfm_pipeline.evaluation.protocol import headline_tier
from tsfm_pipeline.reports.shared.fields import common
from tsfm_pipeline.reports.shared.model import (
    Estimate,
    Figures,
    Number,
    Report,
    group,
    item,
    table,
)

_MONEY = "units of the currency"
_SAVED = "saved by the search per tenant and day against {}; fleets with prices only"


class BacktestOfTier(Figures):
    """Constants at one tier beside those of their rivals, on the test requests."""

    ratio: Estimate = item(
        "ratio",
        "of mean scaled losses of one constant per block, search to fixed configuration",
    )
    ratio_last_block: Estimate = item(
        "ratio",
        "the same, search to the alpha-quantile of the block before",
    )
    ratio_percentile_margin: Estimate = item(
        "ratio",
        "the same, search to the alpha-quantile of the week before and 15 %",
    )
    ratio_eight_day_quantile: Estimate = item(
        "ratio",
        "the same, search to the alpha-quantile of the last eight days",
    )
    ratio_usage_histogram: Estimate = item(
        "ratio",
        "the same, search to the decaying histogram and 15 %, as VPA computes them",
    )
    violation_rate_search: Number = item("share", "steps above the constant of the search")
    violation_rate_fixed: Number = item("share", "steps above the constant of the fixed")
    violation_rate_target: Number = common("violation_rate_target")
    covered_target: float = item("share", "alpha")
    covered: Estimate = item("share", "blocks whose maximum stayed below the constant for it")
    covered_largest_step: Number = item(
        "share",
        "blocks below the largest of the steps' decision quantiles",
    )
    n_requests_scored: int = item("count", "valid test requests")


class ConstantRow(Figures):
    """One way to set one constant per block, at one tier."""

    tier: str = common("tier")
    method: str = common("method")
    for_maximum: bool = item(
        "true or false",
        "whether the constant is meant for the block's maximum, not for every step",
    )
    mean_scaled_loss: Number = common("mean_scaled_loss")
    ratio: Estimate = common("ratio")
    n_requests: int = common("n_requests")
    violation_rate: Number = common("violation_rate")
    covered: Estimate = item("share", "blocks no step of which exceeded the constant")
    mean_scaled_slack: Number = common("mean_scaled_slack")
    n_failed: int = common("n_failed")


class MoneyRow(Figures):
    """The cost of one way to reserve, for tenants of one tier."""

    method: str = common("method")
    tier: str = common("tier")
    slack_cost_per_tenant_day: Number = item(_MONEY, "mean cost of what was reserved in vain")
    sla_cost_per_tenant_day: Number = item(_MONEY, "mean cost of what was lacking")
    cost_per_tenant_day: Number = item(_MONEY, "mean of both together")
    n_requests: int = common("n_requests")


class ReservedRow(Figures):
    """What is reserved of one metric today, and what would have been recommended at one tier, over
    the steps of test blocks at which both load and today's reservation are known.
    """

    metric: str = common("metric")
    tier: str = common("tier")
    n_requests: int = item("count", "test requests with such steps")
    n_tenants: int = item("count", "their tenants")
    reserved_today: Number = item("units of the metric", "mean reserved today")
    recommended: Number = item(
        "units of the metric",
        "mean of the recommended constants: reservation, or reservation_max where the series is "
        "intermittent",
    )
    saved: Estimate = item("units of the metric", "mean reserved today minus mean recommended")
    violation_rate_today: Number = item("share", "steps above today's reservation")
    violation_rate: Number = item("share", "steps above the recommended constant")
    slack_today: Number = item("units of the metric", "mean reserved today and not used")
    slack: Number = item("units of the metric", "mean recommended and not used")
    shortfall_today: Number = item("units of the metric", "mean used and not reserved today")
    shortfall: Number = item("units of the metric", "mean used and not recommended")
    saved_cost_per_tenant_day: Estimate | None = item(
        _MONEY,
        "slack and shortfall of today minus those of the recommended constant; metrics with a "
        "price only",
        left_out=True,
    )


class NotMadeRow(Figures):
    """Series without a recommendation, by reason."""

    reason: str = item("", "why there is none, numbers replaced by N")
    n_series: int = item("count", "series with this reason")


class RecommendationReport(Report):
    """What is recommended, and what such constants cost in the backtest."""

    block_steps: int = item(
        "steps",
        "length of the block that one constant is for: the fleet's horizon",
    )
    block_minutes: float = item("minutes", "the same")
    n_tenants: int = item("count", "tenants of the fleet")
    n_series: int = item("count", "tenants x metrics")
    n_not_made: int = item(
        "count",
        "of these, without a recommendation; table_not_made says why",
    )
    first_block_start: str = item("", "when the earliest of the recommended blocks begins")
    last_block_start: str = item("", "when the latest of them does")
    median_relative_validation_loss: Number = item(
        "ratio",
        "median over series, at the tenant's own tier",
    )
    tiers: dict[str, BacktestOfTier] = group("<tier>")
    n_intermittent: int | None = item(
        "count",
        "series that are busy at single steps and idle at most; left out where there are none",
        left_out=True,
    )
    intermittent_covered_max: Estimate | None = item(
        "share",
        "their test blocks no step of which exceeded reservation_max, every tenant at its own tier",
        left_out=True,
    )
    intermittent_covered: Estimate | None = item(
        "share", "the same for the constant for every step", left_out=True
    )
    currency: str | None = item("", "of all money; fleets with prices only", left_out=True)
    saved_per_tenant_day_vs_fixed_quantile: Estimate | None = item(
        _MONEY,
        _SAVED.format("the fixed configuration"),
        left_out=True,
    )
    saved_per_tenant_day_vs_last_block: Estimate | None = item(
        _MONEY,
        _SAVED.format("the last block"),
        left_out=True,
    )
    saved_per_tenant_day_vs_percentile_margin: Estimate | None = item(
        _MONEY,
        _SAVED.format("the percentile of the week + 15 %"),
        left_out=True,
    )
    table_methods: tuple[ConstantRow, ...] = table()
    table_money: tuple[MoneyRow, ...] = table(left_out=True)
    table_not_made: tuple[NotMadeRow, ...] = table(left_out=True)
    table_reserved: tuple[ReservedRow, ...] = table(left_out=True)

    @property
    def headline_tier(self) -> str:
        """Return the tier of every figure that is shown for one tier only."""
        return headline_tier(self.tiers)

    def methods_at(self, tier: str) -> list[ConstantRow]:
        """Return one tier's rows."""
        return [row for row in self.table_methods if row.tier == tier]


class ReviewOfTier(Figures):
    """The outcome of earlier recommendations at one tier; null where none could be judged."""

    violation_rate: Number = item("share", "observed steps above the reservation")
    violation_rate_target: Number = common("violation_rate_target")
    covered: Number = item("share", "blocks whose maximum stayed below the reservation for it")
    covered_target: Number = item("share", "alpha")
    n_blocks: int = item("count", "reviewed blocks")
    ratio_fixed: Estimate = item(
        "ratio",
        "of mean scaled losses, what was reserved to the fixed configuration's constant",
    )
    ratio_last_block: Estimate = item("ratio", "the same, to the last block's constant")


class RunRow(Figures):
    """One earlier run at one tier."""

    run: int = item("number", "of the run, counted from 1")
    tier: str = common("tier")
    first_block: str = item("", "when the earliest of its reviewed blocks begins")
    n_blocks: int = item("count", "reviewed blocks")
    violation_rate: Number = item("share", "observed steps above the reservation")
    expected_violation_rate: Number = item("share", "what the run expected of it")
    covered: Number = item("share", "blocks whose maximum stayed below the reservation for it")
    ratio_fixed: Number = item(
        "ratio",
        "of mean scaled losses, what was reserved to the fixed configuration's constant",
    )
    ratio_last_block: Number = item("ratio", "the same, to the last block's constant")


class MissRow(Figures):
    """One reservation that fell far short."""

    tenant_id: str = common("tenant_id")
    metric: str = common("metric")
    tier: str = common("tier")
    block_start: str = item("", "when the block begins")
    reservation: Number = item("units of the metric", "what was recommended")
    violation_rate: Number = item("share", "observed steps above the reservation")
    shortfall: Number = common("shortfall")


class DriftRow(Figures):
    """A tenant, or one of its series, that changed since the last run."""

    tenant_id: str = common("tenant_id")
    metric: str | None = item(
        "", "which of the tenant's metrics; null where it concerns the tenant"
    )
    what: str = item("", "configuration, archetype or look-alike")
    old: str = item("", "what it was at the last run")
    new: str = item("", "what it is now")
    old_weight: Number = item("share", "weight of the heaviest configuration at the last run")
    new_weight: Number = item("share", "weight of the heaviest configuration now")


class RecommendationReview(Report):
    """The outcome of earlier recommendations, and the tenants that changed since the last run."""

    n_runs: int = item("count", "dated copies that are kept")
    n_reviewed: int = item("count", "recommendations whose block has been observed by now")
    status: str = item("", "whether there was anything to review")
    n_runs_reviewed: int | None = item("count", "runs that they are from", left_out=True)
    first_block_start: str | None = item("", "when the earliest block begins", left_out=True)
    last_block_start: str | None = item("", "when the latest block begins", left_out=True)
    tiers: dict[str, ReviewOfTier] = group("<tier>")
    slack_cost_per_tenant_day: Number | None = item(
        _MONEY,
        "mean cost of what was reserved in vain; fleets with prices only",
        left_out=True,
    )
    sla_cost_per_tenant_day: Number | None = item(
        _MONEY,
        "mean cost of what was lacking; fleets with prices only",
        left_out=True,
    )
    currency: str | None = item("", "of all money; fleets with prices only", left_out=True)
    drift_status: str = item("", "which run this one is compared with")
    n_series_compared: int | None = item(
        "count",
        "series with a recommendation in both runs",
        left_out=True,
    )
    n_configs_changed: int = item("count", "of these, with another heaviest configuration")
    n_tenants_changed: int = item("count", "tenants of which anything changed")
    n_groups_changed: int | None = item(
        "count",
        "tenants with another archetype or look-alike",
        left_out=True,
    )
    n_new_tenants: int | None = item("count", "tenants of this run only", left_out=True)
    n_gone_tenants: int | None = item("count", "tenants of the last run only", left_out=True)
    table_runs: tuple[RunRow, ...] = table(left_out=True)
    table_misses: tuple[MissRow, ...] = table(left_out=True)
    table_drift: tuple[DriftRow, ...] = table(left_out=True)

    @property
    def headline_tier(self) -> str:
        """Return the tier of every figure that is shown for one tier only."""
        return headline_tier(self.tiers)
