"""Test that unusable tables are refused with a message that names tenant, column and rows, and says
what is allowed.
"""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from tsfm_pipeline.fleets import FleetDataError, open_fleet
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


def assert_names(error: pytest.ExceptionInfo[FleetDataError], *parts: str) -> None:
    for part in ("'mine'", "allowed", *parts):
        assert part in str(error.value)


def test_a_missing_table_says_where_it_was_looked_for_what_it_is_and_how_to_point_to_it(tmp_path):
    for path in ("${TSFM_FLEETS_DIR}/absent.parquet", "absent-*.csv"):
        with pytest.raises(FleetDataError) as error:
            open_fleet(spec(path), fleets_dir=tmp_path)
        for part in (str(tmp_path / "absent"), "made up in a test", "TSFM_FLEETS_DIR", "'mine'"):
            assert part in str(error.value)


def test_an_unknown_column_is_named_beside_those_there_are(tmp_path):
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, table(), metrics=["cpu", "gpu"])
    for part in ("'gpu'", "t.parquet", "cpu (Float32)", "tenant_id (String)"):
        assert part in str(error.value)
    with pytest.raises(FleetDataError, match="no column 'host'"):
        opened_csv(tmp_path, table(), tenant_column="host")


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e39])
def test_infinities_are_refused(tmp_path, value):
    frame = table().with_columns(pl.col("cpu").cast(pl.Float64))
    frame = edited(edited(frame, 7, "cpu", value), 65, "cpu", value)
    for read in (opened, opened_csv):
        with pytest.raises(FleetDataError) as error:
            read(tmp_path, frame)
        assert_names(
            error,
            "'cpu'",
            "2 infinite",
            "row 7 (tenant 'a', 2024-01-01",
            "row 65 (tenant 'b'",
            "finite numbers",
        )


def test_only_the_first_rows_are_listed_and_the_rest_is_counted(tmp_path):
    frame = table().with_columns(pl.lit(float("inf")).alias("cpu"))
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, frame)
    assert_names(error, f"{2 * N_HOURS} infinite", "row 5 ", f"and {2 * N_HOURS - 5} more")
    assert "row 6 " not in str(error.value)


def test_rows_of_several_files_are_named_with_their_file(tmp_path):
    table(("a",)).write_parquet(tmp_path / "part-1.parquet")
    edited(table(("b",)), 3, "cpu", float("inf")).write_parquet(tmp_path / "part-2.parquet")
    with pytest.raises(FleetDataError) as error:
        open_fleet(spec("part-*.parquet"), fleets_dir=tmp_path)
    assert_names(error, "part-2.parquet row 3 (tenant 'b'")


def test_words_among_numbers_are_refused_with_their_row(tmp_path):
    frame = edited(table().with_columns(pl.col("cpu").cast(pl.String)), 62, "cpu", "n/x")
    with pytest.raises(FleetDataError) as error:
        opened_csv(tmp_path, frame, metrics=["cpu", "mem"])
    assert_names(error, "'cpu'", "not numbers", "row 62 (tenant 'b'", "numbers, or empty")


def test_a_metric_of_the_wrong_dtype_is_refused(tmp_path):
    for column in (
        pl.col("cpu").cast(pl.String),
        pl.col("cpu") > 3,
        pl.col("timestamp").alias("cpu"),
    ):
        with pytest.raises(FleetDataError) as error:
            opened(tmp_path, table().with_columns(column), metrics=["cpu", "mem"])
        assert_names(error, "'cpu'", "in every row", "numeric")


def test_a_table_without_numeric_columns_is_refused(tmp_path):
    with pytest.raises(FleetDataError, match="no numeric column"):
        opened(tmp_path, table().select("tenant_id", "timestamp"))


def test_a_metric_may_not_be_called_like_a_column_of_the_telemetry_table(tmp_path):
    frame = table().rename({"tenant_id": "host"}).with_columns(pl.lit(1.0).alias("tenant_id"))
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, frame, tenant_column="host")
    assert_names(error, "'tenant_id'", "name is taken")


def test_empty_tenant_ids_are_refused(tmp_path):
    for read, empty in ((opened, None), (opened, ""), (opened_csv, "")):
        with pytest.raises(FleetDataError) as error:
            read(tmp_path, edited(table(), 4, "tenant_id", empty))
        assert_names(error, "'tenant_id'", "1 empty tenant ids", "row 4")


