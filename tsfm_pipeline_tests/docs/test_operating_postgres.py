"""Test what docs/operating.md says about Dagster on Postgres, on a real server: its configuration is
read from the page.

What belongs here: one job in this process, and (slow) web server, daemon and two code locations
through a killed daemon and an outage of the server. What does not: the rest of the page
(`test_operating`), and Postgres as a source of telemetry (`fleets`).
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS as FLEET_SCOPE
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.files import sha256_of
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.steps.bundle import publish_bundle
from tsfm_pipeline.steps.makers import MAKERS
from tsfm_pipeline.steps.making import make
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.docs.pages import DOCS, blocks, commands
from tsfm_pipeline_tests.postgres_server import PostgresServer, free_port, serving_postgres
from tsfm_pipeline_tests.project import Project, environment
from tsfm_pipeline_tests.spoken_run import spoken_run

PAGE = DOCS / "operating.md"
BIN = Path(sys.executable).parent
FLEETS = ("m1", "m2")
OUTAGE_S = 30
PATIENCE_S = 300
TO_THE_END_S = 2400
"""For two runs of some sixty steps each, on a machine that does other work too."""
SMALL = FAST | {
    "SEARCH__CANDIDATES": '["ctx64", "ctx96"]',
    "SEARCH__PORTFOLIO_SIZE": "2",
    "EVALUATION__LATENCY_SIZES": "[1]",
}


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        yield server


def _project(root: Path, **options: str) -> Project:
    """A project with two small fleets."""
    project = Project(root, SMALL | options)
    for seed, fleet in enumerate(FLEETS):
        project.add_fleet(
            fleet, kind="synthetic", tenants=6, days=4, seed=seed, origins_per_tenant=2
        )
    return project


@pytest.fixture
def on_postgres(tmp_path: Path, server: PostgresServer) -> dict[str, str]:
    """The variables of a process with the page's dagster.yaml and two small fleets."""
    project = _project(tmp_path)
    (shown,) = [block for block in blocks(PAGE, "yaml") if block.title == "dagster.yaml"]
    present = (PROJECT_ROOT / "dagster.yaml").read_text()
    (tmp_path / "dagster_home" / "dagster.yaml").write_text(shown.text + present)
    return project.environment | {
        "DAGSTER_POSTGRES_URL": server.url,
        "DAGSTER_COMPUTE_LOGS": str(tmp_path / "shared-logs"),
    }


def _instance(variables: dict[str, str]) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(variables["DAGSTER_HOME"])


@pytest.mark.heavy
def test_a_run_its_events_and_its_logs_lie_where_the_page_says(
    on_postgres: dict[str, str], server: PostgresServer
) -> None:
    with environment(on_postgres), _instance(on_postgres) as instance:
        run_id = spoken_run(instance)
    # Another process of Dagster, perhaps on another machine, that knows this file only.
    with environment(on_postgres), _instance(on_postgres) as instance:
        assert [run.run_id for run in instance.get_runs()] == [run_id]
        assert any(
            entry.step_key == "speak" and entry.dagster_event.is_step_success
            for entry in instance.all_logs(run_id)
            if entry.dagster_event
        )
        (captured,) = [
            entry.dagster_event.logs_captured_data.file_key
            for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED)
            if entry.dagster_event
        ]
        logged = instance.compute_log_manager.get_log_data([run_id, "compute_logs", captured])
        server.stop()
        time.sleep(1)
        server.start()
        assert instance.has_run(run_id), "an instance that was open before the outage goes on"
    assert logged.stdout == b"heard in the log\n"
    assert [path.name for path in Path(on_postgres["DAGSTER_HOME"]).iterdir()] == ["dagster.yaml"]


def test_the_pages_logs_in_s3_are_those_of_the_values_for_kubernetes() -> None:
    (shown,) = [block for block in blocks(PAGE, "yaml") if block.title == "compute_logs in S3"]
    stated = yaml.safe_load(shown.text)["compute_logs"]
    values = yaml.safe_load(
        (PROJECT_ROOT / "deploy" / "kubernetes" / "dagster-values.yaml").read_text()
    )["computeLogManager"]
    assert stated["class"] == values["type"]
    assert stated["config"].items() <= values["config"]["s3ComputeLogManager"].items()


