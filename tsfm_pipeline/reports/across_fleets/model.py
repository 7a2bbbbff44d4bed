"""The across-fleets report's figures: the search's effect on every fleet, and pooled over fleets.

What belongs here: their names, units and meanings. What does not: computing (`numbers`), wording
(`words`) and drawing (`figures`) them.
"""

from tsfm_pipeline.evaluation.protocol import headline_tier
from tsfm_pipeline.reports.shared.fields import common
from tsfm_pipeline.reports.shared.model import Estimate, Figures, Number, group, item, table

_POOLED = "pooled ratio of mean scaled losses, search (or method) to fixed configuration"


class FleetRow(Figures):
    """The state of one fleet."""

    fleet: str = item("", "the fleet's name")
    title: str = item("", "its title")
    group: str = item("", "real or synthetic")
    status: str = item("", "current, no scores or not current")
    note: str = item("", "what to do about it, empty where it is current")
    n_tenants: int = item("count", "tenants of its current scores")


class EffectRow(Figures):
    """The search on one fleet at one tier."""

    fleet: str = item("", "the fleet's name")
    group: str = item("", "real or synthetic")
    tier: str = common("tier")
    ratio: Estimate = common("ratio")
    win_rate: Estimate = common("win_rate")
    violation_rate: Number = common("violation_rate")
    violation_rate_target: Number = common("violation_rate_target")
    n_requests: int = common("n_requests")
    n_tenants: int = common("n_tenants")
    n_days: int = common("n_days")
    seed: int = item("number", "the fleet's seed")
    pooled: bool = item("true or false", "whether it enters the pooled effects")
    contained_in: str = item("", "the larger fleet that holds its tenants; empty where none does")


class PooledRow(Figures):
    """The pooled effect of several fleets at one tier."""

    tier: str = common("tier")
    group: str = item("", "which fleets: real, synthetic or all")
    ratio: Estimate = item("ratio", _POOLED)
    normal_low: Number = item("ratio", "lower limit by the normal approximation")
    normal_high: Number = item("ratio", "upper limit by the normal approximation")
    tau: Number = item("log of a ratio", "standard deviation of the effect between fleets")
    n_fleets: int = item("count", "fleets; all synthetic ones count as one beside real ones")


class PooledMethodRow(PooledRow):
    """The same for one method."""

    method: str = common("method")


class SeedsRow(Figures):
    """How much the effect differs between seeds of the synthetic fleet."""

    tier: str = common("tier")
    fleets: str = item("", "the fleets and their seeds")
    n_seeds: int = item("count", "how many there are")
    lowest: Number = item("ratio", "lowest of their ratios")
    highest: Number = item("ratio", "highest of their ratios")
    log_deviation: Number = item("log of a ratio", "standard deviation of their logs")


class PoolFigures(Figures):
    """A pooled effect as flat keys, so that its history can be followed."""

    ratio: Estimate = item("ratio", _POOLED)
    n_fleets: int = item("count", "fleets of the pool")


class EvidenceReport(Figures):
    """On which fleets the search pays, on which it does not, and the pooled effects."""

    n_fleets: int = item("count", "fleets that there are")
    n_current: int = item("count", "of these, with current scores")
    not_current: tuple[str, ...] = item("", "fleets whose scores are out of date")
    pools: dict[str, PoolFigures] = group("<tier>_<group>")
    table_fleets: tuple[FleetRow, ...] = table()
    table_effects: tuple[EffectRow, ...] = table(left_out=True)
    table_pooled: tuple[PooledRow, ...] = table(left_out=True)
    table_methods: tuple[PooledMethodRow, ...] = table(left_out=True)
    table_seeds: tuple[SeedsRow, ...] = table(left_out=True)

    @property
    def tiers(self) -> list[str]:
        """Return the tiers of all fleets, highest alpha first."""
        targets = {row.tier: row.violation_rate_target for row in self.table_effects}
        return sorted(targets, key=lambda tier: (targets[tier], tier))

    @property
    def headline_tier(self) -> str:
        """Return the tier of every figure that is shown for one tier only."""
        return headline_tier(self.tiers)
