"""Test reading prices: the same numbers as their source, adjusted in one way, or a clear refusal.

What belongs here: files and cells. What does not: whether prices make sense (`test_quality`).
"""

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.studies.direction.sources import SourceError, read_bars
from tsfm_pipeline.studies.direction.spec import ArchMarket
from tsfm_pipeline_tests.studies.direction.tables import frame, market, sp500

FIELDS = ("dates", "open", "high", "low", "close", "volume")


@pytest.mark.heavy  # importing arch takes two seconds
@pytest.mark.parametrize("dataset", ["sp500", "nasdaq"])
def test_an_arch_market_is_what_arch_itself_loads(dataset: Literal["sp500", "nasdaq"]) -> None:
    from importlib import import_module

    bars = read_bars(ArchMarket(kind="arch", name=dataset, title="Index", dataset=dataset))
    loaded = import_module(f"arch.data.{dataset}").load()
    assert len(bars) == len(loaded) == 5031
    assert (bars.dates == loaded.index.to_numpy().astype("datetime64[D]")).all()
    for name in FIELDS[1:]:
        np.testing.assert_array_equal(getattr(bars, name), loaded[name.capitalize()])
    np.testing.assert_array_equal(loaded["Close"], loaded["Adj Close"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_gives_the_prices_it_was_written_from(tmp_path: Path, suffix: str) -> None:
    bars = sp500(0, 40)
    read = read_bars(market(tmp_path, frame(bars), suffix))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(read, name), getattr(bars, name))


def test_columns_may_have_other_names_and_further_ones_are_kept_apart(tmp_path: Path) -> None:
    bars = sp500(0, 40)
    table = frame(bars).rename({"date": "Day", "close": "Last"})
    table = table.with_columns(VIX=pl.lit(20.5), rsi=pl.lit(55.0), note=pl.lit("x"))
    spec = market(
        tmp_path,
        table,
        columns={"date": "Day", "close": "Last"},
        covariates=["VIX"],
        features="given",
        given=["rsi"],
    )
    read = read_bars(spec)
    np.testing.assert_array_equal(read.close, bars.close)
    assert {name: set(values) for name, values in read.covariates.items()} == {"VIX": {20.5}}
    assert {name: set(values) for name, values in read.given.items()} == {"rsi": {55.0}}


def test_all_four_prices_are_adjusted_by_the_factor_of_the_close(tmp_path: Path) -> None:
    bars = sp500(0, 40)
    factor = np.where(np.arange(40) < 20, 0.5, 1.0)  # a split in two, twenty days on
    table = frame(bars).with_columns(adj=bars.close * factor)
    read = read_bars(market(tmp_path, table, columns={"adjusted_close": "adj"}))
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(getattr(read, name), getattr(bars, name) * factor, rtol=1e-12)
    np.testing.assert_array_equal(read.volume, bars.volume)


def test_an_adjusted_close_that_is_no_adjustment_is_refused(tmp_path: Path) -> None:
    bars = sp500(0, 400)
    table = frame(bars).with_columns(adj=np.roll(bars.close, 1))  # the close of another day
    with pytest.raises(
        SourceError, match=r"column 'adj': adjusted close / close changes on \d+ of 399 days, first"
    ):
        read_bars(market(tmp_path, table, columns={"adjusted_close": "adj"}))


def test_an_adjusted_close_that_is_rounded_to_cents_is_an_adjustment(tmp_path: Path) -> None:
    bars = sp500(0, 400)
    dividends = 0.99 ** (4 - np.arange(400) // 100)  # one quarter after another
    table = frame(bars).with_columns(adj=np.round(bars.close * dividends / 50, 2))
    table = table.with_columns(pl.col("open", "high", "low", "close") / 50)
    read = read_bars(market(tmp_path, table, columns={"adjusted_close": "adj"}))
    np.testing.assert_allclose(read.close, bars.close * dividends / 50, atol=0.005)


def test_missing_cells_are_nan_and_nothing_is_sorted_or_filled(tmp_path: Path) -> None:
    table = frame(sp500(0, 6)).cast({"close": pl.String})[[0, 1, 3, 2, 3, 4]]
    table = table.with_columns(close=pl.Series(["1228.1", "n/a", None, "", "null", "5"]))
    read = read_bars(market(tmp_path, table))
    np.testing.assert_array_equal(read.close, [1228.1, *4 * [np.nan], 5.0])
    assert list(np.sign(np.diff(read.dates).astype(int))) == [1, 1, -1, 1, 1]


@pytest.mark.parametrize(
    "written",
    [
        "1999-01-04",
        "1999/01/04",
        "19990104",
        "1999-01-04 00:00:00-05:00",
        "1999-01-04T21:00:00Z",
    ],
)
def test_a_date_is_the_calendar_day_as_it_is_written(tmp_path: Path, written: str) -> None:
    table = frame(sp500(0, 1)).with_columns(date=pl.lit(written))
    assert list(read_bars(market(tmp_path, table)).dates) == [np.datetime64("1999-01-04")]


def test_semicolons_are_read_as_in_a_fleets_table(tmp_path: Path) -> None:
    bars = sp500(0, 5)
    spec = market(tmp_path, frame(bars))
    (tmp_path / "prices.csv").write_text(frame(bars).write_csv(separator=";"))
    np.testing.assert_array_equal(read_bars(spec).close, bars.close)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("close", "12,5", r"column 'close', row 3: '12,5' is no number; allowed: 1234\.5"),
        (
            "date",
            "01/06/1999",
            r"column 'date', row 3: '01/06/1999' is no date; allowed: .*YYYY-MM",
        ),
        ("date", "1999-02-30", r"column 'date', row 3: '1999-02-30' is no date"),
        ("date", "", "column 'date', row 3: '' is no date"),
    ],
)
def test_a_cell_that_cannot_be_read_is_named(
    tmp_path: Path, column: str, cell: str, message: str
) -> None:
    table = frame(sp500(0, 5)).cast({"close": pl.String, "date": pl.String})
    cells = table[column].to_list()
    cells[2] = cell
    spec = market(tmp_path, table.with_columns(pl.Series(column, cells)))
    with pytest.raises(SourceError, match=rf"market 'mine', .*prices\.csv, {message}"):
        read_bars(spec)


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    spec = market(tmp_path, frame(sp500(0, 5)), covariates=["VIX"])
    with pytest.raises(SourceError, match=r"no column 'VIX'; there are: date, open, high, low"):
        read_bars(spec)
    (tmp_path / "prices.csv").unlink()
    with pytest.raises(SourceError, match=r"prices\.csv: no such file \(field 'path'\)"):
        read_bars(spec)
    with pytest.raises(SourceError, match="column 'close': its type is Boolean; allowed: numbers"):
        read_bars(market(tmp_path, frame(sp500(0, 5)).with_columns(close=pl.lit(True)), ".parquet"))
