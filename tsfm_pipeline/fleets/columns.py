"""Guessing the role of each column of a table from its names, its types and its cells.

What belongs here: the guess, its reasons, and the error where none is possible. What does not: the
choice of the tenant (`fleets.tenants`), which columns are numbers (`fleets.metric_columns`),
conclusions from all rows together (`fleets.inference`), and the checks of a table whose columns are
known (`fleets.table_files`).
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.fleets.dialects import NOT_UTF8, first_rows, long_rows_named, scan
from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.metric_columns import counters_and_clocks, judge_columns
from tsfm_pipeline.fleets.names import usual_name
from tsfm_pipeline.fleets.row_fields import LONG_COLUMNS
from tsfm_pipeline.fleets.series_layout import SERIES_NOTE, are_series, series_of
from tsfm_pipeline.fleets.source import FleetDataError, LeftOut, cell_text, left_out_notes, readable
from tsfm_pipeline.fleets.table_files import require_plain_names, times_of
from tsfm_pipeline.fleets.table_rows import TableFiles
from tsfm_pipeline.fleets.tenants import TENANTS, Tenants, find_tenants, is_id, take_sample
from tsfm_pipeline.fleets.time_columns import TimeColumns, choose_times

METRICS = (
    "metric",
    "metric_name",
    "__name__",
    "metric_id",
    "variable",
    "measure",
    "measurement",
    "kpi",
    "counter_name",
    "_field",
)
VALUES = ("y", "value", "val", "metric_value", "reading", "_value", "average", "avg", "mean")

MOST_TIERS = 12
"""A column with more different words than this does not hold tiers."""

_SAMPLE_ROWS = 1_000
_TEXT = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class Columns:
    """The role of each column, in the terms of a table fleet's fields.

    tenant: none where each file is a tenant, or where all are the tenant `one_tenant`. why: the
    reason of a field, by its name. left_out: the columns without a role.
    """

    layout: str
    tenant: tuple[str, ...]
    timestamp: str | tuple[str, ...]
    value: str | None
    metric: str | None
    metrics: tuple[str, ...] | None
    tier: str | None
    archetype: str | None
    one_tenant: str | None = None
    why: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """What was chosen among several possibilities, for people."""

    def fields(self) -> dict[str, object]:
        """Return the fields that a fleet file needs for these columns."""
        several = len(self.tenant) > 1
        fields: dict[str, object] = {"layout": self.layout}
        if self.layout != "series":
            fields["tenant_column"] = self.tenant if several else next(iter(self.tenant), None)
        fields["timestamp_column"] = self.timestamp
        if self.layout == "series":
            fields["value_column"] = self.value
        if self.layout == "long":
            fields |= {"value_column": self.value, "metric_column": self.metric}
        labels = {
            "one_tenant": self.one_tenant,
            "metrics": self.metrics,
            "tier_column": self.tier,
            "archetype_column": self.archetype,
        }
        return fields | {name: column for name, column in labels.items() if column is not None}


def find_columns(
    paths: Sequence[Path],
    *,
    tenant: Sequence[str] | None = None,
    timestamp: str | None = None,
    layout: str | None = None,
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> Columns:
    """Guess the roles of the columns of these files, which must all have the same columns.

    tenant: the columns that name the tenant instead of a guess; none of them where each file is
    one. timestamp: the column of times instead of a guess, or a date and a time of day with a comma
    between them. layout: 'series' or 'wide', for columns of numbers beside the time. reading:
    fields of `TableReading` with which the cells are read; `one_tenant` among them says that all
    rows are one tenant.

    Raises `FleetDataError` where no column can be the time, the tenant or a metric; the message
    lists the columns and says what would help.
    """
    with long_rows_named(paths), readable(str(paths[0])):
        return _find_columns(paths, tenant, timestamp, layout, reading)


def _find_columns(
    paths: Sequence[Path],
    tenant: Sequence[str] | None,
    timestamp: str | None,
    layout: str | None,
    reading: Mapping[str, Any],
) -> Columns:
    schema = _schema(paths[0])
    named: tuple[str, ...] = () if timestamp is None else (timestamp,)
    if timestamp is not None and timestamp not in schema:
        named = tuple(timestamp.split(","))
    _require(paths[0], schema, [*(tenant or ()), *named])
    if not any(first_rows(path, 1).height for path in paths):
        raise FleetDataError(f"{paths[0]}: no rows")
    text = [c for c, dtype in schema.items() if dtype in _TEXT and _is_text(paths[0], c)]
    whole = [column for column, dtype in schema.items() if dtype.is_integer() and is_id(column)]
    apart = [*text, *whole]
    if tenant is not None:
        apart = [*tenant, *(column for column in text if usual_name(column) in METRICS)]
    times = choose_times(paths, apart, _described(paths[0], schema), timestamp)
    time = times.chosen
    spec = _as_read(time, reading)
    if layout == "series" or (
        layout is None and tenant is None and are_series(paths[0], (*time, *times.others))
    ):
        return _series(paths, schema, times)
    taken: set[str | None] = {*(tenant or ()), *time, *times.others}
    tier = next(
        (c for c in text if c.lower() == "tier" and c not in taken and _are_tiers(paths[0], c)),
        None,
    )
    archetype = next((c for c in text if c.lower() == "archetype" and c not in taken), None)
    taken |= {tier, archetype}
    files = _files(spec, paths)
    others = [column for column in schema if column not in taken]
    numbers, left_out = judge_columns(paths, scan(paths[0]).collect_schema(), others, spec)
    labels = [left.column for left in left_out if left.is_label and schema[left.column] in _TEXT]
    metric = _named(labels, METRICS)
    value = _value(schema, others, numbers, metric)
    layout = "wide" if value is None else "long"
    metric = None if value is None else metric
    ids = [c for c in numbers if is_id(c) and c != value and _are_whole(paths[0], c)]
    choice = _tenants(
        files, tenant, [c for c in [*labels, *ids] if c not in {metric, value}], numbers, metric
    )
    metrics: tuple[str, ...] | None = None
    if layout == "long":
        used = {*taken, *choice.columns, metric, value}
        left_out = _beside_long(schema, paths[0], used)
    else:
        metrics, left_out = _metrics(files, numbers, ids, choice.columns, left_out)
    if metrics == ():
        raise FleetDataError(
            f"{paths[0]}: no column of numbers beside {', '.join(choice.columns)!r} and "
            f"{' '.join(time)!r}; columns: {_described(paths[0], schema)}{_lists(schema)}"
            + "".join(f"; {note}" for note in left_out_notes(left_out))
        )
    return Columns(
        layout,
        choice.columns,
        _one(time),
        value,
        metric,
        metrics,
        tier,
        archetype,
        choice.one_tenant,
        {"one_tenant" if choice.one_tenant else "tenant_column": choice.why},
        (*left_out, *_other_times(paths[0], times)),
        times.note,
    )


def _series(paths: Sequence[Path], schema: pl.Schema, times: TimeColumns) -> Columns:
    """Return the roles in a table with one column per series."""
    used = {*times.chosen, *times.others, *series_of(list(schema), times.chosen)}
    rows = [
        LeftOut(column, _a_cell(paths[0], column), "it only counts the rows", is_label=False)
        for column in schema
        if column not in used
    ]
    left_out = (*rows, *_other_times(paths[0], times))
    time, notes = _one(times.chosen), (*times.note, SERIES_NOTE)
    return Columns(
        "series", (), time, "value", None, None, None, None, left_out=left_out, notes=notes
    )


def _other_times(path: Path, times: TimeColumns) -> list[LeftOut]:
    """Return the columns that hold times which do not order the rows."""
    return [
        LeftOut(
            column,
            _a_cell(path, column),
            f"it holds times, and {' '.join(times.chosen)!r} orders the rows",
            f"--timestamp {column}",
            is_label=False,
        )
        for column in times.others
    ]


def _lists(schema: pl.Schema) -> str:
    lists = [column for column, dtype in schema.items() if dtype.is_nested()]
    named = ", ".join(map(repr, lists))
    return f". In {named} each cell holds a list; write one row per time" if lists else ""


def _one(columns: tuple[str, ...]) -> str | tuple[str, ...]:
    return columns[0] if len(columns) == 1 else columns


def _as_read(time: tuple[str, ...], reading: Mapping[str, Any]) -> TableFleet:
    """Return a fleet that reads the cells of the table; it knows no column but the time."""
    fields = {"name": "table", "title": "t", "kind": "table", "path": "t.csv", "source": "t"}
    roles = {"tenant_column": None, "timestamp_column": _one(time)}
    return TableFleet.model_validate({**fields, **roles, **reading})


def _files(spec: TableFleet, paths: Sequence[Path]) -> TableFiles:
    """Return the files with their times and no metric, before their columns have been checked."""
    times = times_of(spec, tuple(paths), scan(paths[0]).collect_schema())
    return TableFiles(spec, tuple(paths), (), times)


def _with_metrics(files: TableFiles, metrics: Sequence[str]) -> TableFiles:
    schema = scan(files.paths[0]).collect_schema()
    text = tuple(metric for metric in metrics if schema[metric] == pl.String)
    return replace(files, metrics=tuple(metrics), text_metrics=text)


def _value(
    schema: pl.Schema, others: Sequence[str], numbers: Sequence[str], metric: str | None
) -> str | None:
    """Return the column of values of a long table, None of a wide one. By its name it is the
    column of values whatever its cells say: what is no number there is refused with its row.
    """
    if set(LONG_COLUMNS.values()) <= set(schema) and LONG_COLUMNS["value_column"] in others:
        return LONG_COLUMNS["value_column"]
    if metric is None:
        return None
    return _named(others, VALUES) or (numbers[0] if len(numbers) == 1 else None)


def _tenants(
    files: TableFiles,
    given: Sequence[str] | None,
    labels: Sequence[str],
    numbers: Sequence[str],
    metric: str | None,
) -> Tenants:
    spec = files.spec
    if spec.one_tenant is not None:
        return Tenants((), "given by --one-tenant", spec.one_tenant)
    if given is not None:
        return Tenants(tuple(given), "given by " + ("--tenant" if given else "--tenant-per-file"))
    whole = [c for c in numbers if c not in labels and _are_whole(files.paths[0], c)]
    joins_rows = spec.aggregate not in (None, "last")
    return find_tenants(take_sample(files, labels, metric), whole, joins_rows=joins_rows)


def _metrics(
    files: TableFiles,
    numbers: Sequence[str],
    ids: Sequence[str],
    tenant: Sequence[str],
    left_out: Sequence[LeftOut],
) -> tuple[tuple[str, ...], list[LeftOut]]:
    """Return the metrics of a wide table, and the columns that are none, in the table's order."""
    odd = counters_and_clocks(_with_metrics(files, numbers))
    others = [left for left in left_out if left.column not in tenant]
    for column in numbers:
        if column in odd and column not in tenant:
            others.append(odd[column])
        elif column in ids and column not in tenant:
            others.append(
                LeftOut(
                    column,
                    _a_cell(files.paths[0], column),
                    "whole numbers under the name of an id",
                    f"list {column!r} in 'metrics:' if it is a metric",
                )
            )
    others = [_as_a_tenant(left) for left in others]
    without = {*tenant, *(left.column for left in others)}
    order = files.column_names()
    others.sort(key=lambda left: order.index(left.column))
    return tuple(column for column in numbers if column not in without), others


