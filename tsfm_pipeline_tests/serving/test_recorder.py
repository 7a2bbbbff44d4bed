"""Test that answers are recorded, that recording delays nobody, and that a killed process leaves no
torn file.
"""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.evaluation.served import SERVED_COLUMNS
from tsfm_pipeline.files import is_intact
from tsfm_pipeline.serving.recorder import Recorder
from tsfm_pipeline_tests.serving.live import until


class Results:
    """What became of the rows."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, n: int, result: str) -> None:
        self.counts[result] += n


def row(number: int = 0, **fields: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "String": f"text {number}",
        "Datetime": datetime(2026, 1, 31, 12, 0, number % 60, 250, tzinfo=UTC),
        "Float64": float(number),
        "Int32": number,
        "Boolean": number % 2 == 0,
        "List[Float32]": np.arange(3, dtype=np.float32) + number,
    }
    return {column.name: values[column.dtype] for column in SERVED_COLUMNS} | fields


def recorded(folder: Path) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(folder.glob("*.parquet")))


def test_a_row_that_cannot_be_written_ends_no_recording(tmp_path: Path) -> None:
    results = Results()
    recorder = Recorder(tmp_path, results, every_s=0.01)
    recorder.start()
    recorder.record(row(0, horizon="many"))
    until(lambda: results.counts["failed"] == 1)
    recorder.record(row(1))
    recorder.close()
    assert recorded(tmp_path)["horizon"].to_list() == [1]


def test_rows_come_back_as_the_columns_say(tmp_path: Path) -> None:
    results = Results()
    recorder = Recorder(tmp_path, results)
    recorder.start()
    for number in range(5):
        recorder.record(row(number))
    recorder.record(row(5, volume_24h=None, baseline=np.empty(0), low_80=(1.0, 2.0)))
    recorder.close()
    table = recorded(tmp_path)
    dtypes = {"Datetime": pl.Datetime("us", "UTC"), "List[Float32]": pl.List(pl.Float32)}
    assert table.schema == {
        c.name: dtypes.get(c.dtype) or getattr(pl, c.dtype)() for c in SERVED_COLUMNS
    }
    assert table["received"][1] == row(1)["received"]
    assert table["deciles"][4].to_list() == [4.0, 5.0, 6.0]
    assert table["low_80"][5].to_list() == [1.0, 2.0]
    assert table["baseline"][5].to_list() == []
    assert table["volume_24h"][5] is None
    assert results.counts == {"written": 6}
    assert all(is_intact(path) for path in tmp_path.glob("*.parquet"))


def test_a_minute_is_one_file(tmp_path: Path) -> None:
    results = Results()
    recorder = Recorder(tmp_path, results, every_s=0.05)
    recorder.start()
    for first in (0, 10):
        for number in range(10):
            recorder.record(row(first + number))
        until(lambda first=first: results.counts["written"] == first + 10)  # type: ignore[misc]
    recorder.close()
    assert recorded(tmp_path)["horizon"].to_list() == list(range(20))


def test_many_rows_are_written_before_the_minute_is_over(tmp_path: Path) -> None:
    results = Results()
    recorder = Recorder(tmp_path, results, every_s=3_600.0, max_rows=20)
    recorder.start()
    for number in range(10):
        recorder.record(row(number))
    until(lambda: results.counts["written"] == 10)
    recorder.close()


def test_too_many_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    results = Results()
    gate = threading.Event()

    class Slow(Results):
        def __call__(self, n: int, result: str) -> None:
            results(n, result)
            if result == "written":
                gate.wait()

    recorder = Recorder(tmp_path, Slow(), every_s=3_600.0, max_rows=10)
    recorder.start()
    for number in range(5):
        recorder.record(row(number))
    until(lambda: results.counts["written"] > 0)  # the thread now waits for the gate
    for number in range(30):
        recorder.record(row(number))
    dropped = results.counts["dropped"]
    gate.set()
    recorder.close()
    assert dropped >= 30 - 10
    assert len(recorded(tmp_path)) == 35 - dropped


def test_a_folder_that_cannot_be_written_loses_rows_not_requests(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    results = Results()
    recorder = Recorder(tmp_path / "file" / "below", results)
    recorder.start()
    recorder.record(row())
    recorder.close()
    assert results.counts == {"failed": 1}


def test_rows_that_cannot_be_written_do_not_end_the_recording(tmp_path: Path) -> None:
    results = Results()
    recorder = Recorder(tmp_path, results, max_rows=2)  # each row is written at once
    recorder.start()
    recorder.record(row(horizon="twelve"))
    until(lambda: results.counts["failed"] == 1)
    recorder.record(row())
    until(lambda: results.counts["written"] == 1)
    recorder.close()


def test_without_a_folder_nothing_is_recorded() -> None:
    results = Results()
    recorder = Recorder(None, results)
    recorder.start()
    recorder.record(row())
    recorder.close()
    assert results.counts == {}


ENDLESS = """
import sys
from pathlib import Path
from tsfm_pipeline.serving.recorder import Recorder
from tsfm_pipeline_tests.serving.test_recorder import row
recorder = Recorder(Path(sys.argv[1]), lambda n, result: None, every_s=0.001)
recorder.start()
number = 0
while True:
    recorder.record(row(number))
    number += 1
"""


@pytest.mark.heavy
def test_a_killed_process_leaves_no_torn_file(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)])
    until(lambda: len(list(tmp_path.glob("*.parquet"))) >= 3)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    files = list(tmp_path.glob("*.parquet"))
    assert all(is_intact(path) for path in files)
    numbers = recorded(tmp_path)["horizon"].to_list()
    assert numbers == sorted(numbers)
