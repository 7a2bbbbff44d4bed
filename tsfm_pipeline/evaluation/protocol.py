"""The constants of the evaluation protocol: tiers and their alphas, tier shares, deciles, budget.

What belongs here: each of these constants once, and `Protocol`, the value that carries them to what
they decide. What does not: anything that a user sets (`settings`), which requests are asked
(`requests`), and arithmetic. Every room may import this module, and it imports no room.
"""

from statistics import median_low
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

TIERS: dict[str, float] = {"premium": 0.90, "standard": 0.75, "basic": 0.65}
"""Alpha of each tier, highest first: every array with a tier axis has this order."""
TIER_SHARES: dict[str, float] = {"premium": 0.2, "standard": 0.5, "basic": 0.3}
"""Share of tenants in each tier, where a fleet says nothing else."""
ALPHAS: tuple[float, ...] = tuple(TIERS.values())
HEADLINE_TIER = "standard"
"""The tier of every figure that is shown for one tier only, where a fleet has such a tier."""
DECILES: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels of the quantiles that every method forecasts."""
LATENCY_BUDGET_MS = 200.0
"""What one request may take from history to decision."""


class Protocol(BaseModel):
    """The protocol that one fleet is evaluated under, as fingerprints see it.

    Raises `pydantic.ValidationError` where an alpha lies beyond the outer deciles (no quantile can
    be read there), or where the shares name an unknown tier or do not sum to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiers: dict[str, float] = Field(TIERS, min_length=1, description="alpha of each tier, in order")
    tier_shares: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        TIER_SHARES,
        description="share of tenants in each tier",
    )
    deciles: tuple[float, ...] = Field(DECILES, min_length=1, description="levels, ascending")
    latency_budget_ms: float = Field(LATENCY_BUDGET_MS, gt=0, description="of one request")

    @model_validator(mode="after")
    def _alphas_within_the_deciles(self) -> "Protocol":
        low, high = self.deciles[0], self.deciles[-1]
        beyond = [tier for tier, alpha in self.tiers.items() if not low <= alpha <= high]
        if beyond:
            names = ", ".join(beyond)
            raise ValueError(f"the alpha of tier {names} lies outside of {low:g} to {high:g}")
        return self

    @model_validator(mode="after")
    def _shares_of_the_tiers(self) -> "Protocol":
        unknown = [tier for tier in self.tier_shares if tier not in self.tiers]
        if unknown:
            allowed = ", ".join(self.tiers)
            raise ValueError(f"there is no tier {', '.join(unknown)} to share; allowed: {allowed}")
        total = sum(self.tier_shares.values())
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the tier shares sum to {total:g}; they must sum to 1")
        return self

    @property
    def alphas(self) -> tuple[float, ...]:
        """The alpha of each tier, in their order."""
        return tuple(self.tiers.values())

    @property
    def headline_tier(self) -> str:
        """The tier of every figure that is shown for one tier only: `standard` where there is one,
        else the one of median alpha (of two, the lower).
        """
        if HEADLINE_TIER in self.tiers:
            return HEADLINE_TIER
        middle = median_low(self.tiers.values())
        return next(tier for tier, alpha in self.tiers.items() if alpha == middle)


PROTOCOL = Protocol()
"""The protocol of a fleet that does not change it."""
