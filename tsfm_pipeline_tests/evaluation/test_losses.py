"""Test that pinball loss, quantiles between deciles and scales follow their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.evaluation.losses import (
    DECILE_LEVELS,
    crps_from_deciles,
    decision_quantile,
    mean_pinball,
    pinball_loss,
    series_scale,
    series_std,
)
from tsfm_pipeline.evaluation.protocol import HIGHEST_ALPHA, TIERS

finite = st.floats(-1e6, 1e6)
alphas = st.floats(0.1, HIGHEST_ALPHA)
samples = arrays(np.float64, st.integers(2, 30), elements=finite)
singles = st.floats(-1e6, 1e6, width=32)
"""Numbers whose differences are far from the smallest float64, so that no product of theirs is
rounded to 0.
"""
open_alphas = st.floats(0.01, 0.99)
deciles = arrays(np.float64, 9, elements=finite).map(np.sort)


def test_shortfall_costs_alpha_and_excess_costs_the_rest() -> None:
    assert pinball_loss(10.0, 8.0, 0.9) == pytest.approx(1.8)
    assert pinball_loss(8.0, 10.0, 0.9) == pytest.approx(0.2)


@given(singles, singles, open_alphas)
def test_pinball_loss_is_never_negative_and_zero_at_the_truth_alone(
    actual: float, forecast: float, alpha: float
) -> None:
    loss = pinball_loss(actual, forecast, alpha)
    assert loss >= 0
    assert (loss == 0) == (actual == forecast)
    assert pinball_loss(actual, actual, alpha) == 0


@given(singles, singles, singles, st.floats(0, 1), open_alphas)
def test_pinball_loss_is_convex_in_the_forecast(
    actual: float, one: float, other: float, share: float, alpha: float
) -> None:
    between = pinball_loss(actual, share * one + (1 - share) * other, alpha)
    chord = share * pinball_loss(actual, one, alpha) + (1 - share) * pinball_loss(
        actual, other, alpha
    )
    assert between <= chord + 1e-9 * (1 + abs(actual) + abs(one) + abs(other))


@given(singles, singles, open_alphas)
def test_to_swap_actual_and_forecast_is_to_swap_alpha_and_the_rest(
    actual: float, forecast: float, alpha: float
) -> None:
    np.testing.assert_allclose(
        pinball_loss(actual, forecast, alpha), pinball_loss(forecast, actual, 1 - alpha), rtol=1e-9
    )


@given(samples, alphas)
def test_no_constant_forecast_beats_the_alpha_quantile(sample: np.ndarray, alpha: float) -> None:
    best = mean_pinball(
        sample, np.full(sample.shape, np.quantile(sample, alpha, method="inverted_cdf")), alpha
    )
    others = [mean_pinball(sample, np.full(sample.shape, value), alpha) for value in sample]
    assert best <= min(others) * (1 + 1e-9) + 1e-9


@given(samples, finite, alphas, st.floats(1e-3, 1e3), finite)
def test_pinball_loss_scales_with_the_data_and_ignores_their_level(
    sample: np.ndarray, forecast: float, alpha: float, factor: float, shift: float
) -> None:
    loss = pinball_loss(sample, forecast, alpha)
    moved = pinball_loss(factor * sample + shift, factor * forecast + shift, alpha)
    np.testing.assert_allclose(moved, factor * loss, rtol=1e-6, atol=1e-6)


def test_unobserved_steps_are_not_scored() -> None:
    assert mean_pinball([1.0, np.nan, 3.0], [0.0, 99.0, 0.0], 0.5) == pytest.approx(1.0)
    assert np.isnan(mean_pinball([np.nan, np.nan], [0.0, 0.0], 0.5))


def test_an_unavailable_forecast_has_no_loss_rather_than_a_low_one() -> None:
    assert np.isnan(mean_pinball([1.0, 1.0], [np.nan, 1.0], 0.5))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_alpha_outside_zero_and_one_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="0 < alpha < 1"):
        pinball_loss(1.0, 1.0, alpha)


@given(deciles, alphas, alphas)
def test_a_higher_alpha_never_reserves_less(
    quantiles: np.ndarray, alpha: float, other: float
) -> None:
    lower, higher = sorted((alpha, other))
    slack = 1e-9 * np.abs(quantiles).max()
    assert decision_quantile(quantiles, lower) <= decision_quantile(quantiles, higher) + slack
    assert quantiles[0] - slack <= decision_quantile(quantiles, alpha)
    assert alpha > 0.9 or decision_quantile(quantiles, alpha) <= quantiles[-1] + slack


def test_deciles_themselves_are_returned_unchanged() -> None:
    quantiles = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
    for q, level in enumerate(DECILE_LEVELS):
        np.testing.assert_array_equal(decision_quantile(quantiles, level), quantiles[:, q])


def test_tiers_between_deciles_are_interpolated() -> None:
    quantiles = np.arange(1.0, 10.0)
    assert {
        tier: float(decision_quantile(quantiles, alpha)) for tier, alpha in TIERS.items()
    } == pytest.approx({"premium": 9.0, "standard": 7.5, "basic": 6.5})


def test_the_model_s_ten_columns_are_not_taken_for_deciles() -> None:
    with pytest.raises(ValueError, match="without the mean"):
        decision_quantile(np.zeros((4, 10)), 0.9)


@pytest.mark.parametrize("alpha", [0.05, 0.98])
def test_nothing_is_read_where_no_tail_is_assumed(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"\.1 <= alpha <= 0\.975"):
        decision_quantile(np.zeros(9), alpha)


@pytest.mark.parametrize("alpha", [0.9 + 1e-12, 0.92, 0.95, HIGHEST_ALPHA])
def test_above_the_deciles_the_tail_is_exponential(alpha: float) -> None:
    """So the quantiles of an exponential variable are exact, whatever its unit and where it
    begins.
    """
    deciles = 5 - 3 * np.log(1 - DECILE_LEVELS)
    assert decision_quantile(deciles, alpha) == pytest.approx(5 - 3 * np.log(1 - alpha))
    assert decision_quantile(deciles.astype(np.float32), alpha).dtype == np.float32
    assert decision_quantile(np.full(9, 2.0), alpha) == 2.0, "what never moves has no tail"
    assert np.isnan(decision_quantile(np.full(9, np.nan), alpha))


def test_crps_of_a_point_forecast_is_its_absolute_error() -> None:
    actual = np.array([1.0, 4.0])
    assert crps_from_deciles(actual, np.zeros((2, 9))) == pytest.approx(np.abs(actual).mean())


def test_crps_is_lowest_for_the_true_deciles() -> None:
    actual = np.random.default_rng(0).normal(size=20_000)
    true = np.quantile(actual, DECILE_LEVELS)
    wide, shifted = 2 * true, true + 0.5
    scores = [
        crps_from_deciles(actual, np.broadcast_to(d, (len(actual), 9)))
        for d in (true, wide, shifted)
    ]
    assert scores[0] == min(scores)


def test_scale_is_the_mean_step_between_observed_neighbours_before_the_end() -> None:
    values = np.array([[0.0, 1.0, 3.0, 3.0, 100.0], [5.0, np.nan, 5.0, 7.0, 100.0]])
    np.testing.assert_allclose(series_scale(values, 4), [1.0, 2.0])
    np.testing.assert_allclose(series_scale(values, np.array([3, 4])), [1.5, 2.0])


def test_scale_over_a_season_compares_steps_one_season_apart() -> None:
    assert series_scale([[0.0, 10.0, 1.0, 12.0]], 4, season=2) == pytest.approx(1.5)


def test_scale_of_a_constant_series_is_a_thousandth_of_its_level() -> None:
    np.testing.assert_allclose(series_scale([[-4.0, -4.0, -4.0]], 3), [0.004])
    np.testing.assert_allclose(series_std([[-4.0, -4.0, -4.0]], 3), [0.004])


def test_series_with_neither_steps_nor_level_have_no_scale() -> None:
    values = np.array([[0.0, 0.0], [np.nan, np.nan]])
    assert np.isnan(series_scale(values, 2)).all()
    assert np.isnan(series_scale(values, 0)).all()


@given(arrays(np.float32, (3, 12), elements=st.floats(-100, 100, width=32)), st.floats(1.0, 1e6))
def test_scaled_losses_do_not_know_the_unit_of_a_metric(values: np.ndarray, unit: float) -> None:
    in_unit = unit * values.astype(np.float64)
    for scale_of in (series_scale, series_std):
        np.testing.assert_allclose(scale_of(in_unit, 12), unit * scale_of(values, 12), rtol=1e-6)


def test_nothing_after_the_end_changes_the_scale() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, 50))
    noisy = values.copy()
    noisy[:, 30:] = rng.normal(0, 1e6, size=(100, 20))
    np.testing.assert_array_equal(series_scale(values, 30), series_scale(noisy, 30))
    np.testing.assert_array_equal(series_std(values, 30), series_std(noisy, 30))


def test_standard_deviation_ignores_what_was_not_observed() -> None:
    assert series_std([[1.0, np.nan, 3.0]], 3) == pytest.approx(1.0)


def test_an_end_beyond_the_series_is_refused() -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.3"):
        series_scale(np.zeros((2, 3)), 4)
