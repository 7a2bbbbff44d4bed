"""Reading the prices of a market from where its file says they are.

What belongs here: reading a file or a package's data as `Bars`, and adjusting open, high, low and
close in one way. What does not: judging the prices (`quality`), simulating them (`simulation`).
Nothing is repaired, sorted or filled: what is wrong with the rows must be seen by `quality`.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.fleets.dialects import scan
from tsfm_pipeline.fleets.numbers import MISSING_WORDS
from tsfm_pipeline.fleets.source import FleetDataError, cell_text, readable
from tsfm_pipeline.fleets.times import why_not
from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.simulation import simulate
from tsfm_pipeline.studies.direction.spec import (
    PRICES,
    ArchMarket,
    Columns,
    MarketSpec,
    SyntheticMarket,
    TableMarket,
)

ARCH_COLUMNS = Columns(
    date="Date", open="Open", high="High", low="Low", close="Close", volume="Volume"
)
"""The columns of arch's data sets. Their `Adj Close` equals `Close` on every day, because an index
pays no dividends and is never split, so there is nothing to adjust.
"""
ALLOWED_DATES = "dates, datetimes, or text that begins with YYYY-MM-DD, YYYY/MM/DD or YYYYMMDD"
MOST_ADJUSTED_DAYS = 0.15
"""A factor that adjusts for splits and dividends changes a few times a year. One that changes on a
larger share of the days does not belong to these prices.
"""
_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d")
_CENT = 0.011
"""Prices are often rounded to cents; a factor computed from them moves by as much, and a little."""


class SourceError(ValueError):
    """Raised for prices that cannot be read; the message names market, file, column and row."""


def read_bars(spec: MarketSpec) -> Bars:
    """Return the prices of a market in the order of its source, adjusted in one way.

    Missing cells are NaN. If `columns.adjusted_close` is given, open, high, low and close are each
    multiplied by adjusted close / close of their day; volume is left as it is.
    Raises `SourceError` for a file, column or cell that cannot be read, and for an adjusted close
    that is no adjustment of the close; `MarketSpecError` where arch or its data is missing.
    """
    if isinstance(spec, SyntheticMarket):
        return simulate(spec)
    if isinstance(spec, ArchMarket):
        return _Reader(spec, spec.file, _read_arch(spec)).bars(ARCH_COLUMNS)
    return _Reader(spec, spec.path, read_table(spec)).bars(spec.columns)


def read_table(spec: TableMarket) -> pl.DataFrame:
    """Return a table as it is in its file; the columns of a CSV file are text. Raises
    `SourceError`.
    """
    where = f"market {spec.name!r}, {spec.path}"
    if not spec.path.is_file():
        raise SourceError(f"{where}: no such file (field 'path')")
    try:
        with readable(where):
            return scan(spec.path).collect()
    except FleetDataError as error:
        raise SourceError(str(error)) from error


def _read_arch(spec: ArchMarket) -> pl.DataFrame:
    """Return one of arch's data sets as it is in the installed package, whose dates have the month
    first. Importing arch would take seconds.
    """
    table = pl.read_csv(spec.file, infer_schema=False)
    return table.with_columns(pl.col(ARCH_COLUMNS.date).str.to_date("%m/%d/%Y", strict=False))


class _Reader:
    """Reads columns of one table, with errors that name the cell."""

    def __init__(self, spec: MarketSpec, path: Path, table: pl.DataFrame) -> None:
        self.spec, self.table = spec, table
        self.where = f"market {spec.name!r}, {path}"

    def bars(self, columns: Columns) -> Bars:
        covariates = self.spec.covariates if isinstance(self.spec, TableMarket) else ()
        given = self.spec.given if isinstance(self.spec, TableMarket) else ()
        self._require([*columns.model_dump(exclude_none=True).values(), *covariates, *given])
        dates = self._dates(columns.date)
        prices = {field: self._numbers(getattr(columns, field)) for field in PRICES}
        if columns.adjusted_close is not None:
            adjusted = self._numbers(columns.adjusted_close)
            factor = self._factor(columns, dates, prices["close"], adjusted)
            prices = {field: values * factor for field, values in prices.items()}
        return Bars(
            dates=dates,
            volume=self._numbers(columns.volume),
            covariates={name: self._numbers(name) for name in covariates},
            given={name: self._numbers(name) for name in given},
            **prices,
        )

    def _require(self, columns: Iterable[str]) -> None:
        if absent := [name for name in columns if name not in self.table.columns]:
            raise SourceError(
                f"{self.where}: no column {', '.join(map(repr, absent))}; there are: "
                f"{', '.join(self.table.columns)}"
            )
        if not self.table.height:
            raise SourceError(f"{self.where}: no rows; allowed: one row per trading day")

    def _dates(self, column: str) -> NDArray[np.datetime64]:
        raw = self.table[column]
        if raw.dtype in (pl.Date, pl.Datetime):
            days = raw.dt.date()
        else:
            text = raw.cast(pl.String).str.strip_chars()
            # The calendar day as it is written: a time of day and a zone after it do not count.
            day = text.str.extract(r"^(\d{4}-\d{2}-\d{2}|\d{4}/\d{2}/\d{2}|\d{8})(?:\D|$)", 1)
            forms = [day.str.to_date(form, strict=False) for form in _FORMATS]
            days = forms[0].zip_with(forms[0].is_not_null(), forms[1])
            days = days.zip_with(days.is_not_null(), forms[2])
        self._refuse(column, days.is_null(), f"no date; allowed: {ALLOWED_DATES}", why_not)
        return days.to_numpy().astype("datetime64[D]")

    def _numbers(self, column: str) -> Floats:
        raw = self.table[column]
        if raw.dtype == pl.String:
            text = raw.str.strip_chars()
            values = text.cast(pl.Float64, strict=False)
            missing = text.str.to_lowercase().is_in(sorted(MISSING_WORDS)).fill_null(True)
            self._refuse(column, values.is_null() & ~missing, "no number; allowed: 1234.5")
        elif raw.dtype.is_numeric():
            values = raw.cast(pl.Float64)
        else:
            raise SourceError(
                f"{self.where}, column {column!r}: its type is {raw.dtype}; allowed: numbers"
            )
        return values.fill_null(np.nan).to_numpy().astype(np.float64)

    def _refuse(
        self,
        column: str,
        wrong: pl.Series,
        reason: str,
        hint: Callable[[Sequence[str]], str] = lambda cells: "",
    ) -> None:
        if not wrong.any():
            return
        row = int(wrong.arg_true()[0])
        cell = cell_text(self.table[column][row])
        advice = hint([cell])
        raise SourceError(
            f"{self.where}, column {column!r}, row {row + 1}: {cell!r} is {reason}"
            f"{'; ' + advice if advice else ''} ({wrong.sum()} such rows)"
        )

    def _factor(
        self, columns: Columns, dates: NDArray[np.datetime64], close: Floats, adjusted: Floats
    ) -> Floats:
        """Return adjusted / close [T] if it changes as rarely as splits and dividends do."""
        where = f"{self.where}, column {columns.adjusted_close!r}"
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = adjusted / close
        wrong = np.flatnonzero((adjusted <= 0) | (close <= 0))
        if len(wrong):
            row = int(wrong[0])
            raise SourceError(
                f"{where}, row {row + 1} ({dates[row]}): {adjusted[row]:g} is the adjusted close "
                f"of {close[row]:g}; allowed: both above 0"
            )
        rounding = _CENT / 2 * (1 / close + 1 / adjusted)
        step = np.abs(np.diff(np.log(factor)))
        changed = np.flatnonzero(step > rounding[1:] + rounding[:-1])
        if len(changed) > max(MOST_ADJUSTED_DAYS * len(step), 5):
            row = int(changed[0]) + 1
            raise SourceError(
                f"{where}: adjusted close / close changes on {len(changed)} of {len(step)} days, "
                f"first on {dates[row]} (row {row + 1}); allowed: on at most "
                f"{MOST_ADJUSTED_DAYS:.0%} of them, as splits and dividends do. It is not an "
                f"adjustment of {columns.close!r}"
            )
        return factor
