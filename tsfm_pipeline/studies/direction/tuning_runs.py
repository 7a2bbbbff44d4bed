"""Runs of further training on one market: every learning rate, on every block of test years.

What belongs here: which runs there are, early stopping on validation days, and the record of the
learning rates. What does not: windows and losses (`tuning_tasks`), updates
(`pretraining.trainer`), and reading scores from trained weights (`scorers.fine_tuned`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
import torch

from tsfm_pipeline.forecaster.registry import checkpoint_digest, find_checkpoint
from tsfm_pipeline.pretraining.options import TrainOptions
from tsfm_pipeline.pretraining.trainer import Trainer
from tsfm_pipeline.studies.direction.problem import (
    SCORE_SCHEMA,
    Days,
    Fold,
    Problem,
    scored_days,
    targets,
)
from tsfm_pipeline.studies.direction.tuning_tasks import (
    ForecastTask,
    LabelledDays,
    LabelTask,
    ReturnWindows,
)

Kind = Literal["forecast", "labels"]
KINDS: tuple[Kind, ...] = ("forecast", "labels")
"""TFM-03, and TFM-04."""
WINDOWS_PER_STEP = 32
CHECKS = 5
"""Validations in a run; the weights with the least validation loss are kept."""
PATIENCE = 2
"""Validations without a smaller loss after which a run ends."""
DIVERGED = 1.1
"""A run whose last validation loss is this multiple of the loss before it has diverged."""

SWEEP_SCHEMA = pl.Schema(
    {
        "kind": pl.String,
        "first_year": pl.Int32,
        "last_year": pl.Int32,
        "learning_rate": pl.Float64,
        "loss_before": pl.Float64,
        "best_loss": pl.Float64,
        "best_step": pl.Int32,
        "last_loss": pl.Float64,
        "steps": pl.Int32,
        "diverged": pl.Boolean,
        "chosen": pl.Boolean,
    }
)
"""One row per run. first_year, last_year: the test years that it serves. Losses are of the
validation days: of a forecast the mean decile loss in standard deviations of the context, of labels
the binary cross-entropy. steps: updates made. chosen: the learning rate with the least loss of its
kind and block."""
RUN_SCHEMA = pl.Schema({**SWEEP_SCHEMA, "scores": pl.List(pl.Struct(SCORE_SCHEMA))})
"""scores: the rows of `SCORE_SCHEMA` that the run gave."""


class Block(NamedTuple):
    """Consecutive test years that one training serves.

    folds: per horizon, ascending by year. first: per horizon the fold of the first year, whose
    training and validation days are those of the block.
    """

    years: tuple[int, ...]
    folds: Mapping[int, tuple[Fold, ...]]

    @property
    def first(self) -> dict[int, Fold]:
        return {horizon: folds[0] for horizon, folds in self.folds.items()}

    @property
    def scored_days(self) -> Days:
        """The validation and test days of all folds, each once, ascending."""
        return scored_days(chain(*self.folds.values()))


class Check(NamedTuple):
    """A validation after some updates."""

    step: int
    loss: float


@dataclass(frozen=True)
class Record:
    """What is known of one training. checks: ascending by step, the first before any update."""

    kind: Kind
    block: Block
    learning_rate: float
    checks: tuple[Check, ...]

    @property
    def best(self) -> Check:
        """The check with the least loss after an update."""
        return min(self.checks[1:], key=_comparable)

    @property
    def diverged(self) -> bool:
        """Whether the last validation loss is not finite, or well above the first."""
        last = self.checks[-1]
        return _comparable(last) > DIVERGED * self.checks[0].loss


def blocks(problem: Problem) -> Iterator[Block]:
    """Yield the blocks of `refit_years` test years."""
    by_horizon = problem.folds
    years = sorted({fold.year for folds in by_horizon.values() for fold in folds})
    size = problem.options.fine_tuning.refit_years
    for first in range(0, len(years), size):
        some = tuple(years[first : first + size])
        folds = {
            horizon: tuple(fold for fold in folds if fold.year in some)
            for horizon, folds in by_horizon.items()
        }
        yield Block(some, {horizon: kept for horizon, kept in folds.items() if kept})


def forecast_task(problem: Problem, block: Block, device: torch.device) -> ForecastTask:
    """Return the task of TFM-03: targets are returns up to the last training day of the longest
    horizon, whose validation days give the validation loss.
    """
    horizon = max(block.first)
    fold = block.first[horizon]
    return ForecastTask(
        windows=_windows(problem, device),
        last_training_day=int(fold.train[-1]),
        validation_days=fold.validation,
        horizon=horizon,
        seed=problem.options.fine_tuning.seed,
    )


def label_task(problem: Problem, block: Block, device: torch.device, n_states: int) -> LabelTask:
    """Return the task of TFM-04: all labels at all horizons, and beside the hidden state the
    features and log sigma, standardised on the training days.
    """
    asked = [target for target in targets(problem.options) if target.horizon in block.first]
    training = np.zeros((len(problem.bars), len(asked)), dtype=bool)
    validation = np.zeros_like(training)
    for column, target in enumerate(asked):
        fold = block.first[target.horizon]
        training[fold.train, column] = True
        validation[fold.validation, column] = True
    beside = np.column_stack([problem.features, np.log(problem.sigma)])
    seen = beside[training.any(axis=1)]
    spread = seen.std(axis=0)
    beside = (beside - seen.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    labels = np.column_stack([problem.labels[target] for target in asked])
    return LabelTask(
        windows=_windows(problem, device),
        days=LabelledDays(beside.astype(np.float32), labels),
        training=training & np.isfinite(labels),
        validation=validation & np.isfinite(labels),
        n_states=n_states,
        seed=problem.options.fine_tuning.seed,
    )


class Trained(NamedTuple):
    """A module with the weights that had the least validation loss, and what it learnt."""

    module: torch.nn.Module
    task: ForecastTask | LabelTask
    record: Record


def train(
    problem: Problem,
    checkpoint: str | Path,
    kind: Kind,
    block: Block,
    learning_rate: float,
    device: torch.device,
) -> Trained:
    """Train a checkpoint further on one block, and stop early."""
    _, architecture, weights = find_checkpoint(checkpoint)
    task: ForecastTask | LabelTask = (
        forecast_task(problem, block, device)
        if kind == "forecast"
        else label_task(problem, block, device, architecture.model_dims)
    )
    n_steps, n_patches = problem.options.fine_tuning.steps, task.windows.n_patches
    options = TrainOptions(
        seed=problem.options.fine_tuning.seed,
        steps=n_steps,
        batch_patches=WINDOWS_PER_STEP * n_patches,
        micro_batches=1,
        learning_rate=learning_rate,
        warmup_steps=max(1, n_steps // 10),
        optimizer="adamw",
        start=checkpoint_digest(weights),
        window_patches=(n_patches,),
    )
    trainer = Trainer(options, architecture, device, release=weights, task=task)
    try:
        checks = _stopped_early(trainer, n_steps)
    finally:
        trainer.executor.shutdown()
    return Trained(trainer.module, task, Record(kind, block, learning_rate, checks))


def _stopped_early(trainer: Trainer, n_steps: int) -> tuple[Check, ...]:
    """Update the weights until the validation loss no longer falls, and return the checks. The
    trainer then has the averaged weights of the best one.
    """
    checks = [Check(0, trainer.validation()["loss"])]
    best, waited = math.inf, 0
    weights = {name: tensor.clone() for name, tensor in trainer.ema.items()}
    while trainer.step < n_steps and waited < PATIENCE:
        trainer.train_step()
        if trainer.step % math.ceil(n_steps / CHECKS) and trainer.step < n_steps:
            continue
        check = Check(trainer.step, trainer.validation()["loss"])
        checks.append(check)
        waited += 1
        if check.loss < best:
            best, waited = check.loss, 0
            weights = {name: tensor.clone() for name, tensor in trainer.ema.items()}
    trainer.assign(weights)
    return tuple(checks)


def sweep(records: Sequence[Record]) -> pl.DataFrame:
    """Return the record of all runs, a frame of `SWEEP_SCHEMA`."""
    best = chosen(records)
    rows = [
        {
            "kind": record.kind,
            "first_year": record.block.years[0],
            "last_year": record.block.years[-1],
            "learning_rate": record.learning_rate,
            "loss_before": record.checks[0].loss,
            "best_loss": record.best.loss,
            "best_step": record.best.step,
            "last_loss": record.checks[-1].loss,
            "steps": record.checks[-1].step,
            "diverged": record.diverged,
            "chosen": record.learning_rate == best[record.kind, record.block.years],
        }
        for record in records
    ]
    return pl.DataFrame(rows, schema=SWEEP_SCHEMA)


def chosen(records: Sequence[Record]) -> dict[tuple[Kind, tuple[int, ...]], float]:
    """Return the learning rate with the least validation loss, by kind and test years."""
    best: dict[tuple[Kind, tuple[int, ...]], Record] = {}
    for record in records:
        key = record.kind, record.block.years
        if key not in best or _comparable(record.best) < _comparable(best[key].best):
            best[key] = record
    return {key: record.learning_rate for key, record in best.items()}


def _windows(problem: Problem, device: torch.device) -> ReturnWindows:
    return ReturnWindows(problem.bars.returns, problem.options.fine_tuning.context, device)


def _comparable(check: Check) -> float:
    """Return the loss, infinite where it is not a number."""
    return check.loss if math.isfinite(check.loss) else math.inf
