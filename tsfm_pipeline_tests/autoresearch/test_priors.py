"""Test what tenants learn from other tenants, and that no tenant learns from itself."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.autoresearch.priors import TenantExperience

unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

N, D, K, A = 4, 2, 3, 3


def _experience(seed: int) -> TenantExperience:
    losses = np.random.default_rng(seed).lognormal(sigma=2, size=(N, D, K, A))
    return TenantExperience(losses, np.array([f"t{i}" for i in range(N)]))


experiences = st.integers(0, 2**32).map(_experience)


@unhurried
@given(experiences, st.floats(0.01, 100))
def test_nothing_of_a_tenant_s_own_is_in_its_prior(
    experience: TenantExperience, factor: float
) -> None:
    changed = experience.losses.copy()
    changed[1, :, 0] *= factor
    other = TenantExperience(changed, experience.tenant_ids)
    np.testing.assert_array_equal(experience.fleet_prior("t1"), other.fleet_prior("t1"))
    nobody = np.array([], dtype=np.int64), np.array([])
    np.testing.assert_array_equal(
        experience.retrieved_prior(*nobody, "t1"), other.retrieved_prior(*nobody, "t1")
    )


@unhurried
@given(experiences, arrays(np.float64, (N, D, 1, A), elements=st.floats(0.01, 100)))
def test_how_much_a_series_costs_does_not_decide(
    experience: TenantExperience, scales: np.ndarray
) -> None:
    rescaled = TenantExperience(experience.losses * scales, experience.tenant_ids)
    np.testing.assert_allclose(rescaled.fleet_prior(), experience.fleet_prior())
    neighbours = np.array([2, 0]), np.array([0.9, 0.3])
    np.testing.assert_allclose(
        rescaled.retrieved_prior(*neighbours), experience.retrieved_prior(*neighbours)
    )


@unhurried
@given(experiences)
def test_a_prior_is_relative_per_metric_and_tier(experience: TenantExperience) -> None:
    assert experience.fleet_prior().shape == (D, K, A)
    np.testing.assert_allclose(experience.fleet_prior("t0").mean(axis=1), 1.0)


def _two_camps() -> TenantExperience:
    """Tenants 0 and 1 do well with the first configuration, 2 and 3 with the last."""
    losses = np.ones((N, D, K, A))
    losses[:2, :, 0] = 0.1
    losses[2:, :, 2] = 0.1
    return TenantExperience(losses, np.array([f"t{i}" for i in range(N)]))


def test_neighbours_count_by_their_similarity() -> None:
    experience = _two_camps()
    for rows, similarity, best in (
        ([0, 2], [0.9, 0.1], 0),
        ([0, 2], [0.1, 0.9], 2),
        ([0, 1], [0.5, 0.5], 0),
    ):
        assert (
            experience.retrieved_prior(np.array(rows), np.array(similarity)).argmin(axis=1) == best
        ).all()
    alone = experience.retrieved_prior(np.array([0]), np.array([0.2]))
    np.testing.assert_allclose(
        experience.retrieved_prior(np.array([0, 2]), np.array([0.2, -0.9])), alone
    )


def test_without_neighbours_that_count_the_fleet_speaks() -> None:
    experience = _two_camps()
    for rows, similarity in (([], []), ([0, 1], [0.0, -0.5])):
        prior = experience.retrieved_prior(
            np.array(rows, dtype=np.int64), np.array(similarity), "t3"
        )
        np.testing.assert_array_equal(prior, experience.fleet_prior("t3"))
    assert (experience.fleet_prior("t3").argmin(axis=1) == 0).all()


def test_where_neighbours_know_nothing_of_a_metric_the_fleet_does() -> None:
    experience = _two_camps()
    experience.losses[2, 1] = np.nan  # metric 1 of tenant 2 is constant at zero: it has no scale
    prior = experience.retrieved_prior(np.array([2]), np.array([1.0]), "t0")
    assert (prior[0].argmin(axis=0) == 2).all()
    np.testing.assert_array_equal(prior[1], experience.fleet_prior("t0")[1])


def test_what_no_tenant_knows_stays_unknown_and_a_lone_tenant_has_itself() -> None:
    experience = _two_camps()
    experience.losses[:, :, 1] = np.nan
    assert np.isnan(experience.fleet_prior()[:, 1]).all()
    assert np.isfinite(experience.fleet_prior()[:, [0, 2]]).all()
    lone = TenantExperience(_two_camps().losses[:1], np.array(["t0"]))
    np.testing.assert_array_equal(lone.fleet_prior("t0"), lone.fleet_prior())


def test_experience_compares_configurations_on_the_same_requests() -> None:
    """The second request was hard, and the last configuration could not answer it; the third
    request is invalid.
    """
    losses = np.full((1, 3, 1, 2, 1), np.nan)
    losses[0, 0, 0, :, 0] = 1.0, 1.5
    losses[0, 1, 0, 0, 0] = 50.0
    experience = TenantExperience.from_requests(losses, np.array(["t0"]))
    np.testing.assert_allclose(experience.losses[0, 0, :, 0], [1.0, 1.5])
    assert experience.losses.shape == (1, 1, 2, 1)


def test_experience_is_the_mean_over_requests() -> None:
    losses = np.random.default_rng(0).exponential(size=(N, 5, D, K, A))
    assert TenantExperience.from_requests(losses, np.arange(N).astype(str)).losses == pytest.approx(
        losses.mean(axis=1)
    )


def _with_rates(*rates: float) -> TenantExperience:
    """Tenants whose every decision is exceeded at these rates."""
    return TenantExperience(
        np.ones((N, D, K, A)),
        np.array([f"t{i}" for i in range(N)]),
        np.ones((N, D, K, A)) * np.array(rates)[:, None, None, None],
    )


def test_violation_rates_are_averaged_as_they_are_by_similarity() -> None:
    experience = _with_rates(0.1, 0.2, 0.3, 0.4)
    assert experience.retrieved_violations(
        np.array([0, 2]), np.array([0.75, 0.25])
    ) == pytest.approx(0.15)
    assert experience.retrieved_violations(
        np.array([0, 2]), np.array([0.75, -0.25])
    ) == pytest.approx(0.1)


def test_violation_rates_fall_back_on_the_fleet_without_the_tenant_itself() -> None:
    experience = _with_rates(0.1, 0.2, 0.3, 0.8)
    nobody = np.array([], dtype=np.int64), np.array([])
    assert experience.retrieved_violations(*nobody, "t3") == pytest.approx(0.2)
    assert experience.retrieved_violations(*nobody) == pytest.approx(0.35)
    assert experience.violations is not None
    experience.violations[1, 0] = np.nan
    rates = experience.retrieved_violations(np.array([1]), np.array([1.0]), "t3")
    assert rates[0] == pytest.approx(0.2), "what the neighbour does not know, the others do"
    assert rates[1] == pytest.approx(0.2)
    assert np.isnan(
        TenantExperience(np.ones((N, D, K, A)), experience.tenant_ids).retrieved_violations(*nobody)
    ).all()


def test_violation_rates_are_means_over_the_same_requests_as_the_losses() -> None:
    rng = np.random.default_rng(1)
    losses, rates = rng.exponential(size=(N, 5, D, K, A)), rng.random((N, 5, D, K, A))
    experience = TenantExperience.from_requests(losses, np.arange(N).astype(str), rates)
    assert experience.violations == pytest.approx(rates.mean(axis=1))
    assert experience.losses == pytest.approx(losses.mean(axis=1))


def test_over_other_configurations_experience_is_kept_by_position_and_unknown_of_new_ones() -> None:
    experience = TenantExperience.from_requests(
        np.random.default_rng(2).exponential(size=(N, 5, D, K, A)),
        np.arange(N).astype(str),
        np.random.default_rng(3).random((N, 5, D, K, A)),
    )
    moved = experience.over([2, None, 0])
    np.testing.assert_array_equal(moved.losses[:, :, [0, 2]], experience.losses[:, :, [2, 0]])
    assert np.isnan(moved.losses[:, :, 1]).all()
    assert moved.violations is not None
    assert experience.violations is not None
    np.testing.assert_array_equal(moved.violations[:, :, 0], experience.violations[:, :, 2])
    assert TenantExperience(experience.losses, experience.tenant_ids).over([1]).violations is None
