"""The kinds of fleet: one pydantic model each, with the fields of its YAML file, their defaults and
limits.

What belongs here: the fields of one kind, and the rules that one fleet file can break by itself.
What does not: the fields that all kinds share (`fleets.fields`), reading the files and wording
errors (`fleets.spec`), reading telemetry (`fleets.table`, `fleets.prometheus`), generating it
(`fleets.synthetic`).
"""

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tsfm_pipeline.fleets.fields import FleetFields, FleetSpecError, divides_a_day
from tsfm_pipeline.fleets.profiles import METRICS, archetype_counts, tenants_needed
from tsfm_pipeline.fleets.reading import TableReading

FLEETS_DIR_VARIABLE = "TSFM_FLEETS_DIR"
LONG_COLUMNS = {"tenant_column": "unique_id", "timestamp_column": "ds", "value_column": "y"}
"""Nixtla's column names: the defaults of the long layout."""
RESERVED_COLUMNS = ("tenant_id", "timestamp", "tenant_number")
"""Columns of the telemetry table; a metric must not have one of these names."""
_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_ENVIRONMENT = re.compile(r"[A-Z_][A-Z0-9_]*")
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


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


class TableFleet(TableReading):
    """A fleet stored in Parquet or CSV files.

    Wide: one row per tenant and timestamp, one column per metric. Long: one value per row, by
    default in Nixtla's columns unique_id, ds and y. In the long layout `metric_column` holds the
    name of each value's metric; without it there is a single metric, named after the value column.
    """

    kind: Literal["table"]
    path: str = Field(
        min_length=1,
        description=f"a .parquet or .csv file or glob; ${{{FLEETS_DIR_VARIABLE}}} and other "
        "variables are expanded, "
        "and a relative path starts in the fleets directory",
    )
    source: str = Field(min_length=1, description="what the data set is and where it is published")
    layout: Literal["wide", "long"] = Field(
        default="wide",
        description="'wide': one column per metric; 'long': one value per row, in the columns "
        "unique_id, ds and y",
    )
    tenant_column: str | tuple[str, ...] | None = Field(
        default="tenant_id",
        min_length=1,
        description="the name of a column; several, like [namespace, pod], whose values are "
        "joined by '/'; or null where each file is one tenant, named after the file",
    )
    timestamp_column: str = Field(
        default="timestamp", min_length=1, description="the name of a column"
    )
    value_column: str = Field(
        default="y", min_length=1, description="the name of a column (layout: long)"
    )
    metric_column: str | None = Field(
        default=None,
        min_length=1,
        description="the name of a column that names metrics, or null for a single metric "
        "(layout: long)",
    )
    metrics: tuple[str, ...] | None = Field(
        default=None,
        description="names of metrics, at least one, or null for every numeric column (long: "
        "every metric that occurs)",
    )
    step: str | float = Field(
        default="infer",
        description="'infer', or a number: minutes between two rows of a tenant, a divisor of one "
        "day",
    )
    align: Literal["exact", "up"] = Field(
        default="exact",
        description="'exact': all timestamps lie on one grid; 'up': each is moved up to the next "
        "step of the UTC grid, never to an earlier one",
    )
    tier_column: str | None = Field(
        default=None, description="the name of a column, or null to deal tiers by shares"
    )
    archetype_column: str | None = Field(default=None, description="the name of a column, or null")

    @model_validator(mode="before")
    @classmethod
    def _long_columns(cls, document: Any) -> Any:
        if isinstance(document, dict) and document.get("layout") == "long":
            return LONG_COLUMNS | document
        return document

    @field_validator("path")
    @classmethod
    def _known_format(cls, path: str) -> str:
        if not path.endswith((".parquet", ".csv")):
            raise ValueError("it ends in neither .parquet nor .csv")
        return path

    @field_validator("metrics")
    @classmethod
    def _usable_metrics(cls, metrics: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if metrics is not None and (not metrics or len(set(metrics)) < len(metrics)):
            raise ValueError("metrics must be at least one name, each given once")
        return metrics

    @field_validator("tenant_column")
    @classmethod
    def _one_column_is_no_list(
        cls, columns: str | tuple[str, ...] | None
    ) -> str | tuple[str, ...] | None:
        """Return a list of one column as that column, so that both ways of writing it are one
        fleet.
        """
        return columns[0] if isinstance(columns, tuple) and len(columns) == 1 else columns

    @field_validator("step")
    @classmethod
    def _divides_a_day(cls, step: str | float) -> str | float:
        if isinstance(step, str) and step != "infer":
            raise ValueError("it is neither 'infer' nor a number")
        if not isinstance(step, str) and not divides_a_day(step):
            raise ValueError("a day is not a whole number of such steps")
        return step

    @model_validator(mode="after")
    def _columns_differ(self) -> "TableFleet":
        if self.tier_column is not None and "tier_shares" in self.model_fields_set:
            raise ValueError("give either tier_column or tier_shares, not both")
        if self.one_tenant is not None and self.tenant_column is not None:
            raise ValueError("one_tenant needs 'tenant_column: null'; give either of the two")
        labels = [self.timestamp_column, self.tier_column, self.archetype_column]
        roles = [*self.tenant_columns, *labels]
        if self.layout == "long":
            columns = [*roles, self.value_column, self.metric_column]
            if self.metrics is not None and self.metric_column is None:
                raise ValueError(
                    "in the long layout, metrics needs metric_column; add it, or leave metrics out"
                )
        else:
            columns = [*roles, *(self.metrics or ())]
            if stray := {"value_column", "metric_column"} & self.model_fields_set:
                raise ValueError(
                    f"{' and '.join(sorted(stray))} belong to the long layout; add 'layout: "
                    "long', or leave them out"
                )
        used = [column for column in columns if column is not None]
        twice = sorted({column for column in used if used.count(column) > 1})
        if twice:
            raise ValueError(f"column {', '.join(map(repr, twice))} is given more than one role")
        if self.metrics is not None:
            self.check_metrics(self.metrics)
        return self

    @property
    def tenant_columns(self) -> tuple[str, ...]:
        """Return the columns that name the tenant; none where the files do."""
        if self.tenant_column is None:
            return ()
        return (self.tenant_column,) if isinstance(self.tenant_column, str) else self.tenant_column

    def expanded_path(self, fleets_dir: Path) -> Path:
        """Return the path with `~` and variables expanded. `${TSFM_FLEETS_DIR}` is `fleets_dir`,
        and relative paths start there.

        Raises `FleetSpecError` for a variable that is not set and for the home of an unknown user.
        """
        fleets_dir = fleets_dir.absolute()

        def value(match: re.Match[str]) -> str:
            variable = match.group(1) or match.group(2)
            if variable == FLEETS_DIR_VARIABLE:
                return str(fleets_dir)
            if variable not in os.environ:
                raise FleetSpecError(
                    f"fleet {self.name!r}, field 'path': environment variable {variable} of "
                    f"{self.path!r} is not set"
                )
            return os.environ[variable]

        try:
            return fleets_dir / Path(_VARIABLE.sub(value, self.path)).expanduser()
        except RuntimeError as error:
            raise FleetSpecError(
                f"fleet {self.name!r}, field 'path': {self.path!r}: {error}"
            ) from error


class PrometheusFleet(FleetFields):
    """A fleet read from a Prometheus server, or from any server with its HTTP API: one PromQL range
    query per metric.
    """

    kind: Literal["prometheus"]
    url: str = Field(
        min_length=1,
        description="http:// or https:// address of the server, without user, password, query or "
        "fragment",
    )
    queries: dict[str, str] = Field(
        min_length=1,
        description="metric: PromQL with one series per tenant, such as sum by (tenant) "
        "(rate(requests_total[5m])); "
        "a metric's name is letters, digits, '_', '.', ':' and '-'",
    )
    tenant_label: str = Field(description="the label that names the tenant in every query's result")
    step: float = Field(
        default=1, description="minutes between two steps: whole seconds, and a divisor of one day"
    )
    lookback_days: int = Field(
        default=30,
        ge=1,
        le=3660,
        description="a whole number of days from 1 to 3660: how far back the fleet's telemetry "
        "goes",
    )
    delay_seconds: float = Field(
        default=60,
        ge=0,
        le=86_400,
        description="how long a sample may take to arrive, in seconds, up to a day",
    )
    fresh_hours: float = Field(
        default=6,
        ge=0,
        le=168,
        description="hours for which fetched telemetry counts as fresh, so that an interrupted "
        "run resumes with the same telemetry",
    )
    headers_from_env: dict[str, str] = Field(
        default_factory=dict,
        description="header: NAME_OF_AN_ENVIRONMENT_VARIABLE that holds its value; do not write "
        "secrets into this file",
    )
    timeout_seconds: float = Field(
        default=60, gt=0, le=3600, description="timeout of one request, in seconds, up to an hour"
    )

    @field_validator("url")
    @classmethod
    def _bare_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it is not an http:// or https:// address")
        if "@" in parts.netloc:
            raise ValueError(
                "the address contains a user or password; send them with headers_from_env "
                "(Authorization) instead"
            )
        if parts.query or parts.fragment:
            raise ValueError("the address contains a query or fragment")
        return url.rstrip("/")

    @field_validator("queries")
    @classmethod
    def _usable_queries(cls, queries: dict[str, str]) -> dict[str, str]:
        for metric, query in queries.items():
            if not _METRIC.fullmatch(metric) or metric in RESERVED_COLUMNS:
                raise ValueError(f"{metric!r} is not a valid metric name")
            if not query.strip():
                raise ValueError(f"the query of {metric!r} is empty")
        return queries

    @field_validator("tenant_label")
    @classmethod
    def _label_name(cls, label: str) -> str:
        if not _LABEL.fullmatch(label):
            raise ValueError("it is not a valid Prometheus label name")
        return label

    @field_validator("step")
    @classmethod
    def _whole_seconds(cls, step: float) -> float:
        if not divides_a_day(step) or round(step * 60_000_000) % 1_000_000:
            raise ValueError(
                "a step must be whole seconds, and a day must be a whole number of steps"
            )
        return step

    @field_validator("headers_from_env")
    @classmethod
    def _variables(cls, headers: dict[str, str]) -> dict[str, str]:
        if not all(
            _HEADER.fullmatch(header) and _ENVIRONMENT.fullmatch(variable)
            for header, variable in headers.items()
        ):
            raise ValueError(
                "give each header the name of the environment variable that holds its value"
            )
        return headers

    @model_validator(mode="after")
    def _known_metrics(self) -> "PrometheusFleet":
        self.check_metrics(tuple(self.queries))
        return self


AnyFleet = SyntheticFleet | TableFleet | PrometheusFleet
