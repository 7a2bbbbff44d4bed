"""Test a run that is killed in the middle of the grid and started again: it never leaves half a
table, never hangs, and ends with the same bytes.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tsfm_pipeline.lock import FleetLockedError
from tsfm_pipeline_tests.cli.conftest import FIRST_TABLES, add_table_fleet, telemetry
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.project import TIMEOUT_S, Project

pytestmark = pytest.mark.run
HOLDING = Path(__file__).parents[1] / "faults" / "holding"
N_TENANTS = 24
GRID = "forecast_grid"
FLEET = "hosts"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run that nobody interrupted: one tenant per shard, so that there are many to be caught
    between.
    """
    candidates = '["ctx64", "ctx256", "ctx1024", "ctx1280-r5"]'
    project = Project(
        tmp_path_factory.mktemp("finished"),
        {"SHARD_TENANTS": "1", "SEARCH__CANDIDATES": candidates},
    )
    add_table_fleet(project, FLEET, telemetry(N_TENANTS, n_days=14), origins_per_tenant=8)
    run = project.materialise(FLEET, [*FIRST_TABLES, "request_targets", "config_portfolio", GRID])
    assert run.returncode == 0, run.stdout[-6000:]
    return project


@pytest.fixture
def interrupted(finished: Project, tmp_path: Path) -> Project:
    """The same project before its grid."""
    project = finished.copy_to(tmp_path / "project")
    shutil.rmtree(project.table_dir(FLEET, GRID))
    return project


def kill_in_the_middle(project: Project, kill: Callable[[int], None]) -> None:
    """Start the grid, wait until it waits with its third shard, and kill; what is left waits for
    `let_go`.
    """
    held = project.root / "held"
    hold = {
        "HOLD_PREFIX": f"{project.table_dir(FLEET, GRID)}/part-",
        "HOLD_NUMBER": "3",
        "HELD": str(held),
        "LET_GO": str(let_go(project)),
    }
    path = os.pathsep.join([str(HOLDING), project.environment["PYTHONPATH"]])
    process = project.start(FLEET, [GRID], hold | {"PYTHONPATH": path})
    deadline = time.monotonic() + TIMEOUT_S
    while not held.exists():
        assert process.poll() is None, (
            "the run ended before it was killed:\n"
            + (project.root / "killed.log").read_text()[-6000:]
        )
        assert time.monotonic() < deadline, "no third shard"
        time.sleep(0.01)
    kill(process.pid)
    process.wait(timeout=TIMEOUT_S)


def let_go(project: Project) -> Path:
    """The file that a process which waits in the middle of the grid waits for."""
    return project.root / "let go"


def wait_until_released(project: Project) -> None:
    """Wait for whatever outlived its run to let go of the fleet."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        with (
            contextlib.suppress(FleetLockedError),
            project.fleet(FLEET).tables.lock("a test that waits"),
        ):
            return
        assert time.monotonic() < deadline, "the fleet is still held"
        time.sleep(0.1)


def assert_finishes_with_the_same_tables(project: Project, finished: Project) -> None:
    """Run again: the shards that were there stay as they are, and the whole is what it would have
    been.
    """
    before = {
        part: (part.stat().st_mtime_ns, part.stat().st_ino) for part in project.parts(FLEET, GRID)
    }
    run = project.materialise(FLEET, [GRID])
    assert run.returncode == 0, run.stdout[-6000:]
    assert f"{len(before)} of {N_TENANTS} shards were already there and are kept" in run.stdout
    assert {part: (part.stat().st_mtime_ns, part.stat().st_ino) for part in before} == before
    assert project.digests(FLEET) == finished.digests(FLEET)
    assert [
        path.name for path in project.table_dir(FLEET, GRID).iterdir() if path.name.endswith(".tmp")
    ] == []


@pytest.mark.slow
def test_after_the_death_of_the_whole_process_group_the_next_run_resumes(
    interrupted: Project, finished: Project
) -> None:
    kill_in_the_middle(interrupted, lambda pid: os.killpg(pid, signal.SIGKILL))
    assert len(interrupted.parts(FLEET, GRID)) == 2
    assert not (interrupted.table_dir(FLEET, GRID) / "_table.json").exists()
    assert_finishes_with_the_same_tables(interrupted, finished)


@pytest.mark.slow
def test_after_the_death_of_the_parent_the_next_run_names_the_orphan_or_resumes(
    interrupted: Project, finished: Project
) -> None:
    kill_in_the_middle(interrupted, lambda pid: os.kill(pid, signal.SIGKILL))
    second = interrupted.materialise(FLEET, [GRID])
    assert second.returncode != 0
    assert f"fleet '{FLEET}' is being written by process" in second.stdout
    assert "wait for it, or end that process, then start again" in second.stdout
    assert "STEP_UP_FOR_RETRY" not in second.stdout
    let_go(interrupted).touch()
    wait_until_released(interrupted)
    assert_finishes_with_the_same_tables(interrupted, finished)


def test_a_second_run_on_a_held_fleet_fails_at_once_and_names_the_holder(
    mini_project: Project, tmp_path: Path
) -> None:
    held = mini_project.copy_to(tmp_path / "held")
    before = held.digests(MINI)
    assert before
    with held.fleet(MINI).tables.lock("a run that takes long"):
        run = held.materialise(MINI, [GRID])
    assert run.returncode != 0
    assert (
        f"fleet '{MINI}' is being written by process {os.getpid()} of run a run that takes long "
        "since" in " ".join(run.stdout.split())
    )
    assert "STEP_UP_FOR_RETRY" not in run.stdout
    assert held.digests(MINI) == before
