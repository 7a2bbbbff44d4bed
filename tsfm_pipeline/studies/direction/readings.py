"""Readings of a forecast: what its mean, its spread and its quantile function say about a label.

What belongs here: the path of moves that a forecast describes, the moves that a label asks for, and
the three readings as scores. What does not: making forecasts (`scorers.zero_shot`), and scores of
hidden states (`scorers.probes`).

A mean forecast of returns follows recent returns. A label such as "the next high touches +1 %" is
decided by the size of the movements, so the mean is the wrong reading for it; the spread and the
probability of the move are the readings that can answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.labels import scaled_threshold
from tsfm_pipeline.studies.direction.problem import Problem, Target, score_rows, together

MEDIAN = DECILES.index(0.5)
LEAST_GAP = 1e-12
"""Smallest distance between two deciles, in log return; closer ones count as a jump."""
_NORMAL_SCORES: Floats = ndtri(np.array(DECILES))


@dataclass(frozen=True)
class Paths:
    """Forecast moves from the close of each day to the closes of the H days after it.

    mean: float64 [T, H], log returns. deciles: float64 [T, H, 9], the deciles 0.1 to 0.9 of the
    same, not decreasing. NaN on days without a forecast.
    """

    mean: Floats
    deciles: Floats

    @classmethod
    def of_daily_returns(cls, grid: Floats) -> "Paths":
        """Return the paths of forecasts of each day's own log return, [T, H, 10].

        A model that sees returns gives the distribution of every single day, not of their sum. Here
        the days of a path count as independent: means and medians are added, and so are the squares
        of each decile's distance from its median. For independent normal variables this is exact;
        daily returns of an index are nearly uncorrelated. At one step nothing is approximated.
        """
        median = grid[:, :, 1 + MEDIAN, None]
        distance = grid[:, :, 1:] - median
        spread = np.sqrt((distance**2).cumsum(axis=1))
        return cls(grid[:, :, 0].cumsum(axis=1), median.cumsum(axis=1) + np.sign(distance) * spread)

    @property
    def n_steps(self) -> int:
        """H."""
        return self.mean.shape[1]


def barrier(problem: Problem, target: Target) -> Floats:
    """Return how far the price must move for a target, as an absolute log return: float64 [T].

    The labels' thresholds are fractions of the close (`labels`), so a rise to (1 + threshold) is
    log(1 + threshold), and a fall to (1 - threshold) is -log(1 - threshold). Scaled thresholds
    differ from day to day. 0 for `sign`. NaN where sigma is not known.
    """
    options, label = problem.options.labels, target.label
    if label == "sign":
        return np.zeros(len(problem.bars))
    fraction = (
        scaled_threshold(options, problem.sigma, target.horizon)
        if label.endswith("_scaled")
        else np.full(len(problem.bars), options.threshold)
    )
    return -np.log1p(-np.minimum(fraction, 0.99)) if target.falls else np.log1p(fraction)


def probability_above(deciles: Floats, move: Floats) -> Floats:
    """Return the probability of a move of at least so much: [..., 9] and [...] -> float64 [...].

    The quantile function is continued from the nine deciles linearly in normal scores, between them
    and beyond them: the tails are those of the normal distribution through the two outermost
    deciles on their side. It is increasing, so its inverse is a distribution function.
    """
    above = np.clip((deciles <= move[..., None]).sum(axis=-1), 1, len(DECILES) - 1)
    low, high = (
        np.take_along_axis(deciles, (above - shift)[..., None], axis=-1)[..., 0] for shift in (1, 0)
    )
    share = (move - low) / np.maximum(high - low, LEAST_GAP)
    start = _NORMAL_SCORES[above - 1]
    return np.asarray(ndtr(-(start + share * (_NORMAL_SCORES[above] - start))))


def mean(paths: Paths, problem: Problem, target: Target) -> Floats:
    """Return the mean move to the close of the last day in the label's direction, as a share of its
    barrier (as it is for `sign`): float64 [T].
    """
    sign = -1 if target.falls else 1
    return sign * paths.mean[:, target.horizon - 1] / _unit(problem, target)


def spread(paths: Paths, problem: Problem, target: Target) -> Floats:
    """Return the distance between the deciles .1 and .9 of the move to the close of the last day,
    as a share of the label's barrier (as it is for `sign`): float64 [T].
    """
    last = paths.deciles[:, target.horizon - 1]
    return (last[:, -1] - last[:, 0]) / _unit(problem, target)


def probability(paths: Paths, problem: Problem, target: Target) -> Floats:
    """Return the probability of the label's move by the quantile function: float64 [T].

    `close_up` and `sign` ask for the close of the last day. A touch asks for any time in h days,
    and a forecast of closes does not say what happens within a day: here it is the largest of the
    probabilities that one of the h closes is beyond the barrier. The true probability of a touch is
    larger (twice as large for a continuous random walk, by the reflection principle), so this is a
    score of a touch, and not its probability.
    """
    distance = barrier(problem, target)
    if not target.is_touch:
        return probability_above(paths.deciles[:, target.horizon - 1], distance)
    ahead = paths.deciles[:, : target.horizon]  # [T, h, 9]
    if target.falls:
        ahead = -ahead[..., ::-1]
    return probability_above(ahead, np.repeat(distance[:, None], ahead.shape[1], axis=1)).max(
        axis=1
    )


Reading = Callable[[Paths, Problem, Target], Floats]
READINGS: Mapping[str, Reading] = {"mean": mean, "spread": spread, "probability": probability}
"""By the end of their scorers' names."""


def reading_scores(
    name: str,
    paths: Paths,
    problem: Problem,
    target: Target,
    readings: Mapping[str, Reading] = READINGS,
) -> pl.DataFrame:
    """Return rows of `problem.SCORE_SCHEMA` of the scorers `<name>_<reading>`.

    The probability column is filled where the model states one of the label: by `probability`, for
    labels that ask for a close.
    """
    rows = []
    for reading, read in readings.items():
        scores = read(paths, problem, target)
        stated = scores if reading == "probability" and not target.is_touch else None
        rows += [
            score_rows(f"{name}_{reading}", target, fold, scores, stated)
            for fold in problem.folds[target.horizon]
        ]
    return together(rows)


def _unit(problem: Problem, target: Target) -> Floats:
    return np.ones(len(problem.bars)) if target.label == "sign" else barrier(problem, target)
