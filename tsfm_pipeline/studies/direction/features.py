"""Features of a market: what is known at the close of each day.

What belongs here: the groups of features, volatilities, and the assembly with covariates and given
columns. What does not: the formulas of the indicators (`indicators`) and which days can be used
(`problems`).

Nothing here looks past a day: a feature of day t is the same when the bars end at t.
"""

import numpy as np

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.indicators import (
    DEMA_DAYS,
    SMA_DAYS,
    average_true_range,
    twenty,
)
from tsfm_pipeline.studies.direction.windows import moving, ratio, smoothed

SPANS = (1, 5, 22, 66)
"""Trading days of a day, week, month and quarter, as in the HAR model (Corsi 2009)."""
DECAY = 0.94
"""Of squared daily returns (RiskMetrics 1996)."""
YEAR = 252
"""Trading days of the 52-week high."""
VOLUME_DAYS = 20
LEAST_VOLATILITY = 1e-4
"""A hundredth of a percent a day: a day without movement has no logarithm."""

INDICATORS: tuple[str, ...] = (
    *(f"dema_{days}" for days in DEMA_DAYS),
    *(f"sma_{days}" for days in SMA_DAYS),
    *("rsi_daily", "rsi_weekly", "stochrsi_daily", "stochrsi_weekly", "macd", "obv", "adosc"),
    *("atr_14", "adx_14", "percent_b", "vwap_20"),
)
"""The twenty of the earlier work; `indicator_names` are those of a market."""
VOLATILITIES: tuple[str, ...] = (
    *(f"realised_{days}" for days in SPANS),
    *(f"parkinson_{days}" for days in SPANS),
    *("ewma", "atr_14"),
)
"""Standard deviations of a day's log return by several estimators, and the average true range as a
fraction of the close, which is one of the twenty indicators too."""
OTHERS: tuple[str, ...] = ("drawdown", "last_return", "volume_ratio")

RESERVED = ("day", "sigma")
"""Columns beside the features in the study's tables."""


def features(bars: Bars) -> dict[str, Floats]:
    """Return every feature of a market by name: float64 [T], NaN until there is enough history.

    Indicators (the given columns instead of the twenty, if there are any), volatilities, drawdown
    (1 - close / highest high of a year), the last log return, volume by its mean of twenty days
    (1 where nothing was traded), and the covariates as they are.
    Raises ValueError if a column has the name of another feature.
    """
    computed = {
        **({} if bars.given else twenty(bars)),
        **_volatilities(bars),
        "drawdown": 1 - bars.close / moving(np.max, bars.high, YEAR),
        "last_return": bars.returns,
        "volume_ratio": ratio(bars.volume, moving(np.mean, bars.volume, VOLUME_DAYS), 1.0),
    }
    columns = [*bars.given, *bars.covariates]
    taken = {*computed, *RESERVED}
    twice = sorted({name for name in columns if name in taken or columns.count(name) > 1})
    if twice:
        raise ValueError(
            f"{', '.join(twice)}: given columns and covariates must have names of their own, other "
            f"than {', '.join(sorted(taken))}, which the study uses itself; rename the columns"
        )
    return {**bars.given, **computed, **bars.covariates}


def indicator_names(bars: Bars) -> tuple[str, ...]:
    """Return the names of a market's indicators: its given columns, or `INDICATORS`."""
    return tuple(bars.given) or INDICATORS


def sigma(bars: Bars) -> Floats:
    """Return the volatility of the next day's log return as known at the close: float64 [T].

    s[t]^2 = .94 s[t-1]^2 + .06 r[t]^2 (RiskMetrics 1996), from the mean of the first 22 squares on.
    """
    return np.sqrt(smoothed(bars.returns**2, 1 - DECAY, 22))


def log_volatility(values: Floats) -> Floats:
    """Return the logarithm of volatilities per day; of less than `LEAST_VOLATILITY` that of it."""
    return np.log(np.maximum(values, LEAST_VOLATILITY))


def _volatilities(bars: Bars) -> dict[str, Floats]:
    """By name, each [T]. Parkinson (1980): the mean of ln(high / low)^2 / (4 ln 2)."""
    squares = bars.returns**2
    ranges = np.log(bars.high / bars.low) ** 2 / (4 * np.log(2))
    return {
        **{f"realised_{days}": np.sqrt(moving(np.mean, squares, days)) for days in SPANS},
        **{f"parkinson_{days}": np.sqrt(moving(np.mean, ranges, days)) for days in SPANS},
        "ewma": sigma(bars),
        "atr_14": average_true_range(bars),
    }
