"""What a fleet is: the pydantic model of one YAML file in `data/fleets/`, and the reading of those files.

What belongs here: the fields of a fleet, their defaults and limits, and messages for people who wrote a field wrongly.
What does not: reading telemetry (`fleets.table`), generating it (`fleets.synthetic`), the evaluation protocol
(`settings`).
"""

import difflib
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from tsfm_pipeline.fleets.profiles import METRICS, archetype_counts, tenants_needed
from tsfm_pipeline.settings import TIER_SHARES, TIERS

MINUTES_PER_DAY = 1440
FLEETS_DIR_VARIABLE = "TSFM_FLEETS_DIR"
RESERVED_COLUMNS = ("tenant_id", "timestamp", "tenant_number")
"""Columns of the telemetry table; no metric may carry their names."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


class FleetSpecError(ValueError):
    """A fleet file says something that is not allowed; the message names file, field, value and what is allowed."""


def _require_order(lower: float | None, upper: float | None) -> None:
    if lower is not None and upper is not None and lower >= upper:
        raise ValueError(f"lower ({lower:g}) must lie below upper ({upper:g})")


class Bounds(BaseModel):
    """Physical limits of one metric; null means that there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    lower: float | None = Field(default=None, allow_inf_nan=False, description="a number, or null for no limit")
    upper: float | None = Field(default=None, allow_inf_nan=False, description="a number, or null for no limit")

    @model_validator(mode="after")
    def _ordered(self) -> "Bounds":
        _require_order(self.lower, self.upper)
        return self


class _Fleet(BaseModel):
    """The fields that every kind of fleet has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="the stem of the file's name: a-z, 0-9, '_' and '-', beginning with a letter or digit")
    title: str = Field(min_length=1, description="a short title for reports")
    description: str = Field(default="", description="a sentence or two for the UI")
    nightly: bool = Field(default=False, description="true or false: does the nightly run include this fleet")
    horizon: int = Field(default=60, ge=1, le=1024, description="a whole number of steps from 1 to 1024")
    seasons: tuple[Annotated[int, Field(ge=2)], ...] | None = Field(
        default=None,
        description="whole numbers of steps, each at least 2, shortest first (default: one day and one week)",
    )
    max_gap: int = Field(default=30, ge=0, description="a whole number of steps, at least 0: the longest gap that is filled")
    origins_per_tenant: int = Field(default=12, ge=1, description="a whole number, at least 1")
    seed: int = Field(default=0, ge=0, lt=2**63, description="a whole number, at least 0")
    lower: float | None = Field(default=None, allow_inf_nan=False, description="a number, or null for no limit")
    upper: float | None = Field(default=None, allow_inf_nan=False, description="a number, or null for no limit")
    bounds: dict[str, Bounds] = Field(
        default_factory=dict,
        description="metric: {lower: number or null, upper: number or null}; overrides lower and upper",
    )
    tiers: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=lambda: dict(TIER_SHARES), description=f"shares of {', '.join(TIERS)} that sum to 1"
    )

    @field_validator("name")
    @classmethod
    def _path_safe(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("not a fleet name")
        return name

    @field_validator("seasons")
    @classmethod
    def _seasons_ascend(cls, seasons: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if seasons is not None and (not seasons or list(seasons) != sorted(set(seasons))):
            raise ValueError("seasons must be given once each, shortest first, and at least one of them")
        return seasons

    @field_validator("tiers")
    @classmethod
    def _shares_of_tiers(cls, shares: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(shares) - set(TIERS))
        if unknown:
            raise ValueError(f"unknown tier {', '.join(unknown)}")
        if abs(sum(shares.values()) - 1.0) > 1e-6:
            raise ValueError(f"the shares sum to {sum(shares.values()):g}")
        return {tier: shares.get(tier, 0.0) for tier in TIERS}

    @model_validator(mode="after")
    def _bounds_ordered(self) -> "_Fleet":
        _require_order(self.lower, self.upper)
        return self

    def bounds_of(self, metric: str) -> tuple[float | None, float | None]:
        """(lower, upper) of one metric: its own entry in `bounds`, else the fleet's."""
        own = self.bounds.get(metric)
        return (self.lower, self.upper) if own is None else (own.lower, own.upper)

    def seasons_in_steps(self, step_minutes: float) -> tuple[int, ...]:
        """The seasons in steps, shortest first: as given, else one day and one week (where they hold two or more)."""
        if self.seasons is not None:
            return self.seasons
        day = round(MINUTES_PER_DAY / step_minutes)
        return tuple(steps for steps in (day, 7 * day) if steps >= 2)


