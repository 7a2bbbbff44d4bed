"""Test the adapter against a peer that breaks HTTP, and connections: what counts (D-4), deadlines
(D-7), and the runtime's part of F8 and F11 of the service's conformance table.
"""

import asyncio
import socket
import tracemalloc
from typing import Any

import pytest

from tsfm_pipeline.serving.postprocess import OutputFault
from tsfm_pipeline.serving.runtimes import Answer, Failure, RuntimeFailure
from tsfm_pipeline_tests.serving.tollama import peer
from tsfm_pipeline_tests.serving.tollama.peer import Fault, Peer, edits, peering, says
from tsfm_pipeline_tests.serving.tollama.queries import query
from tsfm_pipeline_tests.serving.tollama.test_adapter import Outcome, outcome, outcomes, running


def faced(*faults: Fault, seconds: float = 60.0, **settings: Any) -> tuple[Outcome, Peer]:
    """Return what becomes of one forecast, and what the peer saw."""
    retry = settings.pop("retry", True)

    async def run() -> tuple[Outcome, Peer]:
        async with peering(*faults) as one, running(one.url, **settings) as runtime:
            return await outcome(runtime, query(), seconds, retry=retry), one

    return asyncio.run(run())


def _median(answer: dict[str, Any]) -> list[Any]:
    return answer["forecasts"][0]["quantiles"]["0.5"]


@pytest.mark.parametrize(
    ("fault", "failure", "counts", "attempts"),
    [
        (peer.reset, Failure.CONNECTION, True, 2),
        (peer.half, Failure.CONNECTION, True, 2),
        (peer.hang, Failure.TIMEOUT, True, 2),
        (peer.drip, Failure.TIMEOUT, True, 2),
        (peer.bomb, Failure.INVALID_OUTPUT, True, 1),
        (peer.flood, Failure.INVALID_OUTPUT, True, 1),
        (says(b"not HTTP", length=-1), Failure.CONNECTION, True, 2),
        (says(b""), Failure.INVALID_OUTPUT, True, 1),
        (says(b'{"forecasts": [{'), Failure.INVALID_OUTPUT, True, 1),
        (says(b"{}", 500), Failure.UNAVAILABLE, True, 1),
        (says(b'{"detail": {"code": "OOM"}}', 502), Failure.INTERNAL, True, 1),
        (says(b'{"detail": "circuit breaker is open"}', 503), Failure.UNAVAILABLE, True, 1),
        (says(b"no healthy upstream", 503), Failure.UNAVAILABLE, True, 2),
        (says(b"", 504), Failure.TIMEOUT, True, 1),
        (says(b'{"detail": "rate limit exceeded"}', 429), Failure.BUSY, False, 2),
        (says(b"", 429, "retry-after: 0\r\n"), Failure.BUSY, False, 2),
        (says(b"", 302, "location: http://127.0.0.1:1/\r\n"), Failure.MISCONFIGURED, False, 1),
        (edits(lambda a: _median(a).pop()), Failure.INVALID_OUTPUT, True, 1),
        (edits(lambda a: _median(a).append(1.0)), Failure.INVALID_OUTPUT, True, 1),
        (edits(lambda a: _median(a).__setitem__(1, float("nan"))), Failure.INVALID_OUTPUT, True, 1),
        (edits(lambda a: a["forecasts"].pop()), Failure.INVALID_OUTPUT, True, 1),
        (
            edits(lambda a: a["forecasts"].append(a["forecasts"][0])),
            Failure.INVALID_OUTPUT,
            True,
            1,
        ),
    ],
)
def test_every_fault_has_its_failure(
    fault: Fault, failure: Failure, counts: bool, attempts: int
) -> None:
    given, one = faced(fault, timeout_s=0.4 if failure is Failure.TIMEOUT else 30.0)
    assert isinstance(given, RuntimeFailure)
    assert (given.failure, given.counts) == (failure, counts)
    assert len(one.bodies) == attempts


