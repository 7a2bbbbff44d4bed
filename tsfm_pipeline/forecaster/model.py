"""The frozen decoder: the TimesFM-2.5 architecture for inference only, as far as both
implementations share it.

What belongs here: the protocol of a matrix, weights folded for speed, one forward pass, and the
autoregressive decode. What does not: matrix products and the operations between them
(`torch_decoder`, `compiled_decoder`), the choice between the two (`decoders`), the package's module
(`architecture` builds it), checkpoints (`registry`), windows and batches (`plan`, `engine`).

The package's forward pass computes much that a forecast does not need. This decoder gives the same
result (`tsfm_pipeline_tests/forecaster/test_equality.py`) with less work. Windows of different
lengths go through every matrix product side by side, and attention separates them, so no mask is
materialised and nothing is padded. The heads, and all of the last layer except its keys and values,
run only at the requested patches. Keys and values are kept only if a decode step will read them.
The continuous quantile head is not used. Rotation leaves the query and key norms unchanged, so it
may come before or after them. The dimensions that rotate together are stored as neighbours. A
query-key product needs one scale instead of two.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from tsfm_pipeline.forecaster.architecture import (
    INPUT_PATCH_LEN,
    N_OUTPUT_COLUMNS,
    OUTPUT_PATCH_LEN,
    Architecture,
)
from tsfm_pipeline.forecaster.config import MEDIAN_COLUMN
from tsfm_pipeline.forecaster.normalisation import RunningStatistics, normalise, normalise_more
from tsfm_pipeline.forecaster.plan import IntArray

MAX_TIMESCALE = 10_000.0
NORM_EPSILON = 1e-6


class Matrix(Protocol):
    """A matrix [N, K] in the layout that one decoder's products read."""

    @property
    def stored(self) -> torch.Tensor:
        """The values in that layout."""

    def times(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, n_outputs: int | None = None
    ) -> torch.Tensor:
        """Return x [T, K] times the transpose of the matrix, plus a bias [N]; only the first
        `n_outputs` of the N columns, if given.
        """


class ResidualBlock(NamedTuple):
    """Weights of `output(silu(hidden(x))) + residual(x)`; biases may be absent."""

    hidden: Matrix
    hidden_bias: torch.Tensor | None
    output: Matrix
    output_bias: torch.Tensor | None
    residual: Matrix
    residual_bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, n_outputs: int | None = None) -> torch.Tensor:
        """Apply the block to x [..., I]; return only the first `n_outputs` outputs, if given."""
        hidden = F.silu(self.hidden.times(x, self.hidden_bias), inplace=True)
        output = self.output.times(hidden, self.output_bias, n_outputs)
        return output.add_(self.residual.times(x, self.residual_bias, n_outputs))


class Layer(NamedTuple):
    """Weights of one transformer layer.

    `query_scale` is the product of the scales of the query norm and the key norm and the
    per-dimension scale. The scales of the norms before attention and feed-forward are multiplied
    into `query`, `key_value` and `ff0`.
    """

    query: Matrix
    key_value: Matrix
    query_scale: torch.Tensor
    attention_out: Matrix
    after_attention: torch.Tensor
    ff0: Matrix
    ff1: Matrix
    after_ff: torch.Tensor


class Windows(NamedTuple):
    """W windows side by side: the bounds of each window's tokens and of its queries [W + 1], and
    each query's position in its window [N].
    """

    tokens: IntArray
    queries: IntArray
    position: IntArray

    @property
    def rows(self) -> IntArray:
        """The index of each query among the windows' tokens [N]."""
        return np.repeat(self.tokens[:-1], np.diff(self.queries)) + self.position


