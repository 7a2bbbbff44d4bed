"""The files of a table fleet: finding them and choosing their columns.

What belongs here: files, and columns as a whole: names, types, time zone. What does not: single
rows (`fleets.table_rows`), guessing the columns of an unknown table (`fleets.columns`).
"""

import glob
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import polars as pl

from tsfm_pipeline.fleets.kinds import (
    FLEETS_DIR_VARIABLE,
    LONG_COLUMNS,
    RESERVED_COLUMNS,
    TableFleet,
)
from tsfm_pipeline.fleets.metric_columns import (
    counters_and_clocks,
    judge_columns,
    metrics_by_first_rows,
)
from tsfm_pipeline.fleets.numbers import hint, is_plain, looks_like_a_number
from tsfm_pipeline.fleets.source import SHOWN, FleetDataError, LeftOut, cell_text, readable
from tsfm_pipeline.fleets.table_rows import ALLOWED_TIMES, Rule, TableFiles, collect, scan

MOST_METRICS = 200
"""A column with more different names than this does not hold metrics."""
_OFFSET = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s*(Z|UTC|[+-]\d{2}:?\d{2})$"


def open_files(spec: TableFleet, fleets_dir: Path) -> TableFiles:
    """Find the files of a fleet and check their columns. Raises `FleetDataError` for missing files
    and unusable columns.
    """
    paths = find_files(spec, fleets_dir)
    schema = _schema(spec, paths[0])
    long = spec.layout == "long"
    values: tuple[str, ...] = (spec.value_column,)
    left_out: tuple[LeftOut, ...] = ()
    if not long:
        values, left_out = _wide_metrics(spec, paths, schema)
    roles = (
        *spec.tenant_columns,
        spec.timestamp_column,
        spec.tier_column,
        spec.archetype_column,
        spec.metric_column,
    )
    needed = [column for column in (*roles, *values) if column is not None]
    for path in paths:
        _check_columns(spec, path, needed, values, schema)
    metrics = _long_metrics(spec, paths) if long else values
    require_plain_names(f"fleet {spec.name!r}, {paths[0]}", (*needed, *metrics))
    reserved = [metric for metric in metrics if metric in RESERVED_COLUMNS]
    if reserved:
        raise FleetDataError(
            f"fleet {spec.name!r}, {paths[0]}, column {reserved[0]!r}: the name is taken; "
            "allowed: metrics of any other name"
        )
    time_type = schema[spec.timestamp_column]
    text_times = time_type == pl.String
    offset, notes = _utc_offset(spec, paths) if text_times else (0, _zone_note(time_type))
    text_metrics = tuple(
        metric for metric in metrics if schema[spec.value_column if long else metric] == pl.String
    )
    files = TableFiles(spec, paths, metrics, notes, text_times, offset, text_metrics)
    if not long and spec.metrics is None:
        files, left_out = _without_counters(files, left_out)
        columns = [name for name in schema.names() if name not in roles]
        first = metrics_by_first_rows(paths[0], columns)
        files = replace(files, chosen_by_all_rows=first != files.metrics)
    else:
        left_out = _unlisted(spec, paths, [name for name in schema.names() if name not in needed])
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
    first = collect(spec, scan(paths[0]).head(1), in_order=True)
    return tuple(
        _unlisted_column(spec, column, first[column].to_list()[0] if first.height else None, dtype)
        for column, dtype in first.schema.items()
        if column in columns
    )


def _unlisted_column(spec: TableFleet, column: str, cell: object, dtype: pl.DataType) -> LeftOut:
    text = cell_text(cell)
    label = dtype in (pl.String, pl.Categorical, pl.Enum) or dtype.is_integer()
    if spec.layout == "long":
        return LeftOut(column, text, "the long layout does not use it", is_label=label)
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


