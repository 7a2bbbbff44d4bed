"""The arithmetic of a decision: weights are weights, shrinkage has its limits, corrections point the right way."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.autoresearch.rules import combine, level_correction, mean_on_shared_windows, posterior_losses, relative, weights
from tsfm_pipeline.evaluation.losses import decision_quantile

unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

K, J = 4, 3
losses = arrays(np.float64, K, elements=st.floats(0.01, 100))
maybe_losses = arrays(np.float64, K, elements=st.floats(0.01, 100) | st.just(np.nan))
evidences = arrays(np.float64, (K, J), elements=st.floats(0.01, 100))
availabilities = arrays(np.bool_, K)
temperatures = st.sampled_from([0.0, 1e-4, 0.02, 0.1, 3.0])
positive = st.floats(0.01, 1000)


@unhurried
@given(maybe_losses, availabilities, temperatures)
def test_weights_sum_to_one_over_what_is_available(posterior: np.ndarray, available: np.ndarray, temperature: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weight = weights(posterior, available, temperature)
    if available.any():
        assert weight.sum() == pytest.approx(1.0)
        assert (weight >= 0).all()
        assert (weight[~available] == 0).all()
    else:
        assert np.isnan(weight).all()


@unhurried
@given(losses, availabilities.filter(np.any))
def test_at_temperature_zero_the_lowest_available_loss_takes_all(posterior: np.ndarray, available: np.ndarray) -> None:
    best = np.flatnonzero(available)[posterior[available].argmin()]
    np.testing.assert_array_equal(weights(posterior, available, 0.0), np.eye(K)[best])


@unhurried
@given(losses, st.sampled_from([0.02, 0.1, 3.0]))
def test_a_lower_loss_never_gets_a_lower_weight(posterior: np.ndarray, temperature: float) -> None:
    order = posterior.argsort()
    assert (np.diff(weights(posterior, np.ones(K, bool), temperature)[order]) <= 1e-12).all()


def test_the_temperature_is_in_units_of_the_mean_loss() -> None:
    """Two configurations that differ by 10 % of the mean loss at temperature .1: odds of e, whatever the unit of the losses."""
    for unit in (1e-6, 1.0, 1e9):
        weight = weights(relative(unit * np.array([0.95, 1.05])), np.ones(2, bool), 0.1)
        assert weight[0] / weight[1] == pytest.approx(np.e)


def test_a_configuration_of_unknown_worth_counts_as_average() -> None:
    weight = weights(np.array([0.9, np.nan, 1.1]), np.ones(3, bool), 0.1)
    assert weight[0] > weight[1] > weight[2]
    np.testing.assert_allclose(weights(np.full(3, np.nan), np.array([True, True, False]), 0.1), [0.5, 0.5, 0])


@unhurried
@given(losses, positive)
def test_relative_losses_have_mean_one_and_no_unit(values: np.ndarray, unit: float) -> None:
    assert relative(values).mean() == pytest.approx(1.0)
    np.testing.assert_allclose(relative(unit * values), relative(values))


def test_relative_losses_leave_unavailable_ones_out_and_know_constant_series() -> None:
    np.testing.assert_allclose(relative(np.array([1.0, np.nan, 3.0])), [0.5, np.nan, 1.5])
    np.testing.assert_array_equal(relative(np.array([0.0, 0.0, np.nan])), [1.0, 1.0, np.nan])
    assert np.isnan(relative(np.full(3, np.nan))).all()


@unhurried
@given(evidences, losses)
def test_without_shrinkage_evidence_decides_and_with_much_of_it_the_prior(evidence: np.ndarray, prior: np.ndarray) -> None:
    np.testing.assert_allclose(posterior_losses(evidence, prior, 1e-9), relative(evidence.mean(axis=1)), atol=1e-6)
    np.testing.assert_allclose(posterior_losses(evidence, prior, 1e12), relative(prior), atol=1e-6)


@unhurried
@given(evidences, losses, st.floats(0.1, 100))
def test_shrinkage_lies_between_evidence_and_prior(evidence: np.ndarray, prior: np.ndarray, kappa: float) -> None:
    expected = (J * relative(evidence.mean(axis=1)) + kappa * relative(prior)) / (J + kappa)
    np.testing.assert_allclose(posterior_losses(evidence, prior, kappa), expected)


@unhurried
@given(evidences, losses, positive, positive)
def test_units_of_evidence_and_prior_do_not_matter(evidence: np.ndarray, prior: np.ndarray, unit: float, other: float) -> None:
    np.testing.assert_allclose(posterior_losses(unit * evidence, other * prior, 4.0), posterior_losses(evidence, prior, 4.0))


def test_no_evidence_leaves_the_prior_and_no_prior_the_evidence() -> None:
    prior = np.array([0.5, 1.0, 1.5])
    evidence = np.array([[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]])
    np.testing.assert_allclose(posterior_losses(np.full((3, 2), np.nan), prior, 4.0), prior)
    np.testing.assert_allclose(posterior_losses(evidence, np.full(3, np.nan), 4.0), [1.5, 1.0, 0.5])
    assert np.isnan(posterior_losses(np.full((3, 2), np.nan), np.full(3, np.nan), 4.0)).all()


@unhurried
@given(losses, arrays(np.bool_, K).filter(np.any), st.floats(0.1, 100), positive)
def test_evidence_that_agrees_with_the_prior_changes_nothing_whatever_it_was_seen_on(
    prior: np.ndarray, seen: np.ndarray, kappa: float, unit: float
) -> None:
    """Evidence on the two best of four says nothing against them because it cannot show how much worse the others are."""
    evidence = np.where(seen[:, None], unit * prior[:, None] * np.ones(J), np.nan)
    np.testing.assert_allclose(posterior_losses(evidence, prior, kappa), relative(prior))


def test_all_are_compared_on_the_same_windows() -> None:
    """The third window was hard, and the long context cannot see it: that is no merit of the long context."""
    evidence = np.array([[1.0, 1.0, 100.0], [1.2, 1.2, np.nan]])
    mean, n = mean_on_shared_windows(evidence)
    np.testing.assert_allclose(mean, [1.0, 1.2])
    np.testing.assert_array_equal(n, [2, 2])
    posterior = posterior_losses(evidence, np.ones(2), 1.0)
    assert posterior[0] < posterior[1]


def test_a_window_that_nobody_saw_and_a_configuration_without_any_do_not_count() -> None:
    evidence = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, 2.0], [np.nan, np.nan, np.nan]])
    mean, n = mean_on_shared_windows(evidence)
    np.testing.assert_array_equal(mean, [2.0, 2.0, np.nan])
    np.testing.assert_array_equal(n, [2, 2, 0])


@unhurried
@given(arrays(np.float64, (K, 2, 9), elements=st.floats(-100, 100)), losses)
def test_a_combination_is_the_average_of_the_quantiles(deciles: np.ndarray, weight: np.ndarray) -> None:
    deciles, weight = np.sort(deciles, axis=-1), weight / weight.sum()
    combined = combine(weight, deciles)
    np.testing.assert_allclose(combined, sum(w * d for w, d in zip(weight, deciles, strict=True)), atol=1e-9)
    assert (np.diff(combined, axis=-1) >= -1e-9).all()
    average = sum(w * decision_quantile(d, 0.75) for w, d in zip(weight, deciles, strict=True))
    np.testing.assert_allclose(decision_quantile(combined, 0.75), average, atol=1e-9)


def test_an_unavailable_configuration_spoils_a_combination_only_where_it_has_weight() -> None:
    deciles = np.ones((2, 3, 9))
    deciles[1] = np.nan
    np.testing.assert_array_equal(combine(np.array([1.0, 0.0]), deciles), np.ones((3, 9)))
    assert np.isnan(combine(np.array([0.5, 0.5]), deciles)).all()
    assert np.isnan(combine(np.full(2, np.nan), deciles)).all()


@pytest.mark.parametrize("alpha", [0.9, 0.75, 0.65])
def test_the_correction_raises_what_was_exceeded_too_often_and_lowers_what_was_too_rarely(alpha: float) -> None:
    weight = np.array([0.5, 0.5])
    often, right, rarely = (np.full((2, J), rate) for rate in (1 - alpha + 0.2, 1 - alpha, 1 - alpha - 0.1))
    assert level_correction(often, weight, alpha, 0.5) == pytest.approx(0.1)
    assert level_correction(right, weight, alpha, 0.5) == pytest.approx(0.0)
    assert level_correction(rarely, weight, alpha, 0.5) == pytest.approx(-0.05)
    assert level_correction(often, weight, alpha, 0.0) == 0.0


def test_the_correction_hears_configurations_by_their_weight_and_windows_that_were_seen() -> None:
    violations = np.array([[0.5, np.nan], [0.1, 0.1], [np.nan, np.nan]])
    assert level_correction(violations, np.array([1.0, 0.0, 0.0]), 0.9, 1.0) == pytest.approx(0.4)
    assert level_correction(violations, np.array([0.25, 0.75, 0.0]), 0.9, 1.0) == pytest.approx(0.1)
    assert level_correction(violations, np.array([0.0, 0.0, 1.0]), 0.9, 1.0) == pytest.approx(0.0)
    assert level_correction(violations, np.full(3, np.nan), 0.9, 1.0) == pytest.approx(0.0)


def test_leading_axes_are_rows_that_do_not_know_each_other() -> None:
    rng = np.random.default_rng(0)
    evidence, prior = rng.exponential(size=(5, 2, K, J)), rng.exponential(size=(5, 2, K))
    evidence[0, 0, 1], evidence[1, 1, :, 2] = np.nan, np.nan
    available = rng.random((5, 2, K)) < 0.7
    together = posterior_losses(evidence, prior, 4.0)
    for r, d in np.ndindex(5, 2):
        alone = posterior_losses(evidence[r, d], prior[r, d], 4.0)
        np.testing.assert_array_equal(alone, together[r, d])
        np.testing.assert_array_equal(weights(alone, available[r, d], 0.1), weights(together, available, 0.1)[r, d])
