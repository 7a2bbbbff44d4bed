"""Test the leaderboards' seasonal naive against statsforecast's and by hand."""

import math

import numpy as np
import pytest

from tsfm_pipeline.baselines.gaussian_seasonal_naive import GaussianSeasonalNaive
from tsfm_pipeline.forecaster import Panel


def forecast(
    values: list[float], season: int, horizon: int, most_history: int | None = None
) -> np.ndarray:
    """Deciles [H, 9] after the last value."""
    panel = Panel(np.array([values], dtype=np.float32))
    origins = np.array([[len(values) - 1]])
    return GaussianSeasonalNaive(season, most_history).forecast(panel, origins, horizon)[0, 0]


def test_the_deciles_equal_those_of_statsforecast() -> None:
    """Reference: statsforecast 2.0.1, SeasonalNaive(3).forecast(y, 5, level=[80])."""
    deciles = forecast([1, 2, 4, 3, 5, 6, 8], 3, 5)
    assert deciles[:, 4] == pytest.approx([5, 6, 8, 5, 6])
    assert deciles[:, 0] == pytest.approx(
        [0.84729831, 1.84729831, 3.84729831, -0.87280706, 0.12719294], rel=1e-5
    )
    assert deciles[:, 8] == pytest.approx(
        [9.15270169, 10.15270169, 12.15270169, 10.87280706, 11.87280706], rel=1e-5
    )


def test_nothing_after_the_origin_is_used() -> None:
    values = np.arange(20, dtype=np.float32)[None]
    origins = np.array([[9]])
    naive = GaussianSeasonalNaive(4)
    later = values.copy()
    later[:, 10:] = 1e6
    assert np.array_equal(
        naive.forecast(Panel(values), origins, 6), naive.forecast(Panel(later), origins, 6)
    )


def test_only_the_most_recent_history_is_used() -> None:
    late = [5.0, 1.0, 5.0, 2.0]
    assert np.array_equal(forecast([90.0, 70.0, *late], 2, 3, 4), forecast(late, 2, 3))


def test_missing_steps_repeat_the_last_value_and_at_the_beginning_the_first() -> None:
    gaps = forecast([math.nan, 3.0, math.nan, 5.0], 2, 2)
    assert np.array_equal(gaps, forecast([3.0, 3.0, 3.0, 5.0], 2, 2))


def test_a_history_shorter_than_a_season_is_forecast_at_its_last_value() -> None:
    assert forecast([1.0, 2.0, 3.0], 24, 2)[:, 4].tolist() == [3.0, 3.0]


def test_a_history_without_any_value_is_forecast_at_zero() -> None:
    assert not forecast([math.nan, math.nan], 1, 3).any()
