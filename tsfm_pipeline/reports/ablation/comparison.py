"""How the ablation report compares losses: ratios with intervals, and what an interval shows.

What belongs here: comparing two frames of losses. What does not: which losses are compared
(`numbers`), statistics (`evaluation.statistics`).
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.statistics import RatioInterval
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.steps.headline import compared

ROUNDING = 1e-6
"""Ratios closer to 1 than this come from float32 storage or summation order, not from an effect."""


def loss_ratio(a: pl.DataFrame, b: pl.DataFrame, draws: Mapping[str, int]) -> Estimate:
    """Return the loss of a over the loss of b, with its interval."""
    return limits_of(compared(a, b, "scaled_loss", **draws))


def draws_of(fleet: Fleet) -> dict[str, int]:
    """Return the bootstrap's settings for steps and rivals over all tenants."""
    return fleet.settings.evaluation.bootstrap


def few_draws_of(fleet: Fleet) -> dict[str, int]:
    """Return the bootstrap's settings for groups and secondary figures."""
    return fleet.settings.evaluation.group_bootstrap


def limits_of(interval: RatioInterval) -> Estimate:
    """Return ratio and limits, set to 1 where they differ from 1 by rounding alone."""
    return Estimate(
        *(
            1.0 if abs(figure - 1) < ROUNDING else figure
            for figure in (interval.ratio, interval.low, interval.high)
        )
    )


def verdict_of(ratio: Estimate, words: tuple[str, str, str]) -> str:
    """Return which of (below 1, above 1, neither) an interval shows."""
    below, above, neither = words
    return below if ratio.high < 1 else above if ratio.low > 1 else neither


def mean_loss(frame: pl.DataFrame) -> float:
    """Return the mean scaled loss of the requests that have one; NaN if none has."""
    losses = frame["scaled_loss"].to_numpy()
    return float(np.nanmean(losses)) if np.isfinite(losses).any() else float("nan")
