"""Test that the files an earlier release left among tables and reports are moved to the records
once and whole, whoever starts the move and whatever interrupts it.

What belongs here: moving. What does not: what a real earlier release left (`test_release_before`).
"""

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import pytest

from tsfm_pipeline.catalogue import moves
from tsfm_pipeline.catalogue.moves import move_records, move_training_state
from tsfm_pipeline.catalogue.records import HISTORY, LEDGER, RecordTable
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.lake import Lake
from tsfm_pipeline.lock import FleetLockedError
from tsfm_pipeline.settings import PROJECT_ROOT, Profile, Settings

FLEET = "shop"
RUNS = ("000041-20260130T000000Z-aaaaaaaaaaaaaaaa", "000042-20260131T000000Z-bbbbbbbbbbbbbbbb")
DAYS = ("2026-01-30", "2026-01-31")
STORE = "prometheus-0123456789abcdef"


def old_places(settings: Settings) -> dict[str, Path]:
    reports = settings.reports_dir / FLEET
    raw = settings.lake_dir / FLEET / "raw" / STORE
    return {
        LEDGER: reports / "experiment_ledger.parquet",
        **{name: reports / HISTORY / f"{name}.parquet" for name in RUNS},
        **{day: raw / f"{day}.parquet" for day in DAYS},
    }


