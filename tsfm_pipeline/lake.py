"""Tables: writes and reads Parquet, queries it with DuckDB, and allows one writer per fleet.

What belongs here: the record of a table, and reading and committing it. What does not: one part
(`parts`), where parts and records lie and who holds a fleet (`store`, `object_store`), what a table
means or contains (`catalogue.tables`), who makes a part and where (`catalogue.shards`).

A table is a folder `<lake>/<fleet>/<table>/` of Parquet parts, one per tenant shard (or a single
one), and a `_table.json` that names them with size, rows and SHA-256. That record is written last:
without it, the parts are not a table. A reader checks the seal of every part that it opens.
"""

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from tsfm_pipeline.commits import (
    MANIFEST,
    Run,
    TableSummary,
    TableWriter,
    Task,
    is_ours,
    parsed,
)
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.object_store import ObjectStore, fleets_at
from tsfm_pipeline.parts import SCHEMA_VERSION, Part, is_sealed, size_and_time
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.store import ABSENT, FolderStore, Hold, Store

CACHE = ".cache"
"""The folder of the lake with this machine's copies of what lies in an object store, unless
`Settings.cache_dir` names another one.
"""
State = Literal["current", "stale", "missing", "interrupted", "damaged"]
"""How a table on disk compares with the one that is expected."""


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


def open_lake(settings: Settings) -> "Lake":
    """Return the lake of these settings: in the data folder, or at `lake_url`."""
    url = settings.lake_url and f"{settings.lake_url}/{settings.profile}"
    return Lake(settings.lake_dir, url, settings.copies_dir)


class Lake:
    """All fleets' tables under one root. url: where they lie instead, in an object store. cache:
    the folder of this machine's copies of what it wrote to or read from there; `.cache` in the root
    by default.
    """

    def __init__(self, root: Path, url: str | None = None, cache: Path | None = None) -> None:
        self.root = root
        self.url = url
        self.cache = cache or root / CACHE

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
        store = ObjectStore(self.url, name, self.cache) if self.url else FolderStore(path)
        return FleetLake(store, dict(expected or {}))

    def fleets(self) -> list[str]:
        """Return the names of the fleets that have tables. Hidden folders are not fleets."""
        names = fleets_at(self.url) if self.url else FolderStore(self.root).folders()
        return [name for name in names if not name.startswith(".")]


