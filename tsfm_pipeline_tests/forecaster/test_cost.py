"""Test that counted costs equal those of the real forward pass, and that a floor is not above the
cost that it bounds.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.forecaster.architecture import Architecture
from tsfm_pipeline.forecaster.cost import (
    Cost,
    Rates,
    measure_rates,
    pass_bytes,
    pass_flops,
    plan_cost,
    weight_bytes,
)
from tsfm_pipeline.forecaster.engine import FrozenForecaster, load_forecaster
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.forecaster.plan import plan_grid


def counted(
    forecaster: FrozenForecaster, n_windows: int, n_tokens: int, boundaries: list[int], horizon: int
) -> dict[str, float]:
    """Operations of a real decode: of its matrix products, and of attention as if every query saw
    every token.
    """
    custom = {
        torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * np.prod(x) * weight[0],
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
            sdpa_flop_count(q, k, v)
        ),
    }
    windows = torch.randn(n_windows, n_tokens * 32)
    rows = np.repeat(np.arange(n_windows), len(boundaries))
    token = np.tile(boundaries, n_windows)
    with FlopCounterMode(display=False, custom_mapping=custom) as counter:
        forecaster.decoder.decode(
            [(windows, torch.zeros(n_windows, dtype=torch.int64))], rows, token, horizon
        )
    counts = {str(op): value for op, value in counter.get_flop_counts()["Global"].items()}
    attention = sum(value for op, value in counts.items() if "attention" in op)
    return {"products": sum(counts.values()) - attention, "attention": attention}


@pytest.fixture(scope="module")
def of_torch_operators(checkpoint_directory: Path) -> FrozenForecaster:
    """A forecaster whose operations are counted, being torch's."""
    return load_forecaster(checkpoint_directory, device="cpu", use_kernels=False)


def attention_flops(dims: int, queries: list[int]) -> int:
    """Causal attention: the query at position i (from 0) sees i + 1 tokens; a product with keys and
    one with values.
    """
    return sum(4 * dims * (i + 1) for i in queries)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("n_tokens", "n_boundaries", "horizon"), [(1, 1, 60), (16, 1, 60), (16, 5, 12), (40, 40, 128)]
)
def test_the_products_of_a_pass_are_counted_as_the_decoder_makes_them(
    of_torch_operators: FrozenForecaster, n_tokens: int, n_boundaries: int, horizon: int
) -> None:
    architecture = of_torch_operators.decoder.architecture
    boundaries = list(range(n_tokens - n_boundaries, n_tokens))
    real = counted(of_torch_operators, 3, n_tokens, boundaries, horizon)
    last, dims = architecture.num_layers - 1, architecture.model_dims
    attention = last * attention_flops(dims, list(range(n_tokens))) + attention_flops(
        dims, boundaries
    )
    assert (
        3 * pass_flops(architecture, n_tokens, n_boundaries, horizon)
        == real["products"] + 3 * attention
    )
    assert 3 * attention <= real["attention"] or n_tokens == 1


def test_a_decode_beyond_one_output_patch_appends_four_tokens(
    of_torch_operators: FrozenForecaster,
) -> None:
    architecture = of_torch_operators.decoder.architecture
    real = counted(of_torch_operators, 2, 8, [7], 200)
    dims, last = architecture.model_dims, architecture.num_layers - 1
    first = last * attention_flops(dims, list(range(8))) + attention_flops(dims, [7])
    second = last * attention_flops(dims, [8, 9, 10, 11]) + attention_flops(dims, [11])
    assert 2 * pass_flops(architecture, 8, 1, 200) == real["products"] + 2 * (first + second)


def test_a_plan_costs_its_passes_and_its_weights_once_per_batch(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    architecture = forecaster.decoder.architecture
    configs = [ForecastConfig(context_len=512), ForecastConfig(context_len=64)]
    origins = np.full((len(telemetry), 1), telemetry.shape[1] - 1)
    once = plan_grid(Panel(telemetry), origins, configs, 60, token_budget=10_000)
    split = plan_grid(Panel(telemetry), origins, configs, 60, token_budget=16)
    assert len(once.batches) == 1 < len(split.batches)
    cost = plan_cost(once, architecture, 60, 4)
    assert (
        cost.flops
        == 4 * (pass_flops(architecture, 16, 1, 60) + pass_flops(architecture, 2, 1, 60))
        == plan_cost(split, architecture, 60, 4).flops
    )
    assert plan_cost(split, architecture, 60, 4).bytes - cost.bytes == (
        len(split.batches) - 1
    ) * weight_bytes(architecture, 60, 4)
    assert plan_cost(once, architecture, 60, 2).bytes * 2 == cost.bytes


def test_the_weights_are_those_of_the_decoder(
    forecaster: FrozenForecaster, of_torch_operators: FrozenForecaster
) -> None:
    """Without biases and norms, which are vectors; however they are laid out."""
    for model in (forecaster, of_torch_operators):
        matrices = sum(tensor.nbytes for tensor in model.parameters() if tensor.ndim > 1)
        assert weight_bytes(model.decoder.architecture, 128, 4) == matrices


def test_activations_grow_with_tokens_and_boundaries() -> None:
    architecture = Architecture(
        model_dims=64,
        ff_dims=96,
        num_layers=2,
        num_heads=2,
        output_quantile_len=128,
        context_limit=16_384,
    )
    base = pass_bytes(architecture, 8, 1, 60, 4)
    assert pass_bytes(architecture, 16, 1, 60, 4) > base < pass_bytes(architecture, 8, 2, 60, 4)


def test_the_floor_is_the_slower_of_the_two_rates() -> None:
    assert Cost(2e9, 1e6).floor_ms(Rates(1e12, 1e9)) == pytest.approx(2.0)
    assert Cost(2e9, 1e7).floor_ms(Rates(1e12, 1e9)) == pytest.approx(10.0)


def test_rates_are_those_of_a_machine(forecaster: FrozenForecaster) -> None:
    rates = measure_rates(forecaster, rows=64, repeats=3)
    assert 1e8 < rates.matmul_flops_per_s < 1e15
    assert 1e7 < rates.copy_bytes_per_s < 1e14
