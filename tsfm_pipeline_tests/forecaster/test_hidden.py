"""Test that hidden states are those that forecasts are made of, that they look at nothing after
their origin, and that both decoders agree on them.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tsfm_pipeline.forecaster import ForecastConfig, Panel, load_forecaster
from tsfm_pipeline.forecaster.engine import FrozenForecaster, order_deciles
from tsfm_pipeline_tests.forecaster.conftest import DEVICE

CONFIGS = [ForecastConfig.from_name(name) for name in ("ctx80", "ctx64", "ctx320-r5", "ctx64-s1x3")]
ORIGINS = [700, 1500, 2199]


def head_of(
    forecaster: FrozenForecaster, state: np.ndarray, window: np.ndarray, horizon: int
) -> np.ndarray:
    """What the model's own head makes of the last layer's last token, in units of the window."""
    heads = forecaster.decoder._heads  # type: ignore[attr-defined]
    outputs = heads(torch.from_numpy(state[None]).to(forecaster.device), horizon)[0]
    return order_deciles(outputs.double().cpu().numpy() * window.std() + window.mean())


@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda config: config.name)
def test_the_head_makes_the_forecast_of_the_last_layer(
    forecaster: FrozenForecaster, telemetry: np.ndarray, config: ForecastConfig
) -> None:
    states = forecaster.hidden_states(telemetry, ORIGINS, config)
    grid = forecaster.forecast_grid(telemetry, ORIGINS, [config], 20)[:, :, 0]
    for series, row in enumerate(telemetry):
        for column, origin in enumerate(ORIGINS):
            window = row[origin + 1 - config.context_len : origin + 1].astype(np.float64)
            found = head_of(forecaster, states[series, column, -1, -1], window, 20)
            np.testing.assert_allclose(
                found, grid[series, column], rtol=1e-5, atol=1e-5 * window.std()
            )


def test_the_bundled_head_too(bundled: FrozenForecaster, telemetry: np.ndarray) -> None:
    [state] = bundled.hidden_states(telemetry[:1], [900], CONFIGS[0], layers=[6])[0, :, 0, -1]
    window = telemetry[0, 821:901].astype(np.float64)
    expected = bundled.forecast_grid(telemetry[:1], [900], CONFIGS[:1], 5)[0, 0, 0]
    np.testing.assert_allclose(head_of(bundled, state, window, 5), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def bundled() -> FrozenForecaster:
    return load_forecaster("bundled", device=DEVICE)


def test_all_layers_of_the_bundled_model_are_seven_times_256_wide(
    bundled: FrozenForecaster, telemetry: np.ndarray
) -> None:
    states = bundled.hidden_states(telemetry, ORIGINS, CONFIGS[0])
    assert states.shape == (4, 3, 7, 3, 256)
    assert states.dtype == np.float32
    assert np.isfinite(states).all()
    np.testing.assert_array_equal(
        bundled.hidden_states(telemetry, ORIGINS, CONFIGS[0], layers=[6, 0]), states[:, :, [6, 0]]
    )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_nothing_after_the_origin_and_nothing_before_the_window_counts(
    forecaster: FrozenForecaster, telemetry: np.ndarray, config: ForecastConfig
) -> None:
    origin, begin = 1500, 1500 + 1 - config.lookback((288,))
    changed = telemetry.copy()
    changed[:, origin + 1 :] += 100
    changed[:, :begin] -= 100
    expected, found = (
        forecaster.hidden_states(Panel(values, seasons=(288,)), [origin], config)
        for values in (telemetry, changed)
    )
    # A season's profile is a difference of sums from the first step on.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2 if config.season else 0)


def test_a_token_knows_nothing_of_later_tokens(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    changed = telemetry.copy()
    changed[:, 1500 - 31 : 1500] += 100  # the last patch but its last value, which is the level
    expected, found = (
        forecaster.hidden_states(values, [1500], CONFIGS[0]) for values in (telemetry, changed)
    )
    np.testing.assert_array_equal(found[..., :-1, :], expected[..., :-1, :])
    assert np.abs(found - expected)[..., -1, :].max(axis=-1).min() > 0.01


def test_states_carry_shape_and_neither_level_nor_scale(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    expected = forecaster.hidden_states(telemetry, [1500], CONFIGS[0])
    found = forecaster.hidden_states(telemetry * 1000 + 8, [1500], CONFIGS[0])
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_constant_window_has_finite_states(forecaster: FrozenForecaster) -> None:
    states = forecaster.hidden_states(np.full((1, 100), 3.5, np.float32), [99], CONFIGS[0])
    assert np.isfinite(states).all()


def test_states_are_missing_where_forecasts_are(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    values = telemetry.copy()
    values[0, :600] = np.nan
    origins = np.tile([78, 79, 650, 700], (4, 1))
    states = forecaster.hidden_states(values, origins, CONFIGS[0])
    grid = forecaster.forecast_grid(values, origins, CONFIGS[:1], 1)
    missing = np.isnan(grid).any(axis=(2, 3, 4))
    assert missing.any(axis=1).all()
    np.testing.assert_array_equal(np.isnan(states).any(axis=(2, 3, 4)), missing)
    np.testing.assert_array_equal(np.isnan(states).all(axis=(2, 3, 4)), missing)


def test_batches_and_decoders_agree(checkpoint_directory: Path, telemetry: np.ndarray) -> None:
    from tsfm_pipeline.forecaster import engine

    origins = np.arange(400, 2000, 100)
    compiled, plain, small = (
        engine.load_forecaster(checkpoint_directory, device="cpu", **settings).hidden_states(
            telemetry, origins, CONFIGS[2]
        )
        for settings in ({}, {"use_kernels": False}, {"token_budget": 7})
    )
    np.testing.assert_allclose(plain, compiled, atol=2e-4)
    np.testing.assert_array_equal(small, compiled)


def test_a_layer_that_the_model_lacks_is_refused(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    for layers in ([3], [-1], []):
        with pytest.raises(ValueError, match=r"allowed: one or more of 0 .* to 2"):
            forecaster.hidden_states(telemetry, [700], CONFIGS[0], layers=layers)
