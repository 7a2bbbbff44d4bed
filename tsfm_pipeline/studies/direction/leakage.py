"""Tests against look-ahead: the future replaced by noise, and inputs that are a day too old.

What belongs here: both tests as numbers, for asset checks. What does not: the reaction to a failure
(`definitions`), and look-ahead inside of given columns and covariates, which are taken as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.features import features, sigma
from tsfm_pipeline.studies.direction.labels import labels
from tsfm_pipeline.studies.direction.options import StudyOptions
from tsfm_pipeline.studies.direction.problem import Fold
from tsfm_pipeline.studies.direction.windows import ratio

N_CUTS = 5
STANDARD_ERRORS = 4.0
"""By how many a scorer must react more to another day than to its own to be called late or early:
the larger of three correlations is taken, and days depend on those before them."""


def feature_leakage(bars: Bars, options: StudyOptions, seed: int) -> float:
    """Return the largest change of a feature, of sigma or of a label that was known at day t, when
    all that comes after t is noise; the largest of several t.

    Relative to the mean absolute value of each. 0 if nothing looks ahead; inf if a value appears or
    disappears.
    """
    before = _known(bars, options)
    rng = np.random.default_rng(seed)
    cuts = np.linspace(len(bars) // 2, len(bars) - 2, N_CUTS).astype(int)
    return max(
        _largest_change(before, _known(with_noise_after(bars, int(day), rng), options), int(day))
        for day in cuts
    )


def with_noise_after(bars: Bars, day: int, rng: np.random.Generator) -> Bars:
    """Return the bars with other prices, volumes, covariates and given columns after a day.

    The noise is valid bars, at up to ten times the last close.
    """
    n_noise = len(bars) - day - 1
    prices = bars.close[day] * rng.uniform(0.1, 10, (4, n_noise))
    lowest, first, last, highest = np.sort(prices, axis=0)

    def noisy(values: Floats) -> Floats:
        past = np.abs(values[: day + 1])
        level = past[np.isfinite(past)].sum() / len(past) + 1
        return np.concatenate([values[: day + 1], rng.exponential(10 * level, n_noise)])

    return replace(
        bars,
        open=np.concatenate([bars.open[: day + 1], first]),
        high=np.concatenate([bars.high[: day + 1], highest]),
        low=np.concatenate([bars.low[: day + 1], lowest]),
        close=np.concatenate([bars.close[: day + 1], last]),
        volume=noisy(bars.volume),
        covariates={name: noisy(values) for name, values in bars.covariates.items()},
        given={name: noisy(values) for name, values in bars.given.items()},
    )


class Shift(NamedTuple):
    """How a scorer reacts to the day that it should know last, and to that day's neighbours.

    auc, older_auc: within folds, of the scores and of those a day older. reaction, older_reaction,
    newer_reaction: the largest absolute rank correlation of what is new in the score with the
    return, its size or the range of that day, of the day before, or of the day after; 0 for a
    constant. n_days: test days of all folds that have a score and an older one of the same fold.
    """

    auc: float
    older_auc: float
    reaction: float
    older_reaction: float
    newer_reaction: float
    n_days: int

    @property
    def is_late(self) -> bool:
        """Whether the scorer's inputs end a day before its day."""
        return self.older_reaction - max(self.reaction, self.newer_reaction) > self._allowance

    @property
    def is_early(self) -> bool:
        """Whether the scorer's inputs end a day after its day: it looks ahead."""
        return self.newer_reaction - max(self.reaction, self.older_reaction) > self._allowance

    @property
    def _allowance(self) -> float:
        return STANDARD_ERRORS / float(self.n_days) ** 0.5


def shift_test(scores: Floats, label: Floats, bars: Bars, folds: Sequence[Fold]) -> Shift:
    """Return a scorer's reaction to the last day and to its neighbours, over the test days.

    scores [T], NaN where there is none; label [T]. A scorer that gets its prices one day late still
    has an AUC, because volatility lasts, and the AUC of a short volatility can even be higher a day
    later. But what is new in it is yesterday's return or range, not today's.
    Raises ValueError if fewer than three test days have a score and an older one.
    """
    from tsfm_pipeline.studies.direction.auc import auc

    older = _a_day_older(scores)
    finite = np.isfinite(scores) & np.isfinite(older)
    tests = [fold.test[1:][finite[fold.test[1:]]] for fold in folds]
    days = np.concatenate(tests)
    if len(days) < 3:
        raise ValueError(f"only {len(days)} test days have a score and an older one, of 3 at least")
    strata = np.repeat(np.arange(len(tests)), [len(test) for test in tests])
    moves = np.stack([bars.returns, np.abs(bars.returns), np.log(bars.high / bars.low)])  # [3, T]
    return Shift(
        auc=auc(scores[days], label[days], strata),
        older_auc=auc(older[days], label[days], strata),
        reaction=_reaction(scores[days], older[days], moves[:, days]),
        older_reaction=_reaction(scores[days], older[days], moves[:, days - 1]),
        newer_reaction=_reaction(scores[days], older[days], moves[:, days + 1]),
        n_days=len(days),
    )


def _reaction(scores: Floats, older: Floats, moves: Floats) -> float:
    """The largest absolute correlation of the ranks of scores [n], as far as the ranks of the older
    scores [n] do not explain them, with the ranks of moves [M, n].
    """
    from scipy.stats import rankdata

    ranks = rankdata([scores, older, *moves], axis=1)
    score, before, *sizes = ranks - ranks.mean(axis=1, keepdims=True)
    new = score - before * (score @ before) / max(before @ before, 1.0)
    norms = np.linalg.norm(sizes, axis=1) * np.linalg.norm(new)
    return float(np.abs(ratio(np.array(sizes) @ new, norms, 0.0)).max())


def _a_day_older(scores: Floats) -> Floats:
    return np.concatenate([[np.nan], scores[:-1]])


def _known(bars: Bars, options: StudyOptions) -> dict[str, tuple[Floats, int]]:
    """Every feature, sigma and label [T], and by how many days it is known after its own."""
    return {
        **{name: (values, 0) for name, values in features(bars).items()},
        "sigma": (sigma(bars), 0),
        **{
            f"{target.label} {target.horizon}": (values, target.horizon)
            for target, values in labels(bars, options.labels).items()
        },
    }


def _largest_change(
    before: Mapping[str, tuple[Floats, int]], after: Mapping[str, tuple[Floats, int]], day: int
) -> float:
    """Of what is known at the close of a day, relative to the mean absolute value of each."""
    changes = [0.0]
    for name, (values, delay) in before.items():
        past, again = (known[: max(day + 1 - delay, 0)] for known in (values, after[name][0]))
        if not np.array_equal(np.isnan(past), np.isnan(again)):
            return float("inf")
        there = ~np.isnan(past)
        if there.any():
            level = np.abs(past[there]).mean() + np.finfo(float).tiny
            changes.append(float(np.abs(past - again)[there].max() / level))
    return max(changes)
