"""The files of a table fleet: finding them and choosing their columns.

What belongs here: files, and columns as a whole: names, types, time zone. What does not: single
rows (`fleets.table_rows`), guessing the columns of an unknown table (`fleets.columns`).
"""

import glob
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import polars as pl

from tsfm_pipeline.fleets.dialects import dialect_notes, first_rows, long_rows_named, scan
from tsfm_pipeline.fleets.fields import RESERVED_COLUMNS
from tsfm_pipeline.fleets.kinds import FLEETS_DIR_VARIABLE, TableFleet
from tsfm_pipeline.fleets.metric_columns import (
    counters_and_clocks,
    judge_columns,
    metrics_by_first_rows,
)
from tsfm_pipeline.fleets.numbers import hint, is_plain, looks_like_a_number
from tsfm_pipeline.fleets.row_fields import LONG_COLUMNS
from tsfm_pipeline.fleets.series_layout import series_of
from tsfm_pipeline.fleets.source import (
    SHOWN,
    FleetDataError,
    LeftOut,
    cell_text,
    left_out_notes,
    readable,
)
from tsfm_pipeline.fleets.table_rows import TableFiles, collect
from tsfm_pipeline.fleets.times import ALLOWED_TIMES, Times, survey, why_not

MOST_METRICS = 200
"""A column with more different names than this does not hold metrics."""
_TIME_TYPES = (pl.Datetime, pl.Date)


def open_files(
    spec: TableFleet, fleets_dir: Path, paths: tuple[Path, ...] | None = None
) -> TableFiles:
    """Find the files of a fleet and check their columns. Raises `FleetDataError` for missing files
    and unusable columns.

    paths: read these files, in this order, instead of those that `path` of the fleet file names.
    """
    paths = find_files(spec, fleets_dir) if paths is None else paths
    with long_rows_named(paths):
        return _open_files(spec, paths)


def _open_files(spec: TableFleet, paths: tuple[Path, ...]) -> TableFiles:
    schema = _schema(spec, paths[0])
    long = spec.layout == "long"
    reserved_today = tuple(dict.fromkeys(spec.reserved_columns.values()))
    series = series_of(schema.names(), spec.time_columns) if spec.layout == "series" else []
    values: tuple[str, ...] = (spec.value_column,) if long else ()
    left_out: tuple[LeftOut, ...] = ()
    if spec.layout == "wide":
        values, left_out = _wide_metrics(spec, paths, schema)
    labels = (spec.tier_column, spec.archetype_column, spec.metric_column, spec.event_column)
    tenants = () if spec.layout == "series" else spec.tenant_columns
    roles = (*tenants, *spec.time_columns, *labels)
    needed = [column for column in (*roles, *values, *reserved_today) if column is not None]
    for path in paths:
        _check_columns(spec, path, needed, (*values, *reserved_today), schema)
    metrics = _metrics(spec, paths, values)
    require_plain_names(f"fleet {spec.name!r}, {paths[0]}", (*needed, *metrics, *series))
    reserved = [metric for metric in metrics if metric in RESERVED_COLUMNS]
    if reserved:
        raise FleetDataError(
            f"fleet {spec.name!r}, {paths[0]}, column {reserved[0]!r}: the name is taken; "
            "allowed: metrics of any other name"
        )
    times = times_of(spec, paths, schema)
    notes = (*dialect_notes(paths[0]), *times.notes)
    text_metrics = tuple(
        metric
        for metric in metrics
        if any(schema[c] == pl.String for c in series or [spec.value_column if long else metric])
    )
    files = TableFiles(spec, paths, metrics, times, notes, text_metrics)
    if spec.layout == "wide" and spec.metrics is None:
        files, left_out = _without_counters(files, left_out)
        columns = [name for name in schema.names() if name not in (*roles, *reserved_today)]
        first = metrics_by_first_rows(paths[0], columns)
        files = replace(files, chosen_by_all_rows=first != files.metrics)
    else:
        unlisted = [name for name in schema.names() if name not in (*needed, *series)]
        left_out = _unlisted(spec, paths, unlisted)
    return replace(files, left_out=left_out)


def _without_counters(
    files: TableFiles, left_out: tuple[LeftOut, ...]
) -> tuple[TableFiles, tuple[LeftOut, ...]]:
    """Return the files without metrics that count rows or repeat the time, unless all do."""
    odd = counters_and_clocks(files)
    kept = tuple(metric for metric in files.metrics if metric not in odd)
    if not odd or not kept:
        return files, left_out
    text = tuple(metric for metric in files.text_metrics if metric in kept)
    return replace(files, metrics=kept, text_metrics=text), (*left_out, *odd.values())


