"""The rows of a tuning sample: they score any set of constants at one tier.

What belongs here: the arrays of the usable rows, the evidence and schedule behind them, and the
loss of a rule or a correction on them. What does not: the search over constants (`tuning`).
Axes: R requests, D metrics, K configurations, J validation origins, A tiers, H horizon; M rows,
each one metric of one request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.calibration import (
    LevelCorrection,
    Outcomes,
    fit_correction,
    own_rates,
    weighed_excess,
)
from tsfm_pipeline.autoresearch.gate import traits
from tsfm_pipeline.autoresearch.policy import RuleFigures
from tsfm_pipeline.autoresearch.rules import DecisionRule
from tsfm_pipeline.baselines.combinations import TuningSample
from tsfm_pipeline.evaluation.limits import Limits
from tsfm_pipeline.settings import SearchSettings

Floats = NDArray[np.floating]
MOST_POSTERIORS = 256
"""Posteriors that a tier's rows keep; all rules ask for those of the same few constants."""


@dataclass(frozen=True)
class TuningEvidence:
    """The search's evidence and priors at the requests of a `TuningSample`.

    losses and violations [R, D, K, J, A]; priors {kind: [R, D, K, A]} and violation_priors
    [R, D, K, A], each without the request's own tenant.
    """

    losses: Floats
    violations: Floats
    priors: Mapping[str, Floats]
    violation_priors: Floats


@dataclass(frozen=True)
class Schedule:
    """Validation offsets [J], the length of a day and the half-lives to choose from, in steps."""

    offsets: tuple[int, ...]
    season: int | None
    half_lives: tuple[float, ...]

    def weights(self, half_life: float, same_hour: float) -> Floats:
        return rules.evidence_weights(self.offsets, self.season, half_life, same_hour)


