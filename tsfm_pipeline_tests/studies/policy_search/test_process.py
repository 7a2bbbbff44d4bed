"""Test experiments in processes of their own: what they measure, and how each end of a process is
told.

What belongs here: real processes, and policies that misbehave. What does not: what a policy costs
(`test_evaluation`), keep or discard (`test_judging`).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.policy import policy_of
from tsfm_pipeline.studies.policy_search.process import run_experiment, run_limited
from tsfm_pipeline.studies.policy_search.seals import PACKAGE
from tsfm_pipeline_tests.studies.policy_search import measures
from tsfm_pipeline_tests.studies.policy_search.measures import YARDSTICK, run

pytestmark = pytest.mark.heavy
PATIENCE_S = 60


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def logs(settings: Settings) -> list[Path]:
    return sorted((settings.lake_dir / ".policy_search" / ".experiments").iterdir())


def test_a_policy_is_measured_on_a_third_and_then_on_all_requests_of_every_fleet(
    settings: Settings,
) -> None:
    outcome = run(settings, measures.threads_and_modules, policy_of({"neighbours": 4}))
    assert outcome.status is None
    assert [(result.fleet, result.share) for result in outcome.screening] == [
        ("one", 1 / 3),
        ("two", 1 / 3),
    ]
    assert [(result.fleet, result.share) for result in outcome.results] == [("one", 1), ("two", 1)]
    assert outcome.results[0].folds == (0, 1, 2)
    assert outcome.results[0].losses["standard"][0] == 4
    assert 0 < outcome.peak_mib < YARDSTICK.memory_mib
    assert outcome.seconds > 0
    assert logs(settings) == []
    noted = (settings.data_dir / "noted").read_text().splitlines()
    assert noted[:2] == ["1", "1"]
    assert {"torch", "faiss", "sklearn", "optuna", "matplotlib", "dagster"}.isdisjoint(noted)


def test_a_policy_that_exhausts_memory_is_a_crash(settings: Settings) -> None:
    outcome = run(settings, measures.exhausts_memory, memory_mib=600)
    assert (outcome.status, outcome.message) == ("crash", "out of memory: more than 600 MiB")
    assert outcome.peak_mib < 1000
    assert "MemoryError" in logs(settings)[0].read_text()


def test_a_mapped_file_takes_no_private_memory(settings: Settings) -> None:
    assert run(settings, measures.maps_a_large_file).status is None


def test_a_policy_that_raises_is_a_crash_with_one_line_and_a_traceback(settings: Settings) -> None:
    outcome = run(settings, measures.raises)
    assert (outcome.status, outcome.message) == ("crash", "ValueError: no such candidate")
    assert "in raises" in logs(settings)[0].read_text()


def test_a_policy_that_is_killed_is_a_crash(settings: Settings) -> None:
    outcome = run(settings, measures.is_killed)
    assert outcome.status == "crash"
    assert outcome.message.startswith("killed by SIGKILL")
    assert outcome.peak_mib > 0


def test_a_policy_that_leaves_the_process_is_a_crash(settings: Settings) -> None:
    outcome = run(settings, measures.exits)
    assert outcome.status == "crash"
    assert outcome.message == "ended with exit status 3 and no outcome: nothing to see here"


def test_a_measure_that_does_not_exist_is_a_crash(settings: Settings) -> None:
    outcome = run_experiment(
        settings, YARDSTICK, policy_of({}), None, (0,), measure="tsfm_pipeline.lake:no_such_thing"
    )
    assert outcome.status == "crash"
    assert "no_such_thing" in outcome.message


def test_a_policy_that_loops_ends_itself_at_the_soft_limit_and_keeps_its_screening(
    settings: Settings,
) -> None:
    outcome = run(settings, measures.loops, soft_seconds=1)
    assert (outcome.status, outcome.message) == ("timeout", "not finished after 1 s")
    assert [result.fleet for result in outcome.screening] == ["one", "two"]
    assert outcome.results == ()


def test_a_policy_that_hangs_is_killed_at_the_hard_limit(settings: Settings) -> None:
    outcome = run(settings, measures.hangs, hard_seconds=2)
    assert outcome.status == "timeout"
    assert outcome.message == "killed after 2 s: it did not stop by itself"


def test_a_command_is_killed_at_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/pid; wait"
    ended = run_limited(["sh", "-c", script], tmp_path / "log", 3, dict(os.environ))
    assert ended.overran
    assert ended.returncode == -signal.SIGKILL
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_running(pid))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_caller_that_is_killed_or_interrupted_leaves_no_experiment_behind(
    settings: Settings, end: signal.Signals
) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-m", measures.MODULE, str(settings.data_dir)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        stderr=subprocess.DEVNULL,
    )
    try:
        notes = settings.data_dir / "pids"
        wait_for(notes.exists)
        pids = [int(pid) for pid in notes.read_text().split()]
        assert all(is_running(pid) for pid in pids)
        caller.send_signal(end)
        assert caller.wait(PATIENCE_S) != 0
        wait_for(lambda: not any(is_running(pid) for pid in pids))
    finally:
        caller.kill()
        caller.wait()


def test_a_policy_that_costs_more_than_the_incumbent_in_the_screening_goes_no_further(
    settings: Settings,
) -> None:
    measure = measures.named(measures.constant)
    incumbent = run(settings, measures.constant, policy_of({"neighbours": 4}))
    worse = run_experiment(
        settings, YARDSTICK, policy_of({"neighbours": 9}), incumbent, (0, 1, 2), measure=measure
    )
    assert (worse.status, worse.screened_out, worse.results) == (None, True, ())
    assert worse.screening[0].losses["standard"][0] == 9
    better = run_experiment(
        settings, YARDSTICK, policy_of({"neighbours": 3}), incumbent, (0, 1, 2), measure=measure
    )
    assert not better.screened_out
    assert better.results[0].losses["standard"][0] == 3
    confirmed = run_experiment(
        settings, YARDSTICK, policy_of({"neighbours": 9}), None, (3, 4), False, measure=measure
    )
    assert confirmed.screening == ()
    assert confirmed.results[0].folds == (3, 4)
