"""Tests of whether scores know a direction, rather than only how much a market will move.

What belongs here: statistics of one scorer's scores, labels and returns, as functions of arrays.
What does not: the AUC itself (`auc`), its draws (`bootstrap`), tests over many scorers at once
(`comparison`), and which scorers and labels are tested (`evaluation`).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from tsfm_pipeline.studies.direction.auc import Counts, Ints, contributions
from tsfm_pipeline.studies.direction.bars import Floats

Flags = NDArray[np.bool_]
DECILES = 10


def comparable(
    scores: Floats, folds: Ints, validation_scores: Floats, validation_folds: Ints
) -> Floats:
    """Return scores [n] that may be compared across folds: in units of the validation days' spread.

    From each fold's scores the median of its validation days' scores is taken away, and the rest is
    divided by their standard deviation, so that a fold's fit, which was trained on other days than
    the next fold's, adds no level of its own. Whatever is used for a day is known before it. That
    matters for a sign: within a fold of 250 days an AUC compares days with each other of which the
    later one's score contains the earlier one's label. A score that falls when the market rises,
    and does so slowly (the distance below a high), has then an AUC far above .5 where there is
    nothing to know: the bias of a fixed effect in a short panel (Nickell, 1981; Stambaugh, 1999).
    """
    result = np.empty(len(scores))
    for fold in np.unique(folds):
        here, before = folds == fold, validation_scores[validation_folds == fold]
        spread = np.std(before)
        result[here] = scores[here] - np.median(before)
        if spread > 0:
            result[here] /= spread
    return result


def moved(returns: Floats, threshold: float) -> Flags:
    """Return which days [n] are followed by a return of more than the threshold, up or down.

    returns: simple returns from the close of the day to the close at the horizon, as fractions.
    """
    return np.abs(returns) > threshold


def pesaran_timmermann(predicted: Flags, actual: Flags) -> tuple[float, float]:
    """Return the statistic of Pesaran and Timmermann (1992) and its one-sided p-value.

    predicted, actual: [n]. The statistic compares the share of hits with what two independent
    series of these base rates would have; it is standard normal if days are independent. NaN if
    either series is constant.
    """
    n = len(predicted)
    x, y = predicted.mean(), actual.mean()
    if not (0 < x < 1 and 0 < y < 1):
        return np.nan, np.nan
    hits = np.mean(predicted == actual)
    expected = y * x + (1 - y) * (1 - x)
    of_hits = expected * (1 - expected) / n
    of_expected = (
        (2 * y - 1) ** 2 * x * (1 - x) / n
        + (2 * x - 1) ** 2 * y * (1 - y) / n
        + 4 * y * x * (1 - y) * (1 - x) / n**2
    )
    statistic = float((hits - expected) / np.sqrt(of_hits - of_expected))
    return statistic, float(norm.sf(statistic))


def excess_hits(predicted: Flags, actual: Flags, counts: Counts) -> Floats:
    """Return the share of hits beyond that of independent series, in each draw of days [B].

    The numerator of Pesaran and Timmermann's statistic. Its draws allow for the correlation of
    neighbouring days, which the closed form does not. counts: [n, B], how often each draw has each
    day.
    """
    flags = np.stack([predicted, actual, predicted == actual, np.ones(len(actual), np.bool_)])
    # Whole numbers below 2 ** 24 have exact sums in single precision, by the fast matrix product.
    n_predicted, n_actual, n_hits, n = flags.astype(np.float32) @ counts.astype(np.float32)
    x, y, hits = (sums.astype(np.float64) / n for sums in (n_predicted, n_actual, n_hits))
    excess: Floats = hits - (y * x + (1 - y) * (1 - x))
    return excess


def volatility_strata(scores: Floats) -> Ints:
    """Return the decile [n] of each day's volatility score, from 0; equal scores share one."""
    edges = np.quantile(scores, np.arange(1, DECILES) / DECILES)
    strata: Ints = np.searchsorted(edges, scores, side="left").astype(np.int64)
    return strata


def delong_standard_error(scores: Floats, labels: Floats, strata: Ints) -> float:
    """Return the standard error of the AUC within strata if days were independent.

    After DeLong, DeLong and Clarke-Pearson (1988). It is a check of the bootstrap's: much smaller
    than that where neighbouring days are correlated.
    """
    influence = contributions(scores, labels, strata)
    return float(np.std(influence) / np.sqrt(len(influence)))
