"""Run the tests of a full disk in a separate process: fill the disk, look, make room, go on. Print
the outcome as JSON.

    python -m tsfm_pipeline_tests.faults.filling_a_disk <folder> remount|rlimit

What belongs here: the two kinds of limit and what is written into them. What does not: what is
expected.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tsfm_pipeline.files import StorageError, write_atomically
from tsfm_pipeline.lake import Lake

SHARDS = [[0], [1], [2]]
SMALL, LARGE = 2_000, 40_000
"""Rows of 8 random bytes: the first two shards fit into either limit, the third does not."""
LIMIT_BYTES = 150_000


def limit_files(n_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


def make_room(root: Path, how: str) -> None:
    if how == "rlimit":
        limit_files(resource.RLIM_INFINITY)
    else:
        subprocess.run(["mount", "-o", "remount,size=8m", str(root)], check=True)


def told(attempt: Callable[[], object]) -> str:
    """What the attempt fails with, for people."""
    try:
        attempt()
    except StorageError as error:
        return str(error)
    return ""


def main(root: Path, how: str) -> None:
    report = root / "reports" / "report.json"
    report.parent.mkdir()
    report.write_text("old")
    if how == "rlimit":
        limit_files(LIMIT_BYTES)
    lake = Lake(root).fleet("demo", {"numbers": "v1"})
    made: list[int] = []

    def make(shard: Sequence[int]) -> pl.DataFrame:
        made.append(shard[0])
        n_rows = LARGE if shard == SHARDS[2] else SMALL
        return pl.DataFrame({"value": np.random.default_rng(shard[0]).normal(size=n_rows)})

    outcome: dict[str, object] = {
        "table": told(lambda: lake.map_shards("numbers", make, SHARDS)),
        "report": told(
            lambda: write_atomically(report, lambda path: path.write_text("x" * 2 * LIMIT_BYTES))
        ),
        "reader": told(lambda: lake.read("numbers")),
        "parts": sorted(path.name for path in lake.path.rglob("*.parquet")),
        "temporary": [path.name for path in root.rglob("*.tmp")],
        "old report": report.read_text(),
    }
    made.clear()
    make_room(root, how)
    lake.map_shards("numbers", make, SHARDS)
    print(json.dumps({**outcome, "made again": made, "rows": lake.read("numbers").height}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
