"""Quality of whole forecasts, independent of their use: quantile losses, errors of the median,
coverage, and the scales of these.

What belongs here: the sums that form CRPS, WQL, SQL and MASE, and their ratios over any group of
requests. What does not: the cost of a decision (`scoring`), and the choice of methods
(`reports.quality.numbers`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.losses import crps_from_deciles, mean_pinball, series_scale
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap_ratios

Floats = NDArray[np.floating]

NOMINAL_COVERAGE = 0.8
"""The nominal coverage of the interval between the outer deciles."""
SCORES = ("wql", "sql", "mase", "coverage_80")
"""Scores that are a ratio of two sums over requests: `terms` names the sums."""
SKILLS = ("wql", "mase")
"""Scores that are compared to a reference method's."""


def quality(actual: Floats, deciles: Floats) -> dict[str, Floats]:
    """Return the terms of each forecast's scores: actual [..., H], deciles [..., H, 9] -> {column:
    float64 [...]}.

    n_steps: observed steps; crps: twice the mean pinball loss over the nine deciles and these
    steps; quantile_loss_sum: the same summed over the steps; abs_actual_sum: sum of |y|;
    abs_error_sum: of |y - median|; coverage_80: share of the steps in [q.1, q.9]. Steps that were
    not observed are not scored; an unavailable forecast makes every column that depends on it NaN.
    Source: Gneiting and Ranjan (2011) for the quantile form of the CRPS; the sums are those of the
    WQL in autogluon.timeseries and in fev.
    """
    observed = ~np.isnan(actual)
    n_steps = observed.sum(axis=-1)
    crps = crps_from_deciles(actual, deciles)
    inside = (deciles[..., 0] <= actual) & (actual <= deciles[..., -1]) & observed
    return {
        "n_steps": n_steps,
        "crps": crps,
        "quantile_loss_sum": crps * n_steps,
        "abs_actual_sum": np.where(observed, np.abs(actual), 0.0).sum(axis=-1, dtype=np.float64),
        "abs_error_sum": 2.0 * mean_pinball(actual, deciles[..., 4], 0.5) * n_steps,
        "coverage_80": np.where(
            np.isnan(crps), np.nan, inside.sum(axis=-1) / np.maximum(n_steps, 1)
        ),
    }


def seasonal_error(values: Floats, end: NDArray[np.integer], season: int) -> Floats:
    """Return the divisor of MASE and SQL: the mean absolute difference between steps one season
    apart, before `end`; float64 [S].

    values [S, T] (NaN = not observed), end [S]. NaN where it is 0 or undefined (a series that
    repeats itself exactly, or is shorter than the season). Such a series has no MASE, and the
    caller counts it. Source: Hyndman and Koehler (2006), in-sample error of seasonal naive.
    """
    return series_scale(values, end, season, floor=0.0)


def terms(sums: Mapping[str, Floats], score: str) -> tuple[Floats, Floats]:
    """Return a score's numerator and denominator per row; the score of any group of rows is the
    ratio of their sums.

    sums: the columns of `quality` and `seasonal_error` [...] -> two arrays [...]. A row that cannot
    count (no forecast, nothing observed, no seasonal error) is 0 in both. WQL: quantile losses over
    |y|. SQL and MASE: mean over steps of the quantile loss, and of the median's absolute error, in
    units of the seasonal error. Raises ValueError for another score.
    """
    steps, scale = np.asarray(sums["n_steps"], dtype=np.float64), sums["seasonal_error"]
    if score == "wql":
        above, below = sums["quantile_loss_sum"], sums["abs_actual_sum"]
    elif score == "sql":
        above, below = sums["quantile_loss_sum"] / scale, steps
    elif score == "mase":
        above, below = sums["abs_error_sum"] / scale, steps
    elif score == "coverage_80":
        above, below = sums["coverage_80"] * steps, steps
    else:
        raise ValueError(f"no score is named {score!r}; there are: {', '.join(SCORES)}")
    counts = np.isfinite(above)
    return np.where(counts, above, 0.0), np.where(counts, below, 0.0)


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % limits, NaN where there are none."""

    figure: float
    low: float
    high: float


def over_metrics(above: Floats, below: Floats) -> tuple[Floats, Floats]:
    """Turn terms [..., D] of a score into terms [...] of its mean over metrics, in which all
    metrics have the same weight.

    above and below [M, R, D], with M methods -> two arrays [M, R]. Each metric is divided by its
    own sum of denominators, so the ratio of the sums is the mean of the metrics' ratios; metrics
    whose denominators are all 0 are left out.
    """
    totals = below.sum(axis=1, keepdims=True)  # [M, 1, D]
    counted = totals > 0
    weight = np.divide(1.0, totals, out=np.zeros(totals.shape), where=counted) / np.maximum(
        counted.sum(axis=-1, keepdims=True), 1
    )
    return (above * weight).sum(axis=-1), (below * weight).sum(axis=-1)


def compare(
    sums: Mapping[str, Floats],
    reference: int,
    tenant: NDArray[np.integer],
    day: NDArray[np.integer],
    n_draws: int,
    seed: int,
) -> dict[str, list[Interval]]:
    """Return every score of M methods over the same requests, and the skill of each relative to the
    reference: {name: [M intervals]}.

    sums: {column: [M, R, D]}; tenant, day [R]; reference: which of the M. A score is the mean over
    metrics of its ratio of sums. Skill is 1 - (the method's score / the reference's), over the rows
    that both could forecast: 0 means as good as the reference, 1 means perfect. Intervals are
    two-way bootstraps over tenants and days; all use the same draws.
    """
    above, below, names = [], [], []
    for score in SCORES:
        each = terms(sums, score)
        pairs = {score: over_metrics(*each)}
        if score in SKILLS:
            both = (each[1] > 0) & (each[1][reference] > 0)
            weights = each[1] * both
            sides = (
                over_metrics(each[0] * both, weights)[0],
                over_metrics(each[0][reference] * both, weights)[0],
            )
            pairs[f"{score}_skill"] = sides
        for name, (numerator, denominator) in pairs.items():
            names.append(name)
            above.append(numerator)
            below.append(denominator)
    n_methods = above[0].shape[0]
    intervals = two_way_bootstrap_ratios(
        np.concatenate(above), np.concatenate(below), tenant, day, n_draws, seed
    )
    compared = {}
    for name, rows in zip(names, intervals.reshape(len(names), n_methods, 3), strict=True):
        if name.endswith("_skill"):
            rows = 1.0 - rows[:, [0, 2, 1]]
        compared[name] = [Interval(*row) for row in rows.tolist()]
    return compared
