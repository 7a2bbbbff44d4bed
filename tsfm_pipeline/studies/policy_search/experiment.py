"""One experiment, in the process that runs nothing else: what one policy costs on the yardstick.

What belongs here: the stages of an experiment, its limits of time and memory, and the program
`python -m tsfm_pipeline.studies.policy_search.experiment --job FILE --out FILE`. What does not:
starting and killing this process (`process`), the arithmetic of a policy (`evaluation`), keep or
discard (`judging`).
"""

import argparse
import os
import pkgutil
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.files import write_text_atomically
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.policy import Policy
from tsfm_pipeline.studies.policy_search.results import FleetResult, Outcome
from tsfm_pipeline.studies.policy_search.yardstick import Yardstick

SCREENING_SHARE = 1 / 3
_AGAIN_SECONDS = 5.0
"""After the soft limit, the interruption is repeated this often, should some code swallow it."""

Measure = Callable[[str, Sequence[int], float], FleetResult]
"""Returns the cost of a policy on a fleet, some of its folds and a share of their requests."""
MeasureOf = Callable[[Settings, Yardstick, Policy], Measure]


class Job(BaseModel):
    """What one experiment is to do.

    settings: as JSON, because a process of its own would read them anew from its environment.
    search: the policy's changes. incumbent: the screening results that the policy's are compared
    with; None evaluates all requests in any case. screen: whether to begin with a third of the
    requests. measure: `module:function` of type `MeasureOf`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    settings: str
    yardstick: Yardstick
    search: dict[str, Any]
    folds: tuple[int, ...]
    screen: bool
    incumbent: tuple[FleetResult, ...] | None
    measure: str


class SoftLimit(BaseException):
    """The experiment has used up its time. Not an `Exception`, so that no handler swallows it."""


@dataclass
class Stages:
    """What an experiment has reached so far."""

    screening: tuple[FleetResult, ...] = ()
    results: tuple[FleetResult, ...] = ()
    screened_out: bool = False


def run(job: Job, report: Callable[[Outcome], None]) -> None:
    """Evaluate a policy within the limits of its yardstick, and report the outcome, whatever the
    policy does. An error of the policy is raised again after it is reported.
    """
    started = perf_counter()
    stages, yardstick = Stages(), job.yardstick

    def ended(status: Literal["crash", "timeout"] | None = None, message: str = "") -> None:
        report(
            Outcome(
                status=status,
                results=stages.results,
                screening=stages.screening,
                screened_out=stages.screened_out,
                seconds=perf_counter() - started,
                peak_mib=peak_mib(),
                message=message,
            )
        )

    try:
        with limited_memory(yardstick.memory_mib), interrupted_after(yardstick.soft_seconds):
            _evaluate(job, stages)
    except SoftLimit:
        ended("timeout", f"not finished after {yardstick.soft_seconds:g} s")
    except Exception as error:
        ended("crash", _in_words(error, yardstick.memory_mib))
        raise
    else:
        ended()


def _evaluate(job: Job, stages: Stages) -> None:
    """Screen the policy on a third of the requests, then evaluate it on all of them."""
    make: MeasureOf = pkgutil.resolve_name(job.measure)
    policy = Policy(search=job.search)
    measure = make(Settings.model_validate_json(job.settings), job.yardstick, policy)
    if job.screen:
        stages.screening = _on_all_fleets(measure, job, SCREENING_SHARE)
        if job.incumbent is not None:
            from tsfm_pipeline.studies.policy_search.judging import is_screened_out

            stages.screened_out = is_screened_out(stages.screening, job.incumbent)
        if stages.screened_out:
            return
    stages.results = _on_all_fleets(measure, job, 1.0)


def _on_all_fleets(measure: Measure, job: Job, share: float) -> tuple[FleetResult, ...]:
    return tuple(measure(fleet, job.folds, share) for fleet in job.yardstick.fleets)


def measure_of(settings: Settings, yardstick: Yardstick, policy: Policy) -> Measure:
    """Return the function that evaluates a policy on the study's tables; it reads each fleet once.

    Raises RuntimeError if torch has been imported although the tables hold every candidate.
    """
    from tsfm_pipeline.studies.policy_search.evaluation import evaluate
    from tsfm_pipeline.studies.policy_search.extra import with_candidates
    from tsfm_pipeline.studies.policy_search.rows import FleetRows, read_rows

    rows_of: dict[str, FleetRows] = {}

    def rows(fleet: str) -> FleetRows:
        if fleet not in rows_of:
            read = read_rows(settings, fleet)
            missing = [name for name in policy.settings.candidates if name not in read.candidates]
            if not missing and "torch" in sys.modules:
                raise RuntimeError(
                    "torch was imported, although the tables hold every candidate: an experiment "
                    "must start in a second; import it where a model is asked (`extra`)"
                )
            rows_of[fleet] = with_candidates(read, settings, missing)
        return rows_of[fleet]

    def measure(fleet: str, folds: Sequence[int], share: float) -> FleetResult:
        return evaluate(rows(fleet), policy.settings, folds, share, yardstick.line)

    return measure


@contextmanager
def limited_memory(mib: int) -> Iterator[None]:
    """Let this process allocate at most so much private memory; beyond it, MemoryError is raised.

    Mapped files do not count (RLIMIT_DATA), so that reading a large table through a map is free.
    """
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = mib * 2**20
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))
    try:
        yield
    finally:
        # What is left is to report what happened, for which there must be room.
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise `SoftLimit` in this block when so much time has passed."""

    def interrupt(*_: Any) -> None:
        raise SoftLimit

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def peak_mib() -> float:
    """Return the most memory that this process has had resident, mapped files included.

    Where the kernel tells, what the process was forked from does not count, as it does in
    `ru_maxrss`.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _in_words(error: Exception, memory_mib: int) -> str:
    """Return an error in one line."""
    if isinstance(error, MemoryError):
        return f"out of memory: more than {memory_mib} MiB"
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def end_with_parent() -> None:
    """End this process and its group as soon as standard input ends, which its parent holds open:
    a parent that was killed leaves no experiment behind.
    """

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the job of a file and write its outcome to another. The traceback of a crash goes to
    stderr.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--job", type=Path, required=True, help="a `Job` as JSON")
    parser.add_argument("--out", type=Path, required=True, help="gets the `Outcome` as JSON")
    parser.add_argument(
        "--end-with-parent", action="store_true", help="end when standard input ends"
    )
    options = parser.parse_args(arguments)
    if options.end_with_parent:
        end_with_parent()
    job = Job.model_validate_json(options.job.read_text(encoding="utf-8"))
    run(job, lambda outcome: write_text_atomically(options.out, outcome.model_dump_json()))


if __name__ == "__main__":
    main()
