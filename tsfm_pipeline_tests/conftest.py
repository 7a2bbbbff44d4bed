"""Fixtures that more than one package of tests uses: one miniature fleet, really materialised once and read by all integration tests.

What belongs here: the shared fleet, the frozen model it was made with, and the count of the slow tests that were left out. What does not:
running anything else (`project`).
"""

import fcntl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tsfm_pipeline.workspace import Fleet
from tsfm_pipeline_tests.project import CHECKPOINT, Project

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

MINI = "mini"
N_TENANTS = 32
N_ORIGINS = 3
MINI_SPEC = {
    "kind": "synthetic",
    "tenants": N_TENANTS,
    "days": 14,
    "seed": 7,
    "origins_per_tenant": N_ORIGINS,
    "minimum_per_archetype": 1,
    "nightly": True,
}
FAST = {
    "SHARD_TENANTS": "12",
    "SEARCH__CANDIDATES": '["ctx64", "ctx256", "ctx1024", "ctx1280-r5", "ctx2880-r15", "ctx128-s1x5", "ctx1280-r5-s1x5", "ctx256-log"]',
    "SEARCH__PORTFOLIO_SIZE": "6",
    "EVALUATION__LATENCY_REQUESTS": "20",
    "EVALUATION__LATENCY_SIZES": "[1, 6]",
    "EVALUATION__BOOTSTRAP_DRAWS": "500",
    "EVALUATION__PERMUTATIONS": "200",
}
N_SLOW = pytest.StashKey[int]()
"""How many tests marked `slow` were left out. Every worker collects all tests; the controller none."""


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    slow = [item for item in items if item.get_closest_marker("slow")]
    for item in slow:
        item.config.stash[N_SLOW] = item.config.stash.get(N_SLOW, 0) + 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["n_slow"] = session.config.stash.get(N_SLOW, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[N_SLOW] = getattr(node, "workeroutput", {}).get("n_slow", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if n_slow := config.stash.get(N_SLOW, 0):
        terminalreporter.write_line(f"{n_slow} slow {'test' if n_slow == 1 else 'tests'} not run: make test-slow")


@pytest.fixture(scope="session")
def mini_project(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """The miniature fleet after one real run, as `make fleet` starts it; to be read only. All pytest-xdist workers share it."""
    base = tmp_path_factory.getbasetemp()
    project = Project((base if worker_id == "master" else base.parent) / "mini-project", FAST)
    project.root.mkdir(exist_ok=True)
    log, done = project.root / "run.log", project.root / "done"
    with (project.root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() and not log.exists():
            project.add_fleet(MINI, **MINI_SPEC)
            run = project.run([sys.executable, "-m", "tsfm_pipeline.run", MINI])
            log.write_text(run.stdout)
            if run.returncode == 0:
                done.touch()
    assert done.exists(), f"the run of the miniature fleet failed; the end of {log}:\n{log.read_text()[-6000:]}"
    return project


@pytest.fixture(scope="session")
def mini_fleet(mini_project: Project) -> Fleet:
    return mini_project.fleet(MINI)


@pytest.fixture(scope="session")
def mini_forecaster() -> "FrozenForecaster":
    """The model that the miniature fleet was made with."""
    from tsfm_pipeline.forecaster import load_forecaster

    return load_forecaster(CHECKPOINT, device="cpu")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project for one test."""
    return Project(tmp_path, FAST)
