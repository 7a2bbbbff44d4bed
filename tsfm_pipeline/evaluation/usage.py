"""Constants from a series' recent usage alone, as operators set them: plain quantiles, and the
decaying histogram of Kubernetes' VerticalPodAutoscaler (VPA).

What belongs here: rivals of a block's constant that need no forecast. What does not: constants of
forecasts, and the scores of all of them (`blocks`).
Axes: S series, O origins, A levels, T steps.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.blocks import block_before, observed_quantiles

Floats = NDArray[np.floating]

USAGE_DAYS = 8
"""What VPA reads of the past when it starts, and by which its oldest samples weigh 1/256."""
BUCKET_GROWTH = 1.05
SAFETY_MARGIN = 0.15
FIRST_BUCKET = 0.01
"""Width of the histogram's first bucket, as a share of the largest value. VPA's is .01 cores, and
its largest value 1,000 cores; metrics here have any unit.
"""


def usage_quantiles(
    values: Floats, origins: NDArray[np.integer], n_steps: int, levels: Sequence[float]
) -> Floats:
    """Return quantiles of the last `n_steps` steps up to each origin: values [S, T] (NaN =
    missing), origins [S, O] -> [S, O, A] in the units of the values; NaN where all are missing.
    """
    windows = _windows(values, origins, n_steps)
    return np.stack([observed_quantiles(window, levels) for window in windows])


def histogram_targets(
    values: Floats,
    origins: NDArray[np.integer],
    steps_per_day: int,
    levels: Sequence[float],
) -> Floats:
    """Return what VPA would recommend at each origin, with the levels in place of its percentile:
    values [S, T] (NaN = missing), origins [S, O] -> [S, O, A] in the units of the values; NaN
    where the last `USAGE_DAYS` days are missing.

    VPA's recommender (kubernetes/autoscaler, `pkg/recommender`, defaults of version 1): bucket i
    begins at first (1.05^i - 1) / .05; a sample's weight halves every 24 hours; the target is the
    end of the first bucket at which the weights reach the percentile's share of all, plus 15 %.
    Its limits and what it does after a container ran out of memory are left out. Negative values
    count as 0.
    """
    n_steps = USAGE_DAYS * steps_per_day
    weights = 2.0 ** (-np.arange(n_steps)[::-1] / steps_per_day)
    n_buckets = 2 + int(np.log1p((BUCKET_GROWTH - 1) / FIRST_BUCKET) / np.log(BUCKET_GROWTH))
    ends = FIRST_BUCKET * (BUCKET_GROWTH ** np.arange(1, 1 + n_buckets) - 1) / (BUCKET_GROWTH - 1)
    found = []
    for window in _windows(values, origins, n_steps):
        known = ~np.isnan(window)
        usage = np.where(known, np.maximum(window, 0.0), 0.0)
        largest = usage.max(axis=1)
        share = usage / np.where(largest > 0, largest, 1.0)[:, None]
        grown = np.log1p(share * ((BUCKET_GROWTH - 1) / FIRST_BUCKET)) / np.log(BUCKET_GROWTH)
        buckets = np.where(share < FIRST_BUCKET, 0, grown).astype(np.int64)
        rows = n_buckets * np.arange(len(window))[:, None]
        sums = np.bincount(
            (rows + buckets).ravel(), (known * weights).ravel(), n_buckets * len(window)
        )
        reached = sums.reshape(-1, n_buckets).cumsum(axis=1)
        needed = reached[:, -1:] * np.asarray(levels)  # [O, A]
        first = (reached[:, None] < needed[..., None]).sum(axis=-1)
        target = (1 + SAFETY_MARGIN) * ends[first] * largest[:, None]
        found.append(np.where(known.any(axis=1, keepdims=True), target, np.nan))
    return np.stack(found)


def _windows(values: Floats, origins: NDArray[np.integer], n_steps: int) -> Iterator[Floats]:
    """Yield the last `n_steps` steps up to each origin of one series after the other [O, n_steps];
    NaN before the first step.
    """
    for s in range(len(values)):
        yield block_before(values[s : s + 1], origins[s : s + 1], n_steps, n_steps)[0]
