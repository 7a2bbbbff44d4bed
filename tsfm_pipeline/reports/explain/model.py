"""The figures that explain one tenant's recommendations.

What belongs here: their names, units and meanings. What does not: reading (`numbers`) and wording
(`words`) them.
"""

from tsfm_pipeline.reports.shared.fields import common
from tsfm_pipeline.reports.shared.model import Figures, Number, Report, item, table

_METRIC = "units of the metric"
_OWN = "at the tenant's own tier"


class ReservationRow(Figures):
    """What to reserve of one metric at one tier, and what rivals would reserve."""

    metric: str = common("metric")
    tier: str = common("tier")
    own_tier: bool = item("true or false", "whether it is the tenant's own tier")
    reservation: Number = item(_METRIC, "constant for all steps of the block")
    reservation_max: Number = item(_METRIC, "constant for the block's maximum")
    reservation_median: Number = item(_METRIC, "median of the block's pooled distribution")
    reservation_fixed: Number = item(_METRIC, "what the fixed configuration would reserve")
    reservation_last_block: Number = item(_METRIC, "alpha-quantile of the block before")
    expected_violation_rate: Number = item(
        "share", "steps above such constants on the tuning tenants, before the test period"
    )
    config: str | None = item("", "the configuration of largest weight")
    config_weight: Number = item("share", "its weight")
    relative_validation_loss: Number = item(
        "ratio", "its posterior validation loss over the fixed configuration's"
    )
    n_validation_origins: int = item(
        "count", "earlier origins of the series that were scored for this recommendation"
    )
    basis: str = item("", "full or shortened: the series' own past; cold: others' experience alone")
    note: str = item("", "why there is none, or what the backtest does not cover; empty otherwise")


class WeightRow(Figures):
    """One configuration that has weight, or is the fixed one, at the scored request."""

    metric: str = common("metric")
    config: str = common("config")
    is_fixed: bool = item("true or false", "whether it is the best fixed configuration")
    weight: Number = item("share", "its weight in the average; null where none is stored")
    posterior: Number = item(
        "ratio", "its relative posterior loss: validation losses and the experience of others"
    )
    mean_validation_loss: Number = item(_METRIC, "mean over the validation origins")
    n_validation_origins: int = item("count", "validation origins at which it could forecast")


class ValidationRow(Figures):
    """The loss of one of these configurations at one earlier origin of the same series."""

    metric: str = common("metric")
    config: str = common("config")
    offset_steps: int = item("steps", "how far before the request the validation origin lies")
    offset_minutes: float = item("minutes", "the same")
    loss: Number = common("loss")


class CorrectionRow(Figures):
    """How the level of one metric's forecasts was corrected."""

    metric: str = common("metric")
    shift: Number = item(
        "units of q.9 - q.5", "correction of the level at the scored request; 0: none"
    )
    violation_rate: Number = item(
        "share", "steps above such constants on the tuning tenants, before the test period"
    )
    violation_rate_target: Number = common("violation_rate_target")
    peak_factor: Number = item(
        "ratio", "allowances that a block's maximum needs above the constant for all steps"
    )
    n_blocks: int = item("count", "blocks of tuning tenants that both are from")


class NeighbourRow(Figures):
    """A tuning tenant that resembles the tenant."""

    rank: int = item("number", "from 1, the most similar first")
    tenant_id: str = common("tenant_id")
    archetype: str | None = common("archetype")
    similarity: float = item("cosine", "of the features of the latest telemetry, at most 1")


class BacktestRow(Figures):
    """What such constants would have cost the tenant at its own test requests."""

    metric: str = common("metric")
    n_requests: int = item("count", "valid test requests of the tenant")
    ratio_fixed: Number = item(
        "ratio", "of summed losses, the search's constants to the fixed configuration's"
    )
    ratio_last_block: Number = item("ratio", "the same, to the last block's constants")
    violation_rate: Number = item("share", "observed steps above the constant")
    violation_rate_target: Number = common("violation_rate_target")
    covered: Number = item("share", "blocks whose maximum stayed below the constant for it")


class MissRow(Figures):
    """A test request in which the load exceeded the reservation."""

    metric: str = common("metric")
    block_start: str = item("", "when the block begins")
    block_end: str = item("", "when its last step is")
    reservation: Number = item(_METRIC, "the constant for all steps")
    highest: Number = item(_METRIC, "the highest load of the block")
    n_above: int = item("count", "observed steps above the reservation")
    n_observed: int = item("count", "observed steps")
    minutes_above: float = item("minutes", "the steps above it, together")
    shortfall: Number = common("shortfall")


class TenantExplanation(Report):
    """Why this is what a tenant should reserve."""

    tenant_id: str = common("tenant_id")
    tier: str = item("", "the tenant's own tier")
    alpha: float = item("share", "the tier's alpha")
    archetype: str | None = item("", "archetype that the tenants which resemble it vote for")
    basis: str = item(
        "", "full, shortened or cold; the weakest of the recommendations at the own tier"
    )
    block_start: str = item("", "when the block begins that is recommended for")
    block_end: str = item("", "when its last step is")
    block_minutes: float = item("minutes", "length of the block")
    rule: str = item("", f"the rule that weighs the configurations {_OWN}")
    scored_request: str | None = item(
        "",
        "time of the latest request that is stored with its evidence; weights, validation losses "
        "and corrections are from there",
    )
    scored_role: str | None = item("", "test, or tuning for a tenant that is never tested")
    table_reservations: tuple[ReservationRow, ...] = table()
    table_weights: tuple[WeightRow, ...] = table()
    table_validation: tuple[ValidationRow, ...] = table()
    table_corrections: tuple[CorrectionRow, ...] = table()
    table_neighbours: tuple[NeighbourRow, ...] = table()
    table_backtest: tuple[BacktestRow, ...] = table()
    table_misses: tuple[MissRow, ...] = table()

    @property
    def own(self) -> tuple[ReservationRow, ...]:
        """Return the rows of the tenant's own tier."""
        return tuple(row for row in self.table_reservations if row.own_tier)
