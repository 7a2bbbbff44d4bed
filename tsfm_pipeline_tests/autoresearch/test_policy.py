"""A policy emits each tier's own quantile, and its fitting finds the constants that were planted."""

import numpy as np
import pytest
from pydantic import ValidationError

from tsfm_pipeline.autoresearch.policy import PRIOR_KINDS, SearchPolicy, fit_policy, level_unit
from tsfm_pipeline.baselines.combinations import TuningSample
from tsfm_pipeline.evaluation.losses import decision_quantile, mean_pinball
from tsfm_pipeline.settings import ALPHAS, TIERS, SearchSettings
from tsfm_pipeline_tests.autoresearch.conftest import search_policy

R, D, K, J, A, H = 60, 2, 3, 4, 3, 5
NAMES = ("ctx64", "ctx128", "ctx256")
SETTINGS = SearchSettings(portfolio=NAMES, temperatures=(0.0, 0.1, 10.0), shrinkages=(0.01, 4.0, 1000.0), correction_gains=(0.0, 0.5, 1.0))
FLAT_PRIOR = np.ones((R, D, K, A))


def _deciles(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.sort(rng.normal(size=(*shape, 9)), axis=-1)


def _sample(decisions: np.ndarray, actual: np.ndarray, **fields: np.ndarray) -> TuningSample:
    """Point decisions [R, D, K, H] that are the same at every tier, of spread 1."""
    return TuningSample(
        losses=np.ones((R, D, K, A + 1)),
        decisions=np.repeat(decisions[:, :, :, None], A, axis=3),
        spread=fields.get("spread", np.ones((R, D, K, H))),
        actual=actual,
        scale=fields.get("scale", np.ones((R, D))),
        archetypes=[""] * R,
    )


def _fit(sample: TuningSample, evidence: np.ndarray, violations: np.ndarray | None = None, **priors: np.ndarray) -> SearchPolicy:
    violations = np.broadcast_to(1 - np.array(ALPHAS), (R, D, K, J, A)) if violations is None else violations
    return fit_policy(
        SETTINGS, (60, 120, 180, 240), H, sample, evidence, violations, {kind: priors.get(kind, FLAT_PRIOR) for kind in PRIOR_KINDS}
    )


def _as_losses(errors: np.ndarray) -> np.ndarray:
    """The size of each configuration's error [R, D, K] as validation losses [R, D, K, J, A]."""
    return np.broadcast_to(np.abs(errors)[..., None, None] + 0.1, (R, D, K, J, A))


def test_every_tier_emits_its_own_quantile_and_not_the_median() -> None:
    """Mistake 2: alpha steered the choice alone, and every tier got the median."""
    deciles = _deciles(np.random.default_rng(0), D, 1, H)
    policy = search_policy(NAMES[:1], (60,), H, gain=0.0)
    decided = policy.decide(deciles, np.ones((D, 1, J, A)), np.zeros((D, 1, J, A)), dict.fromkeys(PRIOR_KINDS, np.ones((D, 1, A))))
    for a, alpha in enumerate(TIERS.values()):
        np.testing.assert_allclose(decided.decision[:, a], decision_quantile(deciles[:, 0], alpha))
        assert (decided.decision[:, a] > deciles[:, 0, :, 4]).all()
    assert (np.diff(decided.decision, axis=1) < 0).all()


def test_the_emitted_quantile_is_the_one_that_its_alpha_rewards() -> None:
    """Scored on the very distribution that the deciles describe, each tier's decision beats the other tiers' at its own alpha."""
    deciles = np.tile(np.linspace(1, 9, 9), (1, 1, 1, 1))
    decided = search_policy(NAMES[:1], (60,), 1, gain=0.0).decide(
        deciles, np.ones((1, 1, J, A)), np.zeros((1, 1, J, A)), dict.fromkeys(PRIOR_KINDS, np.ones((1, 1, A)))
    )
    actual = np.linspace(0, 10, 1001)
    for a, alpha in enumerate(ALPHAS):
        costs = [mean_pinball(actual, np.full(1001, decided.decision[0, other, 0]), alpha) for other in range(A)]
        assert int(np.argmin(costs)) == a


def test_a_decision_is_quantile_plus_correction_in_units_of_the_upper_half() -> None:
    rng = np.random.default_rng(1)
    deciles, losses = _deciles(rng, R, D, K, H), rng.exponential(size=(R, D, K, J, A))
    violations = rng.random((R, D, K, J, A))
    decided = search_policy(NAMES, (60,), H, gain=0.5).decide(deciles, losses, violations, dict.fromkeys(PRIOR_KINDS, FLAT_PRIOR))
    assert decided.weights.shape == decided.posterior.shape == (R, D, A, K)
    assert (decided.deciles.shape, decided.decision.shape, decided.shift.shape) == ((R, D, A, H, 9), (R, D, A, H), (R, D, A))
    for a, alpha in enumerate(ALPHAS):
        weight = decided.weights[:, :, a]
        np.testing.assert_allclose(decided.deciles[:, :, a], np.einsum("rdk,rdkhq->rdhq", weight, deciles))
        rate = np.einsum("rdk,rdk->rd", weight, violations[..., a].mean(axis=-1))
        np.testing.assert_allclose(decided.shift[:, :, a], 0.5 * (rate - (1 - alpha)))
        expected = decision_quantile(decided.deciles[:, :, a], alpha) + decided.shift[:, :, a, None] * level_unit(decided.deciles[:, :, a])
        np.testing.assert_allclose(decided.decision[:, :, a], expected)


def test_the_unit_of_corrections_is_the_upper_half_of_the_model_s_own_spread() -> None:
    assert level_unit(np.array([0.0, 0.0, 1.0, 2.0, 10.0, 11.0, 12.0, 13.0, 17.0])) == 7.0


def test_each_tier_listens_to_its_own_column_of_evidence_and_prior() -> None:
    deciles = _deciles(np.random.default_rng(2), 1, K, H)
    best_of_tier = np.where(np.eye(K)[:, :A], 0.1, 1.0)  # [K, A]: configuration a is the best of tier a
    policy = search_policy(NAMES, (60,), H, temperature=0.0)
    flat, told = np.ones((1, K, A)), best_of_tier[None]
    violations = np.zeros((1, K, J, A))
    by_evidence = policy.decide(deciles, np.repeat(told[:, :, None], J, axis=2), violations, dict.fromkeys(PRIOR_KINDS, flat))
    by_prior = policy.decide(deciles, np.full((1, K, J, A), np.nan), violations, {"fleet": 2 - told, "retrieved": told})
    for decided in (by_evidence, by_prior):
        np.testing.assert_array_equal(decided.weights[0], np.eye(K))


def test_an_unavailable_configuration_has_no_say_and_without_any_there_is_no_decision() -> None:
    deciles = _deciles(np.random.default_rng(3), 2, K, H)
    deciles[0, 1, 2, 3] = np.nan
    deciles[1] = np.nan
    priors = dict.fromkeys(PRIOR_KINDS, np.ones((2, K, A)))
    decided = search_policy(NAMES, (60,), H).decide(deciles, np.ones((2, K, J, A)), np.full((2, K, J, A), 0.5), priors)
    assert (decided.weights[0, :, 1] == 0).all()
    assert np.isfinite(decided.decision[0]).all()
    assert np.isnan(decided.decision[1]).all()
    assert np.isnan(decided.weights[1]).all()


def test_requests_are_decided_one_by_one() -> None:
    rng = np.random.default_rng(4)
    deciles, losses, violations = _deciles(rng, R, D, K, H), rng.exponential(size=(R, D, K, J, A)), rng.random((R, D, K, J, A))
    losses[rng.random(losses.shape) < 0.2] = np.nan
    priors = dict.fromkeys(PRIOR_KINDS, rng.exponential(size=(R, D, K, A)))
    policy = search_policy(NAMES, (60,), H)
    together = policy.decide(deciles, losses, violations, priors)
    for r in (0, R - 1):
        alone = policy.decide(deciles[r], losses[r], violations[r], {kind: prior[r] for kind, prior in priors.items()})
        for part in ("weights", "deciles", "decision", "shift", "posterior"):
            np.testing.assert_allclose(getattr(alone, part), getattr(together, part)[r])


def test_a_policy_survives_storage() -> None:
    policy = search_policy(NAMES, (60, 1440), 60, temperature=0.1 + 0.2, kappa=1 / 3)
    assert SearchPolicy.model_validate_json(policy.model_dump_json()) == policy


def test_a_policy_with_the_same_configuration_twice_is_refused() -> None:
    """Mistake 6: configurations drawn with replacement, so that K = 32 bought nothing new."""
    with pytest.raises(ValidationError, match="lists ctx64 more than once"):
        search_policy(("ctx64", "ctx128", "ctx64"), (60,), 60)


def test_fitting_trusts_evidence_that_tells_the_winner() -> None:
    rng = np.random.default_rng(5)
    errors = rng.permuted(np.tile([0.0, 2.0, 5.0], (R, D, 1)), axis=-1)
    policy = _fit(_sample(np.repeat(errors[..., None], H, axis=-1), np.zeros((R, D, H))), _as_losses(errors))
    for constants in policy.tiers.values():
        assert (constants.temperature, constants.kappa) == (0.0, 0.01)
        assert constants.tuning_loss == pytest.approx(0.0)
    assert policy.portfolio == NAMES
    assert policy.horizon == H


@pytest.mark.parametrize("kind", PRIOR_KINDS)
def test_fitting_trusts_the_prior_that_tells_the_winner_where_evidence_is_noise(kind: str) -> None:
    rng = np.random.default_rng(6)
    errors = rng.permuted(np.tile([0.0, 2.0, 5.0], (R, D, 1)), axis=-1)
    noise = rng.exponential(size=(R, D, K, J, A))
    told = np.repeat(np.abs(errors)[..., None] + 0.1, A, axis=-1)
    policy = _fit(_sample(np.repeat(errors[..., None], H, axis=-1), np.zeros((R, D, H))), noise, **{kind: told})
    for constants in policy.tiers.values():
        assert (constants.prior, constants.kappa, constants.temperature) == (kind, 1000.0, 0.0)


def test_fitting_averages_where_errors_cancel() -> None:
    """Two configurations err to opposite sides by luck that no evidence tells; the third is far off, and evidence tells."""
    rng = np.random.default_rng(7)
    side = rng.choice([-1.0, 1.0], size=(R, D))
    errors = np.stack([side, -side, np.full((R, D), 30.0)], axis=-1)
    policy = _fit(_sample(np.repeat(errors[..., None], H, axis=-1), np.zeros((R, D, H))), _as_losses(errors))
    assert {constants.temperature for constants in policy.tiers.values()} == {0.1}


def test_fitting_corrects_the_level_where_past_violations_tell_it() -> None:
    """Outcomes lie as many spreads above the decision as there were violations too many."""
    rng = np.random.default_rng(8)
    excess = rng.uniform(-0.2, 0.5, size=(R, D, 1, 1, 1))
    violations = 1 - np.array(ALPHAS) + np.broadcast_to(excess, (R, D, K, J, A))
    spread = rng.uniform(1, 9, size=(R, D, 1, H)) * np.ones((1, 1, K, 1))
    actual = excess[..., 0, 0] * spread[:, :, 0]
    sample = _sample(np.zeros((R, D, K, H)), actual, spread=spread)
    for constants in _fit(sample, np.ones((R, D, K, J, A)), violations).tiers.values():
        assert constants.gain == 1.0
        assert constants.tuning_loss == pytest.approx(0.0, abs=1e-9)
    opposite = _sample(np.zeros((R, D, K, H)), -actual, spread=spread)
    assert {c.gain for c in _fit(opposite, np.ones((R, D, K, J, A)), violations).tiers.values()} == {0.0}


def test_fitting_is_not_swayed_by_units() -> None:
    """Mistake 5: bytes per second decided everything. Metric 1 has a billion times the unit and says the opposite of metric 0."""
    errors = np.stack([np.tile([0.0, 1.0, 1.0], (R, 1)), np.tile([0.3, 0.0, 1.0], (R, 1))], axis=1)  # [R, D, K]
    wrong = np.broadcast_to(np.array([1.0, 2.0, 3.0])[:, None, None], (R, D, K, J, A))
    chosen = []
    for unit in (1.0, 1e9):
        units = np.array([1.0, unit])[:, None, None]
        sample = _sample(np.repeat(errors[..., None], H, axis=-1) * units, np.zeros((R, D, H)), scale=np.tile([1.0, unit], (R, 1)))
        chosen.append(_fit(sample, wrong).tiers)
    for tier in TIERS:
        assert chosen[0][tier].model_dump() == pytest.approx(chosen[1][tier].model_dump())


def test_fitting_leaves_out_what_cannot_be_scored_and_counts_no_failure_as_zero() -> None:
    errors = np.tile([1.0, 1.0, 1.0], (R, D, 1))
    decisions = np.repeat(errors[..., None], H, axis=-1)
    actual = np.full((R, D, H), 2.0)
    decisions[0], actual[1] = np.nan, np.nan
    scale = np.ones((R, D))
    scale[2] = np.nan
    policy = _fit(_sample(decisions, actual, scale=scale), np.ones((R, D, K, J, A)))
    for constants, alpha in zip(policy.tiers.values(), ALPHAS, strict=True):
        assert constants.tuning_loss == pytest.approx(alpha)


@pytest.mark.filterwarnings("error")
def test_fitting_on_nothing_says_what_is_missing() -> None:
    nothing = _sample(np.full((R, D, K, H), np.nan), np.ones((R, D, H)))
    with pytest.raises(ValueError, match="none of the 60 valid tuning requests has a forecast, an observed outcome and a scale"):
        _fit(nothing, np.ones((R, D, K, J, A)))
