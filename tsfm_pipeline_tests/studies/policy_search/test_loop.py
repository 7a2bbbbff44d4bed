"""Test the loop: what becomes a line, when it ends, and that nothing is lost when it is killed.

What belongs here: `loop` on small experiments, in this process and in others. What does not: the
files (`test_ledger`), the rules of judging (`test_judging`), real experiments (`test_experiment`).
"""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.studies.policy_search.drivers import Proposal
from tsfm_pipeline.studies.policy_search.ledger import COLUMNS, Ledger
from tsfm_pipeline.studies.policy_search.loop import (
    MOST_DEATHS,
    MOST_REPEATS,
    MOST_UNUSABLE,
    LoopError,
)
from tsfm_pipeline.studies.policy_search.policy import Policy, PolicyError, policy_of
from tsfm_pipeline.studies.policy_search.process import run_experiment
from tsfm_pipeline.studies.policy_search.results import Outcome
from tsfm_pipeline_tests.studies.policy_search import measures
from tsfm_pipeline_tests.studies.policy_search.looping import (
    BEST_SIZE,
    YARDSTICK,
    Sizes,
    loop,
    outcome,
    run,
    sized,
)

SECONDS = 120
"""A deadline for processes, generous on a busy machine."""


def ledger(data: Path) -> Ledger:
    return Ledger(Settings(data_dir=data))


def rows(data: Path) -> pl.DataFrame:
    return ledger(data).read(YARDSTICK.digest)


def start(data: Path, *arguments: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tsfm_pipeline_tests.studies.policy_search.looping"),
            *(str(data), *map(str, arguments)),
        ],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.05)


class Scripted:
    """Proposes what it is given, in order; raises what is an error."""

    name = "scripted"

    def __init__(self, *proposals: Policy | Exception | None) -> None:
        self.proposals = list(proposals)
        self.seen: list[tuple[Policy, int]] = []

    def propose(self, incumbent: Policy, history: pl.DataFrame) -> Proposal | None:
        self.seen.append((incumbent, history.height))
        own = self.proposals.pop(0) if self.proposals else None
        if isinstance(own, Exception):
            raise own
        return None if own is None else Proposal(own, incumbent.digest, "scripted")


def test_the_best_policy_is_the_incumbent_at_the_end(tmp_path: Path) -> None:
    end = loop(tmp_path, Sizes(6))
    found = rows(tmp_path)
    assert found["policy"].to_list() == [Policy().digest, *(sized(n).digest for n in range(1, 7))]
    assert found["status"].to_list() == ["keep", "keep", "keep", "keep", "keep", *["discard"] * 2]
    assert found.filter(pl.col("status") == "keep")["policy"][-1] == sized(BEST_SIZE).digest
    assert list(end.experiments) == found["experiment"].to_list()
    assert end.reason == "driver sizes has no more policies"
    assert found["driver"].to_list() == ["default", *["sizes"] * 6]
    assert ledger(tmp_path).running() == []


def test_the_driver_is_given_the_incumbent_and_every_line(tmp_path: Path) -> None:
    driver = Scripted(sized(5), sized(7), sized(4))
    loop(tmp_path, driver)
    assert driver.seen == [(Policy(), 1), (sized(5), 2), (sized(5), 3), (sized(4), 4)]


def test_an_experiment_is_screened_against_the_incumbent(tmp_path: Path) -> None:
    seen: list[Outcome | None] = []

    def watched(*arguments: Any) -> Outcome:
        seen.append(arguments[3])
        return run(*arguments)

    loop(tmp_path, Scripted(sized(5), sized(6)), run=watched)
    assert seen[0] is None
    assert [own.results[0].tokens for own in seen if own] == [800, 500]


def test_as_many_proposals_are_tried_as_one_asks_for(tmp_path: Path) -> None:
    assert loop(tmp_path, Sizes(6), experiments=2).reason == "2 policies have been tried"
    assert rows(tmp_path).height == 3, "the default policy is not a proposal"
    loop(tmp_path, Sizes(6), experiments=1)
    assert rows(tmp_path).height == 4


