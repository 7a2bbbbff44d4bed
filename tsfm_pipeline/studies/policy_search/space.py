"""The search space: what a policy may change, and the moves from one policy to another.

What belongs here: the fields with the values that drivers try, random policies and neighbours of a
policy, and the sentence that says what changed. What does not: how values of one kind are drawn
(`moves`), and who proposes (`drivers`).

A policy file may give a field any value that `SearchSettings` accepts; the values here are what
`random` and `optuna` try.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.search_settings import RULES, TRAITS, SearchSettings
from tsfm_pipeline.studies.policy_search.moves import Coefficients, Kind, OneOf, SomeOf, word
from tsfm_pipeline.studies.policy_search.policy import DEFAULT, Policy, PolicyError

INF = float("inf")
MOST_RECENT, DAYS = 12, (1, 2, 3, 7)
"""The widest schedule of validation origins, which the tables hold (`tables.WIDEST`)."""
ALL_TRAITS = (*TRAITS, *(f"seasons_ago_{day}" for day in DAYS))
"""Traits of the gate under the widest schedule (`gate.trait_names`)."""
NOT_SEARCHED = (
    "gate_seed",
    "policy_requests",
    "portfolio_origins",
    "portfolio_tenants",
    "ranked_size",
    "single_requests",
    "switch_tenants",
)
"""Fields that no policy may change. A seed, the sizes of samples and the number of tenants that a
rule's choice needs change figures by chance, and a search over chance finds what does not last."""
MOST_NAMED = 2
"""Numbers of a list that are named as added or removed; of more changes, both lists are shown."""
MOST_TRIES = 50
"""How often a move is drawn again because it leads to no other policy."""


@dataclass(frozen=True)
class Field:
    """A field of `SearchSettings`, and the values that drivers try for it."""

    name: str
    kind: Kind

    @property
    def meaning(self) -> str:
        """One line that says what the field does: the first sentence of its description in
        `SearchSettings`.
        """
        return (SearchSettings.model_fields[self.name].description or "").split(". ")[0]

    def value(self, policy: Policy) -> Any:
        """Return the field's value under a policy."""
        return getattr(policy.settings, self.name)


def _steps(reach: float, step: float) -> tuple[float, ...]:
    n = round(reach / step)
    return tuple(round(step * i, 4) for i in range(-n, n + 1))


_KINDS: dict[str, Kind] = {
    "candidates": SomeOf(DEFAULT.candidates, least=8, phrase="the default list"),
    "portfolio_size": OneOf(tuple(range(2, 25)), phrase="2 to 24"),
    "portfolio_temperature": OneOf((0.01, 0.02, 0.05, 0.1, 0.2, 0.5)),
    "portfolio_prior_weight": OneOf((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)),
    "token_price": OneOf((0.0, 3e-6, 7e-6, 1.5e-5, 3e-5, 6e-5, 1.2e-4)),
    "token_budget": OneOf((None, 1500, 1000, 700, 500, 400, 300, 200)),
    "recent_origins": OneOf(tuple(range(1, MOST_RECENT + 1)), phrase=f"1 to {MOST_RECENT}"),
    "daily_origins": SomeOf(DAYS, least=0),
    "half_lives": SomeOf((INF, 96.0, 48.0, 24.0, 12.0, 6.0, 3.0, 1.5), numeric=True),
    "same_hours": SomeOf((0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0), numeric=True),
    "neighbours": OneOf((1, 2, 3, 5, 8, 12, 20, 32)),
    "shrinkages": SomeOf((0.0, 0.25, 1.0, 4.0, 16.0, 64.0, 256.0), numeric=True),
    "rules": SomeOf(RULES),
    "declared_rule": OneOf(RULES, ordered=False),
    "temperatures": SomeOf((0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5), numeric=True),
    "top_ms": SomeOf((2, 3, 4, 5, 6, 8), numeric=True),
    "margins": SomeOf((0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, INF), numeric=True),
    "tilts": SomeOf((0.025, 0.05, 0.1, 0.2, 0.4, 0.8, INF), numeric=True),
    "ensemble_epsilons": SomeOf((0.0, 0.02, 0.05, 0.1, 0.2, 0.5), numeric=True),
    "gate_traits": SomeOf(ALL_TRAITS, least=2, all_is_none=True),
    "gate_ridge": OneOf((0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)),
    "gate_even_share": OneOf((0.1, 0.2, 0.3, 0.5, 0.7, 1.0)),
    "gate_coefficients": Coefficients(DEFAULT.gate_coefficients, ALL_TRAITS),
    "level_correction": OneOf((True, False)),
    "base_shifts": OneOf(
        (
            (0.0,),
            _steps(0.2, 0.05),
            _steps(0.3, 0.1),
            _steps(0.5, 0.1),
            _steps(0.5, 0.05),
            _steps(1.0, 0.1),
            _steps(1.0, 0.05),
        ),
        phrase="0 alone, or steps of .05 or .1 up to .2, .3, .5 or 1 on both sides",
    ),
    "base_shift_errors": OneOf((0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)),
    "correction_gains": SomeOf((0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0), numeric=True),
    "correction_shrinkages": SomeOf((0.25, 1.0, 4.0, 16.0, 64.0, 256.0), numeric=True),
}
FIELDS: tuple[Field, ...] = tuple(Field(name, kind) for name, kind in _KINDS.items())


