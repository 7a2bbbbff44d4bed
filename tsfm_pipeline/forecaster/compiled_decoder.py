"""The decoder that runs on the CPU in compiled loops (`kernels`).

What belongs here: packing matrices for these loops, passing tensors to them as arrays, and finding
oneDNN's products, which may multiply in their place. What does not: the loops (`kernels`), the
choice of a product (`products`), the order of the calls (`model`), and the same computation in
torch's operators (`torch_decoder`). Importing this module raises ImportError where the loops are
not available.
"""

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba.core.errors import NumbaError

from tsfm_pipeline.forecaster import kernels
from tsfm_pipeline.forecaster.architecture import INPUT_PATCH_LEN, Architecture
from tsfm_pipeline.forecaster.model import FrozenDecoder, RestOfLayer, Windows

OWN_LOOPS = kernels.Library(0, 0, 0)
"""No library: the loops multiply."""
_BRGEMM = "_ZN2at6native7cpublas6brgemmEllllllbPK{}Pfb"
"""`at::native::cpublas::brgemm` (ATen/native/CPUBlas.h) for factors of one type. The name contains
the types of all arguments, so a torch with another signature has another name.
"""
_TYPES = {torch.float32: "fS3_", torch.bfloat16: "N3c108BFloat16ES5_"}
_RELEASE = "_ZN2at6native7cpublas14brgemm_releaseEb"
_COULD_PACK = "_ZN2at6native7cpublas10could_packEN3c1010ScalarTypeE"
_SCALAR_TYPE_BFLOAT16 = 15
"""`c10::ScalarType::BFloat16` (torch/headeronly/core/ScalarType.h)."""


