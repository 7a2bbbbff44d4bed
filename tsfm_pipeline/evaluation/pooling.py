"""Random-effects pooling of several fleets' loss ratios into one.

What belongs here: pooling ratios that have intervals. What does not: estimating a single ratio
(`statistics`), and the choice of fleets (`reports.across_fleets.numbers`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsfm_pipeline.evaluation.resampling import CONFIDENCE

_SMALLEST_VARIANCE = 1e-12


@dataclass(frozen=True)
class PooledRatio:
    """The mean effect over fleets like these, with its 95 % interval. A single fleet keeps its own
    ratio and interval.

    normal_low, normal_high: the interval of DerSimonian and Laird, which is too narrow for few
    fleets. tau: standard deviation of the true log ratios between fleets. weights: the weight of
    each fleet; they sum to 1.
    """

    ratio: float
    low: float
    high: float
    normal_low: float
    normal_high: float
    tau: float
    weights: tuple[float, ...]


def pooled_ratio(
    ratios: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> PooledRatio:
    """Pool ratios with 95 % intervals on the log scale; each fleet's standard error follows from
    the width of its interval.

    Weights and the variance between fleets are those of DerSimonian and Laird (1986). The interval
    is that of Hartung and Knapp (2001), with Student's t with one degree of freedom fewer than
    fleets, and never narrower than with DerSimonian and Laird's standard error (Roever, Knapp and
    Friede, 2015). With few fleets the normal interval covers far less than 95 %. Raises ValueError
    for ratios or limits that are not positive and finite.
    """
    from scipy import stats

    table = np.array([ratios, lows, highs], dtype=np.float64)
    if table.shape[1] == 0 or not (np.isfinite(table).all() and (table > 0).all()):
        raise ValueError(
            f"ratios {list(ratios)} with intervals {list(lows)} to {list(highs)} cannot be "
            "pooled; give positive, finite ones"
        )
    effect, low, high = np.log(table)
    if len(effect) == 1:
        return PooledRatio(ratios[0], lows[0], highs[0], lows[0], highs[0], 0.0, (1.0,))
    z = float(stats.norm.isf((1 - CONFIDENCE) / 2))
    variance = np.maximum(((high - low) / (2 * z)) ** 2, _SMALLEST_VARIANCE)
    weight = 1 / variance
    degrees = len(effect) - 1
    heterogeneity = (
        weight * (effect - np.average(effect, weights=weight)) ** 2
    ).sum()  # Cochran's Q
    tau_squared = max(
        0.0, float((heterogeneity - degrees) / (weight.sum() - (weight**2).sum() / weight.sum()))
    )
    weight = 1 / (variance + tau_squared)
    mean = float(np.average(effect, weights=weight))
    error = float(weight.sum() ** -0.5)
    inflation = max(1.0, float((weight * (effect - mean) ** 2).sum() / degrees)) ** 0.5
    margin = float(stats.t.isf((1 - CONFIDENCE) / 2, degrees)) * error * inflation
    ratio, pooled_low, pooled_high, normal_low, normal_high = np.exp(
        mean + np.array([0.0, -margin, margin, -z * error, z * error])
    ).tolist()
    shares = tuple((weight / weight.sum()).tolist())
    return PooledRatio(
        ratio, pooled_low, pooled_high, normal_low, normal_high, tau_squared**0.5, shares
    )