def leave(settings: Settings) -> dict[str, bytes]:
    """Files at all old places, and their contents by name."""
    for number, (name, path) in enumerate(old_places(settings).items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = 3 if name == LEDGER else 1
        pl.DataFrame({"name": [name] * rows, "row": range(number, number + rows)}).write_parquet(
            path
        )
    return {name: path.read_bytes() for name, path in old_places(settings).items()}


def moved_to(settings: Settings, name: str) -> list[Path]:
    records = settings.records_dir / FLEET
    folder, pattern = {LEDGER: (LEDGER, "*")}.get(
        name, (f"fetched/{STORE}" if name in DAYS else HISTORY, f"{name}-*")
    )
    return sorted((records / folder).glob(f"{pattern}.parquet"))


def arrived(settings: Settings, contents: dict[str, bytes]) -> bool:
    """Whether each file lies among the records, once and as it was, and nothing else does."""
    found = {name: [path.read_bytes() for path in moved_to(settings, name)] for name in contents}
    n_files = sum(path.is_file() for path in (settings.records_dir / FLEET).rglob("*"))
    return found == {name: [content] for name, content in contents.items()} and n_files == len(
        contents
    )


@pytest.fixture(params=["full", "cheap"])
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    profile: Profile = request.param
    return Settings(data_dir=tmp_path / "data", profile=profile)


def test_everything_is_moved_and_every_old_and_new_place_is_said(settings: Settings) -> None:
    contents, said = leave(settings), []
    move_records(settings, FLEET, "run", said.append)
    assert arrived(settings, contents)
    assert not any(path.exists() for path in old_places(settings).values())
    assert len(said) == 3
    for folder in (LEDGER, HISTORY, f"fetched/{STORE}"):
        new = settings.records_dir / FLEET / folder
        assert sum(f"moved to {new} (" in line for line in said) == 1
    assert any(str(old_places(settings)[LEDGER]) in line and "(1 file)" in line for line in said)
    assert RecordTable(settings.records_dir / FLEET / LEDGER).read()["row"].to_list() == [0, 1, 2]


def test_it_happens_once(settings: Settings) -> None:
    contents, said = leave(settings), []
    move_records(settings, FLEET, "run")
    move_records(settings, FLEET, "run", said.append)
    assert said == []
    assert arrived(settings, contents)


def test_unless_told_otherwise_the_log_says_it(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    leave(settings)
    with caplog.at_level(logging.WARNING):
        move_records(settings, FLEET, "run")
    assert "experiment_ledger.parquet were moved to" in caplog.text


def test_rows_appended_afterwards_follow_those_that_were_moved(settings: Settings) -> None:
    leave(settings)
    move_records(settings, FLEET, "run")
    table = RecordTable(settings.records_dir / FLEET / LEDGER)
    table.append(pl.DataFrame({"row": [9]}))
    assert table.read()["row"].to_list() == [0, 1, 2, 9]


def test_what_an_earlier_release_leaves_once_more_is_added(settings: Settings) -> None:
    leave(settings)
    move_records(settings, FLEET, "run")
    pl.DataFrame({"row": [77]}).write_parquet(old_places(settings)[LEDGER])
    move_records(settings, FLEET, "run")
    assert sorted(RecordTable(settings.records_dir / FLEET / LEDGER).read()["row"]) == [0, 1, 2, 77]


def test_another_run_of_the_fleet_is_not_disturbed(settings: Settings) -> None:
    contents = leave(settings)
    with (
        Lake(settings.lake_dir).fleet(FLEET).lock("of another release"),
        pytest.raises(FleetLockedError, match="of another release"),
    ):
        move_records(settings, FLEET, "run")
    assert {name: path.read_bytes() for name, path in old_places(settings).items()} == contents


def test_a_step_whose_run_holds_the_fleet_moves_them(settings: Settings) -> None:
    contents = leave(settings)
    with Lake(settings.lake_dir).fleet(FLEET).lock("run"):
        move_records(settings, FLEET, "run")
    assert arrived(settings, contents)


@pytest.mark.heavy
@pytest.mark.parametrize("event", ["os.link", "os.remove"])
@pytest.mark.parametrize("nth", [1, 4, 9])
def test_a_move_that_is_killed_is_finished_by_the_next_and_loses_nothing(
    settings: Settings, event: str, nth: int
) -> None:
    contents = leave(settings)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tsfm_pipeline.catalogue.moves "
        "import move_records\n"
        "from tsfm_pipeline.settings import Settings\nseen = 0\n"
        "def watch(event, arguments):\n    global seen\n    if event == sys.argv[3]:\n        "
        "seen += 1\n"
        "        if seen == int(sys.argv[4]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "settings = Settings(data_dir=Path(sys.argv[1]), profile=sys.argv[2])\n"
        "sys.addaudithook(watch)\nmove_records(settings, 'shop', 'run')"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(settings.data_dir),
        settings.profile,
        event,
        str(nth),
    ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    killed = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    move_records(settings, FLEET, "run")
    for leftover in settings.records_dir.rglob(".*.tmp"):
        leftover.unlink()
    assert arrived(settings, contents)


def test_steps_that_move_at_once_do_no_harm(settings: Settings) -> None:
    contents = leave(settings)
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        for moved in [pool.submit(move_records, settings, FLEET, "run") for _ in range(8)]:
            moved.result(timeout=60)
    assert arrived(settings, contents)


def test_across_file_systems_files_are_copied(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    link: Callable[..., None] = os.link

    def across(source: Path, target: Path) -> None:
        if not Path(source).name.startswith("."):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)

    contents = leave(settings)
    monkeypatch.setattr(moves.os, "link", across)
    move_records(settings, FLEET, "run")
    assert arrived(settings, contents)


def test_a_training_state_keeps_its_names_and_goes_on_after_an_interruption(tmp_path: Path) -> None:
    old, new = (
        tmp_path / "lake" / ".pretraining" / "run",
        tmp_path / "records" / "pretraining" / "run",
    )
    old.mkdir(parents=True)
    (old / "state.pt").write_bytes(b"weights")
    (old / "losses.jsonl").write_text("{}\n")
    new.mkdir(parents=True)
    (new / "state.pt").write_bytes(b"weights")
    said: list[str] = []
    move_training_state(old, new, said.append)
    assert {path.name: path.read_bytes() for path in new.iterdir()} == {
        "state.pt": b"weights",
        "losses.jsonl": b"{}\n",
    }
    assert not old.exists()
    assert said == [f"the training state in {old} was moved to {new} (2 files)"]
    move_training_state(old, new, said.append)
    assert len(said) == 1


def test_a_training_state_never_replaces_another(tmp_path: Path) -> None:
    for folder, weights in (("old", b"mine"), ("new", b"yours")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "state.pt").write_bytes(weights)
    with pytest.raises(StorageError, match="another file of that name is there"):
        move_training_state(tmp_path / "old", tmp_path / "new")
    assert [(tmp_path / folder / "state.pt").read_bytes() for folder in ("old", "new")] == [
        b"mine",
        b"yours",
    ]
