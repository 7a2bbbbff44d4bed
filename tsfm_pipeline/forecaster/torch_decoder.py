"""The decoder in torch's operators, for any device and any size, and for CPUs without the compiled
loops.

What belongs here: matrix products, attention, norms and activation in torch's operators. What does
not: the order of the calls (`model`), and the same computation in compiled loops
(`compiled_decoder`). Nothing in the loop over layers waits for the device, because the plan
contains all that the host must know (`benchmarks/gpu.py` traces that).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from tsfm_pipeline.forecaster.architecture import Architecture
from tsfm_pipeline.forecaster.model import FrozenDecoder, Layer, RestOfLayer, Windows, inverse_rms
from tsfm_pipeline.forecaster.plan import IntArray, runs


@dataclass(frozen=True, slots=True)
class DenseMatrix:
    """A matrix [N, K] in its own layout."""

    stored: torch.Tensor

    def times(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, n_outputs: int | None = None
    ) -> torch.Tensor:
        """As `model.Matrix`; the result has the type of x."""
        weight = self.stored[:n_outputs]
        if x.is_cpu and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            # On AMD processors this is 2.2 times as fast as torch's MKL.
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return F.linear(x, weight, bias)


class TorchDecoder(FrozenDecoder):
    """The decoder that runs torch's operators, on one device."""

    product = "torch"

    def __init__(
        self,
        architecture: Architecture,
        tensors: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """As `FrozenDecoder`; all of the layers' matrices are in `dtype`."""
        super().__init__(architecture, tensors, device, dtype, precise=dtype)

    def matrix(self, weight: torch.Tensor, dtype: torch.dtype) -> DenseMatrix:
        """Return the matrix on this device."""
        return DenseMatrix(weight.detach().to(device=self.device, dtype=dtype).contiguous())

    def rest_of_layer(self, windows: Windows, turns: torch.Tensor) -> RestOfLayer:
        """As `FrozenDecoder`, one operator after the other."""
        lengths, rows = np.diff(windows.tokens), windows.rows
        position = np.arange(windows.tokens[-1]) - np.repeat(windows.tokens[:-1], lengths)
        some = (
            None
            if np.array_equal(rows, np.arange(len(position)))
            else torch.from_numpy(rows).to(self.device)
        )
        return partial(
            self._rest_of_layer,
            turns=turns[torch.from_numpy(position).to(self.device)],
            rows=some,
            lengths=lengths,
        )

    def _rest_of_layer(
        self,
        x: torch.Tensor,
        normed: torch.Tensor,
        key_value: torch.Tensor,
        i: int,
        turns: torch.Tensor,
        rows: torch.Tensor | None,
        lengths: IntArray,
    ) -> torch.Tensor:
        """Compute the rest of layer i; turns [T, 2 * head dims] of every token; rows [N]: the
        tokens that are queries, or None for all.
        """
        layer: Layer = self._layers[i]
        read = _attend(
            layer.query.times(normed), key_value, layer.query_scale, turns, rows, lengths
        )
        normed = _add_normed(x, layer.attention_out.times(read), layer.after_attention)
        hidden = F.silu(layer.ff0.times(normed), inplace=True)
        return _add_normed(x, layer.ff1.times(hidden), layer.after_ff)


def _add_normed(x: torch.Tensor, change: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Add the RMS-normed change [T, M] times the scale [M] to x (float32 [T, M], in place); return
    x RMS-normed, in the change's type.
    """
    wide = change.float()
    x.addcmul_(wide * inverse_rms(wide), scale)
    return (x * inverse_rms(x)).to(change.dtype)


def _attend(
    query: torch.Tensor,
    key_value: torch.Tensor,
    scale: torch.Tensor,
    turns: torch.Tensor,
    rows: torch.Tensor | None,
    lengths: IntArray,
) -> torch.Tensor:
    """Return what queries [N, M] read from the tokens [T, 2 M] of their own windows, up to their
    own position: [N, M].
    """
    n_heads = query.shape[1] // len(scale)
    query = query.unflatten(1, (n_heads, -1))
    key, value = key_value.unflatten(1, (2, n_heads, -1)).unbind(1)
    if rows is not None:  # one query for every key, so that attention is plainly causal
        query = torch.zeros_like(key).index_put_((rows,), query)
    query, key, value = (
        part.to(value.dtype) for part in (_turned(query, turns) * scale, _turned(key, turns), value)
    )
    results, start = [], 0
    for first, end in runs(lengths):
        stop = start + (end - first) * lengths[first]
        q, k, v = (
            part[start:stop].unflatten(0, (end - first, -1)).transpose(1, 2)
            for part in (query, key, value)
        )
        results.append(
            F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            .transpose(1, 2)
            .flatten(2)
            .flatten(0, 1)
        )
        start = stop
    read = torch.cat(results)
    return read if rows is None else read[rows]


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Return queries or keys [T, heads, head dims], RMS-normed and rotated by turns [T, 2 * head
    dims], in float32.
    """
    own_factor, neighbour_factor = turns[:, None].chunk(2, dim=-1)
    x = x.float()
    neighbours = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * own_factor, neighbours, neighbour_factor).mul_(inverse_rms(x))
