"""Moves records that an earlier release kept among tables and reports to the folder of records,
once.

What belongs here: the old locations, and moving a file so that nothing is lost. What does not:
record tables themselves (`records`).

A file is linked (or copied) to its new location under a name that follows from its content alone.
It is checked there, and only then deleted at the old location. The next move therefore finishes an
interrupted one, and two processes may move the same files at once. If an earlier release runs again
and writes to the old location, the next move adds that file to the same table.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tsfm_pipeline.catalogue.records import HISTORY, LEDGER
from tsfm_pipeline.files import StorageError, appended_name, put_if_absent, sha256_of
from tsfm_pipeline.fleets import raw_folder
from tsfm_pipeline.lake import open_lake
from tsfm_pipeline.settings import Settings

MOVED = "moved"
"""Replaces the host in the name of a moved record, because the host that wrote it is unknown."""
say = logging.getLogger(__name__).warning


@dataclass(frozen=True)
class _Left:
    """A file at an old location, the folder that it belongs in, and its label there."""

    old: Path
    folder: Path
    label: str


def move_records(
    settings: Settings, fleet: str, run_id: str, log: Callable[[str], Any] = say
) -> None:
    """Move a fleet's records from the locations of an earlier release to `<records>/<fleet>`, under
    the fleet's lock. Log one line per old location.

    Take no lock if there is nothing to move. Raises `FleetLockedError` if another run holds the
    fleet, and `StorageError` if a different file already has the new name.
    """
    if not any(_left_of(settings, fleet)):
        return
    with open_lake(settings).fleet(fleet).lock(run_id):
        moved: dict[tuple[Path, Path], int] = {}
        for left in _left_of(settings, fleet):
            if _move(left.old, left.folder, left.label):
                place = (
                    left.old
                    if left.old.parent == settings.reports_dir / fleet
                    else left.old.parent,
                    left.folder,
                )
                moved[place] = moved.get(place, 0) + 1
        for (old, new), n_files in moved.items():
            log(
                f"fleet {fleet}: the records in {old} were moved to {new} ({n_files} "
                f"{'file' if n_files == 1 else 'files'})"
            )
        for folder in (
            settings.reports_dir / fleet / HISTORY,
            *_old_stores(settings, fleet),
            _old_raw(settings, fleet),
        ):
            _remove_if_empty(folder)


def left_behind(settings: Settings, fleet: str) -> list[Path]:
    """Return a fleet's record files at old locations, which `move_records` would move."""
    return [left.old for left in _left_of(settings, fleet)]


def move_training_state(old: Path, new: Path, log: Callable[[str], Any] = say) -> None:
    """Move a training run (weights, optimiser, log of losses) to another folder; every file keeps
    its name.

    Raises `StorageError` if a different file has that name already: there are two training runs
    then, and a person must choose one.
    """
    finished = [
        path for path in sorted(old.glob("[!.]*")) if path.is_file() and path.suffix != ".tmp"
    ]
    n_files = sum(_move(path, new) for path in finished)
    if n_files:
        log(f"the training state in {old} was moved to {new} ({n_files} files)")
    _remove_if_empty(old)


def _left_of(settings: Settings, fleet: str) -> Iterator[_Left]:
    """Yield every record file at an old location."""
    reports, records = settings.reports_dir / fleet, settings.records_dir / fleet
    if (reports / f"{LEDGER}.parquet").is_file():
        yield _Left(reports / f"{LEDGER}.parquet", records / LEDGER, "")
    for path in _files_in(reports / HISTORY, "[!.]*.parquet"):
        yield _Left(path, records / HISTORY, path.stem)
    for store in _old_stores(settings, fleet):
        for path in _files_in(store, "????-??-??.parquet"):
            yield _Left(path, raw_folder(records) / store.name, path.stem)


def _old_raw(settings: Settings, fleet: str) -> Path:
    return settings.lake_dir / fleet / "raw"


def _old_stores(settings: Settings, fleet: str) -> list[Path]:
    return _files_in(_old_raw(settings, fleet), "prometheus-*")


def _files_in(folder: Path, pattern: str) -> list[Path]:
    """Return what matches in a folder; nothing if another process has just removed the folder."""
    try:
        return sorted(folder.glob(pattern))
    except FileNotFoundError:
        return []


def _record_name(old: Path, label: str, digest: str) -> str:
    """Return the new name of a record, as if it had been appended when the file was last written.
    The name is the same at every attempt.
    """
    written = datetime.fromtimestamp(old.stat().st_mtime, UTC)
    start = f"{label}-" if label else ""
    return appended_name(start, written, MOVED, digest[16:24], digest) + old.suffix


def _move(old: Path, folder: Path, label: str | None = None) -> bool:
    """Move one file, as a record if a label is given, otherwise under its own name. Return False if
    another process has just moved it.
    """
    try:
        digest = sha256_of(old)
        new = folder / (old.name if label is None else _record_name(old, label, digest))
        put_if_absent(new, lambda temporary: _link_or_copy(old, temporary))
    except FileNotFoundError:
        return False
    if sha256_of(new) != digest:
        raise StorageError(
            f"{old} cannot be moved to {new}: another file of that name is there, with another "
            "content; nothing was changed. Compare the two, and move the one that you do not "
            "want to another folder"
        )
    old.unlink(missing_ok=True)
    return True


def _link_or_copy(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except FileNotFoundError:
        raise
    except OSError:
        # The folders lie on different file systems, or the file system has no hard links.
        shutil.copy2(old, new)


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder at an old location if it is empty; otherwise leave it."""
    with suppress(OSError):
        folder.rmdir()
