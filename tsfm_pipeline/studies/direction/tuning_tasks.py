"""Tasks of further training on one market: forecasting its returns, and classifying its days.

What belongs here: windows of returns that end on given days, and the two losses, behind the
protocol of `pretraining.tasks`. What does not: the updates (`pretraining.trainer`), which runs are
made and chosen, and reading scores from the trained weights (`scorers.fine_tuned`).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tsfm_pipeline.pretraining.corpus import PATCH, TARGET_LEN, Windows
from tsfm_pipeline.pretraining.network import forward_points, forward_states
from tsfm_pipeline.pretraining.objective import SegmentLosses
from tsfm_pipeline.pretraining.tasks import (
    Module,
    Sums,
    forecast_losses,
    forecast_sums,
    patch_inputs,
    rotary_table_of,
)
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.problem import Days

WINDOW_STREAM = 1
"""Beside the trainer's own draws, which follow from the seed and the step alone."""
ROWS_AT_ONCE = 256
"""Windows in one forward pass without gradients, which bounds its memory."""


@dataclass(frozen=True)
class ReturnWindows:
    """Windows of one market's returns.

    returns: float64 [T], NaN where unknown. context: trading days that the model sees.
    """

    returns: Floats
    context: int
    device: torch.device

    @property
    def n_patches(self) -> int:
        """Patches of a window; the first begins with padding if the context does not fill it."""
        return math.ceil(self.context / PATCH)

    @property
    def mixed(self) -> bool:
        """Whether matrix products are in bfloat16: on a GPU only."""
        return self.device.type == "cuda"

    def first_day(self) -> int:
        """Return the first day with a whole context of known returns."""
        return int(np.flatnonzero(np.isfinite(self.returns))[0]) + self.context - 1

    def ending(self, days: Days, last_day: int) -> Windows:
        """Return the windows [B, N * 32 + 128] that end on some days, with the days after them.

        A window is divided by the standard deviation of its context. Days before the context are
        masked; days after `last_day` are no targets and are zero.
        """
        length = self.n_patches * PATCH
        index = days[:, None] + np.arange(1 - length, TARGET_LEN + 1)
        known = self.returns[np.clip(index, 0, len(self.returns) - 1)]
        observed = (index >= 0) & (index <= last_day) & np.isfinite(known)
        values = np.where(observed, known, 0.0)
        scale = values[:, length - self.context : length].std(axis=1, keepdims=True)
        masked = np.broadcast_to(np.arange(length) < length - self.context, (len(days), length))
        return Windows(
            torch.from_numpy((values / scale).astype(np.float32)).to(self.device),
            torch.from_numpy(masked.copy()).to(self.device),
            torch.from_numpy(observed).to(self.device),
        )


class ForecastTask:
    """Forecasting a market's returns (TFM-03).

    Training windows end on any day up to `last_training_day`, and no target lies after it. The
    validation loss is that of the forecasts made on the validation days, for the next `horizon`
    days: the mean decile loss in standard deviations of the context.
    """

    head = None

    def __init__(
        self,
        windows: ReturnWindows,
        last_training_day: int,
        validation_days: Days,
        horizon: int,
        seed: int,
    ) -> None:
        self.windows, self.last_training_day = windows, last_training_day
        self.validation_days, self.horizon, self.seed = validation_days, horizon, seed

    def batch(self, step: int, n: int, n_patches: int) -> Windows:
        """As `pretraining.tasks.Task`."""
        rng = np.random.default_rng([self.seed, step, WINDOW_STREAM])
        ends = rng.integers(self.windows.first_day(), self.last_training_day, size=n)
        return self.windows.ending(ends, self.last_training_day)

    def losses(self, module: Module, *batch: Any) -> SegmentLosses:
        """As `pretraining.tasks.Task`; batch: the fields of `Windows`."""
        values, masked, observed = batch
        return forecast_losses(module, values, masked, observed, mixed=self.windows.mixed)

    def sums(self, losses: SegmentLosses) -> Sums:
        """As `pretraining.tasks.Task`."""
        return forecast_sums(losses)

    @torch.no_grad()
    def validation(self, module: Module) -> dict[str, float]:
        """As `pretraining.tasks.Task`."""
        total = 0.0
        for days in parts(self.validation_days):
            values, masked, _ = self.windows.ending(days, int(days.max()) + self.horizon)
            inputs, mu, sigma = patch_inputs(values[:, : masked.shape[1]], masked)
            points = forward_points(module, inputs, *rotary_table_of(module, inputs))
            deciles = points[:, -1, : self.horizon, 1:] * sigma[:, -1, None, None]
            target = values[:, masked.shape[1] :][:, : self.horizon] - mu[:, -1, None]
            error = target[..., None] - deciles
            levels = torch.arange(1, 10, device=error.device) / 10
            total += float((levels * error + torch.relu(-error)).mean((1, 2)).sum())
        return {"loss": total / len(self.validation_days)}


class LabelledWindows(NamedTuple):
    """Windows that end on labelled days.

    values: float32 [B, N * 32], returns. masked: bool [B, N * 32]. beside: float32 [B, F], what
    else is known of the days. labels: float32 [B, L], 0 or 1. known: bool [B, L].
    """

    values: Tensor
    masked: Tensor
    beside: Tensor
    labels: Tensor
    known: Tensor

    def at(self, rows: Tensor | slice) -> "LabelledWindows":
        """Return some of the windows."""
        return LabelledWindows(*(part[rows] for part in self))


