"""Test the arithmetic of a decision: weights, limits of shrinkage, and limits of every rule."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from tsfm_pipeline.autoresearch.rules import (
    RULES,
    Argmin,
    DecisionRule,
    Gate,
    NoHarm,
    Rule,
    ShrunkenArgmin,
    Softmax,
    TiltedEnsemble,
    TopM,
    combine,
    evidence_weights,
    mean_on_shared_windows,
    posterior_losses,
    relative,
    weights,
)
from tsfm_pipeline.evaluation.losses import decision_quantile

unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

K, J = 4, 3
losses = arrays(np.float64, K, elements=st.floats(0.01, 100))
maybe_losses = arrays(np.float64, K, elements=st.floats(0.01, 100) | st.just(np.nan))
evidences = arrays(np.float64, (K, J), elements=st.floats(0.01, 100))
availabilities = arrays(np.bool_, K)
temperatures = st.sampled_from([0.0, 1e-4, 0.02, 0.1, 3.0])
positive = st.floats(0.01, 1000)

COMMON: dict[str, Any] = {"prior": "fleet", "kappa": 4.0, "half_life": 360.0, "same_hour": 1.0}
BASE = (0.5, 0.25, 0.25, 0.0)


def every_rule() -> list[DecisionRule]:
    return [
        Argmin(**COMMON | {"kappa": 0.0}),
        ShrunkenArgmin(**COMMON),
        NoHarm(**COMMON, margin=0.05, fixed=1),
        TopM(**COMMON, m=2),
        Softmax(**COMMON, temperature=0.05),
        TiltedEnsemble(**COMMON, temperature=0.1, epsilon=0.05, base=BASE),
        Gate(
            **COMMON,
            coefficients={"posterior": -2.0, "spread": 0.5},
            intercepts=(0.1, -0.1, 0.2, -0.2),
        ),
    ]


rules = st.sampled_from(every_rule())


def assert_weights_over(available: np.ndarray, weight: np.ndarray) -> None:
    """Weights [K] sum to one over what is available, and are all NaN where nothing is."""
    if available.any():
        assert weight.sum() == pytest.approx(1.0)
        assert (weight >= 0).all()
        assert (weight[~available] == 0).all()
    else:
        assert np.isnan(weight).all()


@unhurried
@given(maybe_losses, availabilities, temperatures)
def test_weights_sum_to_one_over_what_is_available(
    posterior: np.ndarray, available: np.ndarray, temperature: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weight = weights(posterior, available, temperature)
    assert_weights_over(available, weight)


@unhurried
@given(losses, availabilities.filter(np.any))
def test_at_temperature_zero_the_lowest_available_loss_takes_all(
    posterior: np.ndarray, available: np.ndarray
) -> None:
    best = np.flatnonzero(available)[posterior[available].argmin()]
    np.testing.assert_array_equal(weights(posterior, available, 0.0), np.eye(K)[best])


@unhurried
@given(losses, st.sampled_from([0.02, 0.1, 3.0]))
def test_a_lower_loss_never_gets_a_lower_weight(posterior: np.ndarray, temperature: float) -> None:
    order = posterior.argsort()
    assert (np.diff(weights(posterior, np.ones(K, bool), temperature)[order]) <= 1e-12).all()


def test_the_temperature_is_in_units_of_the_mean_loss() -> None:
    """Two configurations that differ by 10 % of the mean loss at temperature .1: odds of e,
    whatever the unit of the losses.
    """
    for unit in (1e-6, 1.0, 1e9):
        weight = weights(relative(unit * np.array([0.95, 1.05])), np.ones(2, bool), 0.1)
        assert weight[0] / weight[1] == pytest.approx(np.e)


def test_a_configuration_of_unknown_worth_counts_as_average() -> None:
    weight = weights(np.array([0.9, np.nan, 1.1]), np.ones(3, bool), 0.1)
    assert weight[0] > weight[1] > weight[2]
    np.testing.assert_allclose(
        weights(np.full(3, np.nan), np.array([True, True, False]), 0.1), [0.5, 0.5, 0]
    )


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
def test_without_shrinkage_evidence_decides_and_with_much_of_it_the_prior(
    evidence: np.ndarray, prior: np.ndarray
) -> None:
    np.testing.assert_allclose(
        posterior_losses(evidence, prior, 1e-9), relative(evidence.mean(axis=1)), atol=1e-6
    )
    np.testing.assert_allclose(posterior_losses(evidence, prior, 1e12), relative(prior), atol=1e-6)


@unhurried
@given(evidences, losses, st.floats(0.1, 100))
def test_shrinkage_lies_between_evidence_and_prior(
    evidence: np.ndarray, prior: np.ndarray, kappa: float
) -> None:
    expected = (J * relative(evidence.mean(axis=1)) + kappa * relative(prior)) / (J + kappa)
    np.testing.assert_allclose(posterior_losses(evidence, prior, kappa), expected)


@unhurried
@given(evidences, losses, positive, positive)
def test_units_of_evidence_and_prior_do_not_matter(
    evidence: np.ndarray, prior: np.ndarray, unit: float, other: float
) -> None:
    np.testing.assert_allclose(
        posterior_losses(unit * evidence, other * prior, 4.0),
        posterior_losses(evidence, prior, 4.0),
    )


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
    """Evidence on the two best of four says nothing against them because it cannot show how much
    worse the others are.
    """
    evidence = np.where(seen[:, None], unit * prior[:, None] * np.ones(J), np.nan)
    np.testing.assert_allclose(posterior_losses(evidence, prior, kappa), relative(prior))


def test_all_are_compared_on_the_same_windows() -> None:
    """The third window was hard, and the long context cannot see it: that is no merit of the long
    context.
    """
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
def test_a_combination_is_the_average_of_the_quantiles(
    deciles: np.ndarray, weight: np.ndarray
) -> None:
    deciles, weight = np.sort(deciles, axis=-1), weight / weight.sum()
    combined = combine(weight, deciles)
    np.testing.assert_allclose(
        combined, sum(w * d for w, d in zip(weight, deciles, strict=True)), atol=1e-9
    )
    assert (np.diff(combined, axis=-1) >= -1e-9).all()
    average = sum(w * decision_quantile(d, 0.75) for w, d in zip(weight, deciles, strict=True))
    np.testing.assert_allclose(decision_quantile(combined, 0.75), average, atol=1e-9)


def test_an_unavailable_configuration_spoils_a_combination_only_where_it_has_weight() -> None:
    deciles = np.ones((2, 3, 9))
    deciles[1] = np.nan
    np.testing.assert_array_equal(combine(np.array([1.0, 0.0]), deciles), np.ones((3, 9)))
    assert np.isnan(combine(np.array([0.5, 0.5]), deciles)).all()
    assert np.isnan(combine(np.full(2, np.nan), deciles)).all()


def test_recent_origins_count_more_and_so_does_the_same_hour_of_other_days() -> None:
    offsets = (160, 320, 720, 1440, 2880, 10080)
    np.testing.assert_allclose(evidence_weights(offsets, 1440, np.inf, 0.0), 1.0)
    recent = evidence_weights(offsets, 1440, 160.0, 0.0)
    np.testing.assert_allclose(recent[:3], [1.0, 0.5, 2**-3.5])
    daily = evidence_weights(offsets, 1440, np.inf, 3.0)
    np.testing.assert_allclose(daily[3:], 1.0)
    assert daily[2] == daily.min() == pytest.approx(0.25, abs=1e-6)
    both = evidence_weights(offsets, 1440, 160.0, 3.0)
    assert (both[3:] > both[2]).all()
    np.testing.assert_allclose(evidence_weights(offsets, None, 160.0, 3.0), recent)


@unhurried
@given(
    st.lists(st.integers(60, 20_000), min_size=1, max_size=20, unique=True),
    st.sampled_from([288, 1440]),
    st.sampled_from([60.0, 1440.0, np.inf]),
    st.floats(0, 10),
)
def test_origin_weights_are_positive_and_similarity_of_hour_is_circular(
    offsets: list[int], season: int, half_life: float, same_hour: float
) -> None:
    weight = evidence_weights(offsets, season, half_life, same_hour)
    assert weight.max() == 1.0
    assert (weight >= 0).all()
    later = evidence_weights(
        [offset + 7 * season for offset in offsets], season, half_life, same_hour
    )
    np.testing.assert_allclose(later, weight, atol=1e-9)


@unhurried
@given(evidences, arrays(np.float64, J, elements=st.floats(0.01, 1)))
def test_weighted_windows_give_a_weighted_mean_and_an_effective_number(
    evidence: np.ndarray, weight: np.ndarray
) -> None:
    mean, n = mean_on_shared_windows(evidence, weight)
    np.testing.assert_allclose(mean, np.average(evidence, axis=1, weights=weight))
    np.testing.assert_allclose(n, weight.sum() ** 2 / (weight**2).sum())
    assert (n <= J + 1e-9).all()
    for part, expected in zip(
        mean_on_shared_windows(evidence, np.ones(J)), mean_on_shared_windows(evidence), strict=True
    ):
        np.testing.assert_array_equal(part, expected)


def test_all_weight_on_one_window_is_evidence_of_one_window() -> None:
    evidence = np.array([[1.0, 5.0], [2.0, 0.0]])
    mean, n = mean_on_shared_windows(evidence, np.array([1.0, 0.0]))
    np.testing.assert_array_equal(mean, [1.0, 2.0])
    np.testing.assert_array_equal(n, [1.0, 1.0])
    shared = mean_on_shared_windows(np.array([[1.0, 5.0], [2.0, np.nan]]), np.array([0.0, 1.0]))
    assert np.isnan(shared[0]).all()
    np.testing.assert_array_equal(shared[1], [0.0, 0.0])


@unhurried
@given(rules, maybe_losses, availabilities)
def test_every_rule_gives_weights_over_what_is_available(
    rule: DecisionRule, posterior: np.ndarray, available: np.ndarray
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weight = rule.weights(posterior, available)
    assert_weights_over(available, weight)


@unhurried
@given(
    rules, arrays(np.float64, (5, 2, K), elements=st.floats(0.01, 100)), arrays(np.bool_, (5, 2, K))
)
def test_every_rule_decides_row_by_row(
    rule: DecisionRule, posterior: np.ndarray, available: np.ndarray
) -> None:
    together = rule.weights(posterior, available)
    for r, d in np.ndindex(5, 2):
        np.testing.assert_array_equal(
            rule.weights(posterior[r, d], available[r, d]), together[r, d]
        )


@unhurried
@given(losses, availabilities.filter(np.any))
def test_a_cold_softmax_the_best_one_and_no_margin_are_the_argmin(
    posterior: np.ndarray, available: np.ndarray
) -> None:
    expected = ShrunkenArgmin(**COMMON).weights(posterior, available)
    assert expected.max() == 1.0
    np.testing.assert_array_equal(
        Softmax(**COMMON, temperature=0.0).weights(posterior, available), expected
    )
    np.testing.assert_array_equal(TopM(**COMMON, m=1).weights(posterior, available), expected)
    gap = np.diff(np.sort(posterior[available]))[:1]
    if len(gap) and gap[0] > 0:
        np.testing.assert_array_equal(
            NoHarm(**COMMON, margin=0.0, fixed=1).weights(posterior, available), expected
        )
        np.testing.assert_allclose(
            Softmax(**COMMON, temperature=gap[0] / 100).weights(posterior, available),
            expected,
            atol=1e-12,
        )
        tilted = TiltedEnsemble(**COMMON, temperature=gap[0] / 100, epsilon=0.5, base=BASE)
        np.testing.assert_allclose(tilted.weights(posterior, available), expected, atol=1e-12)


@unhurried
@given(losses, availabilities.filter(np.any))
def test_a_hot_softmax_and_the_best_of_all_are_the_plain_average(
    posterior: np.ndarray, available: np.ndarray
) -> None:
    np.testing.assert_allclose(
        TopM(**COMMON, m=K).weights(posterior, available), available / available.sum()
    )
    np.testing.assert_allclose(
        Softmax(**COMMON, temperature=np.inf).weights(posterior, available),
        available / available.sum(),
    )


@unhurried
@given(maybe_losses, availabilities.filter(np.any))
def test_an_infinite_margin_keeps_the_fixed_configuration_wherever_it_is_available(
    posterior: np.ndarray, available: np.ndarray
) -> None:
    weight = NoHarm(**COMMON, margin=np.inf, fixed=2).weights(posterior, available)
    expected = (
        np.eye(K)[2] if available[2] else ShrunkenArgmin(**COMMON).weights(posterior, available)
    )
    np.testing.assert_array_equal(weight, expected)


def test_no_harm_is_done_until_the_evidence_clears_the_margin() -> None:
    available = np.ones(3, bool)
    rule = NoHarm(**COMMON, margin=0.1, fixed=0)
    np.testing.assert_array_equal(rule.weights(np.array([1.05, 0.96, 0.99]), available), [1, 0, 0])
    np.testing.assert_array_equal(rule.weights(np.array([1.08, 0.96, 0.96]), available), [0, 1, 0])


@unhurried
@given(maybe_losses)
def test_without_tilt_the_ensemble_is_the_static_one(posterior: np.ndarray) -> None:
    everything = np.ones(K, bool)
    rule = TiltedEnsemble(**COMMON, temperature=np.inf, epsilon=0.0, base=BASE)
    np.testing.assert_allclose(rule.weights(posterior, everything), BASE)
    np.testing.assert_allclose(
        rule.weights(posterior, np.array([False, True, True, True])), [0, 0.5, 0.5, 0]
    )
    np.testing.assert_allclose(
        rule.weights(posterior, np.array([False, False, False, True])), [0, 0, 0, 1]
    )


@unhurried
@given(losses, availabilities.filter(np.any), st.sampled_from([0.02, 0.1, 3.0]))
def test_an_ensemble_of_all_alike_tilts_as_the_softmax_does(
    posterior: np.ndarray, available: np.ndarray, temperature: float
) -> None:
    expected = Softmax(**COMMON, temperature=temperature).weights(posterior, available)
    for epsilon, base in ((0.0, (1 / K,) * K), (1.0, BASE)):
        tilted = TiltedEnsemble(**COMMON, temperature=temperature, epsilon=epsilon, base=base)
        np.testing.assert_allclose(tilted.weights(posterior, available), expected, atol=1e-12)


def test_a_configuration_outside_of_the_ensemble_gets_in_by_epsilon_alone() -> None:
    posterior, everything = np.array([1.2, 1.2, 1.2, 0.4]), np.ones(K, bool)
    shut, ajar = (
        TiltedEnsemble(**COMMON, temperature=0.1, epsilon=epsilon, base=BASE).weights(
            posterior, everything
        )
        for epsilon in (0, 0.05)
    )
    np.testing.assert_allclose(shut, BASE)
    assert ajar[3] > 0.9


def test_the_argmin_hears_no_prior_where_there_is_evidence() -> None:
    rule = Argmin(**COMMON | {"kappa": 0.0})
    evidence, prior = np.array([[2.0, 2.0], [1.0, 1.0]]), np.array([0.1, 1.9])
    np.testing.assert_array_equal(
        rule.weights(posterior_losses(evidence, prior, rule.kappa), np.ones(2, bool)), [0, 1]
    )
    nothing = np.full((2, 2), np.nan)
    np.testing.assert_array_equal(
        rule.weights(posterior_losses(nothing, prior, rule.kappa), np.ones(2, bool)), [1, 0]
    )
    with pytest.raises(ValidationError):
        Argmin(**COMMON)


@pytest.mark.parametrize("rule", every_rule(), ids=lambda rule: rule.name)
def test_a_rule_survives_storage(rule: DecisionRule) -> None:
    adapter = TypeAdapter(Rule)
    for stored in (rule, rule.model_copy(update={"half_life": np.inf})):
        text = stored.model_dump_json()
        assert "NaN" not in text
        assert adapter.validate_json(text) == stored
    assert sorted(RULES) == sorted(one.name for one in every_rule())  # type: ignore[attr-defined]


def test_over_other_configurations_a_rule_keeps_what_it_knows_of_the_old_ones() -> None:
    assert NoHarm(**COMMON, margin=0.1, fixed=2).over([3, 2]).fixed == 1
    assert NoHarm(**COMMON, margin=0.1, fixed=2).over([None, 0]).fixed == 0
    ensemble = TiltedEnsemble(**COMMON, temperature=0.1, epsilon=0.0, base=BASE)
    assert ensemble.over([None, 1, 0]).base == pytest.approx((0, 1 / 3, 2 / 3))
    assert ensemble.over([None, None]).base == (0.5, 0.5)
    assert Gate(**COMMON, coefficients={}, intercepts=(0.5, -0.5)).over(
        [None, 1, 0]
    ).intercepts == (0.0, -0.5, 0.5)
    assert Softmax(**COMMON, temperature=0.1).over([None]) == Softmax(**COMMON, temperature=0.1)


def test_leading_axes_are_rows_that_do_not_know_each_other() -> None:
    rng = np.random.default_rng(0)
    evidence, prior = rng.exponential(size=(5, 2, K, J)), rng.exponential(size=(5, 2, K))
    evidence[0, 0, 1], evidence[1, 1, :, 2] = np.nan, np.nan
    available = rng.random((5, 2, K)) < 0.7
    together = posterior_losses(evidence, prior, 4.0)
    for r, d in np.ndindex(5, 2):
        alone = posterior_losses(evidence[r, d], prior[r, d], 4.0)
        np.testing.assert_array_equal(alone, together[r, d])
        np.testing.assert_array_equal(
            weights(alone, available[r, d], 0.1), weights(together, available, 0.1)[r, d]
        )
