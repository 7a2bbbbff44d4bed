"""The headline report's figures: what the search costs beside the fixed configuration, per tier.

What belongs here: their names, units and meanings. What does not: computing (`numbers`), wording
(`words`) and drawing (`figures`) them.
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

_LOSS = "units of the scale"


class HeadlineOfTier(Figures):
    """Search and fixed configuration at one tier, and the checks of their comparison."""

    mean_loss_fixed: Number = item(_LOSS, "mean scaled loss of the fixed configuration")
    mean_loss_search: Number = item(_LOSS, "mean scaled loss of the search")
    ratio: Estimate = item("ratio", "of mean scaled losses, search to fixed configuration")
    win_rate: Estimate = item("share", "requests won by the search, ties half")
    p_value: Number = item(
        "share", "two-sided, of a ratio of 1, by the wild bootstrap behind the interval"
    )
    violation_rate_fixed: Number = item("share", "observed steps above the decision of the fixed")
    violation_rate_search: Number = item("share", "observed steps above the decision of the search")
    violation_rate_target: Number = common("violation_rate_target")
    n_requests_scored: int = item("count", "requests that both answered")
    n_tenants_scored: int = item("count", "tenants of these requests")
    n_failed_search: int = item("count", "valid requests without an answer of the search")
    n_failed_fixed: int = item("count", "valid requests without an answer of the fixed")
    fixed_config: str = item("", "the configuration to beat, per test fold")
    std_scaled_ratio: Estimate = item("ratio", "the ratio under scaling by standard deviation")
    floored_ratio: Estimate = item(
        "ratio",
        "the ratio where no series has a scale below half the median standard deviation of its "
        "metric's series",
    )
    floored_largest_request_share: Number = item(
        "share", "of the one dearest request in all losses of the fixed configuration, so scaled"
    )
    leave_one_out_ratio_min: Number = item("ratio", "least ratio with one series left out")
    leave_one_out_ratio_max: Number = item("ratio", "largest ratio with one series left out")
    tenant_ratio: Estimate = item(
        "ratio",
        "geometric mean over tenants, but for those at rest, of the ratio of their losses: every "
        "tenant alike",
    )
    largest_request_share: Number = item(
        "share", "of the one dearest request in all losses of the fixed configuration"
    )
    mean_log_ratio: Number = item(
        "log of a ratio", "mean over series of the log of search to fixed"
    )
    n_tenants_cheaper: int | None = item(
        "count",
        "tenants whose mean scaled loss is lower with the search; the headline tier only",
        left_out=True,
    )
    headroom_cross_fitted: Number = item(
        "share",
        "gain of one configuration per tenant, chosen on one half of the origins, scored on the "
        "other",
    )
    headroom_null_low: Number = item(
        "share",
        "lower limit of that gain where tenants are exchangeable (95 % of permutations)",
    )
    headroom_null_high: Number = item("share", "upper limit of the same")
    headroom_oracle_tenant: Number = item(
        "share", "gain of the best configuration per tenant in hindsight; inflated"
    )
    headroom_oracle_request: Number = item(
        "share", "gain of the best configuration per request in hindsight; inflated"
    )

    @property
    def alpha(self) -> float:
        """Return the tier's quantile level."""
        return round(1 - self.violation_rate_target, 10)


class MethodRow(Figures):
    """One method at one tier beside the fixed configuration."""

    tier: str = common("tier")
    method: str = common("method")
    mean_scaled_loss: Number = common("mean_scaled_loss")
    ratio: Estimate = common("ratio")
    win_rate: Estimate = common("win_rate")
    violation_rate: Number = common("violation_rate")
    mean_scaled_slack: Number = common("mean_scaled_slack")
    mean_scaled_crps: Number = common("mean_scaled_crps")
    n_requests: int = common("n_requests")
    n_tenants: int = common("n_tenants")
    n_days: int = common("n_days")
    n_failed: int = common("n_failed")


