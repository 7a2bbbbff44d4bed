"""Test clocks and time zones: a table means the same wherever it is read, and times that a local
clock skips or repeats are reported.

What belongs here: whole tables with the traps that calendars have. What does not: single formats of
timestamps (`fleets.test_table`).
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.fleets import FleetDataError, open_fleet
from tsfm_pipeline.fleets.quality import check_fleet
from tsfm_pipeline_tests.fleets.tables import HOUR, opened, opened_csv, spec

BERLIN = ZoneInfo("Europe/Berlin")
N_HOURS = 240
SPRING, AUTUMN = datetime(2024, 3, 30, tzinfo=UTC), datetime(2024, 10, 26, tzinfo=UTC)
"""The clocks of Berlin jump from 02:00 to 03:00, and back from 03:00 to 02:00, 25 hours later."""


def hourly(start: datetime) -> pl.DataFrame:
    """Ten days of one tenant whose metric counts the hours, by instants."""
    times = [start + hour * HOUR for hour in range(N_HOURS)]
    frame = pl.DataFrame(
        {"tenant_id": "a", "timestamp": times, "cpu": np.arange(N_HOURS, dtype=np.float32)}
    )
    return frame.cast({"timestamp": pl.Datetime("us", "UTC")})


def wall_clock(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows with what a clock on a wall in Berlin showed, and no word about the zone."""
    return frame.with_columns(
        pl.col("timestamp").dt.convert_time_zone("Europe/Berlin").dt.replace_time_zone(None)
    )