def _long_metrics(spec: TableFleet, paths: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the metrics of the spec, else all that occur. Raises `FleetDataError` for a metric
    that never occurs, and for too many metrics.
    """
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
    labels = {spec.timestamp_column, spec.tier_column, spec.archetype_column}
    roles = {*spec.tenant_columns, *labels}
    others = [column for column in schema.names() if column not in roles]
    require_plain_names(f"fleet {spec.name!r}, {paths[0]}", others)
    with readable(f"fleet {spec.name!r}, {paths[0]}"):
        metrics, left_out = judge_columns(paths, schema, others, spec)
    if not metrics:
        raise FleetDataError(
            f"fleet {spec.name!r}, {paths[0]}: no numeric column beside {spec.tenant_column!r} and "
            f"{spec.timestamp_column!r}; columns: {_typed_names(schema)}"
            + "".join(f"; {column}" for column in left_out)
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
        if schema[column] != expected[column]:
            raise FleetDataError(
                f"{where}, column {column!r}: {schema[column]}, but {expected[column]} in the "
                "first file; allowed: one "
                "dtype (and time zone) in all files"
            )
    for label in (*spec.tenant_columns, spec.metric_column):
        if label is not None and not (
            schema[label].is_integer() or schema[label] in (pl.String, pl.Categorical, pl.Enum)
        ):
            raise FleetDataError(
                f"{where}, column {label!r}: {schema[label]} in every row; allowed: text or "
                "integers"
            )
    time_type = schema[spec.timestamp_column]
    if time_type not in (pl.Datetime, pl.Date, pl.String):
        raise FleetDataError(
            f"{where}, column {spec.timestamp_column!r}: {time_type} in every row; allowed: "
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


def _zone_note(time_type: pl.DataType) -> tuple[str, ...]:
    if isinstance(time_type, pl.Datetime) and time_type.time_zone is not None:
        return ()
    return ("timestamps have no time zone and are taken as UTC",)


def _utc_offset(spec: TableFleet, paths: tuple[Path, ...]) -> tuple[int, tuple[str, ...]]:
    """Return the offset of text timestamps in minutes east of UTC, with notes. Raises
    `FleetDataError` where rows disagree.
    """
    offset = _offset(pl.col(spec.timestamp_column)).alias("offset")
    counted = pl.concat(
        [
            scan(path).filter(pl.col(spec.timestamp_column).is_not_null()).select(offset)
            for path in paths
        ]
    )
    counts = collect(spec, counted.group_by("offset").len().sort("len", "offset", descending=True))
    offsets: list[int | None] = counts["offset"].to_list()
    if len(offsets) > 1:
        names = ", ".join(
            f"{_offset_name(o)} ({n} rows)" for o, n in zip(offsets, counts["len"], strict=True)
        )
        bad = _offset(pl.col(f"raw:{spec.timestamp_column}")).ne_missing(
            pl.lit(offsets[0], pl.Int32)
        )
        rule = Rule(
            spec.timestamp_column,
            f"rows in another time zone than the rest: {names}",
            bad,
            "one time zone",
        )
        TableFiles(spec, paths, (), (), True).check([rule])
    offset_minutes = offsets[0] if offsets else None
    return offset_minutes or 0, (
        "timestamps have no time zone and are taken as UTC",
    ) if offset_minutes is None else ()


def _offset(text: pl.Expr) -> pl.Expr:
    """Return the offset in minutes east of UTC at the end of a text timestamp (Int32); null without
    one.
    """
    zone = text.str.strip_chars().str.extract(_OFFSET)
    digits = zone.str.replace(":", "").str.tail(4)
    minutes = digits.str.head(2).cast(pl.Int32, strict=False) * 60 + digits.str.tail(2).cast(
        pl.Int32, strict=False
    )
    signed = pl.when(zone.str.starts_with("-")).then(-minutes).otherwise(minutes)
    return pl.when(zone.is_in(["Z", "UTC"])).then(pl.lit(0, pl.Int32)).otherwise(signed)


def _offset_name(minutes: int | None) -> str:
    if minutes is None:
        return "none"
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
