"""Many series on one time grid: the forecaster's input.

What belongs here: the array contract of telemetry (`Panel`), its checks, the causal filling of
gaps, and the representations that a model may see (`Representation`: transformed, with a seasonal
profile subtracted). What does not: reading or regularising telemetry (`fleets`), and anything about
the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tsfm_pipeline.evaluation.limits import Bounds, Limits
from tsfm_pipeline.forecaster.config import PATCH_LEN, ForecastConfig
from tsfm_pipeline.forecaster.transforms import LARGEST_VALUE, TRANSFORMS

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SMOOTHING_PARTS = 96
"""A seasonal profile is smoothed over 1/96 of the season on either side: 15 minutes of a day."""


@dataclass(frozen=True, eq=False)
class Representation:
    """Telemetry as a configuration presents it to the model, and the way back to its units.

    values: float32 [S, T]. scaled: the same before the profile was subtracted. lead: a window may
    begin this many steps after the step that the panel knows the series from (`Panel.known_from`).
    profile: the subtracted profile, float32 [S, T + reach], or None. No value depends on a later
    step, and the profile is known `reach` steps ahead.
    """

    values: FloatArray
    scaled: FloatArray
    lead: int
    profile: FloatArray | None
    transform: str
    lower: float
    upper: float

    def restore(
        self,
        steps: npt.NDArray[np.float64],
        series: npt.NDArray[np.int64],
        origins: npt.NDArray[np.int64],
        begins: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float64]:
        """Return forecasts [N, H, 10] of series [N] from windows that begin and end with the steps
        begins and origins [N], in the units of the telemetry.

        The mean is transformed back like a quantile, so with a transform it is no longer exactly
        the mean.
        """
        if self.profile is not None:
            ahead = origins[:, None] + np.arange(1, steps.shape[1] + 1)
            steps = steps + self.profile[series[:, None], ahead][..., None]
        if self.transform == "none":
            return steps
        windows = zip(series.tolist(), begins.tolist(), origins.tolist(), strict=True)
        largest = np.array([self.scaled[one, begin : end + 1].max() for one, begin, end in windows])
        above = TRANSFORMS[self.transform].height(
            steps, self.upper - self.lower, largest.astype(np.float64)[:, None, None]
        )
        return np.asarray(self.lower + above, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Panel:
    """S series of T steps on one regular time grid, with their seasons and bounds.

    values: float32 [S, T]; NaN = missing. The array is not copied and never written to.
    seasons: season lengths in steps, such as (1440,) for minutes with a daily season.
    lower: no forecast lies below it; None means unbounded.
    upper: no forecast lies above it; None means unbounded.
    own_limits: the limits of each series, where series differ; None means lower and upper for all.
    Scales that need a bound (`Representation`) use lower and upper alone.
    max_gap: the longest gap, in steps, that a window may look across (`known_from`); None means
    any.

    Raises TypeError for values that are not a float32 array. Raises ValueError for another shape,
    for infinities and values beyond 1e33 in size, for seasons below 1, for limits of another number
    of series, and unless lower < upper.
    """

    values: FloatArray
    seasons: tuple[int, ...] = ()
    lower: float | None = None
    upper: float | None = None
    own_limits: Limits | None = None
    max_gap: int | None = None

    @classmethod
    def of_tenants(
        cls,
        values: FloatArray,
        seasons: tuple[int, ...],
        bounds: Sequence[Bounds],
        max_gap: int | None = None,
    ) -> "Panel":
        """Return the series of tenants with D metrics each, float32 [N * D, T], as a panel; bounds
        [D], one pair per metric.

        A bound that all metrics share is the panel's. Where metrics differ, each series has limits
        of its own.
        """
        lower, upper = (set(side) for side in zip(*bounds, strict=True))
        low, high = (side.pop() if len(side) == 1 else None for side in (lower, upper))
        own = None
        if len(set(bounds)) > 1:
            own = Limits.of(bounds).take(np.arange(len(values)) % len(bounds))
        return cls(values, seasons, low, high, own, max_gap)

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray):
            raise TypeError(
                f"panel values are a {type(self.values).__name__}; allowed: a numpy array float32 "
                "[S, T]"
            )
        if self.values.dtype != np.float32:
            raise TypeError(
                f"panel values are {self.values.dtype}; allowed: float32 [S, T] (pass "
                "values.astype(np.float32))"
            )
        if self.values.ndim != 2:
            raise ValueError(
                f"panel values have shape {self.values.shape}; allowed: [S, T] (one series: "
                "values[None, :])"
            )
        beyond = np.abs(self.values) > LARGEST_VALUE
        if beyond.any():
            series, step = np.argwhere(beyond)[0]
            raise ValueError(
                f"panel values hold {beyond.sum()} infinities or numbers beyond 1e33, the first "
                "in series "
                f"{series} at step {step}: {self.values[series, step]}; "
                "allowed: finite up to 1e33 in size, or NaN = missing"
            )
        if any(season < 1 for season in self.seasons):
            raise ValueError(
                f"panel seasons are {self.seasons}; allowed: whole numbers of steps, 1 or more"
            )
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError(
                f"panel bounds are [{self.lower}, {self.upper}]; allowed: lower < upper"
            )
        if self.own_limits is not None and len(self.own_limits.lower) != len(self.values):
            raise ValueError(
                f"the panel has limits of {len(self.own_limits.lower)} series; allowed: one of "
                f"each of its {len(self.values)}"
            )

    @property
    def n_series(self) -> int:
        """S."""
        return int(self.values.shape[0])

    @property
    def n_steps(self) -> int:
        """T."""
        return int(self.values.shape[1])

    @cached_property
    def limits(self) -> Limits:
        """The limits of each series [S]: no forecast lies outside of them."""
        if self.own_limits is not None:
            return self.own_limits
        return Limits.of([(self.lower, self.upper)] * self.n_series)

    @cached_property
    def _missing(self) -> npt.NDArray[np.bool_] | None:
        """Which values are missing [S, T]; None where none is."""
        missing = np.isnan(self.values)
        return missing if missing.any() else None

    @cached_property
    def filled(self) -> FloatArray:
        """The values [S, T] with each gap filled by the last value before it. Leading NaN stay, and
        a panel without gaps is not copied.
        """
        missing = self._missing
        if missing is None:
            return self.values
        last_seen = np.maximum.accumulate(np.where(missing, 0, np.arange(self.n_steps)), axis=1)
        return np.take_along_axis(self.values, last_seen, axis=1)

    @cached_property
    def first_observed(self) -> npt.NDArray[np.int64]:
        """The step of each series' first observation [S]; T where there is none."""
        if self._missing is None:
            return np.zeros(self.n_series, dtype=np.int64)
        observed = ~self._missing
        return np.where(observed.any(axis=1), observed.argmax(axis=1), self.n_steps)

    def known_from(self, steps: IntArray) -> IntArray:
        """Return the first step of the history that a forecast from each of the steps [..., S, O]
        may use, in a shape that broadcasts to theirs; T where nothing has been observed.

        It is the first observation, or the one after the last gap of more than `max_gap` steps if
        at least 32 values have been observed since. With fewer, the window looks across the gap,
        which is filled like any other. The answer at a step depends on no later one.
        """
        if self._breaks is None:
            return self.first_observed[:, None]
        series = np.arange(self.n_series)[:, None]
        return np.asarray(self._breaks[series, np.maximum(steps, 0)], dtype=np.int64)

    def known_from_at(self, series: IntArray, steps: IntArray) -> IntArray:
        """Return `known_from` of single steps [N] of single series [N]."""
        if self._breaks is None:
            return self.first_observed[series]
        return np.asarray(self._breaks[series, steps], dtype=np.int64)

    @cached_property
    def _breaks(self) -> IntArray | None:
        """`known_from` of every step [S, T]; None where no gap is too long."""
        if self.max_gap is None or self._missing is None:
            return None
        known: IntArray | None = None
        for row, observed in enumerate(~self._missing):
            seen_at = np.flatnonzero(observed)
            resumed = seen_at[1:][np.diff(seen_at) > self.max_gap + 1]
            if not len(resumed):
                continue
            if known is None:
                known = np.repeat(self.first_observed[:, None], self.n_steps, axis=1)
            # The step at which the 32nd value after each gap is observed, if any.
            nth = np.searchsorted(seen_at, resumed) + PATCH_LEN - 1
            for begin, n, until in zip(resumed, nth, [*resumed[1:], self.n_steps], strict=True):
                if n < len(seen_at) and seen_at[n] < until:
                    known[row, seen_at[n] :] = begin
        return known

    def representation(self, config: ForecastConfig, horizon: int) -> Representation | None:
        """Return the telemetry as the configuration presents it; None where this panel lacks the
        season or the bounds for it.

        A season's profile is the trimmed mean (without the largest and the smallest, from three
        cycles on) of the same phase in the last `cycles` cycles, smoothed; the result is also None
        where the horizon reaches steps whose profile is not yet known.
        """
        if config.season > len(self.seasons):
            return None
        if (
            config.season
            and horizon + _smoothing(self.seasons[config.season - 1])
            > self.seasons[config.season - 1]
        ):
            return None
        if config.transform != "none" and (
            self.lower is None or (TRANSFORMS[config.transform].needs_upper and self.upper is None)
        ):
            return None
        key = (config.season, config.cycles, config.transform)
        if key not in self._representations:
            self._representations[key] = self._represented(*key)
        return self._representations[key]

    @cached_property
    def _representations(self) -> dict[tuple[int, int, str], Representation]:
        return {}

    def _represented(self, season: int, cycles: int, transform: str) -> Representation:
        scaled = values = self._transformed(transform)
        lead, profile = 0, None
        if season:
            length = self.seasons[season - 1]
            profile = _causal_profile(values, length, cycles)
            values = values - profile[:, : self.n_steps]
            lead = cycles * length + _smoothing(length)
        return Representation(values, scaled, lead, profile, transform, *self._range)

    @property
    def _range(self) -> tuple[float, float]:
        """The lower and upper bound that the scales use."""
        return self.lower or 0.0, np.inf if self.upper is None else self.upper

    def _transformed(self, transform: str) -> FloatArray:
        if transform == "none":
            return self.filled
        lower, upper = self._range
        above = np.maximum(self.filled - np.float32(lower), 0.0)
        return np.asarray(TRANSFORMS[transform].forward(above, upper - lower), dtype=np.float32)


