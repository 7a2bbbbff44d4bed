"""Test policies from tuning tenants: they use only requests before the test period, are fitted per
fold, repeatable, and stored whole.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.autoresearch.rules import RULES
from tsfm_pipeline.catalogue.arrays import FleetArrays, Requests
from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.evaluation.limits import emitted, in_tier_order
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.methods import RULE_PREFIX, SEARCH, SEARCH_UNCORRECTED
from tsfm_pipeline.evaluation.protocol import ALPHAS, TIERS
from tsfm_pipeline.steps.evidence import SearchBatch, read_policies
from tsfm_pipeline.steps.policies import (
    experience,
    folds_and_tuners,
    read_shared_choices,
    search_policy,
)
from tsfm_pipeline.steps.scores import methods


class _Noting(FleetArrays):
    """Arrays that note which requests' rows were read."""

    def __init__(self, arrays: FleetArrays) -> None:
        super().__init__(arrays.tables, arrays.spec, arrays.grid, arrays.shard_size)
        self.read: set[int] = set()

    def of(
        self, table: str, requests: Requests, columns: Sequence[str], per_row: Sequence[int]
    ) -> list[Any]:
        self.read.update(requests.ids.ravel().tolist())
        return super().of(table, requests, columns, per_row)


def _overheard(fleet: Fleet) -> tuple[Fleet, _Noting]:
    """The fleet once more, with arrays that note what is read."""
    again = Fleet(fleet.settings, fleet.spec)
    again.arrays = _Noting(fleet.arrays)
    return again, again.arrays


def test_choices_come_from_tuning_tenants_before_the_test_period_and_from_nothing_else(
    mini_fleet: Fleet,
) -> None:
    fleet, overheard = _overheard(mini_fleet)
    again = search_policy(fleet)
    allowed = {
        int(i)
        for _, tuners in folds_and_tuners(mini_fleet)
        for i in mini_fleet.arrays.requests("tuning", only=tuners.tolist()).ids.ravel()
    }
    assert overheard.read
    assert overheard.read <= allowed
    stored = mini_fleet.tables.read("search_policy")
    assert again.select("policy", "shared_choices").equals(
        stored.select("policy", "shared_choices")
    ), "and the same choices come again"


def test_a_cap_on_tuning_requests_draws_whole_tenants_and_leaves_the_fixed_configuration_alone(
    mini_fleet: Fleet,
) -> None:
    capped = mini_fleet.settings.search.model_copy(update={"policy_requests": 12})
    fleet = open_workspace_fleet(
        mini_fleet.settings.model_copy(update={"search": capped}), mini_fleet.name
    )
    fleet.tables = mini_fleet.tables
    row = search_policy(fleet).row(0, named=True)
    (stored,) = mini_fleet.tables.read("search_policy").iter_rows(named=True)
    assert row["n_tuning_requests"] == stored["n_tuning_requests"]
    for tier in TIERS:
        own, whole = (json.loads(which["shared_choices"])["tiers"][tier] for which in (row, stored))
        assert own["fixed_config"] == whole["fixed_config"]
        assert own["archetype_configs"] == whole["archetype_configs"]
    assert row["policy"] != stored["policy"]


def test_a_policy_holds_every_rule_of_every_tier_and_what_each_reached(mini_fleet: Fleet) -> None:
    choices = read_shared_choices(mini_fleet)
    names = [config.name for config in mini_fleet.configs]
    for fold, policy in read_policies(mini_fleet).items():
        assert list(policy.portfolio) == [
            name
            for name, member in zip(names, mini_fleet.portfolio_mask(fold), strict=True)
            if member
        ]
        assert policy.offsets == mini_fleet.offsets
        assert policy.season == mini_fleet.grid.seasons[0]
        for name, tier in policy.tiers.items():
            assert set(tier.rules) == set(RULES)
            cheapest = min(RULES, key=lambda rule: tier.figures[rule].loss)
            declared = tier.figures["gate"]
            assert tier.default == "gate" or (
                tier.default == cheapest and declared.excess_over_default > declared.standard_error
            )
            assert (
                policy.portfolio[tier.fixed_config] == names[choices[fold].tiers[name].fixed_config]
            )
            assert tier.figures["corrected"].loss <= tier.figures[tier.default].loss + 1e-9
            assert all(0 <= figures.violation_rate <= 1 for figures in tier.figures.values())


