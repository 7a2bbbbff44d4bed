"""The settings of the search: what it may choose from, and the constants that nothing chooses.

What belongs here: the fields with their defaults, their validation, and what of them enters a
fingerprint. What does not: settings of anything else (`settings`), files with promoted values of
these fields (`policy_file`), and the search itself (`autoresearch`).
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

RULES: tuple[str, ...] = (
    "argmin",
    "shrunken_argmin",
    "no_harm",
    "top_m",
    "softmax",
    "tilted_ensemble",
    "gate",
)
"""Every rule's name, simplest first."""
TRAITS = ("posterior", "fleet", "retrieved", "spread", "every_origin", "other_hours")
"""Names of the gate's traits. Each validation origin that lies n whole seasons before the request
has a further one, `seasons_ago_<n>`.
"""
_TRAIT = re.compile(rf"{'|'.join(TRAITS)}|seasons_ago_[1-9][0-9]*")
EARLIER_CONSTANTS: Mapping[str, Any] = {
    "rules": list(RULES),
    "declared_rule": "gate",
    "gate_traits": None,
    "gate_coefficients": {
        "posterior": -2.5,
        "fleet": -2.5,
        "retrieved": -1.25,
        "spread": -0.75,
        "every_origin": -2.0,
        "other_hours": -1.0,
        "seasons_ago_1": -0.75,
        "seasons_ago_7": -2.25,
    },
    "base_shift_errors": 2.0,
    "portfolio_temperature": 0.05,
    "portfolio_prior_weight": 8.0,
    "token_price": 1.5e-5,
    "token_budget": None,
    "gate_even_share": 1.0,
    "switch_tenants": 1,
}
"""Settings that were constants in earlier releases, with the values (as JSON) that they had. A
setting with that value is not part of a fingerprint, so that tables of those releases stay valid.
These values stay as they are when a default changes.
"""


