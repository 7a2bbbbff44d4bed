"""Test that decoders whose last digits differ are named differently."""

from pathlib import Path

import pytest
import torch

from tsfm_pipeline.forecaster import kernels
from tsfm_pipeline.forecaster.arithmetic import arithmetic
from tsfm_pipeline.forecaster.compiled_decoder import onednn
from tsfm_pipeline.forecaster.decoders import Decoder
from tsfm_pipeline.forecaster.engine import load_forecaster


def named(checkpoint: Path, dtype: str, *, loops: bool) -> str:
    forecaster = load_forecaster(
        checkpoint, "cpu", dtype, use_kernels=loops, matrix_product="loops"
    )
    return arithmetic(forecaster.decoder)


def in_bfloat16(checkpoint: Path, product: str) -> Decoder:
    return load_forecaster(checkpoint, "cpu", "bfloat16", matrix_product=product).decoder


def test_the_loops_in_float32_do_not_depend_on_the_processor(
    checkpoint_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = named(checkpoint_directory, "float32", loops=True)
    monkeypatch.setattr(kernels, "_FEATURES", ["+avx2", "+fma"])
    assert named(checkpoint_directory, "float32", loops=True) == before == "CompiledDecoder"


@pytest.mark.heavy
def test_the_loops_in_bfloat16_depend_on_whether_the_processor_multiplies_pairs(
    checkpoint_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = in_bfloat16(checkpoint_directory, "loops")
    for features, instructions in (
        (["+avx512f", "+avx512bf16"], "avx512_bf16"),
        (["+avx512f", "-avx512bf16"], "without avx512_bf16"),
        (["+avx2", "+fma"], "without avx512_bf16"),
    ):
        monkeypatch.setattr(kernels, "_FEATURES", features)
        assert arithmetic(decoder) == f"CompiledDecoder ({instructions})"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_s_operators_depend_on_the_instructions_of_torch_and_of_onednn(
    checkpoint_directory: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    decoder = load_forecaster(checkpoint_directory, "cpu", dtype, use_kernels=False).decoder
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert arithmetic(decoder) == "TorchDecoder (torch AVX512, oneDNN avx512_bf16)"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert arithmetic(decoder) == "TorchDecoder (torch AVX512, oneDNN amx)"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert arithmetic(decoder) == "TorchDecoder (torch AVX2, oneDNN AVX2)"


@pytest.mark.heavy
@pytest.mark.skipif(onednn(torch.bfloat16) is None, reason="torch has no oneDNN here")
def test_onednn_in_the_loops_depends_on_its_instructions(
    checkpoint_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = in_bfloat16(checkpoint_directory, "onednn")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert arithmetic(decoder) == "CompiledDecoder (oneDNN AVX512_CORE_BF16)"
