"""The rows fetched from a database.

What belongs here: which folder holds them, how many days are asked for at once, and the types of
the columns that are stored. What does not: connections and their errors (`fleets.sql_databases`),
choosing the times and storing them (`fleets.fetched_days`), the fleet that is read from the files
(`fleets.sql`).

Rows are stored as the query gives them, in the query's columns, except that times are instants in
UTC, numbers are Float64 and labels are text. What is no number or label is for the reader of tables
to judge, as in any table. Seconds are the steps of the store: a fleet's step is found later, from
the rows.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from tenacity.wait import WaitBaseT

from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.fleets.fetched_days import Fetched, Refreshed, refresh_days, time_text
from tsfm_pipeline.fleets.kinds import SqlFleet
from tsfm_pipeline.fleets.source import SHOWN, FleetDataError
from tsfm_pipeline.fleets.sql_databases import PassingFault, QueryError, find_database

STEP_S = 1
ATTEMPTS = 5
WAIT = wait_exponential_jitter(initial=1, max=30)
ROWS_AT_ONCE = 500_000
"""Rows that one question may return, about, so that they fit into memory; one day is asked for in
any case.
"""
DAYS_AT_ONCE = 64


def store_of(spec: SqlFleet, raw_dir: Path) -> Path:
    """Return the folder of all rows fetched from this database by this query, with these roles of
    its columns.
    """
    address = spec.database or spec.url_from_env
    roles = (spec.time_columns[0], _labels(spec))
    return raw_dir / f"sql-{fingerprint(address, spec.query, roles)}"


def refresh(
    spec: SqlFleet,
    raw_dir: Path,
    *,
    fleets_dir: Path,
    always: bool = False,
    log: Callable[[str], Any] = lambda _: None,
    wait: WaitBaseT = WAIT,
) -> Refreshed:
    """Fetch newer rows as `fetched_days.refresh_days` does. Raises `FleetDataError` for a database
    that does not answer, a query that it refuses, and rows that are not those of the fleet file.
    """
    client = SqlClient(spec, fleets_dir, wait=wait)
    return refresh_days(spec, store_of(spec, raw_dir), client, step=STEP_S, always=always, log=log)


class SqlClient:
    """A database as `fetched_days.refresh_days` asks it."""

    def __init__(self, spec: SqlFleet, fleets_dir: Path, *, wait: WaitBaseT = WAIT) -> None:
        """Find the database; raises as `find_database` does."""
        self.spec = spec
        self.database = find_database(spec, fleets_dir)
        self.name = self.database.name
        self.order = (*_labels(spec), spec.time_columns[0])
        self.n_requests = 0
        self._wait = wait

    def now(self) -> float:
        """Return the time of the database's clock, less one step: the rows of a second are there
        when it is over.
        """
        return float(self._patiently(self.database.now)) - STEP_S

    def fetch(self, spans: Sequence[tuple[int, int]]) -> Iterator[Fetched]:
        """Yield the rows of each span, from questions for as many days as `ROWS_AT_ONCE` allows."""
        time = pl.col(self.spec.time_columns[0]).to_physical()
        n_days, asked = 1, 0
        while asked < len(spans):
            group = _following(spans[asked : asked + n_days])
            rows = self._ask(group[0][0], group[-1][1] + STEP_S)
            for begin, end in group:
                inside = (time >= begin * 1_000_000) & (time < (end + STEP_S) * 1_000_000)
                yield Fetched(rows.filter(inside))
            asked += len(group)
            n_days = 2 * n_days if 2 * rows.height < ROWS_AT_ONCE else max(1, n_days // 2)
            n_days = min(n_days, DAYS_AT_ONCE)

    def _ask(self, since: int, until: int) -> pl.DataFrame:
        """Return the typed rows from `since` on and before `until`, in an order that does not
        depend on the database.
        """
        rows = self._patiently(lambda: self.database.rows(self.spec.query, since, until))
        try:
            rows = _typed(rows, self.spec)
        except QueryError as error:
            raise FleetDataError(f"{self._where}: {error}") from error
        self._require_inside(rows, since, until)
        others = [column for column in rows.columns if column not in self.order]
        return rows.select(*self.order, *others).sort(*self.order, *others)

    def _require_inside(self, rows: pl.DataFrame, since: int, until: int) -> None:
        """Raise `FleetDataError` for rows of other UTC days than those asked for: a query that
        returns these may as well lack some that it should return.
        """
        day = pl.col(self.spec.time_columns[0]).to_physical() // 86_400_000_000
        outside = rows.filter((day < since // 86_400) | (day > (until - 1) // 86_400))
        if outside.height:
            shown = outside[self.spec.time_columns[0]].head(SHOWN)
            examples = ", ".join(f"{at:%Y-%m-%d %H:%M:%S} UTC" for at in shown)
            raise FleetDataError(
                f"{self._where}: {outside.height} rows outside of the times that were asked for, "
                f"{time_text(since)} to {time_text(until)}: {examples}; allowed: rows from :since "
                "on and before :until, compared with the column of times itself, in UTC"
            )

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Return an answer, after up to `ATTEMPTS` attempts."""
        retrying = Retrying(
            retry=retry_if_exception_type(PassingFault),
            stop=stop_after_attempt(ATTEMPTS),
            wait=self._wait,
            reraise=True,
        )

        def attempt() -> Any:
            self.n_requests += 1
            return ask()

        try:
            return retrying(attempt)
        except PassingFault as error:
            raise FleetDataError(
                f"{self._where}: no answer after {ATTEMPTS} attempts: {error}. What was fetched so "
                "far is kept; start again when the database is there"
            ) from error
        except QueryError as error:
            text = " ".join(str(error).split())
            raise FleetDataError(f"{self._where}: {text}") from error

    @property
    def _where(self) -> str:
        return f"fleet {self.spec.name!r}, {self.name}"


