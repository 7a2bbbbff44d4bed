"""Test that a policy emits each tier's own quantile by the requested rule, and decides each request
independently of the others.
"""

import numpy as np
import pytest
from pydantic import ValidationError

from tsfm_pipeline.autoresearch.policy import PRIOR_KINDS, Decision, SearchPolicy, level_unit
from tsfm_pipeline.autoresearch.rules import RULES
from tsfm_pipeline.evaluation.limits import in_tier_order
from tsfm_pipeline.evaluation.losses import decision_quantile, mean_pinball
from tsfm_pipeline.evaluation.protocol import ALPHAS, TIERS
from tsfm_pipeline_tests.autoresearch.conftest import search_policy

R, D, K, J, A, H = 12, 2, 3, 4, 3, 5
NAMES = ("ctx64", "ctx128", "ctx256")
OFFSETS = (60, 120, 180, 1440)
PARTS = ("weights", "deciles", "decision", "shift", "posterior")
UNKNOWN = np.full((K, A), np.nan)
"""Violation rates of other tenants that nobody knows."""


def _deciles(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.sort(rng.normal(size=(*shape, 9)), axis=-1)


def _known(rng: np.random.Generator, *leading: int) -> dict[str, object]:
    """Everything that a decision is made from, some of it missing."""
    losses, violations = rng.exponential(size=(*leading, K, J, A)), rng.random((*leading, K, J, A))
    losses[rng.random(losses.shape) < 0.2] = np.nan
    deciles = _deciles(rng, *leading, K, H)
    deciles[rng.random((*leading, K)) < 0.2] = np.nan
    return {
        "deciles": deciles,
        "losses": losses,
        "violations": np.where(np.isnan(losses), np.nan, violations),
        "priors": {kind: rng.exponential(size=(*leading, K, A)) for kind in PRIOR_KINDS},
        "violation_priors": rng.random((*leading, K, A)),
    }


def _one(known: dict[str, object], *index: int) -> dict[str, object]:
    return {
        name: {k: v[index] for k, v in part.items()} if isinstance(part, dict) else part[index]
        for name, part in known.items()
    }  # type: ignore[index]


def _assert_same(one: Decision, other: Decision) -> None:
    for part in PARTS:
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


def test_every_tier_emits_its_own_quantile_and_not_the_median() -> None:
    """Row 2 of docs/evidence-protocol.md#mistakes-made-impossible: alpha steered the choice
    alone, and every tier got the median.
    """
    deciles = _deciles(np.random.default_rng(0), D, 1, H)
    policy = search_policy(NAMES[:1], OFFSETS, H, gain=0.0)
    decided = policy.decide(
        deciles,
        np.ones((D, 1, J, A)),
        np.zeros((D, 1, J, A)),
        dict.fromkeys(PRIOR_KINDS, np.ones((D, 1, A))),
        UNKNOWN[:1],
    )
    for a, alpha in enumerate(TIERS.values()):
        np.testing.assert_allclose(decided.decision[:, a], decision_quantile(deciles[:, 0], alpha))
        assert (decided.decision[:, a] > deciles[:, 0, :, 4]).all()
    assert (np.diff(decided.decision, axis=1) < 0).all()


def test_the_emitted_quantile_is_the_one_that_its_alpha_rewards() -> None:
    """Scored on the very distribution that the deciles describe, each tier's decision beats the
    other tiers' at its own alpha.
    """
    deciles = np.tile(np.linspace(1, 9, 9), (1, 1, 1, 1))
    decided = search_policy(NAMES[:1], OFFSETS, 1, gain=0.0).decide(
        deciles,
        np.ones((1, 1, J, A)),
        np.zeros((1, 1, J, A)),
        dict.fromkeys(PRIOR_KINDS, np.ones((1, 1, A))),
        UNKNOWN[:1],
    )
    actual = np.linspace(0, 10, 1001)
    for a, alpha in enumerate(ALPHAS):
        costs = [
            mean_pinball(actual, np.full(1001, decided.decision[0, other, 0]), alpha)
            for other in range(A)
        ]
        assert int(np.argmin(costs)) == a


def test_a_decision_is_quantile_plus_correction_in_units_of_the_upper_half() -> None:
    rng = np.random.default_rng(1)
    deciles, losses = _deciles(rng, R, D, K, H), rng.exponential(size=(R, D, K, J, A))
    violations = rng.random((R, D, K, J, A))
    priors = dict.fromkeys(PRIOR_KINDS, np.ones((R, D, K, A)))
    decided = search_policy(NAMES, OFFSETS, H, gain=0.5).decide(
        deciles, losses, violations, priors, UNKNOWN
    )
    assert decided.weights.shape == decided.posterior.shape == (R, D, A, K)
    assert (decided.deciles.shape, decided.decision.shape, decided.shift.shape) == (
        (R, D, A, H, 9),
        (R, D, A, H),
        (R, D, A),
    )
    crossing = []
    for a, alpha in enumerate(ALPHAS):
        weight = decided.weights[:, :, a]
        np.testing.assert_allclose(
            decided.deciles[:, :, a], np.einsum("rdk,rdkhq->rdhq", weight, deciles)
        )
        rate = np.einsum("rdk,rdk->rd", weight, violations[..., a].mean(axis=-1))
        np.testing.assert_allclose(decided.shift[:, :, a], 0.5 * (rate - (1 - alpha)))
        crossing.append(
            decision_quantile(decided.deciles[:, :, a], alpha)
            + decided.shift[:, :, a, None] * level_unit(decided.deciles[:, :, a])
        )
    expected = in_tier_order(np.stack(crossing, axis=2), ALPHAS, axis=2)
    np.testing.assert_allclose(decided.decision, expected)


def test_the_unit_of_corrections_is_the_upper_half_of_the_model_s_own_spread() -> None:
    assert level_unit(np.array([0.0, 0.0, 1.0, 2.0, 10.0, 11.0, 12.0, 13.0, 17.0])) == 7.0


def test_each_tier_listens_to_its_own_column_of_evidence_and_prior() -> None:
    deciles = _deciles(np.random.default_rng(2), 1, K, H)
    best_of_tier = np.where(
        np.eye(K)[:, :A], 0.1, 1.0
    )  # [K, A]: configuration a is the best of tier a
    policy = search_policy(NAMES, OFFSETS, H, temperature=0.0)
    flat, told = np.ones((1, K, A)), best_of_tier[None]
    violations = np.zeros((1, K, J, A))
    by_evidence = policy.decide(
        deciles,
        np.repeat(told[:, :, None], J, axis=2),
        violations,
        dict.fromkeys(PRIOR_KINDS, flat),
        UNKNOWN,
    )
    by_prior = policy.decide(
        deciles,
        np.full((1, K, J, A), np.nan),
        violations,
        {"fleet": 2 - told, "retrieved": told},
        UNKNOWN,
    )
    for decided in (by_evidence, by_prior):
        np.testing.assert_array_equal(decided.weights[0], np.eye(K))


def test_an_unavailable_configuration_has_no_say_and_without_any_there_is_no_decision() -> None:
    deciles = _deciles(np.random.default_rng(3), 2, K, H)
    deciles[0, 1, 2, 3] = np.nan
    deciles[1] = np.nan
    priors = dict.fromkeys(PRIOR_KINDS, np.ones((2, K, A)))
    decided = search_policy(NAMES, OFFSETS, H).decide(
        deciles, np.ones((2, K, J, A)), np.full((2, K, J, A), 0.5), priors, UNKNOWN
    )
    assert (decided.weights[0, :, 1] == 0).all()
    assert np.isfinite(decided.decision[0]).all()
    assert np.isnan(decided.decision[1]).all()
    assert np.isnan(decided.weights[1]).all()


@pytest.mark.parametrize("rule", RULES)
def test_one_request_gets_what_the_batch_gets(rule: str) -> None:
    rng = np.random.default_rng(4)
    known = _known(rng, R, D)
    policy = search_policy(NAMES, OFFSETS, H, season=1440)
    together = policy.decide(**known, rule=rule)  # type: ignore[arg-type]
    for r in range(R):
        alone = policy.decide(**_one(known, r), rule=rule)  # type: ignore[arg-type]
        for part in PARTS:
            np.testing.assert_array_equal(getattr(alone, part), getattr(together, part)[r])


def test_the_default_rule_decides_unless_another_is_named() -> None:
    known = _known(np.random.default_rng(5), R, D)
    for rule in RULES:
        by_default = search_policy(NAMES, OFFSETS, H, default=rule).decide(**known)  # type: ignore[arg-type]
        _assert_same(by_default, search_policy(NAMES, OFFSETS, H).decide(**known, rule=rule))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="no rule is named 'guess'; allowed: argmin, shrunken_argmin, no_harm"
    ):
        search_policy(NAMES, OFFSETS, H).decide(**known, rule="guess")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="the default rule is 'guess'"):
        search_policy(NAMES, OFFSETS, H, default="guess")


