"""Provide policies' measures for experiments in processes of their own: small ones, and ones that
misbehave.

What belongs here: functions of type `experiment.MeasureOf`, named by `module:function`, and a
yardstick with short limits. What does not: expectations.
"""

import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.experiment import Measure
from tsfm_pipeline.studies.policy_search.latency import LatencyLine, Line
from tsfm_pipeline.studies.policy_search.policy import Policy, policy_of
from tsfm_pipeline.studies.policy_search.process import run_experiment
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome
from tsfm_pipeline.studies.policy_search.yardstick import Yardstick

MODULE = "tsfm_pipeline_tests.studies.policy_search.measures"
LINE = LatencyLine(
    p50=Line(fixed_ms=2, ms_per_token=0.01),
    p95=Line(fixed_ms=4, ms_per_token=0.02),
    machine="a test",
)
YARDSTICK = Yardstick(
    fleets=("one", "two"),
    line=LINE,
    defaults={},
    settings={},
    code="",
    definitions={},
    data={},
    soft_seconds=60,
    hard_seconds=120,
    memory_mib=1024,
)


def named(measure: Any) -> str:
    """Return the name by which a process finds a measure of this module."""
    return f"{MODULE}:{measure.__name__}"


def run(settings: Settings, measure: Any, policy: Policy | None = None, **limits: Any) -> Outcome:
    """Run a policy with one of these measures under some limits of the yardstick."""
    return run_experiment(
        settings,
        YARDSTICK.model_copy(update=limits),
        policy or policy_of({}),
        None,
        (0, 1, 2),
        measure=named(measure),
    )


def constant(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Every tenant costs as much as the policy has neighbours; 7 tenants of each fold."""

    def measure(fleet: str, folds: Sequence[int], share: float) -> FleetResult:
        n = 7 * len(folds)
        losses = dict.fromkeys(
            TIERS, tuple(policy.settings.neighbours + 0.01 * i for i in range(n))
        )
        p50_ms, p95_ms = yardstick.line.predict(1000.0)
        return FleetResult(
            fleet=fleet,
            folds=tuple(folds),
            share=share,
            tenants=tuple(range(n)),
            groups=("",) * n,
            losses=losses,
            fixed=losses,
            mae=1.0,
            tokens=1000.0,
            p50_ms=p50_ms,
            p95_ms=p95_ms,
        )

    return measure


def threads_and_modules(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Note how many threads libraries may use, and what has been imported."""
    threads = [os.environ["OMP_NUM_THREADS"], os.environ["POLARS_MAX_THREADS"]]
    (settings.data_dir / "noted").write_text("\n".join([*threads, *sys.modules]))
    return constant(settings, yardstick, policy)


def exhausts_memory(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Take memory without end."""

    def measure(fleet: str, folds: Sequence[int], share: float) -> FleetResult:
        taken = []
        while True:
            taken.append(np.ones(2**23))

    return measure


def maps_a_large_file(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Map a file that is larger than the allowed memory."""
    with tempfile.TemporaryFile() as file:
        file.truncate((yardstick.memory_mib + 1) * 2**20)
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return constant(settings, yardstick, policy)


def by_neighbours(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Cost as much as the policy has neighbours; seven kill the process, and eight raise."""
    if policy.settings.neighbours == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if policy.settings.neighbours == 8:
        raise ValueError("no such candidate")
    return constant(settings, yardstick, policy)


def loops(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Finish the screening, then loop for ever, whatever is raised."""
    finished = constant(settings, yardstick, policy)

    def measure(fleet: str, folds: Sequence[int], share: float) -> FleetResult:
        while share == 1:
            try:
                time.sleep(1)
            except Exception:
                continue
        return finished(fleet, folds, share)

    return measure


def hangs(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Start a process, block every signal that can be, and sleep; note both process ids."""
    child = subprocess.Popen(["sleep", "1000"])
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    notes = settings.data_dir / "pids.new"
    notes.write_text(f"{os.getpid()} {child.pid}")
    notes.rename(settings.data_dir / "pids")
    time.sleep(1000)
    return constant(settings, yardstick, policy)


def is_killed(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Be killed from outside."""
    os.kill(os.getpid(), signal.SIGKILL)
    return constant(settings, yardstick, policy)


def exits(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Leave the process without a word to its caller."""
    print("nothing to see here")
    raise SystemExit(3)


def raises(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Fail with a message of two lines."""
    raise ValueError("no such candidate\nin these tables")


if __name__ == "__main__":
    run(Settings(data_dir=Path(sys.argv[1])), hangs)
