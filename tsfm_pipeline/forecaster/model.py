"""The frozen decoder: the TimesFM-2.5 architecture as plain functions over plain tensors, for inference only.

Here: weights laid out for speed, one forward pass, and the autoregressive decode. Not here: the package's module
(`architecture` builds it), checkpoints (`registry`), windows and batches (`plan`, `engine`).

The package's forward spends its time on things that a forecast at one origin does not need; what is left out, and why
the result is the same (`tsfm_pipeline_tests/forecaster/test_equality.py`): windows of one batch have equal token
counts, so attention is plainly causal and no mask is materialised; the heads, and all of the last layer but its keys
and values, run at the last position only; keys and values are kept only if a decode step will read them; the continuous
quantile head is not used. Rotation before the query and key norms leaves those norms unchanged, so pairs of dimensions
are laid out as neighbours and turned by one complex product; a query-key product needs one scale, not two.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F

from tsfm_pipeline.forecaster.architecture import INPUT_PATCH_LEN, N_OUTPUT_COLUMNS, OUTPUT_PATCH_LEN, Architecture
from tsfm_pipeline.forecaster.config import MEDIAN_COLUMN
from tsfm_pipeline.forecaster.normalisation import normalise, normalise_more

NORM_EPSILON = 1e-6
MAX_TIMESCALE = 10_000.0

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]


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
    """Weights of one transformer layer; `query_scale` holds the scales of query and key norm and the per-dimension
    scale.
    """

    before_attention: torch.Tensor
    qkv: torch.Tensor
    query_scale: torch.Tensor
    attention_out: torch.Tensor
    after_attention: torch.Tensor
    before_ff: torch.Tensor
    ff0: torch.Tensor
    ff1: torch.Tensor
    after_ff: torch.Tensor


class FrozenDecoder:
    """A decoder in evaluation mode for ever: its tensors never require grad."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> None:
        """Lay out the package's named tensors; matrices in `dtype`, norms and the residual stream in float32."""
        self.architecture = architecture
        self.device = device
        self.dtype = dtype
        self._tokenizer = self._block(tensors, "tokenizer")
        self._head = self._block(tensors, "output_projection_point")
        self._layers = [self._layer(tensors, f"stacked_xf.{i}") for i in range(architecture.num_layers)]
        self._rotations = torch.empty(0, device=device)

    def parameters(self) -> Iterator[torch.Tensor]:
        """Every tensor of the decoder."""
        for block in (self._tokenizer, self._head, *self._layers):
            yield from (tensor for tensor in block if tensor is not None)

    @torch.inference_mode()
    def decode(self, windows: torch.Tensor, n_padding: torch.Tensor, horizon: int) -> torch.Tensor:
        """Forecast `horizon` points after each window, as the package's `decode` does.

        windows: [B, P * 32], of which the first `n_padding` [B] points, fewer than 32, are no data; centred by the
        caller, if their level is far from 0. Returns float64 [B, horizon, 10]: mean, then deciles, in the units of the
        windows, not yet ordered. Beyond 128 points the median is fed back.
        """
        normed, statistics = normalise(windows.double().unflatten(1, (-1, INPUT_PATCH_LEN)), n_padding)
        padding = torch.zeros_like(normed, dtype=torch.float32)
        padding[:, 0] = (torch.arange(INPUT_PATCH_LEN, device=self.device) < n_padding[:, None]).float()
        kept: KeysAndValues | None = [] if horizon > OUTPUT_PATCH_LEN else None
        last = self._forward(torch.cat([normed.float(), padding], dim=-1), kept)
        outputs = [statistics.denormalise(self._heads(last, min(horizon, OUTPUT_PATCH_LEN)))]
        for done in range(OUTPUT_PATCH_LEN, horizon, OUTPUT_PATCH_LEN):
            patches = outputs[-1][..., MEDIAN_COLUMN].unflatten(1, (-1, INPUT_PATCH_LEN))
            normed, statistics = normalise_more(statistics, patches)
            last = self._forward(torch.cat([normed, torch.zeros_like(normed)], dim=-1).float(), kept)
            outputs.append(statistics.denormalise(self._heads(last, min(horizon - done, OUTPUT_PATCH_LEN))))
        return torch.cat(outputs, dim=1)

    def _forward(self, tokens: torch.Tensor, kept: KeysAndValues | None) -> torch.Tensor:
        """Output embedding [B, M] at the last of the tokens [B, P, 64] that follow those in `kept`, which is brought up
        to date.
        """
        n_before = kept[0][0].shape[2] if kept else 0
        n_after = n_before + tokens.shape[1]
        rotations = self._rotations_up_to(n_after)[n_before:n_after]
        x = self._tokenizer(tokens.to(self.dtype)).float()
        for i, layer in enumerate(self._layers):
            query, key, value = self._queries_keys_values(layer, x, rotations)
            if kept is not None:
                if n_before:
                    key, value = torch.cat([kept[i][0], key], dim=2), torch.cat([kept[i][1], value], dim=2)
                    kept[i] = (key, value)
                else:
                    kept.append((key, value))
            if i == len(self._layers) - 1:
                query, x = query[:, :, -1:], x[:, -1:]
            x = self._after_attention(layer, x, _causal_attention(query, key, value))
        return x[:, 0]

    def _queries_keys_values(self, layer: Layer, x: torch.Tensor, rotations: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each [B, heads, P, head dims], of x [B, P, M]."""
        heads, dims = self.architecture.num_heads, self.architecture.head_dims
        qkv = linear(_rms_norm(x, layer.before_attention).to(self.dtype), layer.qkv).unflatten(-1, (3, heads, dims))
        pairs = torch.view_as_complex(qkv[:, :, :2].float().unflatten(-1, (dims // 2, 2)))
        query, key = torch.view_as_real(pairs * rotations).flatten(-2).unbind(2)
        query = _rms_norm(query, layer.query_scale).to(self.dtype)
        key = _rms_norm(key, None).to(self.dtype)
        return query.transpose(1, 2), key.transpose(1, 2), qkv[:, :, 2].transpose(1, 2)

    def _after_attention(self, layer: Layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        attended = linear(attended.transpose(1, 2).flatten(2), layer.attention_out)
        x = x + _rms_norm(attended.float(), layer.after_attention)
        hidden = silu_linear(_rms_norm(x, layer.before_ff).to(self.dtype), layer.ff0)
        return x + _rms_norm(linear(hidden, layer.ff1).float(), layer.after_ff)

    def _heads(self, embedding: torch.Tensor, n_points: int) -> torch.Tensor:
        """Normalised outputs [B, n_points, 10] of output embeddings [B, M]."""
        outputs = self._head(embedding.to(self.dtype), n_outputs=n_points * N_OUTPUT_COLUMNS)
        return outputs.unflatten(1, (n_points, N_OUTPUT_COLUMNS))

    def _rotations_up_to(self, n_tokens: int) -> torch.Tensor:
        """Rotary position embedding as complex64 [>= n_tokens, 2, heads, head dims / 2], kept and grown as longer
        windows come.
        """
        if len(self._rotations) < n_tokens:
            heads, dims = self.architecture.num_heads, self.architecture.head_dims
            timescale = MAX_TIMESCALE ** (torch.arange(dims // 2, dtype=torch.float64) * 2 / dims)
            angle = torch.arange(2 ** math.ceil(math.log2(n_tokens)), dtype=torch.float64)[:, None] / timescale
            turns = torch.polar(torch.ones_like(angle), angle).to(device=self.device, dtype=torch.complex64)
            self._rotations = turns[:, None, None, :].expand(-1, 2, heads, -1).contiguous()
        return self._rotations

    def _block(self, tensors: Mapping[str, torch.Tensor], name: str) -> ResidualBlock:
        parts: list[torch.Tensor | None] = []
        for part in ("hidden_layer", "output_layer", "residual_layer"):
            bias = tensors.get(f"{name}.{part}.bias")
            parts += [self._matrix(tensors[f"{name}.{part}.weight"]), None if bias is None else self._matrix(bias)]
        return ResidualBlock(*parts)  # type: ignore[arg-type]

    def _layer(self, tensors: Mapping[str, torch.Tensor], name: str) -> Layer:
        heads, dims = self.architecture.num_heads, self.architecture.head_dims
        neighbours = torch.arange(dims).view(2, -1).t().flatten()  # 0, dims/2, 1, dims/2 + 1, ...
        qkv = tensors[f"{name}.attn.qkv_proj.weight"].view(3, heads, dims, -1)
        qkv = torch.cat([qkv[:2, :, neighbours], qkv[2:]]).flatten(0, 2)
        per_dim = math.log2(math.e) / math.sqrt(dims) * F.softplus(tensors[f"{name}.attn.per_dim_scale.per_dim_scale"].float())
        scale = tensors[f"{name}.attn.query_ln.scale"].float() * tensors[f"{name}.attn.key_ln.scale"].float() * per_dim
        return Layer(
            before_attention=self._vector(tensors[f"{name}.pre_attn_ln.scale"]),
            qkv=self._matrix(qkv),
            query_scale=self._vector(scale[neighbours]),
            attention_out=self._matrix(tensors[f"{name}.attn.out.weight"]),
            after_attention=self._vector(tensors[f"{name}.post_attn_ln.scale"]),
            before_ff=self._vector(tensors[f"{name}.pre_ff_ln.scale"]),
            ff0=self._matrix(tensors[f"{name}.ff0.weight"]),
            ff1=self._matrix(tensors[f"{name}.ff1.weight"]),
            after_ff=self._vector(tensors[f"{name}.post_ff_ln.scale"]),
        )

    def _matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(device=self.device, dtype=self.dtype).contiguous()

    def _vector(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(device=self.device, dtype=torch.float32).contiguous()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`; float32 on the CPU through oneDNN, 2.2 times as fast as torch's MKL on AMD processors."""
    if x.is_cpu and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


def silu_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`silu(linear(x))`, written over the product."""
    return F.silu(linear(x, weight, bias), inplace=True)


def _rms_norm(x: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), scale, NORM_EPSILON)


def _causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of the last positions [B, heads, N, dims] over all [B, heads, P, dims]; the scale is in the query
    already.
    """
    n_queries, n_keys = query.shape[2], key.shape[2]
    if n_queries == n_keys or n_queries == 1:
        return F.scaled_dot_product_attention(query, key, value, is_causal=n_queries > 1, scale=1.0)
    allowed = torch.ones(n_queries, n_keys, dtype=torch.bool, device=query.device).tril(n_keys - n_queries)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=1.0)
