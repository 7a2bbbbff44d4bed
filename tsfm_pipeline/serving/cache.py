"""Answers of the model that are kept, and identical requests that are answered by one computation.

What belongs here: how long an answer is fresh, how long it may stand in for a model that fails, and
the single flight. What does not: the key (`service`), and answers of baselines, which are never
kept.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import TTLCache

from tsfm_pipeline.serving.deadline import Clock
from tsfm_pipeline.serving.settings import CacheSettings

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(eq=False)
class _Flight(Generic[V]):
    """One computation, and how many tasks wait for it."""

    task: asyncio.Task[V]
    waiting: int = 0


class ForecastCache(Generic[K, V]):
    """Up to `max_entries` answers; the least recently used one leaves first.

    An answer is fresh for `ttl_s`, then stale for `stale_s`, then gone. Values are shared between
    callers, so they must be immutable (bytes, or frozen dataclasses of such).
    """

    def __init__(self, settings: CacheSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._kept: TTLCache[K, tuple[float, V]] = TTLCache(
            settings.max_entries, settings.ttl_s + settings.stale_s, timer=clock
        )
        self._flights: dict[K, _Flight[V]] = {}

    def __len__(self) -> int:
        """Return how many answers are kept, fresh and stale."""
        return len(self._kept)

    def fresh(self, key: K) -> V | None:
        """Return the answer if it is younger than `ttl_s`."""
        kept = self._kept.get(key)
        return kept[1] if kept and self._clock() < kept[0] + self._settings.ttl_s else None

    def stale(self, key: K) -> V | None:
        """Return the answer if it is younger than `ttl_s + stale_s`: better than a baseline."""
        kept = self._kept.get(key)
        return kept[1] if kept else None

    def put(self, key: K, value: V) -> None:
        """Keep an answer of the model; it replaces an earlier one."""
        self._kept[key] = self._clock(), value

    async def single_flight(self, key: K, compute: Callable[[], Awaitable[V]]) -> tuple[V, bool]:
        """Return the answer of `compute`, and whether another caller had started it.

        However many callers ask for one key at once, it is computed once. The answer is kept before
        any of them gets it, so that no later caller computes it again. A failure reaches all who
        wait and is not kept. A caller that is cancelled leaves; the computation goes on while
        anyone waits, and is cancelled when nobody does.
        """
        flight = self._flights.get(key)
        joined = flight is not None
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(self._run(key, compute)))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task), joined
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                # At once, not when the task has ended: the next caller must not join it.
                del self._flights[key]
                flight.task.cancel()

    async def _run(self, key: K, compute: Callable[[], Awaitable[V]]) -> V:
        task = asyncio.current_task()
        try:
            value = await compute()
        except asyncio.CancelledError as error:
            if task is not None and task.cancelling():
                raise
            # Without this, those who wait could not tell it from being cancelled themselves.
            raise RuntimeError("the computation was cancelled from inside") from error
        self.put(key, value)
        return value