RestOfLayer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""What `FrozenDecoder.rest_of_layer` returns."""


class FrozenDecoder(ABC):
    """A decoder for inference only: its tensors never require grad. Subclasses implement the
    computation.
    """

    def __init__(
        self,
        architecture: Architecture,
        tensors: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
        precise: torch.dtype,
    ) -> None:
        """Store the package's named tensors: the layers' matrices in `dtype`, and norms, residual
        stream, tokenizer and head in float32.

        Tokenizer and head take a few percent of the time, and in bfloat16 they would cause half of
        the error. precise: the type of attention's output projection and of the last feed-forward
        block.
        """
        self.architecture = architecture
        self.device = device
        self.dtype = dtype
        self._tokenizer = self._block(tensors, "tokenizer")
        self._head = self._block(tensors, "output_projection_point")
        self._layers = [self._layer(tensors, i, precise) for i in range(architecture.num_layers)]
        self._turns = torch.empty(0, device=device)

    @abstractmethod
    def matrix(self, weight: torch.Tensor, dtype: torch.dtype) -> Matrix:
        """Return a matrix [N, K] in the layout that this decoder's products read."""

    def precise_matrix(self, weight: torch.Tensor, dtype: torch.dtype) -> Matrix:
        """Return a matrix [N, K], by default as `matrix` does, whose factors are float32 and whose
        products must be more precise than bfloat16.
        """
        return self.matrix(weight, dtype)

    @abstractmethod
    def rest_of_layer(self, windows: Windows, turns: torch.Tensor) -> RestOfLayer:
        """Return a function that computes the rest of a transformer layer, after its keys and
        values, for the N queries of these windows of T tokens.

        turns: float32 [tokens of the longest window or more, 2 D], the rotary position embedding:
        the factor of each dimension of a head, then the factor of its neighbour (1, 0, 3, 2, ...),
        whose product is added.

        The function takes x, float32 [N, M], the residual stream, which it updates in place; normed
        [N, M], x RMS-normed, in the type of the matrices; key_value [T, 2 M], the unchanged result
        of its product (keys not yet normed and rotated, heads side by side); and the number of the
        layer. It returns x RMS-normed.
        """

    def parameters(self) -> Iterator[torch.Tensor]:
        """Yield every tensor of the decoder."""
        for block in (self._tokenizer, self._head, *self._layers):
            for part in block:
                if part is not None:
                    yield part if isinstance(part, torch.Tensor) else part.stored

    @torch.inference_mode()
    def decode(
        self,
        groups: Sequence[tuple[torch.Tensor, torch.Tensor]],
        window: IntArray,
        token: IntArray,
        horizon: int,
    ) -> torch.Tensor:
        """Forecast `horizon` points after M patches of the windows, each as the package's `decode`
        does for the window cut there.

        groups: windows of equal length [B, P * 32], with the number of padding points at the start
        of each [B], fewer than 32. The caller centres windows whose level is far from 0. window,
        token: int64 [M], the window (counted through the groups, ascending) and the patch after
        which to forecast. Returns float64 [M, horizon, 10]: mean, then deciles, in the units of the
        windows, not yet ordered. Beyond 128 points the median is fed back; this needs a single
        group with one forecast at the end of every window.
        """
        tokens, parts, lengths = [], [], []
        for values, n_padding in groups:
            normed, part = normalise(values.double().unflatten(1, (-1, INPUT_PATCH_LEN)), n_padding)
            padding = torch.zeros_like(normed, dtype=torch.float32)
            padding[:, 0] = (
                torch.arange(INPUT_PATCH_LEN, device=self.device) < n_padding[:, None]
            ).float()
            tokens.append(torch.cat([normed.float(), padding], dim=-1).flatten(0, 1))
            parts.append(part)
            lengths += [normed.shape[1]] * len(normed)
        bounds = np.cumsum([0, *lengths])
        everywhere = Windows(
            bounds, bounds, np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
        )
        requested = Windows(
            bounds, np.searchsorted(window, np.arange(len(bounds))), np.ascontiguousarray(token)
        )
        rows = torch.from_numpy(requested.rows).to(self.device)
        statistics = RunningStatistics.concatenated(parts).at(rows)
        kept: list[torch.Tensor] | None = [] if horizon > OUTPUT_PATCH_LEN else None
        embedding = self._forward(torch.cat(tokens), everywhere, requested, rows, kept)
        outputs = [statistics.denormalise(self._heads(embedding, min(horizon, OUTPUT_PATCH_LEN)))]
        for done in range(OUTPUT_PATCH_LEN, horizon, OUTPUT_PATCH_LEN):
            normed, running = normalise_more(
                statistics, outputs[-1][..., MEDIAN_COLUMN].unflatten(1, (-1, INPUT_PATCH_LEN))
            )
            n_windows, n_new, _ = normed.shape
            last = torch.arange(1, n_windows + 1, device=self.device) * n_new - 1
            statistics = RunningStatistics.concatenated([running]).at(last)
            n_before, each = lengths[0] + done // INPUT_PATCH_LEN - n_new, np.arange(n_windows + 1)
            bounds = each * (n_before + n_new)
            new = Windows(bounds, each * n_new, np.tile(n_before + np.arange(n_new), n_windows))
            ends = Windows(bounds, each, np.full(n_windows, n_before + n_new - 1))
            more = torch.cat([normed, torch.zeros_like(normed)], dim=-1).float().flatten(0, 1)
            embedding = self._forward(more, new, ends, last, kept)
            outputs.append(
                statistics.denormalise(
                    self._heads(embedding, min(horizon - done, OUTPUT_PATCH_LEN))
                )
            )
        return torch.cat(outputs, dim=1)

    def _forward(
        self,
        tokens: torch.Tensor,
        windows: Windows,
        requested: Windows,
        rows: torch.Tensor,
        kept: list[torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return the output embeddings [M, model dims] of the requested ones among the tokens [T,
        64] of some windows.

        windows: every token is a query. requested: only the tokens rows [M] are queries. `kept`, if
        not None, holds every layer's keys and values [B, tokens, 2 * model dims] of the earlier
        tokens, for windows of equal length, and is updated.
        """
        turns = self._turns_up_to(int(np.diff(windows.tokens).max()))
        of_all = self.rest_of_layer(windows, turns)
        of_requested = self.rest_of_layer(requested, turns)
        x = self._tokenizer(tokens)
        normed = (x * inverse_rms(x)).to(self.dtype)
        for i, layer in enumerate(self._layers):
            key_value = layer.key_value.times(normed)
            if kept is not None:
                new = key_value.unflatten(0, (len(windows.tokens) - 1, -1))
                if i < len(kept):
                    kept[i] = torch.cat([kept[i], new], dim=1)
                else:
                    kept.append(new)
                key_value = kept[i].flatten(0, 1)
            if i < len(self._layers) - 1:
                normed = of_all(x, normed, key_value, i)
            else:
                x = x[rows]
                of_requested(x, normed[rows], key_value, i)
        return x

    def _heads(self, embedding: torch.Tensor, n_points: int) -> torch.Tensor:
        """Return the normalised outputs [B, n_points, 10] of output embeddings [B, M]."""
        outputs = self._head(embedding, n_outputs=n_points * N_OUTPUT_COLUMNS)
        return outputs.unflatten(1, (n_points, N_OUTPUT_COLUMNS))

    def _turns_up_to(self, n_tokens: int) -> torch.Tensor:
        """Return the rotary position embedding, float32 [>= n_tokens, 2 * head dims]: every
        dimension's factor, then its neighbour's. The embedding is cached and recomputed for longer
        windows.
        """
        turns = self._turns  # another thread may replace the attribute meanwhile
        if len(turns) < n_tokens:
            dims = self.architecture.head_dims
            timescale = MAX_TIMESCALE ** (torch.arange(dims // 2, dtype=torch.float64) * 2 / dims)
            angle = (
                torch.arange(2 ** math.ceil(math.log2(n_tokens)), dtype=torch.float64)[:, None]
                / timescale
            )
            sines = torch.stack([-angle.sin(), angle.sin()], dim=-1).flatten(1)
            turns = self._turns = (
                torch.cat([angle.cos().repeat_interleave(2, dim=1), sines], dim=1)
                .float()
                .to(self.device)
            )
        return turns

    def _block(self, tensors: Mapping[str, torch.Tensor], name: str) -> ResidualBlock:
        parts: list[Matrix | torch.Tensor | None] = []
        for part in ("hidden_layer", "output_layer", "residual_layer"):
            bias = tensors.get(f"{name}.{part}.bias")
            parts += [
                self.precise_matrix(tensors[f"{name}.{part}.weight"], torch.float32),
                None if bias is None else self._float32(bias),
            ]
        return ResidualBlock(*parts)  # type: ignore[arg-type]

    def _layer(self, tensors: Mapping[str, torch.Tensor], i: int, precise: torch.dtype) -> Layer:
        name = f"stacked_xf.{i}"
        heads, dims = self.architecture.num_heads, self.architecture.head_dims
        neighbours = torch.arange(dims).view(2, -1).t().flatten()  # 0, dims/2, 1, dims/2 + 1, ...
        qkv = (
            tensors[f"{name}.attn.qkv_proj.weight"].float()
            * tensors[f"{name}.pre_attn_ln.scale"].float()
        )
        query, key, value = qkv.view(3, heads, dims, -1)
        per_dim = (
            math.log2(math.e)
            / math.sqrt(dims)
            * F.softplus(tensors[f"{name}.attn.per_dim_scale.per_dim_scale"].float())
        )
        scale = (
            tensors[f"{name}.attn.query_ln.scale"].float()
            * tensors[f"{name}.attn.key_ln.scale"].float()
            * per_dim
        )
        ff0 = tensors[f"{name}.ff0.weight"].float() * tensors[f"{name}.pre_ff_ln.scale"].float()
        of_ff = precise if i == self.architecture.num_layers - 1 else self.dtype
        return Layer(
            query=self.matrix(query[:, neighbours].flatten(0, 1), self.dtype),
            key_value=self.matrix(torch.cat([key[:, neighbours], value]).flatten(0, 1), self.dtype),
            query_scale=self._float32(scale[neighbours]),
            attention_out=self.precise_matrix(tensors[f"{name}.attn.out.weight"], precise),
            after_attention=self._float32(tensors[f"{name}.post_attn_ln.scale"]),
            ff0=self.matrix(ff0, of_ff),
            ff1=self.matrix(tensors[f"{name}.ff1.weight"], of_ff),
            after_ff=self._float32(tensors[f"{name}.post_ff_ln.scale"]),
        )

    def _float32(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(device=self.device, dtype=torch.float32).contiguous()


def inverse_rms(x: torch.Tensor) -> torch.Tensor:
    """Return 1 / root mean square of the last axis [..., 1]."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(NORM_EPSILON).rsqrt_()