def test_nothing_is_begun_that_would_end_too_late(tmp_path: Path) -> None:
    assert loop(tmp_path, Sizes(6), hours=0).reason == "the time is up"
    assert rows(tmp_path).height == 0
    loop(tmp_path, Sizes(1))
    slow = ledger(tmp_path).read().row(0, named=True)
    for n in range(9):
        ledger(tmp_path).append(slow | {"experiment": f"{n}", "seconds": 1000.0})
    before = rows(tmp_path).height
    assert loop(tmp_path, Sizes(6), hours=0.25).reason == "the time is up"
    assert rows(tmp_path).height == before


def test_a_crash_and_a_timeout_are_lines_and_the_loop_goes_on(tmp_path: Path) -> None:
    def fails(*arguments: Any) -> Outcome:
        status = {2: "crash", 3: "timeout"}.get(arguments[2].settings.portfolio_size)
        ended = outcome().model_copy(update={"status": status, "message": "why"})
        return ended if status else run(*arguments)

    loop(tmp_path, Sizes(4), run=fails)
    found = rows(tmp_path)
    assert found["status"].to_list() == ["keep", "keep", "crash", "timeout", "keep"]
    assert found["description"][2] == "2 configurations (crash: why)"


def test_without_the_default_policy_nothing_goes_on(tmp_path: Path) -> None:
    broken = outcome().model_copy(update={"status": "crash", "message": "no rows"})
    with pytest.raises(LoopError, match=r"the default policy \(crash: no rows\)"):
        loop(tmp_path, Sizes(2), run=lambda *_: broken)
    assert rows(tmp_path)["status"].to_list() == ["crash"]
    loop(tmp_path, Sizes(2))
    assert rows(tmp_path)["status"].to_list() == ["crash", "keep", "keep", "keep"]


def test_a_tampered_yardstick_stops_the_loop_before_anything_is_written(tmp_path: Path) -> None:
    n_checked = 0

    def check(*_: Any) -> None:
        nonlocal n_checked
        n_checked += 1
        if rows(tmp_path).height == 3:
            raise RuntimeError("it was touched")

    with pytest.raises(RuntimeError, match="it was touched"):
        loop(tmp_path, Sizes(6), check=check)
    assert rows(tmp_path).height == 3
    assert ledger(tmp_path).running() == []
    assert n_checked >= 4, "before every experiment"
    with pytest.raises(RuntimeError, match="it was touched"):
        loop(tmp_path, Scripted(PolicyError("no policy")), check=check)
    assert rows(tmp_path).height == 3


def test_a_driver_that_repeats_itself_is_asked_again(tmp_path: Path) -> None:
    loop(tmp_path, Scripted(sized(2), sized(2), Policy(), sized(3)))
    assert rows(tmp_path)["policy"].to_list() == [
        own.digest for own in (Policy(), sized(2), sized(3))
    ]


def test_a_driver_that_only_repeats_itself_is_out_of_ideas(tmp_path: Path) -> None:
    driver = Scripted(*[sized(2)] * (MOST_REPEATS + 10))
    end = loop(tmp_path, driver)
    assert end.reason == f"driver scripted is out of ideas; tried before: {sized(2).digest}"
    assert len(driver.proposals) == 9  # one was new, and so many in a row were not
    assert rows(tmp_path).height == 2


def test_a_policy_that_another_loop_is_running_is_not_run_again(tmp_path: Path) -> None:
    proposal = Proposal(sized(2), "", "elsewhere")
    assert ledger(tmp_path).claim(proposal, yardstick=YARDSTICK.digest, driver="file")
    end = loop(tmp_path, Scripted(sized(2), sized(3)))
    assert rows(tmp_path)["policy"].to_list() == [Policy().digest, sized(3).digest]
    assert end.reason == "driver scripted has no more policies"


