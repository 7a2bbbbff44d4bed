"""The files of a table fleet: finding them, choosing columns, and typing every row, with errors
that name the row.

What belongs here: rules and types of single rows and columns. What does not: placing rows on the
regular grid (`fleets.table`).

Typed rows have tenant (String), time (Int64, microseconds since 1970 UTC), one Float32 column per
metric (null or NaN where missing; in the long layout one metric number and one value), and tier and
archetype (String) where the spec names their columns. CSV is read as text and typed here, so that a
word in row 50,000 of a metric is reported with its row instead of turning the column into text.
Rules see one column per metric in either layout.
"""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tsfm_pipeline.fleets.kinds import (
    FLEETS_DIR_VARIABLE,
    LONG_COLUMNS,
    RESERVED_COLUMNS,
    TableFleet,
)
from tsfm_pipeline.fleets.source import SHOWN, FleetDataError, readable

MOST_METRICS = 200
"""A column with more different names than this does not hold metrics."""

_OFFSET = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s*(Z|UTC|[+-]\d{2}:?\d{2})$"
_TIME_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
ALLOWED_TIMES = (
    "datetimes, dates, or text in ISO 8601 like 2024-01-31T23:59:00Z (without a time "
    "zone it is UTC)"
)
_INFERENCE_ROWS = 10_000


@dataclass(frozen=True)
class Rule:
    """A row breaks this rule where `bad` is true, an expression over the typed and the raw columns
    of one file.
    """

    column: str
    what: str
    bad: pl.Expr
    allowed: str


