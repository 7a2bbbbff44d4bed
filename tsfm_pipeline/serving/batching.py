"""Micro-batches: concurrent calls for one series each become calls for many.

What belongs here: who waits, which of them form a batch and when, and what becomes of calls that
are late or abandoned. What does not: running a batch (the runtimes).

An item is one series, so that all sizes count series. No lock is needed: nothing between two awaits
is interrupted.
"""

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from tsfm_pipeline.serving.deadline import Clock, Deadline
from tsfm_pipeline.serving.runtimes import Failure, RuntimeFailure

Group = TypeVar("Group", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Call(Generic[Item, Result]):
    """One call of `submit`; `batch` is None until its item is in one."""

    item: Item
    deadline: Deadline
    number: int
    came: float
    answer: "asyncio.Future[Result]"
    batch: "_Batch | None" = None


@dataclass(eq=False)
class _Batch:
    """A batch that runs since `began`, and how many of its calls still wait for it."""

    n_left: int
    began: float
    run: "asyncio.Task[None] | None" = None


@runtime_checkable
class Batching(Protocol):
    """A runtime that joins calls."""

    @property
    def batcher(self) -> "Batcher[Any, Any, Any]": ...


class Batcher(Generic[Group, Item, Result]):
    """Joins concurrent calls into batches, and gives each call its own result.

    run: `await run(group, items)` returns one result or `RuntimeFailure` per item, in their order.
    What it raises is the failure of all its items, and of no others: a `RuntimeFailure` as it is,
    anything else as `internal`, logged once with its traceback. It is cancelled when nobody waits
    for any of its items any more.
    group_of: only items of equal groups are joined. max_batch: items per batch. max_wait_ms: how
    long a batch is held back while items are still coming in. queue: items that may wait. slots:
    one is held while a batch runs; batches of other holders of the same semaphore take turns with
    these. By default one batch runs at a time. queue_s: longest wait for a batch; under a load that
    batches cannot keep up with, it is better to give up early than at the deadline, in a batch.

    A batch is formed when a slot is free: from the group whose oldest item has waited longest, its
    oldest items first. Until then whatever comes joins it, so that batches grow with the load. A
    lone item is not held back: a batch waits only as long as each turn of the event loop brings
    another item.
    """

    def __init__(
        self,
        run: Callable[[Group, list[Item]], Awaitable[Sequence[Result | RuntimeFailure]]],
        group_of: Callable[[Item], Group],
        max_batch: int,
        max_wait_ms: float,
        queue: int,
        clock: Clock,
        slots: asyncio.Semaphore | None = None,
        queue_s: float = math.inf,
    ) -> None:
        if max_batch < 1 or queue < 1:
            raise ValueError(f"max_batch is {max_batch}, queue {queue}; allowed: 1 or more")
        self._run, self._group_of = run, group_of
        self._max_batch, self._max_wait_s, self._queue = max_batch, max_wait_ms / 1e3, queue
        self._clock, self._queue_s = clock, queue_s
        self._slots = asyncio.Semaphore(1) if slots is None else slots
        self._waiting: dict[Group, deque[_Call[Item, Result]]] = {}
        self._n_waiting = 0
        self._n_calls = 0
        self._sizes: Counter[int] = Counter()
        self._running: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def n_waiting(self) -> int:
        """How many items wait for a batch."""
        return self._n_waiting

    def take_sizes(self) -> Counter[int]:
        """Return how many batches had which size since the last time this was asked."""
        sizes, self._sizes = self._sizes, Counter()
        return sizes

    async def submit(self, item: Item, deadline: Deadline) -> Result:
        """Return the item's result.

        Raises the item's `RuntimeFailure`. Further ones, none of which counts: `queue_full`, where
        too many wait already or no batch had room in time; `timeout`, where the deadline passes
        before the item's turn; `unavailable` after `close`. If the deadline passes while the item's
        batch runs, the `timeout` counts, unless the item had waited for longer than twice the time
        for which the batch has run: then the queue was slow, not the batch.
        """
        if self._closed:
            raise closed()
        if deadline.passed:
            raise too_late()
        if self._n_waiting >= self._queue:
            raise RuntimeFailure(
                Failure.QUEUE_FULL, f"{self._n_waiting} series wait already", counts=False
            )
        call: _Call[Item, Result] = _Call(
            item,
            deadline,
            self._n_calls,
            self._clock(),
            asyncio.get_running_loop().create_future(),
        )
        group = self._group_of(item)
        self._waiting.setdefault(group, deque()).append(call)
        self._n_calls += 1
        self._n_waiting += 1
        if self._dispatcher is None:
            self._dispatcher = asyncio.create_task(self._dispatch())
        try:
            async with asyncio.timeout(deadline.left):
                return await call.answer
        except TimeoutError:
            if call.batch is not None:
                waited, ran = call.batch.began - call.came, self._clock() - call.batch.began
                raise RuntimeFailure(
                    Failure.TIMEOUT, "no answer before the deadline", counts=waited <= 2 * ran
                ) from None
            raise too_late() from None
        finally:
            self._leave(group, call)

    async def close(self) -> None:
        """Refuse what waits, and finish the batches that run."""
        self._closed = True
        for calls in self._waiting.values():
            for call in calls:
                _fail(call, closed())
        self._waiting.clear()
        self._n_waiting = 0
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _leave(self, group: Group, call: _Call[Item, Result]) -> None:
        """Take a call that is over out of the queue, or out of its batch."""
        call.answer.cancel()
        if call.batch is not None:
            call.batch.n_left -= 1
            if not call.batch.n_left and call.batch.run is not None:
                call.batch.run.cancel()
            return
        waiting = self._waiting.get(group)
        if waiting is not None and call in waiting:
            waiting.remove(call)
            self._n_waiting -= 1
            if not waiting:
                del self._waiting[group]

    async def _dispatch(self) -> None:
        """Form batches until nobody waits."""
        try:
            while self._waiting:
                await self._slots.acquire()
                try:
                    await self._let_join()
                    formed = self._formed()
                except BaseException:
                    self._slots.release()
                    raise
                if formed is None:
                    self._slots.release()
                else:
                    self._start(*formed)
        finally:
            self._dispatcher = None

    async def _let_join(self) -> None:
        """Wait while items come in, until there is a full batch or `max_wait_ms` have passed."""
        until = self._clock() + self._max_wait_s
        known = -1
        while known < self._n_calls and self._n_waiting < self._max_batch:
            known = self._n_calls
            await asyncio.sleep(0)
            if self._clock() >= until:
                return

    def _formed(self) -> tuple[Group, list[_Call[Item, Result]]] | None:
        """Take the calls of the next batch out of the queue; None where nobody waits any more."""
        for group in sorted(self._waiting, key=lambda group: self._waiting[group][0].number):
            waiting = self._waiting[group]
            calls: list[_Call[Item, Result]] = []
            while waiting and len(calls) < self._max_batch:
                call = waiting.popleft()
                self._n_waiting -= 1
                if call.deadline.passed:
                    _fail(call, too_late())
                elif self._clock() - call.came > self._queue_s:
                    _fail(call, _waited_too_long(self._queue_s))
                elif not call.answer.done():
                    calls.append(call)
            if not waiting:
                del self._waiting[group]
            if calls:
                return group, calls
        return None

    def _start(self, group: Group, calls: list[_Call[Item, Result]]) -> None:
        """Run a batch in a task of its own, and free its slot when it ends."""
        self._sizes[len(calls)] += 1
        batch = _Batch(len(calls), self._clock())
        for call in calls:
            call.batch = batch
        batch.run = asyncio.create_task(self._answer(group, calls))
        self._running.add(batch.run)
        batch.run.add_done_callback(self._ended)

    def _ended(self, run: "asyncio.Task[None]") -> None:
        self._running.discard(run)
        self._slots.release()

    async def _answer(self, group: Group, calls: list[_Call[Item, Result]]) -> None:
        """Run a batch and hand out its results."""
        results: Sequence[Result | RuntimeFailure]
        try:
            results = await self._results(group, [call.item for call in calls])
        except RuntimeFailure as failure:
            results = [failure] * len(calls)
        for call, result in zip(calls, results, strict=True):
            if isinstance(result, RuntimeFailure):
                _fail(call, result)
            elif not call.answer.done():
                call.answer.set_result(result)

    async def _results(self, group: Group, items: list[Item]) -> Sequence[Result | RuntimeFailure]:
        """Return one result per item, or raise `RuntimeFailure`."""
        try:
            results = await self._run(group, items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(items)} items gave {len(results)} results")
            return results
        except RuntimeFailure:
            raise
        except Exception as error:
            log.exception("a batch of %d series failed", len(items))
            detail = f"{type(error).__name__}: {error}"
            raise RuntimeFailure(Failure.INTERNAL, detail, counts=True) from error


def _waited_too_long(queue_s: float) -> RuntimeFailure:
    detail = f"no batch had room for it within {queue_s:g} s"
    return RuntimeFailure(Failure.QUEUE_FULL, detail, counts=False)


def too_late() -> RuntimeFailure:
    """Return the failure of a call that was not begun in time."""
    return RuntimeFailure(Failure.TIMEOUT, "the deadline passed before its turn", counts=False)


def closed() -> RuntimeFailure:
    """Return the failure of a call that comes too late or waits when a runtime is closed."""
    return RuntimeFailure(Failure.UNAVAILABLE, "it is being closed", counts=False)


def _fail(call: _Call[Item, Result], failure: RuntimeFailure) -> None:
    """Raise the failure in `submit`: a copy, because each raise adds to a traceback."""
    if not call.answer.done():
        own = RuntimeFailure(failure.failure, failure.detail, counts=failure.counts)
        call.answer.set_exception(own)
