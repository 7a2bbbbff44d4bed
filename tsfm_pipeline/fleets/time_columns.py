"""Choosing the column of times of an unknown table.

What belongs here: which columns could hold the times, and which of them does. What does not: how a
column of times is read (`fleets.times`), the other roles (`fleets.columns`).

Of several columns the one wins that orders the rows of each series: with it and the labels of a row
the fewest rows repeat an earlier one. Names decide between equals. The bounds of a query and the
time at which something was created never win, nor does a column with a single time.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tsfm_pipeline.fleets.dialects import first_rows, scan
from tsfm_pipeline.fleets.names import usual_name
from tsfm_pipeline.fleets.source import FleetDataError
from tsfm_pipeline.fleets.times import ALLOWED_TIMES, form_of, is_clock, is_number, unit_of, why_not

TIMES = (
    "timestamp",
    "ds",
    "time",
    "datetime",
    "date",
    "ts",
    "date_time",
    "time_stamp",
    "observed_at",
    "at",
    "_time",
    "@timestamp",
    "epoch",
    "unix",
)
BESIDE_THE_POINT = (
    "_start",
    "_stop",
    "start",
    "stop",
    "end",
    "created",
    "created_at",
    "updated_at",
    "ingested_at",
    "deployed",
    "deployed_at",
)
"""Columns that hold times of something else than the values of their row."""
NUMBER_NAMES = ("time", "date", "epoch", "unix", "ts", "at", "ds")
"""Words in the name of a column of numbers that may be epochs."""
MOST_EPOCH_RATIO = 1.5
"""Durations of many lengths, such as response_time_ns, are no epochs."""
HOURS = ("hour", "hr")
"""Names of a column of hours beside one of dates."""
_HOURS_OF_A_DAY = {form.format(hour) for hour in range(24) for form in ("{}", "{:02}")}
_LEAST_TIMES = 0.9
_SAMPLE_ROWS = 1_000
_REPEAT_ROWS = 200_000
_CLOSE = 2


@dataclass(frozen=True)
class TimeColumns:
    """The chosen column (or a date and a time of day), and other columns that hold times."""

    chosen: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def note(self) -> tuple[str, ...]:
        """Return what was chosen, for people, where there was a choice."""
        if not self.others:
            return ()
        name = " and ".join(map(repr, self.chosen))
        beside = ", ".join(map(repr, self.others))
        return (
            f"the times are in column {name}; left out are others that hold times: {beside} "
            "(--timestamp chooses another)",
        )


def choose_times(
    paths: Sequence[Path], labels: Sequence[str], described: str, given: str | None = None
) -> TimeColumns:
    """Return the columns that hold the times.

    labels: columns that tell series apart. described: the columns, for the error. given: the name
    of a column, or of a date and a time of day with a comma between them, instead of a guess.

    Raises `FleetDataError` where no column holds times.
    """
    first = first_rows(paths[0], _SAMPLE_ROWS)
    texts = {
        column: [] if _is_time_type(first[column].dtype) else _texts(first[column])
        for column in first.columns
    }
    possible = [
        column
        for column in first.columns
        if _is_time_type(first[column].dtype) or _hold_times(column, texts[column])
    ]
    if given is not None:
        chosen = (given,) if given in first.columns else tuple(given.split(","))
        return TimeColumns(chosen, tuple(c for c in possible if c not in chosen))
    clocks = [
        column
        for column in first.columns
        if first[column].dtype == pl.Time
        or _share(texts[column], is_clock) >= _LEAST_TIMES
        or (column.lower() in HOURS and set() < set(texts[column]) <= _HOURS_OF_A_DAY)
    ]
    dates = [column for column in possible if _are_dates(first[column], texts[column])]
    candidates = [*((date, clock) for date in dates for clock in clocks), *((c,) for c in possible)]
    if not candidates:
        raise _no_times(paths[0], texts, described)
    best = _best(paths, candidates, labels)
    if best is None:
        names = ", ".join(map(repr, possible))
        raise FleetDataError(
            f"{paths[0]}: {names} holds one time in all rows, so that no column orders them; "
            f"columns: {described}; allowed: {ALLOWED_TIMES}"
        )
    return TimeColumns(best, tuple(c for c in (*possible, *clocks) if c not in best))


def _best(
    paths: Sequence[Path], candidates: list[tuple[str, ...]], labels: Sequence[str]
) -> tuple[str, ...] | None:
    columns = list(dict.fromkeys(column for candidate in candidates for column in candidate))
    others = [label for label in labels if label not in columns]
    rows = pl.concat(
        [
            scan(path).select(*others, *columns).head(max(1, _REPEAT_ROWS // len(paths)))
            for path in paths
        ],
        how="vertical_relaxed",
    )
    counts = rows.select(
        pl.len().alias("rows"),
        *(
            pl.struct(*others, *candidate).n_unique().alias(f"keys:{i}")
            for i, candidate in enumerate(candidates)
        ),
        *(
            pl.struct(*candidate).n_unique().alias(f"times:{i}")
            for i, candidate in enumerate(candidates)
        ),
    ).collect()
    row = counts.row(0, named=True)
    varying = [i for i in range(len(candidates)) if row[f"times:{i}"] > 1 or row["rows"] == 1]
    best = min(
        varying,
        key=lambda i: (
            candidates[i][0].lower() in BESIDE_THE_POINT,
            -round(row[f"keys:{i}"] / row["rows"], _CLOSE),
            _rank(candidates[i][0]),
        ),
        default=None,
    )
    return None if best is None else candidates[best]


def _rank(column: str) -> int:
    name = usual_name(column)
    return TIMES.index(name) if name in TIMES else len(TIMES)


def _is_time_type(dtype: pl.DataType) -> bool:
    return dtype in (pl.Datetime, pl.Date)


def _texts(column: pl.Series) -> list[str]:
    words = (pl.String, pl.Categorical, pl.Enum)
    if not (column.dtype in words or column.dtype.is_numeric()):
        return []
    return column.drop_nulls().cast(pl.String).to_list()


def _share(texts: Sequence[str], reads: Callable[[str], object]) -> float:
    """Return the share of texts that `reads` accepts; 0 where it accepts none of the first few."""
    if not any(reads(text) for text in texts[:20]):
        return 0.0
    return sum(bool(reads(text)) for text in texts) / len(texts)


def _hold_times(column: str, texts: Sequence[str]) -> bool:
    if _share(texts, is_number) < _LEAST_TIMES:
        return _share(texts, form_of) >= _LEAST_TIMES
    if not may_be_epochs(column) or _share(texts, _is_epoch_or_date) < _LEAST_TIMES:
        return False
    numbers = [float(text) for text in texts if is_number(text)]
    return max(numbers) <= MOST_EPOCH_RATIO * min(numbers)


def may_be_epochs(column: str) -> bool:
    """Return whether the name of a column of numbers allows that they are epochs."""
    words = re.split(r"[^a-z0-9]+", column.lower())
    return any(
        word in NUMBER_NAMES
        or word.startswith(("time", "date", "epoch", "unix"))
        or word.endswith(("time", "date", "stamp"))
        for word in words
    )


def _is_epoch_or_date(text: str) -> bool:
    return form_of(text) is not None or (is_number(text) and unit_of(float(text)) is not None)


def _are_dates(column: pl.Series, texts: Sequence[str]) -> bool:
    if column.dtype == pl.Datetime:
        return bool((column.dt.time().cast(pl.Int64) == 0).all())
    return column.dtype == pl.Date or all(
        form is not None and "%H" not in form.format for form in map(form_of, texts)
    )


def _no_times(path: Path, texts: dict[str, list[str]], described: str) -> FleetDataError:
    """Return the error for a table without times, with what looks most like a column of times."""
    likely = sorted(
        (column for column in texts if texts[column] and may_be_epochs(column)), key=_rank
    )
    hints = [f"column {c!r}: {why}" for c in likely if (why := why_not(texts[c]))]
    hints += [
        f"column {c!r}: {why}"
        for c in texts
        if c not in likely and (why := why_not(texts[c])) and "is a number" not in why
    ]
    if len(texts) == 1:
        hints.append(
            "there is only one column: separate values by commas, semicolons, tabs or vertical bars"
        )
    if by_time := [column for column in texts if form_of(column) is not None]:
        hints.append(
            f"{len(by_time)} columns are named by times, such as {by_time[0]!r}: write one row per "
            "time"
        )
    return FleetDataError(
        f"{path}: no column holds times; columns: {described}; allowed: {ALLOWED_TIMES}"
        + "".join(f". {hint[0].upper()}{hint[1:]}" for hint in hints[:2])
    )
