"""The twenty indicators of the earlier work, as numbers without a unit.

What belongs here: their formulas, from bars to one float64 [T] each. What does not: volatilities,
covariates and which features a problem has (`features`).

The earlier work used price and volume levels, which differ between 1999 and 2018 by a factor. Here
an average is the distance of the close from it, in fractions of the close; ranges and differences
of prices are divided by the close, and volumes by the volume of the last twenty days.

Sources. Moving averages, MACD: Appel (1979). DEMA: Mulloy, Stocks & Commodities 12:1 (1994). RSI,
ATR, ADX: Wilder, New Concepts in Technical Trading Systems (1978). StochRSI: Chande and Kroll, The
New Technical Trader (1994). On-balance volume: Granville (1963). Accumulation/distribution
oscillator: Chaikin. %B: Bollinger (2001).
"""

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.windows import exponential, moving, ratio, wilder

DEMA_DAYS = (9, 10, 20, 25, 90)
SMA_DAYS = (12, 50, 100, 200)
PERIOD = 14
"""Of RSI, StochRSI, ATR and ADX, in days or weeks."""
MONTH = 20
"""Days of %B, VWAP and of the volume that others are divided by."""


def twenty(bars: Bars) -> dict[str, Floats]:
    """Return the twenty indicators by name, each float64 [T], NaN until there is enough history."""
    close = bars.close
    rsi = relative_strength(close)
    weekly_rsi, weekly_stochastic = weekly_relative_strength(bars)
    return {
        **{f"dema_{days}": 1 - _dema(close, days) / close for days in DEMA_DAYS},
        **{f"sma_{days}": 1 - moving(np.mean, close, days) / close for days in SMA_DAYS},
        "rsi_daily": rsi,
        "rsi_weekly": weekly_rsi,
        "stochrsi_daily": _position(rsi, *_extremes(rsi, PERIOD)),
        "stochrsi_weekly": weekly_stochastic,
        "macd": (exponential(close, 12) - exponential(close, 26)) / close,
        "obv": _on_balance(bars),
        "adosc": _accumulation(bars),
        "atr_14": average_true_range(bars),
        "adx_14": _directional_index(bars),
        "percent_b": _percent_b(close),
        "vwap_20": _vwap_distance(bars),
    }


def relative_strength(close: Floats, period: int = PERIOD) -> Floats:
    """Return Wilder's RSI, 0 to 100: float64 [T]; 50 where the close has not moved."""
    changes = np.diff(close, prepend=np.nan)
    gains, losses = _gains_and_losses(changes)
    return _strength(wilder(gains, period), wilder(losses, period))


def weekly_relative_strength(bars: Bars, period: int = PERIOD) -> tuple[Floats, Floats]:
    """Return RSI and StochRSI of weekly closes as known at the close of each day: float64 [T] each.

    The last week of a day is the running one, closed by that day's close; a later day of the same
    week changes nothing. On the last trading day of a week they are those of the weekly closes.
    """
    week_of_day = week_numbers(bars.dates)  # [T], 0 .. W-1

    def week_before(weekly: Floats) -> Floats:
        return np.concatenate([[np.nan], weekly])[week_of_day]  # [W] to [T]

    closes = bars.close[np.flatnonzero(np.diff(week_of_day, append=-1))]  # [W]
    gains, losses = (
        wilder(side, period) for side in _gains_and_losses(np.diff(closes, prepend=np.nan))
    )
    running_gain, running_loss = _gains_and_losses(bars.close - week_before(closes))
    strength = _strength(
        week_before(gains) + (running_gain - week_before(gains)) / period,
        week_before(losses) + (running_loss - week_before(losses)) / period,
    )
    lows, highs = _extremes(_strength(gains, losses), period - 1)
    lowest = np.minimum(week_before(lows), strength)
    highest = np.maximum(week_before(highs), strength)
    return strength, _position(strength, lowest, highest)


