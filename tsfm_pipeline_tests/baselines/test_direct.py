"""Test what holds for every direct baseline, and each baseline's own rule."""

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

from tsfm_pipeline.baselines import DIRECT_BASELINES, Forecaster
from tsfm_pipeline.baselines.empirical import (
    LastDayQuantiles,
    LastValueChangeQuantiles,
    PercentileMargin,
    SameHourQuantiles,
)
from tsfm_pipeline.baselines.point import LastValue, SeasonalNaive
from tsfm_pipeline.baselines.protocol import SEASONLESS_DAY
from tsfm_pipeline.forecaster import QUANTILE_LEVELS, Panel

pytestmark = pytest.mark.heavy

DAY = 1440
FIT_END = 7 * DAY
HORIZON = 60
POINT_BASELINES = ("last_value", "seasonal_naive")

Values = npt.NDArray[np.float32]

every_baseline = pytest.mark.parametrize("name", DIRECT_BASELINES)


def forecaster(name: str) -> Forecaster:
    return DIRECT_BASELINES[name](FIT_END)


def origins_of(values: Values, *steps: int) -> npt.NDArray[np.int64]:
    return np.tile(np.array(steps, dtype=np.int64), (len(values), 1))


def with_gaps(values: Values) -> Values:
    gappy = values.copy()
    gappy[0, 300:320] = np.nan
    gappy[1, FIT_END + 90 : FIT_END + 101] = np.nan  # the second origin lies in this gap
    gappy[2, :500] = np.nan
    return gappy


@every_baseline
def test_factory_builds_the_forecaster_of_that_name(name: str) -> None:
    assert forecaster(name).name == name


@every_baseline
def test_deciles_are_finite_ordered_float32(name: str, wandering: Values) -> None:
    values = with_gaps(wandering)
    deciles = forecaster(name).forecast(
        Panel(values, seasons=(DAY,)), origins_of(values, FIT_END - 1, FIT_END + 100), HORIZON
    )
    assert deciles.shape == (5, 2, HORIZON, len(QUANTILE_LEVELS))
    assert deciles.dtype == np.float32
    assert np.isfinite(deciles).all()
    assert (np.diff(deciles, axis=-1) >= 0).all()
    if name in POINT_BASELINES:
        assert (np.ptp(deciles, axis=-1) == 0).all()
    else:
        assert (np.ptp(deciles, axis=-1) > 0).all()


@every_baseline
def test_nothing_after_the_origin_matters(name: str, wandering: Values) -> None:
    values = with_gaps(wandering)
    origins = (FIT_END - 1, FIT_END + 100, FIT_END + 777)
    asked = forecaster(name).forecast(
        Panel(values, seasons=(DAY,)), origins_of(values, *origins), HORIZON
    )
    for number, origin in enumerate(origins):
        shuffled = values.copy()
        shuffled[:, origin + 1 :] = np.random.default_rng(1).normal(
            50, 20, shuffled[:, origin + 1 :].shape
        )
        alone = forecaster(name).forecast(
            Panel(shuffled, seasons=(DAY,)), origins_of(values, origin), HORIZON
        )
        np.testing.assert_array_equal(alone[:, 0], asked[:, number])


@every_baseline
def test_nothing_after_the_origin_matters_over_more_than_a_day(
    name: str, wandering: Values
) -> None:
    values, horizon = wandering[:1], DAY + HORIZON
    shuffled = values.copy()
    shuffled[:, FIT_END + 1 :] = np.random.default_rng(1).normal(
        50, 20, shuffled[:, FIT_END + 1 :].shape
    )
    origins = origins_of(values, FIT_END)
    true, other = (
        forecaster(name).forecast(Panel(v, seasons=(DAY,)), origins, horizon)
        for v in (values, shuffled)
    )
    assert np.isfinite(true).all()
    np.testing.assert_array_equal(true, other)


@every_baseline
def test_a_series_is_forecast_alone_as_in_a_panel_and_input_is_left_alone(
    name: str, wandering: Values
) -> None:
    values = with_gaps(wandering)
    before = values.copy()
    origins = origins_of(values, FIT_END + 5, FIT_END + 1)
    together = forecaster(name).forecast(Panel(values, seasons=(DAY,)), origins, HORIZON)
    alone = forecaster(name).forecast(Panel(values[3:4], seasons=(DAY,)), origins[3:4], HORIZON)
    np.testing.assert_array_equal(together[3:4], alone)
    np.testing.assert_array_equal(values, before)


@every_baseline
def test_forecasts_stay_within_the_panels_bounds(name: str, wandering: Values) -> None:
    panel = Panel(wandering, seasons=(DAY,), lower=1.9, upper=2.1)
    deciles = forecaster(name).forecast(panel, origins_of(wandering, FIT_END), HORIZON)
    assert deciles.min() == np.float32(1.9)
    assert deciles.max() == np.float32(2.1)


@every_baseline
def test_a_request_without_history_is_unavailable_throughout(name: str, wandering: Values) -> None:
    values = wandering[:2].copy()
    values[0, : FIT_END + 1] = np.nan
    deciles = forecaster(name).forecast(
        Panel(values, seasons=(DAY,)), origins_of(values, FIT_END), HORIZON
    )
    assert np.isnan(deciles[0]).all()
    assert np.isfinite(deciles[1]).all()


@every_baseline
def test_a_constant_series_is_forecast_at_its_level(name: str) -> None:
    values = np.full((1, 8 * DAY), 3.5, dtype=np.float32)
    deciles = forecaster(name).forecast(
        Panel(values, seasons=(DAY,)), origins_of(values, FIT_END + 9), HORIZON
    )
    expected = 3.5 * 1.15 if name == "percentile_margin" else 3.5
    np.testing.assert_allclose(deciles, expected, rtol=1e-6)