@dataclass(frozen=True)
class TierRows:
    """The M usable rows of one tier, in float32, which every set of constants is scored on.

    decisions and units (q.9 - q.5) [M, K, H], 0 where unavailable; available [M, K]; evidence and
    violations [M, K, J]; priors {kind: [M, K]}; violation_prior [M, K]; limits of the rows [M].
    means, rates and posteriors: what several sets of constants share, by these constants. sums: the
    losses of rules that were asked for, by tenant.
    """

    alpha: float
    schedule: Schedule
    decisions: Floats
    units: Floats
    available: NDArray[np.bool_]
    outcomes: Outcomes
    evidence: Floats
    violations: Floats
    priors: Mapping[str, Floats]
    violation_prior: Floats
    limits: Limits
    means: dict[tuple[float, float], tuple[Floats, Floats]] = field(default_factory=dict)
    rates: dict[tuple[float, float], tuple[Floats, Floats]] = field(default_factory=dict)
    posteriors: dict[tuple[str, float, float, float], Floats] = field(default_factory=dict)
    sums: dict[DecisionRule, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        sample: TuningSample,
        evidence: TuningEvidence,
        usable: NDArray[np.bool_],
        available: NDArray[np.bool_],
        a: int,
        alpha: float,
        schedule: Schedule,
    ) -> "TierRows":
        here = available[usable]  # [M, K]

        def rows(values: Floats, where_available: bool = True, otherwise: float = np.nan) -> Floats:
            picked = np.asarray(values[usable], dtype=np.float32)
            mask = here.reshape(here.shape + (1,) * (picked.ndim - 2))
            return np.where(mask, picked, np.float32(otherwise)) if where_available else picked

        return cls(
            alpha=alpha,
            schedule=schedule,
            decisions=rows(sample.decisions[..., a, :], otherwise=0.0),
            units=rows(sample.spread, otherwise=0.0),
            available=here,
            outcomes=Outcomes(
                rows(sample.actual, where_available=False),
                rows(sample.scale, where_available=False),
                np.repeat(sample.tenants, usable.sum(axis=1)),
            ),
            evidence=rows(evidence.losses[..., a]),
            violations=rows(evidence.violations[..., a]),
            priors={kind: rows(prior[..., a]) for kind, prior in evidence.priors.items()},
            violation_prior=rows(evidence.violation_priors[..., a]),
            limits=sample.limits.take(np.nonzero(usable)[1]),
        )

    def weights(self, rule: DecisionRule) -> Floats:
        """Return the rule's weights at every row [M, K]."""
        return rule.weights(
            rule.judged(self.posterior(rule), lambda: self.traits(rule)), self.available
        )

    def posterior(self, rule: DecisionRule) -> Floats:
        """Return every row's posterior losses [M, K] under the rule's constants."""
        key = (rule.half_life, rule.same_hour)
        constants = (rule.prior, rule.kappa, *key)
        if constants in self.posteriors:
            return self.posteriors[constants]
        if key not in self.means:
            self.means[key] = rules.mean_on_shared_windows(
                self.evidence, self.schedule.weights(*key)
            )
        posterior = rules.shrunken(*self.means[key], self.priors[rule.prior], rule.kappa)
        if len(self.posteriors) < MOST_POSTERIORS:
            self.posteriors[constants] = posterior
        return posterior

    def traits(self, rule: DecisionRule) -> Floats:
        """Return every row's traits [M, K, P]; the posterior uses the rule's constants."""
        spread = np.where(self.available, self.units.mean(axis=-1), np.nan)
        return traits(
            self.posterior(rule),
            self.priors,
            self.evidence,
            spread,
            self.schedule.offsets,
            self.schedule.season,
        )

    def decide(self, weight: Floats, correction: LevelCorrection | None = None) -> Floats:
        """Return the decisions [M, H] under weights [M, K]."""
        decision = self.limits.clip(rules.weighted(weight, self.decisions))
        if correction is None:
            return decision
        excess = self._excess(weight, correction.kappa, correction.half_life, correction.same_hour)
        shift = (correction.base_shift + correction.gain * excess).astype(np.float32)
        return self.limits.clip(decision + shift[:, None] * rules.weighted(weight, self.units))

    def tenant_sums(self, rule: DecisionRule) -> NDArray[np.float64]:
        """Return the sum of each tenant's losses [N] under the rule."""
        if rule not in self.sums:
            decision = self.decide(self.weights(rule))
            self.sums[rule] = self.outcomes.tenant_sums(decision, self.alpha)
        return self.sums[rule]

    def losses(self, decision: Floats) -> NDArray[np.float64]:
        """Return the scaled loss of each row [M] under decisions [M, H]."""
        return self.outcomes.losses(decision, self.alpha)

    def correction(self, settings: SearchSettings, weight: Floats) -> LevelCorrection:
        """Return the level correction fitted to decisions under these weights [M, K]."""

        def excess(kappa: float, half_life: float, same_hour: float) -> Floats:
            return self._excess(weight, kappa, half_life, same_hour)

        decision, unit = self.decide(weight), rules.weighted(weight, self.units)
        return fit_correction(
            settings,
            self.outcomes,
            decision,
            unit,
            excess,
            self.schedule.half_lives,
            self.alpha,
            self.limits,
        )

    def figures(self, decision: Floats, reference: Floats) -> RuleFigures:
        """Return the results of decisions [M, H], compared with `reference`, the default rule's."""
        losses = self.losses(decision)
        excess, error = self.outcomes.paired(losses, self.losses(reference))
        return RuleFigures(
            loss=float(losses.mean()),
            violation_rate=self.outcomes.violation_rate(decision),
            excess_over_default=excess,
            standard_error=error,
        )

    def _excess(self, weight: Floats, kappa: float, half_life: float, same_hour: float) -> Floats:
        key = (half_life, same_hour)
        if key not in self.rates:
            self.rates[key] = own_rates(self.violations, self.schedule.weights(*key))
        return weighed_excess(*self.rates[key], self.violation_prior, weight, self.alpha, kappa)
