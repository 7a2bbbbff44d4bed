"""The ablation report's figures: what each part of the search adds, its rivals, controls and floor.

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


class AblationOfTier(Figures):
    """Headroom beside its null, the part that the search captures, and the label-swap control."""

    headroom_cross_fitted: Estimate = item(
        "share",
        "gain of one configuration per tenant, cross-fitted, as in headline_report",
        limits=("headroom_low", "headroom_high"),
    )
    headroom_null_low: Number = item("share", "as in headline_report")
    headroom_null_high: Number = item("share", "as in headline_report")
    headroom_p_value: Number = item("share", "of the cross-fitted gain under its null")
    headroom_oracle_tenant: Number = item("share", "as in headline_report")
    headroom_oracle_request: Number = item("share", "as in headline_report")
    headroom_captured: Estimate = item(
        "share", "of the cross-fitted gain that the search takes; null where there is none"
    )
    regret: Estimate = item("share", "what the search costs more than the cross-fitted choice")
    label_swap_rejection_rate: Number = item(
        "share", "swapped labels that an interval calls an effect; about .05 is right"
    )
    default_rule: str = item("", "the rule that decides, per test fold")
    floor_mean_scaled_loss: Number | None = item(
        "units of the scale", "mean irreducible loss; synthetic fleets only", left_out=True
    )
    floor_monte_carlo_share: Number | None = item(
        "share", "of it that the finite number of paths adds", left_out=True
    )
    reducible_captured: Estimate | None = item(
        "share",
        "of the fixed configuration's loss above the floor that the search removes",
        left_out=True,
    )


class StepRow(Figures):
    """One step from the median to the whole search, at one tier, for all or for one group."""

    tier: str = common("tier")
    scope: str = common("scope")
    scope_value: str = common("scope_value")
    step: int = item("number", "position of the step")
    method: str = common("method")
    adds: str = item("", "what the step adds")
    mean_scaled_loss: Number = common("mean_scaled_loss")
    step_ratio: Estimate = item("ratio", "of mean scaled loss to the step before")
    ratio: Estimate = common("ratio")
    harmed: bool = item("true or false", "the search is shown to cost this group more")
    n_requests: int = common("n_requests")
    n_failed: int = common("n_failed")


class RivalRow(Figures):
    """One method at one tier, and the search's ratio to it."""

    tier: str = common("tier")
    method: str = common("method")
    forecasts: str = item(
        "", "what the method computes per request: none, 1 or K forecasts, validated or not"
    )
    mean_scaled_loss: Number = common("mean_scaled_loss")
    ratio: Estimate = common("ratio")
    search_ratio: Estimate = item("ratio", "of mean scaled loss, search to this method")
    beaten: str = item("", "yes, no or undecided, by that interval")
    n_failed: int = common("n_failed")


class SelectionRow(Figures):
    """How much one configuration weighs in the search's decisions."""

    tier: str = common("tier")
    scope: str = common("scope")
    scope_value: str = common("scope_value")
    config: str = common("config")
    mean_weight: Number = item("share", "mean weight in the search's decisions")
    share_chosen: Number = item("share", "series-requests at which it weighs most")
    n_series_requests: int = item("count", "series-requests: request and metric")


class ViolationRow(Figures):
    """How often demand exceeds the decision of one method."""

    tier: str = common("tier")
    method: str = common("method")
    violation_rate: Estimate = common("violation_rate")
    target: Number = item("share", "1 - alpha")
    excess: Number = item("share", "violation_rate - target")


class ControlRow(Figures):
    """The search with its own prior against the search with another."""

    tier: str = common("tier")
    control: str = item("", "the prior that the retrieved one is held against")
    ratio: Estimate = item("ratio", "of mean scaled losses")
    verdict: str = item("", "what the interval shows")


class DimensionRow(Figures):
    """One method with against without one dimension of the search space."""

    tier: str = common("tier")
    dimension: str = item("", "kind of configuration that is left out")
    method: str = common("method")
    n_configs: int = item("count", "configurations that use it")
    ratio: Estimate = item("ratio", "of mean scaled losses, with to without")
    verdict: str = item("", "what the interval shows")
    n_failed: int = common("n_failed")


class EventRow(Figures):
    """The search with against without known events, on the requests that they change."""

    tier: str = common("tier")
    n_events: int = item(
        "count", "known events: those in the fleet's file, and each one that its column marks"
    )
    n_requests: int = item("count", "test requests that lose a validation origin by an event")
    share: Number = item("share", "of the test requests")
    ratio: Estimate = item("ratio", "of mean scaled losses, with to without the events")
    verdict: str = item("", "what the interval shows")


class FloorRow(Figures):
    """One method's loss beside the irreducible one."""

    tier: str = common("tier")
    scope: str = common("scope")
    scope_value: str = common("scope_value")
    method: str = common("method")
    multiple: Estimate = item("ratio", "of mean scaled loss to the irreducible one")


class AblationReport(Report):
    """What each part of the search adds, which rivals it does not beat, and who is worse off."""

    group_scope: str = item("", "what groups are: archetype, tenant or metric")
    n_configs: int = item("count", "configurations of the grid")
    harmed_groups: tuple[str, ...] = item(
        "", "groups and tiers at which the search is shown to cost more"
    )
    n_harmed_groups: int = item("count", "how many of them")
    tiers: dict[str, AblationOfTier] = group("<tier>")
    table_steps: tuple[StepRow, ...] = table()
    table_rivals: tuple[RivalRow, ...] = table()
    table_selection: tuple[SelectionRow, ...] = table()
    table_violations: tuple[ViolationRow, ...] = table()
    table_controls: tuple[ControlRow, ...] = table()
    table_dimensions: tuple[DimensionRow, ...] = table(left_out=True)
    table_events: tuple[EventRow, ...] = table(left_out=True)
    table_floor: tuple[FloorRow, ...] = table(left_out=True)

    @property
    def headline_tier(self) -> str:
        """Return the tier of every figure that is shown for one tier only."""
        return headline_tier(self.tiers)

    @property
    def alphas(self) -> dict[str, float]:
        """Return the tiers and their quantile levels, in order."""
        return {row.tier: round(1 - row.target, 10) for row in self.table_violations}

    @property
    def violation_rates(self) -> dict[tuple[str, str], Estimate]:
        """Return how often demand exceeds the decision, by tier and method."""
        return {(row.tier, row.method): row.violation_rate for row in self.table_violations}
