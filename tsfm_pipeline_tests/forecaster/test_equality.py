"""Test that the grid engine gives the same result as the package's own decode, with the same
weights.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from timesfm.timesfm_2p5.timesfm_2p5_torch import TimesFM_2p5_200M_torch_module

from tsfm_pipeline.forecaster import ForecastConfig, load_forecaster
from tsfm_pipeline.forecaster.architecture import TIMESFM_2_5_200M, Architecture, build_module
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.registry import expected_shapes
from tsfm_pipeline_tests.forecaster.conftest import SMALL

PackageForecast = Callable[[np.ndarray, int], np.ndarray]


def difference(ours: np.ndarray, theirs: np.ndarray, windows: np.ndarray) -> float:
    """Largest difference in units of each window's standard deviation."""
    return float((np.abs(ours - theirs).max(axis=(1, 2)) / windows.std(axis=1)).max())


@pytest.mark.parametrize("horizon", [1, 60, 128, 129, 256])
@pytest.mark.parametrize("context_len", [64, 70, 100, 512, 1000, 2048])
def test_equals_the_package(
    forecaster: FrozenForecaster,
    package_forecast: PackageForecast,
    telemetry: np.ndarray,
    context_len: int,
    horizon: int,
) -> None:
    origin = telemetry.shape[1] - 100
    windows = telemetry[:, origin + 1 - context_len : origin + 1]
    ours = forecaster.forecast_grid(
        telemetry, [origin], [ForecastConfig(context_len=context_len)], horizon
    )
    assert difference(ours[:, 0, 0], package_forecast(windows, horizon), windows) < 1e-4


@pytest.mark.parametrize("context_len", [1, 5, 31, 32, 33])
def test_equals_the_package_on_the_shortest_contexts(
    forecaster: FrozenForecaster,
    package_forecast: PackageForecast,
    telemetry: np.ndarray,
    context_len: int,
) -> None:
    windows = telemetry[:, 500 - context_len : 500]
    ours = forecaster.forecast_grid(
        telemetry, [499], [ForecastConfig(context_len=context_len)], 60
    )[:, 0, 0]
    theirs = package_forecast(windows, 60)
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * max(windows.std(), 1e-3))


def test_a_coarse_forecast_is_the_package_forecast_of_the_block_means(
    forecaster: FrozenForecaster, package_forecast: PackageForecast, telemetry: np.ndarray
) -> None:
    origin, config = 2101, ForecastConfig(context_len=2000, resolution=5)
    means = (
        telemetry[:, 102:2102].reshape(4, 400, 5).mean(axis=2, dtype=np.float64).astype(np.float32)
    )
    ours = forecaster.forecast_grid(telemetry, [origin], [config], 60)[:, 0, 0]
    theirs = np.repeat(package_forecast(means, 12), 5, axis=1)
    assert difference(ours[..., :1], theirs[..., :1], means) < 1e-4


def test_bfloat16_stays_close(
    checkpoint_directory: Path, forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    small = load_forecaster(checkpoint_directory, device="cpu", dtype="bfloat16")
    configs = [ForecastConfig(context_len=256), ForecastConfig(context_len=512)]
    exact, rough = (
        model.forecast_grid(telemetry, [2100], configs, 60) for model in (forecaster, small)
    )
    spread = telemetry[:, 2101 - 512 : 2101].std(axis=1)[:, None, None, None, None]
    assert np.abs((exact - rough) / spread).mean() < 0.02
    assert (exact != rough).any()


def test_bfloat16_of_the_bundled_checkpoint_errs_by_less_than_a_fiftieth_of_its_context(
    telemetry: np.ndarray,
) -> None:
    """On average far less, which takes float32 where it matters most: attention's output
    projection, and the last feed-forward block.
    """
    configs = [ForecastConfig(context_len=n) for n in (256, 512, 1024)]
    origins = 2199 - 61 * np.arange(12)
    models = [load_forecaster("bundled", "cpu", dtype) for dtype in ("float32", "bfloat16")]
    exact, rough = (model.forecast_grid(telemetry, origins, configs, 60) for model in models)
    windows = [
        [telemetry[:, origin + 1 - config.context_len : origin + 1] for config in configs]
        for origin in origins
    ]
    deviation = np.stack(
        [np.stack([window.std(axis=1) for window in of_origin], axis=1) for of_origin in windows],
        axis=1,
    )
    largest = np.abs(exact - rough).max(axis=(3, 4)) / deviation
    assert largest.max() < 0.02
    assert largest.mean() < 0.0035


@pytest.mark.parametrize(
    "architecture",
    [
        SMALL,
        Architecture(
            model_dims=32,
            ff_dims=64,
            num_layers=3,
            num_heads=4,
            output_quantile_len=1024,
            context_limit=512,
        ),
    ],
)
def test_the_expected_tensors_are_those_of_the_packages_module(architecture: Architecture) -> None:
    module = build_module(architecture)
    assert expected_shapes(architecture) == {
        name: tuple(tensor.shape) for name, tensor in module.state_dict().items()
    }


def test_the_200m_tensors_are_those_of_the_package() -> None:
    with torch.device("meta"):
        module = TimesFM_2p5_200M_torch_module()
    assert expected_shapes(TIMESFM_2_5_200M) == {
        name: tuple(tensor.shape) for name, tensor in module.state_dict().items()
    }