def test_the_level_correction_is_a_stage_of_its_own() -> None:
    known = _known(np.random.default_rng(6), R, D)
    policy = search_policy(NAMES, OFFSETS, H, gain=1.0)
    corrected, plain = policy.decide(**known), policy.decide(**known, correct=False)  # type: ignore[arg-type]
    for part in ("weights", "deciles", "posterior"):
        np.testing.assert_array_equal(getattr(corrected, part), getattr(plain, part))
    assert not plain.shift.any()
    quantiles = [decision_quantile(plain.deciles[:, :, a], alpha) for a, alpha in enumerate(ALPHAS)]
    expected = in_tier_order(np.stack(quantiles, axis=2), ALPHAS, axis=2)
    np.testing.assert_array_equal(plain.decision, expected)
    answered = np.isfinite(corrected.decision).all(axis=-1)
    assert (corrected.decision != plain.decision)[answered].any()
    off = {
        name: tier.model_copy(update={"correction": None}) for name, tier in policy.tiers.items()
    }
    _assert_same(policy.model_copy(update={"tiers": off}).decide(**known), plain)  # type: ignore[arg-type]


def test_what_cannot_be_used_is_not_listened_to() -> None:
    """A configuration that this request cannot have shifts no other's loss, whatever its evidence
    and prior say.
    """
    rng = np.random.default_rng(7)
    known = _known(rng, R, D)
    known["deciles"][:, :, 1] = np.nan  # type: ignore[index]
    policy = search_policy(NAMES, OFFSETS, H)
    before = policy.decide(**known)  # type: ignore[arg-type]
    known["losses"][:, :, 1] *= 1e6  # type: ignore[index]
    for prior in known["priors"].values():  # type: ignore[attr-defined]
        prior[:, :, 1] *= 1e6
    _assert_same(policy.decide(**known), before)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
