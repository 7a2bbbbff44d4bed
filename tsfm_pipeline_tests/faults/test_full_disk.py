"""Test a disk that fills up while tables are written: the message says so, whole files stay, and
the run continues once there is room.

What belongs here: limits that the kernel sets. What does not: errors that a test makes up.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.faults.filling_a_disk import LARGE, LIMIT_BYTES, SMALL

OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]


def fill(folder: Path, how: str) -> dict[str, Any]:
    """The outcome of `filling_a_disk` in a folder that is a file system of its own (remount) or has
    a limit on files (rlimit).
    """
    fill = f"exec {sys.executable} -m tsfm_pipeline_tests.faults.filling_a_disk {folder} {how}"
    command = ["sh", "-c", fill]
    if how == "remount":
        command = [
            *OWN_MOUNTS,
            "sh",
            "-c",
            f"mount -t tmpfs -o size={LIMIT_BYTES} tsfm {folder} && {fill}",
        ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    outcome: dict[str, Any] = json.loads(run.stdout)
    return outcome


def can_mount() -> bool:
    try:
        return (
            subprocess.run(
                [*OWN_MOUNTS, "true"], capture_output=True, timeout=30, check=False
            ).returncode
            == 0
        )
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("how", "words"),
    [
        pytest.param(
            "remount",
            "No space left on device",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    not can_mount(),
                    reason="a small disk needs `unshare --map-root-user --mount`, which is not "
                    "allowed here",
                ),
            ],
        ),
        ("rlimit", "File too large"),
    ],
)
def test_a_full_disk_is_named_nothing_whole_is_lost_and_with_room_the_run_goes_on(
    tmp_path: Path, how: str, words: str
) -> None:
    outcome = fill(tmp_path, how)
    part = re.escape(f"{tmp_path}/demo/numbers/part-00002-") + r"\w+-\w+\.parquet"
    assert re.search(
        f"no room to write {part}: {words}; make room and start again", outcome["table"]
    )
    assert f"no room to write {tmp_path}/reports/report.json: {words}" in outcome["report"]
    assert outcome["old report"] == "old"
    assert "table 'numbers' of fleet 'demo' is not there" in outcome["reader"]
    assert [name[:10] for name in outcome["parts"]] == ["part-00000", "part-00001"]
    assert outcome["temporary"] == []
    assert outcome["made again"] == [2]
    assert outcome["rows"] == 2 * SMALL + LARGE
