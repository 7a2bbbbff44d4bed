"""The only module that knows where tables are stored: it writes and reads Parquet, queries it with
DuckDB, and allows one writer per fleet.

What belongs here: the folder of a table, its record, and reading and committing it. What does not:
one part (`parts`), the fleet's lock (`lock`), writing one file (`files`), what a table means or
contains (`catalogue.tables`), who makes a part and where (`catalogue.shards`).

A table is a folder `<lake>/<fleet>/<table>/` of Parquet parts, one per tenant shard (or a single
one), and a `_table.json` that names them with size, rows and SHA-256. That record is written last:
without it, the parts are not a table. A reader checks the seal of every part that it opens.
"""

import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from tsfm_pipeline.files import LakeError, fingerprint, sha256_of, write_text_atomically
from tsfm_pipeline.lock import hold, holder
from tsfm_pipeline.parts import (
    SCHEMA_VERSION,
    Part,
    fingerprint_start,
    finished_parts,
    remove,
    size_and_time,
    write_part,
)

MANIFEST = "_table.json"
_OURS = ("part-*.parquet", ".*.tmp", "_parts.json")
"""What a table's folder may hold besides its record. Releases before schema version 2 wrote
`_parts.json`.
"""


@dataclass(frozen=True)
class TableSummary:
    """A materialised table: its rows and bytes, and how many of its parts already existed."""

    table: str
    fingerprint: str
    n_rows: int
    n_bytes: int
    n_parts: int
    n_skipped: int
    schema: dict[str, str]


State = Literal["current", "stale", "missing", "interrupted", "damaged"]
"""How a table on disk compares with the one that is expected."""
Task = tuple[int, Sequence[int]]
"""A shard to be made: its number and its tenants."""
Run = Callable[[Sequence[Task]], Iterable[Part]]
"""Makes shards, in any order, and yields the part that was written for each."""