def test_tenant_ids_of_other_dtypes_are_refused(tmp_path):
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, table(("1", "2")).with_columns(pl.col("tenant_id").cast(pl.Float64)))
    assert_names(error, "'tenant_id'", "Float64", "text or integers")


def test_empty_and_unreadable_timestamps_are_refused(tmp_path):
    for value, expected in (
        (None, "1 empty timestamps: row 66 (tenant 'b', no timestamp)"),
        ("soon", "1 unreadable timestamps"),
    ):
        with pytest.raises(FleetDataError) as error:
            opened_csv(tmp_path, edited(as_text(table()), 66, "timestamp", value))
        assert_names(error, "'timestamp'", expected, "row 66 (tenant 'b'", "timestamp")
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, edited(table(), 4, "timestamp", None))
    assert_names(error, "1 empty timestamps", "row 4 (tenant 'a'")


def test_timestamps_of_other_dtypes_are_refused(tmp_path):
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, table().with_columns(pl.col("timestamp").dt.day() > 3))
    assert_names(error, "'timestamp'", "Boolean", "ISO 8601")


@pytest.mark.parametrize(("usual", "other"), [("", "Z"), ("Z", ""), ("-05", "")])
def test_rows_without_an_offset_among_rows_with_one_are_refused(tmp_path, usual, other):
    zone = pl.when(pl.int_range(pl.len()) == 69).then(pl.lit(other)).otherwise(pl.lit(usual))
    frame = as_text(table()).with_columns(pl.col("timestamp") + zone)
    for read in (opened_csv, opened):
        with pytest.raises(FleetDataError) as error:
            read(tmp_path, frame)
        assert_names(
            error,
            "'timestamp'",
            "1 timestamps without a time zone" if usual else "119 timestamps without a time zone",
            "row 70 (tenant 'b'" if usual else "row 1 (tenant 'a'",
            "in every row, or in none",
        )


def test_different_names_of_utc_are_not_mixed_time_zones(tmp_path):
    zone = pl.when(pl.int_range(pl.len()) == 69).then(pl.lit("Z")).otherwise(pl.lit("+0000"))
    assert (
        opened_csv(tmp_path, as_text(table()).with_columns(pl.col("timestamp") + zone)).start
        == START
    )


def test_files_that_disagree_about_time_zones_or_columns_are_refused(tmp_path):
    table(("a",)).write_parquet(tmp_path / "part-1.parquet")
    other = table(("b",)).with_columns(pl.col("timestamp").dt.replace_time_zone(None))
    other.write_parquet(tmp_path / "part-2.parquet")
    with pytest.raises(FleetDataError) as error:
        open_fleet(spec("part-*.parquet"), fleets_dir=tmp_path)
    assert_names(error, "part-2.parquet", "'timestamp'", "UTC", "with or without a time zone")
    other.drop("mem").write_parquet(tmp_path / "part-2.parquet")
    with pytest.raises(FleetDataError, match=r"part-2\.parquet: no column 'mem'"):
        open_fleet(spec("part-*.parquet"), fleets_dir=tmp_path)


def test_timestamps_off_the_grid_are_refused_and_never_moved(tmp_path):
    frame = edited(table(), 64, "timestamp", START + 3 * HOUR + timedelta(minutes=1))
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, frame)
    assert_names(
        error,
        "'timestamp'",
        "1 timestamps off the grid of 1:00:00",
        "row 64 (tenant 'b'",
        "align: up",
        "before it was known",
    )


def test_a_tenant_with_another_phase_is_off_the_grid(tmp_path):
    frame = pl.concat([table(("a", "b")), table(("c",), start=START + timedelta(minutes=20))])
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, frame)
    assert_names(error, f"{N_HOURS} timestamps off the grid", "tenant 'c'")


def test_a_step_that_contradicts_the_rows_is_refused(tmp_path):
    for step in (5, 120):
        with pytest.raises(FleetDataError) as error:
            opened(tmp_path, table(), step=step)
        assert_names(error, "'timestamp'", "1:00:00 (118 times)", "'infer'")
    assert opened(tmp_path, table(), step=60).step == HOUR


