"""Test the adapter against the double of a daemon, over HTTP on loopback: rows D-1 and D-16 of the
service's conformance table, and the runtime's part of F1, F8 and F11.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import HTTPException

from tsfm_pipeline.serving.deadline import Deadline
from tsfm_pipeline.serving.postprocess import OutputFault
from tsfm_pipeline.serving.preparation import COVARIATES_IGNORED
from tsfm_pipeline.serving.runtimes import Answer, Failure, Query, RuntimeFailure
from tsfm_pipeline.serving.settings import TollamaSettings
from tsfm_pipeline.serving.tollama import API_ROUTE, V1_ROUTE, TollamaRuntime
from tsfm_pipeline_tests.serving.tollama.double import Double, app_of
from tsfm_pipeline_tests.serving.tollama.queries import query
from tsfm_pipeline_tests.serving.tollama.servers import serving

PATIENT = 60.0
# A loaded machine must not make a call wait too long; the test of that limit sets its own.
SETTINGS = TollamaSettings(
    model="faulty", timeout_s=30.0, backoff_ms=1.0, jitter_ms=0.0, queue_s=30.0
)

Outcome = Answer | RuntimeFailure


def against(
    double: Double, work: Callable[[TollamaRuntime], Awaitable[Any]], **settings: Any
) -> Any:
    """Return what `work` returns with a runtime whose daemon is the double."""

    async def run(url: str) -> Any:
        async with running(url, **settings) as runtime:
            return await work(runtime)

    with serving(app_of(double)) as url:
        return asyncio.run(run(url))


@asynccontextmanager
async def running(url: str, **settings: Any) -> AsyncIterator[TollamaRuntime]:
    runtime = TollamaRuntime(SETTINGS.model_copy(update={"url": url} | settings), warm_up=False)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.close()


async def outcome(
    runtime: TollamaRuntime, one: Query, seconds: float = PATIENT, *, retry: bool = True
) -> Outcome:
    try:
        return await runtime.forecast(one, Deadline.after(seconds), retry=retry)
    except RuntimeFailure as failure:
        return failure


async def outcomes(runtime: TollamaRuntime, queries: list[Query]) -> list[Outcome]:
    return await asyncio.gather(*(outcome(runtime, one) for one in queries))


def test_concurrent_calls_share_requests_and_each_gets_its_own_answer() -> None:
    double = Double()
    lasts = [0.01 * i for i in range(200)]
    answers = against(double, lambda runtime: outcomes(runtime, [query(last) for last in lasts]))
    medians = [answer.values[0, answer.levels.index(0.5)] for answer in answers]
    assert np.allclose(medians, lasts)
    sizes = [len(body["series"]) for _, _, body in double.seen]
    assert sum(sizes) == 200
    assert max(sizes) == 64
    assert len(sizes) <= 5


def test_a_request_says_no_stream_and_a_timeout_that_kills_nobodys_runner() -> None:
    double = Double()
    against(double, lambda runtime: outcome(runtime, query(), 1.6))
    against(double, lambda runtime: outcome(runtime, query(), 0.9))
    (path, headers, first), (_, _, second) = double.seen
    assert path == API_ROUTE
    assert first["stream"] is False
    assert 10.0 < first["timeout"] <= 16.0
    assert second["timeout"] == 10.0
    assert headers["accept-encoding"] == "identity"
    assert headers["x-request-id"]


def within(app: Any, n: int) -> list[Outcome]:
    """Return the outcomes of n forecasts, one after the other, without a network."""

    async def run() -> list[Outcome]:
        runtime = TollamaRuntime(SETTINGS, httpx.ASGITransport(app), warm_up=False)
        results = [await outcome(runtime, query()) for _ in range(n)]
        await runtime.close()
        return results

    return asyncio.run(run())


def test_a_daemon_without_the_one_route_is_asked_at_the_other_and_this_is_remembered() -> None:
    double = Double(routes=(V1_ROUTE,))
    paths: list[str] = []
    app = app_of(double)

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await app(scope, receive, send)

    assert all(isinstance(answer, Answer) for answer in within(noting, 2))
    assert [path for path in paths if "forecast" in path] == [API_ROUTE, V1_ROUTE, V1_ROUTE]
    assert all("stream" not in body for _, _, body in double.seen)


def test_a_remembered_route_is_forgotten_when_it_goes() -> None:
    apps = [app_of(Double(routes=(V1_ROUTE,))), app_of(Double(routes=(API_ROUTE,)))]
    n_answered = 0

    async def upgraded(scope: Any, receive: Any, send: Any) -> None:
        nonlocal n_answered

        async def counting(message: Any) -> None:
            nonlocal n_answered
            is_answer = message["type"] == "http.response.start" and message["status"] == 200
            n_answered += is_answer and "forecast" in scope["path"]
            await send(message)

        await apps[min(n_answered, 1)](scope, receive, counting)

    assert all(isinstance(answer, Answer) for answer in within(upgraded, 2))


def test_a_peer_without_either_route_is_a_matter_of_configuration() -> None:
    failure = against(Double(routes=()), lambda runtime: outcome(runtime, query()))
    assert (failure.failure, failure.counts) == (Failure.MISCONFIGURED, False)


def test_a_model_that_is_not_installed_is_not_asked_for_again() -> None:
    double = Double()
    failure = against(double, lambda runtime: outcome(runtime, query()), model="chronos2")
    assert (failure.failure, failure.counts) == (Failure.MISCONFIGURED, False)
    assert "not installed" in failure.detail
    assert len(double.seen) == 1


def test_version_and_licence_are_the_daemons() -> None:
    async def told(runtime: TollamaRuntime) -> tuple[str, str, bool]:
        return runtime.version, runtime.licence, await runtime.ready()

    double = Double(digest="0123456789abcdef", licence="cc-by-nc-4.0")
    assert against(double, told) == ("0.1.0+0123456789ab", "cc-by-nc-4.0", True)
    assert against(double, told, model="absent") == ("unknown", "unknown", False)


def test_a_daemon_that_comes_up_later_is_noticed() -> None:
    now = [0.0]
    double = Double(models={})

    async def told(url: str) -> list[str]:
        settings = SETTINGS.model_copy(update={"url": url})
        runtime = TollamaRuntime(settings, clock=lambda: now[0], warm_up=False)
        await runtime.start()
        versions = [runtime.version]
        double.models["faulty"] = "faults"
        now[0] += 5.0
        await runtime.forecast(query(), Deadline.after(PATIENT, lambda: now[0]))
        while runtime.version == "unknown":
            await asyncio.sleep(0.01)
        await runtime.close()
        return [*versions, runtime.version]

    with serving(app_of(double)) as url:
        assert asyncio.run(asyncio.wait_for(told(url), PATIENT)) == ["unknown", "0.1.0+local"]


def test_the_model_is_loaded_once_when_the_daemon_is_seen_and_again_after_it_was_away() -> None:
    double = Double()
    here = [True]
    app = app_of(double)

    async def sometimes(scope: Any, receive: Any, send: Any) -> None:
        if not here[0]:
            raise httpx.ConnectError("away")
        await app(scope, receive, send)

    async def loads(runtime: TollamaRuntime, n: int) -> None:
        while len(double.seen) < n or runtime.loading:
            await asyncio.sleep(0.01)

    async def run() -> list[bool]:
        runtime = TollamaRuntime(SETTINGS, httpx.ASGITransport(sometimes))
        await runtime.start()
        await loads(runtime, 1)
        ready = [await runtime.ready()]
        await loads(runtime, 1)
        here[0] = False
        ready.append(await runtime.ready())
        here[0] = True
        ready.append(await runtime.ready())
        await loads(runtime, 2)
        await runtime.close()
        return ready

    assert asyncio.run(asyncio.wait_for(run(), PATIENT)) == [True, False, True]
    assert [body["timeout"] for _, _, body in double.seen] == [300.0, 300.0]


def test_a_key_is_sent_and_a_wrong_one_does_not_count() -> None:
    double = Double(keys=frozenset({"right"}))
    answer = against(double, lambda runtime: outcome(runtime, query()), api_key=secret("right"))
    assert isinstance(answer, Answer)
    failure = against(double, lambda runtime: outcome(runtime, query()), api_key=secret("wrong"))
    assert (failure.failure, failure.counts) == (Failure.MISCONFIGURED, False)


def secret(value: str) -> Any:
    return TollamaSettings(api_key=value).api_key  # type: ignore[arg-type]


def test_covariates_that_the_model_cannot_use_give_a_warning() -> None:
    one = query(past={"load": np.zeros(40)})
    answer = against(Double(), lambda runtime: outcome(runtime, one))
    assert answer.warnings == (COVARIATES_IGNORED,)


@pytest.mark.parametrize(
    ("params", "failure", "counts", "told"),
    [
        ({"error": "BAD_REQUEST"}, Failure.REJECTED, False, "told to fail"),
        ({"error": "OOM"}, Failure.INTERNAL, True, "OOM"),
        ({"error": "DEPENDENCY_MISSING"}, Failure.UNAVAILABLE, True, "DEPENDENCY_MISSING"),
        ({"crash": True}, Failure.UNAVAILABLE, True, "exited"),
        ({"short": 2}, Failure.INVALID_OUTPUT, True, OutputFault.HORIZON),
        ({"drop": "0.5"}, Failure.INVALID_OUTPUT, True, OutputFault.QUANTILES),
    ],
)
def test_what_a_runner_does_wrong_is_told_apart(
    params: dict[str, Any], failure: Failure, counts: bool, told: str
) -> None:
    double = Double()
    given = against(double, lambda runtime: outcome(runtime, query(params=params)))
    assert (given.failure, given.counts) == (failure, counts)
    assert told in given.detail
    assert len(double.seen) == 1, "none of these is better the second time"


@pytest.mark.parametrize("params", [{"cross": True}, {"reverse": True}])
def test_what_can_be_put_right_is_an_answer(params: dict[str, Any]) -> None:
    queries = [query(0.2, params=params), query(0.4, params=params)]
    answers = against(Double(), lambda runtime: outcomes(runtime, queries))
    medians = [answer.values[0, answer.levels.index(0.5)] for answer in answers]
    assert np.allclose(medians, [0.2, 0.4])


@pytest.mark.parametrize("fault", ["lose", "repeat"])
def test_a_lost_or_repeated_series_spoils_no_other(fault: str) -> None:
    queries = [query(0.1 * i, params={fault: True}) for i in range(3)]
    results = against(Double(), lambda runtime: outcomes(runtime, queries))
    failures = [one for one in results if isinstance(one, RuntimeFailure)]
    assert [failure.failure for failure in failures] == [Failure.INVALID_OUTPUT]
    assert len(results) - len(failures) == 2


def test_params_of_one_client_do_not_reach_another() -> None:
    double = Double()
    queries = [query(), query(params={"error": "BAD_REQUEST"})]
    good, bad = against(double, lambda runtime: outcomes(runtime, queries))
    assert isinstance(good, Answer)
    assert isinstance(bad, RuntimeFailure)


class Picky(Double):
    """Refuses every call with a series that ends above 1, and remembers how many series it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def forecast(self, body: Any) -> dict[str, Any]:
        self.sizes.append(len(body.series))
        if any(series.target[-1] > 1 for series in body.series):
            raise HTTPException(400, {"code": "BAD_REQUEST", "message": "too high"})
        return await super().forecast(body)


