"""The area under the ROC curve within folds, for all draws of a bootstrap at once.

What belongs here: the statistic, its daily contributions, and the loops that numba compiles for
them. What does not: drawing days (`bootstrap`), and tests that are built on the statistic
(`direction_tests`).

Only days of the same stratum are compared: a stratum is a fold, or a fold's days of similar
volatility. Days of different folds are scored by different fits, and pooling them biases a useless
score below .5. Every pair of a day with the label and a day without counts once, so strata weigh by
their numbers of pairs; a tie counts half.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tsfm_pipeline.studies.direction.bars import Floats

Ints = NDArray[np.int64]
Counts = NDArray[np.uint16]
"""How often each draw has each day, [n, B]."""
DRAWS_AT_A_TIME = 512


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return njit(cache=True, nogil=True, error_model="numpy")(function)


def auc(scores: Floats, labels: Floats, strata: Ints) -> float:
    """Return the AUC within strata; NaN without a pair.

    scores: [n], finite; a higher one says that the label is likelier. labels: [n], 1 or 0. strata:
    [n], the stratum of each day.
    """
    return float(auc_draws(scores, labels, strata, np.ones((len(scores), 1), np.uint16))[0])


def auc_draws(scores: Floats, labels: Floats, strata: Ints, counts: Counts) -> Floats:
    """Return the AUC within strata in each draw of days [B]; NaN where a draw has no pair.

    scores, labels, strata: [n] as in `auc`. counts: [n, B], how often each draw has each day. The
    days are sorted once, for all draws.
    """
    wins, pairs = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    arrays = _of_one_type(scores, labels, strata)
    _count(*arrays, np.require(counts, np.uint16, ["C", "W"]), wins, pairs)
    with np.errstate(invalid="ignore"):
        return wins / pairs


def contributions(scores: Floats, labels: Floats, strata: Ints) -> Floats:
    """Return the daily series [n] whose mean is 0 and whose fluctuation is that of the AUC.

    It is the empirical influence of each day: a draw that has day t w[t] times has an AUC of about
    auc + mean(w * contributions). Its autocorrelation decides how long a bootstrap's blocks must
    be, and with independent days its variance over n is the square of the standard error (DeLong,
    DeLong and Clarke-Pearson, 1988, whose placements these are). NaN without a pair.
    """
    won, met = np.zeros(len(scores)), np.zeros(len(scores))
    _placements(*_of_one_type(scores, labels, strata), won, met)
    n_pairs = met.sum() / 2
    if n_pairs == 0:
        return np.full(len(scores), np.nan)
    area = won.sum() / 2 / n_pairs
    influence: Floats = len(scores) * (won - area * met) / n_pairs
    return influence


def _of_one_type(scores: Floats, labels: Floats, strata: Ints) -> tuple[Ints, Floats, Floats, Ints]:
    """Return the order of the days and the arrays as fresh copies. numba compiles a function anew
    for every layout and for arrays that may not be written to, which takes seconds.
    """
    order: Ints = np.lexsort((scores, strata))
    return order, np.array(scores, float), np.array(labels, float), np.array(strata, np.int64)


@_compiled
def _count(order, scores, labels, strata, counts, wins, pairs):  # type: ignore[no-untyped-def]
    """Add each draw's pairs to `pairs`, and those that are in the right order to `wins`. Draws are
    taken some at a time, so that their sums stay in the first-level cache.
    """
    n_draws = counts.shape[1]
    for first in range(0, n_draws, DRAWS_AT_A_TIME):
        last = min(first + DRAWS_AT_A_TIME, n_draws)
        some = slice(first, last)
        _count_some(order, scores, labels, strata, counts[:, some], wins[some], pairs[some])


@_compiled
def _count_some(order, scores, labels, strata, counts, wins, pairs):  # type: ignore[no-untyped-def]
    n_days, n_draws = counts.shape
    below, above = np.zeros(n_draws), np.zeros(n_draws)
    tied = np.zeros(n_draws)
    start = 0
    while start < n_days:
        first = order[start]
        end = start + 1
        while (
            end < n_days
            and strata[order[end]] == strata[first]
            and scores[order[end]] == scores[first]
        ):
            end += 1
        if end - start > 1:
            tied[:] = 0
            for position in range(start, end):
                if labels[order[position]] <= 0.5:
                    row = counts[order[position]]
                    for b in range(n_draws):
                        tied[b] += row[b]
            for b in range(n_draws):
                below[b] += 0.5 * tied[b]
        for position in range(start, end):
            row = counts[order[position]]
            if labels[order[position]] > 0.5:
                for b in range(n_draws):
                    wins[b] += row[b] * below[b]
                    above[b] += row[b]
            elif end - start == 1:
                for b in range(n_draws):
                    below[b] += row[b]
        if end - start > 1:
            for b in range(n_draws):
                below[b] += 0.5 * tied[b]
        if end == n_days or strata[order[end]] != strata[first]:
            for b in range(n_draws):
                pairs[b] += above[b] * below[b]
            above[:] = 0
            below[:] = 0
        start = end


@_compiled
def _placements(order, scores, labels, strata, won, met):  # type: ignore[no-untyped-def]
    """Write each day's pairs to `met`, and those of them in the right order to `won`."""
    n_days = len(order)
    start = 0
    while start < n_days:
        stratum = strata[order[start]]
        stop = start
        n_above = 0
        while stop < n_days and strata[order[stop]] == stratum:
            n_above += labels[order[stop]] > 0.5
            stop += 1
        n_below = (stop - start) - n_above
        below, above = 0.0, 0.0
        first = start
        while first < stop:
            end = first
            tied_above, tied_below = 0.0, 0.0
            while end < stop and scores[order[end]] == scores[order[first]]:
                if labels[order[end]] > 0.5:
                    tied_above += 1
                else:
                    tied_below += 1
                end += 1
            for position in range(first, end):
                day = order[position]
                if labels[day] > 0.5:
                    won[day] = below + 0.5 * tied_below
                    met[day] = n_below
                else:
                    won[day] = n_above - above - 0.5 * tied_above
                    met[day] = n_above
            below += tied_below
            above += tied_above
            first = end
        start = stop
