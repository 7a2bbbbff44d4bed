"""The kinds of fleet whose telemetry is fetched from a server and kept: their shared fields, and
those of a Prometheus fleet.

What belongs here: when to fetch, how far back, and the fields of a Prometheus fleet. What does not:
fleets of tables, and SQL fleets, which are both fetched and read like tables (`fleets.kinds`).
"""

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tsfm_pipeline.fleets.fields import RESERVED_COLUMNS, FleetFields, divides_a_day

_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
ENVIRONMENT = re.compile(r"[A-Z_][A-Z0-9_]*")
"""What a field that names an environment variable may hold."""


class FetchedFields(FleetFields):
    """The fields that all fleets share whose telemetry is fetched."""

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
    timeout_seconds: float = Field(
        default=60, gt=0, le=3600, description="timeout of one request, in seconds, up to an hour"
    )


class PrometheusFleet(FetchedFields):
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
    headers_from_env: dict[str, str] = Field(
        default_factory=dict,
        description="header: NAME_OF_AN_ENVIRONMENT_VARIABLE that holds its value; do not write "
        "secrets into this file",
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
            _HEADER.fullmatch(header) and ENVIRONMENT.fullmatch(variable)
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
