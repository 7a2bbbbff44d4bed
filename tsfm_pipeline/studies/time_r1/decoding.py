"""Decoding: the model's next step for many completions that share their prompts' keys and values.

What belongs here: one step of a Qwen2 or Llama model in terms of its own layers, so that a prompt
is held once for its n completions and a step costs a few tensor operations. What does not: which
token is taken (`policy`).

A step by transformers repeats the keys and values of the prompt for every completion and copies
them once per step; `benchmarks/time_r1_policy.py` measures both. The tests hold the two equal.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

SUPPORTED = ("qwen2", "llama")
"""Model types with the layers that `Decoder` knows."""


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer: (weight, bias) of linear layers, weights of the two norms."""

    norm: Tensor
    queries: tuple[Tensor, Tensor | None]
    keys: tuple[Tensor, Tensor | None]
    values: tuple[Tensor, Tensor | None]
    outputs: tuple[Tensor, Tensor | None]
    later_norm: Tensor
    gate: tuple[Tensor, Tensor | None]
    up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]


class Decoder:
    """Completes N prompts n times each, token by token.

    Rows R = N n are prompt-major. Adapters that are enabled are added to the weights once, when the
    decoder is made.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: Tensor, mask: Tensor, n: int, steps: int
    ) -> None:
        """Read the prompts.

        model: in evaluation mode. prompts: int64 [N, P], padded on the left. mask: bool [N, P],
        false on padding. steps: T, the most tokens that are added. Raises ValueError for a model of
        another type than `SUPPORTED`.
        """
        config = model.config
        if config.model_type not in SUPPORTED:
            raise ValueError(
                f"model type {config.model_type!r}; allowed are {', '.join(SUPPORTED)}, whose "
                "layers the decoder knows"
            )
        self._model = model
        self._n = n
        self._eps = config.rms_norm_eps
        self._kv_heads = config.num_key_value_heads
        self._groups = config.num_attention_heads // config.num_key_value_heads
        cache = DynamicCache(config=config)
        positions = positions_of(mask)
        hidden = model.model(
            input_ids=prompts,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.logits = model.lm_head(hidden).repeat_interleave(n, dim=0)
        """Of the first token, float [R, V]."""
        self._prompt_keys = [layer.keys.transpose(-1, -2) for layer in cache.layers]
        self._prompt_values = [layer.values for layer in cache.layers]
        size, self._head = len(prompts), self._prompt_values[0].shape[-1]
        self._bias = None
        if not mask.all():
            padding = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill(~mask, -torch.inf)
            self._bias = padding[:, None, None, None, :]
        shape = (size, self._kv_heads, n, steps, self._head)
        self._keys = [hidden.new_empty(shape) for _ in cache.layers]
        self._values = [hidden.new_empty(shape) for _ in cache.layers]
        later = positions[:, -1:] + 1 + torch.arange(steps)
        cos, sin = model.model.rotary_emb(hidden, later)
        # [T, N, 1, 1, 1, head]: the same for all heads and completions of a prompt.
        self._cos = cos.transpose(0, 1)[:, :, None, None, None]
        self._sin = sin.transpose(0, 1)[:, :, None, None, None]
        self._layers = [_layer(layer) for layer in model.model.layers]
        self._scaling = self._head**-0.5
        self._step = 0

    def advance(self, ids: Tensor) -> Tensor:
        """Return the logits after one more token of each row, float [R, V].

        ids: int64 [R].
        """
        step, rows = self._step, len(ids)
        self._step += 1
        x = self._model.model.embed_tokens(ids)
        for index, layer in enumerate(self._layers):
            y = functional.rms_norm(x, x.shape[-1:], layer.norm, self._eps)
            queries = self._turned(self._heads(functional.linear(y, *layer.queries)), step)
            keys = self._turned(self._heads(functional.linear(y, *layer.keys)), step)
            self._keys[index][:, :, :, step] = keys[:, :, :, 0]
            self._values[index][:, :, :, step] = self._heads(functional.linear(y, *layer.values))[
                :, :, :, 0
            ]
            y = self._attention(index, queries, step + 1)
            x = x + functional.linear(y.permute(0, 2, 1, 3, 4).reshape(rows, -1), *layer.outputs)
            y = functional.rms_norm(x, x.shape[-1:], layer.later_norm, self._eps)
            y = functional.silu(functional.linear(y, *layer.gate)) * functional.linear(y, *layer.up)
            x = x + functional.linear(y, *layer.down)
        return self._model.lm_head(self._model.model.norm(x))

    def _heads(self, x: Tensor) -> Tensor:
        """Return [R, heads x head] as [N, kv heads, n, groups, head]."""
        split = x.view(-1, self._n, self._kv_heads, x.shape[-1] // self._kv_heads)
        return split.unflatten(-1, (-1, self._head)).transpose(1, 2)

    def _turned(self, x: Tensor, step: int) -> Tensor:
        """Return x [N, kv heads, n, groups, head] with its rotary position."""
        half = self._head // 2
        rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * self._cos[step] + rotated * self._sin[step]

    def _attention(self, index: int, queries: Tensor, known: int) -> Tensor:
        """Return what queries [N, kv heads, n, groups, head] read, in the same shape."""
        queries = queries * self._scaling
        together = queries.flatten(2, 3)
        on_prompt = (together @ self._prompt_keys[index]).view(*queries.shape[:-1], -1)
        if self._bias is not None:
            on_prompt = on_prompt + self._bias
        own = queries @ self._keys[index][:, :, :, :known].transpose(-1, -2)
        shares = torch.cat((on_prompt, own), dim=-1).softmax(-1)
        length = on_prompt.shape[-1]
        read = (shares[..., :length].flatten(2, 3) @ self._prompt_values[index]).view_as(queries)
        return read + shares[..., length:] @ self._values[index][:, :, :, :known]


def positions_of(mask: Tensor) -> Tensor:
    """Return the position of every token, int64 [N, P]: 0 for the first that is not padding."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        layer.input_layernorm.weight,
        _linear(attention.q_proj),
        _linear(attention.k_proj),
        _linear(attention.v_proj),
        _linear(attention.o_proj),
        layer.post_attention_layernorm.weight,
        _linear(mlp.gate_proj),
        _linear(mlp.up_proj),
        _linear(mlp.down_proj),
    )


def _linear(module: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a linear layer, with what its enabled adapters add (peft's LoRA
    layers have a `base_layer`).
    """
    base = getattr(module, "base_layer", module)
    weight = base.weight
    if base is not module and not module.disable_adapters:
        for adapter in module.active_adapters:
            weight = weight + module.get_delta_weight(adapter)
    return weight, base.bias
