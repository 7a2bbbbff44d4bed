"""Test that the level of a decision moves in the direction of past violations, no further than
other tenants' experience allows, and by the constants that the test planted.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.autoresearch.calibration import (
    LevelCorrection,
    Outcomes,
    excess_violations,
    fit_correction,
)
from tsfm_pipeline.autoresearch.rules import evidence_weights
from tsfm_pipeline.evaluation.limits import UNLIMITED, Limits
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.evaluation.protocol import ALPHAS
from tsfm_pipeline.settings import SearchSettings

unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

K, J = 2, 3
OFFSETS = (60, 120, 180)
EVEN = np.array([0.5, 0.5])
UNKNOWN = np.full(K, np.nan)
rates = arrays(np.float64, (K, J), elements=st.floats(0, 1))


def correction(**constants: float) -> LevelCorrection:
    return LevelCorrection(
        **{"base_shift": 0.0, "gain": 0.5, "kappa": 0.0, "half_life": np.inf, "same_hour": 0.0}
        | constants
    )


def shift(
    violations: np.ndarray,
    alpha: float,
    prior: np.ndarray = UNKNOWN,
    weight: np.ndarray = EVEN,
    **constants: float,
) -> float:
    return float(correction(**constants).shift(violations, prior, weight, alpha, OFFSETS, None))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_correction_raises_what_was_exceeded_too_often_and_lowers_what_was_too_rarely(
    alpha: float,
) -> None:
    often, right, rarely = (
        np.full((K, J), rate) for rate in (1 - alpha + 0.2, 1 - alpha, 1 - alpha - 0.1)
    )
    assert shift(often, alpha) == pytest.approx(0.1)
    assert shift(right, alpha) == pytest.approx(0.0)
    assert shift(rarely, alpha) == pytest.approx(-0.05)
    assert shift(often, alpha, gain=0.0) == 0.0
    assert shift(often, alpha, base_shift=-0.3) == pytest.approx(-0.2)


def test_the_correction_hears_configurations_by_their_weight_and_windows_that_were_seen() -> None:
    violations = np.array([[0.5, np.nan, np.nan], [0.1, 0.1, 0.1]])
    assert shift(violations, 0.9, weight=np.array([1.0, 0.0]), gain=1.0) == pytest.approx(0.4)
    assert shift(violations, 0.9, weight=np.array([0.25, 0.75]), gain=1.0) == pytest.approx(0.1)
    assert shift(violations, 0.9, weight=np.full(K, np.nan), gain=1.0) == pytest.approx(0.0)
    assert shift(np.full((K, J), np.nan), 0.9, gain=1.0) == pytest.approx(0.0), (
        "a rate that nobody knows is taken to be right"
    )


def test_recent_windows_may_count_more() -> None:
    violations = np.array([[0.6, 0.0, 0.0]] * K)
    assert shift(violations, 0.9, gain=1.0) == pytest.approx(0.1)
    assert shift(violations, 0.9, gain=1.0, half_life=60.0) == pytest.approx(0.6 / 1.75 - 0.1)


@unhurried
@given(rates, st.floats(0, 1), st.floats(0.01, 1000), st.sampled_from(ALPHAS))
def test_a_few_windows_are_shrunken_toward_what_other_tenants_saw(
    own: np.ndarray, theirs: float, kappa: float, alpha: float
) -> None:
    prior, weights = np.full(K, theirs), np.ones(J)
    excess = excess_violations(own, prior, EVEN, alpha, kappa, weights)
    expected = (J * own.mean() + kappa * theirs) / (J + kappa) - (1 - alpha)
    assert excess == pytest.approx(expected)
    assert excess_violations(own, prior, EVEN, alpha, 1e12, weights) == pytest.approx(
        theirs - (1 - alpha), abs=1e-9
    )
    assert excess_violations(own, prior, EVEN, alpha, 0.0, weights) == pytest.approx(
        own.mean() - (1 - alpha)
    )
    nothing = np.full((K, J), np.nan)
    assert excess_violations(nothing, prior, EVEN, alpha, kappa, weights) == pytest.approx(
        theirs - (1 - alpha)
    )


def test_leading_axes_are_rows_that_do_not_know_each_other() -> None:
    rng = np.random.default_rng(0)
    violations, prior, weight = (
        rng.random((5, 2, K, J)),
        rng.random((5, 2, K)),
        rng.dirichlet(np.ones(K), (5, 2)),
    )
    violations[0, 0, 1, 2] = np.nan
    one = correction(kappa=4.0, half_life=90.0, same_hour=1.0)
    together = one.shift(violations, prior, weight, 0.75, OFFSETS, 1440)
    for r, d in np.ndindex(5, 2):
        assert (
            one.shift(violations[r, d], prior[r, d], weight[r, d], 0.75, OFFSETS, 1440)
            == together[r, d]
        )


def test_a_correction_survives_storage() -> None:
    one = correction(base_shift=-0.1, kappa=1 / 3)
    assert LevelCorrection.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize("alpha", ALPHAS)
def test_outcomes_are_scored_as_everything_else_is(alpha: float) -> None:
    rng = np.random.default_rng(1)
    actual, decision = rng.normal(size=(7, 5)), rng.normal(size=(7, 5))
    actual[0, :3], actual[2, 4] = np.nan, np.nan
    scale = rng.uniform(1, 9, 7)
    outcomes = Outcomes(actual.astype(np.float32), scale.astype(np.float32), np.arange(7))
    expected = mean_pinball(actual, decision, alpha) / scale
    np.testing.assert_allclose(
        outcomes.losses(decision.astype(np.float32), alpha), expected, rtol=1e-5
    )
    assert outcomes.mean_loss(decision.astype(np.float32), alpha) == pytest.approx(
        expected.mean(), rel=1e-5
    )


M, H = 400, 4
SETTINGS = SearchSettings(
    base_shifts=(-0.5, -0.25, 0.0, 0.25, 0.5),
    correction_gains=(0.0, 0.5, 1.0, 2.0),
    correction_shrinkages=(0.01, 1000.0),
    same_hours=(0.0, 8.0),
)


def _fitted(
    actual: np.ndarray,
    unit: np.ndarray,
    violations: np.ndarray,
    prior: np.ndarray,
    settings: SearchSettings = SETTINGS,
) -> LevelCorrection:
    """Fitted on decisions 0 of one configuration, violations [M, J] and prior [M]."""
    outcomes = Outcomes(actual.astype(np.float32), np.ones(M, np.float32), np.arange(M) // 4)

    def excess(kappa: float, half_life: float, same_hour: float) -> np.ndarray:
        weights = evidence_weights((60, 120, 1440), 1440, half_life, same_hour)
        return excess_violations(
            violations[:, None], prior[:, None], np.ones((M, 1)), 0.75, kappa, weights
        )

    return fit_correction(
        settings,
        outcomes,
        np.zeros((M, H), np.float32),
        unit.astype(np.float32),
        excess,
        (np.inf, 60.0),
        0.75,
    )


def test_fitting_finds_the_gain_and_the_shift_that_were_planted() -> None:
    """Outcomes lie as many units above the decision as there were violations too many, and a
    quarter more.
    """
    rng = np.random.default_rng(2)
    excess = rng.uniform(-0.2, 0.5, M)
    unit = rng.uniform(1, 9, (M, H))
    violations = 0.25 + np.repeat(excess[:, None], 3, axis=1)
    found = _fitted((excess[:, None] + 0.25) * unit, unit, violations, np.full(M, 0.25))
    assert (found.base_shift, found.gain, found.kappa) == (0.25, 1.0, 0.01)
    opposite = _fitted((0.25 - excess[:, None]) * unit, unit, violations, np.full(M, 0.25))
    assert opposite.gain == 0.0, (
        "past violations that say the opposite of what comes are not listened to"
    )


def test_a_shift_must_save_as_many_errors_as_the_settings_say() -> None:
    rng = np.random.default_rng(2)
    actual = 0.25 + rng.normal(0, 0.3, (M // 4, 1)).repeat(4, axis=0) + np.zeros((M, H))
    nothing = np.full((M, 3), 0.25), np.full(M, 0.25)

    def shift(errors: float) -> float:
        settings = SETTINGS.model_copy(update={"base_shift_errors": errors})
        return _fitted(actual, np.ones((M, H)), *nothing, settings).base_shift

    assert shift(0.0) == shift(2.0) > 0
    assert shift(100.0) == 0


def test_a_shift_is_chosen_by_what_it_costs_within_the_limits() -> None:
    """Half of the rows lie at a lower limit of 0, and a shift downwards leaves them there. It helps
    the other half. Without the limit it would cost the first half more than the other gains.
    """
    at_limit = np.arange(M) // 4 % 2 == 0
    outcomes = Outcomes(
        np.repeat(np.where(at_limit, 0.0, 5.0)[:, None], H, axis=1).astype(np.float32),
        np.ones(M, np.float32),
        np.arange(M) // 4,
    )
    decision = np.where(at_limit, 0.0, 5.5)[:, None] * np.ones((1, H))

    def fitted(limits: Limits) -> float:
        return fit_correction(
            SETTINGS,
            outcomes,
            decision.astype(np.float32),
            np.ones((M, H), np.float32),
            lambda kappa, half_life, same_hour: np.zeros(M),
            (np.inf,),
            0.75,
            limits,
        ).base_shift

    assert fitted(UNLIMITED) == 0.0
    assert fitted(Limits.of([(0.0, None)] * M)) < 0


def test_fitting_hears_others_where_own_violations_are_noise() -> None:
    rng = np.random.default_rng(3)
    theirs = rng.uniform(0.05, 0.75, M)
    found = _fitted(
        (theirs[:, None] - 0.25) * np.ones((M, H)), np.ones((M, H)), rng.random((M, 3)), theirs
    )
    assert (found.gain, found.kappa) == (1.0, 1000.0)


def test_fitting_hears_the_windows_that_tell() -> None:
    """Only the same hour of yesterday is like what comes."""
    rng = np.random.default_rng(4)
    violations = rng.random((M, 3))
    found = _fitted(
        (violations[:, 2:] - 0.25) * np.ones((M, H)), np.ones((M, H)), violations, np.full(M, 0.25)
    )
    assert (found.same_hour, found.kappa) == (8.0, 0.01)
    latest = _fitted(
        (violations[:, :1] - 0.25) * np.ones((M, H)), np.ones((M, H)), violations, np.full(M, 0.25)
    )
    assert (latest.same_hour, latest.half_life) == (0.0, 60.0)
