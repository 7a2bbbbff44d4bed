"""The stationary bootstrap over days: draws that all scorers share, and intervals from them.

What belongs here: block lengths, draws, intervals and p-values of any statistic. What does not: the
statistics themselves (`auc`, `direction_tests`, `comparison`).

Scores and labels of neighbouring days are correlated, so whole blocks of days are drawn, of random
length (Politis and Romano, 1994). Because all scorers share the draws, the difference of two of
them is that of a pair on the same days.
"""

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.studies.direction.auc import Ints
from tsfm_pipeline.studies.direction.bars import Floats

SHORTEST_BLOCK = 5
"""Trading days, besides the horizon over which the labels of neighbouring days overlap."""


def block_length(series: Floats, horizon: int) -> int:
    """Return the mean block length in days that a study's daily series ask for.

    series: [n, S] daily contributions of S statistics. The length is the longest of the optimal
    ones of Politis and White (2004), so that the draws are right for the most persistent series,
    and at least `SHORTEST_BLOCK` + horizon. Series that are constant or not finite are left out.
    """
    from arch.bootstrap import optimal_block_length

    usable = series[:, np.isfinite(series).all(axis=0) & (np.ptp(series, axis=0) > 0)]
    shortest = SHORTEST_BLOCK + horizon
    if usable.shape[1] == 0:
        return shortest
    optimal = optimal_block_length(usable)["stationary"].to_numpy()
    return max(shortest, int(np.ceil(np.max(optimal))))


def day_counts(n_days: int, block: int, n_draws: int, seed: int) -> NDArray[np.uint16]:
    """Return how often each draw of the stationary bootstrap has each day [n_days, n_draws].

    block: mean length of a block, in days. The same arguments give the same draws.
    """
    from arch.bootstrap import StationaryBootstrap

    days: Ints = np.arange(n_days)
    resampled = StationaryBootstrap(block, days, seed=np.random.default_rng(seed))
    counts = np.empty((n_draws, n_days), np.uint16)
    for draw, (drawn, _) in enumerate(resampled.bootstrap(n_draws)):
        counts[draw] = np.bincount(drawn[0], minlength=n_days)
    # Statistics go through the draws of one day after another.
    return np.ascontiguousarray(counts.T)


def interval(
    draws: Floats, confidence: float, estimate: float | None = None
) -> tuple[float, float]:
    """Return the percentile interval of a statistic's draws [B]; NaN if no draw is finite.

    estimate: the statistic of the days themselves. If it is given, the draws are moved so that it
    is their mean. A block that is drawn twice into a year is compared with itself, where days are
    more alike than in the year, so that draws of a persistent score's AUC within folds lie too low.
    """
    finite = draws[np.isfinite(draws)]
    if finite.size == 0:
        return np.nan, np.nan
    shift = 0.0 if estimate is None else estimate - finite.mean()
    tail = (1 - confidence) / 2
    low, high = np.quantile(finite + shift, [tail, 1 - tail])
    return float(low), float(high)


def p_value(estimate: float, draws: Floats, null: float = 0.0) -> float:
    """Return the one-sided p-value of the estimate against a statistic of `null` or less.

    The draws [B], moved so that their mean is `null`, stand for the statistic under the null. The
    estimate counts as one of them, so that p is never 0.
    """
    finite = draws[np.isfinite(draws)]
    if finite.size == 0 or not np.isfinite(estimate):
        return np.nan
    return float((1 + np.sum(finite - finite.mean() >= estimate - null)) / (1 + finite.size))
