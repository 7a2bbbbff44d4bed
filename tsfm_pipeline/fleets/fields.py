"""The fields that all kinds of fleet share, with their defaults and limits.

What belongs here: fields that every fleet file may have, and their rules. What does not: the fields
of one kind (`fleets.kinds`), reading the files (`fleets.spec`), the evaluation protocol
(`evaluation.protocol`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tsfm_pipeline.evaluation.events import Event
from tsfm_pipeline.evaluation.protocol import (
    HIGHEST_ALPHA,
    TIERS,
    default_shares,
    require_shares,
    require_tiers,
)
from tsfm_pipeline.spec_files import path_safe

MINUTES_PER_DAY = 1440
RESERVED_COLUMNS = ("tenant_id", "timestamp", "tenant_number")
"""Columns of the telemetry table; a metric must not have one of these names."""


class FleetSpecError(ValueError):
    """Raised for a fleet file with a field that is not allowed; the message names the file, the
    field, the value and what is allowed.
    """


def fleet_name(name: str) -> str:
    """Return the name unchanged if it is safe as the name of a file and of folders. Raises
    ValueError otherwise.
    """
    return path_safe(name, "fleet")


def divides_a_day(step_minutes: float) -> bool:
    """Return whether one day is a whole number of steps, at least one; steps are counted in whole
    microseconds.
    """
    step_us = round(step_minutes * 60_000_000) if 0 < step_minutes <= MINUTES_PER_DAY else 0
    return step_us > 0 and (MINUTES_PER_DAY * 60_000_000) % step_us == 0


def possible_step(step_minutes: float) -> bool:
    """Return whether rows of a table may be this far apart: a divisor of one day, or a whole number
    of days up to a week.
    """
    days = step_minutes / MINUTES_PER_DAY
    return divides_a_day(step_minutes) or days in range(1, 8)


def _require_order(lower: float | None, upper: float | None) -> None:
    if lower is not None and upper is not None and lower >= upper:
        raise ValueError(f"lower ({lower:g}) must lie below upper ({upper:g})")


class Bounds(BaseModel):
    """Physical limits of one metric; null means no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    lower: float | None = Field(
        default=None, allow_inf_nan=False, description="a number, or null for no limit"
    )
    upper: float | None = Field(
        default=None, allow_inf_nan=False, description="a number, or null for no limit"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Bounds":
        _require_order(self.lower, self.upper)
        return self


def _alpha_of(value: Any) -> Any:
    """Return alpha from the cost of reserving one unit too little (shortage) and one unit too much
    (slack).

    The reservation with the lowest expected cost is the quantile at shortage / (shortage + slack),
    the critical fractile of the newsvendor problem (Arrow, Harris and Marschak, 1951).
    """
    if not isinstance(value, Mapping):
        return value
    if set(value) != {"shortage", "slack"} or not all(map(_is_price, value.values())):
        raise ValueError("the prices must be 'shortage' and 'slack', two numbers above 0")
    shortage, slack = float(value["shortage"]), float(value["slack"])
    return round(shortage / (shortage + slack), 12)


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


Alpha = Annotated[float, BeforeValidator(_alpha_of)]


class FleetFields(BaseModel):
    """The fields that all kinds of fleet share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        description="the stem of the file's name: a-z, 0-9, '_' and '-', beginning with a letter "
        "or digit, at most 64"
    )
    title: str = Field(min_length=1, description="a short title for reports")
    description: str = Field(default="", description="a sentence or two for the UI")
    nightly: bool = Field(
        default=False, description="true or false: whether the nightly run includes this fleet"
    )
    horizon: int = Field(
        default=60, ge=1, le=1024, description="a whole number of steps from 1 to 1024"
    )
    seasons: tuple[Annotated[int, Field(ge=2)], ...] | None = Field(
        default=None,
        description="whole numbers of steps, each at least 2, shortest first, or [] for none "
        "(default: one day and one week)",
    )
    max_gap: int = Field(
        default=30,
        ge=0,
        description="a whole number of steps, at least 0: the longest gap that is filled. What "
        "lies before a longer one is not used, once 32 values have been observed after it",
    )
    calendar: Literal["shared", "own"] = Field(
        default="shared",
        description="'shared': the test period of every tenant is at the end of the fleet's "
        "telemetry; 'own': at the end of its own life, for tenants that live at different times",
    )
    events: tuple[Event, ...] = Field(
        default=(),
        description="a list of dates, or of mappings with start, end and name: known times that "
        "are no evidence for ordinary ones (UTC)",
    )
    origins_per_tenant: int = Field(
        default=12, ge=1, le=5000, description="a whole number from 1 to 5000"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="a whole number, at least 0")
    lower: float | None = Field(
        default=None, allow_inf_nan=False, description="a number, or null for no limit"
    )
    upper: float | None = Field(
        default=None, allow_inf_nan=False, description="a number, or null for no limit"
    )
    bounds: dict[str, Bounds] = Field(
        default_factory=dict,
        description="metric: {lower: number or null, upper: number or null}; overrides lower and "
        "upper",
    )
    prices: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="metric: a number above 0, the price of reserving one unit of it for one hour",
    )
    currency: str | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="the currency of the prices, 1 to 8 characters, like EUR; null without prices",
    )
    tiers: dict[str, Alpha] = Field(
        default_factory=lambda: dict(TIERS),
        description=f"tier: a number up to {HIGHEST_ALPHA:g}, its alpha, or tier: {{shortage: "
        f"price, slack: price}}",
    )
    tier_shares: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=lambda fields: default_shares(fields.get("tiers", TIERS)),
        description="tier: a number from 0 to 1, its share of the tenants; the shares sum to 1",
    )

    @field_validator("name")
    @classmethod
    def _path_safe(cls, name: str) -> str:
        return fleet_name(name)

    @field_validator("seasons")
    @classmethod
    def _seasons_ascend(cls, seasons: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if seasons is not None and list(seasons) != sorted(set(seasons)):
            raise ValueError("seasons must be numbers, each given once, shortest first")
        return seasons

    @field_validator("tiers", mode="before")
    @classmethod
    def _no_shares(cls, tiers: Any) -> Any:
        """Refuse shares of the tenants here: older fleet files wrote into this field what
        `tier_shares` holds.
        """
        if isinstance(tiers, Mapping) and tiers and set(tiers) <= set(TIERS):
            numbers = [value for value in tiers.values() if isinstance(value, int | float)]
            if len(numbers) == len(tiers) and abs(sum(numbers) - 1.0) <= 1e-6:
                raise ValueError(
                    "these numbers sum to 1, so they are shares of the tenants; rename the field "
                    "to 'tier_shares'. 'tiers' holds the alpha of each tier, or the prices that "
                    "give it"
                )
        return tiers

    @field_validator("tiers")
    @classmethod
    def _highest_alpha_first(cls, tiers: dict[str, float]) -> dict[str, float]:
        require_tiers(tiers)
        return dict(sorted(tiers.items(), key=lambda item: -item[1]))

    @field_validator("tier_shares")
    @classmethod
    def _shares_of_tiers(cls, shares: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        tiers = info.data.get("tiers")
        if tiers is None:  # the error in `tiers` is already reported
            return shares
        require_shares(shares, tiers)
        return {tier: shares.get(tier, 0.0) for tier in tiers}

    @model_validator(mode="after")
    def _bounds_ordered(self) -> "FleetFields":
        _require_order(self.lower, self.upper)
        return self

    @model_validator(mode="after")
    def _prices_in_a_currency(self) -> "FleetFields":
        if bool(self.prices) != (self.currency is not None):
            given, missing = ("prices", "currency") if self.prices else ("currency", "prices")
            raise ValueError(
                f"there are {given} but no {missing}; give both, like 'prices: {{cpu: 0.03}}' and "
                "'currency: EUR', or neither"
            )
        return self

    def check_metrics(self, metrics: Sequence[str]) -> None:
        """Raise ValueError where bounds or prices name a metric that the fleet does not have."""
        for field in ("bounds", "prices"):
            unknown = sorted(set(getattr(self, field)) - set(metrics))
            if unknown:
                raise ValueError(
                    f"{field} name {', '.join(map(repr, unknown))}; the metrics are "
                    f"{', '.join(metrics)}"
                )

    def bounds_of(self, metric: str) -> tuple[float | None, float | None]:
        """Return (lower, upper) of one metric: its own entry in `bounds`, else the fleet's."""
        own = self.bounds.get(metric)
        return (self.lower, self.upper) if own is None else (own.lower, own.upper)

    def seasons_in_steps(self, step_minutes: float) -> tuple[int, ...]:
        """Return the seasons in steps, shortest first: as given, else one day and one week, without
        those shorter than two steps.
        """
        if self.seasons is not None:
            return self.seasons
        day = round(MINUTES_PER_DAY / step_minutes)
        return tuple(steps for steps in (day, 7 * day) if steps >= 2)
