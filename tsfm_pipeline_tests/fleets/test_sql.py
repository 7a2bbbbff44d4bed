"""Test that the rows of a query become a fleet, that a later fetch asks only for newer rows, and
that a query cannot change its database.
"""

import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from tenacity import wait_none

from tsfm_pipeline.fleets import (
    FleetDataError,
    FleetSource,
    SqlFleet,
    fleet_fingerprint,
    open_fleet,
    refresh_fleet,
)
from tsfm_pipeline.fleets.fetched_days import Refreshed, stored_days
from tsfm_pipeline.fleets.quality import check_fleet
from tsfm_pipeline.fleets.sql_store import ATTEMPTS, DAYS_AT_ONCE, refresh, store_of

pytestmark = pytest.mark.heavy

HOUR = timedelta(hours=1)
N_HOURS = 9 * 24
TENANTS = ("a", "b", "c")
QUERY = "SELECT host, seen, cpu, mem FROM load WHERE seen >= :since AND seen < :until"
Row = tuple[str, datetime, float, float | None]


def newest() -> datetime:
    """The time of the last reading, half an hour ago: no fetch of a test comes near to a reading,
    however long it takes.
    """
    return (datetime.now(UTC) - HOUR / 2).replace(second=0, microsecond=0)


def readings(n_hours: int = N_HOURS, until: datetime | None = None) -> list[Row]:
    """Hourly rows up to a time, by default `newest`; cpu counts up, mem lacks every fifth."""
    end = until or newest()
    return [
        (
            tenant,
            end - hour * HOUR,
            float(i * 1000 + n_hours - hour),
            None if hour % 5 == 0 else 0.5,
        )
        for i, tenant in enumerate(TENANTS)
        for hour in reversed(range(n_hours))
    ]


