"""Bars: the daily prices of one market, as every part of the study sees them.

What belongs here: the arrays, and the smallest things that are read from them. What does not: where
they come from (`sources`), what must hold of them (`quality`), labels and features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bars:
    """T trading days of one market, ascending by date.

    dates: datetime64[D] [T]. open, high, low, close: float64 [T], all adjusted in the same way.
    volume: float64 [T]. covariates: further series by name, each float64 [T], known at the close of
    the day; NaN where missing. given: indicators that the user computed, by name, each float64 [T].
    """

    dates: NDArray[np.datetime64]
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    covariates: Mapping[str, Floats] = field(default_factory=dict)
    given: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dates)

    @property
    def years(self) -> NDArray[np.int64]:
        """The calendar year of each day [T]."""
        return self.dates.astype("datetime64[Y]").astype(np.int64) + 1970

    @property
    def returns(self) -> Floats:
        """Log returns from close to close [T]; NaN on the first day."""
        logs = np.log(self.close)
        return np.concatenate([[np.nan], np.diff(logs)])

    def until(self, day: int) -> "Bars":
        """Return the days up to and including number `day`."""
        return self[: day + 1]

    def __getitem__(self, days: slice) -> "Bars":
        cut: dict[str, Any] = {name: getattr(self, name)[days] for name in _ARRAYS}
        for group in ("covariates", "given"):
            cut[group] = {name: values[days] for name, values in getattr(self, group).items()}
        return replace(self, **cut)


_ARRAYS = ("dates", "open", "high", "low", "close", "volume")
