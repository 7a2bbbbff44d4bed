"""The only module that knows where tables lie: Parquet in and out, DuckDB over them, one writer per fleet.

What belongs here: paths, atomic writes, shard-wise resumption, fingerprints, the fleet lock. What does not: what a table
means or contains (`tables` names them, the domain packages make them).

A table is a folder `<lake>/<fleet>/<table>/` of Parquet parts, one per tenant shard (or a single one), and a `_table.json`
that is written last. A part whose stored fingerprint equals the expected one is not made again, so an interrupted run resumes.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.settings import Settings

SCHEMA_VERSION = 1
MANIFEST = "_table.json"
_FINGERPRINT_KEY = "tsfm_pipeline.fingerprint"


class LakeError(RuntimeError):
    """A table is missing, stale or locked; the message names it and says what to do."""


class FleetLockedError(LakeError):
    """Another run is writing this fleet; the message names its process, its run and since when."""


@dataclass(frozen=True)
class TableSummary:
    """What a materialisation did: rows and bytes of the table, and how much of it was already there."""

    table: str
    fingerprint: str
    n_rows: int
    n_bytes: int
    n_parts: int
    n_skipped: int
    schema: dict[str, str]


def fingerprint(*parts: Any) -> str:
    """SHA-256 (first 16 hex digits) over the canonical JSON of the arguments."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a reader sees the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def arrays_frame(arrays: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Named arrays as a table with one row per array (name, dtype, shape, data); `FleetLake.read_arrays` reads it."""
    rows = [
        {"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "data": np.ascontiguousarray(array).tobytes()}
        for name, array in sorted(arrays.items())
    ]
    schema: dict[str, Any] = {"name": pl.String, "dtype": pl.String, "shape": pl.List(pl.Int64), "data": pl.Binary}
    return pl.DataFrame(rows, schema=schema)


class Lake:
    """All fleets' tables under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def from_settings(cls, settings: Settings) -> "Lake":
        return cls(settings.lake_dir)

    def fleet(self, name: str, expected: Mapping[str, str] | None = None) -> "FleetLake":
        """The tables of one fleet. `expected` maps a table's name to the fingerprint a reader insists on."""
        path = (self.root / name).resolve()
        if path.parent != self.root.resolve():
            raise LakeError(f"fleet name {name!r} would leave the lake at {self.root}; allowed: letters, digits, - and _")
        return FleetLake(path, dict(expected or {}))


class FleetLake:
    """Reads and writes the tables of one fleet."""

    def __init__(self, path: Path, expected: dict[str, str]) -> None:
        self.path = path
        self.name = path.name
        self.expected = expected

    # -- writing ------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self, run_id: str) -> Iterator[None]:
        """Hold the fleet for one run. Steps of the same run share it; a second run fails at once.

        Raises `FleetLockedError`, which names the holder's pid and run and since when it holds the fleet.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".guard").open("a") as guard, (self.path / ".lock").open("a+") as handle:
            fcntl.flock(guard, fcntl.LOCK_EX)
            try:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    handle.truncate(0)
                except BlockingIOError:
                    handle.seek(0)
                    holders = [json.loads(line) for line in handle]
                    if holders and holders[-1]["run_id"] != run_id:
                        # Earlier steps of that run may have ended: name a process that still lives.
                        holder = next((h for h in reversed(holders) if _is_alive(h["pid"])), holders[-1])
                        raise FleetLockedError(
                            f"fleet {self.name!r} is being written by process {holder['pid']} of run "
                            f"{holder['run_id']} since {holder['since']}; wait for it, or end that process, then start again"
                        ) from None
                holder = {"pid": os.getpid(), "run_id": run_id, "since": datetime.now(UTC).isoformat(timespec="seconds")}
                handle.write(json.dumps(holder) + "\n")
                handle.flush()
                fcntl.flock(handle, fcntl.LOCK_SH)
            finally:
                fcntl.flock(guard, fcntl.LOCK_UN)
            yield

    def map_shards(
        self,
        table: str,
        make: Callable[[Sequence[int]], pl.DataFrame],
        shards: Sequence[Sequence[int]],
        *,
        provenance: Mapping[str, Any] | None = None,
        force: bool = False,
        log: Callable[[str], Any] = lambda _: None,
    ) -> TableSummary:
        """Make one Parquet part per shard with `make(shard)`; parts that are already there with the right fingerprint stay.

        `table` must have an expected fingerprint. The parts are written to a temporary name and renamed.
        """
        expected = self._expected(table)
        folder = self.path / table
        folder.mkdir(parents=True, exist_ok=True)
        if force or self.recorded_fingerprint(table) != expected:
            (folder / MANIFEST).unlink(missing_ok=True)
        parts = []
        n_skipped = 0
        for number, shard in enumerate(shards):
            part = folder / f"part-{number:05d}.parquet"
            part_fingerprint = fingerprint(expected, list(shard))
            if not force and _part_fingerprint(part) == part_fingerprint:
                n_skipped += 1
            else:
                frame = make(shard)
                metadata = {_FINGERPRINT_KEY: part_fingerprint, "tsfm_pipeline.schema_version": str(SCHEMA_VERSION)}
                write_atomically(part, partial(_write_parquet, frame, metadata))
                log(f"{table}: shard {number + 1} of {len(shards)} written, {frame.height} rows")
            parts.append(part)
        if n_skipped:
            log(f"{table}: {n_skipped} of {len(shards)} shards were already there and are kept")
        for stale in (set(folder.glob("part-*.parquet")) - set(parts)) | set(folder.glob(".*.tmp")):
            stale.unlink()
        return self._finish(table, expected, parts, n_skipped, dict(provenance or {}))

    def write(self, table: str, frame: pl.DataFrame, *, provenance: Mapping[str, Any] | None = None) -> TableSummary:
        """Write a table that is not split into shards."""
        return self.map_shards(table, lambda _: frame, [()], provenance=provenance, force=True)

    def _finish(self, table: str, expected: str, parts: list[Path], n_skipped: int, provenance: dict[str, Any]) -> TableSummary:
        frame = pl.scan_parquet(parts)
        schema = {name: str(dtype) for name, dtype in frame.collect_schema().items()}
        n_rows = int(frame.select(pl.len()).collect().item())
        summary = TableSummary(
            table=table,
            fingerprint=expected,
            n_rows=n_rows,
            n_bytes=sum(part.stat().st_size for part in parts),
            n_parts=len(parts),
            n_skipped=n_skipped,
            schema=schema,
        )
        record = {
            "fingerprint": expected,
            "schema_version": SCHEMA_VERSION,
            "n_rows": n_rows,
            "parts": [part.name for part in parts],
            "schema": schema,
            **provenance,
        }
        text = json.dumps(record, indent=1, sort_keys=True)
        write_atomically(self.path / table / MANIFEST, lambda p: p.write_text(text))
        return summary

    # -- reading ------------------------------------------------------------------------------------------------

    def scan(self, table: str, shard: int | None = None) -> pl.LazyFrame:
        """A lazy view of a table, or of one of its shards.

        Raises `LakeError` if the table is missing, was interrupted, or was made by other code, settings or inputs than now apply.
        """
        record = self.record(table)
        parts = record["parts"] if shard is None else record["parts"][shard : shard + 1]
        return pl.scan_parquet([self.path / table / part for part in parts])

    def read(self, table: str, shard: int | None = None, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """A table, or one shard of it, in memory; errors as in `scan`."""
        frame = self.scan(table, shard)
        return (frame.select(columns) if columns else frame).collect()

    def read_arrays(self, table: str) -> dict[str, np.ndarray]:
        """The arrays of a table that `arrays_frame` made."""
        return {
            row["name"]: np.frombuffer(row["data"], dtype=np.dtype(row["dtype"])).reshape(row["shape"])
            for row in self.read(table).iter_rows(named=True)
        }

    def query(self, sql: str, *tables: str) -> pl.DataFrame:
        """Run DuckDB SQL over the named tables, each of which is a view of its Parquet parts."""
        import duckdb

        with duckdb.connect() as connection:
            for table in tables:
                paths = [str(self.path / table / part) for part in self.record(table)["parts"]]
                connection.read_parquet(paths).create_view(table)
            return connection.sql(sql).pl()

    def record(self, table: str) -> dict[str, Any]:
        """The table's `_table.json`, after the check that it is the table that is expected."""
        path = self.path / table / MANIFEST
        if not path.exists():
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} is not there (looked for {path}); materialise the asset {table!r} first"
            )
        record: dict[str, Any] = json.loads(path.read_text())
        expected = self.expected.get(table)
        if expected is not None and record.get("fingerprint") != expected:
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} was made by other code, settings or inputs "
                f"(fingerprint {record.get('fingerprint')}, expected {expected}); materialise the asset {table!r} again"
            )
        return record

    def recorded_fingerprint(self, table: str) -> str | None:
        """The fingerprint of the finished table on disk, or None."""
        path = self.path / table / MANIFEST
        return json.loads(path.read_text()).get("fingerprint") if path.exists() else None

    def _expected(self, table: str) -> str:
        if table not in self.expected:
            raise LakeError(f"no fingerprint is known for table {table!r}; known: {', '.join(sorted(self.expected)) or 'none'}")
        return self.expected[table]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_parquet(frame: pl.DataFrame, metadata: dict[str, str], path: Path) -> None:
    frame.write_parquet(path, compression="zstd", compression_level=1, metadata=metadata)


def _part_fingerprint(path: Path) -> str | None:
    """The fingerprint stored in a part, or None where there is no readable Parquet file."""
    if not path.exists():
        return None
    try:
        return pl.read_parquet_metadata(path).get(_FINGERPRINT_KEY)
    except (pl.exceptions.PolarsError, OSError):
        return None
