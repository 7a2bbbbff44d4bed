"""The kinds of fleet: one pydantic model each, with the fields of its YAML file, their defaults and
limits.

What belongs here: the fields of one kind, and the rules that one fleet file can break by itself.
What does not: the fields that all kinds share (`fleets.fields`) and those about columns, cells and
rows (`fleets.row_fields`, `fleets.reading`), reading the files and wording errors (`fleets.spec`),
reading telemetry (`fleets.table`, `fleets.saved_dataset`, `fleets.sql`), generating it
(`fleets.synthetic`), and what only fetched fleets need (`fleets.fetched_kinds`).
"""

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from tsfm_pipeline.fleets.fetched_kinds import ENVIRONMENT, FetchedFields, PrometheusFleet
from tsfm_pipeline.fleets.fields import RESERVED_COLUMNS, FleetFields, FleetSpecError
from tsfm_pipeline.fleets.row_fields import RowFields
from tsfm_pipeline.fleets.synthetic_kind import SyntheticFleet
from tsfm_pipeline.spec_files import expanded_path

FLEETS_DIR_VARIABLE = "TSFM_FLEETS_DIR"
SCHEMES = ("postgresql", "postgres", "mysql", "mariadb")
"""The kinds of server that a SQL fleet may name."""
PLACEHOLDER = re.compile(r"(?<![:\w]):(since|until)\b")
"""The beginning and the end of the rows that are asked for, in a query."""
_SELECT = re.compile(r"(select|with)\b", re.IGNORECASE)


class TableFleet(RowFields):
    """A fleet stored in Parquet or CSV files."""

    kind: Literal["table"]
    path: str = Field(
        min_length=1,
        description=f"a .parquet or .csv file or glob; ${{{FLEETS_DIR_VARIABLE}}} and other "
        "variables are expanded, "
        "and a relative path starts in the fleets directory",
    )
    source: str = Field(min_length=1, description="what the data set is and where it is published")

    @field_validator("path")
    @classmethod
    def _known_format(cls, path: str) -> str:
        if not path.endswith((".parquet", ".csv")):
            raise ValueError("it ends in neither .parquet nor .csv")
        return path

    def expanded_path(self, fleets_dir: Path) -> Path:
        """Return the path with `~` and variables expanded (`expanded`)."""
        return expanded(self.path, self.name, fleets_dir)


class SavedDatasetFleet(FleetFields):
    """A fleet stored in a folder that Hugging Face's `datasets` saved (`fleets.saved_items`), such
    as a data set of BOOM or GIFT-Eval. Its step is the data set's frequency.
    """

    kind: Literal["saved_dataset"]
    path: str = Field(
        min_length=1,
        description=f"the folder that holds state.json; ${{{FLEETS_DIR_VARIABLE}}} and other "
        "variables are expanded, and a relative path starts in the fleets directory",
    )
    source: str = Field(min_length=1, description="what the data set is and where it is published")
    variates: Literal["tenants", "metrics"] = Field(
        default="tenants",
        description="'tenants': each variate of an item is a tenant; 'metrics': each item is a "
        "tenant, and its variates are the metrics",
    )
    metrics: tuple[str, ...] = Field(
        default=("target",),
        min_length=1,
        description="names of metrics, each given once: one, or one per variate (variates: "
        "metrics)",
    )

    @model_validator(mode="after")
    def _one_metric_or_variates(self) -> "SavedDatasetFleet":
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError("metrics must each be given once")
        if reserved := sorted(set(self.metrics) & set(RESERVED_COLUMNS)):
            raise ValueError(f"{', '.join(map(repr, reserved))} cannot be the name of a metric")
        if self.variates == "tenants" and len(self.metrics) > 1:
            raise ValueError("several metrics need 'variates: metrics'")
        self.check_metrics(self.metrics)
        return self

    def expanded_path(self, fleets_dir: Path) -> Path:
        """Return the path with `~` and variables expanded (`expanded`)."""
        return expanded(self.path, self.name, fleets_dir)