@pytest.mark.parametrize("fault", [peer.reset, peer.half, peer.hang, says(b"", 503)])
def test_a_fault_that_passes_is_answered_by_the_second_attempt(fault: Fault) -> None:
    answer, one = faced(fault, peer.right, timeout_s=1.0)
    assert isinstance(answer, Answer)
    first, second = (head.lower().partition(b"x-request-id: ")[2][:18] for head in one.heads)
    assert (first[:16], first[16:], second[16:]) == (second[:16], b"-1", b"-2")


def test_without_leave_to_retry_there_is_one_attempt() -> None:
    given, one = faced(peer.reset, retry=False)
    assert isinstance(given, RuntimeFailure)
    assert len(one.bodies) == 1


def test_without_time_for_it_there_is_one_attempt() -> None:
    given, one = faced(peer.reset, seconds=5.0, min_left_ms=10_000.0)
    assert isinstance(given, RuntimeFailure)
    assert given.failure is Failure.CONNECTION
    assert len(one.bodies) == 1


def test_a_deadline_before_the_timeout_ends_the_call() -> None:
    given, one = faced(peer.hang, seconds=0.3, timeout_s=60.0)
    assert isinstance(given, RuntimeFailure)
    assert (given.failure, given.counts) == (Failure.TIMEOUT, True)
    assert len(one.bodies) == 1


def test_while_a_peer_hangs_those_who_never_reached_it_say_nothing_about_it() -> None:
    async def run() -> list[Outcome]:
        async with peering(peer.hang) as one, running(one.url, timeout_s=60.0) as runtime:
            first = asyncio.create_task(outcome(runtime, query(), 1.0))
            while not one.bodies:
                await asyncio.sleep(0.01)
            return [await outcome(runtime, query(), 0.1), await first]

    waiting, asked = asyncio.run(run())
    assert isinstance(waiting, RuntimeFailure)
    assert isinstance(asked, RuntimeFailure)
    assert (waiting.failure, waiting.counts) == (Failure.TIMEOUT, False)
    assert (asked.failure, asked.counts) == (Failure.TIMEOUT, True)


def test_a_client_that_leaves_takes_its_call_along() -> None:
    async def run() -> tuple[Outcome, Peer]:
        async with peering(peer.hang, peer.right) as one, running(one.url) as runtime:
            first = asyncio.create_task(outcome(runtime, query()))
            while not one.bodies:
                await asyncio.sleep(0.01)
            first.cancel()
            return await outcome(runtime, query()), one

    answer, one = asyncio.run(run())
    assert isinstance(answer, Answer), "the next call does not wait for the one that hangs"
    assert len(one.bodies) == 2


def test_a_peer_that_is_not_there_is_a_failed_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    async def run() -> Outcome:
        async with running(f"http://127.0.0.1:{port}") as runtime:
            assert not await runtime.ready()
            assert runtime.version == runtime.licence == "unknown"
            return await outcome(runtime, query())

    given = asyncio.run(run())
    assert isinstance(given, RuntimeFailure)
    assert (given.failure, given.counts) == (Failure.CONNECTION, True)


def test_a_failed_call_fails_every_series_in_it_with_an_error_of_its_own() -> None:
    async def run() -> list[Outcome]:
        async with peering(peer.reset) as one, running(one.url, retries=0) as runtime:
            return await outcomes(runtime, [query()] * 8)

    failures = asyncio.run(run())
    assert {one.failure for one in failures if isinstance(one, RuntimeFailure)} == {
        Failure.CONNECTION
    }
    assert len({id(one) for one in failures}) == 8


@pytest.mark.parametrize("fault", [peer.bomb, peer.flood])
def test_an_endless_or_packed_answer_takes_no_memory(fault: Fault) -> None:
    peer.packed()

    async def run() -> int:
        async with peering(fault) as one, running(one.url) as runtime:
            tracemalloc.start()
            await outcome(runtime, query())
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return peak

    assert asyncio.run(run()) < 20_000_000


def test_what_is_wrong_with_an_output_is_named_first_in_the_detail() -> None:
    given, _ = faced(edits(lambda a: _median(a).__setitem__(0, None)))
    assert isinstance(given, RuntimeFailure)
    assert given.detail.partition(":")[0] == OutputFault.NON_FINITE
