"""Test the GPU benchmark on a machine without a GPU: its checks, its output, and that the code of
its rows runs.
"""

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tsfm_pipeline.forecaster.model import RestOfLayer, Windows
from tsfm_pipeline.forecaster.torch_decoder import TorchDecoder
from tsfm_pipeline.settings import PROJECT_ROOT

pytestmark = pytest.mark.heavy

BENCHMARKS = PROJECT_ROOT / "benchmarks"
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))  # of the processes that it starts
    return importlib.import_module("gpu")


@without_a_gpu
def test_without_a_gpu_no_row_is_measured_and_every_check_passes() -> None:
    command = [sys.executable, str(BENCHMARKS / "cuda.py"), "--quick"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["gpu"] is None
    assert {row["status"] for row in result["rows"].values()} == {"not measured"}
    assert all("no GPU" in row["reason"] for row in result["rows"].values())
    assert set(result["checks"].values()) == {"passed"}


@without_a_gpu
def test_an_error_of_one_row_is_in_that_row(gpu: ModuleType) -> None:
    row = gpu.measured("grid_bundled", ["--quick"], 300.0)
    assert row["status"] == "error"
    assert "CUDA" in row["error"]


def test_a_row_whose_time_runs_out_says_so(gpu: ModuleType) -> None:
    assert gpu.measured("tests", ["--rehearse"], 0.2) == {
        "status": "not measured",
        "reason": "its time ran out after 0 s",
    }


def test_the_budgets_of_all_rows_fit_into_eight_minutes(gpu: ModuleType) -> None:
    assert sum(row.budget_s for row in gpu.ROWS.values()) <= gpu.TOTAL_S < 480


def figures(row: Any) -> Iterator[float]:
    """Every number in a row."""
    for value in (
        row.values() if isinstance(row, dict) else row if isinstance(row, list | tuple) else ()
    ):
        yield from figures(value)
    if isinstance(row, int | float):
        yield row


@pytest.mark.parametrize(
    "name",
    [
        "equality_with_the_cpu",
        pytest.param("latency_200m", marks=pytest.mark.slow),
        "grid_200m",
        pytest.param("training_200m", marks=pytest.mark.slow),
    ],
)
def test_a_rehearsal_runs_a_rows_code_on_the_cpu(gpu: ModuleType, name: str) -> None:
    row = gpu.ROWS[name].measure(gpu.Setting(device="cpu", quick=True, rehearsal=True))
    assert list(figures(row))
    assert all(math.isfinite(figure) for figure in figures(row))
    if name == "equality_with_the_cpu":
        largest = {key: difference["largest"] for key, difference in row.items()}
        assert all(
            0 < value < (1e-4 if "float32" in key and "bfloat16" not in key else 0.1)
            for key, value in largest.items()
        ), largest


class Waiting(TorchDecoder):
    """A decoder that asks the device for a number in every layer."""

    def rest_of_layer(self, windows: Windows, turns: torch.Tensor) -> RestOfLayer:
        rest = super().rest_of_layer(windows, turns)

        def wait(
            x: torch.Tensor, normed: torch.Tensor, key_value: torch.Tensor, i: int
        ) -> torch.Tensor:
            return rest(x, normed, key_value, i) if x.abs().amax() > 0 else x

        return wait


class Selecting(TorchDecoder):
    """A decoder that selects by a mask, whose number of rows the host must wait for."""

    def rest_of_layer(self, windows: Windows, turns: torch.Tensor) -> RestOfLayer:
        rest = super().rest_of_layer(windows, turns)
        return lambda x, normed, key_value, i: rest(
            x, normed, key_value[key_value[:, 0] == key_value[:, 0]], i
        )


class IndexedFromTheHost(TorchDecoder):
    """A decoder that leaves an index on the host, which torch allows, and copies over in every
    layer.
    """

    def rest_of_layer(self, windows: Windows, turns: torch.Tensor) -> RestOfLayer:
        rest = super().rest_of_layer(windows, turns)
        return lambda x, normed, key_value, i: rest(
            x, normed, key_value[torch.arange(len(key_value))], i
        )


class ScaledOnTheHost(TorchDecoder):
    """A decoder that leaves a factor on the host, which torch refuses."""

    def rest_of_layer(self, windows: Windows, turns: torch.Tensor) -> RestOfLayer:
        rest = super().rest_of_layer(windows, turns)
        return lambda x, normed, key_value, i: rest(x, normed, key_value * torch.ones(1), i)


def test_the_checks_accept_the_decoder(gpu: ModuleType) -> None:
    gpu.check_on_meta(gpu.TOY, torch.float32)
    operators = gpu.check_trace(gpu.TOY, torch.bfloat16)
    assert operators["aten::silu_"] >= gpu.TOY.num_layers


@pytest.mark.parametrize(
    ("decoder", "operator"),
    [(Waiting, "_local_scalar_dense|is_nonzero"), (Selecting, "aten::index")],
)
def test_the_trace_finds_what_the_host_waits_for(
    gpu: ModuleType, decoder: type[TorchDecoder], operator: str
) -> None:
    with pytest.raises(AssertionError, match=f"the host waits for .*({operator})"):
        gpu.check_trace(gpu.TOY, torch.float32, decoder)


@pytest.mark.parametrize(
    ("decoder", "problem"),
    [(IndexedFromTheHost, "two devices meet"), (ScaledOnTheHost, "device cpu")],
)
def test_the_meta_device_finds_tensors_that_stayed_on_the_host(
    gpu: ModuleType, decoder: type[TorchDecoder], problem: str
) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=problem):
        gpu.check_on_meta(gpu.TOY, torch.float32, decoder)


def test_the_entry_point_does_not_hide_the_package_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "cuda" / "bindings").mkdir(parents=True)
    (tmp_path / "cuda" / "bindings" / "__init__.py").write_text("FOUND = True\n")
    code = "import cuda.bindings, sys; sys.exit(not cuda.bindings.FOUND)"
    environment = {**os.environ, "PYTHONPATH": f"{BENCHMARKS}{os.pathsep}{tmp_path}"}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
