"""Test that the study finds a planted direction and none in noise, on two simulated markets each.

The bars are rates over twenty markets; `benchmarks/direction_power.py` measures these.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tsfm_pipeline.forecaster import load_forecaster


@pytest.fixture(scope="module")
def power() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "direction_power.py"
    spec = importlib.util.spec_from_file_location("direction_power", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_planted_direction_is_found_and_none_in_noise(power: ModuleType) -> None:
    forecaster = load_forecaster("bundled", device="cpu")
    for correlation, n_found in ((0.0, 0), (0.1, 2)):
        markets = [
            power.evaluated_market(correlation, seed, power.OPTIONS, forecaster)
            for seed in (1000, 1001)
        ]
        measured = power.rates(markets)
        assert measured["n_markets"] == 2
        assert measured["test_days"] >= 4000
        assert measured["verdict_direction"] == n_found
        assert set(measured["sign"]) >= {
            "volatility_logit",
            "all_logit",
            "zero_shot_returns_80_mean",
        }
        if correlation == 0:
            assert abs(measured["sign"]["volatility_logit"]["mean"] - 0.5) <= 0.025
