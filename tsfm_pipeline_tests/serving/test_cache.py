"""Test the cache and the single flight: rows C1 to C3, D-2 and D-3 of the service's conformance
table.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tsfm_pipeline.serving.cache import ForecastCache
from tsfm_pipeline.serving.settings import CacheSettings
from tsfm_pipeline_tests.serving.clocks import FakeClock

Cache = ForecastCache[str, bytes]


def cache(clock: FakeClock | None = None, **options: float) -> Cache:
    return ForecastCache(CacheSettings(**options), clock or FakeClock())


class Model:
    """Computes when told to, and counts."""

    def __init__(self, answer: bytes | Exception = b"answer") -> None:
        self.answer, self.calls, self.cancelled = answer, 0, 0
        self.go = asyncio.Event()

    async def __call__(self) -> bytes:
        self.calls += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def turns() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


def test_c1_an_answer_is_fresh_then_stale_then_gone() -> None:
    clock = FakeClock()
    kept = cache(clock)
    kept.put("k", b"1")
    seen = []
    for _ in range(4):
        seen.append((kept.fresh("k"), kept.stale("k")))
        clock.pass_by(60)
    assert seen == [(b"1", b"1"), (None, b"1"), (None, b"1"), (None, None)]


def test_c2_with_a_ttl_of_0_an_answer_only_stands_in_for_failures() -> None:
    clock = FakeClock()
    kept = cache(clock, ttl_s=0, stale_s=30)
    kept.put("k", b"1")
    assert kept.fresh("k") is None
    assert kept.stale("k") == b"1"
    clock.pass_by(30)
    assert kept.stale("k") is None


def test_c2_with_no_time_at_all_nothing_is_kept() -> None:
    kept = cache(ttl_s=0, stale_s=0)
    kept.put("k", b"1")
    assert kept.stale("k") is None


def test_c3_the_least_recently_used_entry_leaves() -> None:
    kept = cache(max_entries=2)
    kept.put("a", b"1")
    kept.put("b", b"2")
    kept.fresh("a")
    kept.put("c", b"3")
    assert len(kept) == 2
    assert [kept.fresh(key) for key in "abc"] == [b"1", None, b"3"]


@in_loop
async def test_d3_a_hundred_identical_misses_are_one_computation() -> None:
    kept, model = cache(), Model()
    callers = [asyncio.create_task(kept.single_flight("k", model)) for _ in range(100)]
    await turns()
    model.go.set()
    answers = await asyncio.gather(*callers)
    assert model.calls == 1
    assert [value for value, _ in answers] == [b"answer"] * 100
    assert sum(joined for _, joined in answers) == 99
    assert kept.fresh("k") == b"answer"


@in_loop
async def test_d3_a_caller_that_comes_as_the_answer_does_finds_it() -> None:
    kept, model = cache(), Model()
    model.go.set()

    async def caller() -> None:
        if kept.fresh("k") is None:
            await kept.single_flight("k", model)

    callers = []
    for _ in range(20):
        callers.append(asyncio.create_task(caller()))
        await asyncio.sleep(0)
    await asyncio.gather(*callers)
    assert model.calls == 1


@in_loop
async def test_d3_keys_fly_by_themselves() -> None:
    kept, a, b = cache(), Model(b"a"), Model(b"b")
    both = asyncio.gather(kept.single_flight("a", a), kept.single_flight("b", b))
    await turns()
    a.go.set()
    b.go.set()
    assert await both == [(b"a", False), (b"b", False)]


@in_loop
async def test_a_cancelled_leader_does_not_fail_its_followers() -> None:
    kept, model = cache(), Model()
    leader, *followers = (asyncio.create_task(kept.single_flight("k", model)) for _ in range(5))
    await turns()
    leader.cancel()
    followers.pop().cancel()
    await turns()
    assert leader.cancelled()
    model.go.set()
    assert await asyncio.gather(*followers) == [(b"answer", True)] * 3
    assert (model.calls, model.cancelled) == (1, 0)


@in_loop
async def test_what_nobody_waits_for_is_cancelled_and_the_next_caller_starts_anew() -> None:
    kept, left, model = cache(), Model(), Model()
    callers = [asyncio.create_task(kept.single_flight("k", left)) for _ in range(3)]
    await turns()
    for caller in callers:
        caller.cancel()
    await asyncio.sleep(0)
    late = asyncio.create_task(kept.single_flight("k", model))
    await turns()
    assert (left.calls, left.cancelled) == (1, 1)
    model.go.set()
    assert await late == (b"answer", False)
    assert kept.stale("k") == b"answer"


@in_loop
async def test_d2_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    clock = FakeClock()
    kept, bad = cache(clock), Model(ValueError("broken"))
    kept.put("k", b"earlier")
    clock.pass_by(100)
    callers = [asyncio.create_task(kept.single_flight("k", bad)) for _ in range(3)]
    await turns()
    bad.go.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["broken"] * 3
    assert kept.fresh("k") is None
    assert kept.stale("k") == b"earlier"
    good = Model()
    good.go.set()
    assert await kept.single_flight("k", good) == (b"answer", False)


@in_loop
async def test_a_computation_that_is_cancelled_from_inside_does_not_cancel_its_callers() -> None:
    async def gives_up() -> bytes:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="from inside"):
        await cache().single_flight("k", gives_up)


class CacheMachine(RuleBasedStateMachine):
    """Entries are kept as a list, the most recently used last."""

    keys = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.cache = cache(self.clock, ttl_s=8, stale_s=16, max_entries=3)
        self.kept: list[tuple[str, float, bytes]] = []

    def used(self, key: str, longest: float) -> bytes | None:
        for i, (name, at, value) in enumerate(self.kept):
            if name == key:
                self.kept.append(self.kept.pop(i))
                return value if self.clock.now - at < longest else None
        return None

    @rule(key=keys, value=st.binary(max_size=2))
    def put(self, key: str, value: bytes) -> None:
        self.cache.put(key, value)
        self.kept = [entry for entry in self.kept if entry[0] != key]
        self.kept = [*self.kept, (key, self.clock.now, value)][-3:]

    @rule(key=keys)
    def look(self, key: str) -> None:
        assert self.cache.fresh(key) == self.used(key, 8)
        assert self.cache.stale(key) == self.used(key, 24)

    @rule(seconds=st.sampled_from((0.5, 7.5, 8.0, 16.0)))
    def wait(self, seconds: float) -> None:
        self.clock.pass_by(seconds)
        self.kept = [entry for entry in self.kept if self.clock.now - entry[1] < 24]

    @invariant()
    def sizes_agree(self) -> None:
        assert len(self.cache) == len(self.kept)


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
