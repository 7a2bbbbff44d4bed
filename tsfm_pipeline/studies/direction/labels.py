"""Labels of a market: what is asked of the days after each day.

What belongs here: the six labels at every horizon, and the return that they are about. What does
not: which days of them are trained or tested on (`splits`).
"""

import numpy as np

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.features import sigma
from tsfm_pipeline.studies.direction.options import LabelName, LabelOptions
from tsfm_pipeline.studies.direction.problem import Target
from tsfm_pipeline.studies.direction.windows import moving

ROUNDING = float(np.finfo(np.float32).eps)
"""Relative. Price files are often in single precision, and a product of a price and 1.01 is rounded
too; a hundredth at a price of 10,000 is ten times more."""


def labels(bars: Bars, options: LabelOptions) -> dict[Target, Floats]:
    """Return every label at every horizon h: 1, 0, or NaN where it is not known, float64 [T].

    touch_up: max(high[t+1 .. t+h]) >= (1 + threshold) close[t]. touch_down: min(low[t+1 .. t+h]) <=
    (1 - threshold) close[t]. touch_up_scaled, touch_down_scaled: the same with the threshold
    `scaled_threshold` x sigma[t] x sqrt(h), the volatility of the return over the horizon
    (`features.sigma`; NaN where it is not known).
    close_up: close[t+h] >= (1 + threshold) close[t]. Equality counts, up to `ROUNDING`. sign:
    close[t+h] > close[t]; here equality is no rise. The last h days are NaN.
    """
    known = sigma(bars)
    return {
        Target(label, horizon): values
        for horizon in options.horizons
        for label, values in _at_horizon(
            bars, horizon, options.threshold, scaled_threshold(options, known, horizon)
        ).items()
    }


def scaled_threshold(options: LabelOptions, sigma: Floats, horizon: int) -> Floats:
    """Return the threshold of the scaled touches as a fraction of the close: float64 [T].

    sigma: as `features.sigma` returns it. Grows with the root of the horizon, as the volatility of
    the return over it does.
    """
    return options.scaled_threshold * sigma * horizon**0.5


def forward_returns(bars: Bars, horizon: int) -> Floats:
    """Return the simple return close[t+h] / close[t] - 1, NaN on the last h days: float64 [T].

    Simple, not logarithmic, because thresholds are fractions of the close.
    """
    return _later(bars.close, horizon) / bars.close - 1


def _at_horizon(
    bars: Bars, horizon: int, threshold: float, scaled: Floats
) -> dict[LabelName, Floats]:
    close = bars.close
    highest = _later(moving(np.max, bars.high, horizon), horizon)
    lowest = _later(moving(np.min, bars.low, horizon), horizon)
    last = _later(close, horizon)
    rise = np.where(np.isnan(last), np.nan, last > close)
    return {
        "touch_up": _reaches(highest, (1 + threshold) * close),
        "touch_down": _reaches(-lowest, (threshold - 1) * close),
        "touch_up_scaled": _reaches(highest, (1 + scaled) * close),
        "touch_down_scaled": _reaches(-lowest, (scaled - 1) * close),
        "close_up": _reaches(last, (1 + threshold) * close),
        "sign": rise,
    }


def _later(values: Floats, days: int) -> Floats:
    """values[t + days], NaN on the last days."""
    return np.concatenate([values[days:], np.full(min(days, len(values)), np.nan)])


def _reaches(values: Floats, bound: Floats) -> Floats:
    """1 where values >= bound up to rounding, else 0; NaN where one of them is."""
    reached = values >= bound - ROUNDING * np.abs(bound)
    return np.where(np.isnan(values) | np.isnan(bound), np.nan, reached)
