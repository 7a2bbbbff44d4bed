"""Test the ledger: what it keeps when processes are killed, lines are torn and several loops write.

What belongs here: `ledger` and `claims`. What does not: what a line says (`test_judging`), and the
order in which a loop uses them (`test_loop`).
"""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsfm_pipeline.catalogue.records import RecordTable
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.fleets.fields import fleet_name
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.studies.policy_search import claims
from tsfm_pipeline.studies.policy_search.claims import Claim, claim_of, start_of
from tsfm_pipeline.studies.policy_search.drivers import Proposal
from tsfm_pipeline.studies.policy_search.judging import judge
from tsfm_pipeline.studies.policy_search.ledger import COLUMNS, SCHEMA, Ledger
from tsfm_pipeline.studies.policy_search.loop import row_of
from tsfm_pipeline.studies.policy_search.policy import Policy
from tsfm_pipeline.studies.policy_search.tables import FOLDER
from tsfm_pipeline_tests.studies.policy_search.looping import outcome, sized


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return ledger_in(tmp_path)


def ledger_in(data: Path) -> Ledger:
    return Ledger(Settings(data_dir=data))


def proposal(policy: Policy, description: str = "an idea") -> Proposal:
    return Proposal(policy, Policy().digest, description)


def claimed(ledger: Ledger, policy: Policy, yardstick: str = "y") -> Claim | None:
    return ledger.claim(proposal(policy), yardstick=yardstick, driver="file")


def row(policy: Policy, description: str = "an idea") -> dict[str, Any]:
    claim = claim_of(proposal(policy, description), yardstick="y", driver="file")
    return row_of(claim, judge(policy, outcome(), pl.DataFrame(schema=SCHEMA), budget_ms=200))


def lines(ledger: Ledger) -> list[list[str]]:
    """The lines of results.tsv below its header, by cell."""
    header, *rest = ledger.results.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert header.split("\t") == list(COLUMNS)
    return [line.split("\t") for line in rest]


def experiments(ledger: Ledger) -> list[str]:
    return [dict(zip(COLUMNS, line, strict=True))["experiment"] for line in lines(ledger)]


def append_some(data: Path, writer: int) -> list[str]:
    ledger, rows = ledger_in(data), [row(sized(10 * writer + n + 1)) for n in range(5)]
    for own in rows:
        ledger.append(own)
    return [own["experiment"] for own in rows]


def claim_some(data: Path) -> list[int]:
    return [size for size in range(1, 13) if claimed(ledger_in(data), sized(size))]


def take_over(data: Path) -> list[str]:
    ledger, taken = ledger_in(data), []
    while claim := ledger.take_over("y"):
        taken.append(claim.experiment)
    return taken


