"""Test a SQL fleet on a real PostgreSQL server: types and time zones, what is newer, read-only
questions, and errors that keep the password.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tenacity import wait_none

from tsfm_pipeline.fleets import FleetDataError, FleetSource, SqlFleet, open_fleet
from tsfm_pipeline.fleets.fetched_days import Refreshed
from tsfm_pipeline.fleets.sql_store import ATTEMPTS, refresh
from tsfm_pipeline_tests.postgres_server import USER, serving_postgres

pytestmark = pytest.mark.slow
driver = pytest.importorskip(
    "adbc_driver_postgresql.dbapi", reason="not installed: pip install -e '.[sql]'"
)
PASSWORD = "hunter2 & 50%/@?:"
QUERY = "SELECT host, seen, cpu, mem, up FROM load WHERE seen >= :since AND seen < :until"
TENANTS = ("h0", "h1", "h2")
END = (datetime.now(UTC) - timedelta(minutes=30)).replace(second=0, microsecond=0)
"""The time of the last reading."""
Execute = Callable[[str], None]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving_postgres(PASSWORD) as server:
        yield server.port


@pytest.fixture
def execute(port: int, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Run a statement as the superuser; the database holds 20 days of readings every 10 minutes
    until `END`.
    """
    monkeypatch.setenv("PGPASSWORD", PASSWORD)

    def run(statement: str) -> None:
        uri = f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        with driver.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    run("ALTER ROLE dagster SET timezone = 'Asia/Kathmandu'")
    run("DROP TABLE IF EXISTS load")
    run(
        "CREATE TABLE load (host text, seen timestamptz, bare timestamp, cpu numeric, mem real, "
        "up boolean, tags text[])"
    )
    run(
        "INSERT INTO load SELECT 'h' || h, at, at AT TIME ZONE 'UTC', h + i / 8.0, "
        "nullif(i % 7, 0), true, '{}' FROM generate_series(0, 2) h, generate_series(0, 2880) i, "
        f"LATERAL (SELECT '{END}'::timestamptz - i * interval '10 minutes' AS at) moment"
    )
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("LOAD_PASSWORD", PASSWORD)

    def later(statement: str) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PGPASSWORD", PASSWORD)
            run(statement)

    return later


def spec(port: int, **fields: Any) -> SqlFleet:
    base = {"name": "plant", "title": "Plant", "kind": "sql", "password_env": "LOAD_PASSWORD"}
    where = {"database": f"postgresql://{USER}@127.0.0.1:{port}/postgres", "query": QUERY}
    rows = {"tenant_column": "host", "timestamp_column": "seen", "lower": 0}
    times = {"lookback_days": 5, "delay_seconds": 0, "fresh_hours": 0}
    return SqlFleet.model_validate(base | where | rows | times | fields)


def fetch(fleet: SqlFleet, folder: Path) -> Refreshed:
    return refresh(fleet, folder, fleets_dir=folder, wait=wait_none())


def opened(fleet: SqlFleet, folder: Path) -> FleetSource:
    return open_fleet(fleet, fleets_dir=folder, raw_dir=folder)


@pytest.mark.parametrize("column", ["seen", "bare"])
def test_the_rows_become_a_fleet_in_utc_whatever_the_servers_zone(
    port: int, execute: Execute, tmp_path: Path, column: str
) -> None:
    query = QUERY.replace("seen", column)
    for hours_ago in (29, 1, 0):
        fleet = spec(port, query=query, timestamp_column=column, delay_seconds=hours_ago * 3600)
        fetch(fleet, tmp_path)
    source = opened(fleet, tmp_path)
    assert source.start + (source.n_steps - 1) * source.step == END
    assert source.step == timedelta(minutes=10)
    assert source.metrics == ("cpu", "mem")
    assert source.manifest()["tenant_id"].to_list() == list(TENANTS)
    ago = np.arange(source.n_steps)[::-1]
    values = source.values([0, 1, 2])
    for number in range(3):
        np.testing.assert_allclose(values[number, 0], number + ago / 8.0, rtol=1e-6)
        mem = np.where(ago % 7 == 0, np.nan, ago % 7)
        np.testing.assert_array_equal(values[number, 1], mem.astype(np.float32))
    assert [left.column for left in source.columns_left_out] == ["up"]
    assert any("taken as UTC" in note for note in source.notes) == (column == "bare")