@pytest.mark.parametrize("start", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_instants_with_a_zone_know_no_summer_time(tmp_path: Path, start: datetime) -> None:
    local = hourly(start).with_columns(pl.col("timestamp").dt.convert_time_zone("Europe/Berlin"))
    source = opened(tmp_path, local)
    assert (source.start, source.n_steps) == (start, N_HOURS)
    np.testing.assert_array_equal(source.values([0])[0, 0], np.arange(N_HOURS))
    manifest = source.manifest().row(0, named=True)
    assert (manifest["n_missing"], manifest["n_duplicates"]) == (0, 0)


def test_the_hour_that_a_wall_clock_skips_is_missing_and_counted(tmp_path: Path) -> None:
    source = opened(tmp_path, wall_clock(hourly(SPRING)))
    assert source.n_steps == N_HOURS + 1
    assert np.flatnonzero(np.isnan(source.values([0])[0, 0])).tolist() == [25]
    assert source.manifest().row(0, named=True)["n_missing"] == 1
    assert source.notes == ("timestamps have no time zone and are taken as UTC",)


def test_the_hour_that_a_wall_clock_shows_twice_keeps_its_last_value_and_is_told(
    tmp_path: Path,
) -> None:
    source = opened(tmp_path, wall_clock(hourly(AUTUMN)))
    values = source.values([0])[0, 0]
    assert source.n_steps == N_HOURS - 1
    assert values[23:27].tolist() == [23, 25, 26, 27], (
        "of the hours 24 and 25, both called 02:00, the later one counts"
    )
    assert source.manifest().row(0, named=True)["n_duplicates"] == 1
    problems = [finding.problem for finding in check_fleet(spec(), fleets_dir=tmp_path).findings]
    assert "1 rows repeat a time, 1 of them with other values; the last of each counts" in problems
    assert "timestamps have no time zone and are taken as UTC" in problems


def test_offsets_that_change_with_the_season_are_instants(tmp_path: Path) -> None:
    expected = opened(tmp_path, hourly(AUTUMN)).values([0]).tobytes()
    rows = hourly(AUTUMN).to_dicts()
    text = pl.DataFrame(
        [row | {"timestamp": row["timestamp"].astimezone(BERLIN).isoformat()} for row in rows]
    )
    assert text["timestamp"].str.tail(6).n_unique() == 2
    source = opened_csv(tmp_path, text)
    assert (source.start, source.n_steps) == (AUTUMN, N_HOURS)
    assert source.values([0]).tobytes() == expected


@pytest.mark.parametrize(
    "start",
    [
        datetime(2024, 2, 27, tzinfo=UTC),
        datetime(2023, 2, 27, tzinfo=UTC),
        datetime(1999, 12, 30, tzinfo=UTC),
    ],
)
def test_leap_days_and_turns_of_the_year_are_days_like_others(
    tmp_path: Path, start: datetime
) -> None:
    text = hourly(start).with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S"))
    source = opened_csv(tmp_path, text)
    assert source.timestamps().to_list() == hourly(start)["timestamp"].to_list()
    assert not np.isnan(source.values([0])).any()


@pytest.mark.parametrize(
    "trap", ["2023-02-29 05:00:00", "2024-03-30 24:00:00", "30.03.2024 05:00", "03/30/2024 05:00"]
)
def test_times_that_are_none_or_could_be_two_are_refused_with_their_row(
    tmp_path: Path, trap: str
) -> None:
    text = hourly(SPRING).with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S"))
    here = pl.int_range(pl.len()) == 9
    with pytest.raises(
        FleetDataError, match=rf"1 (unreadable )?timestamps.*: row 10 \(tenant 'a', {trap}\)"
    ):
        opened_csv(
            tmp_path,
            text.with_columns(
                pl.when(here).then(pl.lit(trap)).otherwise("timestamp").alias("timestamp")
            ),
        )


def test_a_leap_second_is_the_second_after_it(tmp_path: Path) -> None:
    text = hourly(SPRING).with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S"))
    leap = text.with_columns(
        pl.col("timestamp").replace("2024-03-31 00:00:00", "2024-03-30 23:59:60")
    )
    source = opened_csv(tmp_path, leap)
    np.testing.assert_array_equal(source.values([0])[0, 0], np.arange(N_HOURS))


def test_a_clock_that_was_set_back_writes_rows_again_of_which_the_last_count(
    tmp_path: Path,
) -> None:
    frame = hourly(SPRING)
    again = frame[50:60].with_columns(pl.col("cpu") + 1_000)
    rows = pl.concat([frame[:60], again, frame[60:]])
    with pytest.raises(FleetDataError, match=r"10 of 250 rows \(4%\).*'aggregate: last'"):
        opened(tmp_path, rows)
    source = opened(tmp_path, rows, aggregate="last")
    np.testing.assert_array_equal(source.values([0])[0, 0, 50:60], np.arange(50, 60) + 1_000)
    assert source.manifest().row(0, named=True)["n_duplicates"] == 10


def test_a_clock_that_stands_still_leaves_one_value_and_a_gap(tmp_path: Path) -> None:
    frame = hourly(SPRING)
    still = (
        pl.when(pl.int_range(pl.len()).is_between(40, 44))
        .then(pl.col("timestamp").gather(40))
        .otherwise("timestamp")
    )
    rows = frame.with_columns(still.alias("timestamp"))
    source = opened(tmp_path, rows, aggregate="last")
    assert np.flatnonzero(np.isnan(source.values([0])[0, 0])).tolist() == [41, 42, 43, 44]
    assert source.values([0])[0, 0, 40] == 44
    assert source.manifest().row(0, named=True)["n_duplicates"] == 4


@pytest.fixture
def machine_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Sets the machine's zone by TZ, and restores it."""
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def test_the_zone_of_the_machine_changes_nothing(
    tmp_path: Path, machine_zone: pytest.MonkeyPatch
) -> None:
    naive = wall_clock(hourly(AUTUMN)).with_columns(
        pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S")
    )
    seen = []
    for zone in ("UTC", "America/New_York", "Pacific/Kiritimati", "Asia/Kolkata"):
        machine_zone.setenv("TZ", zone)
        time.tzset()
        source = opened_csv(tmp_path, naive)
        seen.append(
            (
                source.start,
                source.fingerprint(),
                source.values([0]).tobytes(),
                source.timestamps().to_list(),
                source.manifest(),
            )
        )
    assert datetime.now().astimezone().utcoffset() == timedelta(hours=5, minutes=30), (
        "the zone was not set"
    )
    for other in seen[1:]:
        assert other[:4] == seen[0][:4]
        assert other[4].equals(seen[0][4])


def test_rows_of_tomorrow_are_read_like_any_others(tmp_path: Path) -> None:
    start = datetime(2090, 1, 1, tzinfo=UTC)
    hourly(start).write_parquet(tmp_path / "t.parquet")
    assert open_fleet(spec(), fleets_dir=tmp_path).start == start