def test_a_step_that_cannot_be_inferred_is_refused(tmp_path):
    irregular = pl.Series(
        [START + i * i * timedelta(minutes=1) for i in range(N_HOURS)],
        dtype=pl.Datetime("us", "UTC"),
    )
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, table(("a",)).with_columns(irregular.alias("timestamp")))
    assert_names(error, "'timestamp'", "cannot be inferred", "'a'", "(1 times)", "'step'")
    with pytest.raises(FleetDataError, match="cannot be inferred"):
        opened(tmp_path, table(n_hours=1))
    with pytest.raises(FleetDataError, match="divides a day or is a whole number of days"):
        opened(tmp_path, table(n_hours=1))


def test_irregular_rows_are_read_where_the_fleet_file_gives_their_step(tmp_path):
    hours = sorted({i * i % 97 for i in range(60)} | {0, 96})
    stamps = pl.Series([START + h * HOUR for h in hours], dtype=pl.Datetime("us", "UTC"))
    frame = table(("a",), n_hours=len(hours)).with_columns(stamps.alias("timestamp"))
    source = opened(tmp_path, frame, step=60)
    assert source.n_steps == 97
    assert source.manifest()["n_missing"][0] == 2 * (97 - len(hours))


def test_a_short_history_is_read_and_bars_no_other_tenant(tmp_path):
    frame = pl.concat([table(("a",)), table(("b",), n_hours=3)])
    assert opened(tmp_path, frame).manifest()["last_step"].to_list() == [59, 2]
    assert opened(tmp_path, frame, seasons=[]).seasons == ()


def test_a_tenant_without_any_value_is_refused(tmp_path):
    nothing = table(("b",)).with_columns(
        pl.lit(None, pl.Float32).alias("cpu"), pl.lit(None, pl.Float32).alias("mem")
    )
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, pl.concat([table(("a",)), nothing]))
    assert_names(error, "1 tenants without any observed value", "'b'", "cpu, mem")


@pytest.mark.parametrize("read", [opened, opened_csv])
def test_an_empty_table_is_refused(tmp_path, read):
    with pytest.raises(FleetDataError) as error:
        read(tmp_path, table().clear(), metrics=["cpu"])
    assert_names(error, "no rows")


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"not a table")
    with pytest.raises(FleetDataError, match=r"t\.parquet: not readable: parquet"):
        open_fleet(spec(), fleets_dir=tmp_path)
    with pytest.raises(FleetDataError, match=r"t\.csv: not readable: empty CSV"):
        opened_csv(tmp_path, "")
    with pytest.raises(FleetDataError, match="not readable"):
        opened_csv(tmp_path, table().write_csv() + "a,2024-01-05T00:00:00.000000+0000,1,2,3,4,5\n")


def test_values_beyond_the_bounds_of_the_fleet_file_are_refused(tmp_path):
    frame = edited(edited(table(), 9, "cpu", -1.0), 70, "mem", 2.0)
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, frame, lower=0)
    assert_names(error, "'cpu'", "1 values below 0", "row 9 (tenant 'a'")
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, frame, bounds={"mem": {"upper": 1}})
    assert_names(error, "'mem'", "1 values above 1", "row 70 (tenant 'b'")
    assert opened(tmp_path, edited(frame, 1, "mem", float("nan"))).n_tenants == 2


def test_one_timestamp_in_another_century_is_refused_before_the_grid_is_built(tmp_path):
    frame = edited(table(), 1, "timestamp", datetime(1970, 1, 1, tzinfo=UTC))
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, frame)
    assert_names(error, "1970-01-01", "tenant 'a'", "wrong timestamp")


def test_unknown_and_torn_tiers_are_refused(tmp_path):
    frame = table().with_columns(pl.lit("basic").alias("plan"))
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, edited(frame, 62, "plan", "gold"), tier_column="plan")
    assert_names(
        error, "'plan'", "1 unknown tiers", "row 62 (tenant 'b'", "premium, standard, basic"
    )
    with pytest.raises(FleetDataError) as error:
        opened(
            tmp_path,
            edited(frame, 62, "plan", "gold"),
            tier_column="plan",
            tiers={"gold": 0.9, "silver": 0.7},
        )
    assert_names(error, "'plan'", "unknown tiers", "allowed: gold, silver")
    with pytest.raises(FleetDataError) as error:
        opened(tmp_path, edited(frame, 62, "plan", "premium"), tier_column="plan")
    assert_names(error, "'plan'", "more than one tier", "'b'")
