"""The choice of a decoder: compiled loops on a CPU, torch's operators everywhere else.

What belongs here: the protocol of a decoder, the choice between the two, and the reasons for it.
What does not: how either one computes (`compiled_decoder`, `torch_decoder`), and what multiplies in
the compiled loops (`products`).
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
    """What the engine and the cost model need from a decoder; `FrozenDecoder` describes the
    members.
    """

    @property
    def architecture(self) -> Architecture: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def product(self) -> str:
        """What multiplies: one of `products.PRODUCTS`, or `torch`."""

    def parameters(self) -> Iterator[torch.Tensor]:
        """Yield every tensor of the decoder."""

    def matrix(self, weight: torch.Tensor, dtype: torch.dtype) -> Matrix:
        """Return a matrix [N, K] in the layout that this decoder's products read."""

    def decode(
        self,
        groups: Sequence[tuple[torch.Tensor, torch.Tensor]],
        window: IntArray,
        token: IntArray,
        horizon: int,
    ) -> torch.Tensor:
        """Forecast after the given patches of the given windows."""


def frozen_decoder(
    architecture: Architecture,
    tensors: Mapping[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    use_kernels: bool = True,
    product: str = "loops",
) -> Decoder:
    """Return a decoder with these tensors: compiled loops on a CPU if they are available and
    `use_kernels` is True, otherwise torch.

    product: what multiplies in the compiled loops: `auto` or one of `products.PRODUCTS`. It does
    not matter where torch computes. Raises ValueError for a product that this machine or dtype does
    not have.

    The loops may be unavailable on a CPU: numba is missing, its cache has no writable folder, the
    loops do not support the processor or the model's size, or compiling fails. The log then gives
    each reason once per process.
    """
    if device.type != "cpu" or not use_kernels:
        return TorchDecoder(architecture, tensors, device, dtype)
    reason = _import_error()
    if reason is None:
        from tsfm_pipeline.forecaster.compiled_decoder import (
            CompiledDecoder,
            LoopsUnavailable,
            sizes_refused,
        )
        from tsfm_pipeline.forecaster.products import product_for

        try:
            if refused := sizes_refused(architecture):
                raise LoopsUnavailable(refused)
            choice = product_for(architecture, dtype, product)
            return CompiledDecoder(architecture, tensors, dtype, choice.product)
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
    """Return why the compiled decoder cannot be imported, or None.

    The answer is cached, because a second try would find half-imported modules.
    """
    try:
        import tsfm_pipeline.forecaster.compiled_decoder  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a shared library that cannot be loaded
        return f"{type(error).__name__}: {error}"
    return None


@cache
def _say_once(reason: str) -> None:
    log.warning(
        "the compiled loops are not available; torch's operators take 1.5 to 2 times as long: %s",
        reason,
    )
