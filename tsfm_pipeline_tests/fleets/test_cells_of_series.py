"""Test that cells and repeated rows of the series layout are read as those of other layouts are."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.fleets import FleetDataError, FleetSource
from tsfm_pipeline.fleets.inference import look_at_table
from tsfm_pipeline_tests.fleets.tables import edited, opened_csv, table

SERIES = {"layout": "series", "timestamp_column": "Time"}


def pivoted() -> pl.DataFrame:
    """The cpu of `table` as a Grafana panel: Time, a and b as text."""
    wide = table().pivot("tenant_id", index="timestamp", values="cpu")
    return wide.select(
        pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ").alias("Time"),
        pl.col("a", "b").cast(pl.Int64).cast(pl.String),
    )


def values(source: FleetSource) -> list[list[float]]:
    return source.values([0, 1])[:, 0].tolist()


def test_words_for_missing_in_a_series_are_read_as_missing_and_counted(tmp_path: Path) -> None:
    expected = np.array(values(opened_csv(tmp_path, pivoted(), **SERIES)))
    expected[0, 4] = expected[1, 6] = np.nan
    spoilt = edited(edited(pivoted(), 5, "a", "null"), 7, "b", "offline")
    source = opened_csv(tmp_path, spoilt, **SERIES, missing=["offline"])
    np.testing.assert_array_equal(values(source), expected)
    assert "column 'y': 2 cells are read as missing: 'null' (1), 'offline' (1)" in source.notes


@pytest.mark.parametrize(
    ("reading", "cell"),
    [({"units": "parse"}, "{}00 m"), ({"decimal": "comma"}, "{},0"), ({"units": "parse"}, "{}")],
)
def test_series_are_read_by_what_the_fleet_file_says_of_cells(
    tmp_path: Path, reading: dict[str, str], cell: str
) -> None:
    expected = np.array(values(opened_csv(tmp_path, pivoted(), **SERIES)))
    text = pivoted().with_columns(pl.format(cell, "a").alias("a"), pl.format(cell, "b").alias("b"))
    factor = 0.1 if cell.endswith("m") else 1.0
    source = opened_csv(tmp_path, text, **SERIES, **reading)
    np.testing.assert_allclose(values(source), expected * factor, rtol=1e-6)


def test_a_unit_in_a_series_is_refused_with_its_tenant_and_what_reads_it(tmp_path: Path) -> None:
    spoilt = edited(pivoted(), 3, "b", "915 MiB")
    with pytest.raises(
        FleetDataError, match=r"row 3 \(tenant 'b', .*'915 MiB'.*set 'units: parse'"
    ):
        opened_csv(tmp_path, spoilt, **SERIES)


def test_times_that_repeat_in_a_series_are_refused_or_joined(tmp_path: Path) -> None:
    expected = np.array(values(opened_csv(tmp_path, pivoted(), **SERIES)))
    ones = pivoted().with_columns(pl.lit("1").alias("a"), pl.lit("1").alias("b"))
    twice = pl.concat([pivoted(), ones])
    with pytest.raises(FleetDataError, match="have the tenant and time of another row"):
        opened_csv(tmp_path, twice, **SERIES)
    joined = values(opened_csv(tmp_path, twice, **SERIES, aggregate="sum"))
    np.testing.assert_array_equal(joined, expected + 1)


def test_the_count_of_rows_beside_series_is_named_as_not_read(tmp_path: Path) -> None:
    frame = pivoted().with_row_index("Unnamed: 0")
    (left,) = opened_csv(tmp_path, frame, **SERIES).columns_left_out
    assert (left.column, left.reason) == ("Unnamed: 0", "the series layout does not use it")
    facts = look_at_table(tmp_path / "t.csv", name="mine", fleets_dir=tmp_path)
    assert facts.fields["layout"] == "series"
    assert [left.column for left in facts.left_out] == ["Unnamed: 0"]
