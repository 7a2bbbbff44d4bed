"""The decision policy: portfolio, validation schedule, and rules and corrections with constants
that were chosen on tuning tenants.

What belongs here: `SearchPolicy` and its decisions from evidence and priors. What does not: the
choice of its constants (`tuning`), the arithmetic of single rules (`rules`, `calibration`), the
timing of a live request (`engine`).
Axes: D metrics, K configurations, J validation origins, A tiers in the order of the policy's
`alphas`, H horizon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.calibration import LevelCorrection
from tsfm_pipeline.autoresearch.gate import traits
from tsfm_pipeline.autoresearch.rules import PRIOR_KINDS, PriorKind, Rule
from tsfm_pipeline.autoresearch.space import require_distinct
from tsfm_pipeline.evaluation.arrays import given
from tsfm_pipeline.evaluation.limits import UNLIMITED, Limits, emitted
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.protocol import TIERS

__all__ = [
    "PRIOR_KINDS",
    "Decision",
    "PriorKind",
    "RuleFigures",
    "SearchPolicy",
    "TierPolicy",
    "level_unit",
]

Floats = NDArray[np.floating]


class RuleFigures(BaseModel):
    """The results of one rule on the tuning requests, cross-fitted: at each tenant with the
    constants that other tenants chose (those of a level correction were chosen on all).

    loss: mean scaled loss. excess_over_default: mean paired difference to the default rule's loss;
    standard_error: its error, clustered by tenant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    loss: float
    violation_rate: float
    excess_over_default: float
    standard_error: float


