"""The lock of a fleet in a folder: one run at a time may write the fleet's tables.

What belongs here: taking the lock, naming the run that holds it, and noticing that it was lost.
What does not: what the lock protects (`lake`, `catalogue.records`), the lock of a fleet in an
object store (`lease`).

The file `.lock` in the fleet's folder names the processes that hold it, one JSON object a line,
with the epoch: the number of times that the lock was taken. The kernel releases the lock when they
end, so that a killed run blocks nobody. On NFS the server may also give the lock of a host that it
cannot reach to another host. Every take-over rewrites the file, so that the former holder no longer
finds its own line and commits nothing (`FolderHold.check`).
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from typing import Any, TextIO

from tsfm_pipeline.files import LakeError, room_for


class FleetLockedError(LakeError):
    """Another run is writing this fleet; the message names its process, its run and since when."""


class FleetLostError(LakeError):
    """This run held the fleet and has lost it, so that it may commit nothing."""


@dataclass(frozen=True)
class FolderHold:
    """A run's hold on a fleet in a folder. holder: its line in `.lock` (pid, host, run_id, since,
    epoch).
    """

    folder: Path
    holder: dict[str, Any]

    @property
    def epoch(self) -> int:
        """How often the fleet had been taken when this run took it."""
        return int(self.holder["epoch"])

    def check(self) -> None:
        """Raise `FleetLostError` if this run does not hold the fleet any more. Call this within
        `guarded`.
        """
        try:
            with (self.folder / ".lock").open() as handle:
                holders = _read_holders(handle)
        except FileNotFoundError:
            holders = []
        if self.holder not in holders:
            now = f"; {described(holders[-1])} holds it now" if holders else ""
            raise lost(self.folder.name, self.holder, now)


def lost(fleet: str, holder: dict[str, Any], now: str) -> FleetLostError:
    """Return the error of a holder that was superseded. now: who holds the fleet, as the end of a
    sentence, or "".
    """
    return FleetLostError(
        f"run {holder['run_id']} has lost fleet {fleet!r}, which it took in epoch "
        f"{holder['epoch']}{now}; nothing was committed. Finished shards are kept: start the run "
        "again when nobody else writes the fleet"
    )


def described(holder: dict[str, Any]) -> str:
    """Return `process <pid> [on <host>] of run <run> since <time>`. The host is named if it is
    another one.
    """
    host = holder.get("host", gethostname())
    where = "" if host == gethostname() else f" on {host}"
    return f"process {holder['pid']}{where} of run {holder['run_id']} since {holder['since']}"


def locked(fleet: str, holder: dict[str, Any]) -> FleetLockedError:
    """Return the error of a run that finds the fleet held by another."""
    return FleetLockedError(
        f"fleet {fleet!r} is being written by {described(holder)}; wait for it, or end that "
        "process, then start again"
    )


def new_holder(run_id: str, epoch: int) -> dict[str, Any]:
    """Return what is written about this process when it takes a fleet."""
    return {
        "pid": os.getpid(),
        "host": gethostname(),
        "run_id": run_id,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "epoch": epoch,
    }


@contextmanager
def hold(folder: Path, run_id: str) -> Iterator[FolderHold]:
    """Hold the fleet for one run. Steps of the same run share it; a second run fails at once.

    Raises `FleetLockedError` if another run holds the fleet; the message names its process, its run
    and since when it holds the fleet.
    """
    with (
        guarded(folder) as guard,
        (folder / ".lock").open("a+") as handle,
    ):
        holders = _read_holders(handle)
        latest = int(holders[-1].get("epoch", 0)) if holders else 0
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not holders or holders[-1]["run_id"] != run_id:
                raise locked(folder.name, _living_holder(holders)) from None
        else:
            handle.truncate(0)
            latest += 1
        holder = new_holder(run_id, latest)
        with room_for(folder / ".lock"):
            handle.write(json.dumps(holder) + "\n")
            handle.flush()
        fcntl.flock(handle, fcntl.LOCK_SH)
        fcntl.flock(guard, fcntl.LOCK_UN)
        yield FolderHold(folder, holder)


@contextmanager
def guarded(folder: Path) -> Iterator[TextIO]:
    """Keep every other process from taking the fleet's lock or swapping one of its records. This
    lasts for moments only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".guard").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield guard


def holder(folder: Path) -> dict[str, Any] | None:
    """Return the process that holds the fleet now (pid, run_id, since), or None."""
    try:
        # NFS locks a file exclusively only for a process that has opened it for writing.
        with (folder / ".guard").open("r+") as guard, (folder / ".lock").open("r+") as handle:
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
    """Return the latest holder whose process may still live, because earlier steps of its run may
    have ended; if none does, the latest. Processes of another host may live: only that host knows.
    """
    unknown = {"pid": "(not in .lock)", "run_id": "(not in .lock)", "since": "an unknown time"}
    living = (
        holder
        for holder in reversed(holders)
        if holder.get("host", gethostname()) != gethostname() or _is_alive(holder["pid"])
    )
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
    """Return whether this host runs a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
