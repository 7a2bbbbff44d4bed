"""A service that listens on this machine, and a small model behind it.

What belongs here: starting and stopping a service in a thread of the test's process, requests as a
client would write them, and a runtime that answers at once or fails as it is told. What does not:
expectations.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
import numpy as np

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.serving.build import Service, build
from tsfm_pipeline.serving.deadline import Deadline
from tsfm_pipeline.serving.runtimes import Answer, Query, Runtime
from tsfm_pipeline.serving.server import Server, listening, url_of
from tsfm_pipeline.serving.settings import ServingSettings

TOKEN = "a token that only the tests know"
AS_OF = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECONDS = 30.0
"""No wait takes longer than this: many times what the slowest takes."""


class Model:
    """A runtime whose deciles are the last value and a spread that grows with the step.

    fails: raised by every call, if set. delay_s: time that a call takes. answers: what replaces the
    answer, if set. asked: how many calls came. waiting: how many are in work.
    """

    def __init__(
        self,
        name: Literal["local", "tollama"] = "local",
        model: str = "bundled",
        licence: str = "MIT",
    ) -> None:
        self.name, self.model, self.licence, self.version = name, model, licence, "v1"
        self.fails: Exception | None = None
        self.delay_s = 0.0
        self.answers: Callable[[Query], Answer] | None = None
        self.asked = self.waiting = self.cancelled = 0
        self.start_fails: Exception | None = None

    async def start(self) -> None:
        if self.start_fails is not None:
            raise self.start_fails

    async def forecast(self, query: Query, deadline: Deadline, *, retry: bool = True) -> Answer:
        self.asked += 1
        self.waiting += 1
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        if self.fails is not None:
            raise self.fails
        return random_walk(query) if self.answers is None else self.answers(query)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        self.waiting = 0


def random_walk(query: Query) -> Answer:
    """The answer of `Model`: z-values of the deciles times the root of the step."""
    z = np.array([-1.28, -0.84, -0.52, -0.25, 0.0, 0.25, 0.52, 0.84, 1.28])
    spread = 0.2 * np.sqrt(np.arange(1, query.horizon + 1))
    values = query.values[-1] + spread[:, None] * z
    return Answer(DECILES, values, asked=len(query.values), configuration="walk")


def request(**fields: Any) -> dict[str, Any]:
    """A valid request; fields replace its own."""
    y = [round(0.5 + 0.2 * float(np.sin(i / 10)), 4) for i in range(64)]
    return {"market_id": "m", "as_of_ts": AS_OF.isoformat(), "y": y} | fields


class Live:
    """A service that listens, and clients of it."""

    def __init__(self, service: Service, url: str) -> None:
        self.service, self.url = service, url
        self.headers = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx.Client(base_url=url, headers=self.headers, timeout=SECONDS)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parsed = httpx.URL(self.url)
        return parsed.host, parsed.port or 80

    def forecast(self, **fields: Any) -> httpx.Response:
        """The answer to POST /tsfm/forecast."""
        return self.client.post("/tsfm/forecast", json=request(**fields))

    def together(self, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
        """The answers to requests that come at the same time."""

        async def ask() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=len(bodies))
            async with httpx.AsyncClient(
                base_url=self.url, headers=self.headers, timeout=SECONDS, limits=limits
            ) as client:
                posts = (client.post("/tsfm/forecast", json=body) for body in bodies)
                return await asyncio.gather(*posts)

        return asyncio.run(ask())

    def metric(self, sample: str) -> float:
        """The value of a sample of /metrics, such as `tsfm_request_total{status="x"}`."""
        for line in self.client.get("/metrics").text.splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        raise AssertionError(f"/metrics has no {sample}")


@contextmanager
def live(*runtimes: Runtime, no_auth: bool = False, **options: Any) -> Iterator[Live]:
    """A service that listens while the block runs; options are settings. Unless they say
    otherwise, no answer is late, however busy the machine is.
    """
    given = {"token": TOKEN, "deadline_s": SECONDS} | options
    settings = ServingSettings(host="127.0.0.1", port=0, **given)
    service = build(settings, no_auth=no_auth, runtimes=runtimes)
    listener = listening(settings.host, settings.port)
    server = Server(service.app, service.gate, settings.drain_s)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    running = Live(service, url_of(listener))
    try:
        until(lambda: running.client.get("/ready").status_code == 200)
        yield running
    finally:
        running.client.close()
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive(), "the server has not stopped"


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition did not hold in time"
        time.sleep(0.01)
