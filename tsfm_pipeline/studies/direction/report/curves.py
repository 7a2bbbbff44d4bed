"""What the report draws beyond one figure per scorer: reliability, and AUC by expected volatility.

What belongs here: arithmetic on daily scores, with intervals by the study's bootstrap. What does
not: reading tables (`numbers`), the statistics that the verdict rests on (`evaluation`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.studies.direction.auc import Ints, auc, auc_draws
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.bootstrap import day_counts, interval
from tsfm_pipeline.studies.direction.options import StatisticsOptions

N_TENTHS = 10
LEAST_OF_A_KIND = 10
"""Days with the label, and days without, that an AUC is shown for."""


class Sampling(NamedTuple):
    """How the days of a question are drawn.

    counts: [n, B], how often each draw has each day. confidence: of the intervals.
    """

    counts: NDArray[np.uint16]
    confidence: float

    @classmethod
    def of(cls, n_days: int, block: int, options: StatisticsOptions) -> "Sampling":
        """Return draws of the stationary bootstrap with a mean block of some days."""
        return cls(day_counts(n_days, block, options.draws, options.seed), options.confidence)

    def estimate(self, value: float, draws: Floats) -> Estimate:
        """Return a figure with the interval of its draws [B]."""
        return Estimate(value, *interval(draws, self.confidence, value))


class Tenth(NamedTuple):
    """A tenth of the days: how many, the mean probability or base rate, and an estimate."""

    n_days: int
    mean: float
    estimate: Estimate


def reliability(probabilities: Floats, labels: Floats, sampling: Sampling) -> list[Tenth]:
    """Return how often the label follows, by tenths of the probability.

    probabilities, labels: float64 [n]. Tenths of equal size, the lowest probabilities first; a tie
    stays in one tenth, so that some may be empty and are left out.
    """
    return [
        Tenth(
            int(days.sum()),
            float(probabilities[days].mean()),
            sampling.estimate(
                float(labels[days].mean()), _means(labels[days], sampling.counts[days])
            ),
        )
        for days in _tenths(probabilities, np.zeros(len(labels), np.int64))
    ]


def auc_by_volatility(
    scores: Sequence[Floats], volatility: Floats, labels: Floats, folds: Ints, sampling: Sampling
) -> list[list[Tenth]]:
    """Return the AUC of several scorers among the days of each tenth of expected volatility.

    scores: each [n]. volatility: [n], the volatility logit's score; tenths are made within folds,
    because its level differs between fits. labels: [n]. folds: int [n]. The mean of a tenth is its
    base rate. Per scorer, ten tenths, the calmest first.
    """
    tenths = _tenths(volatility, folds)
    return [
        [_auc_among(days, values, labels, folds, sampling) for days in tenths] for values in scores
    ]


def _auc_among(
    days: NDArray[np.bool_], scores: Floats, labels: Floats, folds: Ints, sampling: Sampling
) -> Tenth:
    base_rate = float(labels[days].mean())
    rarest = min(labels[days].sum(), (1 - labels[days]).sum())
    if rarest < LEAST_OF_A_KIND:
        return Tenth(int(days.sum()), base_rate, Estimate())
    among = scores[days], labels[days], folds[days]
    draws = auc_draws(*among, sampling.counts[days])
    return Tenth(int(days.sum()), base_rate, sampling.estimate(auc(*among), draws))


def _tenths(values: Floats, folds: Ints) -> list[NDArray[np.bool_]]:
    """Return the days of each tenth of the values within folds [n]; empty tenths are left out."""
    number = np.zeros(len(values), np.int64)
    for fold in np.unique(folds):
        days = folds == fold
        edges = np.quantile(values[days], np.arange(1, N_TENTHS) / N_TENTHS)
        number[days] = np.searchsorted(edges, values[days], side="right")
    return [number == tenth for tenth in range(N_TENTHS) if (number == tenth).any()]


def _means(labels: Floats, counts: NDArray[np.uint16]) -> Floats:
    """Return the mean label in each draw [B]; NaN where a draw has none of the days."""
    with np.errstate(invalid="ignore"):
        means: Floats = (labels @ counts) / counts.sum(axis=0)
    return means