class SearchSettings(BaseModel):
    """The configurations of the search, the evidence that it uses, and the values among which its
    constants are chosen on tuning tenants.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    candidates: tuple[str, ...] = Field(
        (
            *(
                "ctx64",
                "ctx96",
                "ctx128",
                "ctx192",
                "ctx256",
                "ctx384",
                "ctx512",
                "ctx768",
                "ctx1024",
                "ctx1536",
                "ctx2048",
            ),
            *(
                "ctx640-r5",
                "ctx1280-r5",
                "ctx2560-r5",
                "ctx5120-r5",
                "ctx960-r15",
                "ctx2880-r15",
                "ctx7200-r15",
                "ctx5760-r30",
                "ctx14400-r30",
            ),
            *(
                "ctx64-s1x5",
                "ctx128-s1x5",
                "ctx256-s1x5",
                "ctx512-s1x5",
                "ctx1024-s1x5",
                "ctx2048-s1x5",
                "ctx1280-r5-s1x5",
                "ctx2880-r15-s1x5",
            ),
            *("ctx256-s2x2", "ctx1024-s2x2", "ctx1280-r5-s2x2"),
            *("ctx128-log", "ctx512-log", "ctx2048-log", "ctx2560-r5-log", "ctx7200-r15-log"),
        ),
        min_length=1,
        description="the search space: `config_portfolio` chooses among these on tuning tenants",
    )
    portfolio_size: int = Field(
        8,
        ge=1,
        description="configurations per request, at most: the first of the portfolio's ranks, as "
        "long as each saves more on tuning tenants than its tokens cost (`token_price`)",
    )
    ranked_size: int = Field(
        32,
        ge=1,
        description="ranks of the portfolio that are stored; the latency report times prefixes of "
        "them",
    )
    portfolio_tenants: int = Field(
        48, ge=1, description="tuning tenants whose requests the portfolio is chosen on, at most"
    )
    portfolio_origins: int = Field(3, ge=1, description="requests of each of them, at most")
    single_requests: int = Field(
        600,
        ge=1,
        description="tuning requests that the best single candidates are chosen on, at most; "
        "whole tenants, seeded",
    )
    recent_origins: int = Field(
        6, ge=1, description="validation origins one stride apart, the last one stride ago"
    )
    daily_origins: tuple[PositiveInt, ...] = Field(
        (1, 7),
        description="validation origins this many periods of the first season before the request",
    )
    temperatures: tuple[NonNegativeFloat, ...] = Field(
        (0.01, 0.02, 0.05, 0.1, 0.2),
        min_length=1,
        description="softmax temperatures in units of the mean loss; 0 would be argmin",
    )
    shrinkages: tuple[NonNegativeFloat, ...] = Field(
        (0.25, 1.0, 4.0, 16.0, 64.0),
        min_length=1,
        description="prior weight kappa, in validation origins",
    )
    correction_gains: tuple[NonNegativeFloat, ...] = Field(
        (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
        min_length=1,
        description="online level correction, in units of q.9 - q.5 per unit of excess violations",
    )
    neighbours: int = Field(
        5, ge=1, description="tuning tenants whose losses form the retrieved prior"
    )
    policy_requests: int = Field(
        1500,
        ge=1,
        description="tuning requests that constants are chosen on, at most; whole tenants, seeded",
    )
    half_lives: tuple[PositiveFloat, ...] = Field(
        (math.inf, 24.0, 6.0),
        min_length=1,
        description="half-lives of a validation origin's weight in horizons; inf weighs all alike",
    )
    same_hours: tuple[NonNegativeFloat, ...] = Field(
        (0.0, 1.0, 4.0),
        min_length=1,
        description="extra weight of validation origins at the request's time of day; the nearest "
        "origin's is 1",
    )
    top_ms: tuple[PositiveInt, ...] = Field(
        (2, 3, 4), min_length=1, description="how many configurations top_m averages"
    )
    margins: tuple[NonNegativeFloat, ...] = Field(
        (0.0, 0.02, 0.05, 0.1, 0.2, math.inf),
        min_length=1,
        description="gain in units of the mean loss below which no_harm keeps the fixed "
        "configuration",
    )
    tilts: tuple[PositiveFloat, ...] = Field(
        (0.05, 0.1, 0.2, 0.4, math.inf),
        min_length=1,
        description="temperatures of tilted_ensemble; inf is the static ensemble itself",
    )
    ensemble_epsilons: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.05, 0.2),
        min_length=1,
        description="share of tilted_ensemble's weights that is the same for all configurations",
    )
    gate_seed: int = Field(
        0,
        ge=0,
        description="of the split of tuning tenants: each part judges rules fitted to the others",
    )
    gate_ridge: float = Field(
        3.0,
        gt=0,
        description="weight of the gate's declared coefficients relative to the tuning evidence",
    )
    level_correction: bool = Field(
        True,
        description="whether the search corrects its level; a rival with it is scored in any case",
    )
    base_shifts: tuple[FiniteFloat, ...] = Field(
        tuple(round(0.05 * i, 2) for i in range(-10, 11)),
        min_length=1,
        description="fleet-wide level shifts in units of q.9 - q.5, ascending",
    )
    correction_shrinkages: tuple[NonNegativeFloat, ...] = Field(
        (1.0, 4.0, 16.0, 64.0),
        min_length=1,
        description="weight of other tenants' violation rates, in validation origins",
    )
    rules: tuple[str, ...] = Field(
        RULES,
        min_length=1,
        description="rules of which one decides; the others are fitted and scored beside them",
    )
    declared_rule: str = Field(
        "gate",
        description="the rule that decides, unless another of `rules` saves more than one standard "
        "error over tuning tenants, all rules cross-fitted",
    )
    switch_tenants: int = Field(
        10,
        ge=1,
        description="with fewer tuning tenants the declared rule decides, whatever they say",
    )
    gate_even_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the gate's weights that is even before traits are heard and tenants "
        "fitted; the rest is the static ensemble of the tuning tenants",
    )
    gate_traits: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="traits that the gate may use; the coefficients of all others are 0. None: all",
    )
    gate_coefficients: dict[str, FiniteFloat] = Field(
        {
            "posterior": -2.5,
            "fleet": -2.5,
            "retrieved": -1.25,
            "spread": -0.75,
            "every_origin": -2.0,
            "other_hours": -1.0,
            "seasons_ago_1": -0.75,
            "seasons_ago_7": -2.25,
        },
        description="the gate's coefficients before any tenant is fitted; 0 for a trait that is "
        "not listed. The defaults are half of those fitted on the tuning tenants of `synthetic` "
        "at alpha .75 and .65, rounded: on tuning rows of `smd` and `asd` half did better than "
        "the whole (docs/findings.md)",
    )
    base_shift_errors: float = Field(
        2.0,
        ge=0,
        description="a fleet-wide shift must save more than this many standard errors over tenants",
    )
    portfolio_temperature: float = Field(
        0.05,
        gt=0,
        description="temperature of the softmax that averages the members while the portfolio is "
        "chosen, in units of the best single configuration's loss",
    )
    portfolio_prior_weight: float = Field(
        8.0,
        gt=0,
        description="weight of the pooled loss against a request's own evidence while the "
        "portfolio is chosen, in validation origins",
    )
    token_price: float = Field(
        1.5e-5,
        ge=0,
        description="relative cost that a candidate must save per token that it and its validation "
        "take for one series. The default is 1 % for about 700 tokens, which take about 20 ms of "
        "a request with four metrics on one core",
    )
    token_budget: int | None = Field(
        None,
        ge=1,
        description="tokens that the ranked configurations and their validation may take for one "
        "series. The best single configurations, and what must be in the portfolio, enter in any "
        "case. None: no limit",
    )

    @field_validator("rules")
    @classmethod
    def _known_rules(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, set(names) - set(RULES), ", ".join(RULES))

    @field_validator("gate_traits", "gate_coefficients")
    @classmethod
    def _known_traits(cls, names: Any) -> Any:
        unknown = {name for name in names or () if not _TRAIT.fullmatch(name)}
        return _known(names, unknown, f"{', '.join(TRAITS)}, seasons_ago_<n>")

    @model_validator(mode="after")
    def _the_declared_rule_may_decide(self) -> "SearchSettings":
        if self.declared_rule not in self.rules:
            raise ValueError(
                f"declared_rule is {self.declared_rule!r}, which is not among rules; allowed: "
                f"{', '.join(self.rules)}"
            )
        return self

    def parameters(self, *names: str) -> dict[str, Any]:
        """Return the settings (or only those of these names) as JSON for a fingerprint: without
        those that have the value of an earlier release's constant.
        """
        values = self.model_dump(mode="json", include=set(names) or None)
        return {
            name: value
            for name, value in values.items()
            if name not in EARLIER_CONSTANTS or value != EARLIER_CONSTANTS[name]
        }


def _known(names: Any, unknown: Collection[str], allowed: str) -> Any:
    """Return the names; raise ValueError if some are unknown, or listed twice."""
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; allowed: {allowed}")
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"a name is listed twice; allowed: each of {allowed} once")
    return names
