"""The decoder that runs on the CPU in compiled loops (`kernels`).

What belongs here: packing matrices for these loops, and passing tensors to them as arrays. What
does not: the loops (`kernels`), the order of the calls (`model`), and the same computation in
torch's operators (`torch_decoder`). Importing this module raises ImportError where the loops are
not available.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba.core.errors import NumbaError

from tsfm_pipeline.forecaster import kernels
from tsfm_pipeline.forecaster.architecture import INPUT_PATCH_LEN, Architecture
from tsfm_pipeline.forecaster.model import FrozenDecoder, RestOfLayer, Windows


class LoopsUnavailable(RuntimeError):
    """The loops do not support a model of this size, did not compile, or could not be cached."""


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix [N, K] stored as panels of columns of its transpose, [N / 64, K, 64].

    In bfloat16 the panels are [N / 64, K / 2, 128]: two values of a row lie side by side, because
    processors multiply them in pairs. A processor with narrower registers has panels of 16 columns.
    """

    stored: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> "PackedMatrix":
        """Return a matrix [N, K], float32 or bfloat16, in packed form; N must fill whole panels."""
        n_each = 2 if weight.dtype == torch.bfloat16 else 1
        panels = weight.unflatten(0, (-1, kernels.PANEL)).unflatten(2, (-1, n_each))
        return cls(panels.transpose(1, 2).flatten(2).contiguous())

    def times(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, n_outputs: int | None = None
    ) -> torch.Tensor:
        """As `model.Matrix`; x has the matrix's type, and the result is always float32."""
        panels = self.stored if n_outputs is None else self.stored[: -(-n_outputs // kernels.PANEL)]
        out = torch.empty(x.shape[0], panels.shape[0] * kernels.PANEL)
        kernels.product(as_array(x), as_array(panels), as_array(out))
        out = out[:, :n_outputs]
        return out if bias is None else out.add_(bias)


class CompiledDecoder(FrozenDecoder):
    """The decoder that runs in compiled loops, on the CPU."""

    def __init__(
        self, architecture: Architecture, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> None:
        """As `FrozenDecoder`; also compile what is not yet compiled.

        Products are summed in float32. Attention's output projection and the last feed-forward
        block are in float32 too: they take a tenth of the time, and in bfloat16 they would cause a
        third of the remaining error. Raises `LoopsUnavailable`.
        """
        if reason := sizes_refused(architecture):
            raise LoopsUnavailable(reason)
        super().__init__(architecture, tensors, torch.device("cpu"), dtype, precise=torch.float32)
        self._arrays = [kernels.Weights(*map(_weight, layer)) for layer in self._layers]
        first = np.zeros(1, dtype=np.int64)
        try:  # decoding one token runs every loop with every type that a forecast uses
            self.decode(
                [(torch.zeros(1, INPUT_PATCH_LEN), torch.zeros(1, dtype=torch.int64))],
                first,
                first,
                horizon=1,
            )
        except (NumbaError, OSError, RuntimeError) as error:
            raise LoopsUnavailable(f"{type(error).__name__}: {error}") from error

    def matrix(self, weight: torch.Tensor, dtype: torch.dtype) -> PackedMatrix:
        """Return the matrix in panels."""
        return PackedMatrix.of(weight.detach().to(device=self.device, dtype=dtype))

    def rest_of_layer(self, windows: Windows, turns: torch.Tensor) -> RestOfLayer:
        """As `FrozenDecoder`, in one call per layer."""
        return partial(self._rest_of_layer, turns=as_array(turns), windows=windows)

    def _rest_of_layer(
        self,
        x: torch.Tensor,
        normed: torch.Tensor,
        key_value: torch.Tensor,
        i: int,
        turns: npt.NDArray[np.generic],
        windows: Windows,
    ) -> torch.Tensor:
        out = torch.empty(x.shape, dtype=normed.dtype)
        kernels.layer(
            as_array(x),
            as_array(normed),
            as_array(key_value),
            self._arrays[i],
            turns,
            *windows,
            as_array(out),
        )
        return out


def sizes_refused(architecture: Architecture) -> str | None:
    """Return why the loops do not fit a model's sizes, or None if they do."""
    if kernels.fit(architecture.head_dims, architecture.model_dims, architecture.ff_dims):
        return None
    return (
        f"the model has heads of {architecture.head_dims} dims, model dims "
        f"{architecture.model_dims} and feed-forward dims {architecture.ff_dims}; the "
        f"compiled loops need heads in multiples of {kernels.LANES} and the others in "
        f"multiples of {kernels.PANEL}"
    )


def compiled_cache() -> tuple[Path, bool]:
    """Return the folder into which the loops are compiled, and whether it already holds them."""
    loops: Any = kernels.layer
    folder = Path(loops.stats.cache_path)
    written = Path(kernels.__file__).stat().st_mtime
    found = folder.glob(f"{Path(kernels.__file__).stem}.{loops.py_func.__name__}-*.nbi")
    return folder, any(path.stat().st_mtime >= written for path in found)


def as_array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """Return an array that shares the tensor's memory; bfloat16 appears as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _weight(part: object) -> npt.NDArray[np.generic]:
    """Return a matrix's panels, or a vector as a single row."""
    return as_array(part[None] if isinstance(part, torch.Tensor) else part.stored)  # type: ignore[attr-defined]
