"""The only module that knows where tables lie: Parquet in and out, DuckDB over them, one writer per fleet.

What belongs here: paths, shard-wise resumption, seals, the fleet lock. What does not: writing one file (`files`), what a table means or
contains (`tables` names them, the domain packages make them).

A table is a folder `<lake>/<fleet>/<table>/` of Parquet parts, one per tenant shard (or a single one), `_parts.json` with the seal (size
and SHA-256) of each part, and a `_table.json` that is written last. A part whose stored fingerprint equals the expected one and that still
has its seal is not made again, so an interrupted run resumes; a reader checks the seal of every part that it opens.
"""

import fcntl
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.files import StorageError, fingerprint, room_for, sha256_of, write_atomically

SCHEMA_VERSION = 1
MANIFEST = "_table.json"
SEALS = "_parts.json"
_FINGERPRINT_KEY = "tsfm_pipeline.fingerprint"


class LakeError(StorageError):
    """A table is missing, stale, damaged or locked; the message names it and says what to do."""


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

    def fleet(self, name: str, expected: Mapping[str, str] | None = None) -> "FleetLake":
        """The tables of one fleet. `expected` maps a table's name to the fingerprint a reader insists on."""
        path = (self.root / name.replace("\0", "/")).resolve()
        if path.parent != self.root.resolve():
            raise LakeError(f"fleet name {name!r} would leave the lake at {self.root}; allowed: letters, digits, - and _")
        return FleetLake(path, dict(expected or {}))


class FleetLake:
    """Reads and writes the tables of one fleet."""

    def __init__(self, path: Path, expected: dict[str, str]) -> None:
        self.path = path
        self.name = path.name
        self.expected = expected
        self._intact: dict[Path, tuple[int, int]] = {}
        """Size and time of modification that each part had when its seal was checked."""

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
                    holders = _read_holders(handle)
                    if not holders or holders[-1]["run_id"] != run_id:
                        # Earlier steps of that run may have ended: name a process that still lives.
                        unknown = {"pid": "(not in .lock)", "run_id": "(not in .lock)", "since": "an unknown time"}
                        holder = next((h for h in reversed(holders) if _is_alive(h["pid"])), holders[-1] if holders else unknown)
                        raise FleetLockedError(
                            f"fleet {self.name!r} is being written by process {holder['pid']} of run "
                            f"{holder['run_id']} since {holder['since']}; wait for it, or end that process, then start again"
                        ) from None
                holder = {"pid": os.getpid(), "run_id": run_id, "since": datetime.now(UTC).isoformat(timespec="seconds")}
                with room_for(self.path / ".lock"):
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
        """Make one Parquet part per shard with `make(shard)`; parts that are already there, undamaged and with the right fingerprint, stay.

        `table` must have an expected fingerprint. The parts are sealed, written to a temporary name and renamed.
        """
        expected = self._expected(table)
        folder = self.path / table
        folder.mkdir(parents=True, exist_ok=True)
        if force or self.recorded_fingerprint(table) != expected:
            (folder / MANIFEST).unlink(missing_ok=True)
        seals = _read_seals(folder)
        parts = []
        n_skipped = 0
        for number, shard in enumerate(shards):
            part = folder / f"part-{number:05d}.parquet"
            part_fingerprint = fingerprint(expected, list(shard))
            if not force and _part_fingerprint(part) == part_fingerprint and seals.get(part.name) == _seal(part):
                n_skipped += 1
            else:
                frame = make(shard)
                metadata = {_FINGERPRINT_KEY: part_fingerprint, "tsfm_pipeline.schema_version": str(SCHEMA_VERSION)}
                write_atomically(part, partial(_write_sealed, frame, metadata, part, seals))
                log(f"{table}: shard {number + 1} of {len(shards)} written, {frame.height} rows")
            parts.append(part)
        if n_skipped:
            log(f"{table}: {n_skipped} of {len(shards)} shards were already there and are kept")
        for stale in (set(folder.glob("part-*.parquet")) - set(parts)) | set(folder.glob(".*.tmp")):
            stale.unlink()
        _write_seals(folder, {part.name: seals[part.name] for part in parts})
        return self._finish(table, expected, parts, n_skipped, dict(provenance or {}))

    def write(self, table: str, frame: pl.DataFrame, *, provenance: Mapping[str, Any] | None = None) -> TableSummary:
        """Write a table that is not split into shards."""
        return self.map_shards(table, lambda _: frame, [()], provenance=provenance, force=True)

    def _finish(self, table: str, expected: str, parts: list[Path], n_skipped: int, provenance: dict[str, Any]) -> TableSummary:
        frame = pl.scan_parquet(parts, glob=False)
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

        Raises `LakeError` if the table is missing, was interrupted, was made by other code, settings or inputs than now apply, or if a
        part is not the file that was written.
        """
        parts = self._parts(table)
        return pl.scan_parquet(self._checked(table, parts if shard is None else parts[shard : shard + 1]), glob=False)

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
                paths = [glob.escape(str(part)) for part in self._checked(table, self._parts(table))]
                connection.read_parquet(paths, hive_partitioning=False).create_view(table)
            return connection.sql(sql).pl()

    def record(self, table: str) -> dict[str, Any]:
        """The table's `_table.json`, after the check that it is the table that is expected."""
        path = self.path / table / MANIFEST
        if not path.exists():
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} is not there (looked for {path}); materialise the asset {table!r} first"
            )
        record = _read_json(path)
        if record.get("schema_version") != SCHEMA_VERSION:
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} cannot be read: {path} has schema version {record.get('schema_version')}, this "
                f"release reads {SCHEMA_VERSION}; materialise the asset {table!r} again"
            )
        expected = self.expected.get(table)
        if expected is not None and record.get("fingerprint") != expected:
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} was made by other code, settings or inputs "
                f"(fingerprint {record.get('fingerprint')}, expected {expected}); materialise the asset {table!r} again"
            )
        return record

    def recorded_fingerprint(self, table: str) -> str | None:
        """The fingerprint of the finished table on disk, or None."""
        return _read_json(self.path / table / MANIFEST).get("fingerprint")

    def _parts(self, table: str) -> list[Path]:
        return [self.path / table / name for name in self.record(table)["parts"]]

    def _checked(self, table: str, parts: list[Path]) -> list[Path]:
        """The same parts, each of which has its seal; they are read for it once, and again when they change."""
        stamps = {part: _stamp(part) for part in parts}
        unchecked = [part for part in parts if stamps[part] is None or self._intact.get(part) != stamps[part]]
        seals = _read_seals(self.path / table) if unchecked else {}
        for part in unchecked:
            stamp = stamps[part]
            if stamp is None or seals.get(part.name) != _seal(part):
                raise LakeError(
                    f"table {table!r} of fleet {self.name!r} is damaged: {part} is not the file that was written "
                    f"({'it is gone' if stamp is None else 'its size or SHA-256 differs'}); materialise the asset {table!r} again, "
                    "which makes what is damaged anew and keeps the rest"
                )
            self._intact[part] = stamp
        return parts

    def _expected(self, table: str) -> str:
        if table not in self.expected:
            raise LakeError(f"no fingerprint is known for table {table!r}; known: {', '.join(sorted(self.expected)) or 'none'}")
        return self.expected[table]


