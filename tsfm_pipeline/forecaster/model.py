"""The frozen decoder: the TimesFM-2.5 architecture as plain functions over plain tensors, for inference only.

Here: weights laid out for speed, one forward pass, and the autoregressive decode. Not here: the package's module
(`architecture` builds it), checkpoints (`registry`), windows and batches (`plan`, `engine`).

The package's forward spends its time on things that a forecast does not need; what is left out, and why the result is the
same (`tsfm_pipeline_tests/forecaster/test_equality.py`): windows of different lengths go through every matrix product side
by side, and attention keeps them apart, so no mask is materialised and nothing is padded; the heads, and all of the last layer
but its keys and values, run only at the patches that are asked for; keys and values are kept only if a decode step will read
them; the continuous quantile head is not used. Rotation leaves the query and key norms unchanged, so it may come before or after;
pairs of dimensions are laid out as neighbours; a query-key product needs one scale, not two.

On a CPU the products and what lies between them are in `kernels`; the same in torch's operators is for other devices (and for sizes
that fill no whole panels).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from tsfm_pipeline.forecaster import kernels
from tsfm_pipeline.forecaster.architecture import INPUT_PATCH_LEN, N_OUTPUT_COLUMNS, OUTPUT_PATCH_LEN, Architecture
from tsfm_pipeline.forecaster.config import MEDIAN_COLUMN
from tsfm_pipeline.forecaster.kernels import NORM_EPSILON, Layer, Windows
from tsfm_pipeline.forecaster.normalisation import RunningStatistics, normalise, normalise_more
from tsfm_pipeline.forecaster.plan import IntArray, runs

MAX_TIMESCALE = 10_000.0


class ResidualBlock(NamedTuple):
    """Weights of `output(silu(hidden(x))) + residual(x)`; biases may be absent."""

    hidden: torch.Tensor
    hidden_bias: torch.Tensor | None
    output: torch.Tensor
    output_bias: torch.Tensor | None
    residual: torch.Tensor
    residual_bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, n_outputs: int | None = None) -> torch.Tensor:
        """The block at x [..., I]; only the first `n_outputs` outputs, if given."""
        hidden = F.silu(times(x, self.hidden, self.hidden_bias), inplace=True)
        output = times(hidden, self.output, self.output_bias, n_outputs)
        return output.add_(times(x, self.residual, self.residual_bias, n_outputs))


class FrozenDecoder:
    """A decoder in evaluation mode for ever: its tensors never require grad."""

    def __init__(
        self,
        architecture: Architecture,
        tensors: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
        use_kernels: bool = True,
    ) -> None:
        """Lay out the package's named tensors; the layers' matrices in `dtype`; norms, residual stream, tokenizer and head in float32.

        Tokenizer and head take a few percent of the time, and half of the error if they are in bfloat16. On a CPU, where products
        are summed to float32, attention's output projection and the last feed-forward block are in float32, too: a tenth of the
        time, and a third of the error that is left. use_kernels: False takes torch's operators on a CPU, too, to compare.
        """
        self.architecture = architecture
        self.device = device
        self.dtype = dtype
        fills_panels = kernels.fit(architecture.head_dims, architecture.model_dims, architecture.ff_dims)
        self.use_kernels = use_kernels and device.type == "cpu" and fills_panels
        self._tokenizer = self._block(tensors, "tokenizer")
        self._head = self._block(tensors, "output_projection_point")
        self._layers = [self._layer(tensors, i) for i in range(architecture.num_layers)]
        self._turns = torch.empty(0, device=device)

    def parameters(self) -> Iterator[torch.Tensor]:
        """Every tensor of the decoder."""
        for block in (self._tokenizer, self._head, *self._layers):
            yield from (tensor for tensor in block if tensor is not None)

    @torch.inference_mode()
    def decode(self, groups: Sequence[tuple[torch.Tensor, torch.Tensor]], window: IntArray, token: IntArray, horizon: int) -> torch.Tensor:
        """Forecast `horizon` points after M patches of some windows, each as the package's `decode` of the window cut there.

        groups: windows of equal length [B, P * 32] with the number of their first points that are no data [B], fewer than
        32; centred by the caller, if their level is far from 0. window, token: int64 [M], which window (counted through the
        groups, ascending) and after which of its patches. Returns float64 [M, horizon, 10]: mean, then deciles, in the units
        of the windows, not yet ordered. Beyond 128 points the median is fed back; that takes a single group, asked for at
        every window's end.
        """
        tokens, parts, lengths = [], [], []
        for values, n_padding in groups:
            normed, part = normalise(values.double().unflatten(1, (-1, INPUT_PATCH_LEN)), n_padding)
            padding = torch.zeros_like(normed, dtype=torch.float32)
            padding[:, 0] = (torch.arange(INPUT_PATCH_LEN, device=self.device) < n_padding[:, None]).float()
            tokens.append(torch.cat([normed.float(), padding], dim=-1).flatten(0, 1))
            parts.append(part)
            lengths += [normed.shape[1]] * len(normed)
        bounds = np.cumsum([0, *lengths])
        everywhere = Windows(bounds, bounds, np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths))
        asked = Windows(bounds, np.searchsorted(window, np.arange(len(bounds))), np.ascontiguousarray(token))
        rows = self._rows(asked)
        statistics = RunningStatistics.concatenated(parts).at(rows)
        kept: list[torch.Tensor] | None = [] if horizon > OUTPUT_PATCH_LEN else None
        embedding = self._forward(torch.cat(tokens), everywhere, asked, rows, kept)
        outputs = [statistics.denormalise(self._heads(embedding, min(horizon, OUTPUT_PATCH_LEN)))]
        for done in range(OUTPUT_PATCH_LEN, horizon, OUTPUT_PATCH_LEN):
            normed, running = normalise_more(statistics, outputs[-1][..., MEDIAN_COLUMN].unflatten(1, (-1, INPUT_PATCH_LEN)))
            n_windows, n_new, _ = normed.shape
            last = torch.arange(1, n_windows + 1, device=self.device) * n_new - 1
            statistics = RunningStatistics.concatenated([running]).at(last)
            n_before, each = lengths[0] + done // INPUT_PATCH_LEN - n_new, np.arange(n_windows + 1)
            bounds = each * (n_before + n_new)
            new = Windows(bounds, each * n_new, np.tile(n_before + np.arange(n_new), n_windows))
            ends = Windows(bounds, each, np.full(n_windows, n_before + n_new - 1))
            more = torch.cat([normed, torch.zeros_like(normed)], dim=-1).float().flatten(0, 1)
            embedding = self._forward(more, new, ends, last, kept)
            outputs.append(statistics.denormalise(self._heads(embedding, min(horizon - done, OUTPUT_PATCH_LEN))))
        return torch.cat(outputs, dim=1)

    def _forward(
        self, tokens: torch.Tensor, windows: Windows, asked: Windows, rows: torch.Tensor, kept: list[torch.Tensor] | None
    ) -> torch.Tensor:
        """Output embeddings [M, model dims] of the tokens that are asked for, of the tokens [T, 64] of some windows.

        windows: every token is a query. asked: only those that are asked for are; which of the tokens they are, in rows [M]. `kept`,
        if not None, holds every layer's keys and values [B, tokens, 2 * model dims] of the tokens before these, of windows of equal
        length, and is brought up to date.
        """
        of_all, of_asked = self._rest_of_layer(windows), self._rest_of_layer(asked)
        x = self._tokenizer(tokens)
        normed = (x * _inverse_rms(x)).to(self.dtype)
        for i, layer in enumerate(self._layers):
            key_value = times(normed, layer.key_value)
            if kept is not None:
                new = key_value.unflatten(0, (len(windows.tokens) - 1, -1))
                if i < len(kept):
                    kept[i] = torch.cat([kept[i], new], dim=1)
                else:
                    kept.append(new)
                key_value = kept[i].flatten(0, 1)
            if i < len(self._layers) - 1:
                normed = of_all(x, normed, key_value, layer)
            else:
                x = x[rows]
                of_asked(x, normed[rows], key_value, layer)
        return x

    def _rows(self, queries: Windows) -> torch.Tensor:
        """Which of the windows' tokens the queries are [N]."""
        return torch.from_numpy(np.repeat(queries.tokens[:-1], np.diff(queries.queries)) + queries.position).to(self.device)

    def _rest_of_layer(self, windows: Windows) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Layer], torch.Tensor]:
        """`kernels.layer` of these windows."""
        turns = self._turns_up_to(int(np.diff(windows.tokens).max()))
        if self.use_kernels:
            return partial(kernels.layer, turns=turns, windows=windows)
        lengths = np.diff(windows.tokens)
        position = torch.from_numpy(np.arange(windows.tokens[-1]) - np.repeat(windows.tokens[:-1], lengths)).to(self.device)
        rows = self._rows(windows)
        some = None if torch.equal(rows, torch.arange(len(position), device=self.device)) else rows
        return partial(_layer, turns=turns[position], rows=some, lengths=lengths)

    def _heads(self, embedding: torch.Tensor, n_points: int) -> torch.Tensor:
        """Normalised outputs [B, n_points, 10] of output embeddings [B, M]."""
        outputs = self._head(embedding, n_outputs=n_points * N_OUTPUT_COLUMNS)
        return outputs.unflatten(1, (n_points, N_OUTPUT_COLUMNS))

    def _turns_up_to(self, n_tokens: int) -> torch.Tensor:
        """Rotary position embedding, float32 [>= n_tokens, 2 * head dims]: every dimension's factor, then its neighbour's; kept and
        grown as longer windows come.
        """
        turns = self._turns  # another thread may replace it meanwhile
        if len(turns) < n_tokens:
            dims = self.architecture.head_dims
            timescale = MAX_TIMESCALE ** (torch.arange(dims // 2, dtype=torch.float64) * 2 / dims)
            angle = torch.arange(2 ** math.ceil(math.log2(n_tokens)), dtype=torch.float64)[:, None] / timescale
            sines = torch.stack([-angle.sin(), angle.sin()], dim=-1).flatten(1)
            turns = self._turns = torch.cat([angle.cos().repeat_interleave(2, dim=1), sines], dim=1).float().to(self.device)
        return turns

    def _block(self, tensors: Mapping[str, torch.Tensor], name: str) -> ResidualBlock:
        parts: list[torch.Tensor | None] = []
        for part in ("hidden_layer", "output_layer", "residual_layer"):
            bias = tensors.get(f"{name}.{part}.bias")
            parts += [self.laid_out(tensors[f"{name}.{part}.weight"], torch.float32), None if bias is None else self._float32(bias)]
        return ResidualBlock(*parts)  # type: ignore[arg-type]

    def _layer(self, tensors: Mapping[str, torch.Tensor], i: int) -> Layer:
        name = f"stacked_xf.{i}"
        heads, dims = self.architecture.num_heads, self.architecture.head_dims
        neighbours = torch.arange(dims).view(2, -1).t().flatten()  # 0, dims/2, 1, dims/2 + 1, ...
        qkv = tensors[f"{name}.attn.qkv_proj.weight"].float() * tensors[f"{name}.pre_attn_ln.scale"].float()
        query, key, value = qkv.view(3, heads, dims, -1)
        per_dim = math.log2(math.e) / math.sqrt(dims) * F.softplus(tensors[f"{name}.attn.per_dim_scale.per_dim_scale"].float())
        scale = tensors[f"{name}.attn.query_ln.scale"].float() * tensors[f"{name}.attn.key_ln.scale"].float() * per_dim
        ff0 = tensors[f"{name}.ff0.weight"].float() * tensors[f"{name}.pre_ff_ln.scale"].float()
        precise = torch.float32 if self.use_kernels else self.dtype
        of_ff = precise if i == self.architecture.num_layers - 1 else self.dtype
        return Layer(
            query=self.laid_out(query[:, neighbours].flatten(0, 1), self.dtype),
            key_value=self.laid_out(torch.cat([key[:, neighbours], value]).flatten(0, 1), self.dtype),
            query_scale=self._float32(scale[neighbours]),
            attention_out=self.laid_out(tensors[f"{name}.attn.out.weight"], precise),
            after_attention=self._float32(tensors[f"{name}.post_attn_ln.scale"]),
            ff0=self.laid_out(ff0, of_ff),
            ff1=self.laid_out(tensors[f"{name}.ff1.weight"], of_ff),
            after_ff=self._float32(tensors[f"{name}.post_ff_ln.scale"]),
        )

    def laid_out(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A matrix [N, K] as this decoder's products take it (`times`)."""
        weight = weight.detach().to(device=self.device, dtype=dtype)
        return kernels.packed(weight) if self.use_kernels else weight.contiguous()

    def _float32(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(device=self.device, dtype=torch.float32).contiguous()


def times(x: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None = None, n_outputs: int | None = None) -> torch.Tensor:
    """x [T, K] times the transpose of a matrix [N, K], packed or not, plus a bias [N]; of the N columns the first `n_outputs`, if given."""
    if matrix.ndim == 3:
        panels = matrix if n_outputs is None else matrix[: -(-n_outputs // kernels.PANEL)]
        out = kernels.product(x, panels)[:, :n_outputs]
        return out if bias is None else out.add_(bias)
    weight = matrix[:n_outputs]
    if x.is_cpu and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():  # 2.2 times as fast as torch's MKL on AMD processors
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _inverse_rms(x: torch.Tensor) -> torch.Tensor:
    """1 / root mean square of the last axis [..., 1]."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(float(NORM_EPSILON)).rsqrt_()


def _layer(
    x: torch.Tensor,
    normed: torch.Tensor,
    key_value: torch.Tensor,
    layer: Layer,
    turns: torch.Tensor,
    rows: torch.Tensor | None,
    lengths: IntArray,
) -> torch.Tensor:
    """As `kernels.layer`; turns [T, 2 * head dims] of every token, rows: which tokens [N] the queries are, if not all."""
    read = _attend(times(normed, layer.query), key_value, layer.query_scale, turns, rows, lengths)
    normed = _add_normed(x, times(read, layer.attention_out), layer.after_attention)
    hidden = F.silu(times(normed, layer.ff0), inplace=True)
    return _add_normed(x, times(hidden, layer.ff1), layer.after_ff)


def _add_normed(x: torch.Tensor, change: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Add the RMS-normed change [T, M] times the scale [M] to x (float32 [T, M], in place); returns x RMS-normed, in the change's type."""
    wide = change.float()
    x.addcmul_(wide * _inverse_rms(wide), scale)
    return (x * _inverse_rms(x)).to(change.dtype)


def _attend(
    query: torch.Tensor, key_value: torch.Tensor, scale: torch.Tensor, turns: torch.Tensor, rows: torch.Tensor | None, lengths: IntArray
) -> torch.Tensor:
    """What queries [N, M] read from the tokens [T, 2 M] of their own windows, up to their own position [N, M]."""
    n_heads = query.shape[1] // len(scale)
    query = query.unflatten(1, (n_heads, -1))
    key, value = key_value.unflatten(1, (2, n_heads, -1)).unbind(1)
    if rows is not None:  # one query for every key, so that attention is plainly causal
        query = torch.zeros_like(key).index_put_((rows,), query)
    query, key, value = (part.to(value.dtype) for part in (_turned(query, turns) * scale, _turned(key, turns), value))
    results, start = [], 0
    for first, end in runs(lengths):
        stop = start + (end - first) * lengths[first]
        q, k, v = (part[start:stop].unflatten(0, (end - first, -1)).transpose(1, 2) for part in (query, key, value))
        results.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0).transpose(1, 2).flatten(2).flatten(0, 1))
        start = stop
    read = torch.cat(results)
    return read if rows is None else read[rows]


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Queries or keys [T, heads, head dims], RMS-normed and rotated by turns [T, 2 * head dims], in float32."""
    own, others = turns[:, None].chunk(2, dim=-1)
    x = x.float()
    neighbours = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * own, neighbours, others).mul_(_inverse_rms(x))
