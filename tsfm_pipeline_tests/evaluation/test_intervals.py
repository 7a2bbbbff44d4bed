"""Test the scores of intervals (row E1 of the reference service), breaches and follow-through."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.evaluation.intervals import (
    covered,
    first_breaches,
    followed,
    ranges,
    width_at_coverage,
    winkler_score,
)
from tsfm_pipeline.evaluation.losses import pinball_loss

NAN = math.nan


def test_e1_coverage_counts_both_ends_and_no_unknown_value() -> None:
    actual = [0.0, 1.0, 0.5, 1.1, NAN]
    assert np.array_equal(covered(actual, 0.0, 1.0), [1, 1, 1, 0, NAN], equal_nan=True)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5))
def test_e1_swapped_ends_score_the_same(actual: float, low: float, high: float) -> None:
    assert covered(actual, low, high) == covered(actual, high, low)
    assert winkler_score(actual, low, high, 0.9) == winkler_score(actual, high, low, 0.9)


def test_e1_the_pinball_loss_of_the_reference() -> None:
    assert float(pinball_loss([0.2, 0.8], [0.1, 0.7], 0.5).mean()) == pytest.approx(0.05)


def test_e1_the_winkler_score_is_the_width_and_ten_times_a_miss_at_eighty_percent() -> None:
    assert winkler_score([0.5, 1.5, -1.0], 0.0, 1.0, 0.8).tolist() == pytest.approx([1, 6, 11])
    with pytest.raises(ValueError, match="between 0 and 1"):
        winkler_score(0.0, 0.0, 1.0, 1.0)


def test_the_true_interval_has_the_best_winkler_score_on_average() -> None:
    actual = np.random.default_rng(0).normal(size=200_000)
    means = [winkler_score(actual, -z, z, 0.9).mean() for z in (1.2, 1.645, 2.1)]
    assert min(means) == means[1]


def test_the_first_breach_of_each_forecast_is_found_with_its_side() -> None:
    actual = np.array([[0.5, 2.0, -3.0], [NAN, 0.5, 0.5], [0.5, NAN, -0.1]])
    found = first_breaches(actual, np.zeros((3, 3)), np.ones((3, 3)))
    assert found.step.tolist() == [1, -1, 2]
    assert found.sign.tolist() == [1, 0, -1]


def test_a_breach_is_followed_by_a_move_in_its_direction_within_reach() -> None:
    series = np.array(
        [
            [0.0, 1.0, 1.01, 1.02, 1.04],  # up by .04 within three steps
            [0.0, 1.0, 1.01, 1.02, 1.02],  # by .02 only
            [0.0, -1.0, -0.5, -0.2, 0.0],  # below, and back
            [0.0, -1.0, -1.03, -0.2, 0.0],  # below, then further below
        ]
    )
    rows, at, sign, by = np.arange(4), np.full(4, 1), np.array([1, 1, -1, -1]), np.full(4, 0.03)
    assert followed(series, rows, at, sign, by, reach=3).tolist() == [1, 0, 0, 1]
    assert followed(series, rows, at, sign, by, reach=2).tolist() == [0, 0, 0, 1]
    assert followed(series, rows[:1], at[:1], sign[:1], [0.05], reach=3).tolist() == [0]


def test_whether_a_breach_is_followed_is_unknown_until_the_time_has_passed() -> None:
    """Else quick moves alone would be known of the newest breaches."""
    series = np.array([[0.0, 1.0, 1.01, 1.02], [0.0, 1.0, 1.5, 1.6], [0.0, 1.0, 1.0, 1.0]])
    rows, at, sign, by = np.arange(3), np.full(3, 1), np.ones(3), np.full(3, 0.03)
    assert followed(series, rows, at, sign, by, reach=2).tolist() == [0, 1, 0]
    assert np.isnan(followed(series, rows, at, sign, by, reach=3)).all()
    for unknown in (NAN, 0.0):
        assert np.isnan(followed(series, rows, at, sign, np.full(3, unknown), reach=2)).all()


def test_a_gap_after_a_breach_hides_no_breach_that_was_not_followed() -> None:
    series = np.array(
        [
            [0.0, 1.0, 1.01, NAN, 1.02, 1.0],
            [0.0, 1.0, 1.50, NAN, 1.02, 1.0],
            [0.0, 1.0, NAN, NAN, NAN, 1.5],
        ]
    )
    rows, at, sign, by = np.arange(3), np.full(3, 1), np.ones(3), np.full(3, 0.03)
    np.testing.assert_array_equal(followed(series, rows, at, sign, by, reach=4), [0, 1, NAN])


def test_the_range_is_that_of_the_limits_or_of_what_was_observed() -> None:
    values = np.array([np.linspace(0, 100, 1_001), np.full(1_001, NAN), np.full(1_001, 7.0)])
    assert ranges(values, 0.0, 1.0).tolist() == [1, 1, 1]
    np.testing.assert_allclose(ranges(values, 0.0, None), [98, NAN, 0])


def test_stretched_by_the_factor_intervals_hold_the_share_that_was_asked_for() -> None:
    rng = np.random.default_rng(1)
    actual, low, high = rng.normal(size=5_000), np.full(5_000, -0.7), np.full(5_000, 1.3)
    factor = width_at_coverage(actual, low, 0.0, high, 0.9)
    stretched = covered(actual, factor * low, factor * high)
    assert stretched.mean() == pytest.approx(0.9, abs=1e-3)
    assert width_at_coverage([0.0], 0.0, 0.0, 0.0, 0.9) == 0.0
    assert math.isnan(width_at_coverage([NAN], 0.0, 0.5, 1.0, 0.9))
    assert math.isinf(width_at_coverage([1.0], 0.0, 0.0, 0.0, 0.9))