def _labels(spec: SqlFleet) -> list[str]:
    """Return the columns of text, the tenant's first."""
    columns = (spec.metric_column, spec.tier_column, spec.archetype_column)
    return [*spec.tenant_columns, *(column for column in columns if column is not None)]


def _following(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the first spans, as long as each begins where the one before it ends."""
    group = list(spans[:1])
    for before, span in pairwise(spans):
        if span[0] != before[1] + STEP_S:
            break
        group.append(span)
    return group


def _typed(rows: pl.DataFrame, spec: SqlFleet) -> pl.DataFrame:
    """Return the rows with instants, text labels and Float64 numbers. Raises `QueryError` for
    columns that are missing or cannot be what the fleet file says.
    """
    labels = _labels(spec)
    values = (spec.value_column,) if spec.layout == "long" else spec.metrics or ()
    absent = [
        column for column in (*labels, spec.time_columns[0], *values) if column not in rows.columns
    ]
    if absent:
        there = ", ".join(f"{column} ({dtype})" for column, dtype in rows.schema.items())
        raise QueryError(
            f"no column {', '.join(map(repr, absent))} in the result of the query; its columns: "
            f"{there}. Name columns with AS, or name them in the fleet file (tenant_column, "
            "timestamp_column, metrics, value_column, metric_column)"
        )
    typed = [_instants(rows[spec.time_columns[0]])]
    for column in labels:
        dtype = rows.schema[column]
        if not (dtype.is_integer() or dtype in (pl.String, pl.Null)):
            raise QueryError(f"column {column!r} is {dtype}; allowed: text or integers")
        typed.append(rows[column].cast(pl.String))
    numbers = [
        column
        for column, dtype in rows.schema.items()
        if column not in (*labels, spec.time_columns[0])
        and (dtype.is_numeric() or dtype == pl.Null)
    ]
    return rows.with_columns(*typed, pl.col(numbers).cast(pl.Float64))


def _instants(times: pl.Series) -> pl.Series:
    """Return times as Datetime("us", "UTC"), or as Datetime("us") if none has a time zone: that
    they are taken as UTC is said where the table is read.
    """
    if n_empty := times.null_count():
        raise QueryError(f"{n_empty} rows without a time in column {times.name!r}")
    if times.dtype == pl.String:
        return _of_text(times)
    if isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is not None:
        return times.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if isinstance(times.dtype, pl.Datetime | pl.Date) or times.dtype in (pl.Date, pl.Null):
        return times.cast(pl.Datetime("us"))
    raise QueryError(
        f"column {times.name!r} is {times.dtype}; allowed: timestamps, dates, or text in ISO 8601. "
        "Convert it in the query, as with to_timestamp(...) or datetime(..., 'unixepoch')"
    )


def _of_text(times: pl.Series) -> pl.Series:
    instants = {}
    for text in times.unique():
        try:
            at = datetime.fromisoformat(text.strip())
        except ValueError as error:
            raise QueryError(
                f"column {times.name!r} holds {text!r}; allowed: times in ISO 8601 like "
                "2024-01-31T23:59:00Z"
            ) from error
        instants[text] = at
    zoned = any(at.tzinfo is not None for at in instants.values())
    found = [
        at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        for at in instants.values()
    ]
    dtype = pl.Datetime("us", "UTC")
    typed = times.replace_strict(list(instants), pl.Series(found, dtype=dtype), return_dtype=dtype)
    return typed if zoned else typed.dt.replace_time_zone(None)