def test_priors_hold_the_neighbours_violation_rates(mini_fleet: Fleet) -> None:
    priors = mini_fleet.tables.read("config_priors")
    inside = pl.col("config").is_in([config.name for config in mini_fleet.configs])
    for tier, alpha in TIERS.items():
        rates = priors.filter(inside)[f"violations_{tier}"]
        assert rates.is_between(0, 1).all()
        assert rates.mean() == pytest.approx(1 - alpha, abs=0.1)
    for fold, tuners in folds_and_tuners(mini_fleet):
        known = experience(mini_fleet, tuners, mini_fleet.portfolio_mask(fold))
        assert known.violations is not None
        outside = ~mini_fleet.portfolio_mask(fold)
        assert np.isnan(known.losses[:, :, outside]).all()
        assert np.isnan(known.violations[:, :, outside]).all()


def test_every_rule_is_a_method_without_level_correction_and_the_search_has_both_forms(
    mini_fleet: Fleet,
) -> None:
    batch = SearchBatch(mini_fleet, mini_fleet.arrays.requests("test", mini_fleet.shards[0]))
    found = dict(methods(mini_fleet, batch))
    assert {name for name in found if name.startswith(RULE_PREFIX)} == {
        f"{RULE_PREFIX}{rule}" for rule in RULES
    }
    uncorrected = found[SEARCH_UNCORRECTED]
    quantiles = [
        decision_quantile(uncorrected.deciles[:, :, a], alpha) for a, alpha in enumerate(ALPHAS)
    ]
    expected = in_tier_order(np.stack(quantiles, axis=2), ALPHAS, axis=2)
    np.testing.assert_allclose(uncorrected.decision, expected)
    np.testing.assert_allclose(found[SEARCH].deciles, uncorrected.deciles, rtol=1e-5, atol=1e-6)
    (policy,) = read_policies(mini_fleet).values()
    for a, tier in enumerate(policy.tiers.values()):
        default = found[f"{RULE_PREFIX}{tier.default}"]
        np.testing.assert_array_equal(default.deciles[:, :, a], uncorrected.deciles[:, :, a])


def test_the_rival_is_corrected_by_constants_of_its_own(mini_fleet: Fleet) -> None:
    batch = SearchBatch(mini_fleet, mini_fleet.arrays.requests("test", mini_fleet.shards[0]))
    found = dict(methods(mini_fleet, batch))
    (policy,) = read_policies(mini_fleet).values()
    (choices,) = read_shared_choices(mini_fleet).values()
    _, violations = batch.evidence
    _, prior = batch.priors
    moved = []
    for a, (tier, alpha) in enumerate(TIERS.items()):
        k = choices.tiers[tier].fixed_config
        alone = (
            violations[:, :, k : k + 1, :, a],
            prior[:, :, k : k + 1, a],
            np.ones((*prior.shape[:2], 1)),
        )
        shift = policy.tiers[tier].fixed_correction.shift(
            *alone, alpha, policy.offsets, policy.season
        )
        unit = batch.deciles[:, :, k, :, 8] - batch.deciles[:, :, k, :, 4]
        moved.append(decision_quantile(batch.deciles[:, :, k], alpha) + shift[..., None] * unit)
    limits = mini_fleet.arrays.limits
    expected = emitted(np.stack(moved, axis=2), ALPHAS, limits, metric_axis=1, tier_axis=2)
    np.testing.assert_allclose(found["fixed_corrected"].decision, expected, rtol=1e-5, atol=1e-6)
