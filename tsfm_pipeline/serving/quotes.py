"""From quotes of a market to one value per quote.

What belongs here: which of a quote's prices is its value. What does not: laying values onto the
grid of a frequency, and filling what no quote says (`preparation`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.serving.contract import Quote

Floats = NDArray[np.float64]


def values_of(quotes: Sequence[Quote], last_trade_minutes: float) -> Floats:
    """Return the value of each quote, float64 [N]; NaN where it has none.

    It is the mid where a quote has a bid and an ask, else the last trade where that is known to be
    at most `last_trade_minutes` old at the time of the quote. A trade without a time, or one from
    after the quote, is not used.
    """
    return np.array([_value(quote, last_trade_minutes) for quote in quotes], dtype=np.float64)


def _value(quote: Quote, last_trade_minutes: float) -> float:
    if quote.bid is not None and quote.ask is not None:
        return quote.bid + (quote.ask - quote.bid) / 2
    if quote.last_trade is None or quote.last_trade_ts is None:
        return np.nan
    age_s = (quote.ts - quote.last_trade_ts).total_seconds()
    return quote.last_trade if 0.0 <= age_s <= 60.0 * last_trade_minutes else np.nan