class LabelHead(nn.Module):
    """A linear layer on the last token's normalised hidden state and on what is given beside it.

    It starts at the base rates [L], whatever the input.
    """

    def __init__(self, n_states: int, n_beside: int, base_rates: NDArray[np.floating]) -> None:
        super().__init__()
        self.linear = nn.Linear(n_states + n_beside, len(base_rates))
        with torch.no_grad():
            self.linear.weight.zero_()
            rates = torch.from_numpy(np.asarray(base_rates, dtype=np.float32))
            self.linear.bias.copy_(torch.logit(rates, eps=1e-3))

    def forward(self, states: Tensor, beside: Tensor) -> Tensor:
        """Return logits [B, L] for states [B, M] and beside [B, F]."""
        normed = F.layer_norm(states, states.shape[-1:])
        return self.linear(torch.cat([normed, beside.to(normed.dtype)], dim=-1))


@dataclass(frozen=True)
class LabelledDays:
    """What is known of each day of a market.

    beside: float32 [T, F], of the order of one. labels: float64 [T, L], NaN where unknown.
    """

    beside: NDArray[np.float32]
    labels: Floats


class LabelTask:
    """Classifying a market's days by several labels at once (TFM-04).

    training, validation: bool [T, L], the labels that may be read for either. The loss is the
    binary cross-entropy, summed over labels that are known.
    """

    def __init__(
        self,
        windows: ReturnWindows,
        days: LabelledDays,
        training: NDArray[np.bool_],
        validation: NDArray[np.bool_],
        n_states: int,
        seed: int,
    ) -> None:
        self.windows, self.days, self.seed = windows, days, seed
        self.known = {"training": training, "validation": validation}
        self.training_days = np.flatnonzero(training.any(axis=1))
        self.training_days = self.training_days[self.training_days >= windows.first_day()]
        self.validation_days = np.flatnonzero(validation.any(axis=1))
        rates = np.nanmean(np.where(training, days.labels, np.nan), axis=0)
        self.head: nn.Module | None = LabelHead(n_states, days.beside.shape[1], rates)

    def batch(self, step: int, n: int, n_patches: int) -> LabelledWindows:
        """As `pretraining.tasks.Task`."""
        rng = np.random.default_rng([self.seed, step, WINDOW_STREAM])
        return self._labelled(rng.choice(self.training_days, size=n), "training")

    def losses(self, module: Module, *batch: Any) -> tuple[Tensor, Tensor]:
        """Return the cross-entropies [B, L], and which of them count; batch: the fields of
        `LabelledWindows`.
        """
        windows = LabelledWindows(*batch)
        device = windows.values.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.windows.mixed):
            logits = self.logits(module, windows.values, windows.masked, windows.beside)
        losses = F.binary_cross_entropy_with_logits(
            logits.float(), windows.labels, reduction="none"
        )
        return losses, windows.known

    def sums(self, losses: tuple[Tensor, Tensor]) -> Sums:
        """As `pretraining.tasks.Task`."""
        each, known = losses
        total = (each * known).sum()
        return Sums(total, total.detach(), known.sum())

    @torch.no_grad()
    def validation(self, module: Module) -> dict[str, float]:
        """As `pretraining.tasks.Task`."""
        total, count = 0.0, 0.0
        for days in parts(self.validation_days):
            sums = self.sums(self.losses(module, *self._labelled(days, "validation")))
            total, count = total + float(sums.total), count + float(sums.number)
        return {"loss": total / count}

    @torch.no_grad()
    def probabilities(self, module: Module, days: Days) -> NDArray[np.float64]:
        """Return the probabilities of the labels on some days, float64 [B, L], at the module's
        and the head's present weights.
        """
        found = []
        for some in parts(days):
            values, masked, _ = self.windows.ending(some, int(some.max()))
            beside = torch.from_numpy(self.days.beside[some]).to(values.device)
            logits = self.logits(module, values[:, : masked.shape[1]], masked, beside)
            found.append(torch.sigmoid(logits.double()).cpu().numpy())
        return np.concatenate(found)

    def logits(self, module: Module, values: Tensor, masked: Tensor, beside: Tensor) -> Tensor:
        """Return logits [B, L] of windows [B, N * 32]."""
        assert self.head is not None
        inputs, _, _ = patch_inputs(values, masked)
        states = forward_states(module, inputs, *rotary_table_of(module, inputs))
        logits: Tensor = self.head(states[:, -1], beside)
        return logits

    def _labelled(self, days: Days, part: str) -> LabelledWindows:
        device = self.windows.device
        values, masked, _ = self.windows.ending(days, int(days.max()))
        known = self.known[part][days]
        labels = np.where(known, self.days.labels[days], 0.0).astype(np.float32)
        return LabelledWindows(
            values[:, : masked.shape[1]],
            masked,
            torch.from_numpy(self.days.beside[days]).to(device),
            torch.from_numpy(labels).to(device),
            torch.from_numpy(known).to(device),
        )


def parts(days: Days) -> list[Days]:
    """Return days in runs that fit into one forward pass."""
    return [days[first : first + ROWS_AT_ONCE] for first in range(0, len(days), ROWS_AT_ONCE)]