def _as_a_tenant(left: LeftOut) -> LeftOut:
    """Return a label that could have named the tenants, with the options that let it."""
    if not left.is_label or usual_name(left.column) not in TENANTS:
        return left
    return replace(
        left, remedy=f"--tenant {left.column} --aggregate sum, where each of them is one tenant"
    )


def _beside_long(schema: pl.Schema, path: Path, used: Container[str | None]) -> list[LeftOut]:
    return [
        LeftOut(
            column,
            _a_cell(path, column),
            "the long layout does not use it",
            is_label=dtype in _TEXT or dtype.is_integer(),
        )
        for column, dtype in schema.items()
        if column not in used
    ]


def _a_cell(path: Path, column: str) -> str:
    return cell_text(next(iter(_first(path, column).head(1).to_list()), None))


def _are_whole(path: Path, column: str) -> bool:
    """Return whether the first cells of a column of numbers are whole and not negative."""
    cells = _first(path, column).cast(pl.String).str.strip_chars()
    return len(cells) > 0 and bool(cells.str.contains(r"^\d+(\.0+)?$").all())


def _schema(path: Path) -> pl.Schema:
    """Return the columns with their types. A CSV's types come from its first rows, and its times
    are text.
    """
    schema = scan(path, infer_rows=10_000).collect_schema()
    require_plain_names(str(path), schema)
    return schema


