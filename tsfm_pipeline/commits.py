"""Writing a table: its parts first, then the record that makes them a table.

What belongs here: which parts of an earlier run are kept, when a record is withdrawn and committed,
and which parts are garbage. What does not: reading tables (`lake`), the bytes of a part (`parts`),
where they lie and who holds a fleet (`store`).
"""

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import polars as pl

from tsfm_pipeline.files import LakeError, fingerprint
from tsfm_pipeline.parts import (
    SCHEMA_VERSION,
    Part,
    finished_parts,
    is_sealed,
    numerics_mark,
    origin,
    sealed,
)
from tsfm_pipeline.store import ABSENT, Entry, Hold, Store, SwapError

MANIFEST = "_table.json"
DAY_S = 86_400.0
"""Age in seconds from which a part that no record names is garbage: no worker is still making the
table that it belongs to."""
_OURS = ("part-*.parquet", ".*.tmp", "_parts.json")
"""What a table's folder may hold besides its record. Releases before schema version 2 wrote
`_parts.json`.
"""
HOW_MADE = ("numerics", "plan")
"""What a record says about how its parts were made. It stays if no part is made again."""
Task = tuple[int, Sequence[int]]
"""A shard to be made: its number and its tenants."""
Run = Callable[[Sequence[Task]], Iterable[Part]]
"""Makes shards, in any order, and yields the part that was written for each."""


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


