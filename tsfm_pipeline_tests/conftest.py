"""Provide fixtures for several packages of tests: one miniature fleet that is materialised once and
read by all integration tests.

What belongs here: the shared fleet, the frozen model it was made with, and what holds for every
test (marks, deadlines). What does not: running anything else (`project`).
"""

import fcntl
import importlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests import project as projects
from tsfm_pipeline_tests.packages import Site, installed_in
from tsfm_pipeline_tests.project import CHECKPOINT, Project

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

# Tables and digests of the tests must not depend on which product this machine measures as fastest.
os.environ.setdefault("TSFM_MATRIX_PRODUCT", "loops")

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
    "SEARCH__CANDIDATES": '["ctx64", "ctx256", "ctx1024", "ctx1280-r5", "ctx2880-r15", '
    '"ctx128-s1x5", "ctx1280-r5-s1x5", "ctx256-log"]',
    "SEARCH__PORTFOLIO_SIZE": "6",
    "EVALUATION__LATENCY_REQUESTS": "20",
    "EVALUATION__LATENCY_SIZES": "[1, 6]",
    "EVALUATION__COLD_START_MINUTES": "[60, 240]",
    "EVALUATION__BOOTSTRAP_DRAWS": "200",
    "EVALUATION__PERMUTATIONS": "100",
}
NOT_RUN = {
    "slow": "slow (each needs a server, root, or more than 20 s); run with: make test-slow",
    "run": "that need a materialised run; run with: make test",
    "heavy": "that take most of the processor time; run with: make test",
}
"""What to say about deselected tests, by their mark; a test with several counts by the first."""

TOGETHER = (
    r"pretraining/test_(train|release|rolling)\.py",
    r"studies/policy_search/(report/|test_commands\.py)",
    r"studies/direction/report/",
    r"studies/time_r1/report/",
)
"""Modules that share what takes seconds to make; see `pytest_xdist_make_scheduler`."""

# A deadline per example measures how busy the machine is, not what is tested.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark every test that reaches the shared fleet with `run`, before any test is deselected by
    its marks.
    """
    for item in items:
        if "mini_project" in getattr(item, "fixturenames", ()):
            item.add_marker("run")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let only tests that are marked `run` materialise anything, in their fixtures too."""
    projects.may_materialise = item.get_closest_marker("run") is not None


class Deselected:
    """Counts the tests that are not run, by mark, over all pytest-xdist workers, and says so in the
    summary.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.counts: Counter[str] = Counter()
        self.is_worker = hasattr(config, "workeroutput")

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            self.counts.update([mark for mark in NOT_RUN if item.get_closest_marker(mark)][:1])

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.is_worker:
            session.config.workeroutput["deselected"] = dict(self.counts)  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Every worker collects all tests, so that one of them is enough."""
        self.counts = Counter(getattr(node, "workeroutput", {}).get("deselected", self.counts))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for mark, words in NOT_RUN.items():
            if self.counts[mark]:
                terminalreporter.write_line(f"tests not run: {self.counts[mark]} {words}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadscope`, give all modules of a pattern of `TOGETHER` to one worker, so that
    what they share is made once. `None` leaves the choice to xdist.
    """
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shared = [pattern for pattern in TOGETHER if re.search(pattern, nodeid)]
            return shared[0] if shared else super()._split_scope(nodeid)

    return Together(config, log)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Deselected(config))


@pytest.fixture(scope="session")
def mini_project(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """The miniature fleet after one real run, as `make fleet` starts it; to be read only. All
    pytest-xdist workers share it.
    """
    base = tmp_path_factory.getbasetemp()
    project = Project((base if worker_id == "master" else base.parent) / "mini-project", FAST)
    project.root.mkdir(exist_ok=True)
    log, done = project.root / "run.log", project.root / "done"
    with (project.root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() and not log.exists():
            project.add_fleet(MINI, **MINI_SPEC)
            run = project.run([sys.executable, "-m", "tsfm_pipeline.cli.run", MINI])
            log.write_text(run.stdout)
            if run.returncode == 0:
                done.touch()
    assert done.exists(), (
        f"the run of the miniature fleet failed; the end of {log}:\n{log.read_text()[-6000:]}"
    )
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


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A folder of distributions that this process sees while the test runs."""
    folder = tmp_path / "site"
    folder.mkdir()
    with installed_in(folder) as site:
        yield site


@pytest.fixture(scope="module")
def scaling() -> Iterator[ModuleType]:
    """`benchmarks/scaling.py` as a module, found as it is when it is run; its stand-in for the
    model forecasts without weights.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT_ROOT / "benchmarks"))
        yield importlib.import_module("scaling")
