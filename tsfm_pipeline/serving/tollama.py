"""The runtime behind which a tollama daemon stands.

What belongs here: connections, the choice of the daemon's route, deadlines, retries, and which
model the daemon has. What does not: the bodies and what they mean (`tollama_wire`), and joining
calls (`batching`).

A call costs the daemon far more than a series does, and it answers one call of a model family at a
time. So one call is in flight, and whatever comes meanwhile joins the next.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import httpx
import numpy as np
from pydantic_core import from_json, to_json
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_fixed,
    wait_random,
)

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.serving.batching import Batcher
from tsfm_pipeline.serving.deadline import Clock, Deadline
from tsfm_pipeline.serving.runtimes import Answer, Failure, Query, RuntimeFailure
from tsfm_pipeline.serving.settings import TollamaSettings
from tsfm_pipeline.serving.tollama_wire import (
    CallFailed,
    Kind,
    failure_of,
    is_unknown_route,
    most_bytes,
    read_answers,
    request_body,
    shortened,
)

API_ROUTE, V1_ROUTE = "/api/forecast", "/v1/forecast"
UNKNOWN = "unknown"
"""Version and licence of a model of which the daemon has not told anything yet."""
KILL_AFTER_DEADLINES = 10
KILL_AFTER_S = 10.0
"""The daemon kills its runner, for everybody, after the `timeout` of a request; a client that gave
up must not cause that."""
KEEPALIVE_S = 3.0
"""Less than the 5 s after which the daemon's server closes an idle connection."""
LOOK_S = 2.0
"""Timeout of a question that is no forecast."""
LOOK_EVERY_S, LOOK_AGAIN_S = 60.0, 5.0
"""Time between two looks at the daemon's version and model, after success and after failure."""
MOST_BYTES_OF_LOOK = 2**20
LOAD_S = 300.0
"""Time in which the daemon may load a model; its own default for a call."""
WARM_UP_STEPS = 32

log = logging.getLogger(__name__)

Results = list[Answer | RuntimeFailure]


@dataclass(frozen=True, eq=False)
class _Item:
    """One series that waits for a call."""

    query: Query
    deadline: Deadline
    kind: Kind


