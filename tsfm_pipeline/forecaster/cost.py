"""The least that a plan can cost: floating-point operations and bytes, and this machine's rate for
each.

What belongs here: operation counts derived from the architecture's sizes, and the measured rates of
matrix products and copies. What does not: the computation itself (`model`), its batches (`plan`),
and its measured time (`reports.latency.numbers`).
"""

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from tsfm_pipeline.forecaster.config import N_COLUMNS, PATCH_LEN
from tsfm_pipeline.forecaster.plan import OUTPUT_PATCH_LEN, Plan, n_blocks

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.architecture import Architecture
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

TOKEN_INPUTS = 2 * PATCH_LEN
"""Inputs of the tokenizer: a patch's points and their padding mask."""
TOKENS_PER_DECODE = OUTPUT_PATCH_LEN // PATCH_LEN
COPIED_MIB = 256


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (a multiply and an add are two) and bytes moved."""

    flops: float
    bytes: float

    def floor_ms(self, rates: "Rates") -> float:
        """Return the least time in milliseconds at these rates, reached if copying and multiplying
        overlap perfectly.
        """
        return 1e3 * max(self.flops / rates.matmul_flops_per_s, self.bytes / rates.copy_bytes_per_s)


@dataclass(frozen=True)
class Rates:
    """What this machine reaches per second: operations of the model's own matrix products, and
    bytes that a copy reads plus writes.
    """

    matmul_flops_per_s: float
    copy_bytes_per_s: float

    def or_faster(self, other: "Rates") -> "Rates":
        """Return the higher of the two measurements of each rate: other load on a shared machine
        can only lower a rate, and a floor needs the highest.
        """
        return Rates(
            max(self.matmul_flops_per_s, other.matmul_flops_per_s),
            max(self.copy_bytes_per_s, other.copy_bytes_per_s),
        )


def pass_flops(architecture: "Architecture", n_tokens: int, n_boundaries: int, horizon: int) -> int:
    """Return the operations of one pass over a window of P tokens that forecasts the next H points
    at B of its patch boundaries.

    With M model dims, F feed-forward dims, L layers and 10 values per point, in multiply-adds (two
    operations each): tokenizer P (64 M + M M + 64 M); every layer's keys and values P 2 M M;
    queries, output projection and feed-forward block (2 M M + 2 M F) for P tokens of L - 1 layers
    and for B of the last; causal attention 2 M times the tokens that each query sees (itself and
    all before), of P queries, in the last layer of B; heads B (M M + 2 M 10 min(H, 128)). Each 128
    points beyond the first 128 append four tokens to the window. Norms, rotations and activations
    are not counted: they take a few operations per value, a product takes hundreds. The count
    assumes that the B boundaries are the last ones of the window.
    """
    total, before, new, wanted = 0, 0, n_tokens, n_boundaries
    for done in range(0, horizon, OUTPUT_PATCH_LEN):
        total += _forward_macs(
            architecture, before, new, wanted, min(horizon - done, OUTPUT_PATCH_LEN)
        )
        before, new, wanted = before + new, TOKENS_PER_DECODE, 1
    return 2 * total


def pass_bytes(
    architecture: "Architecture", n_tokens: int, n_boundaries: int, horizon: int, element_size: int
) -> int:
    """Return the bytes of activations that the same pass reads and writes if every product reads
    its input once and writes its output once.

    A layer moves 12 M + 2 F values per token: qkv (M in, 3 M out), attention (3 M, M), its
    projection (M, M), the feed-forward block (M, F, F, M). A whole batch shares the weights;
    `weight_bytes` counts them.
    """
    dims, ff, layers = architecture.model_dims, architecture.ff_dims, architecture.num_layers
    outputs = N_COLUMNS * min(horizon, OUTPUT_PATCH_LEN)
    per_token = 2 * TOKEN_INPUTS + 4 * dims + (layers - 1) * (12 * dims + 2 * ff) + 3 * dims
    per_boundary = 10 * dims + 2 * ff + 4 * dims + 2 * outputs
    n_more = -(-horizon // OUTPUT_PATCH_LEN) - 1
    return element_size * (
        (n_tokens + TOKENS_PER_DECODE * n_more) * per_token + (n_boundaries + n_more) * per_boundary
    )


def weight_bytes(architecture: "Architecture", horizon: int, element_size: int) -> int:
    """Return the bytes of the matrices that a batch reads once: tokenizer, layers, and the head's
    rows for the points that it forecasts.
    """
    dims, ff = architecture.model_dims, architecture.ff_dims
    outputs = N_COLUMNS * min(horizon, OUTPUT_PATCH_LEN)
    head = dims * dims + 2 * dims * outputs
    return element_size * (
        _tokenizer_macs(dims) + architecture.num_layers * (4 * dims * dims + 2 * dims * ff) + head
    )


def plan_cost(plan: Plan, architecture: "Architecture", horizon: int, element_size: int) -> Cost:
    """Return the cost of a plan of forecasts of `horizon` steps: its passes, and the weights once
    per batch.
    """
    flops = moved = 0
    for batch in plan.batches:
        points = max(n_blocks(plan.configs[i], horizon) for i in np.unique(batch.config_index))
        tokens = batch.tokens
        boundaries = np.bincount(batch.window, minlength=len(tokens))
        moved += weight_bytes(architecture, points, element_size)
        for (n_tokens, n_boundaries), count in Counter(
            zip(tokens.tolist(), boundaries.tolist(), strict=True)
        ).items():
            flops += count * pass_flops(architecture, n_tokens, n_boundaries, points)
            moved += count * pass_bytes(architecture, n_tokens, n_boundaries, points, element_size)
    return Cost(flops, moved)


def measure_rates(forecaster: "FrozenForecaster", rows: int = 2048, repeats: int = 20) -> Rates:
    """Measure the rates of a layer's matrix products and of a copy of 256 MiB.

    Each product of `rows` tokens runs on as many threads at once as the forecaster runs batches.
    The fastest of `repeats` runs counts.
    """
    import torch

    decoder = forecaster.decoder
    architecture, device = decoder.architecture, decoder.device
    dims, ff = architecture.model_dims, architecture.ff_dims
    n_batches = forecaster.n_threads if device.type == "cpu" else 1

    def seconds(run: Callable[[], object]) -> float:
        taken = []
        for _ in range(repeats):
            started = perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(perf_counter() - started)
        return min(taken[1:])

    flops = total = 0.0
    with torch.inference_mode():
        for inputs, outputs in ((dims, 3 * dims), (dims, dims), (dims, ff), (ff, dims)):
            x = torch.randn(rows, inputs, device=device).to(decoder.dtype)
            matrix = decoder.matrix(torch.randn(outputs, inputs), decoder.dtype)
            products = [partial(matrix.times, x)] * n_batches
            total += seconds(partial(forecaster.side_by_side, operator.call, products))
            flops += 2 * rows * inputs * outputs * n_batches
        source = torch.zeros(COPIED_MIB * 2**18, dtype=torch.float32, device=device)
        target = torch.empty_like(source)
        copied = 2 * source.nbytes / seconds(lambda: target.copy_(source))
    return Rates(flops / total, copied)


def _forward_macs(
    architecture: "Architecture", n_before: int, n_new: int, n_wanted: int, n_points: int
) -> int:
    """Return the multiply-adds of one forward pass over new tokens that follow those whose keys and
    values are kept.
    """
    dims, ff, layers = architecture.model_dims, architecture.ff_dims, architecture.num_layers
    tokenizer = n_new * _tokenizer_macs(dims)
    every_layer = n_new * 2 * dims * dims * layers
    projections = (n_new * (layers - 1) + n_wanted) * (2 * dims * dims + 2 * dims * ff)
    attention = (
        2
        * dims
        * (
            (layers - 1) * _tokens_seen(n_before, n_new, n_new)
            + _tokens_seen(n_before, n_new, n_wanted)
        )
    )
    heads = n_wanted * (dims * dims + 2 * dims * N_COLUMNS * n_points)
    return tokenizer + every_layer + projections + attention + heads


def _tokens_seen(n_before: int, n_new: int, n_queries: int) -> int:
    """Return the number of tokens seen, summed over the last `n_queries` of the new tokens."""
    first = n_before + n_new - n_queries + 1
    return n_queries * (first + n_before + n_new) // 2


def _tokenizer_macs(dims: int) -> int:
    return 2 * TOKEN_INPUTS * dims + dims * dims
