"""Test the error measures against hand values, and windows and measures against the figures that
an independent prototype found on ETT.

What belongs here: measures. What does not: which rows are windows (`test_r1_splits`).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from tsfm_pipeline.studies.time_r1.measures import (
    absolute_error,
    measures,
    nrmse,
    percentage_error,
    percentage_floor,
    r2,
    scaled_error,
    squared_error,
    wql,
)
from tsfm_pipeline.studies.time_r1.splits import own_windows, paper_windows, scales_of
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows
from tsfm_pipeline_tests.studies.time_r1.real_sets import ett

TRUTH = np.array([[1.0, 2.0, 4.0], [0.0, -2.0, 1.0]])
FORECAST = np.array([[2.0, 2.0, 1.0], [1.0, -2.0, 3.0]])
NAN = float("nan")


def test_errors_of_windows_by_hand() -> None:
    np.testing.assert_allclose(squared_error(TRUTH, FORECAST), [10 / 3, 5 / 3])
    np.testing.assert_allclose(absolute_error(TRUTH, FORECAST), [4 / 3, 1.0])
    np.testing.assert_allclose(scaled_error(TRUTH, FORECAST, np.array([2.0, 0.5])), [2 / 3, 2.0])


def test_percentage_error_by_hand_with_its_floor_counted() -> None:
    error, n_floored = percentage_error(TRUTH, FORECAST, np.array([0.5, 0.5]))
    np.testing.assert_allclose(error, [(1 + 0 + 3 / 4) / 3, (1 / 0.5 + 0 + 2) / 3])
    assert n_floored.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"floor is 0\.0; allowed: above 0"):
        percentage_error(TRUTH, FORECAST, np.array([1.0, 0.0]))


def test_the_floor_is_a_share_of_the_training_level_and_above_0() -> None:
    training = np.array([[100.0, 0.0], [-300.0, 0.0], [NAN, 0.0]])
    floor = percentage_floor(training)
    assert floor[0] == pytest.approx(2.0)
    assert floor[1] > 0


def test_ratios_of_sums_by_hand() -> None:
    # mean of TRUTH is 1, its squares about it sum to 0 + 1 + 9 + 1 + 9 + 0 = 20; errors to 15
    assert r2(TRUTH, FORECAST) == pytest.approx(1 - 15 / 20)
    assert nrmse(TRUTH, FORECAST) == pytest.approx(np.sqrt(15 / 6) / (10 / 6))


def test_quantile_loss_by_hand() -> None:
    """One step, actual 1, all deciles 0: twice the mean level, 2 * .5. Deciles 2: the same."""
    assert wql(np.array([[1.0]]), np.zeros((1, 1, 9))) == pytest.approx(1.0)
    assert wql(np.array([[1.0]]), np.full((1, 1, 9), 2.0)) == pytest.approx(1.0)
    # actual 10 with deciles 1 .. 9: 2/9 * sum q (10 - 10 q) = 2/9 * (45 - 28.5) = 3.666..
    deciles = np.arange(1.0, 10.0)[None, None]
    assert wql(np.array([[10.0]]), deciles) == pytest.approx(2 / 9 * 16.5 / 10)
    # windows are pooled: losses 1 and 2/9 * 16.5 over actuals 1 + 10
    pooled = wql(np.array([[1.0], [10.0]]), np.concatenate([np.zeros((1, 1, 9)), deciles]))
    assert pooled == pytest.approx((1 + 2 / 9 * 16.5) / 11)


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_a_point_forecast_has_the_quantile_loss_of_its_absolute_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, forecast = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    expected = np.abs(truth - forecast).sum() / np.abs(truth).sum()
    assert wql(truth, np.repeat(forecast[..., None], 9, axis=-1)) == pytest.approx(expected)
    assert r2(truth, forecast) == pytest.approx(r2_score(truth.ravel(), forecast.ravel()))


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_relative_measures_do_not_depend_on_the_unit(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    truth, forecast = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    deciles = np.sort(rng.normal(size=(4, 5, 9)))
    scale, floor = rng.uniform(1, 2, 4), rng.uniform(0.1, 1, 4)
    own = measures(truth, forecast, tuple("abab"), scale, floor, deciles)
    other = measures(
        unit * truth, unit * forecast, tuple("abab"), unit * scale, unit * floor, unit * deciles
    )
    for name in ("mape", "r2", "nrmse", "mase", "wql", "n_floored"):
        assert getattr(other, name) == pytest.approx(getattr(own, name)), name
    assert other.mae == pytest.approx(unit * own.mae)
    assert other.mse == pytest.approx(unit**2 * own.mse)


def test_all_measures_together_average_windows_and_channels() -> None:
    scale, floor = np.array([2.0, 0.5]), np.array([0.5, 0.5])
    found = measures(TRUTH, FORECAST, ("a", "b"), scale, floor)
    assert found.mse == pytest.approx(2.5)
    assert found.mae == pytest.approx(7 / 6)
    assert found.mase == pytest.approx(4 / 3)
    assert found.r2 == pytest.approx(
        np.mean([r2(TRUTH[:1], FORECAST[:1]), r2(TRUTH[1:], FORECAST[1:])])
    )
    assert found.nrmse == pytest.approx(
        np.mean([nrmse(TRUTH[:1], FORECAST[:1]), nrmse(TRUTH[1:], FORECAST[1:])])
    )
    assert found.wql is None
    assert (found.n_windows, found.n_floored, found.n_unavailable, found.n_unscaled) == (2, 1, 0, 0)


def test_unobserved_actuals_are_never_scored() -> None:
    truth = np.array([[1.0, NAN, 4.0], [0.0, -2.0, 1.0]])
    np.testing.assert_allclose(absolute_error(truth, FORECAST), [2.0, 1.0])
    unknown = FORECAST.copy()
    unknown[0, 1] = NAN
    np.testing.assert_allclose(absolute_error(truth, unknown), [2.0, 1.0])
    deciles = np.repeat(FORECAST[..., None], 9, axis=-1)
    assert wql(truth, deciles) == pytest.approx((4 + 3) / (5 + 3))
    assert r2(truth, FORECAST) == pytest.approx(
        r2_score(truth[~np.isnan(truth)], FORECAST[~np.isnan(truth)])
    )
    assert nrmse(truth, unknown) == pytest.approx(np.sqrt(15 / 5) / (8 / 5))


def test_an_unavailable_forecast_makes_its_window_and_every_mean_unknown() -> None:
    forecast = FORECAST.copy()
    forecast[0, 1] = NAN
    assert np.isnan(absolute_error(TRUTH, forecast)).tolist() == [True, False]
    deciles = np.repeat(forecast[..., None], 9, axis=-1)
    found = measures(TRUTH, forecast, ("a", "b"), np.ones(2), np.ones(2), deciles)
    assert found.n_unavailable == 1
    assert np.isnan([found.mse, found.mae, found.mape, found.r2, found.nrmse, found.mase]).all()
    assert found.wql is not None
    assert np.isnan(found.wql)


def test_what_has_no_value_is_nan_and_not_an_error() -> None:
    nothing = np.full((1, 3), NAN)
    assert np.isnan(absolute_error(nothing, FORECAST[:1])).all()
    assert np.isnan([r2(nothing, FORECAST[:1]), nrmse(nothing, FORECAST[:1])]).all()
    assert np.isnan(
        [r2(np.ones((1, 3)), FORECAST[:1]), nrmse(np.zeros((1, 3)), FORECAST[:1])]
    ).all()
    assert np.isnan(wql(np.zeros((1, 3)), np.zeros((1, 3, 9))))


def test_channels_without_a_scale_are_left_out_of_mase_and_counted() -> None:
    found = measures(TRUTH, FORECAST, ("a", "b"), np.array([NAN, 0.5]), np.ones(2))
    assert (found.mase, found.n_unscaled) == (2.0, 1)
    assert np.isnan(measures(TRUTH, FORECAST, ("a", "b"), np.full(2, NAN), np.ones(2)).mase)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and forecasts \(2, 2\)"):
        absolute_error(TRUTH, FORECAST[:, :2])
    with pytest.raises(ValueError, match=r"1 channels for 2 windows"):
        measures(TRUTH, FORECAST, ("a",), np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match=r"deciles \(2, 2, 9\) do not fit"):
        wql(TRUTH, np.zeros((2, 2, 9)))


def repeated_day(windows: Windows, days: int) -> Floats:
    """The mean of the last days, hour by hour, repeated over the horizon."""
    history = windows.history[:, -24 * days :].reshape(len(windows), days, 24)
    return np.tile(history.mean(axis=1), (1, windows.horizon // 24))


@pytest.mark.parametrize(
    ("name", "horizon", "days", "mse", "mae"),
    [
        ("ETTh1", 96, 4, 6.99, 1.318),
        ("ETTh1", 192, 4, 7.46, 1.377),
        ("ETTh1", 96, 1, 10.98, 1.590),
        ("ETTh1", 192, 1, 11.86, 1.655),
        ("ETTh2", 96, 4, 10.10, 1.851),
        ("ETTh2", 192, 4, 11.01, 1.965),
        ("ETTh2", 96, 1, 16.19, 2.145),
    ],
)
def test_the_papers_windows_give_the_figures_of_the_prototype(
    name: str, horizon: int, days: int, mse: float, mae: float
) -> None:
    windows = paper_windows(ett(name), 96, horizon)
    forecast = repeated_day(windows, days)
    # The prototype's figures have two and three decimals; 6.9848 was printed as 6.99.
    assert squared_error(windows.truth, forecast).mean() == pytest.approx(mse, abs=0.0055)
    assert absolute_error(windows.truth, forecast).mean() == pytest.approx(mae, abs=0.00055)


def test_seasonal_naive_has_its_mase_on_our_own_windows() -> None:
    series = ett("ETTh1")
    windows = own_windows(series)
    errors = scaled_error(windows.truth, repeated_day(windows, 1), scales_of(series, windows))
    assert len(errors) == 203
    assert errors.mean() == pytest.approx(0.952, abs=0.0005)
