"""The cold-start report's figures: what a tenant with little history may expect.

What belongs here: their names, units and meanings. What does not: computing (`numbers`), wording
(`words`) and drawing (`figures`) them.
"""

from tsfm_pipeline.evaluation.protocol import headline_tier
from tsfm_pipeline.reports.shared.fields import common
from tsfm_pipeline.reports.shared.model import Estimate, Figures, Number, Report, item, table

_LOSS = "units of the scale"


class StrategyRow(Figures):
    """One way to decide with so many minutes of history, at one tier."""

    minutes: int = item("minutes", "history that the tenant brings")
    tier: str = common("tier")
    strategy: str = item("", "what decides")
    mean_scaled_loss: Number = common("mean_scaled_loss")
    ratio: Estimate = item("ratio", "of mean scaled loss to full history's")
    n_requests: int = common("n_requests")
    n_tenants: int = common("n_tenants")


class GapRow(Figures):
    """The share of the gap to full history that one prior closes, at one tier."""

    minutes: int = item("minutes", "history that the tenant brings")
    tier: str = common("tier")
    prior: str = item("", "whose experience is borrowed")
    gap: Estimate = item(_LOSS, "mean scaled loss without a prior above full history's")
    gap_closed: Estimate = item("share", "of the gap that the prior closes")
    advantage_over_fleet_prior: Estimate = item(
        _LOSS,
        "what the retrieved prior gains over the fleet-wide one; null for the other priors",
        limits=("advantage_low", "advantage_high"),
    )


class RetrievalRow(Figures):
    """How often the archetype of a held-out tenant is found, by the length of its history."""

    history: str = item("", "minutes of history that the query sees, or full")
    top1_accuracy: Estimate = item(
        "share",
        "queries whose archetype is found",
        limits=("top1_low", "top1_high"),
    )
    balanced_accuracy: Number = item("share", "mean over archetypes of the same")
    majority_share: Number = item(
        "share",
        "what always naming the commonest archetype would reach",
    )
    n_queries: int = item("count", "queries")


class ColdStartReport(Report):
    """What a tenant with half an hour to eight hours of history may expect."""

    configs: tuple[str, ...] = item("", "the configurations that short histories can fill")
    retrieval_full_top1: Number = item("share", "tenants whose archetype is found, history full")
    retrieval_full_balanced: Number = item(
        "share",
        "mean over archetypes of the same, history full",
    )
    retrieval_120_top1: Number = item("share", "tenants whose archetype is found, history 120")
    retrieval_120_balanced: Number = item(
        "share",
        "mean over archetypes of the same, history 120",
    )
    table_cold_start: tuple[StrategyRow, ...] = table()
    table_gap: tuple[GapRow, ...] = table()
    table_retrieval: tuple[RetrievalRow, ...] = table()

    @property
    def headline_tier(self) -> str:
        """Return the tier of every figure that is shown for one tier only."""
        return headline_tier(dict.fromkeys(row.tier for row in self.table_cold_start))

    def strategies_at(self, tier: str) -> dict[tuple[int, str], StrategyRow]:
        """Return one tier's rows by minutes and strategy."""
        rows = (row for row in self.table_cold_start if row.tier == tier)
        return {(row.minutes, row.strategy): row for row in rows}

    def gaps_at(self, tier: str) -> dict[tuple[int, str], GapRow]:
        """Return one tier's gaps by minutes and prior."""
        return {(row.minutes, row.prior): row for row in self.table_gap if row.tier == tier}