def in_a_process(data: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with a `ledger`, a `claimed` and a `sized` in a process that has ended at return."""
    start = (
        "import os, signal, sys; from pathlib import Path; "
        "from tsfm_pipeline_tests.studies.policy_search.test_ledger import *\n"
        "ledger = ledger_in(Path(sys.argv[1]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", start + code, str(data)],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_line_is_read_back_and_stands_in_the_file(ledger: Ledger) -> None:
    first, second = row(sized(2)), row(sized(3)) | {"yardstick": "other"}
    ledger.append(first)
    before = ledger.results.read_bytes()
    ledger.append(second)
    assert ledger.results.read_bytes().startswith(before), "nothing is rewritten"
    assert ledger.read().to_dicts() == [first, second]
    assert ledger.read("y").to_dicts() == [first]
    assert experiments(ledger) == [first["experiment"], second["experiment"]]
    cells = dict(zip(COLUMNS, lines(ledger)[0], strict=True))
    assert cells["changes"] == '{"portfolio_size":2}'
    assert (cells["status"], cells["screened_out"], cells["loss_standard"]) == (
        "keep",
        "false",
        "1",
    )


def test_an_experiment_has_one_line(ledger: Ledger) -> None:
    own = row(sized(2))
    ledger.append(own)
    ledger.append(own)
    assert ledger.read().height == 1
    assert len(lines(ledger)) == 1


def test_a_row_has_the_columns_of_the_ledger(ledger: Ledger) -> None:
    own = row(sized(2))
    del own["mae"]
    with pytest.raises(ValueError, match="a row of the ledger has the columns"):
        ledger.append(own)
    assert ledger.read().height == 0


@pytest.mark.parametrize(
    "description", ["a\tb", "a\nb", "a\r\nb", "a\\nb", "a\x0bb\x85c\u2028d", 'a "b"', "\ud800"]
)
def test_no_description_breaks_a_line(ledger: Ledger, description: str) -> None:
    own = row(sized(2), description)
    ledger.append(own)
    ledger.append(row(sized(3)))
    assert experiments(ledger)[0] == own["experiment"]
    text = ledger.results.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 3, "by any reader's idea of a line"


def test_different_descriptions_look_different(ledger: Ledger) -> None:
    for description in ("a\nb", "a\\nb"):
        ledger.append(row(sized(2), description))
    cells = [dict(zip(COLUMNS, line, strict=True))["description"] for line in lines(ledger)]
    assert cells == ["a\\nb", "a\\\\nb"]


def test_a_torn_line_is_completed_wherever_it_was_cut(ledger: Ledger) -> None:
    ledger.append(row(sized(2)))
    ledger.append(row(sized(3), "ein schönes Maß"))
    whole = ledger.results.read_bytes()
    for cut in range(0, len(whole), 29):
        ledger.results.write_bytes(whole[:cut])
        ledger.append(ledger.read().row(0, named=True))
        assert ledger.results.read_bytes() == whole, f"cut at byte {cut}"


def test_the_next_line_brings_those_that_a_killed_process_left_out(ledger: Ledger) -> None:
    first, lost, last = row(sized(2)), row(sized(3)), row(sized(4))
    ledger.append(first)
    RecordTable(ledger.folder / "experiments", SCHEMA).append(pl.DataFrame([lost], schema=SCHEMA))
    assert experiments(ledger) == [first["experiment"]]
    ledger.append(last)
    assert experiments(ledger) == [own["experiment"] for own in (first, lost, last)]


def test_bytes_of_somebody_else_at_the_end_spoil_no_line(ledger: Ledger) -> None:
    first, second = row(sized(2)), row(sized(3))
    ledger.append(first)
    with ledger.results.open("ab") as file:
        file.write(b"note to self \xff")
    ledger.append(second)
    kept = [line for line in lines_of(ledger) if len(line) == len(COLUMNS)]
    assert [line[1] for line in kept[1:]] == [first["experiment"], second["experiment"]]
    assert b"note to self" in ledger.results.read_bytes(), "nothing is rewritten"


def lines_of(ledger: Ledger) -> list[list[str]]:
    text = ledger.results.read_text(encoding="utf-8", errors="replace")
    return [line.split("\t") for line in text.split("\n")]


def test_another_file_in_the_place_of_results_is_left_alone(ledger: Ledger) -> None:
    ledger.results.parent.mkdir(parents=True)
    ledger.results.write_text("my own notes\n")
    own = row(sized(2))
    with pytest.raises(StorageError, match=r"results\.tsv does not begin with the header"):
        ledger.append(own)
    assert ledger.results.read_text() == "my own notes\n"
    assert ledger.read().to_dicts() == [own], "the experiment is not lost"
    ledger.results.unlink()
    ledger.append(own)
    assert experiments(ledger) == [own["experiment"]]


def test_no_fleet_has_the_name_of_the_ledgers_folder() -> None:
    with pytest.raises(ValueError, match=r"\.policy_search"):
        fleet_name(FOLDER)  # what `fleet forget` deletes must be a fleet's


def test_a_damaged_record_is_named(ledger: Ledger) -> None:
    ledger.append(row(sized(2)))
    (path,) = (ledger.folder / "experiments").glob("*.parquet")
    path.write_bytes(b"noise")
    with pytest.raises(StorageError, match=path.name):
        ledger_in(ledger.folder.parents[2]).read()


@pytest.mark.heavy
def test_lines_of_several_processes_are_whole(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        written = list(pool.map(append_some, [tmp_path] * 3, range(3)))
    ledger = ledger_in(tmp_path)
    assert sorted(experiments(ledger)) == sorted(chain(*written))
    assert experiments(ledger) == ledger.read()["experiment"].to_list()


def test_a_policy_is_claimed_once_per_yardstick(ledger: Ledger) -> None:
    first = claimed(ledger, sized(2))
    assert first is not None
    assert claimed(ledger, sized(2)) is None
    assert claimed(ledger, sized(2), "other") is not None
    assert [claim.experiment for claim in ledger.running("y")] == [first.experiment]
    ledger.append(row(sized(2)) | {"experiment": first.experiment})
    assert ledger.running("y") == []
    assert claimed(ledger, sized(2)) is None, "it has a line"
    again = ledger.claim(proposal(sized(2)), yardstick="y", driver="file", repeat=True)
    assert again is not None


@pytest.mark.heavy
def test_of_several_processes_one_claims_a_policy(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        claims = list(pool.map(claim_some, [tmp_path] * 3))
    assert sorted(chain(*claims)) == list(range(1, 13))


def test_a_claim_holds_every_value_of_a_policy(ledger: Ledger) -> None:
    policy = Policy(search={"half_lives": (float("inf"), 3.0)})
    claimed(ledger, policy)
    (claim,) = ledger.running()
    assert claim.policy.digest == policy.digest


@pytest.mark.heavy
def test_the_experiment_of_a_killed_process_is_an_orphan(tmp_path: Path) -> None:
    killed = in_a_process(
        tmp_path, "claimed(ledger, sized(2)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ledger = ledger_in(tmp_path)
    own = claimed(ledger, sized(3))
    (orphan,) = ledger.orphans("y")
    assert orphan.policy == sized(2)
    assert claimed(ledger, sized(2)) is None, "it is run again as what it was"
    taken = ledger.take_over("y")
    assert taken is not None
    assert (taken.experiment, taken.n_deaths) == (orphan.experiment, 1)
    assert ledger.take_over("y") is None
    assert own is not None
    ledger.give_back(own)
    returned = ledger.take_over("y")
    assert returned is not None
    assert (returned.experiment, returned.n_deaths) == (own.experiment, 0)


@pytest.mark.heavy
def test_of_several_processes_one_takes_an_orphan_over(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    for size in range(1, 9):
        claim = claimed(ledger, sized(size))
        assert claim is not None
        ledger.give_back(claim)
    waiting = [claim.experiment for claim in ledger.orphans("y")]
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        taken = list(chain(*pool.map(take_over, [tmp_path] * 3)))
    assert sorted(taken) == sorted(waiting)


def test_a_process_that_waits_to_be_noticed_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert start_of(process.pid) is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_of(process.pid) is None
    process.communicate()
    assert start_of(process.pid) is None


def test_ps_tells_the_same_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ps") is None:
        pytest.skip("needs ps")
    monkeypatch.setattr(claims, "_PROC", Path("/no/proc"))
    own = start_of(os.getpid())
    assert own is not None
    assert start_of(os.getpid()) == own
    assert start_of(2**22 + 1) is None, "above the highest id"


def test_another_process_with_the_same_id_is_not_the_one_that_claimed(ledger: Ledger) -> None:
    claim = claimed(ledger, sized(2))
    assert claim is not None
    assert not claim.is_orphan(600)
    assert claim.model_copy(update={"started": "1"}).is_orphan(600)


def test_a_claim_of_another_host_holds_until_its_experiment_must_have_ended(
    ledger: Ledger,
) -> None:
    claim = claimed(ledger, sized(2))
    assert claim is not None
    now = datetime.now(UTC)
    for age, orphaned in ((0, False), (600, False), (700, True)):
        since = now - timedelta(seconds=age)
        away = claim.model_copy(update={"host": "elsewhere", "since": since})
        assert away.is_orphan(600) is orphaned


def test_a_claim_with_a_line_is_no_orphan(ledger: Ledger) -> None:
    claim = claimed(ledger, sized(2))
    assert claim is not None
    ledger.append(row(sized(2)) | {"experiment": claim.experiment})
    claim.given_back(failed=False).write(ledger.folder / "running")  # killed before it ended it
    assert ledger.orphans("y") == []
    ledger.give_back(claim)
    assert ledger.take_over("y") is None


def test_an_unreadable_claim_is_named(ledger: Ledger) -> None:
    claimed(ledger, sized(2))
    (path,) = (ledger.folder / "running").glob("*.json")
    path.write_text("{")
    with pytest.raises(StorageError, match=path.name):
        ledger.orphans("y")
