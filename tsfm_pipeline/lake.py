"""The only module that knows where tables lie: Parquet in and out, DuckDB over them, one writer per
fleet.

What belongs here: paths, the parts of a table and what has been finished of them, seals, the fleet
lock. What does not: writing one file (`files`), what a table means or contains
(`catalogue.tables`), who makes a part and where (`catalogue.shards`).

A table is a folder `<lake>/<fleet>/<table>/` of Parquet parts, one per tenant shard (or a single
one), and a `_table.json` that names them with size, rows and SHA-256. It is written last, and makes
the parts a table. A part's name holds its number, the fingerprint that it was made under and the
digest of its bytes (8 hex digits each), so that no name is ever given to two contents, two writers
never meet, and a run that was interrupted finds what it had finished without a record. A reader
checks the seal of every part that it opens.
"""

import fcntl
import glob
import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import numpy as np
import polars as pl

from tsfm_pipeline.files import StorageError, fingerprint, room_for, sha256_of, write_atomically

SCHEMA_VERSION = 2
MANIFEST = "_table.json"
_FINGERPRINT_KEY = "tsfm_pipeline.fingerprint"
_PART_NAME = re.compile(
    r"part-(?P<number>\d{5,})-(?P<made_by>[0-9a-f]{8})-(?P<content>[0-9a-f]{8})\.parquet"
)
_OURS = ("part-*.parquet", ".*.tmp", "_parts.json")
"""What a table's folder may hold besides its record; `_parts.json` is of releases before schema
version 2.
"""


class LakeError(StorageError):
    """A table is missing, stale, damaged or locked; the message names it and says what to do."""


class FleetLockedError(LakeError):
    """Another run is writing this fleet; the message names its process, its run and since when."""


@dataclass(frozen=True)
class TableSummary:
    """What a materialisation did: rows and bytes of the table, and how much of it was already
    there.
    """

    table: str
    fingerprint: str
    n_rows: int
    n_bytes: int
    n_parts: int
    n_skipped: int
    schema: dict[str, str]


class Part(NamedTuple):
    """A finished part of a table: its shard's number, its name, its rows, and its seal (size and
    SHA-256).
    """

    number: int
    name: str
    n_rows: int
    n_bytes: int
    sha256: str


State = Literal["current", "stale", "missing", "interrupted", "damaged"]
"""How a table on disk stands to the one that is expected."""
Task = tuple[int, Sequence[int]]
"""A shard to be made: its number and its tenants."""
Run = Callable[[Sequence[Task]], Iterable[Part]]
"""Makes shards, in any order, and says of each what was written."""


