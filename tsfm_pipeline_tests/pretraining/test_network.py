"""Test that the training forward pass gives the same result as the package."""

import pytest
import torch

from tsfm_pipeline.forecaster.architecture import (
    BUNDLED,
    TIMESFM_2_5_200M,
    Architecture,
    build_module,
    definition,
)
from tsfm_pipeline.pretraining.network import (
    forward_points,
    initialise,
    normalised_inputs,
    rotary_table,
    running_statistics,
)

SMALL = Architecture(
    model_dims=32,
    ff_dims=48,
    num_layers=2,
    num_heads=2,
    output_quantile_len=128,
    context_limit=16_384,
)


def small_module():
    module = build_module(SMALL)
    initialise(module, 0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                0.05
                * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
                )
            )
    return module


@pytest.mark.parametrize("n_masked", [0, 1, 31])
def test_forward_equals_the_packages_decode(n_masked: int):
    module = small_module()
    values = torch.randn(3, 8, 32, generator=torch.Generator().manual_seed(1)).cumsum(1) * 5 + 40
    masked = torch.zeros(3, 8, 32, dtype=torch.bool)
    masked[:, 0, :n_masked] = True
    expected, _, _ = module.decode(128, values.view(3, -1), masked.view(3, -1))
    mu, sigma = running_statistics(values, masked)
    cos, sin = rotary_table(8, SMALL.head_dims, values.device)
    with torch.no_grad():
        points = forward_points(module, normalised_inputs(values, masked, mu, sigma), cos, sin)
    renormed = points * sigma[..., None, None] + mu[..., None, None]
    assert torch.allclose(renormed, expected, atol=1e-3, rtol=1e-4)


def test_running_statistics_of_a_constant_are_exact():
    values = torch.full((2, 16, 32), 0.1) * torch.tensor([[[1.0]], [[1e6]]])
    mu, sigma = running_statistics(values, torch.zeros_like(values, dtype=torch.bool))
    assert torch.equal(sigma, torch.zeros_like(sigma))
    assert torch.allclose(mu, values[..., 0])


def test_fresh_weights_pass_a_signal_where_the_packages_would_not():
    module = build_module(SMALL)
    inputs = torch.randn(1, 4, 64)
    cos, sin = rotary_table(4, SMALL.head_dims, inputs.device)
    initialise(module, 0)
    inputs.requires_grad_()
    forward_points(module, inputs, cos, sin).sum().backward()
    attention = module.stacked_xf[0].attn.qkv_proj.weight.grad
    assert attention is not None
    assert attention.abs().max() > 0


def test_gradients_stay_finite_through_a_constant_stretch():
    module = build_module(SMALL).train()
    initialise(module, 0)
    values = torch.zeros(1, 8, 32)
    values[:, 4:] = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(2))
    masked = torch.zeros_like(values, dtype=torch.bool)
    mu, sigma = running_statistics(values, masked)
    cos, sin = rotary_table(8, SMALL.head_dims, values.device)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        forward_points(
            module, normalised_inputs(values, masked, mu, sigma), cos, sin
        ).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_sizes_are_those_of_the_architecture():
    module = build_module(SMALL)
    assert (module.md, module.x, module.h, module.hd, module.os) == (32, 2, 2, 16, 128)
    assert module.config.context_limit == 16_384
    assert str(module.device) == "cpu"
    assert sum(p.numel() for p in build_module(BUNDLED).parameters()) * 4 < 40 * 2**20
    full = definition(TIMESFM_2_5_200M)
    assert full == type(full)()
    with pytest.raises(ValueError, match="whole and even"):
        Architecture(
            model_dims=10,
            ff_dims=4,
            num_layers=1,
            num_heads=4,
            output_quantile_len=128,
            context_limit=1,
        )
