"""A device that this machine does not have: its tensors compute on the CPU, and refuse company.

What belongs here: a stand-in for a GPU, which finds tensors that were left on the CPU. What does
not: what is computed on it.

Its tensors say that their device is `meta`, but they have values. An operator that is given one of
them and a tensor of the CPU, other than a single number, raises; so does what would read values
without a copy to the CPU, as on a GPU.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tsfm_pipeline.studies.time_r1 import grip_loop, training

DEVICE = torch.device("meta")
COPIES = {"aten::to", "aten::_to_copy", "aten::copy_"}
CPU = torch.device("cpu")


class _Stub(Tensor):
    """A tensor of the device; `content` has its values."""

    content: Tensor

    @staticmethod
    def __new__(cls, content: Tensor) -> "_Stub":
        assert content.device.type == "cpu", "a tensor of the device without values"
        stub = Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=DEVICE,
        )
        stub.content = content.detach()
        return stub

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Makes tensors on the device where one is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


def _called(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.name().split(".")[0]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    stubs = [tensor for tensor in tensors if isinstance(tensor, _Stub)]
    others = [tensor for tensor in tensors if not isinstance(tensor, _Stub) and tensor.ndim]
    if stubs and others and name not in COPIES:
        raise RuntimeError(f"{name}: tensors of two devices, shapes {[t.shape for t in tensors]}")
    asked = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
    on_stub = asked[0] == DEVICE if asked else bool(stubs)
    args_there, kwargs_there = tree_map_only(torch.device, lambda _: CPU, (args, kwargs))
    plain_args, plain_kwargs = tree_map_only(
        _Stub, lambda stub: stub.content, (args_there, kwargs_there)
    )
    found = func(*plain_args, **plain_kwargs)
    if func._schema.is_mutable:
        # In place: what was changed is what is returned.
        return args[0] if isinstance(found, Tensor) else found
    return tree_map_only(Tensor, _Stub, found) if on_stub else found


class _Here:
    """An executor that does its work at once: the mode is that of one thread."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def submit(self, function: Any, *args: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(function(*args))
        return done

    map = staticmethod(map)


@contextmanager
def stub_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Let the device be there, under the name that is returned."""
    known = _foreach_utils._get_fused_kernels_supported_devices()
    for module in (sys.modules["torch.optim.optimizer"], sys.modules["torch.optim.adam"]):
        monkeypatch.setattr(
            module,
            "_get_fused_kernels_supported_devices",
            lambda: [*known, DEVICE.type],
            raising=False,
        )
    for loop in (grip_loop, training):
        monkeypatch.setattr(loop, "ThreadPoolExecutor", _Here)
    make = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        # `torch.tensor` does not ask the mode.
        made = make(data, **options)
        return made if device is None else made.to(device)

    monkeypatch.setattr(torch, "tensor", tensor)
    with _Mode():
        yield DEVICE