def _smoothing(season: int) -> int:
    """Return the number of steps on either side over which a profile is smoothed."""
    return season // SMOOTHING_PARTS


def _causal_profile(values: FloatArray, season: int, cycles: int) -> FloatArray:
    """Return the profile [S, T + reach] of values [S, T], from the steps one to `cycles` seasons
    before each; NaN until there are that many.
    """
    n_series, n_steps = values.shape
    width = _smoothing(season)
    reach = season - width
    padded = np.concatenate(
        [np.zeros((n_series, 1)), np.nancumsum(values, axis=1, dtype=np.float64)], axis=1
    )
    smooth = np.full(
        (n_series, n_steps), np.nan, dtype=np.float32
    )  # at step t: mean over t - 2 * width .. t
    span = 2 * width + 1
    smooth[:, span - 1 :] = (padded[:, span:] - padded[:, :-span]) / span
    smooth[np.isnan(values)] = np.nan
    profile = np.full((n_series, n_steps + reach), np.nan, dtype=np.float32)
    start = cycles * season - width
    if start < n_steps + reach:
        # Centred at step t - m * season, smoothing ends `width` steps later.
        parts = [
            smooth[:, start - m * season + width : n_steps + reach - m * season + width]
            for m in range(1, cycles + 1)
        ]
        total = np.sum(parts, axis=0, dtype=np.float32)
        if cycles >= 3:
            total -= np.maximum.reduce(parts) + np.minimum.reduce(parts)
        profile[:, start:] = total / (cycles - 2 if cycles >= 3 else cycles)
    return profile


def as_panel(values: Panel | FloatArray) -> Panel:
    """Return a panel unchanged, and an array [S, T] as a panel without seasons and bounds."""
    return values if isinstance(values, Panel) else Panel(values)
