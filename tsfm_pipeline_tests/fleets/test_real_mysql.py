"""Test a SQL fleet on a real MariaDB server, read by DuckDB's extension for MySQL: types and time
zones, what is newer, and queries that would write.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from tenacity import wait_none

from tsfm_pipeline.fleets import FleetDataError, FleetSource, SqlFleet, open_fleet
from tsfm_pipeline.fleets.fetched_days import Refreshed
from tsfm_pipeline.fleets.sql_store import ATTEMPTS, refresh

pytestmark = pytest.mark.slow
PATIENCE_S = 90
END = (datetime.now(UTC) - timedelta(minutes=30)).replace(second=0, microsecond=0)
"""The time of the last reading."""
QUERY = "SELECT host, seen, cpu, n FROM load_ WHERE seen >= :since AND seen < :until"
Execute = Callable[[str], None]


@pytest.fixture(scope="module")
def execute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Execute]:
    """Run a statement on a server of its own; `execute.port` is its port. Its sessions are in a
    zone of their own, and its table holds readings every 10 minutes until `END`.
    """
    if shutil.which("mariadbd") is None:
        pytest.skip("no mariadbd on the PATH: apt-get install mariadb-server")
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    try:
        connection.execute("LOAD mysql")
    except duckdb.IOException:
        pytest.skip("DuckDB's reader of MySQL is not installed: INSTALL mysql")
    data = tmp_path_factory.mktemp("mariadb")
    (data / "plant").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--datadir={data}", f"--socket={data}/socket", f"--port={port}", "--user=root"]
    options += ["--bind-address=127.0.0.1", "--skip-grant-tables", "--default-time-zone=+05:45"]
    server = subprocess.Popen(["mariadbd", "--no-defaults", *options], stderr=subprocess.DEVNULL)
    where = f"host=127.0.0.1 port={port} user=root database=plant"
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            connection.execute(f"ATTACH '{where}' AS plant (TYPE mysql)")
            break
        except duckdb.IOException:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def run(statement: str) -> None:
        connection.execute("CALL mysql_execute('plant', ?)", [statement])

    run.port = port  # type: ignore[attr-defined]
    run(
        "CREATE TABLE load_ (host varchar(9), seen timestamp NULL, bare datetime, "
        "cpu decimal(9, 3), n tinyint(1), name varchar(9))"
    )
    run(
        f"INSERT INTO load_ SELECT concat('h', h.seq), from_unixtime({END.timestamp():.0f} - "
        f"600 * i.seq), '{END:%Y-%m-%d %H:%M:%S}' - INTERVAL i.seq * 10 MINUTE, h.seq + i.seq / 8, "
        "i.seq % 7, 'x' FROM seq_0_to_2 h, seq_0_to_2880 i"
    )
    yield run
    connection.close()
    server.terminate()
    server.wait(timeout=PATIENCE_S)


def spec(execute: Any, **fields: Any) -> SqlFleet:
    base = {"name": "plant", "title": "Plant", "kind": "sql", "query": QUERY}
    where = {"database": f"mysql://root@127.0.0.1:{execute.port}/plant"}
    rows = {"tenant_column": "host", "timestamp_column": "seen", "lower": 0}
    times = {"lookback_days": 5, "delay_seconds": 0, "fresh_hours": 0}
    return SqlFleet.model_validate(base | where | rows | times | fields)


def fetch(fleet: SqlFleet, folder: Path) -> Refreshed:
    return refresh(fleet, folder, fleets_dir=folder, wait=wait_none())


def opened(fleet: SqlFleet, folder: Path) -> FleetSource:
    return open_fleet(fleet, fleets_dir=folder, raw_dir=folder)


@pytest.mark.parametrize("column", ["seen", "bare"])
def test_the_rows_become_a_fleet_in_utc_whatever_the_servers_zone(
    execute: Execute, tmp_path: Path, column: str
) -> None:
    fields = {"query": QUERY.replace("seen", column), "timestamp_column": column}
    for hours_ago in (29, 1, 0):
        done = fetch(spec(execute, **fields, delay_seconds=hours_ago * 3600), tmp_path)
    assert done.n_new_rows > 0
    source = opened(spec(execute, **fields), tmp_path)
    assert source.start + (source.n_steps - 1) * source.step == END
    assert (source.step, source.metrics) == (timedelta(minutes=10), ("cpu", "n"))
    ago = np.arange(source.n_steps)[::-1]
    values = source.values([0, 1, 2])
    for number in range(3):
        np.testing.assert_allclose(values[number, 0], number + ago / 8.0, rtol=1e-6)
        np.testing.assert_array_equal(values[number, 1], ago % 7)
    assert any("taken as UTC" in note for note in source.notes)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (QUERY.replace("load_", "lode"), "lode' doesn't exist"),
        (
            "WITH old AS (SELECT 1) DELETE FROM load_ WHERE seen >= :since AND seen < :until",
            "error in your SQL syntax",
        ),
    ],
)
def test_a_query_that_gives_no_rows_is_refused(
    execute: Execute, tmp_path: Path, query: str, words: str
) -> None:
    with pytest.raises(FleetDataError, match=words) as caught:
        fetch(spec(execute, query=query), tmp_path)
    assert "no answer after" not in str(caught.value)
    assert fetch(spec(execute), tmp_path).n_new_rows > 0


def test_a_server_that_is_away_is_named_without_its_password(
    execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANT_PASSWORD", "hunter'2")
    away = {"database": "mysql://root@127.0.0.1:9/plant", "password_env": "PLANT_PASSWORD"}
    with pytest.raises(
        FleetDataError,
        match=rf"mysql://127\.0\.0\.1:9/plant: no answer after {ATTEMPTS} attempts",
    ) as caught:
        fetch(spec(execute, **away), tmp_path)
    assert "hunter" not in str(caught.value)
