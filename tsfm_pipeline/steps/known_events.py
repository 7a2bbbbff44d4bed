"""A fleet's known events: those that its file lists, for all tenants, and those that a column of
its table marks, tenant by tenant.

What belongs here: the events of a fleet on its time grid, and the evidence of a batch of requests
beside them. What does not: what an event does to a request (`evaluation.events`), reading the
column (`fleets.table`), and what the events were worth (`reports.ablation`).
Axes: R requests, J validation origins, D metrics, K configurations, A tiers.

The column is read from the fleet's own table, which the fingerprint of its telemetry covers. It is
no telemetry, so no table of the lake holds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.events import EventSteps
from tsfm_pipeline.fleets.row_fields import event_column_of

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class KnownEvents:
    """The events of all tenants, and further ones of single tenants, by their numbers."""

    of_all: EventSteps
    of_tenants: Mapping[int, EventSteps]

    def of(self, tenant_number: int) -> EventSteps:
        """Return all events of a tenant."""
        own = self.of_tenants.get(tenant_number)
        return self.of_all if own is None else self.of_all.with_more(own)

    def __len__(self) -> int:
        """Return how many there are, those of single tenants counted for each of them."""
        return len(self.of_all.first) + sum(len(own.first) for own in self.of_tenants.values())


def has_events(fleet: Fleet) -> bool:
    """Return whether the fleet's file says any known event, or where they are marked."""
    return bool(fleet.spec.events) or event_column_of(fleet.spec) is not None


@lru_cache(maxsize=2)
def known_events(fleet: Fleet) -> KnownEvents:
    """Return the fleet's known events; where a column marks them, its table is read once."""
    grid = fleet.grid
    of_all = EventSteps.of(fleet.spec.events, grid.start, timedelta(minutes=grid.step_minutes))
    if event_column_of(fleet.spec) is None:
        return KnownEvents(of_all, {})
    marked = read_marked_steps(fleet).group_by("tenant_number")
    return KnownEvents(
        of_all,
        {int(number): EventSteps.of_marked(rows["step"].to_numpy()) for (number,), rows in marked},
    )


def read_marked_steps(fleet: Fleet) -> pl.DataFrame:
    """Return what the fleet's source says of its event column (`FleetSource.marked_steps`)."""
    return fleet.source.marked_steps()


def comparable_origins(fleet: Fleet, requests: Requests) -> NDArray[np.bool_]:
    """Return which validation origins count beside the fleet's known events, bool [R, J]."""
    events, horizon = known_events(fleet), fleet.spec.horizon
    counts = [
        events.of(int(tenant)).comparable(origins, fleet.offsets, horizon)
        for tenant, origins in zip(requests.tenant_numbers, requests.origins, strict=True)
    ]
    return np.array(counts, dtype=bool).reshape(requests.ids.size, len(fleet.offsets))


def beside_events(
    fleet: Fleet, requests: Requests, evidence: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Return evidence [R, D, K, J, A] with NaN at the origins that the fleet's known events make no
    evidence for a request.
    """
    if not has_events(fleet):
        return evidence
    counts = comparable_origins(fleet, requests)[:, None, None, :, None]
    losses, violations = (np.where(counts, part, part.dtype.type(np.nan)) for part in evidence)
    return losses, violations
