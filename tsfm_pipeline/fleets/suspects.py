"""Values that are valid numbers and look wrong: cumulative counters, single samples that are far
too high, markers for missing values, changes of unit.

What belongs here: the four rules, each over the values of one series. What does not: what they say
about a fleet (`fleets.plausibility`), and rules that a single row breaks (`fleets.table_rows`).

A false alarm costs more than a miss, because nothing switches a rule off. Each rule therefore asks
for a pattern that load does not make: what is high or rare alone never counts.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FEWEST = 32
"""A series with fewer values is no counter and has no spikes."""
HUGE = 2.0**62
"""No load is this large; 2^63 and its kin are what programs write for "no limit"."""
LIMITS = (2.0**31, 2.0**32)
FEW_LEVELS = 8
"""A series with fewer different values is a setting or a small count."""
SPIKE = 1000.0
"""A value this many times the 99th percentile of its series is suspected."""
APART = 10.0
"""A suspected value must be this many times the largest value of other tenants."""
ALONE = 100.0
"""A spike must be this many times the largest of the other values of its series: the largest values
of a heavy tail lie closer together.
"""
MOST_SPIKES = 3
"""Load that bursts from nearly nothing does so again; a wrong sample is rare."""
JUMP = 100.0
"""Two values in a row that differ by this factor may lie on two sides of a change of unit."""
MOST_JUMPS = 64
MOST_BREAKS = 2
"""What changes its size more often is switched on and off."""
SHORTEST_SIDE = 6
"""A change of unit has at least this many values on either side."""
SAME_SHAPE = 0.1
"""Largest difference of the two sides' quantiles after conversion, in powers of ten."""
NEAR_UNIT = 0.3
"""The same for the medians of a tenant whose change others share."""
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Observed:
    """The observed values of one series: values float32 [n], and the steps of the fleet's grid
    at which they were observed, int64 [n], ascending; n is at least 1.
    """

    values: NDArray[np.float32]
    steps: NDArray[np.int64]

    @cached_property
    def lowest(self) -> float:
        return float(self.values.min())

    @cached_property
    def highest(self) -> float:
        return float(self.values.max())

    def step(self, index: int) -> int:
        """Return the step of one value."""
        return int(self.steps[index])

    def at(self, kept: NDArray[np.bool_]) -> "Observed":
        """Return the values for which kept [n] is true."""
        return Observed(self.values[kept], self.steps[kept])


@dataclass(frozen=True)
class Counter:
    """A cumulative counter. first: index of the value after its first fall; None without one."""

    first: int | None
    n_falls: int


@dataclass(frozen=True)
class Spikes:
    """Values that are far too high. first: index of the first, which is `value`; usual: the 99th
    percentile of the series; others: the largest of the other values.
    """

    first: int
    number: int
    value: float
    usual: float
    others: float


@dataclass(frozen=True)
class Marker:
    """A number that stands for a missing value. first: index of the first; nearest: the nearest
    other value, None where there is none.
    """

    first: int
    number: int
    value: float
    nearest: float | None


@dataclass(frozen=True)
class Break:
    """A change of unit. first: index of the first value after it; shift: what the values were
    multiplied by, in powers of ten; same_shape: whether the two sides agree after conversion.
    """

    first: int
    shift: float
    same_shape: bool

    @property
    def power(self) -> int:
        """The k of the factors 1,000^k and 1,024^k that are nearest, from 1 to 3."""
        return min(max(1, round(abs(self.shift) / 3)), 3)

    @property
    def misses_by(self) -> float:
        """How far the shift is from the nearer of the two factors, in powers of ten."""
        return min(abs(abs(self.shift) - self.power * np.log10(base)) for base in (1000.0, 1024.0))


def counter(series: Observed, steps_per_day: int, *, counter_name: bool = False) -> Counter | None:
    """Return what makes a series a cumulative counter, or None: it rises, and never falls but to
    about what it rises by in one step.

    A sum over counters falls further up; only with a `counter_name` it is taken for one. A series
    that falls at regular times, like requests since midnight, is not.
    """
    values, rises = series.values, np.diff(series.values)
    n_up, n_down = int(np.count_nonzero(rises > 0)), int(np.count_nonzero(rises < 0))
    if values.size < FEWEST or n_up < 0.3 * rises.size or 10 * n_down > n_up or series.lowest < 0:
        return None
    falls = np.flatnonzero(rises < 0)
    found = Counter(int(falls[0]) + 1 if n_down else None, n_down)
    if counter_name:
        return found
    if not n_down:
        return found if n_up >= 0.9 * rises.size and values[-1] >= 2 * values[0] else None
    before, after = values[falls], values[falls + 1]
    one_step = np.quantile(rises[rises > 0], 0.99)
    waited = series.steps[falls + 1] - series.steps[falls]
    to_zero = bool((after <= 3 * one_step * waited).all()) and (after <= before / 2).mean() >= 0.8
    return found if to_zero and not _regular(series.steps[falls], steps_per_day) else None


