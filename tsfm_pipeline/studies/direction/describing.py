"""Writing a market file for a table of prices: what the command `market init` does.

What belongs here: finding the columns by their names, and the text of the file, each field with its
reason. What does not: the fields (`spec`), judging the prices (`quality`).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from tsfm_pipeline.files import write_text_atomically
from tsfm_pipeline.fleets.dialects import first_rows
from tsfm_pipeline.fleets.field_lines import field_line, one_line
from tsfm_pipeline.fleets.names import usual_name
from tsfm_pipeline.fleets.numbers import is_plain
from tsfm_pipeline.fleets.source import cell_text, readable
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.spec_files import path_safe
from tsfm_pipeline.studies.direction.spec import (
    MARKETS,
    Columns,
    MarketSpecError,
    market_files,
    own_markets_dir,
)

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "date": ("date", "day", "trading_day", "datetime", "timestamp", "time"),
    "open": ("open", "open_price", "o"),
    "high": ("high", "high_price", "h"),
    "low": ("low", "low_price", "l"),
    "close": ("close", "close_price", "last", "price", "c"),
    "volume": ("volume", "vol", "v"),
    "adjusted_close": ("adj_close", "adjusted_close", "close_adj", "adjclose", "close_adjusted"),
}
"""What columns are usually called, in lower case with an underscore between words."""
ROWS = 50
"""Rows that are read to see which further columns hold numbers."""


def write_market_file(settings: Settings, name: str, table: Path) -> Path:
    """Write the file of a new market into the user's own folder, and return its path.

    Raises `MarketSpecError` if there is a market of that name, and ValueError for a table without
    the columns of a market.
    """
    name = path_safe(name, "market")
    target = own_markets_dir(settings) / f"{name}.yaml"
    if existing := market_files(settings).paths.get(name):
        raise MarketSpecError(f"{existing}: there is a market {name!r} already; choose a new name")
    table = table.expanduser().absolute()
    if "$" in str(table):
        raise MarketSpecError(
            f"{table}: '$' begins a variable in a market file; allowed: a path without it"
        )
    if table.suffix not in (".csv", ".parquet") or not table.is_file():
        raise MarketSpecError(f"{table}: no such table; allowed: a .csv or .parquet file")
    text = market_yaml(name, table, target.parent, settings.data_dir)
    MARKETS.parse(text, target)
    write_text_atomically(target, text)
    return target


def market_yaml(name: str, table: Path, folder: Path, data_dir: Path) -> str:
    """Return the text of the market file for a table, from its header and first rows.

    folder: where the market file will be; the path is relative to it if both lie below `data_dir`.
    """
    with readable(str(table)):
        rows = first_rows(table, ROWS)
    columns = _columns(table, rows.columns)
    further = [
        column
        for column in rows.columns
        if column not in columns.values() and _holds_numbers(rows[column])
    ]
    inside = table.is_relative_to(data_dir) and folder.is_relative_to(data_dir)
    path = os.path.relpath(table, folder) if inside else str(table)
    first = {field: cell_text(rows[column][0]) for field, column in columns.items()}
    reasons = {
        "path": "relative to the folder of this file" if inside else "the table, where it lies",
        "title": "for reports",
        "source": "what the data is, who published it, under which licence",
    }
    fields = {"kind": "table", "title": name, "source": "unknown", "path": path}
    lines = [
        f"# Written by `tsfm-pipeline market init {name} --from {table.name}`.",
        f"# Change what is wrong, then run `tsfm-pipeline market check {name}`.",
    ]
    lines += [field_line(field, value, reasons) for field, value in fields.items()]
    lines.append("columns:")
    lines += [
        f"  {field}: {one_line(column)}  # the first row has {first[field]!r}"
        for field, column in columns.items()
    ]
    return "\n".join([*lines, *_adjustment(columns), *_further(further)]) + "\n"


def _columns(table: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the column of each field that is found by its name."""
    usual = {
        usual_name(name).replace("._", "_").replace(" ", "_"): name for name in reversed(names)
    }
    found = {
        field: usual[candidates[0]]
        for field, wanted in USUAL_NAMES.items()
        if (candidates := [name for name in wanted if name in usual])
    }
    absent = [field for field in _required() if field not in found]
    if absent:
        like = "; ".join(f"{field} like {', '.join(USUAL_NAMES[field][:3])}" for field in absent)
        raise MarketSpecError(
            f"{table}: no column is called {like}; there are: {', '.join(names)}. Rename the "
            "columns, or write the market file by hand with their names in 'columns'"
        )
    return found


def _required() -> list[str]:
    return [name for name, field in Columns.model_fields.items() if field.default is not None]


def _holds_numbers(column: pl.Series) -> bool:
    cells = [cell_text(cell) for cell in column.drop_nulls()]
    return column.dtype.is_numeric() or any(map(is_plain, cells))


def _adjustment(columns: Mapping[str, str]) -> list[str]:
    """Return the lines about splits and dividends."""
    if "adjusted_close" in columns:
        return ["# Each day's open, high, low and close are multiplied by adjusted_close / close."]
    return [
        "adjusted: false  # true: splits are already adjusted for, in all four prices alike; "
        "otherwise a",
        "                 # move of more than 40 % in a day is refused",
    ]


def _further(columns: Sequence[str]) -> list[str]:
    """Return the lines about further columns, which are not used as they stand."""
    if not columns:
        return []
    return [
        f"# Further columns with numbers: {', '.join(columns)}. If they are known at the close of "
        "the day,",
        "# they can be covariates, or ready-made indicators instead of those computed here:",
        f"# covariates: {one_line(list(columns))}",
        "# features: given",
        f"# given: {one_line(list(columns))}",
    ]
