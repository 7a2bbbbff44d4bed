"""Test that concurrent calls are joined into batches, and what becomes of late, abandoned and
surplus ones.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest

from tsfm_pipeline.serving.batching import Batcher
from tsfm_pipeline.serving.deadline import Deadline
from tsfm_pipeline.serving.runtimes import Failure, RuntimeFailure

Item = tuple[str, int]
"""Group and number."""


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """Runs batches: each waits for `go`, and its results are ten times the numbers."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.go = asyncio.Event()
        self.cancelled = 0

    async def run(self, group: str, items: Sequence[Item]) -> list[int | RuntimeFailure]:
        self.batches.append((group, [number for _, number in items]))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [10 * number for _, number in items]


def batcher(
    run: Callable[[str, list[Item]], Awaitable[Sequence[Any]]], **options: Any
) -> Batcher[str, Item, int]:
    given = {"max_batch": 64, "max_wait_ms": 4.0, "queue": 512, "clock": Clock()} | options
    return Batcher(run, lambda item: item[0], **given)


def far() -> Deadline:
    return Deadline.after(30.0)


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def failure_of(call: Awaitable[Any]) -> RuntimeFailure:
    with pytest.raises(RuntimeFailure) as raised:
        await call
    return raised.value


def runs(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test, run in an event loop of its own."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 60))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@runs
async def test_calls_of_one_moment_form_one_batch_and_each_gets_its_own_result() -> None:
    peer = Peer()
    peer.go.set()
    joined = batcher(peer.run)
    results = await asyncio.gather(*(joined.submit(("a", n), far()) for n in range(20)))
    assert results == [10 * n for n in range(20)]
    assert peer.batches == [("a", list(range(20)))]
    assert joined.n_waiting == 0


@runs
async def test_a_lone_call_is_not_held_back() -> None:
    """The clock stands still, so that a wait of 4 ms would never end."""
    peer = Peer()
    call = asyncio.create_task(batcher(peer.run).submit(("a", 1), far()))
    await settled()
    assert peer.batches == [("a", [1])]
    peer.go.set()
    assert await call == 10


@runs
async def test_calls_that_come_in_one_after_another_are_waited_for_but_no_longer_than_told() -> (
    None
):
    clock, peer = Clock(), Peer()
    joined = batcher(peer.run, clock=clock)

    async def a_call_per_turn() -> None:
        for n in range(60):
            calls.append(asyncio.create_task(joined.submit(("a", n), far())))
            clock.now += 0.001
            await asyncio.sleep(0)

    calls: list[asyncio.Task[int]] = []
    await a_call_per_turn()
    (_, first), *_ = peer.batches
    assert 4 <= len(first) <= 6, "a millisecond per turn, and four of them at most"
    peer.go.set()
    assert await asyncio.gather(*calls) == [10 * n for n in range(60)]


@runs
async def test_whoever_comes_while_a_batch_runs_joins_the_next() -> None:
    peer = Peer()
    joined = batcher(peer.run)
    calls = [asyncio.create_task(joined.submit(("a", 0), far()))]
    await settled()
    for n in range(1, 6):
        calls.append(asyncio.create_task(joined.submit(("a", n), far())))
        await settled()
    assert peer.batches == [("a", [0])]
    assert joined.n_waiting == 5
    peer.go.set()
    await asyncio.gather(*calls)
    assert peer.batches == [("a", [0]), ("a", [1, 2, 3, 4, 5])]


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_is_no_larger_than_told(size: int) -> None:
    async def check() -> None:
        peer = Peer()
        peer.go.set()
        joined = batcher(peer.run, max_batch=size)
        results = await asyncio.gather(*(joined.submit(("a", n), far()) for n in range(7)))
        assert results == [10 * n for n in range(7)]
        assert [len(numbers) for _, numbers in peer.batches] == [size] * (7 // size) + [1] * (
            7 % size
        )

    asyncio.run(check())


@runs
async def test_groups_are_never_mixed_and_the_oldest_goes_first() -> None:
    peer = Peer()
    joined = batcher(peer.run, max_batch=2)
    calls = [asyncio.create_task(joined.submit(("first", 0), far()))]
    await settled()
    order = ["a", "b", "a", "c", "a", "a", "b"]
    calls += [asyncio.create_task(joined.submit((g, n), far())) for n, g in enumerate(order, 1)]
    await settled()
    peer.go.set()
    await asyncio.gather(*calls)
    assert peer.batches[1:] == [("a", [1, 3]), ("b", [2, 7]), ("c", [4]), ("a", [5, 6])]


@runs
async def test_a_full_queue_refuses_and_does_not_count() -> None:
    peer = Peer()
    joined = batcher(peer.run, queue=2)
    calls = [asyncio.create_task(joined.submit(("a", 0), far()))]
    await settled()
    calls += [asyncio.create_task(joined.submit(("a", n), far())) for n in (1, 2)]
    await settled()
    failure = await failure_of(joined.submit(("a", 3), far()))
    assert (failure.failure, failure.counts) == (Failure.QUEUE_FULL, False)
    calls[1].cancel()
    await settled()
    assert joined.n_waiting == 1, "a client that left frees its place"
    peer.go.set()
    assert await joined.submit(("a", 4), far()) == 40


@runs
async def test_a_call_that_is_cancelled_before_its_turn_costs_nothing() -> None:
    peer = Peer()
    joined = batcher(peer.run)
    calls = [asyncio.create_task(joined.submit(("a", n), far())) for n in range(1)]
    await settled()
    calls += [asyncio.create_task(joined.submit(("a", n), far())) for n in (1, 2, 3)]
    await settled()
    calls[2].cancel()
    peer.go.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert peer.batches == [("a", [0]), ("a", [1, 3])]


@runs
async def test_a_call_whose_deadline_has_passed_is_dropped_before_its_turn() -> None:
    clock, peer = Clock(), Peer()
    joined = batcher(peer.run, clock=clock)
    late = await failure_of(joined.submit(("a", 9), Deadline(clock.now, clock)))
    first = asyncio.create_task(joined.submit(("a", 0), far()))
    await settled()
    second = asyncio.create_task(joined.submit(("a", 1), Deadline(clock.now + 60.0, clock)))
    await settled()
    clock.now += 61.0
    peer.go.set()
    waited = await failure_of(second)
    assert await first == 0
    assert peer.batches == [("a", [0])]
    for failure in (late, waited):
        assert (failure.failure, failure.counts) == (Failure.TIMEOUT, False)


@runs
async def test_a_batch_that_runs_too_long_times_out_and_counts_but_one_that_waits_does_not() -> (
    None
):
    peer = Peer()
    joined = batcher(peer.run)
    soon = asyncio.create_task(failure_of(joined.submit(("a", 0), Deadline.after(0.02))))
    patient = asyncio.create_task(joined.submit(("a", 1), far()))
    await settled()
    behind = asyncio.create_task(failure_of(joined.submit(("b", 2), Deadline.after(0.02))))
    assert [(f.failure, f.counts) for f in (await soon, await behind)] == [
        (Failure.TIMEOUT, True),
        (Failure.TIMEOUT, False),
    ]
    peer.go.set()
    assert await patient == 10
    assert peer.cancelled == 0


@runs
async def test_a_call_that_waited_until_its_deadline_was_near_does_not_count_against_the_batch() -> (
    None
):
    clock, peer = Clock(), Peer()
    joined = batcher(peer.run, clock=clock)
    first = asyncio.create_task(joined.submit(("a", 0), far()))
    await settled()
    deadline = Deadline(clock.now + 0.4, clock)
    late = asyncio.create_task(failure_of(joined.submit(("a", 1), deadline)))
    await settled()
    clock.now += 0.39
    peer.go.set()
    await first
    peer.go.clear()
    await settled()
    clock.now += 0.1
    failure = await late
    assert peer.batches == [("a", [0]), ("a", [1])]
    assert (failure.failure, failure.counts) == (Failure.TIMEOUT, False)


@runs
async def test_a_batch_that_nobody_waits_for_is_cancelled_and_the_next_one_runs() -> None:
    peer = Peer()
    joined = batcher(peer.run)
    calls = [asyncio.create_task(joined.submit(("a", n), far())) for n in (0, 1)]
    await settled()
    waiting = asyncio.create_task(joined.submit(("a", 2), far()))
    calls[0].cancel()
    await settled()
    assert (peer.cancelled, len(peer.batches)) == (0, 1)
    calls[1].cancel()
    await settled()
    assert (peer.cancelled, peer.batches) == (1, [("a", [0, 1]), ("a", [2])])
    peer.go.set()
    assert await waiting == 20


@runs
async def test_a_batch_that_is_given_up_before_it_ran_frees_its_slot() -> None:
    peer = Peer()
    peer.go.set()
    joined = batcher(peer.run)
    for n in range(30):
        call = asyncio.create_task(joined.submit(("a", n), far()))
        for _ in range(n % 10):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert await joined.submit(("a", 99), far()) == 990


@runs
async def test_one_item_may_fail_and_a_batch_that_fails_fails_only_its_own_items() -> None:
    async def run(group: str, items: Sequence[Item]) -> list[int | RuntimeFailure]:
        if group == "broken":
            raise KeyError("weights")
        if group == "busy":
            raise RuntimeFailure(Failure.UNAVAILABLE, "its breaker is open", counts=True)
        if group == "short":
            return []
        odd = RuntimeFailure(Failure.INVALID_OUTPUT, "lost", counts=True)
        return [odd if number % 2 else number for _, number in items]

    joined = batcher(run)
    groups = [*["good"] * 3, *["broken"] * 3, "busy", "short"]
    results = await asyncio.gather(
        *(joined.submit((group, n), far()) for n, group in enumerate(groups)),
        return_exceptions=True,
    )
    assert [results[0], results[2]] == [0, 2]
    failures = [result for result in results if isinstance(result, RuntimeFailure)]
    assert [(f.failure, f.counts) for f in failures] == [
        (Failure.INVALID_OUTPUT, True),
        *[(Failure.INTERNAL, True)] * 3,
        (Failure.UNAVAILABLE, True),
        (Failure.INTERNAL, True),
    ]
    assert len({id(f) for f in failures}) == len(failures), "each call raises its own"


def test_an_error_is_logged_once_per_batch_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run(group: str, items: Sequence[Item]) -> list[int]:
        raise KeyError("weights")

    async def check() -> None:
        joined = batcher(run)
        await asyncio.gather(
            *(failure_of(joined.submit(("a", n), far())) for n in range(5)),
        )

    with caplog.at_level(logging.ERROR):
        asyncio.run(check())
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "5 series" in record.message


@runs
async def test_closing_refuses_what_waits_and_finishes_what_runs() -> None:
    peer = Peer()
    joined = batcher(peer.run)
    running = asyncio.create_task(joined.submit(("a", 0), far()))
    await settled()
    waiting = asyncio.create_task(failure_of(joined.submit(("a", 1), far())))
    await settled()
    closing = asyncio.create_task(joined.close())
    refused = await waiting
    peer.go.set()
    await closing
    assert await running == 0
    after = await failure_of(joined.submit(("a", 2), far()))
    for failure in (refused, after):
        assert (failure.failure, failure.counts) == (Failure.UNAVAILABLE, False)


@runs
async def test_batchers_that_share_their_slots_take_turns() -> None:
    slots, peer = asyncio.Semaphore(1), Peer()
    one, other = (batcher(peer.run, slots=slots, max_batch=1) for _ in range(2))
    calls = []
    for n, (name, which) in enumerate([("one", one), ("other", other)] * 3):
        calls.append(asyncio.create_task(which.submit((name, n), far())))
        await settled()
    assert len(peer.batches) == 1
    peer.go.set()
    await asyncio.gather(*calls)
    assert [group for group, _ in peer.batches] == ["one", "other"] * 3


@runs
async def test_who_has_waited_too_long_for_a_batch_is_given_up_and_the_next_one_is_not() -> None:
    clock, peer = Clock(), Peer()
    joined = batcher(peer.run, clock=clock, queue_s=0.5)
    running = asyncio.create_task(joined.submit(("a", 0), far()))
    await settled()
    old = asyncio.create_task(joined.submit(("a", 1), far()))
    await settled()
    clock.now += 0.4
    new = asyncio.create_task(joined.submit(("a", 2), far()))
    await settled()
    clock.now += 0.2
    peer.go.set()
    failure = await failure_of(old)
    assert (failure.failure, failure.counts) == (Failure.QUEUE_FULL, False)
    assert [await running, await new] == [0, 20]
    assert peer.batches == [("a", [0]), ("a", [2])]


@runs
async def test_sizes_of_batches_are_told_once() -> None:
    peer = Peer()
    peer.go.set()
    joined = batcher(peer.run, max_batch=4)
    await asyncio.gather(*(joined.submit(("a", n), far()) for n in range(9)))
    assert joined.take_sizes() == {4: 2, 1: 1}
    assert joined.take_sizes() == {}
