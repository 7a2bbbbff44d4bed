"""Which decoder answers: the compiled loops on a CPU, torch's operators everywhere else.

Here: the protocol of a decoder, and the choice between the two with its reasons. Not here: how
either computes (`compiled_decoder`, `torch_decoder`).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Protocol

import torch

from tsfm_pipeline.forecaster.architecture import Architecture
from tsfm_pipeline.forecaster.model import Matrix
from tsfm_pipeline.forecaster.plan import IntArray
from tsfm_pipeline.forecaster.torch_decoder import TorchDecoder

log = logging.getLogger(__name__)


class Decoder(Protocol):
    """What the engine and the cost model ask of a decoder; `FrozenDecoder` describes the
    members.
    """

    @property
    def architecture(self) -> Architecture: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def parameters(self) -> Iterator[torch.Tensor]:
        """Every tensor of the decoder."""

    def matrix(self, weight: torch.Tensor, dtype: torch.dtype) -> Matrix:
        """A matrix [N, K] as this decoder's products take it."""

    def decode(
        self,
        groups: Sequence[tuple[torch.Tensor, torch.Tensor]],
        window: IntArray,
        token: IntArray,
        horizon: int,
    ) -> torch.Tensor:
        """Forecast after some patches of some windows."""


def frozen_decoder(
    architecture: Architecture,
    tensors: Mapping[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    use_kernels: bool = True,
) -> Decoder:
    """Return a decoder with these tensors: compiled loops on a CPU, unless they cannot be had or
    `use_kernels` is False; else torch.

    Where the loops cannot be had on a CPU (no numba, no folder for its cache, a processor or a size
    that they are not written for, an error of the compiler), the log says so once per process and
    reason.
    """
    if device.type != "cpu" or not use_kernels:
        return TorchDecoder(architecture, tensors, device, dtype)
    reason = _import_error()
    if reason is None:
        from tsfm_pipeline.forecaster.compiled_decoder import CompiledDecoder, LoopsUnavailable

        try:
            return CompiledDecoder(architecture, tensors, dtype)
        except LoopsUnavailable as error:
            reason = str(error)
    _say_once(reason)
    return TorchDecoder(architecture, tensors, device, dtype)


def loops_refused(architecture: Architecture) -> str | None:
    """Why the compiled loops cannot be had on a CPU for this model, or None, without compiling
    them.
    """
    if reason := _import_error():
        return reason
    from tsfm_pipeline.forecaster.compiled_decoder import sizes_refused

    return sizes_refused(architecture)


@cache
def _import_error() -> str | None:
    """Why the compiled decoder cannot be imported, or None; asked once, for a second try would find
    modules half imported.
    """
    try:
        import tsfm_pipeline.forecaster.compiled_decoder  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a shared library that cannot be loaded
        return f"{type(error).__name__}: {error}"
    return None


@cache
def _say_once(reason: str) -> None:
    log.warning(
        "torch's operators forecast in place of the compiled loops, in 1.5 to 2 times the time: %s",
        reason,
    )