def _unlisted(spec: TableFleet, paths: tuple[Path, ...], columns: list[str]) -> tuple[LeftOut, ...]:
    """Return the columns that the fleet file does not name, with the cell of the first row."""
    if not columns:
        return ()
    with readable(f"fleet {spec.name!r}, {paths[0]}"):
        first = first_rows(paths[0], 1)
    return tuple(
        _unlisted_column(spec, column, first[column].to_list()[0] if first.height else None, dtype)
        for column, dtype in first.schema.items()
        if column in columns
    )


def _unlisted_column(spec: TableFleet, column: str, cell: object, dtype: pl.DataType) -> LeftOut:
    text = cell_text(cell)
    label = dtype in (pl.String, pl.Categorical, pl.Enum) or dtype.is_integer()
    if spec.layout != "wide":
        reason = f"the {spec.layout} layout does not use it"
        return LeftOut(column, text, reason, is_label=label and spec.layout == "long")
    remedy = f"list {column!r} there if it is a metric" if looks_like_a_number([text]) else ""
    if remedy and dtype == pl.String and not is_plain(text):
        remedy = f"{remedy}; {hint([text])}"
    return LeftOut(column, text, "'metrics' in the fleet file do not list it", remedy, label)


def require_plain_names(where: str, names: Iterable[str]) -> None:
    """Raise `FleetDataError` for a name that polars would read as a pattern of several columns."""
    patterns = [
        name for name in names if name == "*" or (name.startswith("^") and name.endswith("$"))
    ]
    if patterns:
        raise FleetDataError(
            f"{where}, column {patterns[0]!r}: reads as a pattern; allowed: any name but '*' and "
            "'^...$'. Rename the column"
        )


def find_files(spec: TableFleet, fleets_dir: Path) -> tuple[Path, ...]:
    """Return the paths of a fleet's files in the order of their names, unread. Raises
    `FleetDataError` where there are none.
    """
    path = spec.expanded_path(fleets_dir)
    literal = path.is_file() or not glob.has_magic(str(path))
    paths = (
        (path,)
        if literal
        else tuple(Path(name) for name in sorted(glob.glob(str(path), recursive=True)))
    )
    paths = tuple(candidate for candidate in paths if candidate.is_file())
    if not paths:
        raise FleetDataError(
            f"fleet {spec.name!r}: no table at {path} (field 'path': {spec.path}). The table is: "
            f"{spec.source}. Put it there,  or set the environment variable {FLEETS_DIR_VARIABLE} "
            "to the folder that holds it"
        )
    stems = [candidate.stem for candidate in paths]
    named_by_file = spec.tenant_column is None and spec.one_tenant is None
    if named_by_file and len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise FleetDataError(
            f"fleet {spec.name!r}: two files of {spec.path} are called {twice!r}; allowed: one "
            "file per tenant"
        )
    return paths


def _schema(spec: TableFleet, path: Path) -> pl.Schema:
    with readable(f"fleet {spec.name!r}, {path}"):
        return scan(path).collect_schema()


