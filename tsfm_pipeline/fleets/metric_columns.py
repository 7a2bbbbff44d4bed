"""Which columns of a wide table are metrics, and why the others are not.

What belongs here: the verdict on each column, from its name, its type and the cells of all rows.
What does not: the tenant, the time and the labels (`fleets.columns`, `fleets.tenants`), reading one
cell (`fleets.numbers`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tsfm_pipeline.fleets.dialects import NOT_UTF8, first_rows, partition_of, scan
from tsfm_pipeline.fleets.numbers import hint, is_missing, looks_like_a_number, number
from tsfm_pipeline.fleets.reading import TableReading
from tsfm_pipeline.fleets.source import LeftOut, cell_text, readable
from tsfm_pipeline.fleets.table_rows import TableFiles

METRIC_SHARE = 0.9
"""A column is a metric if at least this share of its cells are numbers. Empty cells and words for
missing values do not count.
"""
ROW_NUMBERS = re.compile(
    r"|#|index|unnamed: ?\d+|level_\d+|__index_level_\d+__|_c0|"
    r"row|row_?(number|num|id|index|no)|no\.?|nr\.?",
    re.IGNORECASE,
)
"""Names under which programs write the number of a row; pandas writes its index without a name."""
CLOCK_TOLERANCE_S = 36 * 3600
"""How far a column of Unix times may lie from the time column: local times, and delays."""
_CLOCK_UNITS = (1.0, 1e3, 1e6, 1e9)
_SAMPLE_ROWS = 1_000


@dataclass(frozen=True)
class Cells:
    """The cells of one column over all rows.

    n_filled: cells that are neither empty nor a word for missing; n_numbers: those that are
    numbers. odd, odd_row: the first of the others, and its row from 1.
    """

    n_filled: int
    n_numbers: int
    odd: str = ""
    odd_row: int = 0

    @property
    def are_numbers(self) -> bool:
        """Return whether enough of the cells are numbers for a metric."""
        return self.n_numbers > 0 and self.n_numbers >= METRIC_SHARE * self.n_filled


def cells_of(paths: Sequence[Path], columns: Sequence[str], spec: TableReading) -> dict[str, Cells]:
    """Return what the cells of text columns are, in one pass over all rows of all files, and a
    second one over columns that hold numbers beside other things.
    """
    if not columns:
        return {}
    read = {name: _read(name, spec) for name in columns}
    counts = _sums(
        paths,
        {f"filled:{name}": pl.col(name).is_not_null() for name in columns}
        | {f"numbers:{name}": read[name] for name in columns},
    )
    filled = {name: counts[f"filled:{name}"] for name in columns}
    numbers = {name: counts[f"numbers:{name}"] for name in columns}
    mixed = [name for name in columns if filled[name] > numbers[name]]
    words = _sums(
        paths,
        {
            name: pl.col(name).is_not_null()
            & ~read[name]
            & is_missing(pl.col(name), spec, text=True)
            for name in mixed
        },
    )
    found = {}
    for name in columns:
        n_filled = filled[name] - words.get(name, 0)
        odd = ("", 0)
        if n_filled > numbers[name]:
            odd = _first_odd(paths, name, read[name], spec)
        found[name] = Cells(n_filled, numbers[name], *odd)
    return found


def _read(name: str, spec: TableReading) -> pl.Expr:
    """Return whether a text cell is a number."""
    value = number(pl.col(name), spec, text=True)
    return (value.is_not_null() & value.is_not_nan()).fill_null(False)


def _sums(paths: Sequence[Path], conditions: dict[str, pl.Expr]) -> dict[str, int]:
    if not conditions:
        return {}
    sums = []
    for path in paths:
        there = set(scan(path).collect_schema())
        sums.append(
            scan(path).select(
                (c if set(c.meta.root_names()) <= there else pl.lit(False)).sum().alias(name)
                for name, c in conditions.items()
            )
        )
    with readable(str(paths[0])):
        return pl.concat(sums).sum().collect(engine="streaming").row(0, named=True)


def _first_odd(
    paths: Sequence[Path], name: str, read: pl.Expr, spec: TableReading
) -> tuple[str, int]:
    """Return the first cell that is neither a number nor missing, and its row from 1."""
    cell = pl.col(name)
    for path in paths:
        if name not in scan(path).collect_schema():
            continue
        rows = scan(path).select(cell).with_row_index("row number", offset=1)
        odd = rows.filter(cell.is_not_null() & ~read & ~is_missing(cell, spec, text=True))
        with readable(str(path)):
            first = odd.head(1).collect()
        if first.height:
            return cell_text(first[name][0]), int(first["row number"][0])
    return "", 0


def metrics_by_first_rows(path: Path, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that the first rows alone make metrics, as earlier releases chose them."""
    with readable(str(path)):
        schema = scan(path, infer_rows=10_000).collect_schema()
    return tuple(name for name in columns if name in schema and schema[name].is_numeric())