class SyntheticFleet(_Fleet):
    """A generated fleet: 1-minute telemetry of the eight archetypes, see `fleets.synthetic`."""

    kind: Literal["synthetic"]
    tenants: int = Field(ge=1, le=100_000, description="a whole number from 1 to 100000")
    days: int = Field(ge=2, le=3660, description="a whole number of days from 2 to 3660")
    start: datetime = Field(
        default=datetime(2024, 1, 1, tzinfo=UTC),
        description="a time with whole minutes; without a time zone it is UTC. Weekly patterns follow its calendar",
    )
    minimum_per_archetype: int = Field(default=0, ge=0, description="a whole number, at least 0")
    lower: float | None = Field(default=0.0, allow_inf_nan=False, description="a number, or null for no limit")

    @field_validator("start")
    @classmethod
    def _whole_utc_minute(cls, start: datetime) -> datetime:
        start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
        if start.second or start.microsecond:
            raise ValueError("the start has seconds")
        return start

    @model_validator(mode="after")
    def _bounds_name_metrics(self) -> "SyntheticFleet":
        unknown = sorted(set(self.bounds) - set(METRICS))
        if unknown:
            raise ValueError(f"bounds name {', '.join(map(repr, unknown))}; the metrics are {', '.join(METRICS)}")
        return self

    @model_validator(mode="after")
    def _enough_of_each(self) -> "SyntheticFleet":
        counts = archetype_counts(self.tenants)
        rarest = min(counts, key=lambda name: counts[name])
        if counts[rarest] < self.minimum_per_archetype:
            raise ValueError(
                f"{self.tenants} tenants hold {counts[rarest]} of {rarest!r}, and minimum_per_archetype is "
                f"{self.minimum_per_archetype}; that takes {tenants_needed(self.minimum_per_archetype)} tenants or more"
            )
        return self


