"""Record tables: what cannot be made again, as folders of small files that are only ever added to.

What belongs here: appending to a record table, reading it as a whole, and the names of a fleet's
record tables. What does not: what a row means (`steps`), what was fetched from a server
(`fleets.prometheus_store`, which keeps its files by the same rules).

One append is one Parquet file, named by time, host, a random number and the digest of its content,
and put in place only if nothing has that name: appends from several processes and hosts never
collide, and a process that is killed leaves nothing half written. No run rewrites, prunes or cleans
these files; `tsfm-pipeline fleet forget` alone deletes them. Parquet, and not lines of JSON,
because the recommendations of one run are tables of many thousands of rows, and because a file then
carries the types of its columns: DuckDB and polars read the folder by a glob.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tsfm_pipeline.files import StorageError, append_file, is_intact

LEDGER = "experiment_ledger"
HISTORY = "recommendation_history"
SUFFIX = ".parquet"
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


@dataclass(frozen=True)
class Kept:
    """What there is of one record table: n_rows of the files that can be read, and how many
    cannot.
    """

    folder: Path
    n_files: int
    n_rows: int
    n_bytes: int
    n_unreadable: int


class RecordTable:
    """One record table: the files of one folder, read together.

    schema: the columns that every reader may rely on, with their types. A file of an earlier
    release that lacks one has nulls there; columns that only some files have follow the declared
    ones.
    """

    def __init__(self, folder: Path, schema: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.schema = pl.Schema(schema or {})

    def append(self, rows: pl.DataFrame, label: str = "") -> Path:
        """Add rows as one new file; returns its path. Files are read in the order of their labels,
        then of their appends.

        Raises `StorageError` where there is no room, and `polars.exceptions.PolarsError` for values
        that do not fit the schema.
        """
        typed = rows.with_columns(
            pl.col(name).cast(dtype) for name, dtype in self.schema.items() if name in rows.columns
        )
        return append_file(self.folder, typed.write_parquet, suffix=SUFFIX, label=label)

    def paths(self) -> list[Path]:
        """The files that there are, in the order in which they are read."""
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    def read(self) -> pl.DataFrame:
        """All rows of all files. Raises `StorageError` that names a file which is not what was
        written.
        """
        frames = [pl.DataFrame(schema=self.schema), *(read_record(path) for path in self.paths())]
        try:
            rows = pl.concat(frames, how="diagonal_relaxed")
            return rows.with_columns(
                pl.col(name).cast(dtype) for name, dtype in self.schema.items()
            )
        except pl.exceptions.PolarsError as error:
            raise StorageError(
                f"the files in {self.folder} do not fit together: {error}; move what does not "
                "belong there away"
            ) from error


def read_record(path: Path) -> pl.DataFrame:
    """The rows of one append. Raises `StorageError` where the file is not what was written."""
    try:
        if is_intact(path):
            return pl.read_parquet(path, glob=False)
        reason = "its SHA-256 is not the one in its name"
    except _UNREADABLE as error:
        reason = str(error)
    raise StorageError(
        f"the record {path} cannot be read: {reason}. Nothing can make it again, and nothing is "
        "written over it: restore it from a "
        "backup, or move it away to go on without it; the other files of the folder are read "
        "without it"
    )


def what_is_kept(folder: Path) -> list[Kept]:
    """Every record table in a fleet's folder of records, with what a person should know before
    deleting it.
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
    """Delete a fleet's folder of records, with everything in it; the caller holds the fleet's lock
    and has asked.
    """
    shutil.rmtree(folder)


def _n_rows(path: Path) -> int | None:
    try:
        return int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    except _UNREADABLE:
        return None
