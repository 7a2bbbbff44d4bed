"""Splits of a market's days: a yearly walk-forward without overlap of labels.

What belongs here: which days are trained, validated and tested on. What does not: which days can be
used at all (`problems`).

The label of day t is known at the close of t + horizon. Purging leaves out the days whose label
looks into the next part; the embargo leaves out further days before it, so that what is shared by
neighbouring days does not tell of it either (López de Prado, Advances in Financial Machine
Learning, 2018, chapter 7).
"""

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.options import SplitOptions
from tsfm_pipeline.studies.direction.problem import Days, Fold


def folds(
    bars: Bars, usable: NDArray[np.bool_], horizon: int, options: SplitOptions
) -> tuple[Fold, ...]:
    """Return the folds of a horizon, ascending by year.

    usable: bool [T], the days that may be in a fold; here days without a label are left out of
    them. A fold tests one calendar year, validates on the year before and trains on all before
    that; the first one has `training_years` calendar years before it. The last horizon + embargo
    days of training and of validation are left out. So is a year that has fewer than `least_days`
    days of one of the three. Raises ValueError, saying what is needed, if no year is left.
    """
    first, last = int(bars.years[0]), int(bars.years[-1])
    candidates = [
        _fold(bars, usable, horizon, options.embargo, year)
        for year in range(first + options.training_years, last + 1)
    ]
    kept = [fold for fold in candidates if _least(fold) >= options.least_days]
    if not kept:
        raise ValueError(_no_fold(bars, usable, horizon, options, candidates))
    return tuple(kept[-(options.last_years or len(kept)) :])


def _fold(bars: Bars, usable: NDArray[np.bool_], horizon: int, embargo: int, year: int) -> Fold:
    """The fold that tests a year."""
    days = np.flatnonzero(usable[: max(len(bars) - horizon, 0)])
    starts = np.searchsorted(bars.years, [year - 1, year, year + 1])
    ends = starts[:2] - horizon - embargo  # of training and of validation
    return Fold(
        year,
        train=days[days < ends[0]],
        validation=days[(days >= starts[0]) & (days < ends[1])],
        test=days[(days >= starts[1]) & (days < starts[2])],
    )


def _least(fold: Fold) -> int:
    return min(len(fold.train), len(fold.validation), len(fold.test))


def _no_fold(
    bars: Bars,
    usable: NDArray[np.bool_],
    horizon: int,
    options: SplitOptions,
    candidates: list[Fold],
) -> str:
    days: Days = np.flatnonzero(usable[: max(len(bars) - horizon, 0)])
    span = (
        f"{len(days)} usable days from {bars.dates[days[0]]} to {bars.dates[days[-1]]}"
        if len(days)
        else "no usable day"
    )
    tried = "; ".join(
        f"{fold.year} has {len(fold.train)} training, {len(fold.validation)} validation and "
        f"{len(fold.test)} test days"
        for fold in candidates[-3:]
    )
    return (
        f"no test year at a horizon of {horizon} days: the bars are of {bars.dates[0]} to "
        f"{bars.dates[-1]}, with {span}. Needed are {options.training_years} calendar years "
        f"(splits.training_years) before a test year, and {options.least_days} days "
        f"(splits.least_days) of training, validation and test. "
        + (f"Tried: {tried}." if tried else "No year has as many before it.")
    )