def test_one_refused_series_does_not_spoil_those_that_share_its_call() -> None:
    double = Picky()
    queries = [query(2.0 if i == 5 else 0.5) for i in range(16)]
    results = against(double, lambda runtime: outcomes(runtime, queries))
    refused = [i for i, one in enumerate(results) if isinstance(one, RuntimeFailure)]
    assert refused == [5]
    assert results[5].failure is Failure.REJECTED
    assert len(double.sizes) <= 2 + 2 * 4


def test_where_all_series_are_refused_it_is_not_asked_for_each() -> None:
    double = Picky()
    results = against(double, lambda runtime: outcomes(runtime, [query(2.0)] * 16))
    assert {one.failure for one in results} == {Failure.REJECTED}
    assert len(double.sizes) <= 2 * 3


def test_a_busy_daemon_is_asked_once_more_and_does_not_count() -> None:
    double = Double(rate_limit=0)
    failure = against(double, lambda runtime: outcome(runtime, query()))
    assert (failure.failure, failure.counts) == (Failure.BUSY, False)
    assert len(double.seen) == 2


def test_a_busy_daemon_is_not_asked_again_before_the_time_that_it_names() -> None:
    double = Double(rate_limit=0, retry_after="30")
    failure = against(double, lambda runtime: outcome(runtime, query(), 20.0))
    assert failure.failure is Failure.BUSY
    assert len(double.seen) == 1


def test_a_call_that_takes_too_long_counts_once_per_series() -> None:
    params = {"sleep": 5}
    failures = against(
        Double(),
        lambda runtime: outcomes(runtime, [query(params=params)] * 3),
        timeout_s=0.2,
        retries=0,
    )
    assert [(one.failure, one.counts) for one in failures] == [(Failure.TIMEOUT, True)] * 3


def test_after_the_close_nothing_is_asked() -> None:
    async def closed(runtime: TollamaRuntime) -> Outcome:
        await runtime.close()
        return await outcome(runtime, query())

    double = Double()
    failure = against(double, closed)
    assert (failure.failure, failure.counts) == (Failure.UNAVAILABLE, False)
    assert double.seen == []
