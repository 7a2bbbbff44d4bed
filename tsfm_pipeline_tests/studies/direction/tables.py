"""Tables of prices for tests: real days of the S&P 500, written as a user's file would be.

What belongs here: files and market files below a folder. What does not: what is expected of them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.sources import read_bars
from tsfm_pipeline.studies.direction.spec import MARKETS, ArchMarket, MarketSpec, TableMarket

SP500 = ArchMarket(kind="arch", name="sp500", title="S&P 500", dataset="sp500")


def sp500(first: int = 0, last: int | None = None) -> Bars:
    """Some real days of the S&P 500."""
    return read_bars(SP500)[first:last]


def frame(bars: Bars) -> pl.DataFrame:
    """Bars as a table with the usual names of columns."""
    prices = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    return pl.DataFrame({"date": bars.dates, **prices})


def market(folder: Path, table: pl.DataFrame, suffix: str = ".csv", **fields: object) -> MarketSpec:
    """A table market: its table and its file, both written below a folder."""
    path = folder / f"prices{suffix}"
    if suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)
    document = {"kind": "table", "title": "Mine", "path": path.name, **fields}
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(document))
    return MARKETS.load(file)


def in_memory(**fields: object) -> TableMarket:
    """A table market of which no file is read."""
    return TableMarket.model_validate(
        {"kind": "table", "name": "mine", "title": "Mine", "path": "none.csv", **fields}
    )


def with_value(bars: Bars, field: str, day: int, value: float) -> Bars:
    """The same bars with one price changed."""
    values = np.array(getattr(bars, field))
    values[day] = value
    changed: dict[str, Any] = {field: values}
    return replace(bars, **changed)