def _regular(steps: NDArray[np.int64], steps_per_day: int) -> bool:
    """Return whether these steps are a whole number of days apart, or of their shortest distance,
    to within one step.
    """
    apart = np.diff(steps)
    if not apart.size:
        return False
    periods = [steps_per_day, *([int(apart.min())] if apart.size > 1 else [])]
    return any(
        period > 8 and bool((np.abs((apart + period // 2) % period - period // 2) <= 1).all())
        for period in periods
    )


def spikes(series: Observed) -> Spikes | None:
    """Return the few values that are `SPIKE` times the 99th percentile of the series, in absolute
    size and without zeros, and stand apart from all others.
    """
    values, largest = series.values, max(series.highest, -series.lowest)
    size = values if series.lowest >= 0 else np.abs(values)
    suspected = size > np.float32(largest / ALONE)
    number = int(np.count_nonzero(suspected))
    n_nonzero = int(np.count_nonzero(size)) if number <= 0.01 * size.size + 1 else 0
    if n_nonzero < FEWEST:
        return None
    least, at_99 = float(size[suspected].min()), int(0.99 * (n_nonzero - 1))
    if np.count_nonzero(size > np.float32(least / SPIKE)) >= n_nonzero - at_99:
        return None
    found, others = np.flatnonzero(suspected), float(size[~suspected].max())
    n_stretches = int(np.count_nonzero(np.diff(found) > 1)) + 1
    if n_stretches > MOST_SPIKES or least < ALONE * others:
        return None
    at = size.size - n_nonzero + at_99
    usual = float(np.partition(size, at)[at])
    return Spikes(int(found[0]), number, float(values[found[0]]), usual, others)


def markers(series: Observed) -> list[Marker]:
    """Return the lowest and the highest value if it is a usual marker for missing values and
    stands apart from the others.
    """
    values, found = series.values, []
    for value in sorted({series.lowest, series.highest}):
        apart = _apart_from(value)
        if apart is None:
            continue
        marked = values == np.float32(value)
        others = values[~marked]
        nearest = float(others.min() if value < 0 else others.max()) if others.size else None
        if _stands_alone(value, apart, nearest, others):
            found.append(Marker(int(marked.argmax()), int(marked.sum()), value, nearest))
    return found


def _stands_alone(
    value: float, apart: float, nearest: float | None, others: NDArray[np.float32]
) -> bool:
    if nearest is None:
        return abs(value) >= HUGE
    # A difference of two counts may be -1, and a limit of memory 2 or 4 GiB, which are 2^31 - 1 and
    # 2^32 - 1 as float32.
    if abs(value) in (1.0, *LIMITS) and np.unique(others).size < FEW_LEVELS:
        return False
    return abs(value) > apart * max(0.0, nearest * np.sign(value))


def _apart_from(value: float) -> float | None:
    """Return how many times the other values a marker of this value must be, or None if it is not
    a usual marker.
    """
    size = abs(value)
    if size >= HUGE:
        return SPIKE
    if size in LIMITS:
        return JUMP
    if value == -1 or size in (2.0**15 - 1, 2.0**16 - 1) or value == -(2.0**15):
        return APART
    nines = f"{size:.0f}" if size == round(size) else ""
    enough = len(nines) >= (2 if value < 0 else 3)
    return APART if enough and set(nines) == {"9"} else None


def breaks(series: Observed, season: int) -> list[Break]:
    """Return the places at which the series goes on at about 1,000^k or 1,024^k times its size, or
    the inverse of that (k from 1 to 3). Zeros and negative values are passed over.
    """
    if series.lowest > 0 and series.highest < JUMP * series.lowest:
        return []
    values, positive = series.values, np.arange(series.values.size)
    if series.lowest <= 0:
        positive = np.flatnonzero(values > 0)
        values = values[positive]
    lower, higher = np.minimum(values[1:], values[:-1]), np.maximum(values[1:], values[:-1])
    jumps = np.flatnonzero(higher >= JUMP * lower) + 1
    if not 1 <= jumps.size <= MOST_JUMPS:
        return []
    edges = np.array([0, *jumps, values.size])
    sides = [(begin, end) for begin, end in pairwise(edges) if end - begin >= SHORTEST_SIDE]
    found = []
    for (begin, middle), (first, end) in pairwise(sides):
        n = min(middle - begin, end - first, season)
        before, after = values[middle - n : middle], values[first : first + n]
        shift = float(np.log10(_middle(after) / _middle(before)))
        change = Break(int(positive[first]), shift, same_shape=False)
        if change.misses_by > NEAR_UNIT:
            continue
        shifts = np.log10(np.quantile(after, _QUANTILES) / np.quantile(before, _QUANTILES))
        misses = [replace(change, shift=float(own)).misses_by for own in shifts]
        same_shape = n >= FEWEST and max(misses) <= SAME_SHAPE
        found.append(replace(change, same_shape=same_shape))
    return found if len(found) <= MOST_BREAKS else []


def _middle(values: NDArray[np.float32]) -> np.float32:
    """Return the upper median; unlike `np.median`, it costs no more than the selection."""
    middle = values.size // 2
    return np.float32(np.partition(values, middle)[middle])