def arrays_frame(arrays: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Named arrays as a table with one row per array (name, dtype, shape, data);
    `FleetLake.read_arrays` reads it.
    """
    rows = [
        {
            "name": name,
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "data": np.ascontiguousarray(array).tobytes(),
        }
        for name, array in sorted(arrays.items())
    ]
    schema: dict[str, Any] = {
        "name": pl.String,
        "dtype": pl.String,
        "shape": pl.List(pl.Int64),
        "data": pl.Binary,
    }
    return pl.DataFrame(rows, schema=schema)


class Lake:
    """All fleets' tables under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fleet(self, name: str, expected: Mapping[str, str] | None = None) -> "FleetLake":
        """The tables of one fleet. `expected` maps a table's name to the fingerprint a reader
        insists on.
        """
        path = (self.root / name.replace("\0", "/")).resolve()
        if path.parent != self.root.resolve():
            raise LakeError(
                f"fleet name {name!r} would leave the lake at {self.root}; allowed: letters, "
                "digits, - and _"
            )
        return FleetLake(path, dict(expected or {}))


class FleetLake:
    """Reads and writes the tables of one fleet."""

    def __init__(self, path: Path, expected: dict[str, str]) -> None:
        self.path = path
        self.name = path.name
        self.expected = expected
        self._intact: dict[Path, tuple[int, int]] = {}
        """Size and time of modification that each part had when its seal was checked."""
        self._records: dict[Path, tuple[tuple[int, int] | None, dict[str, Any]]] = {}
        """Each record that was read, and the size and time of modification that its file had."""
        self._parts: dict[str, tuple[dict[str, Any], list[Part]]] = {}
        """The parts of each table, and the record that names them."""

    # -- writing

    @contextmanager
    def lock(self, run_id: str) -> Iterator[None]:
        """Hold the fleet for one run. Steps of the same run share it; a second run fails at once.

        Raises `FleetLockedError`, which names the holder's pid and run and since when it holds the
        fleet.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".guard").open("a") as guard, (self.path / ".lock").open("a+") as handle:
            fcntl.flock(guard, fcntl.LOCK_EX)
            try:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    handle.truncate(0)
                except BlockingIOError:
                    holders = _read_holders(handle)
                    if not holders or holders[-1]["run_id"] != run_id:
                        holder = _living_holder(holders)
                        raise FleetLockedError(
                            f"fleet {self.name!r} is being written by process {holder['pid']} of "
                            "run "
                            f"{holder['run_id']} since {holder['since']}; wait for it, or end "
                            "that process, then start again"
                        ) from None
                holder = {
                    "pid": os.getpid(),
                    "run_id": run_id,
                    "since": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                with room_for(self.path / ".lock"):
                    handle.write(json.dumps(holder) + "\n")
                    handle.flush()
                fcntl.flock(handle, fcntl.LOCK_SH)
            finally:
                fcntl.flock(guard, fcntl.LOCK_UN)
            yield

    def holder(self) -> dict[str, Any] | None:
        """The process that writes this fleet now (pid, run_id, since), or None."""
        try:
            with (self.path / ".guard").open() as guard, (self.path / ".lock").open() as handle:
                # Under the guard, so that a run that starts meanwhile waits and is not refused.
                fcntl.flock(guard, fcntl.LOCK_EX)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _living_holder(_read_holders(handle))
        except FileNotFoundError:
            return None
        return None

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
        """Make a table with one part per shard by `make(shard)`, here and one after the other; see
        `complete`.
        """

        def run(tasks: Sequence[Task]) -> Iterator[Part]:
            for number, shard in tasks:
                yield self.put(table, number, shard, make(shard))

        return self.complete(table, shards, run, provenance=provenance, force=force, log=log)

    def complete(
        self,
        table: str,
        shards: Sequence[Sequence[int]],
        run: Run,
        *,
        provenance: Mapping[str, Any] | None = None,
        force: bool = False,
        log: Callable[[str], Any] = lambda _: None,
    ) -> TableSummary:
        """Let `run` make the parts that are missing, and commit the table: the one writer of its
        record.

        Parts that are there, undamaged and made under the expected fingerprint, which `table` must
        have, stay, unless `force` is set. Meanwhile there is no table of this name if it was
        another one. Raises `LakeError` where `run` ends without a part for every shard.
        """
        expected = self._expected(table)
        folder = self.path / table
        folder.mkdir(parents=True, exist_ok=True)
        before = {path for pattern in _OURS for path in folder.glob(pattern)}
        wanted = [fingerprint(expected, list(shard)) for shard in shards]
        if force or self.recorded_fingerprint(table) != expected:
            (folder / MANIFEST).unlink(missing_ok=True)
            # Parts of another table would take room until this one is finished.
            ours = {part[:8] for part in wanted}
            of_others = {path for path in before if _made_by(path) not in ours}
            _remove(of_others)
            before -= of_others
        kept = {} if force else self._finished(table, wanted, before)
        tasks = [(number, shard) for number, shard in enumerate(shards) if number not in kept]
        made: dict[int, Part] = {}
        for part in run(tasks) if tasks else ():
            made[part.number] = part
            log(f"{table}: shard {part.number + 1} of {len(shards)} written, {part.n_rows} rows")
        if kept:
            log(f"{table}: {len(kept)} of {len(shards)} shards were already there and are kept")
        missing = [str(number + 1) for number, _ in tasks if number not in made]
        if missing:
            raise LakeError(
                f"table {table!r} of fleet {self.name!r}: shards {', '.join(missing)} of "
                f"{len(shards)} were not made; "
                f"materialise the asset {table!r} again, which keeps the others"
            )
        parts = [(kept | made)[number] for number in range(len(shards))]
        summary = self._commit(table, expected, parts, len(kept), dict(provenance or {}))
        # What appeared since this run began may be under another writer's hands; the next run
        # sweeps it.
        _remove(before - {folder / part.name for part in parts})
        return summary

    def put(self, table: str, number: int, shard: Sequence[int], frame: pl.DataFrame) -> Part:
        """Write one part, under a name that its content decides; no part of a table before
        `complete` has committed it.
        """
        made_by = fingerprint(self._expected(table), list(shard))
        metadata = {_FINGERPRINT_KEY: made_by, "tsfm_pipeline.schema_version": str(SCHEMA_VERSION)}
        with io.BytesIO() as buffer:
            frame.write_parquet(buffer, compression="zstd", compression_level=1, metadata=metadata)
            content = buffer.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"part-{number:05d}-{made_by[:8]}-{sha256[:8]}.parquet"
        write_atomically(self.path / table / name, partial(Path.write_bytes, data=content))
        return Part(number, name, frame.height, len(content), sha256)

    def write(
        self, table: str, frame: pl.DataFrame, *, provenance: Mapping[str, Any] | None = None
    ) -> TableSummary:
        """Write a table that is not split into shards."""
        return self.map_shards(table, lambda _: frame, [()], provenance=provenance, force=True)

    def _finished(
        self, table: str, wanted: Sequence[str], paths: Iterable[Path]
    ) -> dict[int, Part]:
        """The finished part of each shard number, by the names among `paths`, and by footer and
        bytes; `wanted`: fingerprints.
        """
        candidates: dict[tuple[int, str], list[Path]] = defaultdict(list)
        for path in sorted(paths):
            if match := _PART_NAME.fullmatch(path.name):
                candidates[int(match["number"]), match["made_by"]].append(path)
        found: dict[int, Part] = {}
        for number, made_by in enumerate(wanted):
            for path in candidates[number, made_by[:8]]:
                sha256 = sha256_of(path)
                if (
                    path.name.endswith(f"-{sha256[:8]}.parquet")
                    and _part_fingerprint(path) == made_by
                ):
                    n_rows = int(
                        pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
                    )
                    found[number] = Part(number, path.name, n_rows, path.stat().st_size, sha256)
                    break
        return found

    def _commit(
        self,
        table: str,
        expected: str,
        parts: Sequence[Part],
        n_skipped: int,
        provenance: Mapping[str, Any],
    ) -> TableSummary:
        first = pl.scan_parquet(self.path / table / parts[0].name, glob=False).collect_schema()
        summary = TableSummary(
            table=table,
            fingerprint=expected,
            n_rows=sum(part.n_rows for part in parts),
            n_bytes=sum(part.n_bytes for part in parts),
            n_parts=len(parts),
            n_skipped=n_skipped,
            schema={name: str(dtype) for name, dtype in first.items()},
        )
        record = {
            "fingerprint": expected,
            "schema_version": SCHEMA_VERSION,
            "n_rows": summary.n_rows,
            "parts": [part._asdict() for part in parts],
            "schema": summary.schema,
            **provenance,
        }
        text = json.dumps(record, indent=1, sort_keys=True)
        write_atomically(self.path / table / MANIFEST, lambda p: p.write_text(text))
        return summary

    # -- reading

    def scan(self, table: str, *shards: int) -> pl.LazyFrame:
        """A lazy view of a table, or of some of its shards, by number; no other part is opened.

        Raises `LakeError` if the table is missing, was interrupted, was made by other code,
        settings or inputs than now apply, or if a part is not the file that was written.
        """
        parts = self.parts(table)
        return pl.scan_parquet(
            self._checked(table, [parts[number] for number in shards] if shards else parts),
            glob=False,
        )

    def read(
        self, table: str, shard: int | None = None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """A table, or one shard of it, in memory; errors as in `scan`."""
        frame = self.scan(table) if shard is None else self.scan(table, shard)
        return (frame.select(columns) if columns else frame).collect()

    def read_arrays(self, table: str) -> dict[str, np.ndarray]:
        """The arrays of a table that `arrays_frame` made."""
        return {
            row["name"]: np.frombuffer(row["data"], dtype=np.dtype(row["dtype"])).reshape(
                row["shape"]
            )
            for row in self.read(table).iter_rows(named=True)
        }

    def query(self, sql: str, *tables: str) -> pl.DataFrame:
        """Run DuckDB SQL over the named tables, each of which is a view of its Parquet parts."""
        import duckdb

        with duckdb.connect() as connection:
            for table in tables:
                paths = [glob.escape(str(part)) for part in self._checked(table, self.parts(table))]
                connection.read_parquet(paths, hive_partitioning=False).create_view(table)
            return connection.sql(sql).pl()

    def record(self, table: str) -> dict[str, Any]:
        """The table's `_table.json`, after the check that it is the table that is expected."""
        path = self.path / table / MANIFEST
        if not path.exists():
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} is not there (looked for {path}); "
                f"materialise the asset {table!r} first"
            )
        record = self._read_record(path)
        if record.get("schema_version") != SCHEMA_VERSION:
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} cannot be read: {path} has schema "
                f"version {record.get('schema_version')}, this "
                f"release reads {SCHEMA_VERSION}; materialise the asset {table!r} again"
            )
        expected = self.expected.get(table)
        if expected is not None and record.get("fingerprint") != expected:
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} was made by other code, settings or "
                "inputs "
                f"(fingerprint {record.get('fingerprint')}, expected {expected}); materialise the "
                f"asset {table!r} again"
            )
        return record

    def recorded(self, table: str) -> dict[str, Any]:
        """The table's `_table.json` as it is, of whatever table it is; empty where there is
        none.
        """
        return _read_json(self.path / table / MANIFEST)

    def recorded_fingerprint(self, table: str) -> str | None:
        """The fingerprint of the finished table on disk, or None."""
        return self.recorded(table).get("fingerprint")

    def state(self, table: str) -> State:
        """How a table stands, without a look into its parts: `damaged` where one of them is gone or
        of another size.
        """
        folder = self.path / table
        if not (folder / MANIFEST).is_file():
            begun = any(path for pattern in _OURS for path in folder.glob(pattern))
            return "interrupted" if begun else "missing"
        record = self.recorded(table)
        if "fingerprint" not in record:
            return "damaged"
        version, made = record.get("schema_version"), record["fingerprint"]
        if (version, made) != (SCHEMA_VERSION, self._expected(table)):
            return "stale"
        sizes = [(_stamp(folder / part.name), part.n_bytes) for part in self.parts(table)]
        intact = all(stamp is not None and stamp[0] == n_bytes for stamp, n_bytes in sizes)
        return "current" if intact else "damaged"

    def size(self, table: str) -> int:
        """Bytes of everything in a table's folder."""
        files = [path for path in (self.path / table).glob("*") if path.is_file()]
        return sum(stamp[0] for path in files if (stamp := _stamp(path)))

    def parts(self, table: str) -> list[Part]:
        """The parts of a table, in the order of their shards; errors as in `record`."""
        record = self.record(table)
        if table not in self._parts or self._parts[table][0] is not record:
            self._parts[table] = record, [Part(**part) for part in record["parts"]]
        return self._parts[table][1]

    def _read_record(self, path: Path) -> dict[str, Any]:
        """A record as it is on disk, parsed once: every shard of a step asks for those of its
        inputs.
        """
        stamp = _stamp(path)
        if path not in self._records or self._records[path][0] != stamp:
            self._records[path] = stamp, _read_json(path)
        return self._records[path][1]

    def _checked(self, table: str, parts: Sequence[Part]) -> list[Path]:
        """The files of these parts, each of which has its seal; they are read for it once, and
        again when they change.
        """
        paths = []
        for part in parts:
            path = self.path / table / part.name
            stamp = _stamp(path)
            if stamp is None or self._intact.get(path) != stamp:
                if stamp is None or (stamp[0], sha256_of(path)) != (part.n_bytes, part.sha256):
                    raise LakeError(
                        f"table {table!r} of fleet {self.name!r} is damaged: {path} is not the "
                        "file that was written "
                        f"({'it is gone' if stamp is None else 'its size or SHA-256 differs'}); "
                        f"materialise the asset {table!r} again, "
                        "which makes what is damaged anew and keeps the rest"
                    )
                self._intact[path] = stamp
            paths.append(path)
        return paths

    def _expected(self, table: str) -> str:
        if table not in self.expected:
            raise LakeError(
                f"no fingerprint is known for table {table!r}; known: "
                f"{', '.join(sorted(self.expected)) or 'none'}"
            )
        return self.expected[table]


def _living_holder(holders: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The latest holder whose process still lives, because earlier steps of its run may have ended;
    the latest of all where none does.
    """
    unknown = {"pid": "(not in .lock)", "run_id": "(not in .lock)", "since": "an unknown time"}
    living = (holder for holder in reversed(holders) if _is_alive(holder["pid"]))
    return next(living, holders[-1] if holders else unknown)


def _read_holders(lock: TextIO) -> list[dict[str, Any]]:
    """Who holds a fleet, oldest first; a line that a full disk cut short names nobody."""
    lock.seek(0)
    holders = []
    for line in lock:
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


def _made_by(path: Path) -> str:
    """The beginning of the fingerprint in a part's name; "" in any other name."""
    match = _PART_NAME.fullmatch(path.name)
    return match["made_by"] if match else ""


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


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
