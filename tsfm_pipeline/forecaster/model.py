"""The frozen decoder: the TimesFM-2.5 architecture as plain functions over plain tensors, for inference only.

Here: weights laid out for speed, one forward pass, and the autoregressive decode. Not here: the package's module
(`architecture` builds it), checkpoints (`registry`), windows and batches (`plan`, `engine`).

The package's forward spends its time on things that a forecast does not need; what is left out, and why the result is the
same (`tsfm_pipeline_tests/forecaster/test_equality.py`): windows of different lengths go through every matrix product side
by side, and attention runs over groups of equal length, so it is plainly causal, no mask is materialised and nothing is
padded; the heads, and all of the last layer but its keys and values, run only at the patches that are asked for; keys and
values are kept only if a decode step will read them; the continuous quantile head is not used. Rotation before the query
and key norms leaves those norms unchanged, so pairs of dimensions are laid out as neighbours and turned by one complex
product; a query-key product needs one scale, not two.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from tsfm_pipeline.forecaster.architecture import INPUT_PATCH_LEN, N_OUTPUT_COLUMNS, OUTPUT_PATCH_LEN, Architecture
from tsfm_pipeline.forecaster.config import MEDIAN_COLUMN
from tsfm_pipeline.forecaster.normalisation import RunningStatistics, normalise, normalise_more

NORM_EPSILON = 1e-6
MAX_TIMESCALE = 10_000.0

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Of every layer, each [B, heads, P, head dims]."""


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
        hidden = silu_linear(x, self.hidden, self.hidden_bias)
        output = linear(hidden, self.output[:n_outputs], self.output_bias)
        return output + linear(x, self.residual[:n_outputs], self.residual_bias)


class Layer(NamedTuple):
    """Weights of one transformer layer.

    `query_scale` holds the scales of query and key norm and the per-dimension scale; the scales of the norms before attention
    and feed-forward are multiplied into `qkv` and `ff0`.
    """

    qkv: torch.Tensor
    query_scale: torch.Tensor
    attention_out: torch.Tensor
    after_attention: torch.Tensor
    ff0: torch.Tensor
    ff1: torch.Tensor
    after_ff: torch.Tensor


