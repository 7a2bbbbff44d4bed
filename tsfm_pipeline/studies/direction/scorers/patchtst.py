"""PatchTST as a scorer of a market: its channels, and when it is trained.

What belongs here: what a window of a day holds, and one training for several test years. What does
not: the network (`direction.patchtst`).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.features import indicator_names
from tsfm_pipeline.studies.direction.options import LABELS
from tsfm_pipeline.studies.direction.patchtst import Architecture, Training, logits, train
from tsfm_pipeline.studies.direction.problem import (
    Days,
    Fold,
    Problem,
    Target,
    score_rows,
    scored_days,
    targets,
    together,
)
from tsfm_pipeline.studies.direction.scorers.logistic import probabilities_of

NAMES = {"patchtst": False, "patchtst_revin": True}
"""Scorers, and whether every window is normalised by its own mean and standard deviation."""


@dataclass(frozen=True)
class _Block:
    """Test years of one horizon that one training serves: that of the first of them."""

    horizon: int
    folds: tuple[Fold, ...]

    @property
    def days(self) -> Days:
        """Return all days that are scored, ascending."""
        return scored_days(self.folds)


def patchtst_scores(problem: Problem) -> pl.DataFrame:
    """Return rows of `SCORE_SCHEMA` of the scorers in `NAMES` at every target of the study.

    A score is the mean logit of `PatchTSTOptions.seeds` networks. A network has an output for every
    label of its horizon. It is trained on the first of `refit_years` test years' training days,
    stopped by their validation days, and serves all these years.
    """
    seeds = problem.options.patchtst.seeds
    channels = channels_of(problem)
    blocks = [
        _Block(horizon, folds[first : first + problem.options.patchtst.refit_years])
        for horizon, folds in problem.folds.items()
        for first in range(0, len(folds), problem.options.patchtst.refit_years)
    ]
    tasks = [
        (block, revin, seed)
        for revin in NAMES.values()
        for block in blocks
        for seed in range(seeds)
    ]
    # Several trainings at a time on one thread each: sums over days that several threads share
    # would depend on their number.
    with ThreadPoolExecutor(
        torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        made = iter(list(pool.map(lambda task: _block_logits(problem, channels, *task), tasks)))
    rows = []
    for name in NAMES:
        means = [np.mean([next(made) for _ in range(seeds)], axis=0) for _ in blocks]
        rows += [
            _rows(name, target, block, mean)
            for target in targets(problem.options)
            for block, mean in zip(blocks, means, strict=True)
            if block.horizon == target.horizon
        ]
    return together(rows)


def channels_of(problem: Problem) -> Floats:
    """Return what a window shows of each day, float64 [T, 5 + indicators]: the logarithms of open,
    high, low and close over the close of the day before, the change of the logarithm of the volume
    (0 where nothing was traded on one of the days), and the market's indicators.
    """
    bars = problem.bars
    before = np.concatenate([[np.nan], bars.close[:-1]])
    prices = [np.log(price / before) for price in (bars.open, bars.high, bars.low, bars.close)]
    own = [problem.feature(name) for name in indicator_names(bars)]
    return np.column_stack([*prices, _volume_change(bars), *own])


def _volume_change(bars: Bars) -> Floats:
    traded = np.log(np.where(bars.volume > 0, bars.volume, np.nan))
    return np.nan_to_num(np.diff(traded, prepend=np.nan))


def _block_logits(
    problem: Problem, channels: Floats, block: _Block, revin: bool, seed: int
) -> Floats:
    """Train one network; return its logits of the block's days [N, labels]."""
    options = problem.options.patchtst
    first = block.folds[0]
    windows = _windows(channels, first.train, options.context)
    labels = np.column_stack([problem.labels[Target(name, block.horizon)] for name in LABELS])
    outcomes = torch.from_numpy(labels.astype(np.float32))
    shape = Architecture(channels.shape[1], len(LABELS), context=options.context, revin=revin)
    network = train(
        shape,
        Training(epochs=options.epochs),
        (windows(first.train), windows(first.validation)),
        (outcomes[first.train], outcomes[first.validation]),
        seed,
    )
    return logits(network, windows(block.days)).numpy().astype(np.float64)


def _windows(channels: Floats, train_days: Days, context: int) -> Callable[[Days], Tensor]:
    """Return a function from days [N] to their windows float32 [N, channels, context], which end
    with the day. Channels are standardised by the training days; what is not known is 0.
    """
    known = channels[train_days]
    deviation = known.std(axis=0)
    scaled = (channels - known.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    padded = np.concatenate([np.full((context - 1, scaled.shape[1]), np.nan), scaled])
    series = torch.from_numpy(np.nan_to_num(padded).astype(np.float32))
    views = series.unfold(0, context, 1)
    return lambda days: views[torch.from_numpy(days)]


def _rows(name: str, target: Target, block: _Block, mean_logits: Floats) -> pl.DataFrame:
    chosen = mean_logits[:, LABELS.index(target.label)]
    return together(
        [
            score_rows(name, target, fold, chosen, probabilities_of(chosen), block.days)
            for fold in block.folds
        ]
    )
