"""Test that the compiled loops of the CPU give the same result as torch's operators, on windows of
any lengths.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tsfm_pipeline.forecaster import ForecastConfig, kernels
from tsfm_pipeline.forecaster.architecture import Architecture
from tsfm_pipeline.forecaster.compiled_decoder import (
    OWN_LOOPS,
    CompiledDecoder,
    PackedMatrix,
    as_array,
    onednn,
)
from tsfm_pipeline.forecaster.engine import FrozenForecaster, load_forecaster
from tsfm_pipeline.forecaster.model import NORM_EPSILON, Layer, Windows
from tsfm_pipeline.forecaster.torch_decoder import TorchDecoder
from tsfm_pipeline_tests.forecaster.conftest import (
    forecast_of_the_package,
    random_module,
    save_checkpoint,
)

pytestmark = pytest.mark.heavy

N_HEADS = 2
LENGTHS = (1, 2, 3, 4, 5, 15, 16, 17, 40, 131)


def everything(lengths: tuple[int, ...]) -> Windows:
    """Windows of these lengths, every token of which is a query."""
    bounds = np.cumsum([0, *lengths])
    return Windows(bounds, bounds, np.concatenate([np.arange(n) for n in lengths]))


def turns_of(n_tokens: int, dims: int) -> torch.Tensor:
    """Rotations by angles that differ from token to token."""
    angle = torch.arange(n_tokens)[:, None] / 10 ** torch.linspace(0, 2, dims // 2)
    sines = torch.stack([-angle.sin(), angle.sin()], dim=-1).flatten(1)
    return torch.cat([angle.cos().repeat_interleave(2, dim=1), sines], dim=1)


def attend(
    qkv: torch.Tensor,
    scale: torch.Tensor,
    turns: torch.Tensor,
    lengths: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Attention of every token: [T, heads * dims]."""
    query, key_value = (
        part.contiguous() for part in qkv.split([qkv.shape[1] // 3, qkv.shape[1] // 3 * 2], dim=1)
    )
    return attend_some(query, key_value, scale, turns, everything(lengths), dtype)


def attend_some(
    query: torch.Tensor,
    key_value: torch.Tensor,
    scale: torch.Tensor,
    turns: torch.Tensor,
    windows: Windows,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Attention of some queries: [N, heads * dims]."""
    out = torch.empty(query.shape, dtype=dtype)
    kernels._attend(*map(as_array, (query, key_value, scale[None], turns)), *windows, as_array(out))
    return out


def add_normed(
    x: torch.Tensor, change: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """x RMS-normed, once the change is added."""
    normed = torch.empty(x.shape, dtype=dtype)
    kernels._add_normed(*map(as_array, (x, change, scale[None], normed)))
    return normed


def silu(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The activation of x."""
    out = torch.empty(x.shape, dtype=dtype)
    kernels._silu(as_array(x), as_array(out))
    return out


def expected(
    qkv: torch.Tensor, dims: int, scale: torch.Tensor, turns: torch.Tensor, lengths: tuple[int, ...]
) -> torch.Tensor:
    """Attention window by window in float64: [T, heads * dims]."""
    read = []
    for window in qkv.double().split(lengths):
        query, key, value = window.unflatten(1, (3, N_HEADS, dims)).permute(1, 2, 0, 3)
        own, others = turns[: len(window)].double().chunk(2, dim=1)
        query, key = (
            F.rms_norm(
                x * own + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * others, (dims,), eps=1e-6
            )
            for x in (query, key)
        )
        products = (query * scale.double()) @ key.transpose(1, 2)
        later = torch.ones(len(window), len(window), dtype=torch.bool).triu(1)
        read.append(
            (products.masked_fill(later, -torch.inf).softmax(-1) @ value).transpose(0, 1).flatten(1)
        )
    return torch.cat(read)


def matrices(
    n_rows: int, n_inputs: int, n_panels: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Something to multiply, and a matrix of whole panels."""
    torch.manual_seed(0)
    return torch.randn(n_rows, n_inputs).to(dtype), torch.randn(
        n_panels * kernels.PANEL, n_inputs
    ).to(dtype)


def library(by_onednn: bool, dtype: torch.dtype) -> kernels.Library:
    """What multiplies; skips where oneDNN does not."""
    chosen = onednn(dtype) if by_onednn else OWN_LOOPS
    if chosen is None:
        pytest.skip(f"oneDNN has no product for {dtype} here")
    return chosen


@pytest.mark.parametrize("by_onednn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n_rows", "n_inputs", "n_panels"),
    [(1, 2, 1), (5, 64, 3), (6, 30, 1), (7, 256, 2), (31, 64, 1), (33, 64, 2), (200, 62, 5)],
)
def test_a_product_is_summed_in_float32(
    dtype: torch.dtype, n_rows: int, n_inputs: int, n_panels: int, by_onednn: bool
) -> None:
    x, weight = matrices(n_rows, n_inputs, n_panels, dtype)
    ours = PackedMatrix.of(weight, library(by_onednn, dtype)).times(x)
    sizes = x.double().abs() @ weight.double().abs().T
    assert ours.dtype == torch.float32
    assert ((ours.double() - x.double() @ weight.double().T).abs() <= 1e-6 * sizes).all()


@pytest.mark.parametrize(("n_rows", "n_inputs"), [(1, 16), (31, 64), (33, 256), (200, 80)])
def test_a_product_in_parts_is_almost_one_in_float32(n_rows: int, n_inputs: int) -> None:
    x, weight = matrices(n_rows, n_inputs, 2, torch.float32)
    packed = PackedMatrix.in_parts(weight, library(True, torch.bfloat16))
    sizes = x.double().abs() @ weight.double().abs().T
    ours, exact = packed.times(x), x.double() @ weight.double().T
    assert ((ours.double() - exact).abs() <= 2e-5 * sizes).all()
    assert torch.equal(packed.times(x, n_outputs=7), ours[:, :7])
    assert torch.equal(packed.times(x[-1:]), ours[-1:])


@pytest.mark.parametrize("by_onednn", [False, True])
@pytest.mark.parametrize("n_rows", [20, 45])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_a_product_depends_on_no_other(
    dtype: torch.dtype, n_rows: int, by_onednn: bool
) -> None:
    x, weight = matrices(n_rows, 64, 2, dtype)
    packed = PackedMatrix.of(weight, library(by_onednn, dtype))
    clean = packed.times(x)
    assert torch.equal(packed.times(x[7:9]), clean[7:9])
    x[3] = torch.nan
    spoilt = packed.times(x)
    assert spoilt[3].isnan().all()
    assert torch.equal(torch.cat([spoilt[:3], spoilt[4:]]), torch.cat([clean[:3], clean[4:]]))


@pytest.mark.parametrize("dims", [16, 64, 80])
@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1]])
def test_attention_keeps_windows_of_any_lengths_apart(dims: int, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    qkv, scale, turns = (
        torch.randn(sum(lengths), 3 * N_HEADS * dims),
        torch.rand(dims) / 4,
        turns_of(max(lengths), dims),
    )
    ours = attend(qkv, scale, turns, lengths)
    torch.testing.assert_close(
        ours.double(), expected(qkv, dims, scale, turns, lengths), atol=5e-6, rtol=0
    )


def test_some_queries_read_what_all_of_them_read() -> None:
    torch.manual_seed(0)
    dims, windows = 32, everything(LENGTHS)
    qkv, scale, turns = (
        torch.randn(sum(LENGTHS), 3 * N_HEADS * dims),
        torch.rand(dims) / 4,
        turns_of(max(LENGTHS), dims),
    )
    every = attend(qkv, scale, turns, LENGTHS)
    window = np.array([0, 3, 3, 3, 3, 3, 8, 9, 9])
    position = np.array([0, 3, 0, 2, 1, 3, 20, 130, 7])
    rows = windows.tokens[window] + position
    some = Windows(windows.tokens, np.searchsorted(window, np.arange(len(LENGTHS) + 1)), position)
    query, key_value = (
        qkv[rows, : N_HEADS * dims].contiguous(),
        qkv[:, N_HEADS * dims :].contiguous(),
    )
    of_last_layer = attend_some(query, key_value, scale, turns, some, torch.float32)
    torch.testing.assert_close(of_last_layer, every[rows], atol=1e-6, rtol=0)


def test_large_products_do_not_overflow() -> None:
    torch.manual_seed(0)
    dims, lengths = 16, (20, 3)
    qkv, scale, turns = (
        torch.randn(sum(lengths), 3 * N_HEADS * dims),
        torch.full((dims,), 50.0),
        turns_of(20, dims),
    )
    ours = attend(qkv, scale, turns, lengths)
    torch.testing.assert_close(
        ours.double(), expected(qkv, dims, scale, turns, lengths), atol=1e-3, rtol=0
    )


def test_what_is_wrong_with_one_window_stays_there() -> None:
    torch.manual_seed(0)
    dims, lengths = 16, (5, 30, 2, 7)
    qkv, scale, turns = (
        torch.randn(sum(lengths), 3 * N_HEADS * dims),
        torch.rand(dims),
        turns_of(30, dims),
    )
    clean = attend(qkv, scale, turns, lengths)
    qkv[5:35] = torch.nan
    spoilt = attend(qkv, scale, turns, lengths)
    assert spoilt[5:35].isnan().all()
    torch.testing.assert_close(
        torch.cat([spoilt[:5], spoilt[35:]]), torch.cat([clean[:5], clean[35:]]), atol=0, rtol=0
    )


def test_norms_and_activation_are_those_of_torch() -> None:
    torch.manual_seed(0)
    x, change, scale = torch.randn(7, 48) * 3, torch.randn(7, 48), torch.randn(48)
    sums = x.double() + F.rms_norm(change.double(), (48,), eps=1e-6) * scale
    normed = add_normed(x, change, scale, torch.float32)
    torch.testing.assert_close(x.double(), sums, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        normed.double(), F.rms_norm(sums, (48,), eps=1e-6), atol=1e-6, rtol=1e-6
    )
    values = torch.cat(
        [torch.linspace(-200, 200, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e30, 1e30])]
    )[: 4000 // 16 * 16].view(-1, 16)
    torch.testing.assert_close(
        silu(values, torch.float32).double(), F.silu(values.double()), atol=1e-7, rtol=1e-6
    )


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="another processor has other features"
)
def test_a_processor_with_narrower_registers_computes_the_same(tmp_path: Path) -> None:
    """Half as wide, half as many, and without arithmetic in bfloat16."""
    narrow = {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    chosen = "summed_in_float32 or any_lengths or bfloat16_is_rounded or one_of_torchs_operators"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", __file__, "-k", chosen]
    run = subprocess.run(
        command, env=os.environ | narrow, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:]


def test_what_the_cache_must_see_is_said_again_where_it_sees_it() -> None:
    """The loops' file imports nothing of the package, so two facts of the model stand in it a
    second time.
    """
    assert kernels.Weights._fields == Layer._fields
    assert float(kernels.NORM_EPSILON) == pytest.approx(NORM_EPSILON, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_is_compiled_after_loading(
    checkpoint_directory: Path, telemetry: np.ndarray, dtype: str
) -> None:
    """So that an error of the compiler shows while torch can still take over."""
    model = load_forecaster(checkpoint_directory, device="cpu", dtype=dtype)
    assert isinstance(model.decoder, CompiledDecoder)
    loops = (kernels.product, kernels.layer)
    before = [set(function.signatures) for function in loops]
    model.forecast_offsets(
        telemetry,
        [1900, 2100],
        (0, 32, 100),
        [ForecastConfig(context_len=n) for n in (40, 512)],
        60,
    )
    model.forecast_grid(telemetry, [2100], [ForecastConfig(context_len=512)], 300)
    assert [set(function.signatures) for function in loops] == before


def test_bfloat16_is_rounded_once() -> None:
    torch.manual_seed(0)
    dims = 64
    qkv, scale, turns = (
        torch.randn(sum(LENGTHS), 3 * N_HEADS * dims),
        torch.rand(dims) / 4,
        turns_of(max(LENGTHS), dims),
    )
    assert torch.equal(
        attend(qkv, scale, turns, LENGTHS, torch.bfloat16),
        attend(qkv, scale, turns, LENGTHS).bfloat16(),
    )
    x, change, scale = torch.randn(5, 32), torch.randn(5, 32), torch.randn(32)
    other = x.clone()
    normed = add_normed(x, change, scale, torch.bfloat16)
    assert torch.equal(normed, add_normed(other, change, scale, torch.float32).bfloat16())
    assert torch.equal(x, other)
    assert torch.equal(silu(change, torch.bfloat16), silu(change, torch.float32).bfloat16())


@pytest.mark.parametrize(
    ("dtype", "horizon", "tolerance"),
    [("float32", 60, 2e-5), ("float32", 256, 1e-4), ("bfloat16", 60, 0.2)],
)
def test_a_decoder_of_these_loops_is_one_of_torchs_operators(
    tmp_path: Path, telemetry: np.ndarray, dtype: str, horizon: int, tolerance: float
) -> None:
    """As on another device: there, and where a size fills no whole vectors, every operation is
    torch's.
    """
    directory = save_checkpoint(tmp_path / "small", random_module())
    compiled, plain = (
        load_forecaster(directory, device="cpu", dtype=dtype, use_kernels=use)
        for use in (True, False)
    )
    configs = [ForecastConfig(context_len=n) for n in (40, 512, 1000)]
    ours, theirs = (
        model.forecast_offsets(telemetry, [1900, 2100], (0, 32, 64, 100), configs, horizon)
        for model in (compiled, plain)
    )
    spread = telemetry[:, 1100:2101].std(axis=1)[:, None, None, None, None]
    assert (np.abs(ours - theirs) / spread).max() < tolerance


def test_every_patch_may_be_asked_for_in_any_order(
    forecaster: FrozenForecaster, checkpoint_directory: Path
) -> None:
    torch.manual_seed(0)
    plain = load_forecaster(checkpoint_directory, device="cpu", use_kernels=False)
    groups = [(torch.randn(2, 3 * 32), torch.zeros(2, dtype=torch.int64))]
    window, ascending = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    in_order = forecaster.decoder.decode(groups, window, ascending, 60)
    for model in (forecaster, plain):
        backwards = model.decoder.decode(groups, window, np.tile([2, 1, 0], 2), 60)
        torch.testing.assert_close(backwards, in_order[[2, 1, 0, 5, 4, 3]], atol=1e-5, rtol=0)


def test_sizes_that_fill_no_whole_vectors_equal_the_package(
    tmp_path: Path, telemetry: np.ndarray
) -> None:
    architecture = Architecture(
        model_dims=40,
        ff_dims=56,
        num_layers=2,
        num_heads=2,
        output_quantile_len=128,
        context_limit=4096,
    )
    module = random_module(architecture)
    forecaster = load_forecaster(
        save_checkpoint(tmp_path / "odd", module, architecture), device="cpu"
    )
    assert isinstance(forecaster.decoder, TorchDecoder)
    ours = forecaster.forecast_grid(telemetry, [1511], [ForecastConfig(context_len=512)], 200)[
        :, 0, 0
    ]
    theirs = forecast_of_the_package(module, telemetry[:, 1000:1512], 200)
    spread = telemetry[:, 1000:1512].std(axis=1)[:, None, None]
    assert (np.abs(ours - theirs) / spread).max() < 1e-4
