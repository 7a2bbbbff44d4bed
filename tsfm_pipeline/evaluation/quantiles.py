"""Quantiles at any level, read off quantiles at a few levels.

What belongs here: interpolation between the given levels, the tails beyond them, and the raw
central intervals that follow; the online service and its calibration share these rules. What does
not: a tier's decision (`losses.decision_quantile`, the same rule in one direction), calibration
(`conformal`).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsfm_pipeline.evaluation.protocol import DECILES

TARGETS: tuple[float, ...] = (0.8, 0.9)
"""Coverages of the central intervals that the service answers."""


def quantiles_at(
    levels: Sequence[float], values: ArrayLike, wanted: Sequence[float]
) -> NDArray[np.float64]:
    """Return the quantiles at the wanted levels: values [..., L] at ascending levels [L] -> float64
    [..., W].

    Between two levels the quantile function is linear. Beyond the outer ones it is that of an
    exponential tail through the outer two, as in `losses.decision_quantile`, mirrored below: for
    deciles, P(x > q.9 + t) = 0.1 * 2^(-t / (q.9 - q.8)). A single level has no tails: its value is
    repeated. Raises ValueError for levels that do not ascend within (0, 1), another number
    of values, and wanted levels outside (0, 1).
    """
    known, array = np.asarray(levels, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if known.ndim != 1 or not len(known) or np.any(np.diff(known) <= 0):
        raise ValueError(f"levels are {list(levels)}; they must ascend, each once")
    outside = [u for u in (*known.tolist(), *wanted) if not 0.0 < u < 1.0]
    if outside:
        raise ValueError(f"level {outside[0]!r} is no quantile's; allowed: between 0 and 1")
    if array.shape[-1:] != known.shape:
        raise ValueError(f"values have shape {array.shape}; the last axis must be {len(known)}")
    weights = np.stack([_weights(known, float(u)) for u in wanted], axis=-1)  # [L, W]
    return np.asarray(array @ weights)


def raw_interval(
    deciles: ArrayLike, target: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and the upper end [...] of the central interval of a coverage, read off
    deciles [..., 9]: .1 and .9 for .8, and .05 and .95, in the tails, for .9.
    """
    ends = quantiles_at(DECILES, deciles, ((1 - target) / 2, (1 + target) / 2))
    return ends[..., 0], ends[..., 1]


def _weights(levels: NDArray[np.float64], wanted: float) -> NDArray[np.float64]:
    """Return the weights [L] of the given quantiles in the wanted one."""
    weights = np.zeros(len(levels))
    nearest = int(np.argmin(np.abs(levels - wanted)))
    if math.isclose(levels[nearest], wanted, abs_tol=1e-9):
        weights[nearest] = 1.0
        return weights
    if levels[0] < wanted < levels[-1]:
        above = int(np.searchsorted(levels, wanted))
        share = (wanted - levels[above - 1]) / (levels[above] - levels[above - 1])
        weights[above - 1], weights[above] = 1.0 - share, share
        return weights
    outer, inner = (-1, -2) if wanted > levels[-1] else (0, 1)
    weights[outer] = 1.0
    if len(levels) > 1:
        beyond = [(1 - u) if outer else u for u in (wanted, levels[outer], levels[inner])]
        reach = math.log(beyond[1] / beyond[0]) / math.log(beyond[2] / beyond[1])
        weights[outer] += reach
        weights[inner] -= reach
    return weights