class Services:
    """Processes of Dagster, each the leader of a process group, with one log for each."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables
        self.root = Path(variables["DAGSTER_HOME"]).parent
        self.groups: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [str(BIN / arguments[0]), *arguments[1:]],
                env=self.variables,
                cwd=self.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.groups.append(process)
        return process

    def daemon(self, name: str) -> subprocess.Popen[bytes]:
        return self.start(name, "dagster-daemon", "run", "-w", "workspace.yaml")

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()


@pytest.fixture
def services(on_postgres: dict[str, str]) -> Iterator[Services]:
    started = Services(on_postgres)
    workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())
    two = {"load_from": workspace["load_from"][:2]}
    (started.root / "workspace.yaml").write_text(yaml.safe_dump(two))
    yield started
    for process in started.groups:
        # With the code servers and the runs that a killed daemon left; they may have ended.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)


def _wait(until: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not until():
        assert time.monotonic() < deadline, f"waited {patience_s} s: {what}"
        time.sleep(1)


def _digests(settings: Settings, name: str) -> dict[str, str]:
    """The SHA-256 of every part that the tables of a fleet have, by table and name."""
    tables = open_workspace_fleet(settings, name).tables
    return {
        f"{table}/{part.name}": sha256_of(tables.path / table / part.name)
        for table in TABLES
        for part in tables.parts(table)
    }


def _made_alone(settings: Settings, name: str) -> None:
    """Make the tables of a fleet in this process: no Dagster, no Postgres, no fault."""
    for table, record in TABLES.items():
        fleet = open_workspace_fleet(settings, name)
        make(FLEET_SCOPE, fleet, record, MAKERS[table], settings)
        if table == "search_bundle":
            publish_bundle(fleet)


@pytest.mark.slow
def test_two_fleets_run_through_a_killed_daemon_and_an_outage_of_the_server(
    on_postgres: dict[str, str], server: PostgresServer, services: Services
) -> None:
    services.start(
        "web",
        "dagster-webserver",
        "-w",
        "workspace.yaml",
        "-h",
        "127.0.0.1",
        "-p",
        str(free_port()),
    )
    first = services.daemon("first")
    (backfill,) = [command for command in commands(PAGE) if "job backfill" in command]
    program, *arguments = shlex.split(backfill)
    asked = subprocess.run(
        [str(BIN / program), *arguments],
        env=on_postgres,
        cwd=services.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr[-2000:]
    with environment(on_postgres), _instance(on_postgres) as instance:

        def states() -> dict[str, str]:
            return {run.tags["fleet"]: run.status.value for run in instance.get_runs()}

        def steps() -> dict[str, int]:
            """Steps that have succeeded, by fleet."""
            succeeded = dg.DagsterEventType.STEP_SUCCESS
            return {
                run.tags["fleet"]: len(instance.all_logs(run.run_id, of_type=succeeded))
                for run in instance.get_runs()
            }

        def daemons() -> set[str]:
            """The daemons that have sent the last heartbeats."""
            beats = instance.get_daemon_heartbeats().values()
            return {beat.daemon_id for beat in beats if beat.daemon_id}

        _wait(lambda: states() == dict.fromkeys(FLEETS, "STARTED"), "both fleets at once")
        killed = daemons()
        first.kill()
        first.wait(timeout=60)
        services.daemon("second")
        before = steps()
        _wait(lambda: not killed & daemons(), "a new daemon takes over")
        assert set(states().values()) == {"STARTED"}
        third = services.daemon("third")
        # Whichever of the two finds the other's heartbeat after its own writes it.
        warning = "daemon is still sending heartbeats"
        _wait(lambda: warning in services.log("second") + services.log("third"), "a warning")
        assert third.poll() is None, "a second daemon is not refused"
        os.killpg(third.pid, signal.SIGKILL)
        _wait(lambda: all(steps()[fleet] > before[fleet] for fleet in FLEETS), "runs go on")

        server.stop()
        time.sleep(OUTAGE_S)
        server.start()
        before, back = steps(), time.time()
        _wait(lambda: all(steps()[fleet] > before[fleet] for fleet in FLEETS), "runs go on")
        assert set(states().values()) == {"STARTED"}
        _wait(
            lambda: all(
                beat.timestamp > back for beat in instance.get_daemon_heartbeats().values()
            ),
            "heartbeats after the outage",
        )
        ended = {"SUCCESS", "FAILURE", "CANCELED"}
        _wait(lambda: set(states().values()) <= ended, "the runs end", TO_THE_END_S)
        assert states() == dict.fromkeys(FLEETS, "SUCCESS")
    written = list((services.root / "shared-logs").rglob("*.err"))
    assert len(written) >= sum(before.values())
    assert [path.name for path in Path(on_postgres["DAGSTER_HOME"]).iterdir()] == ["dagster.yaml"]
    through_all_faults = Project(services.root, SMALL | {"PROFILE": "cheap"}).settings
    alone = _project(services.root / "alone", PROFILE="cheap").settings
    for fleet in FLEETS:
        _made_alone(alone, fleet)
        made = _digests(through_all_faults, fleet)
        assert made == _digests(alone, fleet)
        assert {name.partition("/")[0] for name in made} == set(TABLES)