def average_true_range(bars: Bars, period: int = PERIOD) -> Floats:
    """Return Wilder's average true range divided by the close: float64 [T]."""
    return wilder(_true_range(bars), period) / bars.close


def week_numbers(dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return the number of each day's week among those with a trading day: int64 [T], from 0.

    A week begins on Monday.
    """
    monday = (dates.astype("datetime64[D]").astype(np.int64) + 3) // 7
    return np.concatenate([[0], np.cumsum(np.diff(monday) != 0)]).astype(np.int64)[: len(dates)]


def _gains_and_losses(changes: Floats) -> tuple[Floats, Floats]:
    return np.maximum(changes, 0), np.maximum(-changes, 0)


def _strength(gain: Floats, loss: Floats) -> Floats:
    return 100 * ratio(gain, gain + loss, 0.5)


def _extremes(values: Floats, days: int) -> tuple[Floats, Floats]:
    return moving(np.min, values, days), moving(np.max, values, days)


def _position(values: Floats, lowest: Floats, highest: Floats) -> Floats:
    """Where a value lies between two others, 0 to 1; a half where these are equal."""
    return ratio(values - lowest, highest - lowest, 0.5)


def _dema(close: Floats, days: int) -> Floats:
    once = exponential(close, days)
    return 2 * once - exponential(once, days)


def _on_balance(bars: Bars) -> Floats:
    """The change of on-balance volume over a month, by the volume of the month: -1 to 1."""
    signed = np.sign(np.diff(bars.close, prepend=np.nan)) * bars.volume
    return ratio(moving(np.sum, signed, MONTH), moving(np.sum, bars.volume, MONTH), 0.0)


def _accumulation(bars: Bars) -> Floats:
    """The difference of the averages of 3 and 10 days of the accumulation/distribution line, by the
    mean volume of a day.
    """
    position = _position(bars.close, bars.low, bars.high)
    line = np.cumsum((2 * position - 1) * bars.volume)
    difference = exponential(line, 3) - exponential(line, 10)
    return ratio(difference, moving(np.mean, bars.volume, MONTH), 0.0)


def _true_range(bars: Bars) -> Floats:
    """The day's range, extended to the close of the day before; NaN on the first day."""
    before = np.concatenate([[np.nan], bars.close[:-1]])
    return np.maximum(bars.high, before) - np.minimum(bars.low, before)


def _directional_index(bars: Bars) -> Floats:
    """Wilder's ADX, 0 to 100. The true range divides both directions, so it cancels."""
    up = np.diff(bars.high, prepend=np.nan)
    down = -np.diff(bars.low, prepend=np.nan)
    unknown = np.isnan(up)
    rise = wilder(np.where(unknown, np.nan, np.where(up > down, np.maximum(up, 0), 0)), PERIOD)
    fall = wilder(np.where(unknown, np.nan, np.where(down > up, np.maximum(down, 0), 0)), PERIOD)
    return wilder(100 * ratio(np.abs(rise - fall), rise + fall, 0.0), PERIOD)


def _percent_b(close: Floats) -> Floats:
    """Where the close lies between the lower (0) and the upper (1) Bollinger band: two standard
    deviations about the mean of a month.
    """
    middle, deviation = moving(np.mean, close, MONTH), moving(np.std, close, MONTH)
    return 0.5 + ratio(close - middle, 4 * deviation, 0.0)


def _vwap_distance(bars: Bars) -> Floats:
    """The distance of the close from the volume-weighted mean of the month's typical prices, as a
    fraction of the close; from their plain mean in a month without volume.
    """
    typical = (bars.high + bars.low + bars.close) / 3
    weighted = moving(np.sum, typical * bars.volume, MONTH)
    volume = moving(np.sum, bars.volume, MONTH)
    plain = moving(np.mean, typical, MONTH)
    mean = np.where(volume == 0, plain, ratio(weighted, volume, 0.0))
    return 1 - mean / bars.close
