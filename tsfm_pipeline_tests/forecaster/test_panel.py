"""Test that telemetry is validated on entry, and that gaps are filled from the past only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.evaluation.limits import Limits
from tsfm_pipeline.forecaster import Panel

nan = np.nan
gappy = arrays(np.float32, (2, 30), elements=st.one_of(st.just(nan), st.floats(-9, 9, width=32)))


def test_a_gap_holds_the_last_value_before_it_and_leading_gaps_stay() -> None:
    values = np.array([[nan, 1, nan, nan, 2, nan], [nan] * 6], dtype=np.float32)
    np.testing.assert_array_equal(Panel(values).filled, [[nan, 1, 1, 1, 2, 2], [nan] * 6])
    np.testing.assert_array_equal(Panel(values).first_observed, [1, 6])
    assert np.isnan(values).sum() == 10


def test_a_panel_without_gaps_is_not_copied() -> None:
    values = np.ones((2, 5), dtype=np.float32)
    assert Panel(values).filled is values


@given(gappy, gappy, st.integers(0, 29))
def test_the_fill_knows_no_future(values: np.ndarray, other: np.ndarray, step: int) -> None:
    changed = np.concatenate([values[:, : step + 1], other[:, step + 1 :]], axis=1)
    np.testing.assert_array_equal(
        Panel(values).filled[:, : step + 1], Panel(changed).filled[:, : step + 1]
    )


@given(gappy)
def test_the_fill_keeps_what_was_observed(values: np.ndarray) -> None:
    filled, observed = Panel(values).filled, ~np.isnan(values)
    np.testing.assert_array_equal(filled[observed], values[observed])
    assert (np.isnan(filled) == (np.cumsum(observed, axis=1) == 0)).all()


def test_what_is_wrong_is_said_with_what_is_allowed() -> None:
    good = np.ones((2, 5), dtype=np.float32)
    with pytest.raises(TypeError, match=r"values are float64; allowed: float32"):
        Panel(good.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="are a list"):
        Panel([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(5,\); allowed: \[S, T\]"):
        Panel(good[0])
    infinite = good.copy()
    infinite[1, 3] = -np.inf
    with pytest.raises(ValueError, match=r"1 infinities .* series 1 at step 3"):
        Panel(infinite)
    with pytest.raises(ValueError, match="lower < upper"):
        Panel(good, lower=1.0, upper=0.0)
    with pytest.raises(ValueError, match="limits of 3 series; allowed: one of each of its 2"):
        Panel(good, own_limits=Limits.of([(0.0, 1.0)] * 3))
    with pytest.raises(ValueError, match="seasons"):
        Panel(good, seasons=(0,))


def test_a_long_gap_ends_what_is_known_once_32_values_have_been_seen_after_it() -> None:
    values = np.ones((3, 200), dtype=np.float32)
    values[0, 80:100] = nan  # too long
    values[1, 80:90] = nan  # just short enough
    values[2, 60:80] = values[2, 100:120] = nan  # the second comes before 32 values
    panel = Panel(values, max_gap=10)
    known = panel.known_from(np.broadcast_to(np.arange(200), (3, 200)))
    assert np.unique(known[0, :131]).tolist() == [0]
    assert np.unique(known[0, 131:]).tolist() == [100]
    assert np.unique(known[1]).tolist() == [0]
    assert np.unique(known[2, :151]).tolist() == [0]
    assert np.unique(known[2, 151:]).tolist() == [120]
    assert Panel(values).known_from(np.zeros((3, 1), np.int64)).tolist() == [[0], [0], [0]]


@given(gappy, gappy, st.integers(0, 29), st.integers(0, 4))
def test_what_is_known_depends_on_no_later_step(
    values: np.ndarray, other: np.ndarray, step: int, max_gap: int
) -> None:
    values, other = (np.repeat(part, 8, axis=1) for part in (values, other))
    changed = np.concatenate([values[:, : 8 * step], other[:, 8 * step :]], axis=1)
    steps = np.broadcast_to(np.arange(8 * step), (2, 8 * step))
    before, after = (
        np.minimum(np.broadcast_to(Panel(v, max_gap=max_gap).known_from(steps), steps.shape), steps)
        for v in (values, changed)
    )
    np.testing.assert_array_equal(before, after)


def test_metrics_with_different_bounds_give_each_series_its_own() -> None:
    values = np.ones((4, 5), dtype=np.float32)
    mixed = Panel.of_tenants(values, (), [(0.0, 2.0), (0.0, None)])
    assert (mixed.lower, mixed.upper) == (0.0, None)
    assert mixed.limits.upper.tolist() == [2.0, np.inf, 2.0, np.inf]
    shared = Panel.of_tenants(values, (), [(0.0, 2.0)] * 2)
    assert (shared.lower, shared.upper, shared.own_limits) == (0.0, 2.0, None)
    assert shared.limits.upper.tolist() == [2.0] * 4
