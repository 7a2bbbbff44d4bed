"""Fine-tuned scores: a foundation model that was trained further on the market before it is scored.

What belongs here: the scorers of TFM-03 (`fine_tuned_forecast`, forecasts of returns read as spread
and probability) and TFM-04 (`fine_tuned_labels`, the probabilities of a classification head), with
every learning rate that was tried. What does not: windows and losses (`tuning_tasks`), and the runs
and what stops and chooses them (`tuning_runs`).

A learning rate is chosen on validation days, per block of test years. The scorers of all rates are
returned beside the chosen one's, because each of them is a variant that was tried.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import torch

from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.forecaster.decoders import frozen_decoder
from tsfm_pipeline.forecaster.devices import device_named
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.registry import find_checkpoint
from tsfm_pipeline.pretraining.trainer import one_thread_each
from tsfm_pipeline.studies.direction.problem import Problem, score_rows, targets, together
from tsfm_pipeline.studies.direction.readings import (
    READINGS,
    Paths,
    reading_scores,
)
from tsfm_pipeline.studies.direction.scorers.zero_shot import panel_of
from tsfm_pipeline.studies.direction.tuning_runs import (
    KINDS,
    RUN_SCHEMA,
    Block,
    Kind,
    Record,
    Trained,
    blocks,
    chosen,
    sweep,
    train,
)
from tsfm_pipeline.studies.direction.tuning_tasks import LabelTask

NAMES: dict[Kind, str] = {"forecast": "fine_tuned_forecast", "labels": "fine_tuned_labels"}
FORECAST_READINGS = {name: READINGS[name] for name in ("spread", "probability")}


def fine_tuning_runs(
    problem: Problem, checkpoint: str | Path, device: str = "auto"
) -> pl.DataFrame:
    """Train a checkpoint further, at every learning rate on every block, and score the market;
    return rows of `RUN_SCHEMA`, one per run.

    checkpoint: a registered name or a folder. device: as in `pretraining.train`. The scorers are
    `fine_tuned_forecast_spread`, `fine_tuned_forecast_probability` and `fine_tuned_labels` at the
    chosen learning rates, and `fine_tuned_forecast_<rate>_spread` and so on at each of them.

    Runs go side by side on a CPU, one thread each, so the result does not depend on the number of
    threads. Raises `registry.CheckpointError` if the checkpoint is absent or not one, and
    ValueError for a context that the trainer cannot split into segments.
    """
    where = device_named(device)
    runs = list(product(blocks(problem), KINDS, problem.options.fine_tuning.learning_rates))

    def run(asked: tuple[Block, Kind, float]) -> tuple[pl.DataFrame, Record]:
        block, kind, rate = asked
        trained = train(problem, checkpoint, kind, block, rate, where)
        rows = _label_rows if kind == "labels" else _forecast_rows
        name = f"{NAMES[kind]}_{_shown(rate)}"
        return rows(problem, trained, name, checkpoint), trained.record

    n_threads = torch.get_num_threads() if where.type == "cpu" else 1
    with ThreadPoolExecutor(n_threads, initializer=one_thread_each) as threads:
        results = list(threads.map(run, runs))
    records = [record for _, record in results]
    best = chosen(records)
    scores = [
        together([_named_as_chosen(rows, record), rows])
        if record.learning_rate == best[record.kind, record.block.years]
        else rows
        for rows, record in results
    ]
    nested = pl.Series("scores", [rows.to_struct() for rows in scores], RUN_SCHEMA["scores"])
    return sweep(records).with_columns(nested)


def fine_tuned_scores(runs: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `SCORE_SCHEMA` of all runs, which are rows of `RUN_SCHEMA`."""
    return runs.select(pl.col("scores").explode()).drop_nulls().unnest("scores")


def _named_as_chosen(rows: pl.DataFrame, record: Record) -> pl.DataFrame:
    """Return a run's rows under the name of the scorer with the chosen learning rates."""
    return rows.with_columns(pl.col("scorer").str.replace(f"_{_shown(record.learning_rate)}", ""))


def _forecast_rows(
    problem: Problem, trained: Trained, name: str, checkpoint: str | Path
) -> pl.DataFrame:
    """Return the rows of a model that forecasts returns, for the folds of its block."""
    info, architecture, _ = find_checkpoint(checkpoint)
    device = trained.task.windows.device
    decoder = frozen_decoder(architecture, trained.module.state_dict(), device, torch.float32)
    forecaster = FrozenForecaster(info, decoder, n_threads=1)
    days, block = trained.record.block.scored_days, trained.record.block
    grid = forecaster.forecast_grid(
        panel_of(problem.bars.returns),
        days,
        [ForecastConfig(context_len=problem.options.fine_tuning.context)],
        max(problem.options.labels.horizons),
    )
    every = np.full((len(problem.bars), *grid.shape[3:]), np.nan)
    every[days] = grid[0, :, 0]
    paths = Paths.of_daily_returns(every)
    of_block = replace(problem, folds=block.folds)
    return together(
        [
            reading_scores(name, paths, of_block, target, FORECAST_READINGS)
            for target in targets(problem.options)
            if target.horizon in block.folds
        ]
    )


def _label_rows(
    problem: Problem, trained: Trained, name: str, checkpoint: str | Path
) -> pl.DataFrame:
    """Return the rows of a model that classifies days, for the folds of its block."""
    task, block = trained.task, trained.record.block
    assert isinstance(task, LabelTask)
    probabilities = np.full(task.days.labels.shape, np.nan)
    probabilities[block.scored_days] = task.probabilities(trained.module, block.scored_days)
    asked = [target for target in targets(problem.options) if target.horizon in block.folds]
    return together(
        [
            score_rows(name, target, fold, column, column)
            for target, column in zip(asked, probabilities.T, strict=True)
            for fold in block.folds[target.horizon]
        ]
    )


def _shown(rate: float) -> str:
    """Return a learning rate as it stands in scorers' names."""
    return f"{rate:.0e}" if float(f"{rate:.0e}") == rate else f"{rate:g}"
