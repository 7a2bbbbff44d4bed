"""Test the choice of what multiplies: its rule on the rates of several processors, the file that
keeps the rates, and decoders with each product.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsfm_pipeline.catalogue.shards import numerics
from tsfm_pipeline.forecaster import ForecastConfig, products
from tsfm_pipeline.forecaster.engine import DTYPES, FrozenForecaster, load_forecaster
from tsfm_pipeline.forecaster.products import choose, kept_choice, product_for, usable_products
from tsfm_pipeline_tests.forecaster.conftest import SMALL

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
AMX = {"loops": 70.0, "onednn": 1000.0, "float32": 140.0}
CONFIGS = [ForecastConfig(context_len=n) for n in (32, 40, 512, 1000)]
EVERY = [(name, each) for name, dtype in DTYPES.items() for each in usable_products(dtype)]
Measure = Callable[[Any, torch.dtype], dict[str, float]]


@pytest.mark.parametrize(
    ("rates", "dtype", "chosen"),
    [
        (AMX, BFLOAT16, "onednn"),
        ({"loops": 135.0, "onednn": 150.0}, FLOAT32, "loops"),
        ({"loops": 100.0, "onednn": 130.0}, FLOAT32, "onednn"),
        ({"loops": 460.0, "float32": 230.0}, BFLOAT16, "loops"),
        ({"loops": 460.0, "onednn": 450.0, "float32": 230.0}, BFLOAT16, "loops"),
        ({"loops": 230.0, "onednn": 240.0, "float32": 220.0}, BFLOAT16, "loops"),
        ({"loops": 70.0, "float32": 140.0}, BFLOAT16, "float32"),
        ({"loops": 139.0, "onednn": 141.0, "float32": 140.0}, BFLOAT16, "onednn"),
        ({"loops": 110.0, "onednn": 90.0, "float32": 111.0}, BFLOAT16, "float32"),
    ],
    ids=[
        "a Xeon with AMX",
        "the same in float32: a tenth is too little",
        "float32, oneDNN clearly faster",
        "an EPYC with bfloat16, where oneDNN is not used",
        "an EPYC with bfloat16",
        "bfloat16, oneDNN a little faster",
        "a Xeon whose AMX is switched off",
        "only oneDNN is as fast as float32",
        "no bfloat16 is as fast as float32",
    ],
)
def test_the_rates_decide(rates: dict[str, float], dtype: torch.dtype, chosen: str) -> None:
    assert choose(rates, dtype) == chosen


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the compiled loops, empty, on a machine with AMX."""
    monkeypatch.setattr(products, "compiled_cache", lambda: (tmp_path / "cache", True))
    monkeypatch.setattr(
        products, "usable_products", lambda dtype: tuple(AMX) if dtype == BFLOAT16 else ("loops",)
    )
    return tmp_path / "cache"


def counted(rates: dict[str, float] = AMX) -> tuple[Measure, list[torch.dtype]]:
    """A measurement with these results, and the calls of it."""
    calls: list[torch.dtype] = []

    def measure(_: Any, dtype: torch.dtype) -> dict[str, float]:
        calls.append(dtype)
        return rates

    return measure, calls


def test_a_machine_is_measured_once_per_dtype_and_size(folder: Path) -> None:
    measure, calls = counted()
    assert kept_choice(SMALL, BFLOAT16) is None
    for _ in range(2):
        choice = product_for(SMALL, BFLOAT16, measure=measure)
        assert choice.product == "onednn"
        assert choice.reason == "loops 70, onednn 1,000, float32 140 GFLOP/s"
    assert calls == [BFLOAT16]
    assert kept_choice(SMALL, BFLOAT16) == choice
    product_for(SMALL.model_copy(update={"ff_dims": 256}), BFLOAT16, measure=measure)
    assert calls == [BFLOAT16] * 2
    assert len(list(folder.iterdir())) == 2


def test_a_dtype_with_one_product_is_not_measured(folder: Path) -> None:
    measure, calls = counted()
    assert product_for(SMALL, FLOAT32, measure=measure).product == "loops"
    assert not calls
    assert not folder.exists()


@pytest.mark.parametrize("changed", ["_processor", "torch", "numba"])
def test_another_processor_or_library_is_measured_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    measure, calls = counted()
    product_for(SMALL, BFLOAT16, measure=measure)
    if changed == "_processor":
        monkeypatch.setattr(products, changed, lambda: "another processor")
    else:
        monkeypatch.setattr(getattr(products, changed), "__version__", "another release")
    product_for(SMALL, BFLOAT16, measure=measure)
    assert calls == [BFLOAT16] * 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "\x00\xff",
        json.dumps({"gflops_per_s": {"loops": 1.0}}),
        json.dumps({"gflops_per_s": AMX | {"loops": -1.0}}),
        json.dumps({"gflops_per_s": AMX | {"loops": "fast"}}),
        json.dumps({"gflops_per_s": 3}),
    ],
)
def test_a_damaged_file_is_measured_again_and_replaced(folder: Path, content: str) -> None:
    measure, calls = counted()
    product_for(SMALL, BFLOAT16, measure=measure)
    (file,) = folder.iterdir()
    file.write_text(content, encoding="latin-1")
    assert kept_choice(SMALL, BFLOAT16) is None
    for _ in range(2):
        assert product_for(SMALL, BFLOAT16, measure=measure).product == "onednn"
    assert calls == [BFLOAT16] * 2