def stepped(policy: Policy, rng: np.random.Generator, n_moves: int) -> Policy:
    """Return a policy that is `n_moves` small moves away: a neighbouring value of a field, or a
    changed field back at its default. It differs from `policy`.
    """
    return _other(policy, rng, lambda: _walked(policy, rng, n_moves))


def fresh(policy: Policy, rng: np.random.Generator, n_fields: int) -> Policy:
    """Return the policy with new random values in `n_fields` fields. It differs from `policy`."""

    def drawn() -> Policy:
        chosen = rng.choice(len(FIELDS), size=n_fields, replace=False)
        values = {FIELDS[n].name: FIELDS[n].kind.sample(rng) for n in chosen}
        return with_values(policy, values)

    return _other(policy, rng, drawn)


def with_values(policy: Policy, values: dict[str, Any]) -> Policy:
    """Return the policy with these fields set, and with `rules` and `declared_rule` in agreement:
    of the two, the one that is not set follows, and if both are, `declared_rule` does.
    """
    rules = values.get("rules", policy.settings.rules)
    declared = values.get("declared_rule", policy.settings.declared_rule)
    if declared not in rules:
        if "rules" in values:
            values = {**values, "declared_rule": rules[-1]}
        else:
            values = {
                **values,
                "rules": tuple(name for name in RULES if name in {*rules, declared}),
            }
    return policy.changed(**values)


def require_allowed(policy: Policy, where: str = "the policy") -> None:
    """Raise `PolicyError`, which names `where`, for a change of a field that no policy may change,
    for a candidate that is not a configuration, and for validation origins that the study's tables
    lack.
    """
    if forbidden := sorted(set(policy.search) & set(NOT_SEARCHED)):
        raise PolicyError(
            f"{where}: {', '.join(forbidden)} may not be changed, because a seed or the size of a "
            f"sample changes figures by chance only. Allowed are "
            f"{', '.join(field.name for field in FIELDS)}"
        )
    search = policy.settings
    if search.recent_origins > MOST_RECENT or not set(search.daily_origins) <= set(DAYS):
        raise PolicyError(
            f"{where}: recent_origins {search.recent_origins} and daily_origins "
            f"{word(search.daily_origins)}; allowed are up to {MOST_RECENT} recent origins and, of "
            f"the daily ones, {', '.join(map(str, DAYS))}: the tables of the study hold no others"
        )
    try:
        for name in search.candidates:
            ForecastConfig.from_name(name)
    except ValueError as error:
        raise PolicyError(f"{where}: candidates: {error}") from error


def described(parent: Policy, child: Policy) -> str:
    """Return what changed from one policy to another, as in "portfolio_size 8 to 12; rules without
    argmin".
    """
    changes = [
        _change(name, before, after)
        for name in SearchSettings.model_fields
        if (before := getattr(parent.settings, name)) != (after := getattr(child.settings, name))
    ]
    return "; ".join(changes) or "no change"


def _change(name: str, before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        moved = [key for key in {**before, **after} if before.get(key, 0) != after.get(key, 0)]
        return f"{name}: " + ", ".join(f"{key} {word(after.get(key, 0.0))}" for key in moved)
    if isinstance(before, tuple) and isinstance(after, tuple):
        lost = [word(value) for value in before if value not in after]
        gained = [word(value) for value in after if value not in before]
        few = 0 < len(lost) + len(gained) <= MOST_NAMED
        if few or isinstance((*before, *after)[0], str):
            parts = (("without", lost), ("with", gained))
            said = " and ".join(f"{verb} {', '.join(values)}" for verb, values in parts if values)
            return f"{name} {said or 'in another order'}"
    return f"{name} {word(before)} to {word(after)}"


def _walked(policy: Policy, rng: np.random.Generator, n_moves: int) -> Policy:
    for _ in range(n_moves):
        own = [field for field in FIELDS if field.name in policy.search]
        if own and rng.random() < 0.25:
            field = own[rng.integers(len(own))]
            policy = with_values(policy, {field.name: getattr(DEFAULT, field.name)})
        else:
            field = FIELDS[rng.integers(len(FIELDS))]
            policy = with_values(
                policy, {field.name: field.kind.neighbour(field.value(policy), rng)}
            )
    return policy


def _other(policy: Policy, rng: np.random.Generator, propose: Callable[[], Policy]) -> Policy:
    """Return the first proposal that differs from `policy`."""
    for _ in range(MOST_TRIES):
        if (proposed := propose()).digest != policy.digest:
            return proposed
    raise RuntimeError(f"{MOST_TRIES} random moves led to no other policy")
