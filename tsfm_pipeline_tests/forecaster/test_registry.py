"""Test that a checkpoint is loaded only if it matches its description."""

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tsfm_pipeline.forecaster import ForecastConfig, load_forecaster
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.registry import (
    REGISTRY,
    CheckpointError,
    checkpoint_digest,
    find_checkpoint,
)
from tsfm_pipeline_tests.forecaster.conftest import SMALL, save_checkpoint

BUNDLED = (REGISTRY["bundled"].path or Path()) / "model.safetensors"


@pytest.fixture
def directory(tmp_path: Path, module: torch.nn.Module) -> Path:
    return save_checkpoint(tmp_path / "mine", module)


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_local_directory_loads_with_its_provenance(
    directory: Path, module: torch.nn.Module
) -> None:
    checkpoint = load_forecaster(directory, device="cpu").checkpoint
    assert (checkpoint.name, checkpoint.licence) == ("small-random", "MIT")
    assert checkpoint.dims == SMALL.model_dump()
    assert checkpoint.n_parameters == sum(parameter.numel() for parameter in module.parameters())
    assert len(checkpoint.sha256) == 64


def test_dimensions_are_read_off_the_tensors_where_there_is_no_config(directory: Path) -> None:
    (directory / "config.json").unlink()
    assert find_checkpoint(directory)[0].dims == SMALL.model_dump()


def test_nothing_ever_requires_grad(forecaster: FrozenForecaster) -> None:
    parameters = list(forecaster.parameters())
    assert len(parameters) == 9 + 8 * SMALL.num_layers
    assert not any(parameter.requires_grad for parameter in parameters)


def test_a_stated_digest_is_verified(directory: Path) -> None:
    sha256 = find_checkpoint(directory)[0].sha256
    edit_config(directory, sha256=sha256)
    assert find_checkpoint(directory)[0].sha256 == sha256 == checkpoint_digest(directory)
    edit_config(directory, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=f"sha256 is {sha256}, expected {'0' * 64}"):
        find_checkpoint(directory)


def test_missing_and_unexpected_tensors_are_listed(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["surplus"] = tensors.pop("stacked_xf.1.ff1.weight")
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"missing tensors: stacked_xf.1.ff1.weight; unexpected tensors: surplus",
    ):
        find_checkpoint(directory)


def test_another_model_is_refused(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"not a TimesFM-2.5 checkpoint.*encoder.weight"):
        find_checkpoint(tmp_path)


def test_tensors_of_a_wrong_shape_are_named(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["stacked_xf.1.ff1.weight"] = torch.zeros(64, 64)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"wrong shapes: stacked_xf.1.ff1.weight \(64, 64\) for \(64, 128\)"
    ):
        find_checkpoint(directory)


def test_a_config_that_disagrees_with_the_tensors_is_refused(directory: Path) -> None:
    edit_config(directory, num_heads=4)
    with pytest.raises(CheckpointError, match="num_heads"):
        find_checkpoint(directory)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.ckpt", "model.pkl"])
def test_pickled_weights_are_refused_unopened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not even a pickle")
    for asked in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=r"pickled checkpoint.*allowed: safetensors"):
            find_checkpoint(asked)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04 pickled after all")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        find_checkpoint(tmp_path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        CheckpointError, match=r"'timesfm-9' is neither .* bundled, timesfm-2.5-200m"
    ):
        find_checkpoint("timesfm-9")


def test_a_local_directory_has_no_revision(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="only checkpoints on the hub have revisions"):
        find_checkpoint(directory, revision="main")


def test_without_a_connection_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"hf download google/timesfm-2.5-200m-pytorch .* pass that directory"
    ):
        find_checkpoint("timesfm-2.5-200m")


@pytest.mark.skipif(not BUNDLED.exists(), reason=f"{BUNDLED} has not been exported yet")
def test_the_bundled_checkpoint_forecasts(telemetry: np.ndarray) -> None:
    forecaster = load_forecaster("bundled", device="cpu")
    assert 1_000_000 <= forecaster.checkpoint.n_parameters <= 5_000_000
    grid = forecaster.forecast_grid(telemetry, [2000], [ForecastConfig(context_len=512)], 60)
    assert np.isfinite(grid).all()


def test_licences_are_recorded() -> None:
    assert {name: entry.licence for name, entry in REGISTRY.items()} == {
        "bundled": "MIT",
        "timesfm-2.5-200m": "Apache-2.0",
    }


@pytest.mark.parametrize(
    ("option", "value"), [("device", "tpu"), ("device", "cuda:x"), ("dtype", "float16")]
)
def test_unknown_devices_and_types_are_refused(directory: Path, option: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is '{value}'.* allowed"):
        load_forecaster(directory, **{option: value})
