"""Test the way to one model: its start, and what its breaker makes of calls that end late.

What belongs here: late calls, where the event loop itself may be what is late. What does not:
failures as clients see them (`test_service`), and the breaker's own rules (`test_breaker`).
"""

import asyncio
import time
from datetime import UTC, datetime

import numpy as np
import pytest

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.serving.build import build
from tsfm_pipeline.serving.deadline import Deadline
from tsfm_pipeline.serving.lanes import Lane, NoModelAnswer
from tsfm_pipeline.serving.metrics import Metrics
from tsfm_pipeline.serving.runtimes import Answer, Failure, Query, RuntimeFailure
from tsfm_pipeline.serving.settings import BreakerSettings, ServingSettings
from tsfm_pipeline_tests.serving.live import SECONDS, Model


class Queueing(Model):
    """A runtime whose calls have no turn before their deadline, and which says so."""

    async def forecast(self, query: Query, deadline: Deadline, *, retry: bool = True) -> Answer:
        self.waiting += 1
        try:
            async with asyncio.timeout(deadline.left):
                await asyncio.sleep(3_600)
        except TimeoutError:
            raise RuntimeFailure(Failure.TIMEOUT, "no turn", counts=False) from None
        raise AssertionError("the hour is over")


async def verdict(runtime: Model, *, held_up: bool) -> tuple[str, bool, str]:
    """What the lane says of a call whose deadline passes, and the state of its breaker."""
    settings = BreakerSettings(failures_in_a_row=1)
    lane = Lane(runtime, settings, Metrics(), time.monotonic)
    query = Query("m", np.zeros(32), 5.0, datetime.now(UTC), 1, DECILES)

    async def accept(answer: Answer) -> Answer:
        return answer

    ask = asyncio.create_task(lane.ask(query, Deadline.after(0.2), accept, retry=True))
    while not runtime.waiting:
        await asyncio.sleep(0)
    if held_up:
        time.sleep(0.3)
    with pytest.raises(NoModelAnswer) as raised:
        await ask
    return raised.value.reason, raised.value.counts, lane.breaker.state


@pytest.mark.parametrize("held_up", [False, True], ids=["in-time", "all-late"])
def test_a_call_that_had_no_turn_says_nothing_about_the_model(held_up: bool) -> None:
    said = asyncio.run(verdict(Queueing(), held_up=held_up))
    assert said == ("runtime_error:timeout", False, "closed")


def test_a_runtime_that_does_not_keep_its_deadline_fails() -> None:
    hanging = Model()
    hanging.delay_s = 3_600.0
    said = asyncio.run(verdict(hanging, held_up=False))
    assert said == ("runtime_error:timeout", True, "open")


class Slow(Model):
    """A runtime that is loaded when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.starts, self.loaded = 0, asyncio.Event()

    async def start(self) -> None:
        self.starts += 1
        await self.loaded.wait()


def test_requests_that_come_while_a_model_is_loaded_do_not_load_it_again() -> None:
    async def starts() -> int:
        slow = Slow()
        lane = Lane(slow, BreakerSettings(), Metrics(), time.monotonic)
        loading = asyncio.create_task(lane.start())
        for _ in range(3):
            await asyncio.sleep(0)
            with pytest.raises(NoModelAnswer, match="unavailable"):
                lane.require_started()
        slow.loaded.set()
        await loading
        lane.require_started()
        await lane.close()
        return slow.starts

    assert asyncio.run(starts()) == 1


@pytest.mark.parametrize("error", [KeyError("weights"), MemoryError(), RuntimeError("no file")])
def test_a_model_that_cannot_be_loaded_is_said_whatever_the_error(error: Exception) -> None:
    async def said() -> str | None:
        broken, told = Model(), asyncio.Event()
        broken.start_fails = error
        service = build(ServingSettings(), no_auth=True, runtimes=[broken])
        service.on_failure = told.set
        await service.start()
        async with asyncio.timeout(SECONDS):
            await told.wait()
        await service.stop()
        return service.problem

    assert "cannot be loaded" in str(asyncio.run(said()))