def test_over_fewer_configurations_it_decides_as_if_the_others_were_unavailable(rule: str) -> None:
    rng = np.random.default_rng(8)
    known = _known(rng, R, D)
    kept = [2, 0]
    hidden = dict(known, deciles=known["deciles"].copy())  # type: ignore[attr-defined]
    hidden["deciles"][:, :, 1] = np.nan  # type: ignore[index]
    policy = search_policy(NAMES, OFFSETS, H)
    expected = policy.decide(**hidden, rule=rule)  # type: ignore[arg-type]
    part = {
        name: {kind: prior[:, :, kept] for kind, prior in value.items()}
        if isinstance(value, dict)
        else value[:, :, kept]  # type: ignore[index]
        for name, value in known.items()
    }
    fewer = policy.over([NAMES[k] for k in kept])
    assert fewer.portfolio == ("ctx256", "ctx64")
    decided = fewer.decide(**part, rule=rule)  # type: ignore[arg-type]
    np.testing.assert_allclose(decided.decision, expected.decision, atol=1e-12)
    np.testing.assert_allclose(decided.weights, expected.weights[..., kept], atol=1e-12)


def test_a_hurried_request_tries_first_what_the_prior_would_weigh_most() -> None:
    prior = np.ones((D, K, A)) * np.array([1.0, 0.7, 1.3])[:, None]
    worst = np.ones((D, K, A)) * np.array([0.1, 1.2, 1.7])[:, None]
    priors = {"retrieved": prior, "fleet": worst}
    assert search_policy(NAMES, OFFSETS, H).prior_order(priors, "basic").tolist() == [1, 0, 2]
    assert search_policy(NAMES, OFFSETS, H, default="shrunken_argmin").prior_order(
        priors, "basic"
    ).tolist() == [1, 0, 2]
    kept = search_policy(NAMES, OFFSETS, H, default="no_harm").prior_order(
        {"retrieved": prior * 0 + 1, "fleet": worst}, "premium"
    )
    assert kept.tolist() == [0, 1, 2]
    prior[:, 1] = np.nan
    assert search_policy(NAMES, OFFSETS, H).prior_order(priors, "standard").tolist() == [0, 1, 2]
    unknown = dict.fromkeys(PRIOR_KINDS, np.full((D, K, A), np.nan))
    assert search_policy(NAMES, OFFSETS, H).prior_order(unknown, "standard").tolist() == [0, 1, 2]


def test_a_policy_survives_storage() -> None:
    policy = search_policy(NAMES, (60, 1440), 60, temperature=0.1 + 0.2, kappa=1 / 3, season=1440)
    assert SearchPolicy.model_validate_json(policy.model_dump_json()) == policy


def test_a_policy_keeps_the_alphas_of_a_fleet_s_own_tiers_and_writes_no_default_ones() -> None:
    policy = search_policy(NAMES, OFFSETS, H)
    assert policy.alphas == TIERS
    assert "alphas" not in policy.model_dump_json()
    tier = policy.tiers["premium"]
    own = SearchPolicy(
        **{
            **dict(policy),
            "tiers": {"gold": tier, "iron": tier},
            "alphas": {"gold": 0.95, "iron": 0.6},
        }
    )
    read = SearchPolicy.model_validate_json(own.model_dump_json())
    assert read == own
    assert list(read.over(NAMES[:2]).alphas.items()) == [("gold", 0.95), ("iron", 0.6)]
    with pytest.raises(
        ValidationError, match="alphas are given for premium, standard, basic, and rules for gold"
    ):
        SearchPolicy(**{**dict(policy), "tiers": {"gold": tier}})


def test_a_policy_with_the_same_configuration_twice_is_refused() -> None:
    """Row 6 of docs/evidence-protocol.md#mistakes-made-impossible: configurations drawn with
    replacement, so that K = 32 bought nothing new.
    """
    with pytest.raises(ValidationError, match="ctx64 is listed more than once"):
        search_policy(("ctx64", "ctx128", "ctx64"), (60,), 60)