class FrozenDecoder:
    """A decoder in evaluation mode for ever: its tensors never require grad."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> None:
        """Lay out the package's named tensors; the layers' matrices in `dtype`; norms, residual stream, tokenizer and head in float32.

        Tokenizer and head take a few percent of the time, and half of the error if they are in bfloat16.
        """
        self.architecture = architecture
        self.device = device
        self.dtype = dtype
        # The CPU's attention kernel is no faster in bfloat16, and less exact.
        self._attention_dtype = torch.float32 if device.type == "cpu" else dtype
        self._tokenizer = self._block(tensors, "tokenizer")
        self._head = self._block(tensors, "output_projection_point")
        self._layers = [self._layer(tensors, f"stacked_xf.{i}") for i in range(architecture.num_layers)]
        self._rotations = torch.empty(0, device=device)

    def parameters(self) -> Iterator[torch.Tensor]:
        """Every tensor of the decoder."""
        for block in (self._tokenizer, self._head, *self._layers):
            yield from (tensor for tensor in block if tensor is not None)

    @torch.inference_mode()
    def decode(
        self, groups: Sequence[tuple[torch.Tensor, torch.Tensor]], window: torch.Tensor, token: torch.Tensor, horizon: int
    ) -> torch.Tensor:
        """Forecast `horizon` points after M patches of some windows, each as the package's `decode` of the window cut there.

        groups: windows of equal length [B, P * 32] with the number of their first points that are no data [B], fewer than
        32; centred by the caller, if their level is far from 0. window, token: int64 [M], which window (counted through the
        groups, ascending) and after which of its patches. Returns float64 [M, horizon, 10]: mean, then deciles, in the units
        of the windows, not yet ordered. Beyond 128 points the median is fed back; that takes a single group, asked for at
        every window's end.
        """
        tokens, parts, wanted = [], [], []
        first_window = first_token = 0
        ends = torch.cumsum(torch.tensor([len(values) for values, _ in groups]), 0)
        bounds = [0, *torch.searchsorted(window, ends.to(window.device)).tolist()]
        for (values, n_padding), low, high in zip(groups, bounds[:-1], bounds[1:], strict=True):
            normed, statistics = normalise(values.double().unflatten(1, (-1, INPUT_PATCH_LEN)), n_padding)
            padding = torch.zeros_like(normed, dtype=torch.float32)
            padding[:, 0] = (torch.arange(INPUT_PATCH_LEN, device=self.device) < n_padding[:, None]).float()
            tokens.append(torch.cat([normed.float(), padding], dim=-1).flatten(0, 1))
            rows = window[low:high] - first_window
            parts.append(statistics.at(rows, token[low:high]))
            wanted.append(first_token + rows * normed.shape[1] + token[low:high])
            first_window, first_token = first_window + len(values), first_token + normed.shape[0] * normed.shape[1]
        shapes = [(len(values), values.shape[1] // INPUT_PATCH_LEN) for values, _ in groups]
        kept: KeysAndValues | None = [] if horizon > OUTPUT_PATCH_LEN else None
        statistics = RunningStatistics(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("count", "mean", "squares", "unit"))
        )
        embedding = self._forward(torch.cat(tokens), shapes, torch.cat(wanted), kept)
        outputs = [statistics.denormalise(self._heads(embedding, min(horizon, OUTPUT_PATCH_LEN)))]
        for done in range(OUTPUT_PATCH_LEN, horizon, OUTPUT_PATCH_LEN):
            normed, running = normalise_more(statistics, outputs[-1][..., MEDIAN_COLUMN].unflatten(1, (-1, INPUT_PATCH_LEN)))
            n_windows, n_patches, _ = normed.shape
            last = torch.arange(n_windows, device=self.device)
            statistics = running.at(last, torch.full_like(last, n_patches - 1))
            more = torch.cat([normed, torch.zeros_like(normed)], dim=-1).float().flatten(0, 1)
            embedding = self._forward(more, [(n_windows, n_patches)], (last + 1) * n_patches - 1, kept)
            outputs.append(statistics.denormalise(self._heads(embedding, min(horizon - done, OUTPUT_PATCH_LEN))))
        return torch.cat(outputs, dim=1)

    def _forward(
        self, tokens: torch.Tensor, shapes: Sequence[tuple[int, int]], wanted: torch.Tensor, kept: KeysAndValues | None
    ) -> torch.Tensor:
        """Output embeddings [M, model dims] at the `wanted` [M] of the tokens [T, 64].

        The tokens are those of groups of windows, (windows, patches) in `shapes`, one after the other. With `kept`, of which
        there is one group, they follow the tokens whose keys and values it holds, and it is brought up to date.
        """
        n_before = kept[0][0].shape[2] if kept else 0
        turns = self._rotations_up_to(n_before + max(n_patches for _, n_patches in shapes))[n_before:]
        rotations = torch.cat([turns[:n_patches].repeat(n_windows, 1, 1, 1) for n_windows, n_patches in shapes])
        x = self._tokenizer(tokens)
        for i, layer in enumerate(self._layers):
            query, key, value = self._queries_keys_values(layer, x, rotations)
            if i == len(self._layers) - 1:
                x = x[wanted]
                attended = self._attention(query, key, value, shapes, kept, i, wanted)
            else:
                attended = self._attention(query, key, value, shapes, kept, i)
            x = self._after_attention(layer, x, attended)
        return x

    def _queries_keys_values(self, layer: Layer, x: torch.Tensor, rotations: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each [T, heads, head dims], of x [T, M]."""
        heads, dims = self.architecture.num_heads, self.architecture.head_dims
        qkv = linear((x * _inverse_rms(x)).to(self.dtype), layer.qkv).unflatten(-1, (3, heads, dims))
        pairs = torch.view_as_complex(qkv[:, :2].float().unflatten(-1, (dims // 2, 2)))
        turned = torch.view_as_real(pairs * rotations).flatten(-2)
        query, key = turned.mul_(_inverse_rms(turned)).unbind(1)
        return (query * layer.query_scale).to(self._attention_dtype), key.to(self._attention_dtype), qkv[:, 2].to(self._attention_dtype)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        shapes: Sequence[tuple[int, int]],
        kept: KeysAndValues | None,
        layer: int,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What each token [T, heads * head dims], or each wanted one [M, ...], reads from its own window's tokens up to itself."""
        results, start, done = [], 0, 0
        for n_windows, n_patches in shapes:
            stop = start + n_windows * n_patches
            q, k, v = (part[start:stop].unflatten(0, (n_windows, n_patches)).transpose(1, 2) for part in (query, key, value))
            if kept is not None:
                if layer < len(kept):
                    k, v = torch.cat([kept[layer][0], k], dim=2), torch.cat([kept[layer][1], v], dim=2)
                    kept[layer] = (k, v)
                else:
                    kept.append((k, v))
            if wanted is None:
                results.append(_causal_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1))
            else:
                n_wanted = int(torch.searchsorted(wanted, stop)) - done
                mine = wanted[done : done + n_wanted] - start
                done += n_wanted
                ends = n_wanted == n_windows and bool((mine % n_patches == n_patches - 1).all())
                read = _causal_attention(q[:, :, -1:] if ends else q, k, v).transpose(1, 2).flatten(2).flatten(0, 1)
                results.append(read if ends else read[mine])
            start = stop
        return torch.cat(results) if len(results) > 1 else results[0]

    def _after_attention(self, layer: Layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = _plus_normed(x, linear(attended.to(self.dtype), layer.attention_out), layer.after_attention)
        hidden = silu_linear((x * _inverse_rms(x)).to(self.dtype), layer.ff0)
        return _plus_normed(x, linear(hidden, layer.ff1), layer.after_ff)

    def _heads(self, embedding: torch.Tensor, n_points: int) -> torch.Tensor:
        """Normalised outputs [B, n_points, 10] of output embeddings [B, M]."""
        outputs = self._head(embedding, n_outputs=n_points * N_OUTPUT_COLUMNS)
        return outputs.unflatten(1, (n_points, N_OUTPUT_COLUMNS))

    def _rotations_up_to(self, n_tokens: int) -> torch.Tensor:
        """Rotary position embedding as complex64 [>= n_tokens, 2, heads, head dims / 2], kept and grown as longer
        windows come.
        """
        rotations = self._rotations  # another thread may replace it meanwhile
        if len(rotations) < n_tokens:
            heads, dims = self.architecture.num_heads, self.architecture.head_dims
            timescale = MAX_TIMESCALE ** (torch.arange(dims // 2, dtype=torch.float64) * 2 / dims)
            angle = torch.arange(2 ** math.ceil(math.log2(n_tokens)), dtype=torch.float64)[:, None] / timescale
            turns = torch.polar(torch.ones_like(angle), angle).to(device=self.device, dtype=torch.complex64)
            rotations = self._rotations = turns[:, None, None, :].expand(-1, 2, heads, -1).contiguous()
        return rotations

    def _block(self, tensors: Mapping[str, torch.Tensor], name: str) -> ResidualBlock:
        parts: list[torch.Tensor | None] = []
        for part in ("hidden_layer", "output_layer", "residual_layer"):
            bias = tensors.get(f"{name}.{part}.bias")
            parts += [self._float32(tensors[f"{name}.{part}.weight"]), None if bias is None else self._float32(bias)]
        return ResidualBlock(*parts)  # type: ignore[arg-type]

    def _layer(self, tensors: Mapping[str, torch.Tensor], name: str) -> Layer:
        heads, dims = self.architecture.num_heads, self.architecture.head_dims
        neighbours = torch.arange(dims).view(2, -1).t().flatten()  # 0, dims/2, 1, dims/2 + 1, ...
        qkv = tensors[f"{name}.attn.qkv_proj.weight"].view(3, heads, dims, -1)
        qkv = torch.cat([qkv[:2, :, neighbours], qkv[2:]]).flatten(0, 2)
        per_dim = math.log2(math.e) / math.sqrt(dims) * F.softplus(tensors[f"{name}.attn.per_dim_scale.per_dim_scale"].float())
        scale = tensors[f"{name}.attn.query_ln.scale"].float() * tensors[f"{name}.attn.key_ln.scale"].float() * per_dim
        ff0 = tensors[f"{name}.ff0.weight"].float() * tensors[f"{name}.pre_ff_ln.scale"].float()
        return Layer(
            qkv=self._matrix(qkv.float() * tensors[f"{name}.pre_attn_ln.scale"].float()),
            query_scale=self._float32(scale[neighbours]),
            attention_out=self._matrix(tensors[f"{name}.attn.out.weight"]),
            after_attention=self._float32(tensors[f"{name}.post_attn_ln.scale"]),
            ff0=self._matrix(ff0),
            ff1=self._matrix(tensors[f"{name}.ff1.weight"]),
            after_ff=self._float32(tensors[f"{name}.post_ff_ln.scale"]),
        )

    def _matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(device=self.device, dtype=self.dtype).contiguous()

    def _float32(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(device=self.device, dtype=torch.float32).contiguous()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`; float32 on the CPU through oneDNN, 2.2 times as fast as torch's MKL on AMD processors."""
    if x.is_cpu and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


def silu_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`silu(linear(x))`, written over the product."""
    return F.silu(linear(x, weight, bias), inplace=True)


def _inverse_rms(x: torch.Tensor) -> torch.Tensor:
    """1 / root mean square of the last axis [..., 1]; one reduction, where `F.rms_norm` on a CPU is five kernels."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(NORM_EPSILON).rsqrt_()


def _plus_normed(x: torch.Tensor, change: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x plus the RMS-normed change, in one pass."""
    change = change.float()
    return torch.addcmul(x, change.mul_(_inverse_rms(change)), scale)


def _causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of the last positions [B, heads, N, dims] over all [B, heads, P, dims]; the scale is in the query
    already.
    """
    n_queries, n_keys = query.shape[2], key.shape[2]
    if n_queries == n_keys or n_queries == 1:
        return F.scaled_dot_product_attention(query, key, value, is_causal=n_queries > 1, scale=1.0)
    allowed = torch.ones(n_queries, n_keys, dtype=torch.bool, device=query.device).tril(n_keys - n_queries)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=1.0)