def _require(path: Path, schema: pl.Schema, columns: Sequence[str]) -> None:
    absent = [column for column in columns if column not in schema]
    if absent:
        raise FleetDataError(
            f"{path}: no column {', '.join(map(repr, absent))}; columns: {_described(path, schema)}"
        )


def _are_tiers(path: Path, column: str) -> bool:
    return set(_first(path, column).unique().to_list()) <= set(TIERS)


def unknown_tiers(path: Path) -> tuple[str, ...]:
    """Return the words in a column `tier` if some are not default tiers; an empty tuple where there
    is no such column, or where it has too many different words for tiers.
    """
    if _schema(path).get("tier") not in (pl.String, pl.Categorical, pl.Enum):
        return ()
    words = sorted(map(str, _first(path, "tier").unique().to_list()))
    return tuple(words) if len(words) <= MOST_TIERS and not set(words) <= set(TIERS) else ()


def _is_text(path: Path, column: str) -> bool:
    return all(NOT_UTF8 not in cell for cell in _first(path, column).cast(pl.String))


def _first(path: Path, column: str) -> pl.Series:
    """Return the first values of a column that are not null."""
    return first_rows(path, _SAMPLE_ROWS, [column])[column].drop_nulls()


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column whose name comes first in `names`, or None if no name is in it."""
    return min(
        (column for column in columns if usual_name(column) in names),
        key=lambda column: _rank(column, names),
        default=None,
    )


def _rank(column: str, names: Sequence[str]) -> int:
    name = usual_name(column)
    return names.index(name) if name in names else len(names)


def _described(path: Path, schema: pl.Schema) -> str:
    row = first_rows(path, 1)
    first = row.row(0) if row.height else ("",) * len(schema)
    return ", ".join(
        f"{column} ({dtype}, like {value!r})"
        for (column, dtype), value in zip(schema.items(), first, strict=True)
    )