class TollamaRuntime:
    """Forecasts of a model that a tollama daemon serves; see `runtimes.Runtime`."""

    name: Literal["tollama"] = "tollama"

    def __init__(
        self,
        settings: TollamaSettings,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = time.monotonic,
        *,
        warm_up: bool = True,
    ) -> None:
        """Connect to nothing yet. transport: in place of the network. warm_up: whether the daemon
        is made to load the model as soon as it is seen, and again after it was away.
        """
        self.model = settings.model
        self.licence = UNKNOWN
        self._settings, self._clock = settings, clock
        self._version = UNKNOWN
        self._route = API_ROUTE
        self._look_at = clock()
        self._look: asyncio.Task[bool] | None = None
        self._warm_up, self._warm = warm_up, ""
        self._loading: asyncio.Task[None] | None = None
        key = settings.api_key
        self._client = httpx.AsyncClient(
            base_url=settings.url,
            headers={
                "accept-encoding": "identity",
                **({"authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
            },
            # Every attempt has one timeout as a whole, which also bounds a peer that drips.
            timeout=None,
            limits=httpx.Limits(
                max_connections=settings.max_connections,
                max_keepalive_connections=settings.max_keepalive,
                keepalive_expiry=KEEPALIVE_S,
            ),
            transport=transport,
            trust_env=False,
        )
        self._where = self._client.base_url.netloc.decode("ascii")
        self._batcher: Batcher[Kind, _Item, Answer] = Batcher(
            self._answers,
            lambda item: item.kind,
            settings.max_batch,
            settings.max_wait_ms,
            settings.queue,
            clock,
            queue_s=settings.queue_s,
        )

    @property
    def version(self) -> str:
        """The daemon's version and the digest of its model, such as `0.1.0+1a2b3c4d5e6f`."""
        return self._version

    @property
    def loading(self) -> bool:
        """Whether the daemon is being made to load the model."""
        return _runs(self._loading)

    @property
    def batcher(self) -> Batcher[Kind, _Item, Answer]:
        """What joins concurrent calls."""
        return self._batcher

    async def start(self) -> None:
        """Ask the daemon what it serves. A daemon that is down is no error: it may come later."""
        if not await self.ready():
            log.warning(
                "tollama at %s does not serve %s yet; baselines answer until it does",
                self._where,
                self.model,
            )

    async def forecast(self, query: Query, deadline: Deadline, *, retry: bool = True) -> Answer:
        """Return the daemon's answer; see `runtimes.Runtime.forecast`."""
        if self._look_at <= self._clock() and not _runs(self._look):
            self._look = asyncio.create_task(self.ready())
        item = _Item(query, deadline, Kind.of(query, retry=retry))
        return await self._batcher.submit(item, deadline)

    async def ready(self) -> bool:
        """Return whether the daemon is up and has the model; learn its version and licence."""
        try:
            async with asyncio.timeout(LOOK_S):
                daemon = await self._asked("GET", "/api/version")
                shown = await self._asked("POST", "/api/show", {"model": self.model})
        except (TimeoutError, httpx.HTTPError, RuntimeFailure, ValueError) as error:
            self._look_at = self._clock() + LOOK_AGAIN_S
            self._warm = ""
            log.info("tollama at %s: %s", self._where, shortened(repr(error)))
            return False
        self._look_at = self._clock() + LOOK_EVERY_S
        digest = shortened(str(shown.get("digest") or UNKNOWN))[:12]
        self._version = f"{shortened(str(daemon.get('version')))[:32]}+{digest}"
        licence = shown.get("license")
        given = licence.get("type") if isinstance(licence, dict) else None
        self.licence = shortened(str(given or UNKNOWN))[:64]
        if self._warm_up and self._warm != self._version and not self.loading:
            self._loading = asyncio.create_task(self._load(self._version))
        return True

    async def close(self) -> None:
        """Finish the call in flight, refuse what waits, and close all connections."""
        await self._batcher.close()
        background = [task for task in (self._look, self._loading) if task is not None]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._client.aclose()

    async def _load(self, version: str) -> None:
        """Make the daemon load the model, with more patience than a forecast has.

        The daemon starts a runner on its first call and kills it when the call's timeout ends. A
        model that loads slowly would never be ready if forecasts alone asked for it.
        """
        values = np.linspace(0.0, 1.0, WARM_UP_STEPS)
        query = Query("", values, 1.0, datetime.now(UTC), 1, DECILES)
        kind = Kind.of(query, retry=False)
        try:
            async with asyncio.timeout(LOAD_S):
                await self._once(kind, [query], LOAD_S, uuid4().hex[:16])
        except (TimeoutError, httpx.HTTPError, RuntimeFailure) as error:
            log.warning("tollama at %s: no warm-up: %s", self._where, shortened(repr(error)))
        else:
            self._warm = version

    async def _answers(self, kind: Kind, items: list[_Item]) -> Results:
        """Return what the daemon says about each item, in one call unless it refuses some."""
        try:
            return await self._call(kind, items)
        except CallFailed as failure:
            if failure.failure is not Failure.REJECTED:
                raise
            return await self._without_the_refused(kind, items, failure)

    async def _without_the_refused(
        self, kind: Kind, items: list[_Item], failure: CallFailed
    ) -> Results:
        """Return the answers of a call that was refused, with the series that caused it left out.

        The daemon refuses a call as a whole. Halves are asked again until the cause is alone. Where
        both halves are refused, it is not a single series, and no more is asked.
        """
        refused: Results = [failure] * len(items)
        if len(items) == 1 or _latest(items).left * 1e3 < self._settings.min_left_ms:
            return refused
        middle = len(items) // 2
        halves = [items[:middle], items[middle:]]
        outcomes = [await self._half(kind, half) for half in halves]
        if all(outcome is None for outcome in outcomes):
            return refused
        results: Results = []
        for half, outcome in zip(halves, outcomes, strict=True):
            results += (
                await self._without_the_refused(kind, half, failure) if outcome is None else outcome
            )
        return results

    async def _half(self, kind: Kind, items: list[_Item]) -> Results | None:
        """Return the answers of one call; None where it was refused."""
        try:
            return await self._call(kind, items)
        except CallFailed as failure:
            return None if failure.failure is Failure.REJECTED else [failure] * len(items)

    async def _call(self, kind: Kind, items: Sequence[_Item]) -> Results:
        """Return the answers of one call, which is attempted again where that may help."""
        deadline, settings = _latest(items), self._settings
        queries = [item.query for item in items]
        request_id = uuid4().hex[:16]
        backoff = wait_fixed(settings.backoff_ms / 1e3) + wait_random(0, settings.jitter_ms / 1e3)
        most = stop_after_attempt(1 + (settings.retries if kind.retry else 0))

        def wait(state: RetryCallState) -> float:
            failure = state.outcome.exception() if state.outcome else None
            asked = failure.after_s if isinstance(failure, CallFailed) else None
            return backoff(state) if asked is None else asked

        def stop(state: RetryCallState) -> bool:
            left = deadline.left - state.upcoming_sleep
            return most(state) or left * 1e3 < settings.min_left_ms

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, CallFailed) and error.again),
            wait=wait,
            stop=stop,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                number = attempt.retry_state.attempt_number
                return await self._attempt(kind, queries, deadline, f"{request_id}-{number}")
        raise AssertionError("tenacity returns or raises")

    async def _attempt(
        self, kind: Kind, queries: Sequence[Query], deadline: Deadline, request_id: str
    ) -> Results:
        """Return the answers of one attempt. Raises `CallFailed`."""
        kill_after = max(KILL_AFTER_S, KILL_AFTER_DEADLINES * deadline.left)
        try:
            async with asyncio.timeout(deadline.clipped(self._settings.timeout_s)):
                return await self._once(kind, queries, kill_after, request_id)
        except (TimeoutError, httpx.TimeoutException):
            raise CallFailed(
                Failure.TIMEOUT, "no answer in time", counts=True, again=True
            ) from None
        except httpx.HTTPError as error:
            # Whoever comes back may serve another version or model.
            self._look_at = min(self._look_at, self._clock() + LOOK_AGAIN_S)
            text = shortened(f"{type(error).__name__}: {error}")
            raise CallFailed(Failure.CONNECTION, text, counts=True, again=True) from error

    async def _once(
        self, kind: Kind, queries: Sequence[Query], kill_after: float, request_id: str
    ) -> Results:
        """Return the daemon's answers. On a route that it lacks, the other is asked at once.

        kill_after: seconds after which the daemon kills its runner. Raises `CallFailed` and
        httpx's errors.
        """
        other = V1_ROUTE if self._route == API_ROUTE else API_ROUTE
        most = most_bytes(kind, len(queries))
        for route in (self._route, other):
            stream = False if route == API_ROUTE else None
            body = request_body(self.model, queries, kind, timeout_s=kill_after, stream=stream)
            response, content = await self._sent("POST", route, body, request_id, most)
            if is_unknown_route(response.status_code, content):
                continue
            self._route = route
            if response.status_code != httpx.codes.OK:
                raise failure_of(response.status_code, response.headers, content)
            media_type = response.headers.get("content-type", "")
            return read_answers(content, media_type, queries, kind)
        self._route = API_ROUTE
        raise CallFailed(
            Failure.MISCONFIGURED, f"neither {API_ROUTE} nor {V1_ROUTE} exists", counts=False
        )

    async def _asked(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the daemon's JSON object. Raises `RuntimeFailure`, httpx's errors, ValueError."""
        content = None if body is None else to_json(body)
        response, answer = await self._sent(
            method, path, content, uuid4().hex[:16], MOST_BYTES_OF_LOOK
        )
        if response.status_code != httpx.codes.OK:
            raise failure_of(response.status_code, response.headers, answer)
        parsed = from_json(answer)
        if not isinstance(parsed, dict):
            raise ValueError(f"{path} answered with a {type(parsed).__name__}, not an object")
        return parsed

    async def _sent(
        self, method: str, path: str, body: bytes | None, request_id: str, most: int
    ) -> tuple[httpx.Response, bytes]:
        """Return a response and its body, which is never decompressed and has at most `most` bytes.

        Raises `CallFailed` for a longer one, and for one that is compressed all the same.
        """
        headers = {"x-request-id": request_id, "content-type": "application/json"}
        async with self._client.stream(method, path, content=body, headers=headers) as response:
            encoding = response.headers.get("content-encoding", "identity")
            if encoding.strip().lower() != "identity":
                raise CallFailed(
                    Failure.INVALID_OUTPUT,
                    shortened(f"it is encoded as {encoding}; allowed: identity"),
                    counts=True,
                )
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if len(content) > most:
                    raise CallFailed(Failure.INVALID_OUTPUT, f"more than {most} bytes", counts=True)
            return response, bytes(content)


def _runs(task: "asyncio.Task[Any] | None") -> bool:
    return task is not None and not task.done()


def _latest(items: Sequence[_Item]) -> Deadline:
    """Return the last of the deadlines: who has an earlier one stops waiting by itself."""
    return max((item.deadline for item in items), key=lambda deadline: deadline.at)
