"""Test that targets follow their origin, and that the losses of many forecasts equal those of each
alone.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.evaluation.arrays import targets_after, tier_losses, violation_rate
from tsfm_pipeline.evaluation.losses import decision_quantile, mean_pinball
from tsfm_pipeline.evaluation.protocol import ALPHAS

unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAN = np.nan


def test_targets_are_the_steps_after_the_origin() -> None:
    values = np.arange(20, dtype=np.float32).reshape(2, 10)
    np.testing.assert_array_equal(
        targets_after(values, np.array([[0, 4], [2, 6]]), 3),
        [[[1, 2, 3], [5, 6, 7]], [[13, 14, 15], [17, 18, 19]]],
    )


def test_there_are_no_targets_after_the_end_or_in_gaps() -> None:
    values = np.array([[1.0, NAN, 3.0, 4.0]], dtype=np.float32)
    np.testing.assert_array_equal(
        targets_after(values, np.array([[0, 2, 3]]), 2), [[[NAN, 3], [4, NAN], [NAN, NAN]]]
    )


@unhurried
@given(st.integers(0, 30), st.integers(1, 10))
def test_no_target_lies_at_or_before_its_origin(origin: int, horizon: int) -> None:
    values = np.arange(40, dtype=np.float32)[None]
    targets = targets_after(values, np.array([[origin]]), horizon)[0, 0]
    np.testing.assert_array_equal(
        targets[~np.isnan(targets)], np.arange(origin + 1, min(origin + horizon, 39) + 1)
    )


def test_losses_and_violations_by_hand() -> None:
    """Deciles 1 to 9; actuals 10 and 0. At .9 the decision is 9, at .75 it lies between deciles at
    7.5.
    """
    deciles = np.tile(np.arange(1.0, 10.0), (2, 1))
    losses, violations = tier_losses(np.array([10.0, 0.0]), deciles, (0.9, 0.75))
    np.testing.assert_allclose(losses, [(0.9 * 1 + 0.1 * 9) / 2, (0.75 * 2.5 + 0.25 * 7.5) / 2])
    np.testing.assert_allclose(violations, [0.5, 0.5])


def test_the_decision_comes_from_the_deciles_and_the_mean_is_never_one_of_them() -> None:
    """Row 1 of docs/evidence-protocol.md#mistakes-made-impossible: ten columns, the mean first.
    Ten are refused, so that no column can be read one place beside its own.
    """
    columns = np.arange(10.0)[None]  # mean, then deciles
    with pytest.raises(ValueError, match="without the mean"):
        tier_losses(np.ones(1), columns, ALPHAS)
    losses, _ = tier_losses(np.array([9.0]), columns[:, 1:], (0.9,))
    assert losses[0] == 0.0


def test_a_violation_is_an_observed_step_above_the_decision() -> None:
    assert violation_rate(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.0, 9.0, 3.0])) == 0.5
    assert violation_rate(np.array([5.0, NAN, 1.0]), np.array([1.0, 1.0, 1.0])) == 0.5
    assert violation_rate(np.array([5.0, 5.0]), np.array([5.0, 5.0])) == 0.0


def test_what_was_not_observed_or_not_forecast_has_neither_loss_nor_violations() -> None:
    deciles = np.zeros((4, 2, 9))
    deciles[1, 0], deciles[2, 1] = NAN, NAN
    actual = np.array([[NAN, NAN], [1.0, 1.0], [1.0, NAN], [1.0, NAN]])
    for scores in tier_losses(actual, deciles, (0.9,)):
        np.testing.assert_array_equal(np.isnan(scores[:, 0]), [True, True, False, False])


@unhurried
@given(
    arrays(np.float64, (3, 1, 4), elements=st.floats(-100, 100) | st.just(NAN)),
    arrays(np.float64, (3, 2, 4, 9), elements=st.floats(-100, 100)),
)
def test_many_forecasts_of_the_same_targets_are_scored_one_by_one(
    actual: np.ndarray, deciles: np.ndarray
) -> None:
    losses, violations = tier_losses(actual, np.sort(deciles, axis=-1), ALPHAS)
    assert losses.shape == violations.shape == (3, 2, len(ALPHAS))
    assert losses.dtype == violations.dtype == np.float32
    for r, k in np.ndindex(3, 2):
        for a, alpha in enumerate(ALPHAS):
            decision = decision_quantile(np.sort(deciles[r, k], axis=-1), alpha)
            observed = ~np.isnan(actual[r, 0])
            expected = (actual[r, 0] > decision)[observed].mean() if observed.any() else NAN
            np.testing.assert_allclose(
                losses[r, k, a], mean_pinball(actual[r, 0], decision, alpha), rtol=1e-5, atol=1e-30
            )
            np.testing.assert_allclose(violations[r, k, a], expected, rtol=1e-5)