def test_a_folder_that_cannot_be_written_is_no_error(folder: Path) -> None:
    measure, calls = counted()
    folder.write_text("no folder, so that nothing can be written below it, not even by root")
    for _ in range(2):
        assert product_for(SMALL, BFLOAT16, measure=measure).product == "onednn"
    assert calls == [BFLOAT16] * 2


def test_of_two_processes_that_measure_at_once_the_first_counts(folder: Path) -> None:
    slower, _ = counted({"loops": 200.0, "onednn": 190.0, "float32": 140.0})

    def meanwhile(_: Any, dtype: torch.dtype) -> dict[str, float]:
        assert product_for(SMALL, dtype, measure=slower).product == "loops"
        return AMX

    assert product_for(SMALL, BFLOAT16, measure=meanwhile).product == "loops"
    assert len(list(folder.iterdir())) == 1


def test_what_is_set_is_used_and_not_measured(folder: Path) -> None:
    measure, calls = counted()
    for wanted in AMX:
        assert product_for(SMALL, BFLOAT16, wanted, measure).product == wanted
        assert kept_choice(SMALL, BFLOAT16, wanted) == product_for(SMALL, BFLOAT16, wanted)
    assert not calls
    assert not folder.exists()


def test_what_cannot_be_set_is_refused_with_what_can(
    folder: Path, checkpoint_directory: Path
) -> None:
    with pytest.raises(ValueError, match=r"'quick'.*bfloat16.*auto, loops, onednn, float32"):
        product_for(SMALL, BFLOAT16, "quick")
    with pytest.raises(ValueError, match=r"TSFM_MATRIX_PRODUCT.*'float32'.*float32.*auto, loops"):
        load_forecaster(checkpoint_directory, device="cpu", matrix_product="float32")


@pytest.mark.heavy
def test_the_measurement_knows_every_product() -> None:
    for dtype in DTYPES.values():
        rates = products.measured_rates(SMALL, dtype)
        assert tuple(rates) == usable_products(dtype)
        assert all(rate > 0 for rate in rates.values())


def forecast(model: FrozenForecaster, values: np.ndarray, horizon: int = 60) -> np.ndarray:
    """Forecasts from windows of one patch and of many, read at several offsets."""
    return model.forecast_offsets(values, [1900, 2100], (0, 32, 100), CONFIGS, horizon)


@pytest.mark.heavy
@pytest.mark.parametrize(("dtype", "product"), EVERY)
def test_every_product_forecasts_what_torch_forecasts(
    checkpoint_directory: Path, telemetry: np.ndarray, dtype: str, product: str
) -> None:
    """In float32 to 2e-5 of the context's deviation. This model of random weights says little about
    bfloat16, which may be off by .2 of it.
    """
    model = load_forecaster(checkpoint_directory, device="cpu", dtype=dtype, matrix_product=product)
    plain = load_forecaster(checkpoint_directory, device="cpu", use_kernels=False)
    assert model.decoder.product == model.plan["matrix_product"] == product
    assert json.loads(numerics(model))["matrix_product"] == product, "workers compare it"
    assert model.dtype == DTYPES[dtype]
    spread = telemetry[:, 1100:2101].std(axis=1)[:, None, None, None, None]
    exact = forecast(plain, telemetry)
    bound = 2e-5 if "float32" in (dtype, product) else 0.2
    assert (np.abs(forecast(model, telemetry) - exact) / spread).max() < bound
    alone = model.forecast_grid(telemetry[:1], [2100], CONFIGS[:1], 60)
    theirs = plain.forecast_grid(telemetry[:1], [2100], CONFIGS[:1], 60)
    assert (np.abs(alone - theirs) / spread[0]).max() < bound


@pytest.mark.heavy
@pytest.mark.parametrize(("dtype", "product"), EVERY)
def test_no_forecast_depends_on_threads_or_other_windows(
    checkpoint_directory: Path, telemetry: np.ndarray, dtype: str, product: str
) -> None:
    one, three = (
        load_forecaster(
            checkpoint_directory,
            device="cpu",
            dtype=dtype,
            matrix_product=product,
            token_budget=100,
            n_threads=n,
        )
        for n in (1, 3)
    )
    expected = forecast(one, telemetry, horizon=300)
    for _ in range(3):
        assert np.array_equal(forecast(three, telemetry, horizon=300), expected)


@pytest.mark.heavy
def test_bfloat16_in_float32_is_float32(
    forecaster: FrozenForecaster, checkpoint_directory: Path, telemetry: np.ndarray
) -> None:
    wide = load_forecaster(
        checkpoint_directory, device="cpu", dtype="bfloat16", matrix_product="float32"
    )
    assert wide.decoder.dtype == FLOAT32
    assert np.array_equal(forecast(wide, telemetry), forecast(forecaster, telemetry))
