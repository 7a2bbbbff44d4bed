"""Test that what is emitted lies within the limits of its metric and in the order of the tiers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.evaluation.blocks import expected_excess
from tsfm_pipeline.evaluation.limits import UNLIMITED, Limits, emitted, in_tier_order
from tsfm_pipeline.evaluation.losses import pinball_loss
from tsfm_pipeline.evaluation.protocol import ALPHAS

LIMITS = Limits.of([(0.0, None), (None, 0.1), (-1.0, 1.0)])
VALUES = arrays(np.float32, (2, 3, 3, 4), elements=st.floats(-8, 8, width=32))


@given(VALUES)
def test_whatever_is_decided_is_emitted_within_its_limits_and_no_less_for_a_higher_tier(
    decision: np.ndarray,
) -> None:
    found = emitted(decision, ALPHAS, LIMITS, metric_axis=1, tier_axis=2)
    assert found.dtype == np.float32
    assert (found[:, 0] >= 0).all()
    assert (found[:, 1] <= np.float32(0.1)).all()
    assert (np.abs(found[:, 2]) <= 1).all()
    assert (np.diff(found, axis=2) <= 0).all(), "the default tiers have the highest alpha first"


def test_a_limit_is_what_telemetry_in_float32_can_reach() -> None:
    constant = np.full((1, 5), 0.1, dtype=np.float32)
    np.testing.assert_array_equal(Limits.of([(None, 0.1)]).clip(constant), constant)


def test_what_is_unknown_stays_unknown_and_moves_nothing() -> None:
    decision = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, 3.0]])
    np.testing.assert_array_equal(in_tier_order(decision, ALPHAS, axis=0), decision)
    assert np.isnan(LIMITS.clip(np.full((3, 2), np.nan))).all()


def test_tiers_may_come_in_any_order() -> None:
    decision = np.array([5.0, 1.0, 3.0])
    assert in_tier_order(decision, (0.65, 0.9, 0.75), axis=0).tolist() == [1.0, 5.0, 3.0]


@given(VALUES, st.floats(-10, 10))
def test_ordered_tiers_never_cost_more_together(decision: np.ndarray, actual: float) -> None:
    def cost(decided: np.ndarray) -> np.ndarray:
        parts = [pinball_loss(actual, decided[:, :, a], alpha) for a, alpha in enumerate(ALPHAS)]
        return np.sum(parts, axis=0)

    known = decision.astype(np.float64)
    assert (cost(in_tier_order(known, ALPHAS, axis=2)) <= cost(known) + 1e-9).all()


def test_without_limits_nothing_is_copied_or_changed() -> None:
    values = np.array([[-1e30, 1e30]])
    assert UNLIMITED.clip(values) is values
    assert Limits.of([(None, None)]).take(np.array([0, 0])).unlimited


def test_rows_keep_the_limits_of_their_metric() -> None:
    rows = LIMITS.take(np.array([2, 0]))
    assert (rows.lower.tolist(), rows.upper.tolist()) == ([-1.0, 0.0], [1.0, np.inf])


def test_no_load_beyond_a_limit_is_expected() -> None:
    """Half of the steps' distribution lies below zero, where no load can be: reserving 1 leaves
    less than 1 unused.
    """
    deciles = np.tile(np.linspace(-4, 4, 9), (1, 6, 1))
    free = expected_excess(deciles, np.array([1.0]))
    bound = expected_excess(deciles, np.array([1.0]), Limits.of([(0.0, None)]))
    assert free.slack[0] > 1 > bound.slack[0] > 0
    assert bound.shortfall[0] == pytest.approx(free.shortfall[0])
