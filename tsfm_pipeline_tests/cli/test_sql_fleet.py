"""Test a SQL fleet through the assets: every run of its telemetry reads the new rows, and a
database that is away leaves the tables as they are.
"""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline_tests.cli.conftest import FIRST_TABLES
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.fleets.prometheus_server import daily
from tsfm_pipeline_tests.project import Project

pytestmark = pytest.mark.run
FLEET = "plant"
TENANTS = tuple(f"machine-{i}" for i in range(4))


def write(database: Path, first: datetime, last: datetime) -> None:
    """Append hourly rows of every tenant, from `first` to `last`."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS load (host TEXT, ts TEXT, cpu REAL)")
        hours = range((last - first) // timedelta(hours=1) + 1)
        times = [first + hour * timedelta(hours=1) for hour in hours]
        connection.executemany(
            "INSERT INTO load VALUES (?, ?, ?)",
            [
                (host, at.isoformat(), daily(host, at.timestamp()))
                for host in TENANTS
                for at in times
            ],
        )


@pytest.mark.slow
def test_a_run_reads_new_rows_and_without_its_database_keeps_its_tables(tmp_path: Path) -> None:
    project = Project(tmp_path, FAST)
    database = tmp_path / "plant.db"
    # Half an hour ago, so that no step of the test comes near to a reading.
    newest = (datetime.now(UTC) - timedelta(minutes=30)).replace(second=0, microsecond=0)
    write(database, newest - timedelta(days=9), newest)
    fields = {
        "kind": "sql",
        "database": str(database),
        "query": "SELECT host, ts, cpu FROM load WHERE ts >= :since AND ts < :until",
        "tenant_column": "host",
        "timestamp_column": "ts",
    }
    limits = {"horizon": 4, "origins_per_tenant": 3, "max_gap": 2, "lower": 0, "fresh_hours": 0}
    project.add_fleet(FLEET, **fields, **limits, delay_seconds=9 * 3600)
    run = project.materialise(FLEET, FIRST_TABLES)
    assert run.returncode == 0, run.stdout[-6000:]
    n_steps = project.fleet(FLEET).grid.n_steps

    database.rename(tmp_path / "away.db")
    away = project.materialise(FLEET, ["tenant_telemetry"])
    assert away.returncode != 0
    assert f"no database at {database}" in " ".join(away.stdout.split())
    assert telemetry_is_right(project, n_steps)

    (tmp_path / "away.db").rename(database)
    project.add_fleet(FLEET, **fields, **limits, delay_seconds=0)
    again = project.materialise(FLEET, ["tenant_telemetry"])
    assert again.returncode == 0, again.stdout[-6000:]
    assert telemetry_is_right(project, n_steps + 9)


def telemetry_is_right(project: Project, n_steps: int) -> bool:
    fleet = project.fleet(FLEET)
    times = [fleet.grid.time_of(step).timestamp() for step in range(n_steps)]
    expected = [daily(TENANTS[2], time) for time in times]
    values = fleet.arrays.values([0, 1, 2, 3])[2, 0]
    return fleet.grid.n_steps == n_steps and np.allclose(values, expected, rtol=1e-6)
