"""Test that tables become one regular grid: what is read, what is missing and what is counted."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.fleets import MANIFEST_SCHEMA, FleetDataError, fleet_fingerprint, open_fleet
from tsfm_pipeline_tests.fleets.tables import (
    HOUR,
    N_HOURS,
    START,
    as_text,
    edited,
    opened,
    opened_csv,
    spec,
    table,
)

pytestmark = pytest.mark.heavy


def test_a_table_becomes_a_regular_grid(tmp_path):
    source = opened(tmp_path, table())
    values = source.values([0, 1])
    assert (source.metrics, source.step, source.start, source.n_steps) == (
        ("cpu", "mem"),
        HOUR,
        START,
        N_HOURS,
    )
    assert (source.steps_per_day, source.seasons) == (24, (24, 168))
    assert values.shape == (2, 2, N_HOURS)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values[0, 0], np.arange(N_HOURS))
    np.testing.assert_array_equal(values[1, 0], np.arange(N_HOURS) + 1000)
    assert source.timestamps().to_list() == [START + hour * HOUR for hour in range(N_HOURS)]


def test_the_manifest_of_a_complete_table_counts_everything_and_misses_nothing(tmp_path):
    manifest = opened(tmp_path, table()).manifest()
    assert manifest.schema == MANIFEST_SCHEMA
    assert manifest.rows(named=True)[1] == {
        "tenant_number": 1,
        "tenant_id": "b",
        "archetype": None,
        "tier": "standard",
        "first_step": 0,
        "last_step": N_HOURS - 1,
        "n_observed": 2 * N_HOURS,
        "n_missing": 0,
        "n_duplicates": 0,
        "n_gaps": 0,
        "longest_gap": 0,
    }


@given(st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_the_order_of_rows_is_irrelevant(tmp_path_factory, random):
    order = list(range(2 * N_HOURS))
    random.shuffle(order)
    folder = tmp_path_factory.mktemp("shuffled")
    source = opened(folder, table()[order])
    np.testing.assert_array_equal(source.values([0, 1])[:, 0, 5], [5, 1005])


def test_csv_parquet_and_globs_of_either_read_the_same(tmp_path):
    frame = table()
    expected = opened(tmp_path, frame).values([0, 1])
    np.testing.assert_array_equal(opened_csv(tmp_path, frame).values([0, 1]), expected)
    parts = tmp_path / "parts"
    parts.mkdir()
    frame[:70].write_parquet(parts / "1.parquet")
    frame[70:].write_parquet(parts / "2.parquet")
    source = open_fleet(spec("parts/*.parquet"), fleets_dir=tmp_path)
    np.testing.assert_array_equal(source.values([0, 1]), expected)


def test_tenants_can_be_read_one_by_one_in_any_order(tmp_path):
    source = opened(tmp_path, table(("a", "b", "c")))
    np.testing.assert_array_equal(source.values([2, 0])[:, 0, 0], [2000, 0])
    np.testing.assert_array_equal(source.values([1])[0], source.values([0, 1, 2])[1])


def test_missing_rows_nulls_and_nan_are_nan_and_counted_as_gaps(tmp_path):
    frame = table().with_columns(pl.col("cpu").cast(pl.Float64))
    frame = edited(frame, 11, "cpu", None)
    frame = edited(frame, 12, "cpu", float("nan"))
    frame = frame.filter(
        ~(
            (pl.col("tenant_id") == "a")
            & pl.col("timestamp").is_between(START + 20 * HOUR, START + 24 * HOUR)
        )
    )
    source = opened(tmp_path, frame)
    row = source.manifest().row(0, named=True)
    missing = np.isnan(source.values([0])[0])
    assert np.flatnonzero(missing[0]).tolist() == [10, 11, 20, 21, 22, 23, 24]
    assert np.flatnonzero(missing[1]).tolist() == [20, 21, 22, 23, 24]
    assert (row["n_missing"], row["n_observed"], row["n_gaps"], row["longest_gap"]) == (
        12,
        2 * N_HOURS - 12,
        3,
        5,
    )
    assert not np.isnan(source.values([1])).any()


def test_a_gap_is_never_filled_with_what_comes_after_it(tmp_path):
    frame = table().filter(pl.col("timestamp") != START + 30 * HOUR)
    values = opened(tmp_path, frame).values([0])
    assert np.isnan(values[0, :, 30]).all()


def test_of_duplicate_rows_the_last_one_counts_and_the_others_are_counted(tmp_path):
    frame = table(n_hours=200)
    later = frame[[5, 5]].with_columns(pl.Series("cpu", [77.0, 88.0], dtype=pl.Float32))
    source = opened(tmp_path, pl.concat([frame, later]))
    assert source.values([0])[0, 0, 5] == 88
    assert source.manifest()["n_duplicates"].to_list() == [2, 0]
    assert source.n_steps == 200


def test_of_duplicate_rows_in_several_files_the_last_file_counts(tmp_path):
    table().write_parquet(tmp_path / "part-1.parquet")
    table(("a",)).with_columns(pl.col("cpu") + 500).write_parquet(tmp_path / "part-2.parquet")
    source = open_fleet(spec("part-*.parquet", aggregate="last"), fleets_dir=tmp_path)
    np.testing.assert_array_equal(source.values([0, 1])[:, 0, 3], [503, 1003])
    assert source.manifest()["n_duplicates"].to_list() == [N_HOURS, 0]


def test_tenants_that_begin_later_or_end_earlier_are_nan_there(tmp_path):
    late = table(("b",), start=START + 10 * HOUR, n_hours=49)
    source = opened(tmp_path, pl.concat([table(("a",)), late]))
    row = source.manifest().row(1, named=True)
    assert (row["first_step"], row["last_step"], row["n_missing"], row["n_gaps"]) == (10, 58, 0, 0)
    values = source.values([1])[0, 0]
    assert np.isnan(values[:10]).all()
    assert np.isnan(values[59:]).all()
    assert values[10] == 0


def test_every_numeric_column_is_a_metric_where_none_is_named(tmp_path):
    frame = table().with_columns(pl.lit("x").alias("rack"), pl.lit(3).alias("pods"))
    for source in (opened(tmp_path, frame), opened_csv(tmp_path, frame)):
        assert source.metrics == ("cpu", "mem", "pods")
        assert any("rack" in note for note in source.notes)
    assert opened(tmp_path, frame, metrics=["mem"]).metrics == ("mem",)


def test_columns_may_have_any_names_and_tenants_may_be_numbers(tmp_path):
    frame = (
        table(("2", "10"))
        .rename({"tenant_id": "host", "timestamp": "when"})
        .with_columns(pl.col("host").cast(pl.Int64))
    )
    source = opened(tmp_path, frame, tenant_column="host", timestamp_column="when")
    assert source.manifest()["tenant_id"].to_list() == ["10", "2"]
    np.testing.assert_array_equal(source.values([0, 1])[:, 0, 0], [1000, 0])


def test_tiers_come_from_their_column_or_are_dealt_by_shares(tmp_path):
    frame = table(tuple("abcdefghij"))
    dealt = opened(tmp_path, frame).manifest()["tier"]
    assert sorted(dealt.to_list()) == sorted(["premium"] * 2 + ["standard"] * 5 + ["basic"] * 3)
    assert set(opened(tmp_path, frame, tier_shares={"basic": 1}).manifest()["tier"]) == {"basic"}
    own = {"gold": 0.95, "iron": 0.7}
    assert opened(tmp_path, frame, tiers=own).manifest()["tier"].to_list() == ["gold", "iron"] * 5
    named = frame.with_columns(
        pl.when(pl.col("tenant_id") == "c")
        .then(pl.lit("gold"))
        .otherwise(pl.lit("iron"))
        .alias("plan")
    )
    assert (
        opened(tmp_path, named, tiers=own, tier_column="plan").manifest()["tier"].to_list()
        == ["iron"] * 2 + ["gold"] + ["iron"] * 7
    )
    billed = frame.with_columns(
        pl.when(pl.col("tenant_id") == "c")
        .then(pl.lit("premium"))
        .otherwise(pl.lit("basic"))
        .alias("plan")
    )
    assert (
        opened(tmp_path, billed, tier_column="plan").manifest()["tier"].to_list()
        == ["basic"] * 2 + ["premium"] + ["basic"] * 7
    )


def test_archetypes_come_from_their_column(tmp_path):
    frame = table().with_columns(("shop-" + pl.col("tenant_id")).alias("class"))
    assert opened(tmp_path, frame, archetype_column="class").manifest()["archetype"].to_list() == [
        "shop-a",
        "shop-b",
    ]


@pytest.mark.parametrize("minutes", [0.25, 1, 5, 15, 60])
def test_the_step_is_inferred(tmp_path, minutes):
    n_steps = 100
    frame = pl.DataFrame(
        {
            "tenant_id": ["a"] * n_steps,
            "timestamp": [START + i * timedelta(minutes=minutes) for i in range(n_steps)],
            "cpu": np.arange(n_steps, dtype=np.float32),
        }
    )
    source = opened(tmp_path, frame.filter(pl.col("cpu") % 7 != 3), seasons=[10])
    assert (source.step_minutes, source.n_steps) == (minutes, n_steps)


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%.3f"],
)
@pytest.mark.parametrize(
    ("zone", "shift"),
    [("", 0), ("Z", 0), (" UTC", 0), ("+00:00", 0), ("+0530", 330), ("-08:00", -480)],
)
def test_iso_text_is_read_whatever_its_variant(tmp_path, form, zone, shift):
    frame = as_text(table(), form).with_columns(pl.col("timestamp") + zone)
    for source in (opened_csv(tmp_path, frame), opened(tmp_path, frame)):
        assert source.start == START - timedelta(minutes=shift)
        assert any("taken as UTC" in note for note in source.notes) == (zone == "")


def test_other_time_zones_and_units_become_utc(tmp_path):
    frame = table()
    tokyo = frame.with_columns(
        pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ns")
    )
    assert opened(tmp_path, tokyo).start == START
    naive = opened(
        tmp_path,
        frame.with_columns(pl.col("timestamp").dt.replace_time_zone(None).dt.cast_time_unit("ms")),
    )
    assert naive.start == START
    assert naive.notes == ("timestamps have no time zone and are taken as UTC",)


def test_daily_dates_are_read(tmp_path):
    days = [date(2024, 1, 1) + timedelta(days=i) for i in range(20)]
    source = opened(
        tmp_path,
        pl.DataFrame({"tenant_id": ["a"] * 20, "timestamp": days, "sales": np.arange(20.0)}),
    )
    assert (source.steps_per_day, source.seasons, source.n_steps) == (1, (7,), 20)


def test_the_fingerprint_follows_the_bytes_of_the_files_and_not_their_folder(tmp_path):
    source = opened(tmp_path, table())
    moved = tmp_path / "moved"
    moved.mkdir()
    assert opened(moved, table(), title="Another", horizon=3).fingerprint() == source.fingerprint()
    assert (
        opened(moved, table(), prices={"cpu": 0.03}, currency="EUR").fingerprint()
        == source.fingerprint()
    )
    assert opened(tmp_path, edited(table(), 3, "cpu", 9.0)).fingerprint() != source.fingerprint()
    assert opened(tmp_path, table(), metrics=["mem"]).fingerprint() != source.fingerprint()


def test_a_table_that_changes_after_it_was_checked_is_not_mixed_with_the_old_one(tmp_path):
    source = opened(tmp_path, table())
    table(n_hours=N_HOURS + 1).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(FleetDataError, match="changed since it was checked"):
        source.values([0])


def test_the_fingerprint_is_known_without_reading_a_row(tmp_path):
    expected = opened(tmp_path, table()).fingerprint()
    assert fleet_fingerprint(spec(), fleets_dir=tmp_path) == expected
    edited(table(), 3, "cpu", float("inf")).write_parquet(tmp_path / "t.parquet")
    assert fleet_fingerprint(spec(), fleets_dir=tmp_path) != expected, (
        "rows that would be refused are not looked at"
    )
    (tmp_path / "t.parquet").unlink()
    with pytest.raises(FleetDataError, match="no table at"):
        fleet_fingerprint(spec(), fleets_dir=tmp_path)


def test_a_price_or_bound_of_a_metric_that_the_table_does_not_have_is_refused(tmp_path):
    for field in ({"prices": {"gpu": 1.0}, "currency": "EUR"}, {"bounds": {"gpu": {"lower": 0}}}):
        with pytest.raises(
            FleetDataError,
            match=r"(prices|bounds) name 'gpu'; the metrics are cpu, mem; correct the fleet file",
        ):
            opened(tmp_path, table(), **field)


def test_tenants_whose_names_differ_by_blanks_are_pointed_out(tmp_path):
    (note,) = [note for note in opened(tmp_path, table(("a", "a ", "b"))).notes if "blanks" in note]
    assert note == "names that differ by blanks only are different tenants: 'a', 'a '"
    assert not any("blanks" in note for note in opened(tmp_path, table()).notes)


def test_a_column_of_what_is_reserved_is_no_metric(tmp_path):
    frame = table().with_columns(pl.lit(7.0).alias("cpu_requested"))
    source = opened(tmp_path, frame, reserved_columns={"cpu": "cpu_requested"})
    assert source.metrics == ("cpu", "mem")
    assert opened(tmp_path, frame).metrics == ("cpu", "mem", "cpu_requested")
    with pytest.raises(FleetDataError, match="no column 'cpu_limit'"):
        opened(tmp_path, frame, reserved_columns={"cpu": "cpu_limit"})
    with pytest.raises(FleetDataError, match="reserved_columns name 'disk'; the metrics are cpu"):
        opened(tmp_path, frame, reserved_columns={"disk": "cpu_requested"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": ["cpu"], "reserved_columns": {"cpu": "cpu"}}, "more than one role"),
        ({"metrics": ["cpu"], "reserved_columns": {"mem": "mem_requested"}}, "name 'mem'"),
        ({"layout": "long", "reserved_columns": {"y": "requested"}}, "need one row per tenant"),
    ],
)
def test_reserved_columns_belong_to_metrics_of_wide_tables(fields, message):
    with pytest.raises(ValueError, match=message):
        spec(**fields)
