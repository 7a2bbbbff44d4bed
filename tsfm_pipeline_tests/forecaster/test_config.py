"""Test that a configuration has one name, which says what the model sees."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tsfm_pipeline.forecaster import QUANTILE_LEVELS, ForecastConfig

configs = st.integers(1, 60).flatmap(
    lambda r: st.integers(1, 16_384 // r).map(
        lambda n: ForecastConfig(context_len=n * r, resolution=r)
    )
)


@given(configs)
def test_the_name_says_everything(config: ForecastConfig) -> None:
    assert ForecastConfig.from_name(config.name) == config
    assert ForecastConfig.model_validate_json(config.model_dump_json()) == config


def test_names_points_and_tokens() -> None:
    assert ForecastConfig(context_len=512).name == "ctx512"
    coarse = ForecastConfig(context_len=7200, resolution=15)
    assert (coarse.name, coarse.n_points, coarse.n_tokens) == ("ctx7200-r15", 480, 15)
    assert ForecastConfig(context_len=70).n_tokens == 3


def test_configurations_are_values() -> None:
    config = ForecastConfig(context_len=64)
    assert len({config, ForecastConfig(context_len=64)}) == 1
    with pytest.raises(ValidationError):
        config.context_len = 128  # type: ignore[misc]


@pytest.mark.parametrize(
    "fields", [{"context_len": 0}, {"context_len": 16_385}, {"context_len": 64, "resolution": 0}]
)
def test_out_of_range_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=r"context_len|resolution"):
        ForecastConfig(**fields)


def test_a_context_of_broken_blocks_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"context_len 100 is not a multiple of resolution 15.*90"
    ):
        ForecastConfig(context_len=100, resolution=15)


@pytest.mark.parametrize("name", ["512", "ctx", "ctx512-r", "ctx512-r15x", "CTX512", "ctx512-cube"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="allowed: ctx<steps>"):
        ForecastConfig.from_name(name)


def test_the_nine_deciles() -> None:
    assert QUANTILE_LEVELS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def test_importing_the_package_and_the_registry_loads_no_torch() -> None:
    code = (
        "import sys, tsfm_pipeline.forecaster, tsfm_pipeline.forecaster.registry, "
        "tsfm_pipeline.forecaster.plan; "
        "print([m for m in ('torch', 'timesfm', 'scipy', 'safetensors', 'huggingface_hub') if m "
        "in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
