"""Test docs/your-own-fleet.md by running every command in it, in order, on a table of twenty
tenants and a small server.
"""

import re
import shlex
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import yaml

import tsfm_pipeline.cli.run
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.cli.conftest import telemetry
from tsfm_pipeline_tests.docs.pages import DOCS, blocks, commands
from tsfm_pipeline_tests.fleets.prometheus_server import FakePrometheus, daily, serving
from tsfm_pipeline_tests.project import CHECKPOINT

PAGE = DOCS / "your-own-fleet.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = commands(PAGE)
DESCRIBED = {
    fields["kind"]: fields
    for block in blocks(PAGE, "yaml")
    if "kind" in (fields := yaml.safe_load(block.text))
}
FIELDS = DESCRIBED["prometheus"]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk with shop.csv on it, the folder in which commands run; a run only leaves its
    report.
    """
    desk = Desk(tmp_path / "desk", {"CHECKPOINT": CHECKPOINT})
    desk.table(
        "shop.csv",
        telemetry(20, n_days=21).rename(
            {"tenant_id": "host", "timestamp": "time", "cpu": "cpu_cores", "mem": "mem_gib"}
        ),
    )
    monkeypatch.chdir(desk.tables)

    def leave_a_report(arguments: list[str]) -> int:
        report = desk.data / "reports" / arguments[0] / "report.html"
        report.parent.mkdir(parents=True)
        report.write_text("<html>")
        return 0

    monkeypatch.setattr(tsfm_pipeline.cli.run, "main", leave_a_report)
    return desk


def expected_status(command: str) -> int:
    """A search answers for a fleet that was really run (`test_forecast_command`); here it says that
    it was not.
    """
    return 2 if "--fleet" in command or "--bundle" in command else 0


def write_plant(path: Path) -> None:
    """Readings every 10 minutes of four machines, until now."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE load (host TEXT, ts TEXT, cpu REAL, mem REAL)")
        for host in ("m1", "m2", "m3", "m4"):
            times = [now - step * timedelta(minutes=10) for step in range(40 * 144)]
            rows = [
                (host, f"{at:%Y-%m-%d %H:%M}", daily(host, at.timestamp()), 0.5) for at in times
            ]
            connection.executemany("INSERT INTO load VALUES (?, ?, ?, ?)", rows)


@pytest.mark.heavy
def test_every_command_of_the_page_does_what_it_says(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_AUTHORIZATION", "Bearer secret")
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    series = {
        query: [({"namespace": f"team-{i}"}, partial(daily, f"team-{i}")) for i in range(4)]
        for query in FIELDS["queries"].values()
    }
    with serving(FakePrometheus(series)) as server:
        desk.specs.mkdir(parents=True)
        (desk.specs / "cluster.yaml").write_text(yaml.safe_dump(FIELDS | {"url": server.url}))
        plant = DESCRIBED["sql"] | {"database": "plant.db"}
        del plant["password_env"]  # a file has none
        (desk.specs / "plant.yaml").write_text(yaml.safe_dump(plant))
        write_plant(desk.tables / "plant.db")
        for command in COMMANDS:
            program, *arguments = shlex.split(command)
            assert program == "tsfm-pipeline"
            done = desk.run(*arguments)
            assert done.exit_code == expected_status(command), f"{command}\n{done.output}"
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
    assert len(COMMANDS) == 13
    assert (
        (desk.tables / "next.csv")
        .read_text()
        .startswith("tenant_id,metric,timestamp,tier,decision,q10,")
    )


def test_the_statuses_and_columns_of_the_page_are_those_of_the_program() -> None:
    from tsfm_pipeline.cli.screen import Status

    assert [int(status) for status in Status] == [
        int(found) for found in re.findall(r"^\| (\d) \|", TEXT, re.MULTILINE)
    ]
