"""The compiled loops of the CPU compute what torch's operators compute, on windows of any lengths."""

from pathlib import Path

import numba.core.caching
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tsfm_pipeline.forecaster import ForecastConfig, kernels, load_forecaster
from tsfm_pipeline.forecaster.architecture import Architecture
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.kernels import Windows
from tsfm_pipeline_tests.forecaster.conftest import forecast_of_the_package, random_module, save_checkpoint

N_HEADS = 2
LENGTHS = (1, 2, 3, 4, 5, 15, 16, 17, 40, 131)
HALF_OF_BFLOAT16 = 2**-8
"""Half of the distance between neighbours, relative."""


def everything(lengths: tuple[int, ...]) -> Windows:
    """Windows of these lengths, every token of which is a query."""
    bounds = np.cumsum([0, *lengths])
    return Windows(bounds, bounds, np.concatenate([np.arange(n) for n in lengths]))


def turns_of(n_tokens: int, dims: int) -> torch.Tensor:
    """Rotations by angles that differ from token to token."""
    angle = torch.arange(n_tokens)[:, None] / 10 ** torch.linspace(0, 2, dims // 2)
    sines = torch.stack([-angle.sin(), angle.sin()], dim=-1).flatten(1)
    return torch.cat([angle.cos().repeat_interleave(2, dim=1), sines], dim=1)


def expected(qkv: torch.Tensor, dims: int, scale: torch.Tensor, turns: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    """Attention window by window in float64: [T, heads * dims]."""
    read = []
    for window in qkv.double().split(lengths):
        query, key, value = window.unflatten(1, (3, N_HEADS, dims)).permute(1, 2, 0, 3)
        own, others = turns[: len(window)].double().chunk(2, dim=1)
        query, key = (F.rms_norm(x * own + x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * others, (dims,), eps=1e-6) for x in (query, key))
        products = (query * scale.double()) @ key.transpose(1, 2)
        later = torch.ones(len(window), len(window), dtype=torch.bool).triu(1)
        read.append((products.masked_fill(later, -torch.inf).softmax(-1) @ value).transpose(0, 1).flatten(1))
    return torch.cat(read)


@pytest.mark.parametrize("dims", [16, 64, 80])
@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1]])
def test_attention_keeps_windows_of_any_lengths_apart(dims: int, lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    qkv, scale, turns = torch.randn(sum(lengths), 3 * N_HEADS * dims), torch.rand(dims) / 4, turns_of(max(lengths), dims)
    ours = kernels.attend(qkv, qkv, N_HEADS, scale, turns, everything(lengths))
    torch.testing.assert_close(ours.double(), expected(qkv, dims, scale, turns, lengths), atol=5e-6, rtol=0)


def test_some_queries_read_what_all_of_them_read() -> None:
    torch.manual_seed(0)
    dims, windows = 32, everything(LENGTHS)
    qkv, scale, turns = torch.randn(sum(LENGTHS), 3 * N_HEADS * dims), torch.rand(dims) / 4, turns_of(max(LENGTHS), dims)
    every = kernels.attend(qkv, qkv, N_HEADS, scale, turns, windows)
    window = np.array([0, 3, 3, 3, 3, 3, 8, 9, 9])
    position = np.array([0, 3, 0, 2, 1, 3, 20, 130, 7])
    rows = windows.tokens[window] + position
    some = Windows(windows.tokens, np.searchsorted(window, np.arange(len(LENGTHS) + 1)), position)
    of_last_layer = kernels.attend(
        qkv[rows, : N_HEADS * dims].contiguous(), qkv[:, N_HEADS * dims :].contiguous(), N_HEADS, scale, turns, some
    )
    torch.testing.assert_close(of_last_layer, every[rows], atol=1e-6, rtol=0)


def test_large_products_do_not_overflow() -> None:
    torch.manual_seed(0)
    dims, lengths = 16, (20, 3)
    qkv, scale, turns = torch.randn(sum(lengths), 3 * N_HEADS * dims), torch.full((dims,), 50.0), turns_of(20, dims)
    ours = kernels.attend(qkv, qkv, N_HEADS, scale, turns, everything(lengths))
    torch.testing.assert_close(ours.double(), expected(qkv, dims, scale, turns, lengths), atol=1e-3, rtol=0)


def test_what_is_wrong_with_one_window_stays_there() -> None:
    torch.manual_seed(0)
    dims, lengths = 16, (5, 30, 2, 7)
    qkv, scale, turns = torch.randn(sum(lengths), 3 * N_HEADS * dims), torch.rand(dims), turns_of(30, dims)
    clean = kernels.attend(qkv, qkv, N_HEADS, scale, turns, everything(lengths))
    qkv[5:35] = torch.nan
    spoilt = kernels.attend(qkv, qkv, N_HEADS, scale, turns, everything(lengths))
    assert spoilt[5:35].isnan().all()
    torch.testing.assert_close(torch.cat([spoilt[:5], spoilt[35:]]), torch.cat([clean[:5], clean[35:]]), atol=0, rtol=0)


def test_norms_and_activation_are_those_of_torch() -> None:
    torch.manual_seed(0)
    x, change, scale = torch.randn(7, 48) * 3, torch.randn(7, 48), torch.randn(48)
    sums = x.double() + F.rms_norm(change.double(), (48,), eps=1e-6) * scale
    normed = kernels.add_normed(x, change, scale)
    torch.testing.assert_close(x.double(), sums, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(normed.double(), F.rms_norm(sums, (48,), eps=1e-6), atol=1e-6, rtol=1e-6)
    values = torch.cat([torch.linspace(-200, 200, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e30, 1e30])])[: 4000 // 16 * 16].view(-1, 16)
    torch.testing.assert_close(kernels.silu(values.clone()).double(), F.silu(values.double()), atol=1e-7, rtol=1e-6)


def test_without_a_folder_for_the_cache_every_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):
        doubled = kernels._compiled(lambda x: 2 * x)
    assert doubled(3) == 6


def test_bfloat16_is_rounded_once() -> None:
    torch.manual_seed(0)
    dims, windows = 64, everything(LENGTHS)
    qkv = torch.randn(sum(LENGTHS), 3 * N_HEADS * dims).bfloat16()
    scale, turns = torch.rand(dims) / 4, turns_of(max(LENGTHS), dims)
    rounded = kernels.attend(qkv, qkv, N_HEADS, scale, turns, windows)
    exact = kernels.attend(qkv.float(), qkv.float(), N_HEADS, scale, turns, windows)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, exact.bfloat16(), atol=1e-6, rtol=2 * HALF_OF_BFLOAT16)
    x = torch.randn(5, 32)
    change, scale = torch.randn(5, 32).bfloat16(), torch.randn(32)
    other = x.clone()
    assert (kernels.add_normed(x, change, scale) == kernels.add_normed(other, change.float(), scale).bfloat16()).all()
    assert (x == other).all()
    assert (kernels.silu(change.clone()) == kernels.silu(change.float()).bfloat16()).all()