class TableFleet(_Fleet):
    """A fleet that lies in Parquet or CSV files: one row per tenant and timestamp, one column per metric."""

    kind: Literal["table"]
    path: str = Field(
        min_length=1,
        description=f"a .parquet or .csv file or glob; ${{{FLEETS_DIR_VARIABLE}}} and other variables are expanded, "
        "and a relative path starts in the fleets directory",
    )
    source: str = Field(min_length=1, description="what the set is and where it is published")
    tenant_column: str = Field(default="tenant_id", min_length=1, description="the name of a column")
    timestamp_column: str = Field(default="timestamp", min_length=1, description="the name of a column")
    metrics: tuple[str, ...] | None = Field(default=None, description="names of columns, at least one, or null for every numeric column")
    step: str | float = Field(
        default="infer", description="'infer', or a number: minutes between two rows of a tenant, a divisor of one day"
    )
    tier_column: str | None = Field(default=None, description="the name of a column, or null to deal tiers by shares")
    archetype_column: str | None = Field(default=None, description="the name of a column, or null")

    @field_validator("path")
    @classmethod
    def _known_format(cls, path: str) -> str:
        if not path.endswith((".parquet", ".csv")):
            raise ValueError("neither .parquet nor .csv")
        return path

    @field_validator("metrics")
    @classmethod
    def _usable_metrics(cls, metrics: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if metrics is not None and (not metrics or len(set(metrics)) < len(metrics)):
            raise ValueError("metrics must be given once each, and at least one of them")
        return metrics

    @field_validator("step")
    @classmethod
    def _divides_a_day(cls, step: str | float) -> str | float:
        if isinstance(step, str) and step != "infer":
            raise ValueError("neither 'infer' nor a number")
        if not isinstance(step, str) and not divides_a_day(step):
            raise ValueError("a day is not a whole number of such steps")
        return step

    @model_validator(mode="after")
    def _columns_differ(self) -> "TableFleet":
        if self.tier_column is not None and "tiers" in self.model_fields_set:
            raise ValueError("give either tier_column or tiers (shares), not both")
        roles = [self.tenant_column, self.timestamp_column, self.tier_column, self.archetype_column]
        used = [column for column in (*roles, *(self.metrics or ())) if column is not None]
        twice = sorted({column for column in used if used.count(column) > 1})
        if twice:
            raise ValueError(f"column {', '.join(map(repr, twice))} is given more than one role")
        unknown = sorted(set(self.bounds) - set(self.metrics or self.bounds))
        if unknown:
            raise ValueError(f"bounds name {', '.join(map(repr, unknown))}, which is not among metrics")
        return self

    def expanded_path(self, fleets_dir: Path) -> Path:
        """The path with `~` and variables expanded; `${TSFM_FLEETS_DIR}` is `fleets_dir`, relative paths start there.

        Raises `FleetSpecError` for a variable that is not set.
        """
        fleets_dir = fleets_dir.absolute()

        def value(match: re.Match[str]) -> str:
            variable = match.group(1) or match.group(2)
            if variable == FLEETS_DIR_VARIABLE:
                return str(fleets_dir)
            if variable not in os.environ:
                raise FleetSpecError(f"fleet {self.name!r}, field 'path': environment variable {variable} of {self.path!r} is not set")
            return os.environ[variable]

        return fleets_dir / Path(_VARIABLE.sub(value, self.path)).expanduser()


FleetSpec = Annotated[SyntheticFleet | TableFleet, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[SyntheticFleet | TableFleet] = TypeAdapter(FleetSpec)
_KINDS: dict[str, type[SyntheticFleet] | type[TableFleet]] = {"synthetic": SyntheticFleet, "table": TableFleet}


def divides_a_day(step_minutes: float) -> bool:
    """True where one day is a whole number of steps, at least one; steps are counted in whole microseconds."""
    step_us = round(step_minutes * 60_000_000) if 0 < step_minutes <= MINUTES_PER_DAY else 0
    return step_us > 0 and (MINUTES_PER_DAY * 60_000_000) % step_us == 0


def load_specs(directory: str | Path) -> dict[str, SyntheticFleet | TableFleet]:
    """Every fleet of a directory by name, sorted. Raises `FleetSpecError` for a bad file or a directory without any."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FleetSpecError(f"{directory}: no such directory; it must hold one YAML file per fleet")
    misnamed = sorted(directory.glob("*.yml"))
    if misnamed:
        raise FleetSpecError(f"{misnamed[0]}: the ending must be .yaml, so that no fleet is overlooked")
    paths = sorted(directory.glob("*.yaml"))
    if not paths:
        raise FleetSpecError(f"{directory}: no fleet in it; add a file <name>.yaml with at least 'kind' and 'title'")
    return {path.stem: load_spec(path) for path in paths}


def load_spec(path: str | Path) -> SyntheticFleet | TableFleet:
    """Read one fleet file; its stem is the fleet's name. Raises `FleetSpecError`: file, field, what is allowed."""
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FleetSpecError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise FleetSpecError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, Mapping) or not all(isinstance(field, str) for field in document):
        raise FleetSpecError(f"{path}: a fleet file is a mapping from field names to values, like 'kind: synthetic'")
    if "name" in document:
        raise FleetSpecError(f"{path}: field 'name': leave it out, the name of a fleet is the name of its file")
    try:
        return _ADAPTER.validate_python({**document, "name": path.stem})
    except ValidationError as error:
        messages = dict.fromkeys(_for_people(path, document, detail) for detail in error.errors())
        raise FleetSpecError("\n".join(messages)) from error


def _for_people(path: Path, document: Mapping[str, Any], detail: Any) -> str:
    """One pydantic error as 'file: field: what is wrong, what was given, what is allowed'."""
    kind = _KINDS.get(str(document.get("kind")))
    if kind is None:
        given = f"{document['kind']!r}" if "kind" in document else "nothing"
        return f"{path}: field 'kind': got {given}; allowed: {', '.join(_KINDS)}"
    location = [str(part) for part in detail["loc"][1:]]
    if not location:
        return f"{path}: {_reason(detail)}"
    field, where = location[0], ".".join(location)
    if detail["type"] == "extra_forbidden":
        fields = [name for name in (kind if len(location) == 1 else Bounds).model_fields if name != "name"]
        near = difflib.get_close_matches(location[-1], fields, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{path}: field {where!r}: unknown{hint}; allowed: {', '.join(fields)}"
    allowed = kind.model_fields[field].description
    if detail["type"] == "missing":
        return f"{path}: field {where!r}: missing; allowed: {allowed}"
    return f"{path}: field {where!r}: got {detail['input']!r}: {_reason(detail)}; allowed: {allowed}"


def _reason(detail: Any) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
