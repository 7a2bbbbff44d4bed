"""What the last digits of a forecast depend on besides the checkpoint, the device and the batches:
how the decoder computes.

What belongs here: the name of a decoder and of the processor instructions that change its results.
What does not: the choice of a decoder (`decoders`), the numerics of a table as a whole
(`catalogue.shards`).

Measured by forecasting one grid with everything else equal: in float32 the compiled loops give the
same bytes with AVX2 and with AVX-512. In bfloat16 they multiply pairs where the processor has
AVX512_BF16, and give other bytes elsewhere. torch's operators give other bytes with other
instructions, of torch itself and in bfloat16 also of oneDNN. Where oneDNN multiplies for the loops,
its instructions decide.
"""

import os

import torch

from tsfm_pipeline.forecaster.decoders import Decoder
from tsfm_pipeline.forecaster.torch_decoder import TorchDecoder


def arithmetic(decoder: Decoder) -> str:
    """Return the name of a decoder's class, and in brackets the instructions that its last digits
    depend on, or the GPU.
    """
    name = type(decoder).__name__
    if decoder.device.type != "cpu":
        return f"{name} ({torch.cuda.get_device_name(decoder.device)})"
    if isinstance(decoder, TorchDecoder):
        return f"{name} ({_of_torch()})"
    if decoder.product == "onednn":
        return f"{name} ({_of_onednn()})"
    return f"{name} ({_of_the_loops()})" if decoder.dtype == torch.bfloat16 else name


def _of_the_loops() -> str:
    """Return whether the compiled loops multiply bfloat16 in pairs."""
    from tsfm_pipeline.forecaster import kernels

    own = "+avx512bf16" in kernels._FEATURES
    return "avx512_bf16" if own else "without avx512_bf16"


def _of_torch() -> str:
    """Return the instructions of torch's own operators, of which an environment variable may choose
    others than the processor's best, and those of oneDNN.
    """
    return f"torch {torch.backends.cpu.get_cpu_capability()}, {_of_onednn()}"


def _of_onednn() -> str:
    """Return the instructions of oneDNN: the processor's best, or what an environment variable
    limits them to.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
    return f"oneDNN {limit or _of_the_processor()}"


def _of_the_processor() -> str:
    """Return the instructions that oneDNN chooses by itself on this processor."""
    if torch.cpu._is_amx_tile_supported():
        return "amx"
    if torch.cpu._is_avx512_bf16_supported():
        return "avx512_bf16"
    return "avx512" if torch.cpu._is_avx512_supported() else "avx2"
