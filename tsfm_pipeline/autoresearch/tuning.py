"""The tuning of a policy: it chooses every rule's constants, the default rule and the level
correction, on tuning requests only.

What belongs here: the lists of constants, and the search over them. What does not: their loss at
the tuning requests (`tuning_rows`), decisions with them (`policy`), the choice of the tuning
requests (`steps.policies`).
Axes: R requests, D metrics, K configurations, J validation origins, A tiers, H horizon; M rows,
each one metric of one request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch import rules
from tsfm_pipeline.autoresearch.gate import fit_gate, trait_names
from tsfm_pipeline.autoresearch.policy import SearchPolicy, TierPolicy
from tsfm_pipeline.autoresearch.rules import PRIOR_KINDS, RULES, DecisionRule, Rule
from tsfm_pipeline.autoresearch.tuning_rows import Schedule, TierRows, TuningEvidence
from tsfm_pipeline.baselines.combinations import (
    SharedChoices,
    TierChoices,
    TuningSample,
    one_hot,
    reachable,
)
from tsfm_pipeline.evaluation.arrays import given
from tsfm_pipeline.settings import SearchSettings

Floats = NDArray[np.floating]
MAX_PASSES = 4
"""Highest number of sweeps over the constants of one rule; the search ends as soon as a sweep
changes nothing, usually after two or three.
"""
GATE_FOLDS = 5
"""Number of parts for the cross-validation of the gate. The gate has far more constants than the
other rules, so it is judged on tenants that it was not fitted on.
"""


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
    the same fold; no_harm uses their fixed configuration, tilted_ensemble their static ensemble.
    The default rule is `settings.declared_rule`, unless the cheapest of `settings.rules` saves more
    than one standard error against it. No choice uses the test period, because the sample ends
    before it. Raises ValueError if no request can be scored.
    """
    horizon = sample.actual.shape[-1]
    schedule = Schedule(
        tuple(offsets), season, tuple(half_life * horizon for half_life in settings.half_lives)
    )
    available = given(sample.decisions)  # [R, D, K]
    usable = (
        available.any(axis=-1) & np.isfinite(sample.scale) & ~np.isnan(sample.actual).all(axis=-1)
    )  # [R, D]
    if not usable.any():
        raise ValueError(
            f"none of the {len(sample.scale)} valid tuning requests has a forecast, an observed "
            "outcome and a scale, so the search cannot "
            "be tuned on this fleet; give it more history before the test period, or shorter "
            "contexts in search.candidates"
        )
    tiers = {}
    for a, (tier, alpha) in enumerate(alphas.items()):
        rows = TierRows.of(sample, evidence, usable, available, a, alpha, schedule)
        tiers[tier] = _fit_tier(settings, rows, choices.tiers[tier], only_deciding)
    return SearchPolicy(
        portfolio=tuple(portfolio),
        offsets=schedule.offsets,
        horizon=horizon,
        season=season,
        tiers=tiers,
        alphas=dict(alphas),
    )


