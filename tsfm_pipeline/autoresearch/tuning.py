"""The tuning of a policy: it chooses every rule's constants, the default rule and the level
correction, on tuning requests only.

What belongs here: fitting the rules to some of the tuning tenants and judging them on the others.
What does not: the constants to choose from (`constants`), their loss at the tuning requests
(`tuning_rows`), decisions with them (`policy`), the choice of the tuning requests
(`steps.policies`).
Axes: R requests, D metrics, K configurations, J validation origins, A tiers, H horizon; M rows,
each one metric of one request, of N tenants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.constants import grids, tune
from tsfm_pipeline.autoresearch.gate import even_and, fit_gate, trait_names
from tsfm_pipeline.autoresearch.policy import SearchPolicy, TierPolicy
from tsfm_pipeline.autoresearch.rules import RULES, DecisionRule, Rule
from tsfm_pipeline.autoresearch.tuning_rows import Schedule, TierRows, TuningEvidence
from tsfm_pipeline.baselines.combinations import (
    SharedChoices,
    TierChoices,
    TuningSample,
    choose,
)
from tsfm_pipeline.evaluation.arrays import given
from tsfm_pipeline.settings import SearchSettings

Floats = NDArray[np.floating]
PARTS = 5
"""Number of parts of the tuning tenants: each part judges what was fitted to the others."""


@dataclass(frozen=True)
class _Parts:
    """The tuning tenants in parts, and what the tenants outside of each part chose for the rivals.

    of_tenant [N]: the part of each tenant of the rows, ascending.
    """

    of_tenant: NDArray[np.int64]
    choices: Mapping[int, SharedChoices]

    @classmethod
    def of(
        cls,
        sample: TuningSample,
        tenants: NDArray[np.integer],
        alphas: Mapping[str, float],
        choices: SharedChoices,
        seed: int,
    ) -> "_Parts":
        """Draw the parts of these tenants [N]. A single tenant has no others; what it chose itself
        stands for their choices.
        """
        of_tenant = np.random.default_rng(seed).permutation(len(tenants)) % PARTS
        numbers = np.unique(of_tenant).tolist()
        if len(numbers) == 1:
            return cls(of_tenant, {numbers[0]: choices})
        return cls(
            of_tenant,
            {n: choose(sample.without(tenants[of_tenant == n]), alphas) for n in numbers},
        )


def fit_policy(
    settings: SearchSettings,
    portfolio: Sequence[str],
    offsets: Sequence[int],
    season: int | None,
    sample: TuningSample,
    evidence: TuningEvidence,
    choices: SharedChoices,
    alphas: Mapping[str, float],
    *,
    only_deciding: bool = False,
) -> SearchPolicy:
    """Choose every rule's constants per tier, then the default rule, then its level correction, by
    mean scaled loss on tuning requests.

    only_deciding: leave out the rules that may not decide (`settings.rules`), which are otherwise
    fitted beside the others; no decision depends on them.

    `alphas`: by tier, in the order of the arrays' axis. `choices`: the rivals' shared choices on
    the same fold; no_harm uses their fixed configuration, tilted_ensemble and the gate their static
    ensemble. Rules are compared cross-fitted: a fifth of the tenants judges what the other tenants
    chose, constants and rivals' choices included. The default rule is `settings.declared_rule`,
    unless there are `settings.switch_tenants` tenants and the cheapest of `settings.rules` saves
    more than one standard error against it. No choice uses the test period, because the sample ends
    before it. Raises ValueError if no request can be scored.
    """
    horizon = sample.actual.shape[-1]
    schedule = Schedule(
        tuple(offsets), season, tuple(half_life * horizon for half_life in settings.half_lives)
    )
    usable, available = usable_rows(sample)
    tenants = np.unique(sample.tenants[usable.any(axis=1)])
    parts = _Parts.of(sample, tenants, alphas, choices, settings.gate_seed)
    tiers = {}
    for a, (tier, alpha) in enumerate(alphas.items()):
        rows = TierRows.of(sample, evidence, usable, available, a, alpha, schedule)
        others = {number: of.tiers[tier] for number, of in parts.choices.items()}
        tiers[tier] = _fit_tier(
            settings, rows, choices.tiers[tier], parts.of_tenant, others, only_deciding
        )
    return SearchPolicy(
        portfolio=tuple(portfolio),
        offsets=schedule.offsets,
        horizon=horizon,
        season=season,
        tiers=tiers,
        alphas=dict(alphas),
    )


def usable_rows(sample: TuningSample) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which metrics of which requests can be scored [R, D], and which configurations have a
    forecast there [R, D, K]. Raises ValueError if none can be scored.
    """
    available = given(sample.decisions)
    usable = (
        available.any(axis=-1) & np.isfinite(sample.scale) & ~np.isnan(sample.actual).all(axis=-1)
    )
    if not usable.any():
        raise ValueError(
            f"none of the {len(sample.scale)} valid tuning requests has a forecast, an observed "
            "outcome and a scale, so the search cannot "
            "be tuned on this fleet; give it more history before the test period, or shorter "
            "contexts in search.candidates"
        )
    return usable, available


