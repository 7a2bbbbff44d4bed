"""What nothing needs any more: parts that no record names, copies of such parts, temporary files of
killed processes, and reports that nobody has made again for long.

What belongs here: finding it with its bytes, and deleting it. What does not: Dagster's runs
(`defs.old_runs`), asking and showing (`cli.gc`). Nothing below `data/records` is looked at.

Nothing that is younger than a day is garbage, because a process may still need it. Neither are the
parts and the reports of a fleet that a run holds: the table that a part belongs to may take longer
than a day.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tsfm_pipeline.catalogue.moves import left_behind
from tsfm_pipeline.commits import DAY_S
from tsfm_pipeline.lake import CACHE, FleetLake, Lake, open_lake
from tsfm_pipeline.parts import SCHEMA_VERSION, origin
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.store import Entry, FolderStore

RUN_ID = "tsfm-pipeline gc"


@dataclass(frozen=True)
class Garbage:
    """Files in one place that may be deleted. why_not: why they may not be deleted now, or "".
    delete: deletes them, and returns the bytes that it has freed.
    """

    kind: str
    where: str
    n_files: int
    n_bytes: int
    delete: Callable[[], int]
    why_not: str = ""


def find_garbage(settings: Settings, report_days: float) -> Iterator[Garbage]:
    """Yield the garbage of one profile. report_days: age in days from which a fleet's reports are
    garbage. Raises `StorageError` if an object store cannot be used.
    """
    lake, local = open_lake(settings), Lake(settings.lake_dir)
    for one in (lake, local) if lake.url else (lake,):
        for name in one.fleets():
            yield from _unnamed_parts(one.fleet(name))
    for scope in _folders(settings.lake_dir, hidden=True):
        if scope.name != CACHE:
            for member in _folders(scope):
                yield from _unnamed_parts(Lake(scope).fleet(member.name))
    yield from _copies(lake)
    places = [settings.lake_dir, settings.reports_dir, settings.output_dir / "serving"]
    if settings.copies_dir is not None:
        places.append(settings.copies_dir)
    for folder in places:
        yield from _temporary_files(folder)
    yield from _old_reports(settings, report_days)


def _unnamed_parts(fleet: FleetLake) -> Iterator[Garbage]:
    """Yield the parts of each table that its record does not name."""
    why_not = _held(fleet)
    for table in fleet.store.folders():
        found = _unnamed(fleet, table)
        if found:
            yield Garbage(
                "parts that no record names",
                fleet.where(table),
                len(found),
                sum(entry.n_bytes for entry in found),
                _deleting(fleet, table),
                why_not,
            )


def _held(fleet: FleetLake) -> str:
    """Return which run holds a fleet, or ""."""
    holder = fleet.holder()
    return f"held by run {holder['run_id']} since {holder['since']}" if holder else ""


def _unnamed(fleet: FleetLake, table: str) -> list[Entry]:
    named, newest = _named(fleet, table), time.time() - DAY_S
    if named is None:
        return []
    return [
        entry
        for entry in fleet.store.entries(table)
        if origin(entry.name) and entry.name not in named and entry.modified < newest
    ]


def _named(fleet: FleetLake, table: str) -> set[str] | None:
    """Return the names of a table's parts; None if its record cannot be read by this release. The
    next run keeps what it can of such a table.
    """
    if not fleet.has(table):
        return set()
    record = fleet.recorded(table)
    if record.get("schema_version") != SCHEMA_VERSION:
        return None
    return {part["name"] for part in record["parts"]}


def _deleting(fleet: FleetLake, table: str) -> Callable[[], int]:
    def delete() -> int:
        """Look again under the fleet's lock: a run may have named a part meanwhile."""
        with fleet.lock(RUN_ID):
            found = _unnamed(fleet, table)
            fleet.store.remove(entry.key for entry in found)
        return sum(entry.n_bytes for entry in found)

    return delete


def _copies(lake: Lake) -> Iterator[Garbage]:
    """Yield this machine's copies of parts that no record names, or of all parts if no object store
    is in use or copies lie elsewhere now. They are copies: no lock is needed.
    """
    for cache in sorted({lake.cache, lake.root / CACHE}):
        used = lake.url is not None and cache == lake.cache
        for folder in _folders(cache):
            copies, fleet = FolderStore(folder), lake.fleet(folder.name)
            for table in copies.folders():
                named = (_named(fleet, table) if used else None) or set()
                paths = [
                    copies.file(entry.key)
                    for entry in copies.entries(table)
                    if entry.name not in named
                ]
                yield from _files("copies of parts", copies.where(table), _old(paths))


def _temporary_files(folder: Path) -> Iterator[Garbage]:
    """Yield what killed processes have left half written."""
    yield from _files("temporary files", str(folder), _old(folder.rglob(".*.tmp")))


def _old_reports(settings: Settings, report_days: float) -> Iterator[Garbage]:
    """Yield the folders of reports whose newest file is this old, and at least a day."""
    places = [
        (open_lake(settings), settings.reports_dir),
        *(
            (Lake(settings.lake_dir / scope.name), scope)
            for scope in _folders(settings.reports_dir, hidden=True)
        ),
    ]
    for lake, place in places:
        for folder in _folders(place):
            files = _files_before(folder, report_days)
            if not files:
                continue
            why_not = _held(lake.fleet(folder.name))
            if any(path.is_relative_to(folder) for path in left_behind(settings, folder.name)):
                why_not = "holds records of an earlier release; a run moves them"
            delete = _removing(lake, folder, report_days)
            yield Garbage("reports", str(folder), len(files), _n_bytes(files), delete, why_not)


def _files_before(folder: Path, days: float) -> list[Path]:
    """Return the files of a folder if all of them are this old, and at least a day."""
    newest = time.time() - max(days, 1) * DAY_S
    files = [path for path in folder.rglob("*") if path.is_file()]
    return files if all(path.stat().st_mtime < newest for path in files) else []


def _removing(lake: Lake, folder: Path, days: float) -> Callable[[], int]:
    def delete() -> int:
        """Look again under the fleet's lock: a run may have made a report meanwhile. A fleet
        without tables has no lock, and gets none here.
        """
        known = folder.name in lake.fleets()
        with lake.fleet(folder.name).lock(RUN_ID) if known else nullcontext():
            files = _files_before(folder, days)
            n_bytes = _n_bytes(files)
            if files:
                shutil.rmtree(folder)
        return n_bytes

    return delete


def _files(kind: str, where: str, paths: list[Path]) -> Iterator[Garbage]:
    def delete() -> int:
        n_bytes = _n_bytes(paths)
        for path in paths:
            path.unlink(missing_ok=True)
        return n_bytes

    if paths:
        yield Garbage(kind, where, len(paths), _n_bytes(paths), delete)


def _old(paths: Iterable[Path]) -> list[Path]:
    """Return the files that nobody has written for a day."""
    newest = time.time() - DAY_S
    return sorted(path for path in paths if path.is_file() and path.stat().st_mtime < newest)


def _n_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())


def _folders(folder: Path, hidden: bool = False) -> list[Path]:
    """Return the folders in a folder whose names begin with a dot, or those whose names do not. One
    that is a link belongs to somebody else.
    """
    return sorted(
        path
        for path in folder.glob("*")
        if path.is_dir() and not path.is_symlink() and path.name.startswith(".") == hidden
    )
