"""Test how `tsfm-pipeline run` waits for the run that it has started: exit status, errors, log and
signals. A small program stands in for Dagster.
"""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tsfm_pipeline.cli.materialise import materialise_command
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.project import TIMEOUT_S

FAILS = """
append_event(events, Event("run", 1, n_total=2))
append_event(events, Event("start", 2, "tenant_telemetry", text="What did every tenant use?"))
append_event(events, Event("failure", 3, "tenant_telemetry", text="the table is empty"))
print("a line of Dagster's log", flush=True)
raise SystemExit(7)
"""
FAILS_EARLY = """
print("Traceback", "ImportError: no module", sep=chr(10), flush=True)
raise SystemExit(1)
"""
WAITS = """
import os, signal, time
print("group", os.getpgrp(), flush=True)
def end(number, frame):
    print("ended by", signal.Signals(number).name, flush=True)
    raise SystemExit(9)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
append_event(events, Event("run", 1, n_total=2))
append_event(events, Event("start", 2, "tenant_telemetry", text="What did every tenant use?"))
time.sleep(600)
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "desk", {})
    desk.run("fleet", "init", desk.table())
    return desk


def stand_in(desk: Desk, body: str) -> Path:
    """A program that is started in place of Python, to do `body` as Dagster would its work."""
    path = desk.root / "dagster"
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tsfm_pipeline.progress import Event, append_event\n"
        "config = json.loads(sys.argv[sys.argv.index('--config-json') + 1])\n"
        "events = Path(config['loggers']['progress']['config']['path'])\n" + body
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def logs(desk: Desk) -> list[Path]:
    return sorted((desk.data / "logs" / "shop").glob("*.log"))


def test_the_command_is_the_one_that_a_person_would_type(tmp_path: Path) -> None:
    program, *arguments = materialise_command("shop", ["one", "two"])
    assert program == sys.executable
    assert arguments == [
        *("-m", "dagster", "asset", "materialize", "-m", "tsfm_pipeline.definitions"),
        *("--select", "one,two", "--partition", "shop"),
    ]
    *same, option, config = materialise_command("shop", progress=tmp_path / "events")
    assert (option, same[-4:]) == ("--config-json", ["--select", "*", "--partition", "shop"])
    assert json.loads(config)["loggers"]["progress"]["config"]["path"] == str(tmp_path / "events")


def test_a_failed_run_says_where_and_why_and_names_the_log(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    monkeypatch.setattr(sys, "executable", str(stand_in(desk, FAILS)))
    done = desk.run("run", "shop")
    assert done.exit_code == 7
    (log,) = logs(desk)
    assert "step 1 of 2: tenant_telemetry: What did every tenant use?" in done.output
    assert "shop: failed at tenant_telemetry after 0 s: the table is empty" in done.output
    assert f"Finished shards are kept: run the command again. Dagster's log: {log}" in done.output
    assert log.read_text() == "a line of Dagster's log\n"
    assert "a line of Dagster's log" not in done.output


def test_a_run_that_fails_before_any_step_shows_the_end_of_its_log(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    monkeypatch.setattr(sys, "executable", str(stand_in(desk, FAILS_EARLY)))
    done = desk.run("run", "shop")
    assert done.exit_code == 1
    assert "shop: failed after 0 s: ImportError: no module" in done.output


def started(desk: Desk) -> subprocess.Popen[str]:
    """Start the command on a stand-in that waits, and return once its first step is shown."""
    program = stand_in(desk, WAITS)
    command = (
        "import sys; from tsfm_pipeline.cli.app import app; "
        f"sys.executable = {str(program)!r}; app(['run', 'shop'])"
    )
    variables = {**os.environ, **desk.variables, "PYTHONPATH": str(PROJECT_ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-c", command],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    assert "tenant_telemetry" in run.stdout.readline()
    return run


def rest_of(run: subprocess.Popen[str]) -> str:
    output, _ = run.communicate(timeout=TIMEOUT_S)
    return output


@pytest.mark.heavy
def test_sigterm_is_passed_on_and_the_status_is_the_runs(desk: Desk) -> None:
    run = started(desk)
    run.send_signal(signal.SIGTERM)
    output = rest_of(run)
    assert run.returncode == 9
    assert "shop: failed after" in output
    assert logs(desk)[0].read_text().endswith("ended by SIGTERM\n")


@pytest.mark.heavy
def test_an_interrupt_reaches_the_whole_group_and_the_command_waits_for_the_run(
    desk: Desk,
) -> None:
    run = started(desk)
    os.killpg(run.pid, signal.SIGINT)
    output = rest_of(run)
    assert run.returncode == 130
    assert "shop: interrupted. Finished shards are kept: run the command again." in output
    assert str(logs(desk)[0]) in output
    assert logs(desk)[0].read_text().endswith("ended by SIGINT\n")


@pytest.mark.heavy
def test_the_run_stays_in_the_group_so_that_the_death_of_the_group_is_its_own(desk: Desk) -> None:
    run = started(desk)
    os.killpg(run.pid, signal.SIGKILL)
    rest_of(run)
    assert logs(desk)[0].read_text() == f"group {run.pid}\n"