def plain(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def write_sqlite(
    path: Path, rows: Sequence[Row], form: Callable[[datetime], object] = plain
) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS load (host TEXT, seen, cpu, mem)")
        connection.executemany(
            "INSERT INTO load VALUES (?, ?, ?, ?)",
            [(row[0], form(row[1]), *row[2:]) for row in rows],
        )


def spec(**fields: object) -> SqlFleet:
    base = {"name": "plant", "title": "Plant", "kind": "sql", "database": "plant.db"}
    rows = {"query": QUERY, "tenant_column": "host", "timestamp_column": "seen", "lower": 0}
    times = {"lookback_days": 8, "delay_seconds": 0, "fresh_hours": 0}
    return SqlFleet.model_validate(base | rows | times | fields)


def fetch(fleet: SqlFleet, folder: Path, **options: object) -> Refreshed:
    return refresh(fleet, folder / "raw", fleets_dir=folder, wait=wait_none(), **options)


def opened(fleet: SqlFleet, folder: Path) -> FleetSource:
    return open_fleet(fleet, fleets_dir=folder, raw_dir=folder / "raw")


def fetched(folder: Path, **fields: object) -> FleetSource:
    fetch(spec(**fields), folder)
    return opened(spec(**fields), folder)


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A folder with plant.db, hourly rows of three tenants until now."""
    write_sqlite(tmp_path / "plant.db", readings())
    return tmp_path


def test_the_rows_of_a_query_become_a_fleet(plant: Path) -> None:
    source = fetched(plant)
    assert source.start >= datetime.now(UTC) - timedelta(days=9)
    assert source.start - HOUR < datetime.now(UTC) - timedelta(days=8)
    assert (source.metrics, source.step) == (("cpu", "mem"), HOUR)
    assert source.manifest()["tenant_id"].to_list() == list(TENANTS)
    values = source.values([0, 1, 2])
    expected = np.array([row[2:] for row in readings()], dtype=np.float32)
    expected = expected.reshape(3, N_HOURS, 2)[:, -source.n_steps :].transpose(0, 2, 1)
    np.testing.assert_array_equal(values, expected)
    assert any("no time zone and are taken as UTC" in note for note in source.notes)
    assert source.notes[0].startswith("fetched from plant.db through ")


@pytest.mark.parametrize(
    "form",
    [
        plain,
        lambda at: f"{at:%Y-%m-%dT%H:%M:%S}",
        lambda at: f"{at:%Y-%m-%dT%H:%M:%SZ}",
        lambda at: f"{at:%Y-%m-%d %H:%M:%S.000+00:00}",
        lambda at: f"{at:%Y-%m-%d %H:%M}",
    ],
)
def test_text_in_every_form_of_iso_8601_gives_the_same_fleet_however_often_it_is_fetched(
    tmp_path: Path, form: Callable[[datetime], str]
) -> None:
    rows = readings()
    write_sqlite(tmp_path / "plant.db", rows, form)
    for hours_ago in (30, 7, 6, 1, 0):
        fetch(spec(delay_seconds=hours_ago * 3600), tmp_path)
    source = opened(spec(), tmp_path)
    expected = np.array([row[2] for row in rows], dtype=np.float32).reshape(3, N_HOURS)
    np.testing.assert_array_equal(source.values([0, 1, 2])[:, 0], expected[:, -source.n_steps :])


def test_a_later_fetch_reads_only_what_is_newer_and_changes_nothing_that_was_there(
    plant: Path,
) -> None:
    fetch(spec(delay_seconds=5 * 3600), plant)
    before = opened(spec(), plant)
    values = before.values([0, 1, 2])
    folder = store_of(spec(), plant / "raw")
    files = {path: path.read_bytes() for path in folder.iterdir()}
    with closing(sqlite3.connect(plant / "plant.db")) as connection, connection:
        connection.execute("UPDATE load SET cpu = 77 WHERE seen < ?", [plain(newest() - 6 * HOUR)])
    done = fetch(spec(), plant)
    assert done.n_new_rows == 5 * len(TENANTS)
    after = opened(spec(), plant)
    left = (after.start - before.start) // HOUR  # at midnight the first day leaves the window
    assert after.n_steps == before.n_steps - left + 5
    kept = after.values([0, 1, 2])[:, :, : before.n_steps - left]
    np.testing.assert_array_equal(kept, values[:, :, left:])
    assert {path: path.read_bytes() for path in files} == files
    assert after.fingerprint() != before.fingerprint()
    assert fleet_fingerprint(spec(), fleets_dir=plant, raw_dir=plant / "raw") == after.fingerprint()


def test_a_fetch_that_finds_nothing_new_leaves_the_fleet_as_it_was(plant: Path) -> None:
    now = datetime.now(UTC)
    today = now.hour * 3600 + now.minute * 60 + now.second
    late = today + 60 if today < 700 else 0  # both within one day: at midnight the first day leaves
    fetch(spec(delay_seconds=late + 600), plant)
    before = opened(spec(), plant)
    assert fetch(spec(delay_seconds=late), plant).n_new_rows == 0
    after = opened(spec(), plant)
    assert after.fingerprint() == before.fingerprint()
    assert after.notes[0] > before.notes[0], "it says how far it looked"


def test_one_fetch_and_many_make_the_same_fleet(plant: Path, tmp_path: Path) -> None:
    for hours_ago in (50, 49, 20, 3, 0):
        fetch(spec(delay_seconds=hours_ago * 3600, lookback_days=5), plant)
    many = opened(spec(lookback_days=5), plant).values([0, 1, 2])
    (plant / "raw").rename(plant / "many")
    one = fetched(plant, lookback_days=5)
    np.testing.assert_array_equal(many[:, :, -one.n_steps :], one.values([0, 1, 2]))
    many_days, one_days = (
        {day.day: day.digest for day in stored_days(store_of(spec(), plant / name), 5)}
        for name in ("many", "raw")
    )
    assert many_days == one_days


def test_rows_that_may_still_arrive_are_not_read(plant: Path) -> None:
    source = fetched(plant, delay_seconds=7200)
    end = source.start + (source.n_steps - 1) * source.step
    assert end <= datetime.now(UTC) - 2 * HOUR < end + HOUR


def test_what_is_fresh_is_not_fetched_again_unless_it_must_be(plant: Path) -> None:
    fleet = spec(fresh_hours=6)
    fetch(spec(delay_seconds=3 * 3600), plant)
    said: list[str] = []
    assert fetch(fleet, plant, log=said.append).n_new_rows == 0
    assert "fresh enough" in said[0]
    figures = refresh_fleet(fleet, raw_dir=plant / "raw", fleets_dir=plant, always=True)
    assert figures["n_new_rows"] == 3 * len(TENANTS)


def test_many_days_are_asked_for_at_once_and_lost_ones_again(plant: Path) -> None:
    done = fetch(spec(lookback_days=200), plant)
    assert done.n_requests < 2 + 7 + 200 / DAYS_AT_ONCE
    days = stored_days(store_of(spec(), plant / "raw"), 200)
    assert len(days) == 201
    before = opened(spec(lookback_days=200), plant).values([0, 1, 2])
    for day in (days[-3], days[-6]):
        day.paths[0].write_bytes(b"noise")
    with pytest.raises(FleetDataError, match=rf"{days[-6].paths[0].name} is missing or cannot"):
        opened(spec(lookback_days=200), plant)
    fetch(spec(lookback_days=200), plant)
    after = opened(spec(lookback_days=200), plant)
    np.testing.assert_array_equal(after.values([0, 1, 2]), before)


def test_a_new_query_or_role_continues_no_other_rows(plant: Path) -> None:
    fleets = (
        spec(),
        spec(query=QUERY + " AND cpu > 0"),
        spec(database="other.db"),
        spec(tenant_column="mem"),
    )
    assert len({store_of(fleet, plant) for fleet in fleets}) == 4
    assert store_of(spec(step=60, horizon=4, title="X"), plant) == store_of(spec(), plant)


def test_a_database_without_its_rows_is_told_to_look_back_further(tmp_path: Path) -> None:
    write_sqlite(tmp_path / "plant.db", readings(until=datetime(2024, 5, 1, tzinfo=UTC)))
    with pytest.raises(FleetDataError, match=r"gave no row from .*raise lookback_days"):
        fetched(tmp_path)


def test_nothing_is_read_by_looking(plant: Path) -> None:
    with pytest.raises(FleetDataError, match=r"nothing has been fetched from plant\.db yet"):
        opened(spec(), plant)
    fetch(spec(), plant)
    (plant / "plant.db").unlink()
    assert opened(spec(), plant).n_tenants == 3


def test_the_long_layout_names_its_metrics(tmp_path: Path) -> None:
    write_sqlite(tmp_path / "plant.db", readings())
    query = (
        "SELECT host AS unique_id, seen AS ds, 'cpu' AS metric, cpu AS y FROM load "
        "WHERE seen >= :since AND seen < :until UNION ALL "
        "SELECT host, seen, 'mem', mem FROM load WHERE seen >= :since AND seen < :until"
    )
    fields = {"tenant_column": "unique_id", "timestamp_column": "ds"}
    source = fetched(tmp_path, query=query, layout="long", metric_column="metric", **fields)
    wide = fetched(tmp_path)
    assert source.metrics == ("cpu", "mem")
    np.testing.assert_array_equal(source.values([0, 1, 2]), wide.values([0, 1, 2]))


def test_a_tenants_number_and_its_tier_are_labels(tmp_path: Path) -> None:
    write_sqlite(tmp_path / "plant.db", readings())
    query = QUERY.replace("host,", "unicode(host) AS host, 'premium' AS plan,")
    source = fetched(tmp_path, query=query, tier_column="plan")
    assert source.manifest()["tenant_id"].to_list() == ["97", "98", "99"]
    assert source.manifest()["tier"].unique().to_list() == ["premium"]
    assert source.metrics == ("cpu", "mem")


def test_what_is_reserved_today_is_no_metric_and_can_be_read_as_one(plant: Path) -> None:
    query = QUERY.replace("mem", "mem, 7 AS limit_")
    fleet = spec(query=query, reserved_columns={"cpu": "limit_"})
    fetch(fleet, plant)
    assert opened(fleet, plant).metrics == ("cpu", "mem")
    wider = {"metrics": ("cpu", "mem", "limit_"), "reserved_columns": {}}
    source = opened(fleet.model_copy(update=wider), plant)
    assert (source.values([0])[0, 2] == 7).all()


def test_a_column_of_the_query_marks_known_events(plant: Path) -> None:
    late = newest() - 3 * HOUR
    marks = f"CASE WHEN host = 'b' AND seen >= '{plain(late)}' THEN 'release' END AS event"
    fleet = spec(query=QUERY.replace("mem", f"mem, {marks}", 1), event_column="event")
    fetch(fleet, plant)
    source = opened(fleet, plant)
    assert source.metrics == ("cpu", "mem")
    steps = source.marked_steps()
    assert steps["tenant_number"].to_list() == [1] * 4
    assert steps["step"].to_list() == list(range(source.n_steps - 4, source.n_steps))


def write_duckdb(path: Path, rows: Sequence[Row], time_type: str) -> None:
    frame = pl.DataFrame(rows, schema=["host", "seen", "cpu", "mem"], orient="row")
    with duckdb.connect(str(path)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("frame", frame.to_arrow())
        connection.execute(
            f"CREATE TABLE load AS SELECT host, seen::{time_type} AS seen, cpu::DECIMAL(12, 3) AS cpu, "
            "mem FROM frame"
        )


@pytest.mark.parametrize("time_type", ["TIMESTAMPTZ", "TIMESTAMP"])
def test_a_duckdb_file_is_read_like_an_sqlite_file(plant: Path, time_type: str) -> None:
    write_duckdb(plant / "plant.duckdb", readings(), time_type)
    for hours_ago in (30, 0):
        fetch(spec(database="plant.duckdb", delay_seconds=hours_ago * 3600), plant)
    source = opened(spec(database="plant.duckdb"), plant)
    expected = fetched(plant)
    assert source.metrics == ("cpu", "mem")
    np.testing.assert_array_equal(source.values([0, 1, 2]), expected.values([0, 1, 2]))


@pytest.mark.parametrize("database", ["plant.db", "plant.duckdb"])
@pytest.mark.parametrize(
    "query",
    [
        "WITH old AS (SELECT 1) DELETE FROM load WHERE seen >= :since AND seen < :until",
        "WITH new AS (SELECT * FROM load WHERE seen >= :since AND seen < :until) "
        "INSERT INTO load SELECT * FROM new",
    ],
)
def test_a_query_cannot_change_its_database(plant: Path, database: str, query: str) -> None:
    write_duckdb(plant / "plant.duckdb", readings(), "TIMESTAMPTZ")
    before = (plant / database).read_bytes()
    with pytest.raises(FleetDataError, match=r"(?i)read-?\s?only"):
        fetch(spec(database=database, query=query), plant)
    assert (plant / database).read_bytes() == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"query": QUERY.replace("load", "lode")}, "plant.db: no such table: lode"),
        ({"query": QUERY.replace("cpu,", "cpu cpu cpu,")}, "syntax error"),
        (
            {"tenant_column": "tenant", "metrics": ["disk"]},
            r"no column 'tenant', 'disk' in the result.*host \(String\), seen \(String\).*with AS",
        ),
        ({"query": QUERY.replace("mem", "cpu")}, "column 'cpu' occurs twice.*with AS"),
        ({"query": QUERY.replace("mem", "x'00' AS mem")}, "column 'mem' holds bytes"),
        ({"tenant_column": "cpu"}, r"column 'cpu' is Float64; allowed: text or integers"),
        (
            {"query": QUERY.replace("seen,", "unixepoch(seen) AS seen,")},
            "'seen' is Int64.*datetime",
        ),
        ({"query": QUERY.replace("seen,", "'noon' AS seen,")}, "'seen' holds 'noon'.*ISO 8601"),
        (
            {"query": QUERY.replace("seen,", "NULL AS seen,")},
            "rows without a time in column 'seen'",
        ),
        (
            {"query": QUERY.replace("seen,", "datetime(seen, '+2 hours') AS seen,")},
            "rows outside of the times that were asked for.*compared with the column",
        ),
        (
            {"query": QUERY.replace("seen <", "seen >= '2000' OR seen <")},
            "rows outside of the times",
        ),
        ({"database": "plant.sqlite"}, r"no database at .*plant\.sqlite"),
        ({"database": "notes.txt"}, "neither an SQLite nor a DuckDB database"),
        ({"database": None, "url_from_env": "NO_SUCH_URL"}, "NO_SUCH_URL is not set"),
        ({"database": None, "url_from_env": "ORACLE_URL"}, "holds an address of 'oracle'; allowed"),
    ],
)
def test_what_a_person_must_mend_is_said_at_once(
    plant: Path, fields: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACLE_URL", "oracle://me:hunter2@db/load")
    (plant / "notes.txt").write_text("Buy milk, and a database.")
    with pytest.raises(FleetDataError, match=words) as caught:
        fetch(spec(**fields), plant)
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).startswith("fleet 'plant'")


@pytest.mark.parametrize(
    ("database", "words"),
    [
        (
            "postgresql://me@127.0.0.1:9/plant",
            r"postgresql: its driver is not installed; run: pip install 'tsfm-pipeline\[sql\]'",
        ),
        (
            "mysql://me@127.0.0.1:9/plant",
            r"its reader is not installed; run: python .*INSTALL mysql",
        ),
        ("mysql://me@127.0.0.1:port/plant", "its address cannot be read; allowed: mysql://user@"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql.dbapi", None)
    monkeypatch.setenv("HOME", str(tmp_path))  # where DuckDB looks for its extensions
    with pytest.raises(FleetDataError, match=words):
        fetch(spec(database=database), tmp_path)


def test_words_among_numbers_are_left_to_the_rules_of_tables(plant: Path) -> None:
    with closing(sqlite3.connect(plant / "plant.db")) as connection, connection:
        connection.execute(
            "UPDATE load SET cpu = 'broken' WHERE seen = (SELECT max(seen) FROM load)"
        )
    fetch(spec(metrics=["cpu", "mem"]), plant)
    with pytest.raises(FleetDataError, match=r"'cpu'.*String"):
        opened(spec(metrics=["cpu", "mem"]), plant)


def test_every_tenant_that_breaks_a_rule_is_found(plant: Path) -> None:
    with closing(sqlite3.connect(plant / "plant.db")) as connection, connection:
        connection.execute("UPDATE load SET cpu = -1 WHERE host <> 'b' AND cpu % 7 = 0")
    fetch(spec(), plant)
    checked = check_fleet(spec(), fleets_dir=plant, raw_dir=plant / "raw")
    assert {finding.tenant for finding in checked.findings} == {"a", "c"}
    assert checked.worst == "unusable"


def test_rows_finer_than_the_tenant_are_refused_or_joined(plant: Path) -> None:
    write_sqlite(plant / "plant.db", [(*row[:2], 1.0, row[3]) for row in readings()])
    with pytest.raises(FleetDataError, match="have the tenant and time of another row") as error:
        fetched(plant)
    assert "aggregate: sum" in error.value.remedy
    summed = opened(spec(aggregate="sum"), plant).values([0, 1, 2])
    loads = np.array([row[2] for row in readings()], dtype=np.float32).reshape(3, N_HOURS)
    np.testing.assert_array_equal(summed[:, 0], loads[:, -summed.shape[-1] :] + 1)


def test_a_database_that_is_in_use_is_tried_again_and_then_named(plant: Path) -> None:
    fetch(spec(delay_seconds=2 * 3600), plant)
    with closing(sqlite3.connect(plant / "plant.db", isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            FleetDataError, match=rf"plant\.db: no answer after {ATTEMPTS} attempts: .*locked"
        ):
            fetch(spec(timeout_seconds=0.01), plant)
    assert fetch(spec(), plant).n_new_rows == 2 * len(TENANTS), "goes on where it stopped"


def test_the_address_may_be_in_the_environment(
    plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANT_DATABASE", str(plant / "plant.db"))
    source = fetched(plant, database=None, url_from_env="PLANT_DATABASE")
    assert source.n_tenants == 3
    assert source.notes[0].startswith("fetched from the database of PLANT_DATABASE")
    assert str(plant) not in source.notes[0]
