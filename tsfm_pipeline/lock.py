"""The lock of a fleet: one run at a time may write the fleet's tables.

What belongs here: taking the lock, and naming the run that holds it. What does not: what the lock
protects (`lake`, `catalogue.records`).

The file `.lock` in the fleet's folder names the processes that hold it, one JSON object a line. The
kernel releases the lock when they end, so that a killed run blocks nobody.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from tsfm_pipeline.files import LakeError, room_for


class FleetLockedError(LakeError):
    """Another run is writing this fleet; the message names its process, its run and since when."""


@contextmanager
def hold(folder: Path, run_id: str) -> Iterator[None]:
    """Hold the fleet for one run. Steps of the same run share it; a second run fails at once.

    Raises `FleetLockedError` if another run holds the fleet; the message names its process, its run
    and since when it holds the fleet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".guard").open("a") as guard, (folder / ".lock").open("a+") as handle:
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
                        f"fleet {folder.name!r} is being written by process {holder['pid']} of "
                        f"run {holder['run_id']} since {holder['since']}; wait for it, or end "
                        "that process, then start again"
                    ) from None
            holder = {
                "pid": os.getpid(),
                "run_id": run_id,
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            with room_for(folder / ".lock"):
                handle.write(json.dumps(holder) + "\n")
                handle.flush()
            fcntl.flock(handle, fcntl.LOCK_SH)
        finally:
            fcntl.flock(guard, fcntl.LOCK_UN)
        yield


def holder(folder: Path) -> dict[str, Any] | None:
    """Return the process that holds the fleet now (pid, run_id, since), or None."""
    try:
        with (folder / ".guard").open() as guard, (folder / ".lock").open() as handle:
            # Under the guard, so that a run that starts meanwhile waits instead of being refused.
            fcntl.flock(guard, fcntl.LOCK_EX)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return _living_holder(_read_holders(handle))
    except FileNotFoundError:
        return None
    return None


def _living_holder(holders: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the latest holder whose process still lives, because earlier steps of its run may have
    ended; if none does, the latest.
    """
    unknown = {"pid": "(not in .lock)", "run_id": "(not in .lock)", "since": "an unknown time"}
    living = (holder for holder in reversed(holders) if _is_alive(holder["pid"]))
    return next(living, holders[-1] if holders else unknown)


def _read_holders(lock: TextIO) -> list[dict[str, Any]]:
    """Return the holders of a lock, oldest first. Lines that a full disk cut short are skipped."""
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