def _fit_tier(
    settings: SearchSettings, rows: TierRows, rival: TierChoices, only_deciding: bool
) -> TierPolicy:
    names = settings.rules if only_deciding else RULES
    needed = {*names, *(["softmax"] if "gate" in names else [])}
    grids = _grids(settings, rows.schedule, rival)
    tuned: dict[str, Rule] = {
        name: _tune(grid, rows) for name, grid in grids.items() if name in needed
    }
    fitted = {name: rule for name, rule in tuned.items() if name in names}
    weights = {name: rows.weights(rule) for name, rule in fitted.items()}
    if "gate" in names:
        fitted["gate"], weights["gate"] = _fit_gate(settings, rows, tuned["softmax"])
    decisions = {name: rows.decide(weight) for name, weight in weights.items()}
    losses = {name: rows.losses(decision) for name, decision in decisions.items()}
    deciding = [name for name in fitted if name in settings.rules]
    cheapest = min(
        deciding, key=lambda name: float(losses[name].mean())
    )  # in a tie the first, which is the simplest
    declared = settings.declared_rule
    excess, error = rows.outcomes.paired(losses[declared], losses[cheapest])
    default = declared if excess <= error else cheapest
    weight = weights[default]
    fixed = reachable(
        one_hot(rival.fixed_config, rows.available.shape[1]), rows.available, rival.fallback_config
    )
    correction = rows.correction(settings, weight) if settings.level_correction else None
    fixed_correction = rows.correction(settings, fixed)
    decisions |= {
        "corrected": rows.decide(weight, correction),
        "fixed": rows.decide(fixed),
        "fixed_corrected": rows.decide(fixed, fixed_correction),
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


def _fit_gate(
    settings: SearchSettings, rows: TierRows, shrinking: DecisionRule
) -> tuple[rules.Gate, Floats]:
    """Return the gate fitted on all rows, and cross-validated weights [M, K]: those of each part of
    the tenants come from a gate fitted on the other parts.

    The posterior, which is one of the traits, uses the prior, shrinkage and origin weights of
    `shrinking`. The coefficients of traits that the settings leave out are 0.
    """
    shared_fields = shrinking.model_dump(include=set(DecisionRule.model_fields))
    names = trait_names(rows.schedule.offsets, rows.schedule.season)
    used = [settings.gate_traits is None or name in settings.gate_traits for name in names]
    used_names = list(compress(names, used))
    declared = [settings.gate_coefficients.get(name, 0.0) for name in used_names]

    def gate(solution: Floats) -> rules.Gate:
        coefficients, intercepts = np.split(solution, [len(declared)])
        fitted = dict(zip(used_names, coefficients.tolist(), strict=True))
        return rules.Gate(
            **shared_fields,
            coefficients={name: fitted.get(name, 0.0) for name in names},
            intercepts=intercepts.tolist(),
        )

    all_traits = rows.traits(shrinking)
    used_traits = np.compress(used, all_traits, axis=-1)

    def fitted_on(part: NDArray[np.bool_]) -> rules.Gate:
        sample = (
            declared,
            used_traits[part],
            rows.decisions[part],
            rows.available[part],
            rows.outcomes.of(part),
        )
        return gate(fit_gate(*sample, rows.alpha, settings.gate_ridge))

    tenants, tenant = np.unique(rows.outcomes.tenants, return_inverse=True)
    part = np.random.default_rng(settings.gate_seed).permutation(len(tenants))[tenant] % GATE_FOLDS
    weight = np.full(rows.available.shape, np.nan)
    for number in np.unique(part):
        held_out = part == number
        gate_of_others = fitted_on(~held_out)
        weight[held_out] = gate_of_others.weights(
            gate_of_others.scored(all_traits[held_out]), rows.available[held_out]
        )
    return fitted_on(np.ones(len(part), dtype=bool)), weight


@dataclass(frozen=True)
class _Grid:
    """The constants to choose from for one rule: the declared ones, and blocks of fields that are
    searched together, each field with its list of values.
    """

    kind: type[DecisionRule]
    start: dict[str, Any]
    blocks: tuple[Mapping[str, Sequence[Any]], ...]

    def distance(self, rule: DecisionRule) -> int:
        """Return how many steps in the lists lie between a rule and the declared one."""
        lists = {name: list(values) for block in self.blocks for name, values in block.items()}
        return sum(
            abs(values.index(getattr(rule, name)) - values.index(self.start[name]))
            for name, values in lists.items()
        )


def _grids(settings: SearchSettings, schedule: Schedule, rival: TierChoices) -> dict[str, _Grid]:
    """Return the grid of each rule, simplest rule first. The declared constants are the retrieved
    prior, no decay, and the middle of every other list.
    """
    origins = {"half_life": schedule.half_lives, "same_hour": settings.same_hours}
    shrinkage = {"prior": PRIOR_KINDS, "kappa": settings.shrinkages}
    start = {
        "prior": "retrieved",
        "half_life": max(schedule.half_lives),
        "same_hour": _middle(settings.same_hours),
    }
    shrunken = {**start, "kappa": _middle(settings.shrinkages)}

    def with_own(kind: type[DecisionRule], own: dict[str, Sequence[Any]], **fixed: Any) -> _Grid:
        middles = {name: _middle(values) for name, values in own.items()}
        return _Grid(kind, {**shrunken, **middles, **fixed}, (shrinkage, origins, own))

    return {
        "argmin": _Grid(rules.Argmin, {**start, "kappa": 0.0}, ({"prior": PRIOR_KINDS}, origins)),
        "shrunken_argmin": _Grid(rules.ShrunkenArgmin, shrunken, (shrinkage, origins)),
        "no_harm": with_own(rules.NoHarm, {"margin": settings.margins}, fixed=rival.fixed_config),
        "top_m": with_own(rules.TopM, {"m": settings.top_ms}),
        "softmax": with_own(rules.Softmax, {"temperature": settings.temperatures}),
        "tilted_ensemble": with_own(
            rules.TiltedEnsemble,
            {"temperature": settings.tilts, "epsilon": settings.ensemble_epsilons},
            base=rival.ensemble_weights,
        ),
    }


def _middle(values: Sequence[Any]) -> Any:
    return values[len(values) // 2]


def _tune(grid: _Grid, rows: TierRows) -> Any:
    """Return the rule nearest to the declared one among those that cost at most one standard error
    more than the cheapest.

    The cheapest is found by block-coordinate descent from the declared constants: each block's full
    product in turn, until a sweep changes nothing. The error is that of the paired difference over
    tuning tenants. Few tenants do not support a choice among hundreds of constants, hence the
    one-standard-error rule (Breiman et al., 1984).
    """
    seen: dict[DecisionRule, float] = {}

    def loss(rule: DecisionRule) -> float:
        if rule not in seen:
            seen[rule] = rows.mean_loss(rows.weights(rule))
        return seen[rule]

    constants = grid.start
    for _ in range(MAX_PASSES):
        before = constants
        for block in grid.blocks:
            options = [
                {**constants, **dict(zip(block, values, strict=True))}
                for values in product(*block.values())
            ]
            constants = min([constants, *options], key=lambda option: loss(grid.kind(**option)))
        if constants == before:
            break
    cheapest = rows.losses(rows.decide(rows.weights(grid.kind(**constants))))
    for rule in sorted(seen, key=lambda rule: (grid.distance(rule), seen[rule])):
        excess, error = rows.outcomes.paired(rows.losses(rows.decide(rows.weights(rule))), cheapest)
        if excess <= error:
            return rule
    return grid.kind(**constants)