def test_a_later_fetch_reads_only_what_is_newer(
    port: int, execute: Execute, tmp_path: Path
) -> None:
    fetch(spec(port, delay_seconds=5 * 3600), tmp_path)
    before = opened(spec(port), tmp_path)
    values = before.values([0, 1, 2])
    execute("UPDATE load SET cpu = 77")
    done = fetch(spec(port), tmp_path)
    assert done.n_requests == 2, "the time, and one question"
    after = opened(spec(port), tmp_path)
    assert after.start + (after.n_steps - 1) * after.step == END
    n_new = after.n_steps - before.n_steps
    assert n_new > 0
    assert done.n_new_rows == n_new * 3
    np.testing.assert_array_equal(after.values([0, 1, 2])[:, :, : before.n_steps], values)
    assert (after.values([0, 1, 2])[:, 0, before.n_steps :] == 77).all()


def test_a_query_cannot_change_its_database(port: int, execute: Execute, tmp_path: Path) -> None:
    query = (
        "WITH gone AS (DELETE FROM load WHERE seen >= :since AND seen < :until RETURNING *) "
        "SELECT * FROM gone"
    )
    with pytest.raises(FleetDataError, match="read-only transaction"):
        fetch(spec(port, query=query), tmp_path)
    unlocked = QUERY + " AND set_config('transaction_read_only', 'off', true) = 'off'"
    with pytest.raises(FleetDataError, match="read-write mode"):
        fetch(spec(port, query=unlocked), tmp_path)
    assert fetch(spec(port), tmp_path).n_new_rows > 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"query": QUERY.replace("load", "lode")}, 'relation "lode" does not exist'),
        ({"query": QUERY.replace("up", "tags")}, "column 'tags' is of type list.*Convert it"),
        (
            {"query": QUERY + " AND pg_sleep(9) IS NOT NULL", "timeout_seconds": 0.2},
            "statement timeout.*raise timeout_seconds",
        ),
        ({"query": QUERY.replace("seen >=", "host >=")}, "operator does not exist: text >= time"),
    ],
)
def test_what_a_person_must_mend_is_said_at_once(
    port: int, execute: Execute, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(FleetDataError, match=words) as caught:
        fetch(spec(port, **fields), tmp_path)
    assert "no answer after" not in str(caught.value)
    assert f"fleet 'plant', postgresql://127.0.0.1:{port}/postgres: " in str(caught.value)


def test_the_whole_address_may_be_in_the_environment(
    port: int, execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.parse import quote

    secret = quote(PASSWORD, safe="")
    address = f"postgresql+psycopg2://{USER}:{secret}@127.0.0.1:{port}/postgres"
    monkeypatch.setenv("LOAD_URL", address)
    fleet = spec(port, database=None, password_env=None, url_from_env="LOAD_URL")
    fetch(fleet, tmp_path)
    assert opened(fleet, tmp_path).n_tenants == 3
    assert opened(fleet, tmp_path).notes[0].startswith("fetched from the database of LOAD_URL")


def test_no_message_shows_the_password(
    port: int, execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "wrong%zz"
    monkeypatch.setenv("LOAD_PASSWORD", wrong)
    with pytest.raises(FleetDataError, match="password authentication failed") as refused:
        fetch(spec(port), tmp_path)
    assert "no answer after" not in str(refused.value), "another attempt would not help"
    monkeypatch.setenv("LOAD_URL", f"postgresql://{USER}:{wrong}@127.0.0.1:{port}/postgres")
    with pytest.raises(FleetDataError, match="invalid percent-encoded token") as unreadable:
        fetch(spec(port, database=None, password_env=None, url_from_env="LOAD_URL"), tmp_path)
    monkeypatch.setenv("LOAD_PASSWORD", "")
    with pytest.raises(FleetDataError, match="LOAD_PASSWORD is not set"):
        fetch(spec(port), tmp_path)
    for caught in (refused, unreadable):
        assert wrong not in str(caught.value)


def test_a_server_that_is_away_is_named_and_what_was_fetched_is_kept(
    port: int, execute: Execute, tmp_path: Path
) -> None:
    fetch(spec(port), tmp_path)
    values = opened(spec(port), tmp_path).values([0])
    away = spec(port, database=f"postgresql://{USER}@127.0.0.1:9/postgres")
    with pytest.raises(
        FleetDataError,
        match=rf"postgresql://127\.0\.0\.1:9/postgres: no answer after {ATTEMPTS} attempts",
    ):
        fetch(away, tmp_path)
    np.testing.assert_array_equal(opened(spec(port), tmp_path).values([0]), values)


def test_a_connection_that_breaks_is_tried_again_and_then_named(
    port: int, execute: Execute, tmp_path: Path
) -> None:
    breaking = QUERY + " AND pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(FleetDataError, match=rf"no answer after {ATTEMPTS} attempts: .*terminat"):
        fetch(spec(port, query=breaking), tmp_path)
