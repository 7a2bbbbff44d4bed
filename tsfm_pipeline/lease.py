"""The lease of a fleet in a remote store: one run at a time may write the fleet's tables.

What belongs here: taking, renewing and losing a lease. What does not: the lock of a fleet in a
folder (`lock`), how objects are put and swapped (`store`, `object_store`).

The object `_lease.json` names the processes that hold the fleet, each with the time until which it
does, and the epoch: the number of times that the fleet was taken. A holder renews its time; a
process that was killed or cut off does not, and the next run takes the fleet over under the next
epoch. Every write is a swap, so that of two that take the fleet at once one fails, reads again, and
is refused.

Whether a holder's time is over is judged by the clock of the run that wants to take over. Clocks
that differ by more than `OVER_S - RENEW_S` let it take over too early or too late, which costs a
run and no table: the former holder's commits are refused (`LeaseHold.check`).
"""

import json
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from tsfm_pipeline.files import LakeError
from tsfm_pipeline.lock import FleetLostError, described, locked, lost, new_holder
from tsfm_pipeline.store import Store, SwapError

LEASE = "_lease.json"
RENEW_S = 15.0
"""Seconds between two renewals of a lease."""
OVER_S = 60.0
"""Seconds after its last renewal at which a lease is over."""
say = logging.getLogger(__name__).warning

Holder = dict[str, Any]


class LeaseHold:
    """A run's hold on a fleet in a remote store. holder: what the lease says of this process."""

    def __init__(self, store: Store, holder: Holder) -> None:
        self.store = store
        self.holder = holder

    @property
    def epoch(self) -> int:
        """How often the fleet had been taken when this run took it."""
        return int(self.holder["epoch"])

    def check(self) -> None:
        """Raise `FleetLostError` if this run does not hold the fleet any more."""
        self._others(read_lease(self.store)[1])

    def renew(self) -> None:
        """Hold the fleet for another `OVER_S` seconds. Raises `FleetLostError` if it was lost."""
        self._rewrite({"until": time.time() + OVER_S})

    def release(self) -> None:
        """Let the fleet go; nothing if it was lost."""
        try:
            self._rewrite(None)
        except FleetLostError:
            return

    def _rewrite(self, changes: dict[str, Any] | None) -> None:
        """Write this process's entry of the lease anew, or remove it."""
        while True:
            tag, holders, _ = _lease(self.store)
            others = self._others(holders)
            own = [] if changes is None else [{**self.holder, **changes}]
            if _written(self.store, self.epoch, [*others, *own], tag):
                return

    def _others(self, holders: Sequence[Holder]) -> list[Holder]:
        """Return the other holders. Raises `FleetLostError` if this process is not among the
        holders, or its time is over.
        """
        own = [holder for holder in holders if holder["id"] == self.holder["id"]]
        if own and own[0]["until"] > time.time():
            return [holder for holder in holders if holder["id"] != self.holder["id"]]
        newer = [holder for holder in holders if holder["epoch"] > self.epoch]
        why = (
            f"; {described(newer[-1])} has taken it over in epoch {newer[-1]['epoch']}"
            if newer
            else f", because it did not renew its lease for {OVER_S:g} seconds"
        )
        raise lost(self.store.name, self.holder, why)


@contextmanager
def hold(store: Store, run_id: str) -> Iterator[LeaseHold]:
    """Hold the fleet for one run, and renew the lease meanwhile. Steps of the same run share it; a
    second run fails at once.

    Raises `FleetLockedError` if another run holds the fleet.
    """
    own = take(store, run_id)
    ended = Event()
    renewing = Thread(target=_keep_renewing, args=(own, ended), daemon=True, name="lease")
    renewing.start()
    try:
        yield own
    finally:
        ended.set()
        renewing.join()
        try:
            own.release()
        except LakeError as error:
            say(
                f"fleet {store.name!r} could not be released, so that it stays held for up to "
                f"{OVER_S:g} seconds: {error}"
            )


def take(store: Store, run_id: str) -> LeaseHold:
    """Take the fleet for a process of a run. Raises `FleetLockedError` if another run holds it."""
    while True:
        tag, holders, epoch = _lease(store)
        living = [holder for holder in holders if holder["until"] > time.time()]
        others = [holder for holder in living if holder["run_id"] != run_id]
        if others:
            raise locked(store.name, others[-1])
        epoch = epoch if living else epoch + 1
        own = {
            **new_holder(run_id, epoch),
            "id": secrets.token_hex(8),
            "until": time.time() + OVER_S,
        }
        if _written(store, epoch, [*living, own], tag):
            return LeaseHold(store, own)


def holder(store: Store) -> Holder | None:
    """Return the process that holds the fleet now (pid, host, run_id, since), or None."""
    living = [own for own in read_lease(store)[1] if own["until"] > time.time()]
    return living[-1] if living else None


def read_lease(store: Store) -> tuple[int, list[Holder]]:
    """Return the epoch of a fleet's lease (0 if it was never taken), and its holders, some of which
    may be over. Raises `LakeError` if the object is not a lease.
    """
    _, holders, epoch = _lease(store)
    return epoch, holders


def _lease(store: Store) -> tuple[str, list[Holder], int]:
    """Return the tag of a lease, its holders and its epoch."""
    stored = store.get(LEASE)
    if stored.content is None:
        return stored.tag, [], 0
    try:
        lease = json.loads(stored.content)
        return stored.tag, list(lease["holders"]), int(lease["epoch"])
    except (ValueError, KeyError, TypeError) as error:
        raise LakeError(
            f"{store.where(LEASE)} is not a lease ({error!r}); delete it when no run writes the "
            "fleet"
        ) from error


def _written(store: Store, epoch: int, holders: Sequence[Holder], tag: str) -> bool:
    """Write a lease if it still has this tag; return whether it was written. The random value makes
    every content, and so every tag, another one.
    """
    lease = {"epoch": epoch, "holders": list(holders), "random": secrets.token_hex(8)}
    try:
        store.swap(LEASE, json.dumps(lease, indent=1).encode(), tag)
    except SwapError:
        return False
    return True


def _keep_renewing(own: LeaseHold, ended: Event) -> None:
    """Renew a lease until it ends or is lost. A store that cannot be reached is asked again."""
    while not ended.wait(RENEW_S):
        try:
            own.renew()
        except FleetLostError as error:
            say(str(error))
            return
        except LakeError as error:
            say(f"the lease of fleet {own.store.name!r} could not be renewed yet: {error}")