class SqlFleet(RowFields, FetchedFields):
    """A fleet read from a database: one query, whose rows are those of a table."""

    kind: Literal["sql"]
    database: str | None = Field(
        default=None,
        min_length=1,
        description="postgresql://user@host:5432/name or mysql://user@host:3306/name without a "
        "password (see password_env), or the file of an SQLite or DuckDB database; in the name of "
        f"a file, ${{{FLEETS_DIR_VARIABLE}}} and other variables are expanded, and a relative one "
        "starts in the fleets directory",
    )
    url_from_env: str | None = Field(
        default=None,
        description="NAME_OF_AN_ENVIRONMENT_VARIABLE that holds the whole address of the "
        "database, instead of 'database'",
    )
    password_env: str | None = Field(
        default=None,
        description="NAME_OF_AN_ENVIRONMENT_VARIABLE that holds the password of a PostgreSQL or "
        "MySQL database; do not write the password into this file",
    )
    query: str = Field(
        description="one SELECT that uses :since and :until, such as SELECT host, ts, cpu FROM "
        "load WHERE ts >= :since AND ts < :until"
    )
    delay_seconds: float = Field(
        default=60,
        ge=0,
        le=7 * 86_400,
        description="how long a row may take to arrive, in seconds, up to a week; a row that "
        "arrives later is not read",
    )

    @field_validator("database")
    @classmethod
    def _no_password(cls, database: str | None) -> str | None:
        if database is None or "://" not in database:
            return database
        parts = urlsplit(database)
        if parts.scheme not in SCHEMES:
            raise ValueError("it is no postgresql:// or mysql:// address, nor the name of a file")
        if parts.password is not None or "password" in parts.query:
            raise ValueError(
                "the address contains a password; give the variable that holds it with "
                "password_env, or the variable that holds the whole address with url_from_env"
            )
        return database

    @field_validator("url_from_env", "password_env")
    @classmethod
    def _variable(cls, variable: str | None) -> str | None:
        if variable is not None and not ENVIRONMENT.fullmatch(variable):
            raise ValueError("it is not the name of an environment variable")
        return variable

    @field_validator("query")
    @classmethod
    def _one_select(cls, query: str) -> str:
        query = query.strip().removesuffix(";").strip()
        if not _SELECT.match(query) or ";" in query:
            raise ValueError("it is not one SELECT")
        absent = [name for name in ("since", "until") if name not in PLACEHOLDER.findall(query)]
        if absent:
            raise ValueError(
                f"it does not use {' and '.join(f':{name}' for name in absent)}; the rows of a "
                "later run are those from :since on and before :until"
            )
        return query

    @field_validator("tenant_column", "timestamp_column")
    @classmethod
    def _one_column(cls, column: Any) -> Any:
        if not isinstance(column, str):
            raise ValueError("the rows of a query must have it in one column")
        return column

    @model_validator(mode="after")
    def _one_address(self) -> "SqlFleet":
        if (self.database is None) == (self.url_from_env is None):
            raise ValueError("give either database or url_from_env")
        if self.layout == "series":
            raise ValueError("the rows of a query are wide or long; 'layout: series' is for files")
        if self.password_env and (self.database is None or "://" not in self.database):
            raise ValueError("password_env belongs to the address of a server in 'database'")
        return self

    def expanded_database(self, fleets_dir: Path) -> Path:
        """Return the database's file with `~` and variables expanded (`expanded`)."""
        return expanded(str(self.database), self.name, fleets_dir, "database")

    def as_table(self, folder: Path) -> TableFleet:
        """Return the table fleet of the rows that are stored in a folder."""
        rows = self.model_dump(include={*RowFields.model_fields}, exclude_unset=True)
        path = str(folder / "*.parquet")
        return TableFleet.model_validate(
            rows | {"kind": "table", "path": path, "source": self.title}
        )


def expanded(path: str, fleet: str, fleets_dir: Path, field: str = "path") -> Path:
    """Return a fleet's path with `~` and variables expanded. `${TSFM_FLEETS_DIR}` is `fleets_dir`,
    and relative paths start there.

    Raises `FleetSpecError` for a variable that is not set and for the home of an unknown user.
    """
    folder = fleets_dir.absolute()
    try:
        return expanded_path(path, folder, {FLEETS_DIR_VARIABLE: str(folder)})
    except ValueError as error:
        raise FleetSpecError(f"fleet {fleet!r}, field {field!r}: {error}") from error


FetchedFleet = PrometheusFleet | SqlFleet
AnyFleet = SyntheticFleet | TableFleet | SavedDatasetFleet | PrometheusFleet | SqlFleet
