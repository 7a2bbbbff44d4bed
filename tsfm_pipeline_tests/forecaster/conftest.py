"""Provide a small model with random weights as a checkpoint folder, and the package's forecast with
the same weights.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timesfm
import torch
from safetensors.torch import save_file

from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.forecaster.architecture import Architecture, build_module
from tsfm_pipeline.forecaster.engine import FrozenForecaster

DEVICE = os.environ.get("FORECASTER_TEST_DEVICE", "cpu")
"""`cuda` runs what uses the fixture `forecaster` on a GPU (`benchmarks/gpu.py` does)."""
SMALL = Architecture(
    model_dims=64,
    ff_dims=128,
    num_layers=2,
    num_heads=2,
    output_quantile_len=128,
    context_limit=16_384,
)


def random_module(architecture: Architecture = SMALL, seed: int = 0) -> torch.nn.Module:
    """The package's module with weights in which every part matters: its own start leaves all norm
    scales at zero.
    """
    generator = torch.Generator().manual_seed(seed)
    module = build_module(architecture)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("per_dim_scale"):
                parameter.copy_(noise)
            elif name.endswith("scale"):
                parameter.copy_(1 + 0.3 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return module


def save_checkpoint(
    directory: Path, module: torch.nn.Module, architecture: Architecture = SMALL
) -> Path:
    """A checkpoint directory as pretraining writes one."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in module.state_dict().items()},
        directory / "model.safetensors",
    )
    config = architecture.model_dump() | {"licence": "MIT", "name": "small-random"}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def module() -> torch.nn.Module:
    return random_module()


@pytest.fixture(scope="session")
def checkpoint_directory(module: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), module)


@pytest.fixture(scope="session")
def forecaster(checkpoint_directory: Path) -> FrozenForecaster:
    return load_forecaster(checkpoint_directory, device=DEVICE, matrix_product="loops")


def forecast_of_the_package(
    module: torch.nn.Module, windows: np.ndarray, horizon: int
) -> np.ndarray:
    """The package's compile and forecast: windows [N, L] to [N, H, 10]."""
    package = timesfm.TimesFM_2p5_200M_torch.__new__(timesfm.TimesFM_2p5_200M_torch)
    package.model, package.torch_compile = module, False
    package.compile(
        timesfm.ForecastConfig(
            max_context=windows.shape[1],
            max_horizon=horizon,
            per_core_batch_size=len(windows),
            use_continuous_quantile_head=False,
            force_flip_invariance=False,
            infer_is_positive=False,
            fix_quantile_crossing=True,
        )
    )
    return package.forecast(horizon, [window.copy() for window in windows])[1]


@pytest.fixture(scope="session")
def package_forecast(module: torch.nn.Module) -> Callable[[np.ndarray, int], np.ndarray]:
    return partial(forecast_of_the_package, module)


@pytest.fixture(scope="session")
def telemetry() -> np.ndarray:
    """Four series [4, 2200] of ordinary shapes: a season, a random walk, bursts, a slope."""
    rng = np.random.default_rng(7)
    steps = np.arange(2200)
    season = 0.3 + 0.2 * np.sin(2 * np.pi * steps / 288) + 0.02 * rng.normal(size=2200)
    walk = 0.05 * rng.normal(size=2200).cumsum() + 4
    bursts = 200 + 20 * rng.normal(size=2200) + 400 * (rng.random(2200) < 0.01)
    slope = 5 - 0.01 * steps + rng.normal(size=2200)
    return np.stack([season, walk, bursts, slope]).astype(np.float32)
