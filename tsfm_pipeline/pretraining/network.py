"""Compute the training forward pass: the package's computation on whole windows at once, without
caches, with its causal normalisation.

What belongs here: functions over the parameters of the package's own module that give the same
result as its forward pass (tested), and the initialisation for training from scratch. What does
not: the loss (`objective`), the loop (`train`), and inference (`tsfm_pipeline.forecaster`).
"""

import math

import torch
import torch.nn.functional as F
from timesfm.timesfm_2p5.timesfm_2p5_torch import TimesFM_2p5_200M_torch_module
from timesfm.torch.dense import ResidualBlock
from timesfm.torch.normalization import RMSNorm
from timesfm.torch.transformer import Transformer
from torch import Tensor, nn

SIGMA_TOLERANCE = 1e-6
"""The package divides by one where sigma is below this value (`timesfm.torch.util`)."""


def initialise(module: nn.Module, seed: int) -> None:
    """Set the weights for training from scratch: normal linear weights with standard deviation
    1/sqrt(fan-in), and RMSNorm scales of one where the package has zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, RMSNorm):
                part.scale.fill_(1.0)
            elif isinstance(part, nn.Linear):
                part.weight.copy_(
                    torch.randn(part.weight.shape, generator=generator)
                    / math.sqrt(part.in_features)
                )
                if part.bias is not None:
                    # Without a bias, an all-zero input (a constant stretch) embeds to zero, where
                    # RMSNorm's gradient is 1/sqrt(epsilon).
                    part.bias.copy_(0.3 * torch.randn(part.bias.shape, generator=generator))
        for layer in getattr(module, "stacked_xf", []):
            # Post-norms scale each block's contribution to the residual stream. Small initial
            # scales keep deep stacks stable.
            layer.post_attn_ln.scale.fill_(0.3)
            layer.post_ff_ln.scale.fill_(0.3)
        for head in (module.output_projection_point, module.output_projection_quantiles):
            head.output_layer.weight.mul_(0.3)  # type: ignore[union-attr, operator]
            head.residual_layer.weight.mul_(0.3)  # type: ignore[union-attr, operator]


def running_statistics(values: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of all unmasked points up to the end of each patch.

    Args:
        values: float32 [B, N, 32].
        masked: bool [B, N, 32].

    Returns:
        mu and sigma [B, N], as the package's `update_running_stats` gives them patch by patch.
    """
    legit = (~masked).to(torch.float64)
    x = values.to(torch.float64) * legit
    count = legit.sum(-1).cumsum(-1).clamp_min(1.0)
    mu = x.sum(-1).cumsum(-1) / count
    variance = (x.square().sum(-1).cumsum(-1) / count - mu.square()).clamp_min(0.0)
    # Cancellation leaves about 1e-16 of the mean square. The variance of a constant stretch must
    # be exactly zero.
    variance = torch.where(variance < 1e-13 * mu.square(), torch.zeros_like(variance), variance)
    return mu.to(values.dtype), variance.sqrt().to(values.dtype)


def normalised_inputs(values: Tensor, masked: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """Return the tokenizer's input [B, N, 64]: the normalised values (zero where masked) and the
    mask.
    """
    divisor = torch.where(sigma < SIGMA_TOLERANCE, torch.ones_like(sigma), sigma)[..., None]
    normed = torch.where(masked, torch.zeros_like(values), (values - mu[..., None]) / divisor)
    return torch.cat([normed, masked.to(values.dtype)], dim=-1)


def rotary_table(n_patches: int, head_dims: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [1, 1, N, head_dims / 2] of the package's rotary embedding."""
    fraction = 2 * torch.arange(head_dims // 2, device=device) / head_dims
    angle = torch.arange(n_patches, device=device, dtype=torch.float32)[:, None] / (
        10_000.0**fraction
    )
    return angle.cos()[None, None], angle.sin()[None, None]


def rms_norm(x: Tensor, norm: RMSNorm) -> Tensor:
    """Apply the package's RMSNorm as one fused operator."""
    return F.rms_norm(x, (norm.num_features,), norm.scale.to(x.dtype), norm.epsilon)


def _residual_block(x: Tensor, block: ResidualBlock) -> Tensor:
    return block.output_layer(block.activation(block.hidden_layer(x))) + block.residual_layer(x)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return unscaled causal attention of [B, heads, N, head dims]. On CPUs it uses plain matrix
    products because their backward pass is much faster.
    """
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
    n_patches = query.shape[2]
    future = torch.ones(n_patches, n_patches, dtype=torch.bool, device=query.device).triu(1)
    weights = (query @ key.transpose(-1, -2)).masked_fill(future, -torch.inf).softmax(dim=-1)
    return weights.to(value.dtype) @ value


def _layer(x: Tensor, layer: Transformer, cos: Tensor, sin: Tensor) -> Tensor:
    attn = layer.attn
    batch, n_patches, dims = x.shape
    qkv = attn.qkv_proj(rms_norm(x, layer.pre_attn_ln)).view(
        batch, n_patches, 3, attn.num_heads, attn.head_dim
    )
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    query = rms_norm(_rotate(query, cos, sin), attn.query_ln)
    key = rms_norm(_rotate(key, cos, sin), attn.key_ln)
    scale = 1.442695041 / math.sqrt(attn.head_dim) * F.softplus(attn.per_dim_scale.per_dim_scale)
    query = query * scale.to(query.dtype)
    mixed = _causal_attention(query, key, value)
    mixed = attn.out(mixed.transpose(1, 2).reshape(batch, n_patches, dims))
    x = x + rms_norm(mixed, layer.post_attn_ln)
    hidden = layer.ff1(layer.activation(layer.ff0(rms_norm(x, layer.pre_ff_ln))))
    return x + rms_norm(hidden, layer.post_ff_ln)


def forward_states(
    module: TimesFM_2p5_200M_torch_module, inputs: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """Return what the heads read at every patch: the last layer's result [B, N, model dims].

    Args:
        inputs: result [B, N, 64] of `normalised_inputs`. Attention includes every patch, also one
            that is fully masked, which the package would count as padding at the start.
        cos, sin: `rotary_table` of N patches.
    """
    x = _residual_block(inputs, module.tokenizer)
    for layer in module.stacked_xf:
        x = _layer(x, layer, cos.to(x.dtype), sin.to(x.dtype))
    return x


def forward_points(
    module: TimesFM_2p5_200M_torch_module, inputs: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """Return the normalised forecasts of the point head from every patch, [B, N, 128, 10].

    inputs, cos, sin: as for `forward_states`.
    """
    out = _residual_block(forward_states(module, inputs, cos, sin), module.output_projection_point)
    return out.view(*out.shape[:2], module.o, module.q)
