"""Define what a training run learns: its windows, its loss, and its validation loss.

What belongs here: the protocol of a task, the loss of forecasts, and the task of pretraining on a
corpus. What does not: updates of the weights (`trainer`), and the formula of the loss
(`objective`). A study may train on series of its own by another task.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, Self

import torch
from timesfm.timesfm_2p5.timesfm_2p5_torch import TimesFM_2p5_200M_torch_module as Module
from torch import Tensor, nn

from tsfm_pipeline.pretraining import corpus, corpus3
from tsfm_pipeline.pretraining.corpus import PATCH, Pool, Windows
from tsfm_pipeline.pretraining.heldout import validation_sets
from tsfm_pipeline.pretraining.network import (
    forward_points,
    normalised_inputs,
    rotary_table,
    running_statistics,
)
from tsfm_pipeline.pretraining.objective import (
    LOSS_FLOOR,
    SegmentLosses,
    objective,
    segment_losses,
)
from tsfm_pipeline.pretraining.options import TrainOptions


class Batch(Protocol):
    """A named tuple of tensors with one row per window."""

    def at(self, rows: Tensor | slice) -> Self:
        """Return some of the windows."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Sums(NamedTuple):
    """Sums over what is scored in a batch, each a scalar: the loss that is minimised, the loss in
    the units that the log shows, and the number of what was scored.
    """

    total: Tensor
    plain: Tensor
    number: Tensor


class Task(Protocol):
    """What a run learns. It must be a pure function of the options' seed and the step."""

    @property
    def head(self) -> nn.Module | None:
        """Further parameters, trained with the model's at the same rate."""
        ...

    def batch(self, step: int, n: int, n_patches: int) -> Batch:
        """Return n windows of n_patches context patches. Steps are requested in order."""
        ...

    def losses(self, module: Module, *batch: Any) -> Any:
        """Return the losses of a batch, in the form that `sums` takes. It may be compiled."""
        ...

    def sums(self, losses: Any) -> Sums:
        """Return the sums over a batch's losses."""
        ...

    def validation(self, module: Module) -> dict[str, float]:
        """Return the validation losses by name."""
        ...


def patch_inputs(values: Tensor, masked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokenizer's input [B, N, 64] for context points float32 [B, N * 32] of which some
    are masked, and the running mean and standard deviation [B, N].
    """
    patches, masked = values.unflatten(1, (-1, PATCH)), masked.unflatten(1, (-1, PATCH))
    mu, sigma = running_statistics(patches, masked)
    return normalised_inputs(patches, masked, mu, sigma), mu, sigma


def rotary_table_of(module: Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return `rotary_table` for a module and its input [B, N, 64]."""
    return rotary_table(inputs.shape[1], module.stacked_xf[0].attn.head_dim, inputs.device)


def forecast_losses(
    module: Module,
    values: Tensor,
    masked: Tensor,
    observed: Tensor | None = None,
    mixed: bool = True,
) -> SegmentLosses:
    """Return the losses of the forecasts for windows [B, N * 32 + 128] (see `corpus.Windows`).

    mixed: compute matrix products in bfloat16. Without compilation, a CPU that lacks instructions
    for it takes several times as long as in float32.
    """
    inputs, mu, sigma = patch_inputs(values[:, : masked.shape[1]], masked)
    cos, sin = rotary_table_of(module, inputs)
    with torch.autocast(values.device.type, dtype=torch.bfloat16, enabled=mixed):
        points = forward_points(module, inputs, cos, sin)
    return segment_losses(points, values, mu, sigma, observed)


def forecast_sums(losses: SegmentLosses) -> Sums:
    """Return the objective over the scored segments, and their decile loss in window units."""
    return Sums(
        total=objective(losses),
        plain=(losses.pinball.detach() * losses.scored).sum(),
        number=losses.scored.sum(),
    )


class CorpusTask:
    """Forecasting of windows from a synthetic corpus: pretraining."""

    head = None

    def __init__(self, options: TrainOptions, device: torch.device) -> None:
        self.options, self.device = options, device
        generate = (corpus if options.corpus == "2" else corpus3).generate_block
        self.pool = Pool(options.seed, device, options.pool, generate)
        self.validation_sets: dict[str, Windows] = {}

    def batch(self, step: int, n: int, n_patches: int) -> Windows:
        """As `Task`; n is a multiple of 4."""
        seed, pool = self.options.seed, self.pool.at(step)
        if self.options.corpus != "2":
            splices = self.options.corpus == "4"
            windows = corpus3.sample_windows(pool, seed, step, n, n_patches, splices)
        else:
            values, leading = corpus.sample_windows(pool, seed, step, n, n_patches)
            steps = torch.arange(n_patches * PATCH, device=self.device)[None]
            windows = Windows(values, steps < leading)
        # Each quarter has one aggregation. Interleaving them gives every micro-batch the same mix.
        order = torch.arange(n, device=self.device).view(4, -1).T.reshape(-1)
        return windows.at(order)

    def losses(self, module: Module, *batch: Any) -> SegmentLosses:
        """As `Task`; batch: the fields of `Windows`."""
        return forecast_losses(module, *batch)

    def sums(self, losses: SegmentLosses) -> Sums:
        """As `Task`."""
        return forecast_sums(losses)

    def validation(self, module: Module) -> dict[str, float]:
        """Return the mean log decile loss on every validation set."""
        self.validation_sets = self.validation_sets or validation_sets(
            self.options.corpus, self.device
        )
        result = {}
        for name, windows in self.validation_sets.items():
            losses = forecast_losses(module, *windows)
            result[name] = float(torch.log(losses.pinball[losses.scored] + LOSS_FLOOR).mean())
        return result
