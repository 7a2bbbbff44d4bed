"""Record tables: data that cannot be made again, stored as folders of small files that are only
ever added to.

What belongs here: appending to a record table, reading all of it, a lock for appends that depend on
what was read, and the names of a fleet's record tables. What does not: what a row means (`steps`),
and samples fetched from a server (`fleets.fetched_days`, which follows the same rules).

Each append writes one Parquet file, named by time, host, a random number and the digest of its
content. The file is put in place only if no file has that name. Appends from several processes and
hosts therefore never collide, and a killed process leaves no half-written file. No run rewrites,
prunes or cleans these files; only `tsfm-pipeline fleet forget` deletes them. The format is Parquet
rather than lines of JSON for two reasons: the recommendations of one run have many thousands of
rows, and a Parquet file stores the types of its columns, so that DuckDB and polars can read the
folder by a glob.
"""

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tsfm_pipeline.files import StorageError, append_file, is_intact

LEDGER = "experiment_ledger"
HISTORY = "recommendation_history"
ROLLOUT_OVERRIDES = "rollout_overrides"
ROLLOUT_HISTORY = "rollout_history"
SUFFIX = ".parquet"
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True)
class Kept:
    """The extent of one record table. n_rows counts the rows of readable files; n_unreadable counts
    the other files.
    """

    folder: Path
    n_files: int
    n_rows: int
    n_bytes: int
    n_unreadable: int


class RecordTable:
    """One record table: the files of one folder, read together.

    schema: the columns that every reader may rely on, with their types. If a file of an earlier
    release lacks one of them, its rows have nulls there. Columns that only some files have come
    after the declared ones.
    """

    def __init__(self, folder: Path, schema: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.schema = pl.Schema(schema or {})

    def append(self, rows: pl.DataFrame, label: str = "") -> Path:
        """Add rows as one new file and return its path. Files are read in the order of their
        labels, then of their appends.

        Raises `StorageError` if the disk is full, and `polars.exceptions.PolarsError` for values
        that do not fit the schema.
        """
        typed = rows.with_columns(
            pl.col(name).cast(dtype) for name, dtype in self.schema.items() if name in rows.columns
        )
        return append_file(self.folder, typed.write_parquet, suffix=SUFFIX, label=label)

    def paths(self) -> list[Path]:
        """Return the table's files, in the order in which they are read."""
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    def read(self) -> pl.DataFrame:
        """Return all rows of all files. Raises `StorageError`, with the file's name, if a file is
        not what was written or the files do not fit together.
        """
        frames = [pl.DataFrame(schema=self.schema), *(read_record(path) for path in self.paths())]
        try:
            rows = pl.concat(frames, how="diagonal_relaxed")
            return rows.with_columns(
                pl.col(name).cast(dtype) for name, dtype in self.schema.items()
            )
        except pl.exceptions.PolarsError as error:
            raise StorageError(
                f"the files in {self.folder} do not fit together: {error}; move the files that do "
                "not belong there to another folder"
            ) from error


def read_record(path: Path) -> pl.DataFrame:
    """Return the rows of one append. Raises `StorageError` if the file is not what was written."""
    try:
        if is_intact(path):
            return pl.read_parquet(path, glob=False)
        reason = "its SHA-256 is not the one in its name"
    except _UNREADABLE as error:
        reason = str(error)
    raise StorageError(
        f"the record {path} cannot be read: {reason}. It cannot be made again, and no run "
        "overwrites it: restore it from a backup, or move it away to go on without "
        "it; the other files of the folder are still read"
    )


def what_is_kept(folder: Path) -> list[Kept]:
    """Return every record table in a fleet's folder of records, with its extent, which a person
    should know before deleting it.
    """
    kept = []
    for table in sorted(path for path in folder.glob("*") if path.is_dir()):
        files = [path for path in table.rglob("*") if path.is_file()]
        rows = [_n_rows(path) for path in files if path.suffix == SUFFIX]
        readable = [n for n in rows if n is not None]
        n_bytes = sum(path.stat().st_size for path in files)
        kept.append(Kept(table, len(files), sum(readable), n_bytes, len(rows) - len(readable)))
    return kept


def forget(folder: Path) -> None:
    """Delete a fleet's folder of records with everything in it. The caller must hold the fleet's
    lock and have asked for confirmation.
    """
    shutil.rmtree(folder)


def _n_rows(path: Path) -> int | None:
    try:
        return int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    except _UNREADABLE:
        return None


@contextmanager
def held(lock_file: Path) -> Iterator[None]:
    """Wait until no other process of this host holds a file, and hold it meanwhile. The kernel
    releases it when a process ends. A record that depends on earlier ones is appended under it.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
