"""Records of the answers that the service gave, as Parquet files that a fleet's steps read.

What belongs here: collecting rows and appending them in a thread of its own. What does not: the
columns and where the files lie (`evaluation.served`), and what a row says (`service`).

A request never waits for the disk. A process that is killed loses the rows of its last minute, and
leaves no torn file: every file is written beside its place and then linked (`files.append_file`).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tsfm_pipeline.evaluation.served import SERVED_COLUMNS
from tsfm_pipeline.files import StorageError, append_file

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 20_000
"""Rows that wait at most; further ones are dropped and counted. A row takes about 2 KiB."""
EVERY_S = 60.0

Result = Literal["written", "dropped", "failed"]
_LOGGER = logging.getLogger(__name__)
_NOT_WRITTEN = (OSError, StorageError, ValueError, TypeError, OverflowError)
"""Errors of the disk, and of a value that its column cannot hold. Neither may end the thread, or no
later record would be written.
"""


class Recorder:
    """Appends rows to files in a folder: one file per minute, or earlier when many rows wait.

    folder: None: nothing is recorded. on_result: told how many rows were written, dropped, or lost
    with a file that could not be written; it is called from any thread.
    """

    def __init__(
        self,
        folder: Path | None,
        on_result: Callable[[int, Result], None],
        *,
        every_s: float = EVERY_S,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._folder, self._on_result = folder, on_result
        self._every_s, self._max_rows = every_s, max_rows
        self._rows: deque[Mapping[str, Any]] = deque()
        self._wake, self._closing = threading.Event(), False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread that writes."""
        if self._folder is not None:
            self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
            self._thread.start()

    def record(self, row: Mapping[str, Any]) -> None:
        """Keep one row, a value for every one of `SERVED_COLUMNS`, to be written soon.

        Returns at once. A row is dropped where too many wait.
        """
        if self._thread is None or self._closing:
            return
        if len(self._rows) >= self._max_rows:
            self._on_result(1, "dropped")
            return
        self._rows.append(row)
        if len(self._rows) >= self._max_rows // 2:
            self._wake.set()

    def close(self, timeout_s: float = 10.0) -> None:
        """Write the rows that wait, and stop. Returns after `timeout_s` at the latest."""
        self._closing = True
        if self._thread is not None:
            self._wake.set()
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _LOGGER.error("the last records could not be written within %s s", timeout_s)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._every_s)
            self._wake.clear()
            self._append()
        self._append()  # what came while the last file was written

    def _append(self) -> None:
        """Write all rows that wait into one new file."""
        rows = [self._rows.popleft() for _ in range(len(self._rows))]
        if not rows or self._folder is None:
            return
        try:
            append_file(self._folder, partial(_write, rows), suffix=".parquet")
        except _NOT_WRITTEN as error:
            _LOGGER.error("%d records are lost: %s", len(rows), error)
            self._on_result(len(rows), "failed")
        else:
            self._on_result(len(rows), "written")


def _write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = [_array([row[c.name] for row in rows], c.dtype) for c in SERVED_COLUMNS]
    table = pa.table(arrays, names=[column.name for column in SERVED_COLUMNS])
    pq.write_table(table, path, compression="zstd")


def _array(values: list[Any], dtype: str) -> "pa.Array":
    """Return one column as Arrow. dtype: in the words of `ServedColumn`. Lists are arrays."""
    import pyarrow as pa

    if dtype == "List[Float32]":
        parts = [np.asarray(value, dtype=np.float32).ravel() for value in values]
        ends = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
        flat = pa.array(np.concatenate(parts) if parts else np.empty(0, np.float32))
        return pa.LargeListArray.from_arrays(pa.array(ends), flat)
    types = {
        "String": pa.large_string(),
        "Datetime": pa.timestamp("us", tz="UTC"),
        "Float64": pa.float64(),
        "Int32": pa.int32(),
        "Boolean": pa.bool_(),
    }
    return pa.array(values, type=types[dtype])