def arrays_frame(arrays: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Return named arrays as a table with one row per array (name, dtype, shape, data);
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
        """Return the tables of one fleet. `expected` maps a table's name to the fingerprint that
        readers require. Raises `LakeError` for a name that would leave the lake.
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
        """Size and modification time of each part when its seal was last checked."""
        self._records: dict[Path, tuple[tuple[int, int] | None, dict[str, Any]]] = {}
        """Each record that was read, with the size and modification time of its file."""
        self._parts: dict[str, tuple[dict[str, Any], list[Part]]] = {}
        """The parts of each table, with the record that names them."""

    def folder(self, table: str) -> Path:
        """Return the folder of a table."""
        return self.path / table

    # -- writing

    def lock(self, run_id: str) -> AbstractContextManager[None]:
        """Hold the fleet for one run; see `lock.hold`."""
        return hold(self.path, run_id)

    def holder(self) -> dict[str, Any] | None:
        """Return the process that writes this fleet now, or None; see `lock.holder`."""
        return holder(self.path)

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
        """Make a table with one part per shard by calling `make(shard)` in this process, one shard
        after the other; see `complete`.
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
        """Let `run` make the missing parts, then commit the table. Only this method writes a
        table's record.

        Existing parts are kept if they are undamaged and were made under the expected fingerprint,
        unless `force` is set. If the stored table has another fingerprint, its record is deleted
        first, so that no table of this name can be read until the commit. Raises `LakeError` if
        `table` has no expected fingerprint, or if `run` ends without a part for every shard.
        """
        expected = self._expected(table)
        folder = self.folder(table)
        folder.mkdir(parents=True, exist_ok=True)
        before = {path for pattern in _OURS for path in folder.glob(pattern)}
        wanted = [fingerprint(expected, list(shard)) for shard in shards]
        if force or self.recorded_fingerprint(table) != expected:
            (folder / MANIFEST).unlink(missing_ok=True)
            # Parts of the old table would take up disk space until the new one is finished.
            ours = {part[:8] for part in wanted}
            of_others = {path for path in before if fingerprint_start(path) not in ours}
            remove(of_others)
            before -= of_others
        kept = {} if force else finished_parts(wanted, before)
        tasks = [(number, shard) for number, shard in enumerate(shards) if number not in kept]
        if kept:
            log(f"{table}: {len(kept)} of {len(shards)} shards were already there and are kept")
        made: dict[int, Part] = {}
        for part in run(tasks) if tasks else ():
            made[part.number] = part
            log(f"{table}: shard {part.number + 1} of {len(shards)} written, {part.n_rows} rows")
        missing = [str(number + 1) for number, _ in tasks if number not in made]
        if missing:
            raise LakeError(
                f"table {table!r} of fleet {self.name!r}: shards {', '.join(missing)} of "
                f"{len(shards)} were not made; "
                f"materialise the asset {table!r} again, which keeps the others"
            )
        parts = [(kept | made)[number] for number in range(len(shards))]
        summary = self._commit(table, expected, parts, len(kept), dict(provenance or {}))
        # Another writer may still need files that appeared since this run began; the next run
        # removes them.
        remove(before - {folder / part.name for part in parts})
        return summary

    def put(self, table: str, number: int, shard: Sequence[int], frame: pl.DataFrame) -> Part:
        """Write one part under a name that follows from its content. Readers do not see it until
        `complete` has committed the table.
        """
        made_by = fingerprint(self._expected(table), list(shard))
        return write_part(self.folder(table), number, made_by, frame)

    def write(
        self, table: str, frame: pl.DataFrame, *, provenance: Mapping[str, Any] | None = None
    ) -> TableSummary:
        """Write a table that is not split into shards."""
        return self.map_shards(table, lambda _: frame, [()], provenance=provenance, force=True)

    def _commit(
        self,
        table: str,
        expected: str,
        parts: Sequence[Part],
        n_skipped: int,
        provenance: Mapping[str, Any],
    ) -> TableSummary:
        first = pl.scan_parquet(self.folder(table) / parts[0].name, glob=False).collect_schema()
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
        write_text_atomically(self.folder(table) / MANIFEST, text)
        return summary

    # -- reading

    def scan(self, table: str, *shards: int) -> pl.LazyFrame:
        """Return a lazy view of a table, or of the shards with these numbers; no other part is
        opened.

        Raises `LakeError` if the table is missing or unfinished, was made by other code, settings
        or inputs than those that now apply, or if a part is not the file that was written.
        """
        parts = self.parts(table)
        return pl.scan_parquet(
            self._checked(table, [parts[number] for number in shards] if shards else parts),
            glob=False,
        )

    def read(
        self, table: str, shard: int | None = None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Return a table, or one shard of it, in memory. Raises as `scan` does."""
        frame = self.scan(table) if shard is None else self.scan(table, shard)
        return (frame.select(columns) if columns else frame).collect()

    def read_arrays(self, table: str) -> dict[str, np.ndarray]:
        """Return the arrays of a table that `arrays_frame` made."""
        return {
            row["name"]: np.frombuffer(row["data"], dtype=np.dtype(row["dtype"])).reshape(
                row["shape"]
            )
            for row in self.read(table).iter_rows(named=True)
        }

    def query(self, sql: str, *tables: str) -> pl.DataFrame:
        """Run DuckDB SQL over the named tables; each is a view of its Parquet parts."""
        import duckdb

        with duckdb.connect() as connection:
            for table in tables:
                paths = [glob.escape(str(part)) for part in self._checked(table, self.parts(table))]
                connection.read_parquet(paths, hive_partitioning=False).create_view(table)
            return connection.sql(sql).pl()

    def record(self, table: str) -> dict[str, Any]:
        """Return the table's `_table.json`. Raises `LakeError` if it is missing, has another schema
        version, or does not have the expected fingerprint.
        """
        path = self.folder(table) / MANIFEST
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
        """Return the content of the table's `_table.json` unchecked; empty if there is none."""
        return _read_json(self.folder(table) / MANIFEST)

    def recorded_fingerprint(self, table: str) -> str | None:
        """Return the fingerprint of the finished table on disk, or None."""
        return self.recorded(table).get("fingerprint")

    def state(self, table: str) -> State:
        """Return the state of a table, without reading its parts: it is `damaged` if a part is
        missing or has another size.
        """
        folder = self.folder(table)
        if not (folder / MANIFEST).is_file():
            begun = any(path for pattern in _OURS for path in folder.glob(pattern))
            return "interrupted" if begun else "missing"
        record = self.recorded(table)
        if "fingerprint" not in record:
            return "damaged"
        version, made = record.get("schema_version"), record["fingerprint"]
        if (version, made) != (SCHEMA_VERSION, self._expected(table)):
            return "stale"
        sizes = [(size_and_time(folder / part.name), part.n_bytes) for part in self.parts(table)]
        intact = all(stamp is not None and stamp[0] == n_bytes for stamp, n_bytes in sizes)
        return "current" if intact else "damaged"

    def size(self, table: str) -> int:
        """Return the bytes of everything in a table's folder."""
        files = [path for path in self.folder(table).glob("*") if path.is_file()]
        return sum(stamp[0] for path in files if (stamp := size_and_time(path)))

    def parts(self, table: str) -> list[Part]:
        """Return the parts of a table, in the order of their shards. Raises as `record` does."""
        record = self.record(table)
        if table not in self._parts or self._parts[table][0] is not record:
            self._parts[table] = record, [Part(**part) for part in record["parts"]]
        return self._parts[table][1]

    def _read_record(self, path: Path) -> dict[str, Any]:
        """Return a record from disk. It is parsed again only when the file changes, because every
        shard of a step reads the records of its inputs.
        """
        stamp = size_and_time(path)
        if path not in self._records or self._records[path][0] != stamp:
            self._records[path] = stamp, _read_json(path)
        return self._records[path][1]

    def _checked(self, table: str, parts: Sequence[Part]) -> list[Path]:
        """Return the files of these parts. Each file is read to check its seal once, and again when
        it changes.
        """
        paths = []
        for part in parts:
            path = self.folder(table) / part.name
            stamp = size_and_time(path)
            if stamp is None or self._intact.get(path) != stamp:
                if stamp is None or (stamp[0], sha256_of(path)) != (part.n_bytes, part.sha256):
                    raise LakeError(
                        f"table {table!r} of fleet {self.name!r} is damaged: {path} is not the "
                        "file that was written "
                        f"({'it is gone' if stamp is None else 'its size or SHA-256 differs'}); "
                        f"materialise the asset {table!r} again, "
                        "which makes the damaged parts again and keeps the others"
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


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if it is missing or holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
