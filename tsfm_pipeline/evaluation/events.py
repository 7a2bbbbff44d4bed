"""Known events: times whose values are no evidence for ordinary ones, such as campaigns,
deployments and holidays.

What belongs here: how a fleet file states an event, and which validation origins of a request count
beside it. What does not: the losses at these origins (`autoresearch.evidence`), and what the events
were worth (`reports.ablation`).
Axes: R requests, J validation origins, H horizon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DAY, MICROSECOND = timedelta(days=1), timedelta(microseconds=1)


class Event(BaseModel):
    """One known event: from `start` to before `end`, both in UTC.

    In a file it is a date, which is that whole day, or a mapping with start, end and optionally a
    name. A start or an end may be a date too: the event then begins or ends with that day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: datetime = Field(description="a time, or a date; without a time zone it is UTC")
    end: datetime = Field(
        description="a time, which is the first one after the event, or a date, which is its last "
        "day"
    )
    name: str = Field(default="", description="for people who read the fleet file")

    @model_validator(mode="before")
    @classmethod
    def _one_day(cls, value: Any) -> Any:
        day = _date(value)
        if day is not None:
            return {"start": day, "end": day}
        if not isinstance(value, Mapping | cls):
            raise ValueError("an event is a date like 2024-03-08, or a mapping with start and end")
        return value

    @field_validator("start", mode="before")
    @classmethod
    def _begins_with_its_day(cls, value: Any) -> Any:
        day = _date(value)
        return value if day is None else datetime(day.year, day.month, day.day)

    @field_validator("end", mode="before")
    @classmethod
    def _ends_with_its_day(cls, value: Any) -> Any:
        day = _date(value)
        return value if day is None else datetime(day.year, day.month, day.day) + DAY

    @field_validator("start", "end")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @model_validator(mode="after")
    def _lasts(self) -> "Event":
        if self.end <= self.start:
            raise ValueError(
                f"the event ends at {self.end.isoformat()}, which is not after its start, "
                f"{self.start.isoformat()}; allowed: an end after the start"
            )
        return self


def _date(value: Any) -> date | None:
    """Return a date without a time of day, or its text, as a date; None for anything else."""
    if isinstance(value, str) and len(value) == len("2024-01-01"):
        try:
            return date.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


@dataclass(frozen=True)
class EventSteps:
    """Events on a time grid: the steps from first[e] to before after[e] belong to event e.

    Steps are counted from any step 0, and each lasts until the next one. So the events of a longer
    step include every step that they touch.
    """

    first: NDArray[np.int64]
    after: NDArray[np.int64]

    @classmethod
    def of(cls, events: Sequence[Event], start: datetime, step: timedelta) -> "EventSteps":
        """Return the steps of events on a grid whose step 0 is at `start`."""
        width = step // MICROSECOND
        begins = [((event.start - start) // MICROSECOND) // width for event in events]
        ends = [-(-((event.end - start) // MICROSECOND) // width) for event in events]
        return cls(np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64))

    @classmethod
    def of_marked(cls, steps: NDArray[np.integer]) -> "EventSteps":
        """Return the events that marked steps make: ascending, each once; neighbours are one
        event.
        """
        runs = np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1) if len(steps) else []
        return cls(
            np.array([run[0] for run in runs], dtype=np.int64),
            np.array([run[-1] + 1 for run in runs], dtype=np.int64),
        )

    def with_more(self, other: "EventSteps") -> "EventSteps":
        """Return the events of both."""
        return EventSteps(
            np.concatenate([self.first, other.first]), np.concatenate([self.after, other.after])
        )

    def touch(self, origins: NDArray[np.integer], horizon: int) -> NDArray[np.bool_]:
        """Return whether any of the `horizon` steps after each origin [...] is in an event."""
        begins, ends = np.asarray(origins)[..., None] + 1, np.asarray(origins)[..., None] + horizon
        return np.asarray(((begins < self.after) & (ends >= self.first)).any(axis=-1))

    def comparable(
        self, origins: NDArray[np.integer], offsets: Sequence[int], horizon: int
    ) -> NDArray[np.bool_]:
        """Return which validation origins count as evidence for requests: origins [R], offsets [J]
        in steps before them -> bool [R, J].

        Those count whose steps are as the request's own: with an event where its steps have one,
        without one where they have none. Where no origin is like the request, all of them count.
        """
        own = self.touch(origins, horizon)[:, None]
        earlier = np.asarray(origins, dtype=np.int64)[:, None] - np.asarray(offsets, dtype=np.int64)
        alike = self.touch(earlier, horizon) == own
        return np.asarray(alike | ~alike.any(axis=1, keepdims=True))