class TierPolicy(BaseModel):
    """One tier's rules, the name of the rule that decides, and the correction of its level.

    correction: None if the stage is switched off. fixed_config and fixed_correction: position of
    the configuration that the search must beat, and the same kind of correction fitted for it.
    figures: results on the tuning requests by rule; "corrected" is the default rule with its
    correction, "fixed" and "fixed_corrected" are the fixed configuration without and with its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    rules: dict[str, Rule]
    default: str
    correction: LevelCorrection | None
    fixed_config: int
    fixed_correction: LevelCorrection
    figures: dict[str, RuleFigures]

    @model_validator(mode="after")
    def _default_is_a_rule(self) -> "TierPolicy":
        if self.default not in self.rules:
            raise ValueError(
                f"the default rule is {self.default!r}; allowed: {', '.join(self.rules)}"
            )
        return self

    def rule(self, name: str | None = None) -> Rule:
        """Return the rule of that name; None means the default rule. Raises ValueError, with the
        known names, for an unknown one.
        """
        name = self.default if name is None else name
        if name not in self.rules:
            raise ValueError(f"no rule is named {name!r}; allowed: {', '.join(self.rules)}")
        return self.rules[name]


def level_unit(deciles: Floats) -> Floats:
    """Return the unit of level shifts, q.9 - q.5: deciles [..., 9] -> [...]."""
    unit: Floats = deciles[..., 8] - deciles[..., 4]
    return unit


@dataclass(frozen=True)
class Decision:
    """The search's answer: weights [..., A, K], deciles [..., A, H, 9], decision [..., A, H],
    shift [..., A], posterior [..., A, K].
    """

    weights: Floats
    deciles: Floats
    decision: Floats
    shift: Floats
    posterior: Floats


class SearchPolicy(BaseModel):
    """Everything that a decision depends on besides the request's history and the priors; frozen
    and serialisable.

    offsets: the validation origins, in steps before the request. season: the length of a day in
    steps, None if the fleet has no season. alphas: by tier, in the order of the arrays' axis; the
    default alphas are not serialised, and apply where none are given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    portfolio: tuple[str, ...]
    offsets: tuple[int, ...]
    horizon: int
    season: int | None
    tiers: dict[str, TierPolicy]
    alphas: dict[str, float] = Field(default_factory=lambda: dict(TIERS))

    @model_validator(mode="after")
    def _an_alpha_per_tier(self) -> "SearchPolicy":
        if set(self.alphas) != set(self.tiers):
            raise ValueError(
                f"alphas are given for {', '.join(self.alphas)}, and rules for "
                f"{', '.join(self.tiers)}; both must name the same tiers"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_default_alphas(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        if list(self.alphas.items()) == list(TIERS.items()):
            del fields["alphas"]
        return fields

    @field_validator("portfolio")
    @classmethod
    def _distinct(cls, portfolio: tuple[str, ...]) -> tuple[str, ...]:
        require_distinct(portfolio)
        return portfolio

    def decide(
        self,
        deciles: Floats,
        losses: Floats,
        violations: Floats,
        priors: Mapping[str, Floats],
        violation_priors: Floats,
        rule: str | None = None,
        correct: bool = True,
        limits: Limits = UNLIMITED,
    ) -> Decision:
        """Weigh the configurations for every tier, average their quantiles and correct the level.

        deciles [..., K, H, 9], losses and violations [..., K, J, A], priors {kind: [..., K, A]},
        violation_priors [..., K, A]. rule: name of a rule to use in place of the tier's default;
        correct: False skips the level correction. limits: of the metrics, which the last of the
        leading axes [...] then holds; a decision lies within them, and is never below that of a
        lower tier (`limits.emitted`).
        """
        available = given(deciles)  # [..., K]
        spread = level_unit(deciles).mean(axis=-1)
        per_tier = []
        for a, (tier, alpha) in enumerate(self.alphas.items()):
            tier_priors = {kind: prior[..., a] for kind, prior in priors.items()}
            weight, posterior = self._weigh(
                tier, losses[..., a], tier_priors, spread, available, rule
            )
            combined = limits.clip(rules.combine(weight, deciles), axis=-3)
            decision = decision_quantile(combined, alpha)
            correction = self.tiers[tier].correction if correct else None
            shift = np.zeros(weight.shape[:-1])
            if correction is not None:
                shift = correction.shift(
                    violations[..., a],
                    violation_priors[..., a],
                    weight,
                    alpha,
                    self.offsets,
                    self.season,
                )
                decision = decision + shift[..., None] * level_unit(combined)
            per_tier.append((weight, combined, decision, shift, posterior))
        stacked = zip(*per_tier, strict=True)
        axes = (-2, -3, -2, -1, -2)
        weights, combined, decision, shift, posterior = (
            np.stack(parts, axis=axis) for parts, axis in zip(stacked, axes, strict=True)
        )
        alphas = tuple(self.alphas.values())
        decision = emitted(decision, alphas, limits, metric_axis=-3, tier_axis=-2)
        return Decision(weights, combined, decision, shift, posterior)

    def _weigh(
        self,
        tier: str,
        evidence: Floats,
        priors: Mapping[str, Floats],
        spread: Floats,
        available: NDArray[np.bool_],
        rule: str | None,
    ) -> tuple[Floats, Floats]:
        """Return one tier's weights and posterior losses [..., K]: evidence [..., K, J], priors
        {kind: [..., K]}, spread, available [..., K].

        Unavailable configurations are masked out first, so that they do not affect the relative
        losses of the others.
        """
        chosen = self.tiers[tier].rule(rule)
        weights = rules.evidence_weights(
            self.offsets, self.season, chosen.half_life, chosen.same_hour
        )
        masked_evidence = np.where(available[..., None], evidence, np.nan)
        masked_priors = {kind: np.where(available, prior, np.nan) for kind, prior in priors.items()}
        posterior = rules.posterior_losses(
            masked_evidence, masked_priors[chosen.prior], chosen.kappa, weights
        )
        judged = chosen.judged(
            posterior,
            lambda: traits(
                posterior, masked_priors, masked_evidence, spread, self.offsets, self.season
            ),
        )
        return chosen.weights(judged, available), posterior

    def prior_order(self, priors: Mapping[str, Floats], tier: str) -> NDArray[np.int64]:
        """Return the configurations [K] in the order in which a request with little time should
        evaluate them: priors {kind: [D, K, A]} of one request.

        The order is by the weight that the default rule gives on the prior alone, mean over all
        metrics, largest first. Ties are ordered by mean prior loss; an unknown loss counts as
        average.
        """
        tier_priors = {
            kind: prior[..., list(self.alphas).index(tier)] for kind, prior in priors.items()
        }
        spread = np.full(tier_priors["fleet"].shape, np.nan)  # [D, K]
        evidence = np.full((*spread.shape, len(self.offsets)), np.nan)
        weight, prior = self._weigh(
            tier, evidence, tier_priors, spread, np.ones(spread.shape, dtype=bool), None
        )
        return np.lexsort(
            (np.where(np.isnan(prior), 1.0, prior).mean(axis=0), -weight.mean(axis=0).round(12))
        )

    def over(self, portfolio: Sequence[str]) -> "SearchPolicy":
        """Return the same policy over other configurations; each keeps the constants that belong
        to it by name (ensemble weight, fixed choice).
        """
        known = {name: k for k, name in enumerate(self.portfolio)}
        positions = [known.get(name) for name in portfolio]
        tiers = {}
        for name, tier in self.tiers.items():
            moved = {key: rule.over(positions) for key, rule in tier.rules.items()}
            fixed = positions.index(tier.fixed_config) if tier.fixed_config in positions else 0
            tiers[name] = tier.model_copy(update={"rules": moved, "fixed_config": fixed})
        return self.model_copy(update={"portfolio": tuple(portfolio), "tiers": tiers})
