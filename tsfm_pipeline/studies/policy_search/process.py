"""Runs an experiment in a process of its own, within limits, and turns its end into an outcome.

What belongs here: starting, waiting, killing, and what an exit status means. What does not: the
limits themselves (`yardstick`), and what the process does (`experiment`).
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.experiment import Job
from tsfm_pipeline.studies.policy_search.policy import Policy
from tsfm_pipeline.studies.policy_search.results import Outcome
from tsfm_pipeline.studies.policy_search.seals import PACKAGE, STUDY, study_folder
from tsfm_pipeline.studies.policy_search.yardstick import Yardstick

EXPERIMENT = f"{STUDY}.experiment"
MEASURE = f"{EXPERIMENT}:measure_of"
ONE_THREAD = dict.fromkeys(
    (
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"),
        "POLARS_MAX_THREADS",
    ),
    "1",
)
"""An experiment uses one core, so that as many loops as there are cores share a machine."""
_POLL_SECONDS = 0.05


class Ended(NamedTuple):
    """How a process ended: its exit status (minus the signal that killed it), its wall time, its
    peak resident memory, and whether it was killed because it took too long.
    """

    returncode: int
    seconds: float
    peak_mib: float
    overran: bool


def run_experiment(
    settings: Settings,
    yardstick: Yardstick,
    policy: Policy,
    incumbent: Outcome | None,
    folds: Sequence[int],
    screen: bool = True,
    *,
    measure: str = MEASURE,
) -> Outcome:
    """Evaluate a policy on some folds of the yardstick's fleets, in a process of its own.

    incumbent: its screening is what the policy's is compared with; None skips the comparison.
    screen: whether to begin with a third of the requests. measure: `module:function` that makes the
    measure (`experiment.MeasureOf`).

    The process ends itself at the yardstick's soft limit of time, is killed with all that it
    started at the hard one, cannot allocate more than its memory, and is killed when this process
    ends. Nothing that a policy does raises: a crash or a timeout is an outcome with a message of
    one line, and the process's output is kept in `.policy_search/.experiments` of the lake.
    """
    job = Job(
        settings=settings.model_dump_json(),
        yardstick=yardstick,
        search=policy.search,
        folds=tuple(folds),
        screen=screen,
        incumbent=None if incumbent is None else incumbent.screening,
        measure=measure,
    )
    logs = study_folder(settings) / ".experiments"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{policy.digest}-{secrets.token_hex(4)}.log"
    with tempfile.TemporaryDirectory(prefix="policy-search-") as folder:
        job_file, out_file = Path(folder, "job.json"), Path(folder, "outcome.json")
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        # -P: the working folder may hold other code.
        command = [sys.executable, "-P", "-m", EXPERIMENT, "--end-with-parent"]
        command += ["--job", str(job_file), "--out", str(out_file)]
        ended = run_limited(command, log, yardstick.hard_seconds, environment(ONE_THREAD))
        outcome = _outcome(ended, out_file, log, yardstick.hard_seconds)
    if outcome.status is None:
        log.unlink(missing_ok=True)
    return outcome


def environment(further: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of a process that runs this very code: those of this process, and some
    further ones.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **(further or {}), "PYTHONPATH": path}


def run_limited(
    command: Sequence[str], log: Path, seconds: float, variables: Mapping[str, str]
) -> Ended:
    """Run a command to its end in a session of its own, its output appended to a file, and kill it
    with all that it started when it takes longer than this.

    Its standard input stays open until this process ends. If this call is interrupted, the command
    is killed before the interruption goes on.
    """
    started = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(variables),
            start_new_session=True,
        )
    overran = False
    try:
        while not _has_ended(process.pid):
            if time.monotonic() - started > seconds:
                overran = True
                break
            time.sleep(_POLL_SECONDS)
    finally:
        # Its process id stays taken until it is waited for, so this hits no other group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.stdin is not None
        process.stdin.close()
    return Ended(process.returncode, time.monotonic() - started, usage.ru_maxrss / 2**10, overran)


def _has_ended(pid: int) -> bool:
    """Return whether a child has ended; it can still be waited for."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, flags) is not None


def _outcome(ended: Ended, out_file: Path, log: Path, hard_seconds: float) -> Outcome:
    """Return the outcome that a process wrote, or one that says how it ended without."""
    try:
        written = Outcome.model_validate_json(out_file.read_text(encoding="utf-8"))
        return written.model_copy(update={"seconds": ended.seconds})
    except (OSError, ValidationError):
        return Outcome(
            status="timeout" if ended.overran else "crash",
            seconds=ended.seconds,
            peak_mib=ended.peak_mib,
            message=_in_words(ended, log, hard_seconds),
        )


def _in_words(ended: Ended, log: Path, hard_seconds: float) -> str:
    """Return in one line how a process ended that wrote no outcome."""
    if ended.overran:
        return f"killed after {hard_seconds:g} s: it did not stop by itself"
    if ended.returncode == -signal.SIGKILL:
        return "killed by SIGKILL: by the system for want of memory, or by somebody"
    if ended.returncode < 0:
        return f"killed by {signal.Signals(-ended.returncode).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it printed nothing"
    return f"ended with exit status {ended.returncode} and no outcome: {last}"
