"""The constants of the evaluation protocol: tiers and their alphas, tier shares, deciles, budget.

What belongs here: each of these constants once, `Protocol`, the value that passes them to the code
that uses them, and the rules for a fleet's own tiers. What does not: anything that a user sets
(`settings`), the choice of requests (`requests`), and arithmetic. Every package of the house may
import this module, and it imports none of them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

TIERS: dict[str, float] = {"premium": 0.90, "standard": 0.75, "basic": 0.65}
"""Default alpha of each tier, highest first. Every array with a tier axis has the order of its
fleet's tiers.
"""
TIER_SHARES: dict[str, float] = {"premium": 0.2, "standard": 0.5, "basic": 0.3}
"""Default share of tenants in each tier."""
ALPHAS: tuple[float, ...] = tuple(TIERS.values())
HEADLINE_TIER = "standard"
"""The tier of every figure that is shown for one tier only, where a fleet has such a tier."""
HIGHEST_ALPHA = 0.975
"""Above the .9 decile a decision depends on an assumed tail (`losses.decision_quantile`). Up to
this alpha the tail's error lies within the level shifts that tuning tenants choose from. It is also
the highest level that the 40 equally likely values of a step (`blocks`) can represent.
"""
DECILES: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels of the quantiles that every method forecasts."""
LATENCY_BUDGET_MS = 200.0
"""Longest time that one request may take from history to decision."""


_TIER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_RESERVED_TIERS = frozenset({"all", "median", "n", "rate", "test", "tuning"})
"""Names that columns and keys already use: `loss_median`, `violation_rate`, `n_test_tenants`."""


def require_tiers(tiers: Mapping[str, float]) -> None:
    """Raise ValueError, with the allowed values, unless forecasts can serve these alphas by tier
    and the tiers' names keep columns and keys distinct.
    """
    if not tiers:
        raise ValueError("there is no tier; a fleet has at least one")
    for tier, alpha in tiers.items():
        if not _TIER_NAME.fullmatch(tier) or tier.lower() in _RESERVED_TIERS:
            taken = ", ".join(sorted(_RESERVED_TIERS))
            raise ValueError(
                f"no tier can be called {tier!r}; allowed: up to 32 letters, digits, '-' and '_', "
                f"beginning with a letter or digit, and none of {taken}"
            )
        if not DECILES[0] <= alpha <= HIGHEST_ALPHA:
            raise ValueError(
                f"the alpha of tier {tier} is {alpha:g}; allowed: {DECILES[0]:g} to "
                f"{HIGHEST_ALPHA:g}, because forecasts say too little about what is rarer"
            )
    names = sorted(tiers, key=str.lower)
    for tier in names:
        for other in names:
            same = other is not tier and other.lower() == tier.lower()
            if same or other.lower().startswith(f"{tier.lower()}_"):
                raise ValueError(
                    f"tiers {tier} and {other} cannot be told apart in names like "
                    f"'{other}_ratio'; rename one of them"
                )
    if len(set(tiers.values())) < len(tiers):
        raise ValueError("two tiers have the same alpha; make them one")


def require_shares(shares: Mapping[str, float], tiers: Mapping[str, float]) -> None:
    """Raise ValueError unless the shares are of these tiers and sum to 1."""
    unknown = [tier for tier in shares if tier not in tiers]
    if unknown:
        allowed = ", ".join(tiers)
        raise ValueError(f"there is no tier {', '.join(unknown)} to share; allowed: {allowed}")
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"the tier shares sum to {total:g}; they must sum to 1")


def default_shares(tiers: Mapping[str, float]) -> dict[str, float]:
    """Return the default shares of tiers: `TIER_SHARES` for the default tiers, whatever their
    alphas, and equal shares for others.
    """
    if set(tiers) == set(TIER_SHARES):
        return {tier: TIER_SHARES[tier] for tier in tiers}
    return dict.fromkeys(tiers, 1 / len(tiers))


class Protocol(BaseModel):
    """The protocol under which one fleet is evaluated; part of fingerprints.

    Raises `pydantic.ValidationError` where `require_tiers` or `require_shares` raise ValueError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiers: dict[str, float] = Field(TIERS, description="alpha of each tier, in order")
    tier_shares: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        TIER_SHARES,
        description="share of tenants in each tier",
    )
    deciles: tuple[float, ...] = Field(DECILES, min_length=1, description="levels, ascending")
    latency_budget_ms: float = Field(LATENCY_BUDGET_MS, gt=0, description="of one request")

    @property
    def headline_tier(self) -> str:
        """The tier of every figure that is shown for one tier only."""
        return headline_tier(self.tiers)

    @model_validator(mode="after")
    def _answerable(self) -> "Protocol":
        require_tiers(self.tiers)
        require_shares(self.tier_shares, self.tiers)
        return self

    @property
    def alphas(self) -> tuple[float, ...]:
        """The alpha of each tier, in their order."""
        return tuple(self.tiers.values())


def headline_tier(tiers: Iterable[str]) -> str:
    """Return the tier to show where only one is shown: `standard`, or the one with the median
    alpha.

    tiers: names, highest alpha first; of two in the middle, the lower one counts.
    """
    names = list(tiers)
    usual = HEADLINE_TIER in names or not names
    return HEADLINE_TIER if usual else names[len(names) // 2]


PROTOCOL = Protocol()
"""The protocol of a fleet that does not change it."""