@every_baseline
@pytest.mark.parametrize(
    ("origins", "horizon", "message"),
    [
        (np.array([FIT_END]), 60, r"integers \[S, O\] with S = 5"),
        (np.full((5, 1), float(FIT_END)), 60, "origins are float64"),
        (np.full((4, 1), FIT_END), 60, "with S = 5"),
        (np.full((5, 1), 8 * DAY), 60, "allowed: 0 to 11519"),
        (np.full((5, 1), -1), 60, "origins span -1 to -1"),
        (np.full((5, 1), FIT_END), 0, "horizon is 0"),
    ],
)
def test_a_wrong_question_is_named(
    name: str, origins: npt.NDArray[np.integer], horizon: int, message: str, wandering: Values
) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        forecaster(name).forecast(Panel(wandering, seasons=(DAY,)), origins, horizon)


@pytest.mark.parametrize("name", sorted(set(DIRECT_BASELINES) - {"last_value", "arima_101"}))
def test_without_a_season_a_fixed_number_of_steps_stands_for_a_day(
    name: str, wandering: Values
) -> None:
    season = 1 if name == "seasonal_naive" else SEASONLESS_DAY
    without, with_it = (
        forecaster(name).forecast(panel, origins_of(wandering, FIT_END), HORIZON)
        for panel in (Panel(wandering), Panel(wandering, seasons=(season,)))
    )
    np.testing.assert_array_equal(without, with_it)
    assert np.isfinite(without).all()


def test_last_value_in_a_gap_is_the_one_before_the_gap() -> None:
    values = np.array([[1.0, 2.0, np.nan, np.nan]], dtype=np.float32)
    assert (LastValue().forecast(Panel(values), origins_of(values, 3), 4) == 2.0).all()


def test_seasonal_naive_repeats_the_last_day_beyond_a_day() -> None:
    values = np.arange(10, dtype=np.float32)[None]
    deciles = SeasonalNaive().forecast(Panel(values, seasons=(3,)), origins_of(values, 1, 2, 8), 7)
    assert np.isnan(deciles[0, 0]).all()
    np.testing.assert_array_equal(deciles[0, 1, :, 0], [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(deciles[0, 2, :, 8], [6, 7, 8, 6, 7, 8, 6])


def test_changes_are_those_of_the_trailing_seven_days(wandering: Values) -> None:
    values = with_gaps(wandering)
    origin = FIT_END + 200
    deciles = LastValueChangeQuantiles().forecast(
        Panel(values, seasons=(DAY,)), origins_of(values, origin), HORIZON
    )
    week = values[1, origin - 7 * DAY + 1 : origin + 1]
    for step in (1, 17, 60):
        expected = week[-1] + np.nanquantile(week[step:] - week[:-step], QUANTILE_LEVELS)
        np.testing.assert_allclose(deciles[1, 0, step - 1], expected, rtol=1e-6)


def test_changes_need_ten_of_the_longest_step(wandering: Values) -> None:
    panel = Panel(wandering, seasons=(DAY,))
    deciles = LastValueChangeQuantiles().forecast(
        panel, origins_of(wandering, HORIZON + 8, HORIZON + 9), HORIZON
    )
    assert np.isnan(deciles[:, 0]).all()
    assert np.isfinite(deciles[:, 1]).all()


def test_last_day_quantiles_are_those_of_the_last_day(wandering: Values) -> None:
    deciles = LastDayQuantiles().forecast(
        Panel(wandering, seasons=(DAY,)), origins_of(wandering, 3000), 2
    )
    expected = np.quantile(wandering[:, 3001 - DAY : 3001], QUANTILE_LEVELS, axis=1).T
    np.testing.assert_allclose(deciles[:, 0, 1], expected, rtol=1e-6)


def test_same_hour_quantiles_pool_half_an_hour_around_the_step_on_seven_days(
    wandering: Values,
) -> None:
    origin, step = FIT_END + 400, 25
    deciles = SameHourQuantiles().forecast(
        Panel(wandering, seasons=(DAY,)), origins_of(wandering, origin), HORIZON
    )
    around = [origin + step - day * DAY + shift for day in range(1, 8) for shift in range(-30, 31)]
    expected = np.quantile(wandering[:, around], QUANTILE_LEVELS, axis=1).T
    np.testing.assert_allclose(deciles[:, 0, step - 1], expected, rtol=1e-6)


def test_same_hour_of_hourly_telemetry_is_the_hour_itself() -> None:
    values = np.tile(np.arange(24, dtype=np.float32), 9)[None]
    deciles = SameHourQuantiles().forecast(
        Panel(values, seasons=(24,)), origins_of(values, 200), 30
    )
    np.testing.assert_array_equal(
        deciles[0, 0, :, 4], (np.arange(201, 231) % 24).astype(np.float32)
    )


def test_percentile_margin_lies_fifteen_percent_above_the_weeks_percentile(
    wandering: Values,
) -> None:
    panel = Panel(wandering, seasons=(DAY,))
    deciles = PercentileMargin().forecast(panel, origins_of(wandering, FIT_END), HORIZON)
    week = np.quantile(wandering[:, FIT_END - 7 * DAY + 1 : FIT_END + 1], QUANTILE_LEVELS, axis=1).T
    np.testing.assert_allclose(deciles[:, 0, 0], 1.15 * week, rtol=1e-5)


def test_importing_the_baselines_imports_no_statsmodels() -> None:
    code = (
        "import sys, tsfm_pipeline.baselines; sys.exit('statsmodels' in sys.modules or 'torch' "
        "in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
