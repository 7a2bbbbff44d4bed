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


Linear = tuple[Tensor, Tensor | None]
"""Weight and bias of a linear layer."""


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer: of the two norms, and of linear layers that read the same as one."""

    norm: Tensor
    attention: Linear
    output: Linear
    later_norm: Tensor
    gate_and_up: Linear
    down: Linear


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
        known: list[Any] = cache.layers
        self._prompt_keys: list[Tensor] = [layer.keys.transpose(-1, -2) for layer in known]
        self._prompt_values: list[Tensor] = [layer.values for layer in known]
        size, self._head = len(prompts), self._prompt_values[0].shape[-1]
        self._bias = None
        if not mask.all():
            padding = hidden.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)
            self._bias = padding[:, None, None, None, :]
        shape = (size, self._kv_heads, n, steps, self._head)
        self._keys = [hidden.new_empty(shape) for _ in cache.layers]
        self._values = [hidden.new_empty(shape) for _ in cache.layers]
        later = positions[:, -1:] + 1 + torch.arange(steps, device=mask.device)
        cos, sin = model.model.rotary_emb(hidden, later)
        # The second half of a head is turned into the first with the opposite sign.
        sin[..., : self._head // 2] *= -1
        # [T, N, 1, 1, 1, head]: the same for all heads and completions of a prompt.
        self._cos = cos.transpose(0, 1)[:, :, None, None, None]
        self._sin = sin.transpose(0, 1)[:, :, None, None, None]
        self._embeddings: Tensor = model.model.embed_tokens.weight
        self._layers = [self._weights(layer) for layer in model.model.layers]
        self._last_norm = model.model.norm
        self._head_of_model = _linear(model.lm_head)
        self._step = 0

    def advance(self, ids: Tensor) -> Tensor:
        """Return the logits after one more token of each row, float [R, V].

        ids: int64 [R].
        """
        x = functional.embedding(ids, self._embeddings)
        for index, layer in enumerate(self._layers):
            y = functional.rms_norm(x, x.shape[-1:], layer.norm, self._eps)
            y = self._attention(index, functional.linear(y, *layer.attention))
            x = x + functional.linear(y, *layer.output)
            y = functional.rms_norm(x, x.shape[-1:], layer.later_norm, self._eps)
            gate, up = functional.linear(y, *layer.gate_and_up).chunk(2, dim=-1)
            x = x + functional.linear(functional.silu(gate) * up, *layer.down)
        self._step += 1
        return functional.linear(self._last_norm(x), *self._head_of_model)

    def _attention(self, index: int, projected: Tensor) -> Tensor:
        """Return what each row reads [R, heads x head].

        projected: queries, key and value of each group of heads, [R, kv heads x (groups + 2) x
        head]. Everything below is [N, kv heads, n, ...].
        """
        step, groups = self._step, self._groups
        shape = (-1, self._n, self._kv_heads, groups + 2, self._head)
        projected = projected.view(shape).transpose(1, 2)
        straight = projected[..., : groups + 1, :]
        turned = torch.addcmul(
            straight * self._cos[step],
            straight.roll(self._head // 2, -1),
            self._sin[step],
        )
        self._keys[index][..., step, :] = turned[..., groups, :]
        self._values[index][..., step, :] = projected[..., groups + 1, :]
        queries = turned[..., :groups, :].contiguous()
        on_prompt = (queries.flatten(2, 3) @ self._prompt_keys[index]).view(*queries.shape[:-1], -1)
        if self._bias is not None:
            on_prompt = on_prompt + self._bias
        on_own = queries @ self._keys[index][..., : step + 1, :].transpose(-1, -2)
        shares = torch.cat((on_prompt, on_own), dim=-1).softmax(-1)
        length = on_prompt.shape[-1]
        read = (shares[..., :length].flatten(2, 3) @ self._prompt_values[index]).view_as(queries)
        read = read + shares[..., length:] @ self._values[index][..., : step + 1, :]
        return read.transpose(1, 2).reshape(len(read) * self._n, -1)

    def _weights(self, layer: Any) -> _Layer:
        """Return the weights of a layer: the projections of attention in the order of `_attention`,
        their queries scaled, so that a step need not.
        """
        attention, mlp = layer.self_attn, layer.mlp
        scaling = self._head**-0.5
        parts: list[list[Any]] = [
            [None if part is None else part.unflatten(0, (self._kv_heads, -1)) for part in pair]
            for pair in map(_linear, (attention.q_proj, attention.k_proj, attention.v_proj))
        ]
        weight, bias = (
            None
            if queries is None
            else torch.cat((queries * scaling, keys, values), dim=1).flatten(0, 1)
            for queries, keys, values in zip(*parts, strict=True)
        )
        assert weight is not None
        gate, up = _linear(mlp.gate_proj), _linear(mlp.up_proj)
        both = None if gate[1] is None or up[1] is None else torch.cat((gate[1], up[1]))
        return _Layer(
            layer.input_layernorm.weight,
            (weight, bias),
            _linear(attention.o_proj),
            layer.post_attention_layernorm.weight,
            (torch.cat((gate[0], up[0])), both),
            _linear(mlp.down_proj),
        )


def positions_of(mask: Tensor) -> Tensor:
    """Return the position of every token, int64 [N, P]: 0 for the first that is not padding."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _linear(module: Any) -> Linear:
    """Return weight and bias of a linear layer, with what its enabled adapters add (peft's LoRA
    layers have a `base_layer`).
    """
    base = getattr(module, "base_layer", module)
    weight = base.weight
    if base is not module and not module.disable_adapters:
        for adapter in module.active_adapters:
            # Adapters of a model in bfloat16 are in float32.
            weight = weight + module.get_delta_weight(adapter).to(weight.dtype)
    return weight, base.bias