@dataclass(frozen=True)
class TableWriter:
    """Writes one table of a fleet. expected: the fingerprint that it is written under. hold: this
    run's hold on the fleet, if it must not be lost before the commit. numerics: what the last
    digits depend on besides the fingerprint, as JSON; "" if that is unknown.
    """

    fleet: str
    table: str
    expected: str
    store: Store
    hold: Hold | None
    numerics: str = ""

    def put(self, number: int, shard: Sequence[int], frame: pl.DataFrame) -> Part:
        """Write one part; see `FleetLake.put`."""
        made_by = fingerprint(self.expected, list(shard))
        part, content = sealed(number, made_by, frame, self.numerics)
        key = self._key(part.name)
        tag = self.store.put_if_absent(key, content)
        if tag == ABSENT:
            there = self.store.get(key)
            same = there.content == content
            tag = there.tag if same else self.store.swap(key, content, there.tag)
        return part._replace(tag=self.store.listed_tag(tag))

    def complete(
        self,
        shards: Sequence[Sequence[int]],
        run: Run,
        *,
        provenance: Mapping[str, Any],
        force: bool,
        log: Callable[[str], Any],
    ) -> TableSummary:
        """Let `run` make the missing parts, then commit the table; see `FleetLake.complete`."""
        table = self.table
        before = [entry for entry in self.store.entries(table) if is_ours(entry)]
        wanted = dict(enumerate(fingerprint(self.expected, list(shard)) for shard in shards))
        tag, recorded = self._begin(force)
        kept = {} if force else self._kept(wanted, before, recorded)
        tasks = [(number, shard) for number, shard in enumerate(shards) if number not in kept]
        if kept:
            log(f"{table}: {len(kept)} of {len(shards)} shards were already there and are kept")
        other = 0 if force else self._made_elsewhere(wanted, before, kept)
        if other:
            log(
                f"{table}: {other} of {len(shards)} shards were already there, but their last "
                "digits may differ from this run's, because they were made with another BLAS "
                "kernel, decoder or device; they are made again"
            )
        if not recorded and not self.store.remote:
            # Parts of the old table would take up disk space until the new one is finished.
            own = {(made_by[:8], numerics_mark(self.numerics)) for made_by in wanted.values()}
            others = {entry for entry in before if _made_by(entry) not in own}
            self.store.remove(entry.key for entry in others)
            before = [entry for entry in before if entry not in others]
        made: dict[int, Part] = {}
        for part in run(tasks) if tasks else ():
            made[part.number] = part
            log(f"{table}: shard {part.number + 1} of {len(shards)} written, {part.n_rows} rows")
        missing = [str(number + 1) for number, _ in tasks if number not in made]
        if missing:
            raise LakeError(
                f"table {table!r} of fleet {self.fleet!r}: shards {', '.join(missing)} of "
                f"{len(shards)} were not made; "
                f"materialise the asset {table!r} again, which keeps the others"
            )
        parts = [(kept | made)[number] for number in range(len(shards))]
        summary = self._summary(parts, len(kept))
        record = {**_record(summary, parts), **provenance}
        if recorded and _names(record) == _names(recorded):
            stays = {name: recorded[name] for name in HOW_MADE if name in recorded}
            record = {name: record[name] for name in record if name not in HOW_MADE} | stays
        self._commit(record, tag)
        self._sweep(before, {part.name for part in parts})
        return summary

    def _begin(self, force: bool) -> tuple[str, dict[str, Any]]:
        """Withdraw the record of the table unless it has the expected fingerprint. Return the tag
        that a commit must find, and the record if it stays.

        In a remote store the record is written in any case, with this run's epoch: a commit of a
        former holder that is under way then finds another tag and fails.
        """
        while True:
            stored = self.store.get(self._key(MANIFEST))
            recorded = parsed(stored.content)
            stays = not force and recorded.get("fingerprint") == self.expected
            if not self.store.remote and (stays or stored.tag == ABSENT):
                return stored.tag, recorded
            content = _text({**recorded, **self._epoch()}) if stays else None
            with suppress(SwapError):  # Somebody else has just written it: look again.
                tag = self.store.swap(self._key(MANIFEST), content, stored.tag, self.hold)
                return tag, recorded if stays else {}

    def _kept(
        self, wanted: Mapping[int, str], entries: Sequence[Entry], recorded: Mapping[str, Any]
    ) -> dict[int, Part]:
        """Return the finished part of each shard whose last digits are this run's. If the table is
        whole, all of its parts are kept, however they were made.
        """
        kept = self._named(wanted, entries, recorded)
        own = json.loads(self.numerics) if self.numerics else None
        if kept.keys() != wanted.keys() and recorded.get("numerics") != own:
            kept = {}
        others = {number: made_by for number, made_by in wanted.items() if number not in kept}
        names = [entry.name for entry in entries]
        return kept | finished_parts(
            others, names, lambda name: self.store.file(self._key(name)), self.numerics
        )

    def _named(
        self, wanted: Mapping[int, str], entries: Sequence[Entry], recorded: Mapping[str, Any]
    ) -> dict[int, Part]:
        """Return the undamaged parts that the record names. A part is read to check its seal, in a
        remote store only if its object has another tag than when it was put: otherwise all parts
        would have to be fetched.
        """
        if recorded.get("schema_version") != SCHEMA_VERSION:
            return {}
        named, listed = {}, {entry.name: entry for entry in entries}
        for part in (Part(**part) for part in recorded.get("parts", ())):
            entry, made = listed.get(part.name), origin(part.name)
            if entry is None or made is None or entry.n_bytes != part.n_bytes:
                continue
            if made.made_by != wanted.get(part.number, "")[:8]:
                continue
            if (part.tag and part.tag == entry.tag) or self._file(part):
                named[part.number] = part._replace(tag=entry.tag)
        return named

    def _made_elsewhere(
        self, wanted: Mapping[int, str], entries: Sequence[Entry], kept: Collection[int]
    ) -> int:
        """Return for how many shards that are not kept there is a part with other numerics."""
        own = numerics_mark(self.numerics)
        there = [made for entry in entries if (made := origin(entry.name))]
        return len(
            {
                made.number
                for made in there
                if made.made_by == wanted.get(made.number, "")[:8] and made.numerics != own
            }
            - set(kept)
        )

    def _file(self, part: Part) -> Path | None:
        """Return a file of this machine with the bytes of a part, or None if it is damaged or gone.
        A damaged copy of an object is fetched again.
        """
        for again in (False, True):
            path = self.store.file(self._key(part.name), again=again)
            if is_sealed(path, part):
                return path
        return None

    def _summary(self, parts: Sequence[Part], n_skipped: int) -> TableSummary:
        path = self._file(parts[0])
        if path is None:
            raise LakeError(
                f"table {self.table!r} of fleet {self.fleet!r} is damaged: "
                f"{self.store.where(self._key(parts[0].name))} is not the file that was written; "
                f"materialise the asset {self.table!r} again"
            )
        first = pl.scan_parquet(path, glob=False)
        return TableSummary(
            table=self.table,
            fingerprint=self.expected,
            n_rows=sum(part.n_rows for part in parts),
            n_bytes=sum(part.n_bytes for part in parts),
            n_parts=len(parts),
            n_skipped=n_skipped,
            schema={name: str(dtype) for name, dtype in first.collect_schema().items()},
        )

    def _commit(self, record: Mapping[str, Any], tag: str) -> None:
        """Write the record if nobody else has written it since `_begin`."""
        content = _text({**record, **self._epoch()})
        try:
            self.store.swap(self._key(MANIFEST), content, tag, self.hold)
        except SwapError as error:
            raise LakeError(
                f"table {self.table!r} of fleet {self.fleet!r} was written by another run "
                f"meanwhile: {error}; this run has not committed it; materialise the asset "
                f"{self.table!r} again if it is not current"
            ) from error

    def _sweep(self, before: Sequence[Entry], named: Collection[str]) -> None:
        """Delete what was there before this run began and no record names.

        Another writer may still need what appeared since; the next run removes it. Workers of a
        former run on other hosts may still write to a remote store, whose parts are therefore kept
        for a day.
        """
        newest = time.time() - DAY_S if self.store.remote else math.inf
        self.store.remove(
            entry.key for entry in before if entry.name not in named and entry.modified < newest
        )

    def _epoch(self) -> dict[str, int]:
        """Return what a record says besides: in a remote store, the epoch of its run."""
        return {"epoch": self.hold.epoch} if self.hold and self.store.remote else {}

    def _key(self, name: str) -> str:
        return f"{self.table}/{name}"


def _made_by(entry: Entry) -> tuple[str, str] | None:
    """Return the marks of the fingerprint and the numerics in a part's name, if it is one."""
    made = origin(entry.name)
    return made and (made.made_by, made.numerics)


def is_ours(entry: Entry) -> bool:
    """Return whether an object in a table's folder was written as a part of a table."""
    return any(fnmatch(entry.name, pattern) for pattern in _OURS)


def parsed(content: bytes | None) -> dict[str, Any]:
    """Return a record; an empty one if there is none or the content is no JSON object."""
    try:
        record = json.loads(content or b"")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _names(record: Mapping[str, Any]) -> list[Any]:
    """Return the names of the parts in a record."""
    return [part["name"] if isinstance(part, dict) else part for part in record.get("parts", ())]


def _text(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True).encode()


def _record(summary: TableSummary, parts: Sequence[Part]) -> dict[str, Any]:
    """Return the record of a finished table."""
    return {
        "fingerprint": summary.fingerprint,
        "schema_version": SCHEMA_VERSION,
        "n_rows": summary.n_rows,
        "parts": [
            {name: value for name, value in part._asdict().items() if name != "tag" or value}
            for part in parts
        ],
        "schema": summary.schema,
    }