@dataclass(frozen=True)
class TableFiles:
    """The files of one table fleet, after their columns have been checked."""

    spec: TableFleet
    paths: tuple[Path, ...]
    metrics: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Notes for people about assumptions that were made."""
    text_times: bool = False
    utc_offset_minutes: int = 0
    """The offset of all timestamps that are text."""
    text_metrics: tuple[str, ...] = ()
    """Metrics whose numbers are stored as text."""

    def rows(self) -> pl.LazyFrame:
        """Return the typed rows of all files, in the order of the files' names. Columns: tenant,
        time, labels, and a `metric:<name>` per metric, or (long layout) `metric`, the index into
        `metrics`, and `value`.
        """
        long = self.spec.layout == "long"
        names = [
            "tenant",
            "time",
            *(["metric", "value"] if long else [f"metric:{metric}" for metric in self.metrics]),
        ]
        names += [role for role, column in self._labels() if column is not None]
        return pl.concat([self._typed(path).select(names) for path in self.paths])

    def check_rows_fit(self) -> None:
        """Raise `FleetDataError` for a CSV row with more values than columns; polars only notices
        one when it reads every column.
        """
        for path in self.paths:
            if path.suffix == ".csv":
                collect(self.spec, scan(path).select(pl.all().null_count()))

    def check(self, rules: Sequence[Rule]) -> None:
        """Raise `FleetDataError` for the first rule that any row breaks, in one pass over all
        files.
        """
        for rule, total in self.broken(rules):
            raise FleetDataError(self._describe(rule, total))

    def broken(self, rules: Sequence[Rule]) -> list[tuple[Rule, int]]:
        """Return the rules that any row breaks, with the number of such rows, in one pass over all
        files.
        """
        totals = pl.concat(
            [
                self._typed(path).select(
                    rule.bad.sum().alias(str(i)) for i, rule in enumerate(rules)
                )
                for path in self.paths
            ]
        )
        counts = collect(self.spec, totals).sum().row(0)
        return [(rule, total) for rule, total in zip(rules, counts, strict=True) if total]

    def tenants_breaking(self, rule: Rule) -> dict[str, int]:
        """Return how many rows of each tenant break a rule; rows without a tenant are counted under
        ''.
        """
        bad = pl.concat(
            [
                self._typed(path).filter(rule.bad).select(pl.col("tenant").fill_null(""))
                for path in self.paths
            ]
        )
        return dict(collect(self.spec, bad.group_by("tenant").len().sort("tenant")).iter_rows())

    def row_rules(self) -> list[Rule]:
        """Return the rules for single rows, which do not depend on the grid."""
        spec = self.spec
        tenant, time = pl.col("tenant"), pl.col("time")
        raw_time = pl.col(f"raw:{spec.timestamp_column}")
        rules = [
            Rule(
                spec.tenant_column or "name of the file",
                "empty tenant ids",
                tenant.is_null() | (tenant.str.len_bytes() == 0),
                "an id in every row",
            ),
            Rule(
                spec.timestamp_column,
                "empty timestamps",
                raw_time.is_null(),
                "a timestamp in every row",
            ),
            Rule(
                spec.timestamp_column,
                "unreadable timestamps",
                raw_time.is_not_null() & time.is_null(),
                ALLOWED_TIMES,
            ),
        ]
        for metric in self.metrics:
            value, (lower, upper) = pl.col(f"metric:{metric}"), spec.bounds_of(metric)
            if metric in self.text_metrics:
                unreadable = pl.col(f"raw:{metric}").is_not_null() & value.is_null()
                rules.append(
                    Rule(
                        metric,
                        "values that are not numbers",
                        unreadable,
                        "numbers, or empty where missing",
                    )
                )
            allowed = "finite numbers up to 3.4e38, empty or NaN where missing"
            rules.append(Rule(metric, "infinite values", value.is_infinite(), allowed))
            allowed = (
                "values within the bounds of the fleet file; correct lower, upper or bounds "
                "there, or the table"
            )
            if lower is not None:
                rules.append(Rule(metric, f"values below {lower:g}", value < lower, allowed))
            if upper is not None:
                rules.append(
                    Rule(
                        metric,
                        f"values above {upper:g}",
                        value.is_not_nan() & (value > upper),
                        allowed,
                    )
                )
        if spec.metric_column is not None:
            nameless = pl.col("metric name").is_null() | (
                pl.col("metric name").str.len_bytes() == 0
            )
            rules.append(
                Rule(spec.metric_column, "empty metric names", nameless, "a metric in every row")
            )
        if spec.tier_column is not None:
            unknown = pl.col("tier").is_null() | ~pl.col("tier").is_in(list(spec.tiers))
            rules.append(Rule(spec.tier_column, "unknown tiers", unknown, ", ".join(spec.tiers)))
        return rules

    def _labels(self) -> tuple[tuple[str, str | None], tuple[str, str | None]]:
        return ("tier", self.spec.tier_column), ("archetype", self.spec.archetype_column)

    def _typed(self, path: Path, *, numbered: bool = False) -> pl.LazyFrame:
        """Return the typed columns of one file, with the raw columns whose values may not be valid
        (as 'raw:<column>').

        numbered: add the number of each row as `row`, from 1. In the long layout, rows of metrics
        that the spec does not list are left out.
        """
        spec = self.spec
        time = (
            _parse_time(pl.col(spec.timestamp_column), self.utc_offset_minutes)
            if self.text_times
            else _exact_time(spec)
        )
        columns = [
            (
                pl.lit(path.stem)
                if spec.tenant_column is None
                else pl.col(spec.tenant_column).cast(pl.String)
            ).alias("tenant"),
            time.alias("time"),
            pl.col(spec.timestamp_column).alias(f"raw:{spec.timestamp_column}"),
            *(
                pl.col(column).cast(pl.String).alias(role)
                for role, column in self._labels()
                if column is not None
            ),
        ]
        name = (
            pl.lit(spec.value_column)
            if spec.metric_column is None
            else pl.col(spec.metric_column).cast(pl.String)
        )
        for metric in self.metrics:
            raw = (
                pl.col(metric)
                if spec.layout == "wide"
                else pl.when(name == metric).then(pl.col(spec.value_column))
            )
            if metric in self.text_metrics:
                columns.append(raw.alias(f"raw:{metric}"))
            columns.append(self._number(raw).alias(f"metric:{metric}"))
        frame = scan(path).with_row_index("row", offset=1) if numbered else scan(path)
        if spec.layout == "long" and self.metrics:
            if spec.metrics is not None:
                frame = frame.filter(name.is_in(list(spec.metrics)))
            number = name.replace_strict(
                self.metrics, range(len(self.metrics)), default=None, return_dtype=pl.Int32
            )
            columns += [
                name.alias("metric name"),
                number.alias("metric"),
                self._number(pl.col(spec.value_column)).alias("value"),
            ]
        return frame.select(*(["row"] if numbered else []), *columns)

    def _number(self, raw: pl.Expr) -> pl.Expr:
        """Return a column of numbers, or of their text, as Float32; null where the text is not a
        number.
        """
        return (raw.str.strip_chars() if self.text_metrics else raw).cast(pl.Float32, strict=False)

    def _describe(self, rule: Rule, total: int) -> str:
        """Return the message of a broken rule; reads file after file until it has enough rows to
        show.
        """
        examples: list[str] = []
        for path in self.paths:
            bad = self._typed(path, numbered=True).filter(rule.bad).head(SHOWN - len(examples))
            shown = (
                pl.col(f"raw:{self.spec.timestamp_column}")
                .cast(pl.String)
                .fill_null("no timestamp")
                .alias("when")
            )
            for row, tenant, when in collect(
                self.spec, bad.select("row", "tenant", shown), in_order=True
            ).iter_rows():
                where = f"{path.name} row" if len(self.paths) > 1 else "row"
                examples.append(f"{where} {row} (tenant {tenant!r}, {when})")
            if len(examples) >= SHOWN:
                break
        more = "" if total <= len(examples) else f" and {total - len(examples)} more"
        place = (
            str(self.paths[0])
            if len(self.paths) == 1
            else f"{len(self.paths)} files of {self.spec.path}"
        )
        return (
            f"fleet {self.spec.name!r}, {place}, column {rule.column!r}: {total} {rule.what}: "
            f"{', '.join(examples)}{more} "
            f"(row 1 is the first under the header); allowed: {rule.allowed}"
        )


def open_files(spec: TableFleet, fleets_dir: Path) -> TableFiles:
    """Find the files of a fleet and check their columns. Raises `FleetDataError` for missing files
    and unusable columns.
    """
    paths = find_files(spec, fleets_dir)
    schema = _schema(spec, paths[0])
    long = spec.layout == "long"
    values = (spec.value_column,) if long else _wide_metrics(spec, paths[0], schema)
    roles = (
        spec.tenant_column,
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
    ignored = [column for column in schema.names() if column not in needed]
    if ignored and (long or spec.metrics is None):
        why = (
            "that the long layout does not use, which are not read"
            if long
            else "that are not numeric and therefore not metrics"
        )
        notes = (*notes, f"columns {why}: {', '.join(ignored)}")
    text_metrics = tuple(
        metric for metric in metrics if schema[spec.value_column if long else metric] == pl.String
    )
    return TableFiles(spec, paths, metrics, notes, text_times, offset, text_metrics)


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


def can_be_times(text: pl.Series) -> bool:
    """Return whether all of these texts can be read as times, and there is at least one."""
    times = text.to_frame("text").select(_parse_time(pl.col("text"), 0))["text"]
    return len(times) > 0 and times.null_count() == 0


def scan(path: Path) -> pl.LazyFrame:
    """Scan one file lazily; every column of a CSV is text."""
    if path.suffix == ".csv":
        return pl.scan_csv(path, infer_schema=False, glob=False)
    return pl.scan_parquet(path, glob=False)


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
            f"{spec.source}. Put it there, "
            f" or set the environment variable {FLEETS_DIR_VARIABLE} to the folder "
            "that holds it"
        )
    stems = [candidate.stem for candidate in paths]
    if spec.tenant_column is None and len(set(stems)) < len(stems):
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
            f"{', '.join(map(repr, present[:SHOWN]))}; allowed: 1 to {MOST_METRICS}. If "
            "another column holds the names, set metric_column to it; otherwise list the metrics "
            "to use in 'metrics'"
        )
    return spec.metrics or present


def _wide_metrics(spec: TableFleet, path: Path, schema: pl.Schema) -> tuple[str, ...]:
    """Return the metrics of the spec, else every numeric column without another role."""
    if spec.metrics is not None:
        return spec.metrics
    roles = {spec.tenant_column, spec.timestamp_column, spec.tier_column, spec.archetype_column}
    if path.suffix == ".csv":
        schema = pl.scan_csv(path, infer_schema_length=_INFERENCE_ROWS, glob=False).collect_schema()
    metrics = tuple(
        column for column, dtype in schema.items() if dtype.is_numeric() and column not in roles
    )
    if not metrics:
        raise FleetDataError(
            f"fleet {spec.name!r}, {path}: no numeric column beside {spec.tenant_column!r} and "
            f"{spec.timestamp_column!r}; columns: {_typed_names(schema)}"
        )
    return metrics


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
    for label in (spec.tenant_column, spec.metric_column):
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


def _exact_time(spec: TableFleet) -> pl.Expr:
    return pl.col(spec.timestamp_column).cast(pl.Datetime("us")).to_physical()


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


def _parse_time(text: pl.Expr, offset_minutes: int) -> pl.Expr:
    """Return microseconds since 1970 UTC from ISO 8601 text; null where it cannot be read."""
    bare = (
        text.str.strip_chars()
        .str.replace(r"\s*(Z|UTC)$", "")
        .str.replace(r"(:\d{2}.*)[+-]\d{2}:?\d{2}$", "${1}")
    )
    bare = bare.str.strip_chars().str.replace("T", " ", literal=True)
    parsed = pl.coalesce(
        bare.str.to_datetime(form, strict=False, time_unit="us") for form in _TIME_FORMATS
    )
    return parsed.to_physical() - offset_minutes * 60_000_000


def collect(spec: TableFleet, frame: pl.LazyFrame, *, in_order: bool = False) -> pl.DataFrame:
    """Collect in bounded memory, or in the order of the rows if `in_order`; an error names the
    unreadable file.
    """
    with readable(f"fleet {spec.name!r}, {spec.path}"):
        return frame.collect(engine="in-memory" if in_order else "streaming")