def judge_columns(
    paths: Sequence[Path], schema: pl.Schema, columns: Sequence[str], spec: TableReading
) -> tuple[list[str], list[LeftOut]]:
    """Return which of these columns hold numbers, and the others with the reason."""
    keys = partition_of(paths[0])
    text = [name for name in columns if schema[name] == pl.String and name not in keys]
    cells = cells_of(paths, text, spec) if paths[0].suffix == ".csv" else {}
    metrics, left_out = [], []
    for name in columns:
        if schema[name].is_numeric() or (name in cells and cells[name].are_numbers):
            metrics.append(name)
        else:
            left_out.append(_why_not(paths, name, schema[name], cells.get(name), spec))
    return metrics, left_out


def _why_not(
    paths: Sequence[Path], name: str, dtype: pl.DataType, cells: Cells | None, spec: TableReading
) -> LeftOut:
    with readable(str(paths[0])):
        first = first_rows(paths[0], _SAMPLE_ROWS, [name])[name].drop_nulls()
    cell = cell_text(next(iter(first.head(1).to_list()), None))
    if dtype not in (pl.String, pl.Categorical, pl.Enum):
        reason = f"its type is {dtype}, which is not a number"
        return LeftOut(name, cell, reason, is_label=False)
    if name in partition_of(paths[0]):
        return LeftOut(name, cell, "a key of the folders names parts of the table")
    texts = first.cast(pl.String)
    if any(NOT_UTF8 in text for text in texts):
        return LeftOut(name, cell, "bytes that are not UTF-8", is_label=False)
    number_like = looks_like_a_number([text for text in texts if not _says_missing(text, spec)])
    if cells is None:
        reason = "numbers that are stored as text" if number_like else "text, not numbers"
        remedy = "store it as numbers" if number_like else ""
        return LeftOut(name, cell, reason, remedy, not number_like)
    if cells.n_filled == 0:
        return LeftOut(name, cell, "no cell of it holds a value")
    if cells.n_numbers == 0 and number_like:
        return LeftOut(name, cells.odd, "its cells are not plain numbers", hint([cells.odd]), False)
    if cells.n_numbers == 0:
        return LeftOut(name, cell, "text, not numbers")
    return LeftOut(
        name,
        cells.odd,
        f"{cells.n_numbers:,} of its {cells.n_filled:,} cells are numbers, a metric needs "
        f"{METRIC_SHARE:.0%}; the cell of row {cells.odd_row} is not a number",
        hint([cells.odd]),
        not number_like and 2 * cells.n_numbers < cells.n_filled,
    )


def _says_missing(cell: str, spec: TableReading) -> bool:
    return bool(pl.select(is_missing(pl.lit(cell), spec, text=True)).item())


def counters_and_clocks(files: TableFiles) -> dict[str, LeftOut]:
    """Return the metrics of a wide table that count its rows, or that repeat its time as a Unix
    time, judged by the first rows.

    Under any name, a number that goes up by exactly one from row to row, across rows of the same
    time, counts rows.
    """
    path = files.paths[0]
    columns = [f"cell:{metric}" for metric in files.metrics]
    rows = files.first_rows(path, ["time", *columns], _SAMPLE_ROWS)
    several = rows["time"].n_unique() < rows.height
    found = {}
    for metric in files.metrics:
        value = rows[f"cell:{metric}"].cast(pl.Float64, strict=False)
        cell = cell_text(rows[f"cell:{metric}"][0]) if rows.height else ""
        remedy = f"list {metric!r} in 'metrics:' to read it all the same"
        named = ROW_NUMBERS.fullmatch(metric.strip()) is not None and _counts(value)
        if named or (several and bool((value.diff().slice(1) == 1).fill_null(False).all())):
            found[metric] = LeftOut(metric, cell, "it only counts the rows", remedy, False)
        elif _is_clock(value, rows["time"]):
            found[metric] = LeftOut(
                metric, cell, "it is the time again, as a Unix time", remedy, False
            )
    return found


def _counts(value: pl.Series) -> bool:
    """Return whether these are whole numbers that mostly rise from row to row, or all different."""
    known = value.drop_nulls()
    if len(known) < 2 or not bool((known == known.floor()).all()):
        return False
    rising = float((known.diff().drop_nulls() > 0).mean())  # type: ignore[arg-type]
    return rising >= METRIC_SHARE or known.n_unique() == len(known)


def _is_clock(value: pl.Series, time_us: pl.Series) -> bool:
    """Return whether the values are near the times and rise with them."""
    seconds = time_us / 1e6
    filled = value.is_not_null() & seconds.is_not_null()
    value, seconds = value.filter(filled), seconds.filter(filled)
    if len(value) < 2 or value.n_unique() < 2:
        return False
    span = np.ptp(seconds.to_numpy())
    return any(
        bool(((clock - seconds).abs() <= CLOCK_TOLERANCE_S).all())
        and bool(2 * np.ptp(clock.to_numpy()) >= span)
        for clock in (value / unit for unit in _CLOCK_UNITS)
    )