def test_what_is_no_policy_is_a_line_and_the_driver_goes_on(tmp_path: Path) -> None:
    loop(tmp_path, Scripted(PolicyError("size: must be above 0"), sized(2)))
    found = rows(tmp_path)
    assert found["status"].to_list() == ["keep", "crash", "keep"]
    assert found["policy"][1] == ""
    assert "size: must be above 0" in found["description"][1]
    assert found["parent"][1] == Policy().digest


def test_a_driver_that_knows_no_policy_ends_the_loop(tmp_path: Path) -> None:
    end = loop(tmp_path, Scripted(*[PolicyError("no")] * 9))
    assert end.reason == f"driver scripted proposed {MOST_UNUSABLE} unusable policies in a row"
    assert rows(tmp_path).height == 1 + MOST_UNUSABLE


def test_a_policy_that_is_kept_is_considered_once_it_has_a_line(tmp_path: Path) -> None:
    considered: list[tuple[str, int]] = []

    def consider(_: Any, __: Any, own: Ledger, row: Any, ___: Any) -> None:
        considered.append((row["policy"], own.read().height))

    loop(tmp_path, Scripted(sized(5), sized(7), sized(4)), consider=consider)
    assert considered == [(sized(5).digest, 2), (sized(4).digest, 4)], "the default never"
    considered.clear()
    loop(tmp_path, Scripted(), consider=consider)
    assert considered == [(sized(4).digest, 4)], "a loop may have been killed before it did"


def test_an_error_of_promotion_does_not_end_the_loop(tmp_path: Path) -> None:
    said: list[str] = []

    def consider(*_: Any) -> None:
        raise OSError("no room")

    loop(tmp_path, Scripted(sized(5), sized(4)), consider=consider, log=said.append)
    assert rows(tmp_path).height == 3
    assert any("could not be considered for promotion (OSError: no room)" in line for line in said)


def test_an_error_of_the_machine_gives_the_experiment_back(tmp_path: Path) -> None:
    def fails(*arguments: Any) -> Outcome:
        if arguments[2] == sized(2):
            raise OSError("cannot fork")
        return run(*arguments)

    with pytest.raises(OSError, match="cannot fork"):
        loop(tmp_path, Sizes(3), run=fails)
    (orphan,) = ledger(tmp_path).orphans()
    assert orphan.policy == sized(2)
    loop(tmp_path, Sizes(3))
    found = rows(tmp_path)
    assert found["policy"].to_list()[2:] == [sized(2).digest, sized(3).digest]
    assert found["experiment"][2] == orphan.experiment


def test_an_experiment_that_ends_every_loop_becomes_a_crash(tmp_path: Path) -> None:
    def fails(*arguments: Any) -> Outcome:
        if arguments[2] == sized(2):
            raise OSError("cannot fork")
        return run(*arguments)

    for _ in range(MOST_DEATHS):
        with pytest.raises(OSError, match="cannot fork"):
            loop(tmp_path, Sizes(3), run=fails)
    loop(tmp_path, Sizes(3), run=fails)
    found = rows(tmp_path)
    assert found["status"].to_list()[2:] == ["crash", "keep"]
    assert f"{MOST_DEATHS} loops ended while they ran it" in found["description"][2]


@pytest.mark.heavy
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_loop_that_is_ended_loses_no_experiment(tmp_path: Path, sent: signal.Signals) -> None:
    process = start(tmp_path, 5, 3)
    wait_for(tmp_path / "hangs", process)
    process.send_signal(sent)
    out, err = process.communicate(timeout=SECONDS)
    if sent == signal.SIGKILL:
        assert process.returncode == -sent
    else:
        assert (process.returncode, out) == (0, f"interrupted by {sent.name}\n"), err
    assert rows(tmp_path).height == 3
    (orphan,) = ledger(tmp_path).orphans()
    assert orphan.policy == sized(3)
    loop(tmp_path, Sizes(5))
    found = rows(tmp_path)
    assert found["experiment"][3] == orphan.experiment
    assert found["policy"].to_list() == [Policy().digest, *(sized(n).digest for n in range(1, 6))]