@pytest.mark.parametrize(("dtype", "horizon", "tolerance"), [("float32", 60, 2e-5), ("float32", 256, 1e-4), ("bfloat16", 60, 0.2)])
def test_a_decoder_of_these_loops_is_one_of_torchs_operators(
    tmp_path: Path, telemetry: np.ndarray, dtype: str, horizon: int, tolerance: float
) -> None:
    """As on another device: there, and where a size fills no whole vectors, every operation is torch's."""
    directory = save_checkpoint(tmp_path / "small", random_module())
    compiled, plain = (load_forecaster(directory, device="cpu", dtype=dtype) for _ in range(2))
    plain.decoder.use_kernels = False
    configs = [ForecastConfig(context_len=n) for n in (40, 512, 1000)]
    ours, theirs = (model.forecast_offsets(telemetry, [1900, 2100], (0, 32, 64, 100), configs, horizon) for model in (compiled, plain))
    spread = telemetry[:, 1100:2101].std(axis=1)[:, None, None, None, None]
    assert (np.abs(ours - theirs) / spread).max() < tolerance


def test_every_patch_may_be_asked_for_in_any_order(forecaster: FrozenForecaster, checkpoint_directory: Path) -> None:
    torch.manual_seed(0)
    plain = load_forecaster(checkpoint_directory, device="cpu")
    plain.decoder.use_kernels = False
    groups = [(torch.randn(2, 3 * 32), torch.zeros(2, dtype=torch.int64))]
    window, ascending = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    in_order = forecaster.decoder.decode(groups, window, ascending, 60)
    for model in (forecaster, plain):
        backwards = model.decoder.decode(groups, window, np.tile([2, 1, 0], 2), 60)
        torch.testing.assert_close(backwards, in_order[[2, 1, 0, 5, 4, 3]], atol=1e-5, rtol=0)


def test_sizes_that_fill_no_whole_vectors_equal_the_package(tmp_path: Path, telemetry: np.ndarray) -> None:
    architecture = Architecture(model_dims=40, ff_dims=56, num_layers=2, num_heads=2, output_quantile_len=128, context_limit=4096)
    module = random_module(architecture)
    forecaster = load_forecaster(save_checkpoint(tmp_path / "odd", module, architecture), device="cpu")
    assert not forecaster.decoder.use_kernels
    ours = forecaster.forecast_grid(telemetry, [1511], [ForecastConfig(context_len=512)], 200)[:, 0, 0]
    theirs = forecast_of_the_package(module, telemetry[:, 1000:1512], 200)
    spread = telemetry[:, 1000:1512].std(axis=1)[:, None, None]
    assert (np.abs(ours - theirs) / spread).max() < 1e-4
