"""Test reading data sets: what is read, and what is refused.

What belongs here: files, a fleet of the lake, and the corpus. What does not: windows
(`test_r1_splits`), and drift (`test_r1_quality`).
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.files import sha256_of
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.workloads import tenant_telemetry_provenance, tenant_telemetry_shard
from tsfm_pipeline.studies.time_r1.datasets import (
    Borders,
    CorpusSet,
    FleetSet,
    MissingDataSetError,
    data_sets,
)
from tsfm_pipeline.studies.time_r1.raw_values import raw_values
from tsfm_pipeline.studies.time_r1.sources import Series, SourceError, read
from tsfm_pipeline_tests.studies.time_r1.real_sets import ett, hourly_table, made_up, table_set

SPLIT = {"shares": [0.7, 0.1, 0.2]}


def read_table(folder: Path, table: pl.DataFrame, **fields: object) -> Series:
    path = folder / "mine.csv"
    table.write_csv(path)
    return read(table_set(path, **fields), Settings())


def with_cell(column: str, row: int, cell: str) -> pl.DataFrame:
    """The table with one cell replaced by a text; rows count from 1."""
    cells = hourly_table()[column].cast(pl.String).to_list()
    cells[row - 1] = cell
    return hourly_table().with_columns(pl.Series(column, cells))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_values_times_and_borders_are_those_of_the_file(tmp_path: Path, suffix: str) -> None:
    table, path = hourly_table(), tmp_path / f"mine{suffix}"
    if suffix == ".csv":
        table.write_csv(path)
    else:
        table.with_columns(pl.col("date").str.to_datetime()).write_parquet(path)
    series = read(table_set(path, sha256=sha256_of(path)), Settings())
    np.testing.assert_array_equal(series.values, table.select("load", "oil").to_numpy())
    again = raw_values(table_set(path), Settings(), ("oil", "load"))
    np.testing.assert_array_equal(again, series.values[:, ::-1])
    assert series.channels == ("load", "oil")
    assert series.times is not None
    assert series.times[[0, -1]].tolist() == [
        np.datetime64("2024-01-01T00:00:00").item(),
        np.datetime64("2024-01-03T11:00:00").item(),
    ]
    assert series.borders == Borders(42, 48, 60)
    assert series.n_missing == 0


def test_channels_have_the_order_of_the_description_and_other_columns_are_left_out(
    tmp_path: Path,
) -> None:
    series = read_table(tmp_path, hourly_table(), channels={"oil": "the oil"})
    assert series.channels == ("oil",)
    assert series.values.shape == (60, 1)


def test_a_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    hourly_table().write_csv(path)
    spec = table_set(path, sha256=sha256_of(path))
    read(spec, Settings())
    path.write_text(path.read_text().replace("2024-01-01 00:00:00", "2024-01-01 00:00:00 "))
    with pytest.raises(SourceError, match=r"mine\.csv: its SHA-256 is .*allowed: .*example\.org"):
        read(spec, Settings())


def test_missing_cells_are_counted_and_stay_missing(tmp_path: Path) -> None:
    series = read_table(tmp_path, with_cell("oil", 5, "NaN"))
    assert series.n_missing == 1
    assert np.isnan(series.values[4, 1])
    again = raw_values(table_set(tmp_path / "mine.csv"), Settings(), series.channels)
    np.testing.assert_array_equal(again, series.values)


@pytest.mark.parametrize(
    ("column", "row", "cell", "message"),
    [
        ("load", 7, "1,5", r"column 'load', row 7: '1,5' is no number"),
        ("oil", 9, "inf", r"column 'oil', row 9: 'inf' is not finite"),
        ("date", 3, "2024-01-01 01:00:00", r"row 3: .* is not 1 hour after the row before"),
        ("date", 3, "2024-01-01 00:30:00", r"row 3: .* is not 1 hour after the row before"),
        ("date", 60, "2024-01-03 12:00:00", r"row 60: .* is not 1 hour after .*\(1 such rows\)"),
        ("date", 4, "yesterday", r"row 4: 'yesterday' is no time; allowed: the format '%Y"),
    ],
)
def test_a_cell_that_cannot_be_used_is_named(
    tmp_path: Path, column: str, row: int, cell: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        read_table(tmp_path, with_cell(column, row, cell))


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no column 'oil'; there are: date, load"):
        read_table(tmp_path, hourly_table().drop("oil"))


def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    hourly_table().with_columns(oil=pl.col("oil") > 0).write_parquet(path)
    with pytest.raises(SourceError, match=r"column 'oil': its type is Boolean; allowed: numbers"):
        read(table_set(path), Settings())


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    path.write_bytes(b"no table")
    with pytest.raises(SourceError, match=r"data set 'mine', .*mine\.parquet"):
        read(table_set(path), Settings())


def test_too_few_rows_for_the_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"mine\.csv: 60 rows are too few for the split"):
        read_table(tmp_path, hourly_table(), split={"rows": [40, 50, 61]})


def test_a_set_without_a_clock_must_count_its_rows(tmp_path: Path) -> None:
    counted = hourly_table().with_columns(date=pl.int_range(1, 61).cast(pl.Float64))
    series = read_table(tmp_path, counted, time_format=None, step="1 trading day")
    assert series.times is None
    with pytest.raises(SourceError, match=r"column 'date', row 31: '32.0' is not one more"):
        read_table(
            tmp_path, counted.filter(pl.col("date") != 31), time_format=None, step="1 trading day"
        )


def test_the_fingerprint_follows_the_data_and_what_is_read_of_it(tmp_path: Path) -> None:
    plain = read_table(tmp_path, hourly_table())
    assert read_table(tmp_path, hourly_table(), title="Other").fingerprint == plain.fingerprint
    changed = (
        read_table(tmp_path, hourly_table(61)),
        read_table(tmp_path, hourly_table(), season=12),
        read_table(tmp_path, hourly_table(), split={"shares": [0.6, 0.2, 0.2]}),
    )
    assert len({plain.fingerprint, *(series.fingerprint for series in changed)}) == 4


@pytest.mark.parametrize("name", ["ETTh1", "ETTh2"])
def test_ett_is_read_in_place_with_its_published_digest(name: str) -> None:
    series = ett(name)
    assert data_sets(Settings())[name].pinned
    assert series.values.shape == (17_420, 7)
    assert series.n_missing == 0
    assert series.borders == Borders(8640, 11_520, 14_400)


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    """A workspace whose lake holds the telemetry of one small fleet and nothing else."""
    specs = tmp_path / "fleets"
    specs.mkdir()
    fields = {"kind": "synthetic", "title": "Small", "tenants": 5, "days": 14, "seed": 3}
    fields["minimum_per_archetype"] = 0
    (specs / "small.yaml").write_text(yaml.safe_dump(fields))
    settings = Settings(data_dir=tmp_path, specs_dir=specs, shard_tenants=2)
    fleet = open_workspace_fleet(settings, "small")
    fleet.tables.map_shards(
        "tenant_telemetry",
        lambda shard: tenant_telemetry_shard(fleet, shard),
        [[0, 1], [2, 3], [4]],
        provenance=tenant_telemetry_provenance(fleet),
    )
    return settings


def fleet_set(name: str) -> FleetSet:
    return FleetSet(
        name=name, kind="fleet", title="F", fleet=name, licence="own", horizon=60, split=SPLIT
    )


def test_the_tenants_of_a_fleet_are_read_from_the_lake_and_nothing_is_written(
    lake: Settings,
) -> None:
    before = {path: path.stat().st_mtime_ns for path in lake.data_dir.rglob("*")}
    series = read(fleet_set("small"), lake)
    assert {path: path.stat().st_mtime_ns for path in lake.data_dir.rglob("*")} == before
    fleet = open_workspace_fleet(lake, "small")
    assert series.values.shape == (14 * 1440, 5 * 4)
    assert (series.step, series.season) == ("1 minute", 1440)
    stored = fleet.tables.read("tenant_telemetry")
    for channel, values in zip(series.channels, series.values.T, strict=True):
        tenant, metric = channel.split("/")
        rows = stored.filter(pl.col("tenant_id") == tenant)
        np.testing.assert_array_equal(
            values, rows[metric].cast(pl.Float64).fill_null(np.nan).to_numpy()
        )
    assert series.times is not None
    assert series.times[-1] - series.times[0] == np.timedelta64(14 * 86_400 - 60, "s")
    again = raw_values(fleet_set("small"), lake, series.channels)
    np.testing.assert_array_equal(again, series.values)


def test_a_fleet_without_telemetry_is_missing(lake: Settings) -> None:
    with pytest.raises(MissingDataSetError, match=r"the fleet 'other' cannot be read .*there are"):
        read(fleet_set("other"), lake)


def corpus(**fields: int) -> CorpusSet:
    sizes = {"seed": 1, "blocks": 2, "block_series": 3, "length": 256, "season": 24, "horizon": 8}
    return CorpusSet(
        name="c", kind="corpus", title="C", licence="own", split=SPLIT, **{**sizes, **fields}
    )


@pytest.mark.heavy
def test_the_corpus_is_a_function_of_its_fields_alone() -> None:
    once, again = read(corpus(), Settings()), read(corpus(), Settings())
    np.testing.assert_array_equal(once.values, again.values)
    assert once.values.shape == (256, 6)
    assert np.isfinite(once.values).all()
    more = read(corpus(blocks=3), Settings())
    np.testing.assert_array_equal(more.values[:, :6], once.values)
    assert raw_values(corpus(), Settings(), once.channels) is None
    other = read(corpus(seed=2), Settings())
    assert (other.values != once.values).any()
    assert other.fingerprint != once.fingerprint


def test_a_series_refuses_arrays_that_do_not_fit() -> None:
    series = made_up(np.zeros((20, 6)), (10, 15, 20))
    with pytest.raises(ValueError, match=r"made-up: values \(20, 6\) need .* 5 channels"):
        Series(**{**vars(series), "channels": series.channels[1:]})
