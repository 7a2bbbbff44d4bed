"""Does a fleet's telemetry look right? What the rules of `fleets.suspects` say about all tenants.

What belongs here: applying the rules to every series, comparing tenants, and the sentences. What
does not: the rules (`fleets.suspects`), what corrects a fault (`fleets.remedies`), and how serious
it is (`fleets.quality`).
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.fleets import remedies
from tsfm_pipeline.fleets.source import FleetSource
from tsfm_pipeline.fleets.suspects import (
    APART,
    SAME_SHAPE,
    Break,
    Counter,
    Marker,
    Observed,
    Spikes,
    breaks,
    counter,
    markers,
    spikes,
)

_COUNTER_NAME = re.compile(r"_(total|sum|count|bucket)$")
"""Names that Prometheus gives to counters."""
S = TypeVar("S")


@dataclass(frozen=True)
class Doubt:
    """What looks wrong in one tenant's values, or in those of all tenants (None), and what a person
    can do about it.
    """

    tenant: str | None
    problem: str
    remedy: str


_Suspects = defaultdict[str, list[tuple[str, int, S]]]
"""What one rule found, by metric: tenant, step of the first value, finding."""


class Plausibility:
    """Applies the rules to a fleet, tenant by tenant. What needs a comparison of tenants is decided
    once all of them were looked at.
    """

    def __init__(self, source: FleetSource) -> None:
        self._source = source
        self._season = source.seasons[0] if source.seasons else source.steps_per_day
        self._tenants: dict[str, list[str]] = {metric: [] for metric in source.metrics}
        self._largest: dict[str, float] = defaultdict(float)
        self._counters: _Suspects[Counter] = defaultdict(list)
        self._spikes: _Suspects[Spikes] = defaultdict(list)
        self._markers: _Suspects[Marker] = defaultdict(list)
        self._breaks: _Suspects[Break] = defaultdict(list)

    def look(self, tenant: str, values: NDArray[np.float32]) -> None:
        """Look at one tenant's values [D, T], NaN where missing."""
        every_step = np.arange(values.shape[1])
        for metric, row in zip(self._source.metrics, values, strict=True):
            missing = np.isnan(row)
            if missing.all():
                continue
            self._tenants[metric].append(tenant)
            whole = not missing.any()
            series = Observed(row, every_step) if whole else Observed(row, every_step).at(~missing)
            self._look_at(tenant, metric, series)

    def _look_at(self, tenant: str, metric: str, series: Observed) -> None:
        found = markers(series)
        self._markers[metric] += [(tenant, series.step(marker.first), marker) for marker in found]
        if found:
            marks = np.array([marker.value for marker in found], dtype=np.float32)
            series = series.at(~np.isin(series.values, marks))
        if not series.values.size:
            return
        changes = breaks(series, self._season)
        self._breaks[metric] += [(tenant, series.step(change.first), change) for change in changes]
        spike = spikes(series)
        if spike is None:
            self._largest[metric] = max(self._largest[metric], series.highest, -series.lowest)
        else:
            self._spikes[metric].append((tenant, series.step(spike.first), spike))
        name = bool(_COUNTER_NAME.search(metric))
        total = counter(series, self._source.steps_per_day, counter_name=name)
        if total is not None:
            first = 0 if total.first is None else total.first
            self._counters[metric].append((tenant, series.step(first), total))

    def doubts(self) -> Iterator[Doubt]:
        """Yield what looks wrong, metric by metric."""
        for metric in self._source.metrics:
            for rule in (self._of_counters, self._of_spikes, self._of_markers, self._of_breaks):
                yield from self._together(metric, list(rule(metric)))

    def _together(self, metric: str, doubts: list[Doubt]) -> list[Doubt]:
        """Return one doubt for all tenants instead of the same one for each."""
        everyone = self._tenants[metric]
        if len(everyone) < 2 or {doubt.tenant for doubt in doubts} != set(everyone):
            return doubts
        first = doubts[0]
        return [Doubt(None, f"{first.problem} ({first.tenant}; all others alike)", first.remedy)]

    def _of_counters(self, metric: str) -> Iterator[Doubt]:
        remedy = remedies.rate_of(self._source.spec, metric, self._source.step.total_seconds())
        for tenant, step, found in self._counters[metric]:
            times = "once" if found.n_falls == 1 else f"only {found.n_falls} times, first"
            falls = "never falls" if found.first is None else f"falls {times} at {self._time(step)}"
            yield Doubt(tenant, f"{metric} rises and {falls}: a cumulative counter?", remedy)

    def _of_spikes(self, metric: str) -> Iterator[Doubt]:
        elsewhere = {(tenant, step) for tenant, step, _ in self._agreed_breaks(metric)}
        for tenant, step, found in self._spikes[metric]:
            usual = abs(found.value) < APART * self._largest[metric]
            if usual or (tenant, step) in elsewhere:
                continue
            more = f" and {found.number - 1} more values" if found.number > 1 else ""
            problem = (
                f"{metric} is {remedies.digits(found.value)} at {self._time(step)}{more}, "
                f"{abs(found.value) / found.usual:,.0f} times its 99th percentile "
                f"({remedies.digits(found.usual)}): a wrong value?"
            )
            others = max(found.others, self._largest[metric])
            remedy = remedies.bounded(self._source.spec, metric, found.value, others)
            yield Doubt(tenant, problem, remedy)

    def _of_markers(self, metric: str) -> Iterator[Doubt]:
        total: dict[float, int] = defaultdict(int)
        for _, _, found in self._markers[metric]:
            total[found.value] += found.number
        for tenant, step, found in self._markers[metric]:
            if total[found.value] == 1:
                continue
            nearest = (
                "as every value"
                if found.nearest is None
                else f"and otherwise {'at least' if found.value < 0 else 'at most'} "
                f"{remedies.digits(found.nearest)}"
            )
            problem = (
                f"{metric} is {remedies.digits(found.value)} {found.number} times, first at "
                f"{self._time(step)}, {nearest}: a marker for missing values?"
            )
            remedy = remedies.marked_missing(self._source.spec, metric, found.value)
            yield Doubt(tenant, problem, remedy)

    def _of_breaks(self, metric: str) -> Iterator[Doubt]:
        for tenant, step, change in self._agreed_breaks(metric):
            when, larger = self._time(step), change.shift > 0
            factor = f"{1000**change.power:,} or {1024**change.power:,}"
            times = f"{factor} times {'larger' if larger else 'smaller'}"
            problem = f"{metric} is about {times} from {when} on: another unit?"
            remedy = remedies.converted(self._source.spec, when, factor, larger=larger)
            yield Doubt(tenant, problem, remedy)

    def _agreed_breaks(self, metric: str) -> Iterator[tuple[str, int, Break]]:
        """Yield the breaks that a series shows by itself, or that at least three tenants and half
        of all have at one time; then with the shift that they have in common.
        """
        suspects = self._breaks[metric]
        steps = np.array([step for _, step, _ in suspects])
        shifts = np.array([change.shift for _, _, change in suspects])
        enough = max(3.0, len(self._tenants[metric]) / 2)
        for tenant, step, change in suspects:
            alike = (np.abs(steps - step) <= 1) & (shifts * change.shift > 0)
            shared = Break(change.first, float(np.median(shifts[alike])), same_shape=False)
            if alike.sum() >= enough and shared.misses_by <= SAME_SHAPE:
                yield tenant, step, shared
            elif change.same_shape:
                yield tenant, step, change

    def _time(self, step: int) -> str:
        time = self._source.start + step * self._source.step
        return f"{time:%Y-%m-%d %H:%M:%S}".removesuffix(":00")
