"""The rows of a table fleet's files: typing every row, and errors that name the row.

What belongs here: rules and types of single rows. What does not: finding the files and checking
their columns (`fleets.table_files`), placing rows on the regular grid (`fleets.table`).

Typed rows have tenant (String), time (Int64, microseconds since 1970 UTC), one Float32 column per
metric (null or NaN where missing; in the long layout one metric number and one value), and tier and
archetype (String) where the spec names their columns. CSV is read as text and typed here, so that a
word in row 50,000 of a metric is reported with its row instead of turning the column into text.
Rules see one column per metric in either layout.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from tsfm_pipeline.fleets.dialects import scan
from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.series_layout import series_of
from tsfm_pipeline.fleets.source import SHOWN, FleetDataError, readable
from tsfm_pipeline.fleets.times import ALLOWED_TIMES, BAD_YEARS, Times

_ROW, _TIME, _RAW_TIME, _ZONELESS = (
    f"typed:{name}" for name in ("row", "time", "raw time", "zoneless")
)
"""Columns that are added to those of a file, whose own names they must not hide."""


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
    times: Times
    notes: tuple[str, ...] = ()
    """Notes for people about assumptions that were made."""
    text_metrics: tuple[str, ...] = ()
    """Metrics whose numbers are stored as text."""
    series: tuple[str, ...] | None = None
    """The columns to read in the series layout; None: all of them."""

    def rows(self) -> pl.LazyFrame:
        """Return the typed rows of all files, in the order of the files' names. Columns: tenant,
        time, labels, and a `metric:<name>` per metric, or (long and series layout) `metric`, the
        index into `metrics`, and `value`.
        """
        long = self.spec.layout != "wide"
        names = [
            "tenant",
            "time",
            *(["metric", "value"] if long else [f"metric:{metric}" for metric in self.metrics]),
        ]
        names += [role for role, column in self._labels() if column is not None]
        return pl.concat([self._typed(path).select(names) for path in self.paths])

    def rows_of(self, tenants: Sequence[str]) -> pl.LazyFrame:
        """Return the rows of these tenants; in the series layout only their columns are read."""
        if self.spec.layout != "series":
            return self.rows().filter(pl.col("tenant").is_in(tenants))
        return replace(self, series=tuple(tenants)).rows()

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
        raw_time = pl.col("raw time")
        rules = [
            Rule(
                spec.tenant_column or "name of the file",
                "empty tenant ids",
                tenant.is_null() | (tenant.str.len_bytes() == 0),
                "an id in every row",
            ),
            Rule(
                spec.time_name,
                "empty timestamps",
                raw_time.is_null(),
                "a timestamp in every row",
            ),
            *self._unreadable_times(),
            Rule(
                spec.time_name,
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

    def _unreadable_times(self) -> list[Rule]:
        """Return the rules for times that no form reads and of which it is known why."""
        unread = pl.col("raw time").is_not_null() & pl.col("time").is_null()
        rules = [
            Rule(
                self.spec.time_name,
                what,
                unread & pl.col("raw time").cast(pl.String).str.contains(pattern),
                "four digits of the year, and the year first, like 2024-03-31",
            )
            for what, pattern in BAD_YEARS.items()
            if any(re.match(pattern, text) for text in self.times.unreadable)
        ]
        if self.times.mixes_zones:
            rules.append(
                Rule(
                    self.spec.time_name,
                    "timestamps without a time zone, among others that have one",
                    pl.col("zoneless"),
                    "an offset (or Z) in every row, or in none",
                )
            )
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
        frame = self._frame(path, numbered=numbered)
        tenant = (
            pl.lit(path.stem)
            if spec.tenant_column is None
            else pl.col(spec.tenant_column).cast(pl.String)
        )
        columns = [
            tenant.alias("tenant"),
            pl.col(_TIME).alias("time"),
            pl.col(_RAW_TIME).alias("raw time"),
            *([pl.col(_ZONELESS).alias("zoneless")] if self.times.mixes_zones else []),
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
        if spec.layout != "wide" and self.metrics:
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
        return frame.select(*([pl.col(_ROW).alias("row")] if numbered else []), *columns)

    def _frame(self, path: Path, *, numbered: bool) -> pl.LazyFrame:
        """Return the columns of one file with the times that were read; in the series layout, its
        columns as rows.
        """
        spec, times = self.spec, self.times
        with readable(f"fleet {spec.name!r}, {path}"):
            frame = scan(path)
            columns = frame.collect_schema().names() if spec.layout == "series" else []
        if numbered:
            frame = frame.with_row_index(_ROW, offset=1)
        added = {_TIME: times.microseconds(), _RAW_TIME: times.raw()}
        if times.mixes_zones:
            added[_ZONELESS] = times.zoneless()
        frame = frame.with_columns(**added)
        if spec.layout != "series":
            return frame
        series = series_of(columns, spec.time_columns)
        if self.series is not None:
            series = [column for column in series if column in self.series]
        if self.text_metrics:
            frame = frame.with_columns(pl.col(series).cast(pl.String))
        return frame.unpivot(
            on=series,
            index=[*([_ROW] if numbered else []), *added],
            variable_name=spec.tenant_column,
            value_name=spec.value_column,
        )

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
            shown = pl.col("raw time").cast(pl.String).fill_null("no timestamp").alias("when")
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
            f"{', '.join(examples)}{more} (row 1 is the first under the header); allowed: "
            f"{rule.allowed}"
        )


def collect(spec: TableFleet, frame: pl.LazyFrame, *, in_order: bool = False) -> pl.DataFrame:
    """Collect in bounded memory, or in the order of the rows if `in_order`; an error names the
    unreadable file.
    """
    with readable(f"fleet {spec.name!r}, {spec.path}"):
        return frame.collect(engine="in-memory" if in_order else "streaming")
