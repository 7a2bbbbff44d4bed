"""The fields of a generated fleet.

What belongs here: the fields, and the rules that one fleet file can break by itself. What does not:
generating telemetry (`fleets.synthetic`), the archetypes (`fleets.profiles`).
"""

from datetime import UTC, datetime
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tsfm_pipeline.fleets.fields import FleetFields
from tsfm_pipeline.fleets.profiles import METRICS, archetype_counts, tenants_needed


class SyntheticFleet(FleetFields):
    """A generated fleet: 1-minute telemetry of the eight archetypes (see `fleets.synthetic`)."""

    kind: Literal["synthetic"]
    tenants: int = Field(ge=1, le=100_000, description="a whole number from 1 to 100000")
    days: int = Field(ge=2, le=3660, description="a whole number of days from 2 to 3660")
    start: datetime = Field(
        default=datetime(2024, 1, 1, tzinfo=UTC),
        description="a time with whole minutes; without a time zone it is UTC. Weekly patterns "
        "follow its calendar",
    )
    minimum_per_archetype: int = Field(default=0, ge=0, description="a whole number, at least 0")
    lower: float | None = Field(
        default=0.0, allow_inf_nan=False, description="a number, or null for no limit"
    )

    @field_validator("start")
    @classmethod
    def _whole_utc_minute(cls, start: datetime) -> datetime:
        start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
        if start.second or start.microsecond:
            raise ValueError("the start must be a whole minute")
        return start

    @model_validator(mode="after")
    def _known_metrics(self) -> "SyntheticFleet":
        self.check_metrics(METRICS)
        return self

    @model_validator(mode="after")
    def _enough_of_each(self) -> "SyntheticFleet":
        counts = archetype_counts(self.tenants)
        rarest = min(counts, key=lambda name: counts[name])
        if counts[rarest] < self.minimum_per_archetype:
            raise ValueError(
                f"{self.tenants} tenants hold {counts[rarest]} of {rarest!r}, and "
                f"minimum_per_archetype is {self.minimum_per_archetype}; use at least "
                f"{tenants_needed(self.minimum_per_archetype)} tenants"
            )
        return self
