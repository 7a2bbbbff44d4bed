"""Import everything in one process and fork a child for each run, so that tests can kill real
processes without waiting for their start.

What belongs here: running assets in a child, killing it at a certain moment, and saying how it
ended. What does not: what a test expects.

Run as `python -m tsfm_pipeline_tests.faults.nursery` in a project's environment; each line of
standard input is an order, each line of standard output its outcome.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from tsfm_pipeline_tests.faults.moments import at_renaming
from tsfm_pipeline_tests.project import TIMEOUT_S, Project, require_mark

IMPORTED = (
    *(
        "faiss",
        "statsmodels.tsa.api",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg",
    ),
    *(
        "tsfm_pipeline.forecaster.engine",
        "tsfm_pipeline.reports.acceptance.numbers",
        "tsfm_pipeline.reports.ablation.numbers",
        "tsfm_pipeline.reports.page.html",
    ),
)
"""What assets load when they need it; none of it starts a thread by being loaded, so that a fork is
safe.
"""


@dataclass(frozen=True)
class Order:
    """Which assets of a fleet to materialise, and when to die: at the n-th renaming of a finished
    file in a folder (0: never).
    """

    fleet: str
    assets: Sequence[str]
    folder: str = ""
    renaming: int = 0


@dataclass(frozen=True)
class Outcome:
    """How the child ended: its exit status (negative: the signal that killed it), what it said, and
    per table what it kept.
    """

    status: int
    error: str
    kept: dict[str, int]


class Nursery:
    """The process, seen from a test."""

    def __init__(self, project: Project) -> None:
        require_mark()
        self.project = project
        command = [sys.executable, "-m", "tsfm_pipeline_tests.faults.nursery"]
        self._log = (project.root / "nursery.log").open("w")
        self._process = subprocess.Popen(
            command,
            env=project.environment,
            cwd=project.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.assets: list[str] = json.loads(self._answer("the imports"))
        """All assets of the graph, each after its inputs."""

    def run(self, fleet: str, assets: Sequence[str]) -> Outcome:
        """Materialise assets of a fleet, in one process, in the order of the graph."""
        return self._give(Order(fleet, assets))

    def kill(self, fleet: str, asset: str, folder: Path, renaming: int) -> Outcome:
        """Materialise one asset and kill it with SIGKILL when it is about to rename its n-th
        finished file in `folder`.
        """
        return self._give(Order(fleet, [asset], str(folder), renaming))

    def _give(self, order: Order) -> Outcome:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._answer(order)))

    def _answer(self, what: object) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
        assert ready, f"no outcome of {what} after {TIMEOUT_S} s"
        line = self._process.stdout.readline()
        assert line, (
            f"the nursery ended:\n{(self.project.root / 'nursery.log').read_text()[-4000:]}"
        )
        return line

    def close(self) -> None:
        self._process.kill()
        self._process.wait(timeout=30)
        self._log.close()


@dg.asset
def nothing() -> None:
    """What is materialised before any fork, so that no child pays for what Dagster does the first
    time.
    """


def materialise(job: Any, order: Order) -> dict[str, int]:
    """Materialise the assets; returns how many shards of each were kept."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(asset) for asset in order.assets],
            partition_key=order.fleet,
        )
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {
        m.asset_key.to_user_string(): m.metadata["n_shards_kept"].value
        for m in events
        if "n_shards_kept" in m.metadata
    }


def child(job: Any, order: Order, report: int) -> None:
    """Obey, write the outcome to the pipe `report`, and end."""
    if order.renaming:
        at_renaming(order.folder, order.renaming, lambda: os.kill(os.getpid(), signal.SIGKILL))
    outcome = Outcome(0, "", {})
    try:
        outcome = Outcome(0, "", materialise(job, order))
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        outcome = Outcome(1, f"{error}\n{text}", {})
    with os.fdopen(report, "w") as pipe:
        pipe.write(json.dumps(asdict(outcome)))
    os._exit(0)


def main() -> None:
    """Import what assets use, then fork a child for every order."""
    for module in IMPORTED:
        importlib.import_module(module)
    from tsfm_pipeline.definitions import defs

    job = defs.resolve_implicit_global_asset_job_def()
    job.get_job_snapshot_id()
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([nothing], instance=instance)
    order_of_assets = [
        key.to_user_string() for key in defs.resolve_asset_graph().toposorted_asset_keys
    ]
    outcomes = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    outcomes.write(json.dumps(order_of_assets) + "\n")
    for line in sys.stdin:
        order = Order(**json.loads(line))
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(job, order, writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        _, status = os.waitpid(pid, 0)
        outcome = (
            told
            if told and os.WIFEXITED(status)
            else json.dumps(asdict(Outcome(os.waitstatus_to_exitcode(status), "", {})))
        )
        outcomes.write(outcome + "\n")


if __name__ == "__main__":
    main()
