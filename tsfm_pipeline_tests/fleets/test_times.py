"""Test that times are read however they are written, and refused where they could be misread."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.fleets import FleetDataError, open_fleet
from tsfm_pipeline.fleets.columns import find_columns
from tsfm_pipeline.fleets.inference import look_at_table
from tsfm_pipeline_tests.fleets.tables import (
    HOUR,
    N_HOURS,
    START,
    edited,
    opened,
    opened_csv,
    panel,
    spec,
    table,
)

pytestmark = pytest.mark.heavy

TIME = pl.col("timestamp")
NAIVE = TIME.dt.replace_time_zone(None)


def text(form: str, zone: str = "", shift: timedelta = timedelta()) -> pl.Expr:
    return (NAIVE + pl.lit(shift)).dt.strftime(form) + zone


def in_berlin() -> pl.Expr:
    return TIME.dt.convert_time_zone("Europe/Berlin").dt.strftime("%Y-%m-%d %H:%M:%S%:z")


def offsets_in_turn() -> pl.Expr:
    hours = pl.int_range(pl.len()) % 3
    local = (NAIVE + pl.duration(hours=hours)).dt.strftime("%Y-%m-%dT%H:%M:%S")
    return local + pl.concat_str(pl.lit("+0"), hours.cast(pl.String), pl.lit(":00"))


TEXTS: dict[str, pl.Expr] = {
    "blank": text("%Y-%m-%d %H:%M:%S"),
    "T": text("%Y-%m-%dT%H:%M:%S"),
    "Z": text("%Y-%m-%dT%H:%M:%S", "Z"),
    "z": text("%Y-%m-%dT%H:%M:%S", "z"),
    "UTC": text("%Y-%m-%d %H:%M:%S", " UTC"),
    "GMT": text("%Y-%m-%d %H:%M:%S", " GMT"),
    "PostgreSQL": text("%Y-%m-%d %H:%M:%S", "+00"),
    "PostgreSQL, long offset": text("%Y-%m-%d %H:%M:%S%.3f", "+05:53:28", timedelta(seconds=21208)),
    "no colon": text("%Y-%m-%d %H:%M:%S", "+0000"),
    "pandas": text("%Y-%m-%d %H:%M:%S", "+00:00"),
    "east": text("%Y-%m-%dT%H:%M:%S", "+05:30", timedelta(hours=5, minutes=30)),
    "west": text("%Y-%m-%dT%H:%M", "-08", timedelta(hours=-8)),
    "blank before the offset": text("%Y-%m-%d %H:%M:%S", " -0330", timedelta(hours=-3.5)),
    "offsets that differ": offsets_in_turn(),
    "a local zone with its offsets": in_berlin(),
    "milliseconds": text("%Y-%m-%dT%H:%M:%S%.3f", "Z"),
    "decimal comma": text("%Y-%m-%d %H:%M:%S,000"),
    "nanoseconds": text("%Y-%m-%dT%H:%M:%S.000000000", "Z"),
    "minutes": text("%Y-%m-%d %H:%M"),
    "hours": text("%Y-%m-%dT%H", "Z"),
    "basic": text("%Y%m%dT%H%M%S", "Z"),
    "basic minutes": text("%Y%m%dT%H%M", "+01", timedelta(hours=1)),
    "digits": text("%Y%m%d%H%M%S"),
    "slashes": text("%Y/%m/%d %H:%M:%S"),
    "ordinal": text("%Y-%jT%H:%M:%S"),
    "week": text("%G-W%V-%uT%H:%M"),
    "basic week": text("%GW%V%uT%H%M", "Z"),
    "padded": pl.concat_str(pl.lit("  "), text("%Y-%m-%d %H:%M:%S"), pl.lit(" ")),
    "Go": text("%Y-%m-%d %H:%M:%S%.6f", " +0200 CEST", timedelta(hours=2)),
    "Java": text("%Y-%m-%dT%H:%M", "+02:00[Europe/Berlin]", timedelta(hours=2)),
    "seconds": TIME.dt.epoch("s").cast(pl.String),
    "seconds with decimals": TIME.dt.epoch("s").cast(pl.String) + ".000",
    "epoch in ms": TIME.dt.epoch("ms").cast(pl.String),
    "epoch in us": TIME.dt.epoch("us").cast(pl.String),
    "epoch in ns": TIME.dt.epoch("ns").cast(pl.String),
}
TYPES: dict[str, pl.Expr] = {
    "naive": NAIVE,
    "ms": NAIVE.dt.cast_time_unit("ms"),
    "ns in Tokyo": TIME.dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ns"),
    "UInt32": TIME.dt.epoch("s").cast(pl.UInt32),
    "Int64 ms": TIME.dt.epoch("ms"),
    "Int64 ns": TIME.dt.epoch("ns"),
    "Float64": TIME.dt.epoch("s").cast(pl.Float64),
    "categories": text("%Y-%m-%d %H:%M").cast(pl.Categorical),
    "Decimal": TIME.dt.epoch("s").cast(pl.Decimal(18, 3)),
}


def rewritten(frame: pl.DataFrame, how: pl.Expr) -> pl.DataFrame:
    return frame.with_columns(how.alias("timestamp"))


@pytest.mark.parametrize("name", TEXTS)
def test_text_reads_as_datetimes_do(tmp_path: Path, name: str) -> None:
    expected = panel(opened(tmp_path, table()))
    written = rewritten(table(), TEXTS[name])
    assert panel(opened_csv(tmp_path, written)) == expected
    assert panel(opened(tmp_path, written)) == expected


@pytest.mark.parametrize("name", TYPES)
def test_columns_of_other_types_read_as_datetimes_do(tmp_path: Path, name: str) -> None:
    expected = panel(opened(tmp_path, table()))
    assert panel(opened(tmp_path, rewritten(table(), TYPES[name]))) == expected


@given(
    name=st.sampled_from([*TEXTS, *TYPES]),
    start=st.datetimes(datetime(1974, 1, 1), datetime(2099, 1, 1)),
)
@settings(max_examples=15, deadline=None)
def test_a_table_of_any_year_reads_the_same_however_its_times_are_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, start: datetime
) -> None:
    folder = tmp_path_factory.mktemp("times")
    frame = table(start=start.replace(minute=0, second=0, microsecond=0, tzinfo=UTC))
    expected = panel(opened(folder, frame))
    written = rewritten(frame, (TEXTS | TYPES)[name])
    assert panel(opened(folder, written)) == expected
    if name in TEXTS:
        assert panel(opened_csv(folder, written)) == expected


def test_fractions_of_a_second_are_kept(tmp_path: Path) -> None:
    late = table().with_columns(TIME + pl.duration(milliseconds=585))
    expected = panel(opened(tmp_path, late))
    assert expected[0] == START + timedelta(milliseconds=585)
    for how in (
        (TIME.dt.epoch("ms") / 1000).cast(pl.String),
        TIME.dt.epoch("ms").cast(pl.String),
        text("%Y-%m-%d %H:%M:%S%.3f"),
        text("%Y-%m-%d %H:%M:%S,%3f"),
    ):
        assert panel(opened_csv(tmp_path, rewritten(late, how))) == expected


def test_forms_may_differ_from_row_to_row_far_below_the_first(tmp_path: Path) -> None:
    frame = table(n_hours=2_000)
    row = pl.int_range(pl.len())
    how = (
        pl.when(row == 3_500)
        .then(text("%Y%m%dT%H%M%S"))
        .when(row % 2 == 1)
        .then(text("%Y-%m-%d %H:%M"))
        .otherwise(text("%Y-%m-%dT%H:%M:%S%.6f"))
    )
    assert panel(opened_csv(tmp_path, rewritten(frame, how))) == panel(opened(tmp_path, frame))


def in_two_columns(date: pl.Expr, clock: pl.Expr) -> pl.DataFrame:
    return table().with_columns(date.alias("date"), clock.alias("clock")).drop("timestamp")


JOINED: dict[str, pl.DataFrame] = {
    "text": in_two_columns(text("%Y-%m-%d"), text("%H:%M:%S")),
    "an offset": in_two_columns(text("%Y-%m-%d"), text("%H:%M", "+00:00")),
    "types": in_two_columns(NAIVE.dt.date(), NAIVE.dt.time()),
    "hours": in_two_columns(text("%Y-%m-%d"), NAIVE.dt.hour()).rename({"clock": "hour"}),
    "midnights": in_two_columns(NAIVE.dt.truncate("1d"), NAIVE.dt.time()),
}


@pytest.mark.parametrize("name", JOINED)
def test_a_date_and_a_time_of_day_are_joined_and_found(tmp_path: Path, name: str) -> None:
    expected = panel(opened(tmp_path, table()))
    pair = tuple(JOINED[name].columns[-2:])
    assert panel(opened(tmp_path, JOINED[name], timestamp_column=pair)) == expected
    found = find_columns([tmp_path / "t.parquet"])
    assert (found.timestamp, found.tenant, found.metrics) == (pair, ("tenant_id",), ("cpu", "mem"))
    assert find_columns([tmp_path / "t.parquet"], timestamp=",".join(pair)).timestamp == pair
    assert (
        panel(
            opened_csv(tmp_path, JOINED[name].cast({pl.Datetime: pl.Date}), timestamp_column=pair)
        )
        == expected
    )


def test_the_fingerprint_follows_the_two_columns(tmp_path: Path) -> None:
    frame = JOINED["text"].with_columns(pl.col("date").alias("day"))
    one = opened(tmp_path, frame, timestamp_column=["date", "clock"], metrics=["cpu"])
    other = opened(tmp_path, frame, timestamp_column=["day", "clock"], metrics=["cpu"])
    assert one.fingerprint() != other.fingerprint()


REFUSED = {
    "two digits": ("24-03-01 00:00:00", "a year of two digits"),
    "two digits, day first": ("01.03.24 00:00", "a year of two digits"),
    "day or month": ("03/01/2024 00:00", "which number is the day"),
    "before 1970": ("1969-12-31 23:00:00", "unreadable timestamps"),
    "no such day": ("2024-02-30 00:00:00", "unreadable timestamps"),
    "a word": ("soon", "unreadable timestamps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_misread_is_refused_with_its_row(tmp_path: Path, name: str) -> None:
    value, words = REFUSED[name]
    frame = edited(rewritten(table(), text("%Y-%m-%d %H:%M:%S")), 66, "timestamp", value)
    with pytest.raises(FleetDataError) as error:
        opened_csv(tmp_path, frame)
    for part in ("'timestamp'", words, f"row 66 (tenant 'b', {value})"):
        assert part in str(error.value)


WHOLE_COLUMNS: dict[str, tuple[pl.Expr, str]] = {
    "two digits": (text("%y-%m-%d %H:%M"), "a year of two digits"),
    "day or month": (text("%d/%m/%Y %H:%M"), "which number is the day"),
    "Excel": (
        ((TIME.dt.epoch("s") / 86_400) + 25_569).round(6).cast(pl.String),
        "serial number of Excel",
    ),
    "rounded": (pl.lit("1.70411e+09"), "an epoch that was rounded"),
    "a time of day": (text("%H:%M:%S"), "name the column of dates too"),
    "twelve hours": (text("%Y-%m-%d %I:%M:%S %p"), "a clock of twelve hours"),
    "a named zone": (text("%Y-%m-%d %H:%M:%S", " CET"), "names a time zone; write its offset"),
    "small numbers": (pl.int_range(pl.len()).cast(pl.String), "no epoch of the years 1973"),
}


@pytest.mark.parametrize("name", WHOLE_COLUMNS)
def test_columns_that_are_no_times_are_refused_for_what_they_are(tmp_path: Path, name: str) -> None:
    how, words = WHOLE_COLUMNS[name]
    with pytest.raises(FleetDataError, match=words) as error:
        opened_csv(tmp_path, rewritten(table(), how))
    assert "'timestamp'" in str(error.value)
    with pytest.raises(FleetDataError, match=words):
        find_columns([tmp_path / "t.csv"])


def test_epochs_of_two_units_are_refused_with_the_row(tmp_path: Path) -> None:
    frame = rewritten(table(), TIME.dt.epoch("s"))
    frame = edited(frame, 70, "timestamp", 1_704_067_200_000)
    with pytest.raises(FleetDataError, match=r"1 unreadable timestamps: row 70 \(tenant 'b'"):
        opened(tmp_path, frame)


def chosen(folder: Path, **columns: pl.Expr | Callable[[], pl.Expr]) -> pl.DataFrame:
    frame = table().rename({"timestamp": "when"}).with_columns(**columns)  # type: ignore[arg-type]
    frame.write_csv(folder / "t.csv")
    return frame


def test_of_several_columns_of_times_the_one_that_orders_the_rows_wins(tmp_path: Path) -> None:
    when = pl.col("when")
    chosen(
        tmp_path,
        _start=when.min(),
        _stop=when.max(),
        created_at=when + pl.duration(seconds=7),
        date=when.dt.truncate("1d"),
        timestamp=when.dt.truncate("6h"),
    )
    found = find_columns([tmp_path / "t.csv"])
    assert found.timestamp == "when"
    assert (found.tenant, found.metrics) == (("tenant_id",), ("cpu", "mem"))
    (note,) = found.notes
    for part in ("'when'", "'_start', '_stop', 'created_at', 'date', 'timestamp'", "--timestamp"):
        assert part in note
    assert find_columns([tmp_path / "t.csv"], timestamp="created_at").timestamp == "created_at"


def test_names_decide_between_columns_that_order_the_rows_equally_well(tmp_path: Path) -> None:
    chosen(tmp_path, epoch=pl.col("when").dt.epoch("s"), time=pl.col("when") + HOUR)
    found = find_columns([tmp_path / "t.csv"])
    assert (found.timestamp, found.metrics) == ("time", ("cpu", "mem"))
    assert find_columns([tmp_path / "t.csv"], timestamp="epoch").timestamp == "epoch"


def test_a_column_with_one_time_only_is_never_the_time(tmp_path: Path) -> None:
    chosen(tmp_path, when=pl.col("when").max())
    with pytest.raises(FleetDataError, match="'when' holds one time in all rows"):
        find_columns([tmp_path / "t.csv"])


def test_numbers_are_epochs_only_where_their_column_is_called_so(tmp_path: Path) -> None:
    chosen(tmp_path, when=pl.int_range(pl.len()) + 1_704_067_200)
    with pytest.raises(FleetDataError, match="no column holds times"):
        find_columns([tmp_path / "t.csv"])
    chosen(tmp_path, used_bytes=pl.int_range(pl.len()) * 7919 % 1000 + 1_704_067_200)
    found = find_columns([tmp_path / "t.csv"])
    assert (found.timestamp, found.metrics) == ("when", ("cpu", "mem", "used_bytes"))
    chosen(tmp_path, response_time_ns=pl.int_range(pl.len()) * 10_000_000 + 200_000_000)
    found = find_columns([tmp_path / "t.csv"])
    assert (found.timestamp, found.metrics) == ("when", ("cpu", "mem", "response_time_ns"))


@pytest.mark.parametrize("days", [1, 2, 3, 5, 7])
def test_steps_of_whole_days_up_to_a_week_are_read(tmp_path: Path, days: int) -> None:
    stamps = [START + i * timedelta(days=days) for i in range(N_HOURS)]
    frame = table(("a",)).with_columns(pl.Series("timestamp", stamps, pl.Datetime("us", "UTC")))
    for step in ("infer", 1440 * days):
        source = opened(tmp_path, frame, step=step, seasons=[4])
        assert (source.step, source.n_steps, source.steps_per_day) == (
            timedelta(days=days),
            N_HOURS,
            1,
        )
        np.testing.assert_array_equal(source.values([0])[0, 0], np.arange(N_HOURS))


def test_a_few_high_days_do_not_hide_the_week_of_a_daily_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    day = np.arange(410)
    high = np.isin(day, [118, 119, 120, 360, 361, 362])
    frame = pl.concat(
        pl.DataFrame(
            {
                "tenant_id": tenant,
                "timestamp": [START + timedelta(days=int(n)) for n in day],
                "cost": (1 + 0.3 * (day % 7 >= 5) + 0.1 * rng.normal(size=410)) * (1 + 2 * high),
            }
        )
        for tenant in "abcd"
    )
    frame.write_parquet(tmp_path / "t.parquet")
    facts = look_at_table(tmp_path / "t.parquet", name="mine", fleets_dir=tmp_path)
    assert facts.fields["seasons"] == [7]


def test_a_table_of_weeks_is_described_with_a_season_that_its_own_file_can_use(
    tmp_path: Path,
) -> None:
    for n_weeks, steps in ((160, 52), (60, 7)):
        stamps = [START + i * timedelta(weeks=1) for i in range(n_weeks)]
        season = np.random.default_rng(0).normal(size=(steps, 2)).astype(np.float32)
        values = season[np.arange(2 * n_weeks) % n_weeks % steps]
        frame = table(("a", "b"), n_hours=n_weeks).with_columns(
            pl.concat([pl.Series("timestamp", stamps, pl.Datetime("us", "UTC"))] * 2),
            pl.Series("cpu", values[:, 0]),
            pl.Series("mem", values[:, 1]),
        )
        frame.write_parquet(tmp_path / "t.parquet")
        facts = look_at_table(tmp_path / "t.parquet", name="mine", fleets_dir=tmp_path)
        assert (facts.step, facts.fields["step"], facts.problem) == (
            timedelta(weeks=1),
            10080,
            "",
        )
        assert facts.fields["seasons"] == [steps]
        assert open_fleet(facts.spec, fleets_dir=tmp_path).n_steps == n_weeks


def test_steps_of_months_are_refused_by_name(tmp_path: Path) -> None:
    months = pl.datetime_range(
        START, START + timedelta(days=1_000), "1mo", time_unit="us", time_zone="UTC", eager=True
    )
    frame = table(("a",), n_hours=len(months)).with_columns(months.alias("timestamp"))
    with pytest.raises(FleetDataError, match=r"31 days.*steps of a month; allowed: .* a week"):
        opened(tmp_path, frame)
    with pytest.raises(ValueError, match="days up to a week"):
        spec(step=30 * 1440)


def test_categories_and_text_are_one_kind_of_times_from_file_to_file(tmp_path: Path) -> None:
    expected = panel(opened(tmp_path, table()))
    written = rewritten(table(), TEXTS["Z"])
    first, second = (written.filter(pl.col("tenant_id") == tenant) for tenant in "ab")
    first.write_parquet(tmp_path / "part-1.parquet")
    second.cast({"timestamp": pl.Categorical}).write_parquet(tmp_path / "part-2.parquet")
    assert panel(open_fleet(spec("part-*.parquet"), fleets_dir=tmp_path)) == expected
