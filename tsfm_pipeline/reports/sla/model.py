"""The SLA report's figures: what each tier reserves, and whether that is right for its prices.

What belongs here: their names, units and meanings. What does not: computing (`numbers`), wording
(`words`) and drawing (`figures`) them.
"""

from tsfm_pipeline.reports.shared.fields import common
from tsfm_pipeline.reports.shared.model import Estimate, Figures, Number, Report, item, table

_LIMITS = ("low", "high")


class TierRow(Figures):
    """The search's reservations at one tier, and how often demand exceeded them."""

    tier: str = common("tier")
    alpha: float = item("level", "the tier's quantile level")
    mean_scaled_decision: Estimate = item("units of the scale", "mean decision", limits=_LIMITS)
    violation_rate: Estimate = common("violation_rate")
    violation_rate_target: Number = common("violation_rate_target")
    mean_scaled_slack: Number = common("mean_scaled_slack")
    mean_scaled_shortfall: Number = item(
        "units of the scale",
        "mean over requests of shortfall over scale",
    )
    n_requests: int = common("n_requests")


class StepRow(Figures):
    """How much more one tier reserves than the next lower one, on the same requests."""

    higher_tier: str = item("", "the tier that reserves more")
    lower_tier: str = item("", "the next tier")
    difference: Estimate = item(
        "units of the scale",
        "mean difference of their decisions",
        limits=_LIMITS,
    )


class CrossRow(Figures):
    """One tier served with another tier's forecast."""

    forecast_tier: str = item("", "whose forecast is used")
    scored_tier: str = item("", "at whose alpha it is scored")
    mean_scaled_loss: Number = common("mean_scaled_loss")
    own_mean_scaled_loss: Number = item("units of the scale", "of the scored tier's own forecast")
    ratio: Estimate = item("ratio", "of the two")


class SlaReport(Report):
    """Whether the tiers get different forecasts, each the best one under its own alpha."""

    table_tiers: tuple[TierRow, ...] = table()
    table_steps: tuple[StepRow, ...] = table()
    table_cross: tuple[CrossRow, ...] = table()

    @property
    def alphas(self) -> dict[str, float]:
        """Return the tiers and their quantile levels, in order."""
        return {row.tier: row.alpha for row in self.table_tiers}
