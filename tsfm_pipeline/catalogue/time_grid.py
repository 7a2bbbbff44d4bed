"""A fleet's time grid: the times of its steps, and its metrics.

What belongs here: steps, durations and times of one regular grid. What does not: what was observed
at a step (`arrays`), and the grid of forecasts.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class TimeGrid:
    """The fleet's time grid and metrics; seasons and days in steps."""

    start: datetime
    step_minutes: float
    n_steps: int
    metrics: tuple[str, ...]
    seasons: tuple[int, ...]

    @property
    def steps_per_day(self) -> int:
        """Return the whole steps of a day, at least one: a longer step counts as a day."""
        return max(1, round(1440 / self.step_minutes))

    @property
    def first_season(self) -> int | None:
        """Return the first season in steps; None where there is none."""
        return self.seasons[0] if self.seasons else None

    @property
    def season(self) -> int:
        """Return the first season in steps; 1 where there is none, as MASE is then scaled by the
        last value's error.
        """
        return self.first_season or 1

    def steps(self, minutes: float) -> int:
        """Return a duration in steps, rounded down."""
        return int(minutes // self.step_minutes)

    def time_of(self, step: int) -> datetime:
        return self.start + timedelta(minutes=self.step_minutes) * int(step)

    def to_json(self) -> dict[str, Any]:
        return {
            "start": self.start.isoformat(),
            "step_minutes": self.step_minutes,
            "n_steps": self.n_steps,
            "metrics": list(self.metrics),
            "seasons": list(self.seasons),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "TimeGrid":
        return cls(
            start=datetime.fromisoformat(record["start"]),
            step_minutes=record["step_minutes"],
            n_steps=record["n_steps"],
            metrics=tuple(record["metrics"]),
            seasons=tuple(record["seasons"]),
        )
