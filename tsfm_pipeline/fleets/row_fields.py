"""The fields that say what the columns of a fleet's rows mean, in files or in a database.

What belongs here: layouts, columns and the step, and the rules between them. What does not: single
cells and rows that repeat a time (`fleets.reading`), where rows come from (`fleets.kinds`).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tsfm_pipeline.fleets.fields import FleetFields, possible_step
from tsfm_pipeline.fleets.reading import TableReading

LONG_COLUMNS = {"tenant_column": "unique_id", "timestamp_column": "ds", "value_column": "y"}
"""Nixtla's column names: the defaults of the long layout."""
_NOT_OF_WIDE = frozenset({"value_column", "metric_column"})
_NOT_OF_SERIES = frozenset(
    {
        *("tenant_column", "metric_column", "metrics", "tier_column", "archetype_column"),
        *("reserved_columns", "event_column", "one_tenant"),
    }
)


class RowFields(TableReading):
    """The fields that say what the columns of a fleet's rows mean.

    Wide: one row per tenant and timestamp, one column per metric. Long: one value per row, by
    default in Nixtla's columns unique_id, ds and y. In the long layout `metric_column` holds the
    name of each value's metric; without it there is a single metric, named after the value column.
    Series: one row per timestamp, and every other column is one tenant's series of a single metric,
    named by `value_column`.
    """

    layout: Literal["wide", "long", "series"] = Field(
        default="wide",
        description="'wide': one column per metric; 'long': one value per row, in the columns "
        "unique_id, ds and y; 'series': one column per tenant, as Grafana exports panels",
    )
    tenant_column: str | tuple[str, ...] | None = Field(
        default="tenant_id",
        min_length=1,
        description="the name of a column; several, like [namespace, pod], whose values are "
        "joined by '/'; or null where each file is one tenant, named after the file",
    )
    timestamp_column: str | Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] = Field(
        default="timestamp",
        description="the name of a column, or [date, time] where two columns hold the two",
    )
    value_column: str = Field(
        default="y",
        min_length=1,
        description="the name of a column (layout: long), or of the metric (layout: series)",
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
        "day, or whole days up to a week (10080)",
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
    event_column: str | None = Field(
        default=None,
        min_length=1,
        description="the name of a column that marks known events, tenant by tenant: it is empty, "
        "0, false or no at ordinary times (layouts: wide, long)",
    )
    reserved_columns: dict[str, str] = Field(
        default_factory=dict,
        description="metric: the name of a column with what is reserved of it today, in its units; "
        "reports compare it with the recommendations, and it is no metric (layout: wide)",
    )

    @model_validator(mode="before")
    @classmethod
    def _long_columns(cls, document: Any) -> Any:
        if isinstance(document, dict) and document.get("layout") == "long":
            return LONG_COLUMNS | document
        return document

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
    def _possible_step(cls, step: str | float) -> str | float:
        if isinstance(step, str) and step != "infer":
            raise ValueError("it is neither 'infer' nor a number")
        if not isinstance(step, str) and not possible_step(step):
            raise ValueError(
                "a day is not a whole number of such steps, nor is it days up to a week"
            )
        return step

    @model_validator(mode="after")
    def _columns_differ(self) -> "RowFields":
        if self.tier_column is not None and "tier_shares" in self.model_fields_set:
            raise ValueError("give either tier_column or tier_shares, not both")
        if self.layout == "series":
            if stray := _NOT_OF_SERIES & self.model_fields_set:
                raise ValueError(
                    f"in the series layout every column but the times is a tenant; leave "
                    f"{' and '.join(sorted(stray))} out"
                )
        elif self.one_tenant is not None and self.tenant_column is not None:
            raise ValueError("one_tenant needs 'tenant_column: null'; give either of the two")
        labels = [self.tier_column, self.archetype_column, self.event_column]
        roles = [*self.tenant_columns, *self.time_columns, *labels]
        if self.layout == "series":
            self.check_metrics((self.value_column,))
            columns: list[str | None] = [*self.time_columns]
        elif self.layout == "long":
            columns = [*roles, self.value_column, self.metric_column]
            if self.reserved_columns:
                raise ValueError(
                    "reserved_columns need one row per tenant and time, the wide layout; leave "
                    "them out of a long table"
                )
            if self.metrics is not None and self.metric_column is None:
                raise ValueError(
                    "in the long layout, metrics needs metric_column; add it, or leave metrics out"
                )
        else:
            columns = [*roles, *(self.metrics or ()), *set(self.reserved_columns.values())]
            if stray := _NOT_OF_WIDE & self.model_fields_set:
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

    @property
    def time_columns(self) -> tuple[str, ...]:
        """Return the column of times, or those of the date and of the time of day."""
        named = self.timestamp_column
        return (named,) if isinstance(named, str) else named

    @property
    def time_name(self) -> str:
        """Return the column of times as errors name it."""
        return " ".join(self.time_columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return every column that a field names."""
        labels = (self.tier_column, self.archetype_column, self.metric_column, self.event_column)
        values = (self.value_column,) if self.layout == "long" else self.metrics or ()
        given = (label for label in labels if label is not None)
        named = (*self.time_columns, *self.tenant_columns, *given, *values)
        return (*named, *dict.fromkeys(self.reserved_columns.values()))

    def check_metrics(self, metrics: Sequence[str]) -> None:
        """Raise ValueError where bounds, prices or reserved columns name a metric that the fleet
        does not have.
        """
        super().check_metrics(metrics)
        if unknown := sorted(set(self.reserved_columns) - set(metrics)):
            raise ValueError(
                f"reserved_columns name {', '.join(map(repr, unknown))}; the metrics are "
                f"{', '.join(metrics)}"
            )


def event_column_of(spec: FleetFields) -> str | None:
    """Return the column that marks a fleet's known events; None where its kind has no rows, or the
    file names none.
    """
    return spec.event_column if isinstance(spec, RowFields) else None