def _metrics(
    spec: TableFleet, paths: tuple[Path, ...], columns: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the metrics: the `columns` of a wide table, else those of the spec, else all that
    occur. Raises `FleetDataError` for a metric that never occurs, and for too many metrics.
    """
    if spec.layout == "wide":
        return columns
    if spec.metric_column is None:
        return (spec.value_column,)
    name = pl.col(spec.metric_column).cast(pl.String)
    names = pl.concat([scan(path).select(name.alias("name")) for path in paths]).filter(
        pl.col("name").str.len_bytes() > 0
    )
    present = tuple(collect(spec, names.unique().sort("name"))["name"].to_list())
    where = f"fleet {spec.name!r}, {paths[0]}, column {spec.metric_column!r}"
    if absent := [metric for metric in spec.metrics or () if metric not in present]:
        raise FleetDataError(
            f"{where}: no rows of metric {', '.join(map(repr, absent))}; there are: "
            f"{', '.join(present[:MOST_METRICS])}"
        )
    if spec.metrics is None and not 0 < len(present) <= MOST_METRICS:
        raise FleetDataError(
            f"{where}: {len(present)} different metrics, such as "
            f"{', '.join(map(repr, present[:SHOWN]))}; allowed: 1 to {MOST_METRICS}. If another "
            "column holds the names, set metric_column to it; otherwise list the metrics to use "
            "in 'metrics'"
        )
    return spec.metrics or present


def _wide_metrics(
    spec: TableFleet, paths: tuple[Path, ...], schema: pl.Schema
) -> tuple[tuple[str, ...], tuple[LeftOut, ...]]:
    """Return the metrics of the spec, else every column of numbers without another role, and the
    columns that are none.
    """
    if spec.metrics is not None:
        return spec.metrics, ()
    labels = {spec.tier_column, spec.archetype_column, spec.event_column}
    roles = {*spec.tenant_columns, *spec.time_columns, *labels, *spec.reserved_columns.values()}
    others = [column for column in schema.names() if column not in roles]
    require_plain_names(f"fleet {spec.name!r}, {paths[0]}", others)
    with readable(f"fleet {spec.name!r}, {paths[0]}"):
        metrics, left_out = judge_columns(paths, schema, others, spec)
    if not metrics:
        raise FleetDataError(
            f"fleet {spec.name!r}, {paths[0]}: no numeric column beside {spec.tenant_column!r} and "
            f"{spec.time_name!r}; columns: {_typed_names(schema)}"
            + "".join(f"; {note}" for note in left_out_notes(left_out))
        )
    return tuple(metrics), tuple(left_out)


def _check_columns(
    spec: TableFleet,
    path: Path,
    needed: Iterable[str],
    numbers: tuple[str, ...],
    expected: pl.Schema,
) -> None:
    schema = _schema(spec, path)
    where = f"fleet {spec.name!r}, {path}"
    unknown = [column for column in needed if column not in schema]
    if unknown:
        nixtla = spec.layout == "wide" and set(LONG_COLUMNS.values()) <= set(schema.names())
        hint = (
            "; it looks like Nixtla's long format: add 'layout: long' to the fleet file"
            if nixtla
            else ""
        )
        raise FleetDataError(
            f"{where}: no column {', '.join(map(repr, unknown))}; columns: "
            f"{_typed_names(schema)}{hint}"
        )
    for column in needed:
        of_any_kind = column == spec.event_column  # a day without an event may be empty throughout
        if not of_any_kind and _class_of(schema[column]) != _class_of(expected[column]):
            raise FleetDataError(
                f"{where}, column {column!r}: {schema[column]}, but {expected[column]} in the "
                "first file; allowed: one kind in all files (text, numbers, or datetimes with or "
                "without a time zone)"
            )
    for label in (*spec.tenant_columns, spec.metric_column):
        if (
            label is not None
            and label in needed
            and not (
                schema[label].is_integer() or schema[label] in (pl.String, pl.Categorical, pl.Enum)
            )
        ):
            raise FleetDataError(
                f"{where}, column {label!r}: {schema[label]} in every row; allowed: text or "
                "integers"
            )
    for column in spec.time_columns:
        joined = len(spec.time_columns) > 1
        usable = schema[column] in _TIME_TYPES or _class_of(schema[column]) in ("text", "number")
        if not (usable or (joined and schema[column] == pl.Time)):
            raise FleetDataError(
                f"{where}, column {column!r}: {schema[column]} in every row; allowed: "
                f"{ALLOWED_TIMES}"
            )
    for column in numbers:
        if not (schema[column].is_numeric() or path.suffix == ".csv"):
            raise FleetDataError(
                f"{where}, column {column!r}: {schema[column]} in every row; allowed: numeric "
                "columns"
            )


def _typed_names(schema: pl.Schema) -> str:
    return ", ".join(f"{column} ({dtype})" for column, dtype in schema.items())


def _class_of(dtype: pl.DataType) -> str:
    """Return what the files of a table must agree on. Numbers of any width are one kind, and so are
    instants in any time zone; a column without any value agrees with numbers.
    """
    if dtype.is_numeric() or dtype == pl.Null:
        return "number"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    if isinstance(dtype, pl.Datetime):
        return "naive" if dtype.time_zone is None else "zoned"
    return str(dtype)


def times_of(spec: TableFleet, paths: tuple[Path, ...], schema: pl.Schema) -> Times:
    """Return how the times are written. Raises `FleetDataError` where none can be read."""
    with readable(f"fleet {spec.name!r}, {spec.path}"):
        times = survey(spec.time_columns, schema, [scan(path) for path in paths])
    if times.kind == "text" and not times.forms and times.unreadable:
        why = why_not(times.unreadable) or f"such as {times.unreadable[0]!r}"
        raise FleetDataError(
            f"fleet {spec.name!r}, {paths[0]}, column {spec.time_name!r}: no times: {why}; "
            f"allowed: {ALLOWED_TIMES}"
        )
    return times
