"""Test windows, coarse points, and the conversion from blocks back to steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.forecaster import QUANTILE_LEVELS, ForecastConfig
from tsfm_pipeline.forecaster.windows import (
    centred_points,
    cut_windows,
    restore_spread,
    to_steps,
    within_block_deviations,
)

LEVELS = np.array(QUANTILE_LEVELS)


def forecast_of(deciles: np.ndarray, n_blocks: int = 1) -> np.ndarray:
    """One forecast [1, B, 10] of these deciles, its mean their average."""
    return np.tile(np.concatenate([[deciles.mean()], deciles]), (1, n_blocks, 1))


def test_a_window_ends_at_its_origin() -> None:
    filled = np.arange(20, dtype=np.float32).reshape(2, 10)
    windows = cut_windows(filled, np.array([0, 1, 1]), np.array([3, 9, 2]), 3)
    np.testing.assert_array_equal(windows, [[1, 2, 3], [17, 18, 19], [10, 11, 12]])


def test_blocks_end_at_the_origin_and_average_in_double_precision() -> None:
    window = np.array([[1e6, 1e6 + 0.5, 1e6 + 1, 1e6 + 1, 1e6 + 1.5, 1e6 + 2]], dtype=np.float32)
    points, level = centred_points(window, 3)
    np.testing.assert_allclose(points + level[:, None], [[1e6 + 0.5, 1e6 + 1.5]], rtol=1e-15)


def test_a_coarse_window_shows_the_daily_cycle() -> None:
    day = np.sin(2 * np.pi * np.arange(3 * 1440) / 1440).astype(np.float32)[None]
    config = ForecastConfig(context_len=2880, resolution=15)
    points, _ = centred_points(
        cut_windows(day, np.array([0]), np.array([4319]), config.context_len), config.resolution
    )
    assert config.n_tokens == 6
    assert np.corrcoef(points[0, 96:], points[0, :-96])[0, 1] > 0.999


@given(arrays(np.float64, 9, elements=st.floats(-100, 100)))
def test_blocks_without_spread_inside_come_back_unchanged(values: np.ndarray) -> None:
    forecast = forecast_of(np.sort(values), n_blocks=2)
    steps = restore_spread(forecast, np.zeros((1, 20), dtype=np.float32))
    np.testing.assert_allclose(steps, forecast, atol=1e-4)


@given(
    arrays(np.float64, 9, elements=st.floats(-100, 100)),
    arrays(np.float32, 20, elements=st.floats(-50, 50, width=32)),
)
def test_restored_deciles_are_ordered(values: np.ndarray, deviations: np.ndarray) -> None:
    steps = restore_spread(forecast_of(np.sort(values)), np.sort(deviations)[None])
    assert (np.diff(steps[..., 1:], axis=-1) >= 0).all()
    assert steps[0, 0, 0] == values[np.argsort(values)].mean()


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("shape", ["normal", "exponential", "bimodal"])
def test_the_restored_deciles_are_those_of_the_sum(shape: str, scale: float) -> None:
    rng = np.random.default_rng(3)
    block = rng.normal(size=400_000)
    deviation = (
        scale
        * {
            "normal": rng.normal(size=400_000),
            "exponential": rng.exponential(size=400_000) - 1,
            "bimodal": rng.choice([-1.0, 1.0], 400_000) + 0.1 * rng.normal(size=400_000),
        }[shape]
    )
    steps = restore_spread(
        forecast_of(np.quantile(block, LEVELS)),
        within_block_deviations(deviation.astype(np.float32)[None], 400_000),
    )
    true = np.quantile(block + deviation, LEVELS)
    assert np.abs(steps[0, 0, 1:] - true).mean() < 0.04 * (block + deviation).std()


def test_a_block_covers_its_steps_and_the_horizon_may_end_inside_one() -> None:
    config = ForecastConfig(context_len=60, resolution=5)
    forecast = np.concatenate([forecast_of(LEVELS), forecast_of(LEVELS + 1)], axis=1)
    steps = to_steps(forecast, np.full((1, 60), 3, dtype=np.float32), config, 7)
    np.testing.assert_allclose(steps[0, :, 5], [0.5] * 5 + [1.5] * 2, atol=1e-6)


def test_a_sawtooth_inside_the_blocks_widens_the_forecast() -> None:
    config = ForecastConfig(context_len=60, resolution=5)
    sawtooth = np.tile(np.arange(5, dtype=np.float32), 12)[None]
    steps = to_steps(np.zeros((1, 1, 10)), sawtooth, config, 5)
    np.testing.assert_allclose(steps[0, 0, 1:], np.quantile(sawtooth - 2, LEVELS), atol=0.5)
    assert steps[0, 0, 9] - steps[0, 0, 1] == pytest.approx(4)