class GroupRow(MethodRow):
    """The search at one tier on one archetype's, or one metric's, requests."""

    scope: str = common("scope")
    scope_value: str = common("scope_value")


class UnscaledRow(Figures):
    """One method at one tier on one metric, in the metric's own unit."""

    tier: str = common("tier")
    metric: str = common("metric")
    method: str = common("method")
    loss: Number = common("loss")
    slack: Number = common("slack")
    shortfall: Number = common("shortfall")
    violation_rate: Number = common("violation_rate")


class StratumRow(Figures):
    """The search at one tier on the test requests whose answers rest on the same kind of history,
    beside the better of two simple methods.
    """

    tier: str = common("tier")
    basis: str = item("", "history that the answers rest on: full, shortened or cold")
    n_requests: int = item("count", "test requests on such a history")
    share: Number = item("share", "of all test requests, including those that cannot be asked")
    n_tenants: int = common("n_tenants")
    mean_loss_search: Number = item(_LOSS, "mean scaled loss of the search on these requests")
    rival: str = item(
        "", "the cheaper of the fixed configuration and the last value with change quantiles"
    )
    mean_loss_rival: Number = item(_LOSS, "the same of that method")
    ratio: Estimate = item("ratio", "of mean scaled losses, search to that method")


class TenantRow(Figures):
    """One of the tenants that gain or lose most from the search."""

    tier: str = common("tier")
    tenant_id: str = common("tenant_id")
    archetype: str | None = common("archetype")
    ratio: Estimate = common("ratio")
    mean_loss_search: Number = item(_LOSS, "the tenant's mean scaled loss with the search")
    mean_loss_fixed: Number = item(_LOSS, "the same with the fixed configuration")
    n_requests: int = common("n_requests")


class DearRequestRow(Figures):
    """One of the requests that move the ratio of sums most."""

    tier: str = common("tier")
    tenant_id: str = common("tenant_id")
    origin_time: str = item("", "when it was asked, UTC")
    loss_search: Number = item(_LOSS, "scaled loss of the search")
    loss_fixed: Number = item(_LOSS, "scaled loss of the fixed configuration")
    share: Number = item("share", "of its loss in all losses of the fixed configuration")


class HeadlineReport(Report):
    """Whether a choice of configuration per request costs less than the best single one."""

    horizon_steps: int = item("steps", "length of every forecast")
    n_requests: int = item("count", "test requests")
    n_invalid_requests: int = item("count", "of these, cannot be forecast or scored")
    n_test_tenants: int = item("count", "tenants of these requests")
    n_excluded_series: int = item("count", "series without a scale")
    invalid_reasons: dict[str, int] = item("count", "invalid requests by reason")
    n_tenants_without_requests: int = item("count", "test tenants none of whose requests is valid")
    tiers: dict[str, HeadlineOfTier] = group("<tier>")
    table_methods: tuple[MethodRow, ...] = table()
    table_archetypes: tuple[GroupRow, ...] = table()
    table_metrics: tuple[GroupRow, ...] = table()
    table_unscaled: tuple[UnscaledRow, ...] = table()
    table_tenants: tuple[TenantRow, ...] = table()
    table_strata: tuple[StratumRow, ...] = table()
    table_dear_requests: tuple[DearRequestRow, ...] = table()

    @property
    def headline_tier(self) -> str:
        """Return the tier of every figure that is shown for one tier only."""
        return headline_tier(self.tiers)

    @property
    def alphas(self) -> dict[str, float]:
        """Return the tiers and their quantile levels, in order."""
        return {tier: own.alpha for tier, own in self.tiers.items()}

    @property
    def group_scopes(self) -> tuple[str, ...]:
        """Return the kinds of groups: archetype (where there are archetypes) and metric."""
        return ("archetype", "metric") if self.table_archetypes else ("metric",)

    def groups(self, scope: str) -> tuple[GroupRow, ...]:
        """Return the rows of the search per archetype or per metric."""
        return self.table_archetypes if scope == "archetype" else self.table_metrics