def _fit_tier(
    settings: SearchSettings,
    rows: TierRows,
    rival: TierChoices,
    part: NDArray[np.int64],
    rivals: Mapping[int, TierChoices],
    only_deciding: bool,
) -> TierPolicy:
    """Fit one tier. rival: the rivals' choices on all tenants; part [N] of each tenant, and rivals:
    the choices of the tenants outside of each part.
    """
    names = settings.rules if only_deciding else RULES
    everybody = np.ones(len(part), dtype=bool)
    fitted = _fit_rules(settings, rows, rival, names, everybody)
    weights = {name: np.full(rows.available.shape, np.nan) for name in (*fitted, "fixed")}
    for number, choices in rivals.items():
        held_out = (part == number)[rows.outcomes.tenant]
        of_others = _fit_rules(settings, rows, choices, names, part != number)
        for name, rule in of_others.items():
            weights[name][held_out] = rows.weights(rule)[held_out]
        weights["fixed"][held_out] = choices.fixed_weights(rows.available[held_out])
    decisions = {name: rows.decide(weight) for name, weight in weights.items()}
    losses = {name: rows.losses(decision) for name, decision in decisions.items()}
    default = settings.declared_rule
    if len(part) >= settings.switch_tenants:
        deciding = [name for name in fitted if name in settings.rules]
        cheapest = min(
            deciding, key=lambda name: float(losses[name].mean())
        )  # in a tie the first, which is the simplest
        excess, error = rows.outcomes.paired(losses[default], losses[cheapest])
        default = default if excess <= error else cheapest
    correction = rows.correction(settings, weights[default]) if settings.level_correction else None
    fixed_correction = rows.correction(settings, weights["fixed"])
    decisions |= {
        "corrected": rows.decide(weights[default], correction),
        "fixed_corrected": rows.decide(weights["fixed"], fixed_correction),
    }
    return TierPolicy(
        rules=fitted,
        default=default,
        correction=correction,
        fixed_config=rival.fixed_config,
        fixed_correction=fixed_correction,
        figures={
            name: rows.figures(decision, decisions[default]) for name, decision in decisions.items()
        },
    )


def _fit_rules(
    settings: SearchSettings,
    rows: TierRows,
    rival: TierChoices,
    names: Sequence[str],
    among: NDArray[np.bool_],
) -> dict[str, Rule]:
    """Return the rules of these names, simplest first, fitted to some of the tenants: bool [N]."""
    needed = {*names, *(["softmax"] if "gate" in names else [])}
    tuned: dict[str, Rule] = {
        name: tune(grid, rows, among)
        for name, grid in grids(settings, rows.schedule, rival).items()
        if name in needed
    }
    fitted = {name: rule for name, rule in tuned.items() if name in names}
    if "gate" in names:
        fitted["gate"] = _fit_gate(settings, rows, rival, tuned["softmax"], among)
    return fitted


def _fit_gate(
    settings: SearchSettings,
    rows: TierRows,
    rival: TierChoices,
    shrinking: DecisionRule,
    among: NDArray[np.bool_],
) -> rules.Gate:
    """Return the gate fitted to the rows of some tenants, bool [N], from the rivals' static
    ensemble.

    The posterior, which is one of the traits, uses the prior, shrinkage and origin weights of
    `shrinking`. The coefficients of traits that the settings leave out are 0.
    """
    names = trait_names(rows.schedule.offsets, rows.schedule.season)
    used = [settings.gate_traits is None or name in settings.gate_traits for name in names]
    used_names = list(compress(names, used))
    declared = [settings.gate_coefficients.get(name, 0.0) for name in used_names]
    part = among[rows.outcomes.tenant]
    solution = fit_gate(
        declared,
        even_and(rival.ensemble_weights, settings.gate_even_share, rows.available),
        np.compress(used, rows.traits(shrinking), axis=-1)[part],
        rows.decisions[part],
        rows.available[part],
        rows.outcomes.of(part),
        rows.alpha,
        settings.gate_ridge,
    )
    coefficients, intercepts = np.split(solution, [len(declared)])
    fitted = dict(zip(used_names, coefficients.tolist(), strict=True))
    return rules.Gate(
        **shrinking.model_dump(include=set(DecisionRule.model_fields)),
        coefficients={name: fitted.get(name, 0.0) for name in names},
        intercepts=intercepts.tolist(),
    )