class FleetLake:
    """Reads and writes the tables of one fleet."""

    def __init__(self, store: Store, expected: dict[str, str]) -> None:
        self.store = store
        self.name = store.name
        self.expected = expected
        self.held: Hold | None = None
        """This process's hold on the fleet, while `lock` lasts."""
        self._intact: dict[Path, tuple[int, int]] = {}
        """Size and modification time of each part when its seal was last checked."""
        self._records: dict[str, tuple[str, dict[str, Any] | None]] = {}
        """The record of each table that was read, with its tag."""
        self._parts: dict[str, tuple[dict[str, Any], list[Part]]] = {}
        """The parts of each table, with the record that names them."""

    @property
    def path(self) -> Path:
        """The folder of the fleet. Raises `LakeError` if its tables lie in an object store."""
        if isinstance(self.store, FolderStore):
            return self.store.folder
        raise LakeError(
            f"the tables of fleet {self.name!r} lie in {self.where()}, which is not a folder; "
            "unset TSFM_LAKE_URL for what needs one"
        )

    def store_of(self, table: str) -> Store:
        """Return where a table lies."""
        return self.store

    def where(self, table: str = "") -> str:
        """Return the path or URL of a table, or of the fleet."""
        return self.store_of(table).where(table)

    # -- writing

    @contextmanager
    def lock(self, run_id: str) -> Iterator[Hold]:
        """Hold the fleet for one run; see `Store.hold`. What is committed meanwhile is committed
        only if the hold was not lost.
        """
        with self.store.hold(run_id) as held:
            outer, self.held = self.held, held
            try:
                yield held
            finally:
                self.held = outer

    def holder(self) -> dict[str, Any] | None:
        """Return the process that writes this fleet now, or None; see `Store.holder`."""
        return self.store.holder()

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
        numerics: str = "",
        log: Callable[[str], Any] = lambda _: None,
    ) -> TableSummary:
        """Let `run` make the missing parts, then commit the table. Only this method writes a
        table's record.

        Existing parts are kept if they are undamaged and were made under the expected fingerprint
        and with these numerics (what the last digits depend on besides, as JSON), unless `force` is
        set. If all parts of the stored table are undamaged, they are kept however they were made.
        If the stored table has another fingerprint, its record is withdrawn first, so that no table
        of this name can be read until the commit. Raises `LakeError` if `table` has no expected
        fingerprint, if `run` ends without a part for every shard, or if another run has committed
        the table meanwhile; `FleetLostError` if the hold was lost.
        """
        return self._writer(table, numerics).complete(
            shards, run, provenance=provenance or {}, force=force, log=log
        )

    def put(
        self,
        table: str,
        number: int,
        shard: Sequence[int],
        frame: pl.DataFrame,
        numerics: str = "",
    ) -> Part:
        """Write one part under a name that follows from its content and numerics. Readers do not
        see it until `complete` has committed the table.
        """
        return self._writer(table, numerics, committing=False).put(number, shard, frame)

    def write(
        self, table: str, frame: pl.DataFrame, *, provenance: Mapping[str, Any] | None = None
    ) -> TableSummary:
        """Write a table that is not split into shards."""
        return self.map_shards(table, lambda _: frame, [()], provenance=provenance, force=True)

    def _writer(self, table: str, numerics: str = "", *, committing: bool = True) -> TableWriter:
        """Return the writer of a table. Raises `LakeError` if it lies in an object store and nobody
        holds the fleet: records that name no epoch could not be told apart.
        """
        store = self.store_of(table)
        hold = self.held if store is self.store else None
        if committing and store.remote and hold is None:
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} can only be written by a run that holds "
                f"the fleet, because it lies in {self.where(table)}"
            )
        return TableWriter(self.name, table, self._expected(table), store, hold, numerics)

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
        path, record = f"{self.where(table)}/{MANIFEST}", self._read_record(table)
        if record is None:
            raise LakeError(
                f"table {table!r} of fleet {self.name!r} is not there (looked for {path}); "
                f"materialise the asset {table!r} first"
            )
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

    def has(self, table: str) -> bool:
        """Return whether a table has a record, whatever it says."""
        return self.store_of(table).get(f"{table}/{MANIFEST}").content is not None

    def recorded(self, table: str) -> dict[str, Any]:
        """Return the content of the table's `_table.json` unchecked; empty if there is none."""
        return parsed(self.store_of(table).get(f"{table}/{MANIFEST}").content)

    def state(self, table: str) -> State:
        """Return the state of a table, without reading its parts: it is `damaged` if a part is
        missing, has another size, or was written again since in an object store.
        """
        entries = self.store_of(table).entries(table)
        if not self.has(table):
            return "interrupted" if any(map(is_ours, entries)) else "missing"
        record = self.recorded(table)
        if "fingerprint" not in record:
            return "damaged"
        version, made = record.get("schema_version"), record["fingerprint"]
        if (version, made) != (SCHEMA_VERSION, self._expected(table)):
            return "stale"
        listed = {entry.name: entry for entry in entries}
        intact = all(
            part.name in listed
            and listed[part.name].n_bytes == part.n_bytes
            and part.tag in ("", listed[part.name].tag)
            for part in self.parts(table)
        )
        return "current" if intact else "damaged"

    def size(self, table: str) -> int:
        """Return the bytes of everything in a table's folder."""
        return sum(entry.n_bytes for entry in self.store_of(table).entries(table))

    def parts(self, table: str) -> list[Part]:
        """Return the parts of a table, in the order of their shards. Raises as `record` does."""
        record = self.record(table)
        if table not in self._parts or self._parts[table][0] is not record:
            self._parts[table] = record, [Part(**part) for part in record["parts"]]
        return self._parts[table][1]

    def _read_record(self, table: str) -> dict[str, Any] | None:
        """Return a record, or None. It is read again only when it changes, because every shard of a
        step reads the records of its inputs.
        """
        store, key = self.store_of(table), f"{table}/{MANIFEST}"
        tag = store.tag(key)
        if table not in self._records or self._records[table][0] != tag:
            content = None if tag == ABSENT else store.get(key).content
            self._records[table] = tag, None if content is None else parsed(content)
        return self._records[table][1]

    def _checked(self, table: str, parts: Sequence[Part]) -> list[Path]:
        """Return the files of these parts. Each file is read to check its seal once, and again when
        it changes. A damaged copy of an object is fetched again.
        """
        store, paths = self.store_of(table), []
        for part in parts:
            path = store.file(f"{table}/{part.name}")
            if not self._is_intact(path, part):
                path = store.file(f"{table}/{part.name}", again=True)
                if not self._is_intact(path, part):
                    reason = "its size or SHA-256 differs" if path.exists() else "it is gone"
                    raise LakeError(
                        f"table {table!r} of fleet {self.name!r} is damaged: "
                        f"{store.where(f'{table}/{part.name}')} is not the file that was written "
                        f"({reason}); materialise the asset {table!r} again, "
                        "which makes the damaged parts again and keeps the others"
                    )
            paths.append(path)
        return paths

    def _is_intact(self, path: Path, part: Part) -> bool:
        stamp = size_and_time(path)
        if stamp is None:
            return False
        if self._intact.get(path) != stamp:
            if not is_sealed(path, part):
                return False
            self._intact[path] = stamp
        return True

    def _expected(self, table: str) -> str:
        if table not in self.expected:
            raise LakeError(
                f"no fingerprint is known for table {table!r}; known: "
                f"{', '.join(sorted(self.expected)) or 'none'}"
            )
        return self.expected[table]