class LoopsUnavailable(RuntimeError):
    """The loops do not support a model of this size, did not compile, or could not be cached."""


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix [N, K] stored as panels of columns of its transpose, [N / 64, K, 64].

    In bfloat16 the panels are [N / 64, K / 2, 128]: two values of a row lie side by side, because
    processors multiply them in pairs. A processor with narrower registers has panels of 16 columns.
    oneDNN expects the same layout. `library` multiplies.

    A matrix in parts is three bfloat16 matrices side by side, [N / 64, 3 K / 2, 128]: its values in
    bfloat16, these again, and what they leave.
    """

    stored: torch.Tensor
    library: kernels.Library = OWN_LOOPS

    @classmethod
    def of(cls, weight: torch.Tensor, library: kernels.Library = OWN_LOOPS) -> "PackedMatrix":
        """Return a matrix [N, K], float32 or bfloat16, in packed form; N must fill whole panels."""
        n_each = 2 if weight.dtype == torch.bfloat16 else 1
        panels = weight.unflatten(0, (-1, kernels.PANEL)).unflatten(2, (-1, n_each))
        return cls(panels.transpose(1, 2).flatten(2).contiguous(), library)

    @classmethod
    def in_parts(cls, weight: torch.Tensor, library: kernels.Library) -> "PackedMatrix":
        """Return a float32 matrix [N, K] in parts, for a library that multiplies bfloat16.

        A product with it is off by at most 2e-5 of its summands' sizes, where one in bfloat16 is
        off by 8e-3, and on a processor with AMX it takes a third of the time of one in float32.
        """
        high = weight.bfloat16()
        parts = torch.cat([high, high, (weight - high.float()).bfloat16()], dim=1)
        return cls.of(parts, library)

    def times(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, n_outputs: int | None = None
    ) -> torch.Tensor:
        """As `model.Matrix`; x has the type of the matrix that was packed, and the result is always
        float32.
        """
        panels = self.stored if n_outputs is None else self.stored[: -(-n_outputs // kernels.PANEL)]
        out = torch.empty(x.shape[0], panels.shape[0] * kernels.PANEL)
        kernels.product(as_array(x), as_array(panels), as_array(out), self.library)
        out = out[:, :n_outputs]
        return out if bias is None else out.add_(bias)


class CompiledDecoder(FrozenDecoder):
    """The decoder that runs in compiled loops, on the CPU."""

    def __init__(
        self,
        architecture: Architecture,
        tensors: Mapping[str, torch.Tensor],
        dtype: torch.dtype,
        product: str = "loops",
    ) -> None:
        """As `FrozenDecoder`; also compile what is not yet compiled.

        product: what multiplies (`products.PRODUCTS`); with `float32` every matrix is in float32,
        whatever `dtype` is.

        Products are summed in float32. Attention's output projection and the last feed-forward
        block are in float32 too: they take a tenth of the time, and in bfloat16 they would cause a
        third of the remaining error. The sizes must fit (`sizes_refused`). Raises
        `LoopsUnavailable`, and ValueError for a product that is not available.
        """
        self.product = product
        if product == "float32":
            dtype = torch.float32
        self._library = library_of(product, dtype)
        super().__init__(architecture, tensors, torch.device("cpu"), dtype, precise=torch.float32)
        self._arrays = [kernels.Weights(*map(_weight, layer)) for layer in self._layers]
        first = np.zeros(1, dtype=np.int64)
        with compiling():  # one token runs every loop with every type that a forecast uses
            self.decode(
                [(torch.zeros(1, INPUT_PATCH_LEN), torch.zeros(1, dtype=torch.int64))],
                first,
                first,
                horizon=1,
            )

    def matrix(self, weight: torch.Tensor, dtype: torch.dtype) -> PackedMatrix:
        """Return the matrix in panels."""
        packed = weight.detach().to(device=self.device, dtype=dtype)
        return PackedMatrix.of(packed, self._library)

    def precise_matrix(self, weight: torch.Tensor, dtype: torch.dtype) -> PackedMatrix:
        """Return the matrix in parts where oneDNN multiplies bfloat16, otherwise in panels."""
        if not self._library.bfloat16:
            return self.matrix(weight, dtype)
        return PackedMatrix.in_parts(weight.detach().float(), self._library)

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
            self._library,
        )
        return out


def library_of(product: str, dtype: torch.dtype) -> kernels.Library:
    """Return the functions that a product consists of; raises ValueError if this torch or processor
    does not have them.
    """
    if product != "onednn":
        return OWN_LOOPS
    library = onednn(dtype)
    if library is None:
        raise ValueError(f"oneDNN has no product for {dtype} on this machine")
    return library


@cache
def onednn(dtype: torch.dtype) -> kernels.Library | None:
    """Return oneDNN's products of small blocks, as this torch exports them; None if it does not, or
    if they bring nothing.

    They compute as the loops do: factors of one type in, sums in float32 out. torch's own operators
    round the results to bfloat16, which costs more accuracy than a forecast may lose. In bfloat16
    they are used where torch says that it packs factors in pairs, that is on processors with AMX.
    """
    torch_cpu = _torch_cpu()
    name = _BRGEMM.format(_TYPES[dtype])
    if torch_cpu is None or not all(hasattr(torch_cpu, each) for each in (name, _RELEASE)):
        return None
    address = _address(torch_cpu, name)
    if dtype == torch.float32:
        usable = torch.backends.mkldnn.is_available()
        return kernels.Library(address, 0, 0) if usable else None
    could_pack = getattr(torch_cpu, _COULD_PACK, None)
    if could_pack is None:
        return None
    could_pack.argtypes, could_pack.restype = [ctypes.c_int8], ctypes.c_bool
    if not could_pack(_SCALAR_TYPE_BFLOAT16):
        return None
    return kernels.Library(0, address, _address(torch_cpu, _RELEASE))


def _torch_cpu() -> ctypes.CDLL | None:
    """Return torch's library for the CPU; None where it has another name or cannot be opened."""
    try:
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    except OSError:
        return None


def _address(library: ctypes.CDLL, name: str) -> int:
    return int(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)


@contextmanager
def compiling() -> Iterator[None]:
    """Turn what numba raises into `LoopsUnavailable`."""
    try:
        yield
    except (NumbaError, OSError, RuntimeError) as error:
        raise LoopsUnavailable(f"{type(error).__name__}: {error}") from error


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
    source = Path(loops.py_func.__code__.co_filename)
    written = source.stat().st_mtime
    found = folder.glob(f"{source.stem}.{loops.py_func.__name__}-*.nbi")
    return folder, any(path.stat().st_mtime >= written for path in found)


def as_array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """Return an array that shares the tensor's memory; bfloat16 appears as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _weight(part: object) -> npt.NDArray[np.generic]:
    """Return a matrix's panels, or a vector as a single row."""
    return as_array(part[None] if isinstance(part, torch.Tensor) else part.stored)  # type: ignore[attr-defined]
