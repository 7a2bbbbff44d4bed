"""Bars for tests: real ones, and small ones made by a rule.

What belongs here: making bars. What does not: tests.
"""

from functools import cache
from typing import Any

import numpy as np

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.sources import read_bars
from tsfm_pipeline.studies.direction.spec import ArchMarket


@cache
def sp500() -> Bars:
    """The S&P 500 of 1999 to 2018, from the package arch."""
    return read_bars(ArchMarket(name="sp500", title="S&P 500", kind="arch", dataset="sp500"))


def bars_of(close: Any, high: Any = None, low: Any = None, volume: Any = None) -> Bars:
    """Bars from a Monday on, without weekends; high, low and volume are by default close, close, 1."""
    closes = np.asarray(close, float)
    highs, lows = (closes if v is None else np.asarray(v, float) for v in (high, low))
    volumes = np.ones(len(closes)) if volume is None else np.asarray(volume, float)
    days = np.busday_offset("2010-01-04", np.arange(len(closes)), roll="forward")
    return Bars(days, closes, highs, lows, closes, volumes)


def walk(n_days: int, seed: int, start: str = "2010-01-04") -> Bars:
    """A random walk with gaps and ranges, without direction."""
    rng = np.random.default_rng(seed)
    close: Floats = 100 * np.exp(np.cumsum(rng.normal(0, 0.012, n_days)))
    first = close * np.exp(rng.normal(0, 0.006, n_days))
    high = np.maximum(first, close) * np.exp(rng.exponential(0.004, n_days))
    low = np.minimum(first, close) * np.exp(-rng.exponential(0.004, n_days))
    days = np.busday_offset(start, np.arange(n_days), roll="forward")
    return Bars(days, first, high, low, close, rng.lognormal(10, 0.5, n_days))
