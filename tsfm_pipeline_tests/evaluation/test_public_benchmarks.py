"""Test the windows and aggregates of GIFT-Eval and BOOM against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.evaluation.frequencies import frequency_of
from tsfm_pipeline.evaluation.public_benchmarks import (
    Windows,
    forecast_length,
    is_m4,
    shifted_geometric_mean,
    windows_of,
    with_means,
    zero_inflated,
)


@pytest.mark.parametrize(
    ("name", "short", "medium", "long"),
    [
        ("10S", 60, 600, 900),
        ("5T", 48, 480, 720),
        ("h", 48, 480, 720),
        ("D", 30, 300, 450),
        ("W-SUN", 8, 80, 120),
        ("MS", 12, 120, 180),
    ],
)
def test_the_forecast_length_follows_from_frequency_and_term(
    name: str, short: int, medium: int, long: int
) -> None:
    terms = ("short", "medium", "long")
    assert [forecast_length(frequency_of(name), term) for term in terms] == [short, medium, long]


def test_m4_keeps_the_lengths_of_its_competition_and_one_window() -> None:
    of = {name: forecast_length(frequency_of(name), "short", m4=True) for name in "HDWMQA"}
    assert of == {"H": 48, "D": 14, "W": 13, "M": 18, "Q": 8, "A": 6}
    assert windows_of(48, 100_000, m4=True) == Windows(48, 1)
    assert is_m4("m4_weekly")
    assert not is_m4("electricity/15T")


def test_a_frequency_or_term_without_a_length_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="one step is 1 quarter; GIFT-Eval and BOOM forecast"):
        forecast_length(frequency_of("Q"), "short")
    with pytest.raises(ValueError, match="the term is 'longer'; allowed: short, medium, long"):
        forecast_length(frequency_of("D"), "longer")


@pytest.mark.parametrize(
    ("shortest", "count"),
    # A tenth of the series, in windows of 48 steps, rounded up: 480 steps are one window.
    [(60, 1), (480, 1), (481, 2), (960, 2), (9_120, 19), (9_121, 20), (50_000, 20)],
)
def test_windows_cover_a_tenth_of_the_shortest_series_up_to_twenty(
    shortest: int, count: int
) -> None:
    assert windows_of(48, shortest) == Windows(48, count)


@given(st.integers(1, 900), st.integers(1, 20), st.integers(1, 5_000))
def test_the_windows_are_the_end_of_every_series_side_by_side(
    length: int, count: int, before: int
) -> None:
    n_steps = before + length * count
    covered = [
        step
        for origin in Windows(length, count).origins(n_steps)
        for step in range(origin + 1, origin + 1 + length)
    ]
    assert covered == list(range(before, n_steps))


def test_a_series_without_history_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a series of 96 steps; .* need at least 97"):
        Windows(48, 2).origins(96)


def test_the_shifted_geometric_mean_by_hand() -> None:
    assert shifted_geometric_mean(np.array([1.0, 4.0]), shift=0.0) == pytest.approx(2.0)
    assert shifted_geometric_mean(np.array([0.0, 8.0]), shift=1.0) == pytest.approx(2.0)
    assert shifted_geometric_mean(np.array([0.0, 1.0]), shift=0.0) == 0.0
    assert math.isnan(shifted_geometric_mean(np.array([])))


def test_one_score_of_zero_does_not_decide_the_shifted_mean() -> None:
    # sqrt(1e-5 * (1 + 1e-5)) - 1e-5
    assert shifted_geometric_mean(np.array([0.0, 1.0])) == pytest.approx(0.00315229, abs=1e-8)


def test_scores_that_are_not_finite_are_replaced_by_the_mean_of_the_others() -> None:
    scores = with_means(np.array([1.0, np.nan, 3.0, np.inf]))
    assert scores.tolist() == [1.0, 2.0, 3.0, 2.0]
    assert np.isnan(with_means(np.array([np.nan, np.inf]))).all()


def test_a_data_set_is_zero_inflated_if_the_reference_is_perfect_in_any_term() -> None:
    names = ["a", "a", "b", "c"]
    assert zero_inflated(names, np.array([0.7, 0.0, 0.4, np.nan])) == {"a"}
