"""Many series on one time grid, as the forecaster takes them.

Here: the array contract of telemetry (`Panel`), its checks and the causal fill of gaps. Not here: reading or
regularising telemetry (`fleets`), and anything about the model.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

LARGEST_VALUE = np.float32(1e33)
"""Leaves room for a forecast in float32, whose end lies at 3.4e38."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Series [S, T] on one regular grid, with what is known about them.

    values: float32 [S, T]; NaN = missing. Not copied, never written to.
    seasons: season lengths in steps.
    lower, upper: bounds that no forecast crosses (None: unbounded).

    Raises TypeError for another dtype and ValueError for another shape, for infinities (and values beyond 1e33) and for
    empty bounds.
    """

    values: FloatArray
    seasons: tuple[int, ...] = ()
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray):
            raise TypeError(f"panel values are a {type(self.values).__name__}; allowed: a numpy array float32 [S, T]")
        if self.values.dtype != np.float32:
            raise TypeError(f"panel values are {self.values.dtype}; allowed: float32 [S, T] (pass values.astype(np.float32))")
        if self.values.ndim != 2:
            raise ValueError(f"panel values have shape {self.values.shape}; allowed: [S, T] (one series: values[None, :])")
        beyond = np.abs(self.values) > LARGEST_VALUE
        if beyond.any():
            series, step = np.argwhere(beyond)[0]
            raise ValueError(
                f"panel values hold {beyond.sum()} infinities or numbers beyond 1e33, the first in series "
                f"{series} at step {step}: {self.values[series, step]}; "
                "allowed: finite up to 1e33 in size, or NaN = missing"
            )
        if any(season < 1 for season in self.seasons):
            raise ValueError(f"panel seasons are {self.seasons}; allowed: whole numbers of steps, 1 or more")
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError(f"panel bounds are [{self.lower}, {self.upper}]; allowed: lower < upper")

    @property
    def n_series(self) -> int:
        """S."""
        return int(self.values.shape[0])

    @property
    def n_steps(self) -> int:
        """T."""
        return int(self.values.shape[1])

    @cached_property
    def filled(self) -> FloatArray:
        """Values [S, T] with each gap holding the last value before it; leading NaN stay, and a panel without gaps is
        not copied.
        """
        missing = np.isnan(self.values)
        if not missing.any():
            return self.values
        last_seen = np.maximum.accumulate(np.where(missing, 0, np.arange(self.n_steps)), axis=1)
        return np.take_along_axis(self.values, last_seen, axis=1)

    @cached_property
    def first_observed(self) -> npt.NDArray[np.int64]:
        """Step of each series' first observation [S]; T where there is none."""
        observed = ~np.isnan(self.values)
        return np.where(observed.any(axis=1), observed.argmax(axis=1), self.n_steps)


def as_panel(values: Panel | FloatArray) -> Panel:
    """A panel as it is; an array [S, T] as a panel without seasons and bounds."""
    return values if isinstance(values, Panel) else Panel(values)