@pytest.mark.heavy
def test_a_loop_takes_over_what_another_one_left_meanwhile(tmp_path: Path) -> None:
    process = start(tmp_path, 3, 8)  # the default policy hangs: it has 8 configurations
    wait_for(tmp_path / "hangs", process)

    n_checked = 0

    def kill_after_a_while(*_: Any) -> None:
        nonlocal n_checked
        n_checked += 1
        if n_checked == 4:
            process.kill()
            process.wait(SECONDS)

    def alone(*arguments: Any) -> Outcome:
        assert process.poll() is not None, "it waits while the other loop is alive"
        return run(*arguments)

    loop(tmp_path, Sizes(3), run=alone, check=kill_after_a_while)
    process.communicate()
    assert rows(tmp_path)["policy"].to_list()[0] == Policy().digest
    assert rows(tmp_path).height == 4


@pytest.mark.heavy
def test_two_loops_at_once_share_a_ledger(tmp_path: Path) -> None:
    processes = [start(tmp_path, 24) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    found = rows(tmp_path)
    digests = [Policy().digest, *(sized(n).digest for n in range(1, 25) if sized(n) != Policy())]
    assert sorted(found["policy"]) == sorted(digests), "each policy once"
    text = (ledger(tmp_path).folder / "results.tsv").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines()]
    assert {len(line) for line in lines} == {len(COLUMNS)}
    assert [line[1] for line in lines[1:]] == found["experiment"].to_list()
    kept = found.filter(pl.col("status") == "keep")
    assert kept["policy"][-1] == sized(BEST_SIZE).digest
    assert kept["objective"].is_sorted(descending=True), "judged against the incumbent of the time"


@pytest.mark.heavy
def test_experiments_of_real_processes_end_as_lines(tmp_path: Path) -> None:
    policies = [policy_of({"neighbours": n}) for n in (4, 3, 6, 7, 8)]
    real = partial(run_experiment, measure=measures.named(measures.by_neighbours))
    loop(tmp_path, Scripted(*policies), run=real)
    found = rows(tmp_path)
    assert found["status"].to_list() == ["keep", "keep", "keep", "discard", "crash", "crash"]
    assert found["screened_out"].to_list() == [False, False, False, True, False, False]
    assert "killed by SIGKILL" in found["description"][4]
    assert "ValueError: no such candidate" in found["description"][5]


@pytest.mark.heavy
@pytest.mark.parametrize("number", range(1, 5))
def test_whenever_a_loop_is_killed_the_next_one_completes_its_work(
    tmp_path: Path, number: int
) -> None:
    """The files of one experiment are its claim and its record; a loop is killed just before the
    n-th of them gets its name. Between the two stands the experiment, after them results.tsv.
    """
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tsfm_pipeline_tests.faults.moments import at_renaming\n"
        "from tsfm_pipeline_tests.studies.policy_search.looping import main\n"
        "at_renaming(sys.argv[1], int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        "main(Path(sys.argv[1]), 3)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(number)],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        timeout=SECONDS,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    begun = [claim.experiment for claim in ledger(tmp_path).running()]
    loop(tmp_path, Sizes(3))
    found = rows(tmp_path)
    assert found["policy"].to_list() == [Policy().digest, *(sized(n).digest for n in (1, 2, 3))]
    assert set(begun) <= set(found["experiment"])
    lines = (ledger(tmp_path).folder / "results.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[1] for line in lines[1:]] == found["experiment"].to_list()
    assert ledger(tmp_path).running() == []
    assert not list((ledger(tmp_path).folder / "running").glob("*.json"))
