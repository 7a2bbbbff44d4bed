"""One target's scores, labels and draws, from which all its statistics are computed.

What belongs here: everything that is derived once per target: what is compared with what, the
probabilities of each scorer, and the bootstrap's draws. What does not: the statistics
(`evaluation`).

A fold's calibration is that of its own validation days and of the folds' before it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from tsfm_pipeline.studies.direction import calibration, direction_tests, references
from tsfm_pipeline.studies.direction.alignment import Aligned, align
from tsfm_pipeline.studies.direction.auc import Counts, Ints, auc, auc_draws, contributions
from tsfm_pipeline.studies.direction.bars import Floats
from tsfm_pipeline.studies.direction.bootstrap import block_length, day_counts
from tsfm_pipeline.studies.direction.labels import forward_returns
from tsfm_pipeline.studies.direction.options import LabelName
from tsfm_pipeline.studies.direction.problem import Problem, Target

OPPOSITE: dict[LabelName, LabelName] = {
    "touch_up": "touch_down",
    "touch_down": "touch_up",
    "touch_up_scaled": "touch_down_scaled",
    "touch_down_scaled": "touch_up_scaled",
}
SIGN = "sign"


class Area(NamedTuple):
    """An AUC, and its value in each draw of days [B]."""

    estimate: float
    draws: Floats

    def __sub__(self, other: "Area") -> "Area":
        """Return the difference of two areas on the same days and draws."""
        return Area(self.estimate - other.estimate, self.draws - other.draws)


def area(scores: Floats, labels: Floats, strata: Ints, counts: Counts) -> Area:
    """Return the AUC within strata, and in each draw; arguments as those of `auc.auc_draws`."""
    return Area(auc(scores, labels, strata), auc_draws(scores, labels, strata, counts))


@dataclass(frozen=True)
class Case:
    """One target: aligned scores and everything that is derived from them once.

    labels, opposite, returns, base_rates: [n]. compared: [S, n], the scores that the main AUC is
    computed from, within `strata` [n]. predictable: [S, n], comparable across folds. probabilities:
    [S, n]. counts: [n, B]. areas: the main AUC of each scorer; over_all_days: that of its scores as
    they are, over all days. influence: [n, S].
    """

    aligned: Aligned
    labels: Floats
    opposite: Floats | None
    returns: Floats
    base_rates: Floats
    compared: Floats
    strata: Ints
    predictable: Floats
    probabilities: Floats
    block: int
    counts: Counts
    areas: tuple[Area, ...]
    over_all_days: tuple[Area, ...]
    influence: Floats

    @property
    def target(self) -> Target:
        return self.aligned.target

    @property
    def volatility(self) -> int:
        return self.aligned.scorers.index(references.VOLATILITY)


def make_case(problem: Problem, scores: pl.DataFrame, target: Target) -> Case:
    """Return a target's case; raises ValueError as `evaluation.evaluate` does."""
    aligned = align(problem, scores, target)
    if references.VOLATILITY not in aligned.scorers:
        raise ValueError(
            f"{references.VOLATILITY} has no score for {target.label} at horizon {target.horizon}, "
            "and everything is compared with it"
        )
    test, validation = aligned.test, aligned.validation
    known = problem.labels[target]
    labels = known[test.days]
    predictable = np.stack(
        [
            direction_tests.comparable(s, test.folds, v, validation.folds)
            for s, v in zip(test.scores, validation.scores, strict=True)
        ]
    )
    is_sign = target.label == SIGN
    compared, strata = (
        (predictable, np.zeros_like(test.folds)) if is_sign else (test.scores, test.folds)
    )
    influence = np.column_stack([contributions(s, labels, strata) for s in compared])
    options = problem.options.statistics
    block = block_length(influence, target.horizon)
    counts = day_counts(len(labels), block, options.draws, options.seed)
    mirrored = OPPOSITE.get(target.label)
    return Case(
        aligned=aligned,
        labels=labels,
        opposite=problem.labels[Target(mirrored, target.horizon)][test.days] if mirrored else None,
        returns=forward_returns(problem.bars, target.horizon)[test.days],
        base_rates=_base_rates(problem, aligned),
        compared=compared,
        strata=strata,
        predictable=predictable,
        probabilities=np.stack(
            [probabilities_of(aligned, known, row) for row in range(len(aligned.scorers))]
        ),
        block=block,
        counts=counts,
        areas=tuple(area(s, labels, strata, counts) for s in compared),
        over_all_days=tuple(
            area(s, labels, np.zeros_like(test.folds), counts) for s in test.scores
        ),
        influence=influence,
    )


def _base_rates(problem: Problem, aligned: Aligned) -> Floats:
    """Return the share of days with the label before each test day's fold [n]."""
    labels = problem.labels[aligned.target]
    rates = np.empty(len(aligned.test.days))
    for fold in problem.folds[aligned.target.horizon]:
        before = np.concatenate([fold.train, fold.validation])
        rates[aligned.test.folds == fold.year] = labels[before].mean()
    return rates


def probabilities_of(aligned: Aligned, labels: Floats, row: int) -> Floats:
    """Return the probabilities of scorer number `row` on the test days: its own, or calibrated on
    the validation days of each fold and of the folds before it.
    """
    test, validation = aligned.test, aligned.validation
    if np.isfinite(test.probabilities[row]).all():
        own: Floats = test.probabilities[row]
        return own
    result = np.empty(len(test.days))
    for fold in np.unique(test.folds):
        seen, here = validation.folds <= fold, test.folds == fold
        fitted = calibration.calibrated(validation.scores[row, seen], labels[validation.days[seen]])
        result[here] = fitted.probability(test.scores[row, here])
    return result