def _read_holders(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Who holds a fleet, oldest first; a line that a full disk cut short names nobody."""
    holders = []
    for line in lines:
        with suppress(ValueError):
            holders.append(json.loads(line))
    return holders


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_sealed(frame: pl.DataFrame, metadata: dict[str, str], part: Path, seals: dict[str, Any], temporary: Path) -> None:
    """Write a part, and its seal before it gets its name: after a kill in between, the part without that seal is made again."""
    frame.write_parquet(temporary, compression="zstd", compression_level=1, metadata=metadata)
    seals[part.name] = _seal(temporary)
    _write_seals(part.parent, seals)


def _seal(path: Path) -> dict[str, Any]:
    """What a file must still be when it is read: size in bytes and SHA-256."""
    return {"n_bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _write_seals(folder: Path, seals: Mapping[str, Any]) -> None:
    text = json.dumps(seals, indent=1, sort_keys=True)
    write_atomically(folder / SEALS, lambda path: path.write_text(text))


def _read_seals(folder: Path) -> dict[str, Any]:
    """The seals of a table's parts; parts of a release that wrote no seals are sealed by what they are."""
    path = folder / SEALS
    return _read_json(path) if path.exists() else {part.name: _seal(part) for part in folder.glob("part-*.parquet")}


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, an empty one where the file is missing or holds none."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of modification of a file, or None where it is missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _part_fingerprint(path: Path) -> str | None:
    """The fingerprint stored in a part, or None where there is no readable Parquet file."""
    if not path.exists():
        return None
    try:
        return pl.read_parquet_metadata(path).get(_FINGERPRINT_KEY)
    except (pl.exceptions.PolarsError, OSError):
        return None
