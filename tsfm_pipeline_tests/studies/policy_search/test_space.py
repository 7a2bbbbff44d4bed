"""Test what drivers may change of a policy, and the moves from one policy to another.

What belongs here: the fields, moves and their descriptions. What does not: single kinds of fields
(`test_moves`).
"""

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.gate import trait_names
from tsfm_pipeline.search_settings import RULES, SearchSettings
from tsfm_pipeline.studies.policy_search import space
from tsfm_pipeline.studies.policy_search.policy import DEFAULT, Policy, PolicyError
from tsfm_pipeline.studies.policy_search.tables import WIDEST

BY_NAME = {field.name: field for field in space.FIELDS}


def test_every_setting_of_the_search_is_either_searched_or_refused() -> None:
    assert set(BY_NAME) | set(space.NOT_SEARCHED) == set(SearchSettings.model_fields)
    assert not set(BY_NAME) & set(space.NOT_SEARCHED)
    assert len(BY_NAME) == len(space.FIELDS)


@pytest.mark.parametrize("field", space.FIELDS, ids=lambda field: field.name)
def test_the_default_of_a_field_is_a_value_that_drivers_know(field: space.Field) -> None:
    default = getattr(DEFAULT, field.name)
    assert field.kind.decode(field.kind.encode(default)) == default
    assert field.meaning


@pytest.mark.parametrize("field", space.FIELDS, ids=lambda field: field.name)
def test_settings_accept_every_value_of_a_field(field: space.Field) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        value = field.kind.sample(rng)
        assert field.value(space.with_values(Policy(), {field.name: value})) == value
        value = field.kind.neighbour(value, rng)
        assert field.value(space.with_values(Policy(), {field.name: value})) == value


def test_the_schedules_are_those_that_the_tables_hold() -> None:
    assert WIDEST.recent_origins == space.MOST_RECENT
    assert WIDEST.daily_origins == space.DAYS
    for beyond in ({"recent_origins": 13}, {"daily_origins": [1, 5]}):
        with pytest.raises(PolicyError, match="the tables of the study hold no others"):
            space.require_allowed(Policy(search=beyond))


def test_the_gate_has_no_trait_that_the_space_lacks() -> None:
    offsets = [160, *(1440 * day for day in space.DAYS)]
    assert set(trait_names(offsets, 1440)) == set(space.ALL_TRAITS)


def test_moves_end_at_another_policy_and_depend_on_the_seed_alone() -> None:
    policy = Policy(search={"portfolio_size": 12, "gate_ridge": 1.0})
    for move in (space.stepped, space.fresh):
        for seed in range(40):
            moved, again = (move(policy, np.random.default_rng(seed), 1) for _ in range(2))
            assert moved.digest == again.digest != policy.digest
            space.require_allowed(moved)
    numbers = {space.stepped(policy, np.random.default_rng(s), 1).n_changes for s in range(120)}
    assert numbers == {1, 2, 3}  # a change is taken back, altered, or added


def test_a_step_changes_one_field_and_fresh_values_as_many_as_asked() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        assert space.stepped(Policy(), rng, 1).n_changes <= 2  # rules and declared_rule go together
        assert 1 <= space.fresh(Policy(), rng, 5).n_changes <= 6


def test_what_changed_is_said_in_words() -> None:
    policy = Policy(search={"portfolio_size": 12, "daily_origins": [1, 2, 7]})
    assert space.described(Policy(), policy) == "portfolio_size 8 to 12; daily_origins with 2"
    fewer = policy.changed(candidates=DEFAULT.candidates[2:], daily_origins=[3, 4])
    assert space.described(policy, fewer) == (
        "candidates without ctx64, ctx96; daily_origins [1, 2, 7] to [3, 4]"
    )
    assert space.described(policy, policy) == "no change"
    shorter = Policy(search={"base_shifts": [0.0]})
    assert space.described(Policy(), shorter) == "base_shifts [-0.5 to 0.5, 21 values] to [0]"


def test_the_declared_rule_stays_among_the_rules() -> None:
    fewer = space.with_values(Policy(), {"rules": ("argmin", "softmax")})
    assert fewer.settings.declared_rule == "softmax"
    back = space.with_values(fewer, {"declared_rule": "gate"})
    assert back.settings.rules == ("argmin", "softmax", "gate")
    both = space.with_values(Policy(), {"rules": RULES[:2], "declared_rule": "gate"})
    assert both.settings.declared_rule == RULES[1]


@pytest.mark.parametrize("name", space.NOT_SEARCHED)
def test_a_policy_may_not_change_seeds_and_sizes_of_samples(name: str) -> None:
    with pytest.raises(PolicyError, match=f"mine.yaml: {name} may not be changed"):
        space.require_allowed(Policy(search={name: 7}), "mine.yaml")


def test_a_candidate_must_be_a_configuration() -> None:
    new = Policy(search={"candidates": ["ctx64", "ctx4096-r2"]})
    space.require_allowed(new)
    with pytest.raises(PolicyError, match=r"candidates: no configuration is named '/etc'"):
        space.require_allowed(Policy(search={"candidates": ["/etc"]}))
