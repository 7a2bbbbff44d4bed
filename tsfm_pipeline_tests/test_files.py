"""Test writing files: a new file replaces nothing, appends of many processes do not collide, and
files hold what was written.

What belongs here: `files`. What does not: tables (`test_lake`), record tables
(`catalogue/test_records`), full disks (`faults`).
"""

import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest

from tsfm_pipeline import files
from tsfm_pipeline.files import (
    StorageError,
    append_file,
    appended_name,
    is_intact,
    put_if_absent,
    sha256_of,
)
from tsfm_pipeline.settings import PROJECT_ROOT


def put(path: Path, text: str) -> bool:
    return put_if_absent(path, lambda temporary: temporary.write_text(text))


def append_some(folder: Path, writer: int) -> list[str]:
    return [
        append_file(folder, lambda path, i=i: path.write_text(f"{writer} {i}"), suffix=".txt").name
        for i in range(20)
    ]


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    assert put(path, "first")
    assert not put(path, "second")
    assert path.read_text() == "first"
    assert [found.name for found in path.parent.iterdir()] == ["file"], "nothing temporary is left"


def test_of_many_processes_one_puts_the_file(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        written = list(pool.map(put, [tmp_path / "file"] * 24, map(str, range(24))))
    assert sum(written) == 1
    assert (tmp_path / "file").read_text() == str(written.index(True))


def test_a_writer_that_is_killed_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tsfm_pipeline.files import "
        "put_if_absent\n"
        "def half(path):\n    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "put_if_absent(Path(sys.argv[1]), half)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")],
        env=environment,
        check=False,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "file").exists()
    assert put(tmp_path / "file", "whole"), "what it left is in nobody's way"


def test_an_error_of_the_writer_leaves_nothing(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_text("half")
        raise ValueError("of the writer")

    with pytest.raises(ValueError, match="of the writer"):
        put_if_absent(tmp_path / "file", fails)
    with pytest.raises(ValueError, match="of the writer"):
        append_file(tmp_path, fails, suffix=".txt")
    assert list(tmp_path.iterdir()) == []


def test_appends_of_many_processes_are_all_there(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        names = [name for some in pool.map(append_some, [tmp_path] * 4, range(4)) for name in some]
    assert len(set(names)) == 80
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert {path.read_text() for path in tmp_path.iterdir()} == {
        f"{writer} {i}" for writer in range(4) for i in range(20)
    }


def test_names_sort_in_the_order_of_the_appends_also_after_the_clock_was_set_back(
    tmp_path: Path,
) -> None:
    tomorrow = tmp_path / (
        appended_name("", datetime.now(UTC) + timedelta(days=1), "host", "0" * 8, "0" * 16) + ".txt"
    )
    tomorrow.write_text("0")
    for i in range(1, 4):
        append_file(tmp_path, lambda path, i=i: path.write_text(str(i)), suffix=".txt")
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["0", "1", "2", "3"]


def test_labels_keep_their_own_order(tmp_path: Path) -> None:
    for label in ("2024-03-02", "2024-03-01", "2024-03-02"):
        append_file(tmp_path, lambda path: path.write_text("x"), suffix=".txt", label=label)
    assert [path.name[:10] for path in sorted(tmp_path.iterdir())] == [
        "2024-03-01",
        "2024-03-02",
        "2024-03-02",
    ]


def test_a_file_that_is_not_what_was_written_is_noticed(tmp_path: Path) -> None:
    path = append_file(
        tmp_path, lambda path: path.write_bytes(bytes(100)), suffix=".bin", label="a-label"
    )
    assert is_intact(path)
    assert sha256_of(path)[:16] in path.name
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    assert not is_intact(path)
    by_hand = tmp_path / "by-hand.bin"
    by_hand.write_bytes(b"")
    assert is_intact(by_hand), "nobody said what it should be"


def test_a_file_system_without_hard_links_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", refuses)
    with pytest.raises(StorageError, match="no hard links"):
        put(tmp_path / "file", "text")


def test_the_module_costs_nobody_the_import_of_polars() -> None:
    code = (
        "import sys; import tsfm_pipeline.files; print('polars' in sys.modules, 'numpy' in "
        "sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]
