"""The rows of a table fleet's files: typing every row, and errors that name the row.

What belongs here: typed rows, and which of them break a rule. What does not: the rules
(`fleets.row_rules`), finding the files and checking their columns (`fleets.table_files`), placing
rows on the regular grid (`fleets.table`).

Typed rows have tenant (String), time (Int64, microseconds since 1970 UTC), one Float32 column per
metric (null or NaN where missing; in the long layout one metric number and one value), and tier and
archetype (String) where the spec names their columns. CSV is read as text and typed here, so that a
word in row 50,000 of a metric is reported with its row instead of turning the column into text.
Rules see one column per metric in either layout.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from tsfm_pipeline.fleets import numbers
from tsfm_pipeline.fleets.dialects import long_rows_named, scan
from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.series_layout import series_of
from tsfm_pipeline.fleets.source import SHOWN, FleetDataError, LeftOut, readable
from tsfm_pipeline.fleets.times import Times

_ROW, _TIME, _RAW_TIME, _ZONELESS = (
    f"typed:{name}" for name in ("row", "time", "raw time", "zoneless")
)
"""Columns that are added to those of a file, whose own names they must not hide."""


@dataclass(frozen=True)
class Rule:
    """A row breaks this rule where `bad` is true, an expression over the typed and the raw columns
    of one file.

    screen: a cheap expression that is true wherever `bad` is; `bad` is only computed where it is
    true of any row. hint: what to do about the cells that break the rule.
    """

    column: str
    what: str
    bad: pl.Expr
    allowed: str
    screen: pl.Expr | None = None
    hint: Callable[[Sequence[str]], str] | None = None


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
    left_out: tuple[LeftOut, ...] = ()
    """The columns that are not read."""
    chosen_by_all_rows: bool = False
    """Whether the metrics are other ones than the first rows suggest, by which earlier releases
    chose them.
    """

    @property
    def place(self) -> str:
        """Return the file or files, as errors name them."""
        several = f"{len(self.paths)} files of {self.spec.path}"
        return str(self.paths[0]) if len(self.paths) == 1 else several

    def column_names(self) -> list[str]:
        """Return the names of the first file's columns, in their order."""
        return scan(self.paths[0]).collect_schema().names()

    def rows(self, *, labels: Sequence[str] = (), identity: bool = False) -> pl.LazyFrame:
        """Return the typed rows of all files, in the order of the files' names. Columns: tenant,
        time, tier and archetype where the table names them, and a `metric:<name>` per metric, or
        (long and series layout) `metric`, the index into `metrics`, and `value`. labels: further
        columns, as `label:<name>`. identity: add `identity`, equal for rows that are equal in every
        column.
        """
        long = self.spec.layout != "wide"
        names = [
            "tenant",
            "time",
            *(["metric", "value"] if long else [f"metric:{metric}" for metric in self.metrics]),
        ]
        names += [role for role, column in self._labels() if column is not None]
        names += [f"label:{label}" for label in labels]
        names += ["identity"] if identity else []
        typed = [self._typed(path, labels=labels, identity=identity) for path in self.paths]
        return pl.concat([frame.select(names) for frame in typed])

    def rows_of(self, tenants: Sequence[str], *, labels: Sequence[str] = ()) -> pl.LazyFrame:
        """Return the rows of these tenants; in the series layout only their columns are read."""
        if self.spec.layout != "series":
            return self.rows(labels=labels).filter(pl.col("tenant").is_in(tenants))
        return replace(self, series=tuple(tenants)).rows(labels=labels)

    def first_rows(self, path: Path, columns: Sequence[str], n_rows: int) -> pl.DataFrame:
        """Return the first rows of one file: typed columns, and raw ones as `cell:<metric>`."""
        return collect(self.spec, self._typed(path).select(columns).head(n_rows), in_order=True)

    def check_rows_fit(self) -> None:
        """Raise `FleetDataError` for a CSV row with more values than columns; polars only notices
        one when it reads every column.
        """
        for path in self.paths:
            if path.suffix == ".csv":
                with long_rows_named([path]):
                    collect(self.spec, scan(path).select(pl.all().null_count()))

    def check(self, rules: Sequence[Rule]) -> list[Rule]:
        """Raise `FleetDataError` for the first rule that any row breaks, in one pass over all
        files. Return the rules whose screen was true of a row that does not break them.
        """
        broken, suspects = self._judged(rules)
        for rule, total in broken:
            raise FleetDataError(self._describe(rule, total))
        return suspects

    def broken(self, rules: Sequence[Rule]) -> list[tuple[Rule, int]]:
        """Return the rules that any row breaks, with the number of such rows, in one pass over all
        files.
        """
        return self._judged(rules)[0]

    def _judged(self, rules: Sequence[Rule]) -> tuple[list[tuple[Rule, int]], list[Rule]]:
        counts = self._counts([rule.bad if rule.screen is None else rule.screen for rule in rules])
        suspects = [i for i, rule in enumerate(rules) if rule.screen is not None and counts[i]]
        for i, n_rows in zip(suspects, self._counts([rules[i].bad for i in suspects]), strict=True):
            counts[i] = n_rows
        broken = [(rule, total) for rule, total in zip(rules, counts, strict=True) if total]
        return broken, [rules[i] for i in suspects if not counts[i]]

    def _counts(self, conditions: Sequence[pl.Expr]) -> list[int]:
        """Return of how many rows each condition is true."""
        if not conditions:
            return []
        totals = [
            self._typed(path).select(
                condition.sum().alias(str(i)) for i, condition in enumerate(conditions)
            )
            for path in self.paths
        ]
        return list(collect(self.spec, pl.concat(totals)).sum().row(0))

    def counted(self, condition: pl.Expr, what: pl.Expr) -> dict[str, int]:
        """Return the different texts of `what` in the rows where the condition is true, with their
        numbers, most frequent first.
        """
        found = [
            self._typed(path).filter(condition).select(what.alias("what")) for path in self.paths
        ]
        counts = pl.concat(found).group_by("what").len()
        return dict(
            collect(self.spec, counts.sort("len", "what", descending=[True, False])).iter_rows()
        )

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

    def _labels(self) -> tuple[tuple[str, str | None], tuple[str, str | None]]:
        return ("tier", self.spec.tier_column), ("archetype", self.spec.archetype_column)

    def _typed(
        self,
        path: Path,
        *,
        numbered: bool = False,
        labels: Sequence[str] = (),
        identity: bool = False,
    ) -> pl.LazyFrame:
        """Return the typed columns of one file, with the raw columns whose values may not be valid
        (as 'raw time' and 'cell:<metric>').

        numbered: add the number of each row as `row`, from 1. In the long layout, rows of metrics
        that the spec does not list are left out.
        """
        spec = self.spec
        frame = self._frame(path, numbered=numbered)
        columns = [
            _tenant(spec, path).alias("tenant"),
            pl.col(_TIME).alias("time"),
            pl.col(_RAW_TIME).alias("raw time"),
            *([pl.col(_ZONELESS).alias("zoneless")] if self.times.mixes_zones else []),
            *(
                pl.col(column).cast(pl.String).alias(role)
                for role, column in self._labels()
                if column is not None
            ),
            *self._label_columns(path, labels),
            *([pl.struct(pl.all()).hash().alias("identity")] if identity else []),
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
            columns.append(raw.alias(f"cell:{metric}"))
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
            variable_name="tenant_id",
            value_name=spec.value_column,
        )

    def _label_columns(self, path: Path, labels: Sequence[str]) -> list[pl.Expr]:
        there = scan(path).collect_schema() if labels else pl.Schema()
        cells = [pl.col(label) if label in there else pl.lit(None) for label in labels]
        return [
            cell.cast(pl.String).alias(f"label:{label}")
            for cell, label in zip(cells, labels, strict=True)
        ]

    def _number(self, raw: pl.Expr) -> pl.Expr:
        return numbers.number(raw, self.spec, text=bool(self.text_metrics))

    def _describe(self, rule: Rule, total: int) -> str:
        """Return the message of a broken rule; reads file after file until it has enough rows to
        show.
        """
        examples: list[str] = []
        cells: list[str] = []
        raw = f"cell:{rule.column}" if rule.hint else "raw time"
        for path in self.paths:
            bad = self._typed(path, numbered=True).filter(rule.bad).head(SHOWN - len(examples))
            shown = pl.col("raw time").cast(pl.String).fill_null("no timestamp").alias("when")
            text = pl.col(raw).cast(pl.String).alias("text")
            for row, tenant, when, cell in collect(
                self.spec, bad.select("row", "tenant", shown, text), in_order=True
            ).iter_rows():
                where = f"{path.name} row" if len(self.paths) > 1 else "row"
                cells += [cell] if rule.hint else []
                named = f": {cell!r}" if rule.hint else ""
                examples.append(f"{where} {row} (tenant {tenant!r}, {when}){named}")
            if len(examples) >= SHOWN:
                break
        more = "" if total <= len(examples) else f" and {total - len(examples)} more"
        return (
            f"fleet {self.spec.name!r}, {self.place}, column {rule.column!r}: {total} {rule.what}: "
            f"{', '.join(examples)}{more} (row 1 is the first under the header); allowed: "
            f"{rule.allowed}{'; ' + rule.hint(cells) if rule.hint else ''}"
        )


def _tenant(spec: TableFleet, path: Path) -> pl.Expr:
    """Return the tenant of each row; null where a column that names it is empty."""
    parts = [pl.col(column).cast(pl.String) for column in spec.tenant_columns]
    if not parts:
        return pl.lit(spec.one_tenant or path.stem)
    if len(parts) == 1:
        return parts[0]
    named = pl.all_horizontal(part.str.len_bytes() > 0 for part in parts)
    return pl.when(named).then(pl.concat_str(parts, separator="/"))


def collect(spec: TableFleet, frame: pl.LazyFrame, *, in_order: bool = False) -> pl.DataFrame:
    """Collect in bounded memory, or in the order of the rows if `in_order`; an error names the
    unreadable file.
    """
    with readable(f"fleet {spec.name!r}, {spec.path}"):
        return frame.collect(engine="in-memory" if in_order else "streaming")
