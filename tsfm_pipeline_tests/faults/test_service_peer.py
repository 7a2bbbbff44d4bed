"""Test the online service before a daemon that hangs or dies under load: every request is answered,
and the model answers again once the daemon is back.

What belongs here: real processes that are stopped and killed. What does not: how long it takes
(`benchmarks/service.py`), and the faults of a daemon that answers (`serving/tollama`).
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pytest

from tsfm_pipeline.serving.contract import ForecastResponse
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.serving.live import SECONDS, request, until
from tsfm_pipeline_tests.serving.test_serve_command import Process, process
from tsfm_pipeline_tests.serving.test_service import assert_sane

pytestmark = pytest.mark.heavy

CLIENTS = 8
PEER = PROJECT_ROOT / "benchmarks" / "tollama_peer.py"
SHORT = {
    "TSFM_SERVING_DEADLINE_S": "0.6",
    "TSFM_SERVING_TOLLAMA__TIMEOUT_S": "0.3",
    "TSFM_SERVING_BREAKER__PROBE_EVERY_S": "0.2",
    "TSFM_SERVING_RATE_LIMIT__ENABLED": "false",
}
"""Settings under which a fault is over soon; they decide nothing else."""


class Peer:
    """A daemon in a process of its own, which can be stopped, killed and started again."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(PEER), "--port", str(self.port)])
        until(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def send(self, sign: int) -> None:
        os.kill(self.process.pid, sign)
        if sign == signal.SIGKILL:
            self.process.wait(SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)


@dataclass
class Load:
    """What clients got: an answer each, and the statuses of those that got none."""

    answers: list[ForecastResponse] = field(default_factory=list)
    refused: list[object] = field(default_factory=list)

    def by_model(self, since: int = 0) -> int:
        return sum(answer.meta.runtime == "tollama" for answer in self.answers[since:])

    def says(self, state: str, since: int) -> bool:
        return any(a.meta.circuit_breaker_state == state for a in self.answers[since:])


@contextmanager
def load(running: Process) -> Iterator[Load]:
    """Clients that send one request after another while the block runs, each another series."""
    seen, over, numbers = Load(), threading.Event(), count()

    async def client(session: httpx.AsyncClient) -> None:
        while not over.is_set():
            try:
                sent = await session.post(
                    "/tsfm/forecast", json=request(market_id=f"m{next(numbers)}")
                )
            except httpx.HTTPError as error:
                seen.refused.append(error)
                continue
            if sent.status_code == 200:
                seen.answers.append(ForecastResponse.model_validate_json(sent.content))
            else:
                seen.refused.append(sent.status_code)
            await asyncio.sleep(0.02)

    async def clients() -> None:
        async with httpx.AsyncClient(
            base_url=running.url, headers=running.client.headers, timeout=SECONDS
        ) as session:
            await asyncio.gather(*(client(session) for _ in range(CLIENTS)))

    thread = threading.Thread(target=asyncio.run, args=(clients(),))
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    one = Peer()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def served(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A service whose model is the peer's."""
    variables = {
        "TSFM_SERVING_PROVIDER": "tollama",
        "TSFM_SERVING_TOLLAMA__URL": f"http://127.0.0.1:{peer.port}",
    }
    folder: Path = tmp_path_factory.mktemp("service")
    with process(folder, **variables | SHORT) as running:
        yield running.ready()


def test_a_hundred_identical_requests_at_once_are_one_series_for_the_daemon(
    served: Process,
) -> None:
    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(
            base_url=served.url, headers=served.client.headers, timeout=SECONDS, limits=limits
        ) as session:
            posts = (session.post("/tsfm/forecast", json=request()) for _ in range(100))
            return await asyncio.gather(*posts)

    def series() -> float:
        lines = served.client.get("/metrics").text.splitlines()
        name = 'tsfm_batch_series_sum{runtime="tollama"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = series()
    answers = [ForecastResponse.model_validate_json(sent.content) for sent in asyncio.run(ask())]
    assert {answer.meta.runtime for answer in answers} == {"tollama"}
    assert series() - before == 1


@pytest.mark.parametrize("fault", ["hangs", "dies"])
def test_a_daemon_that_hangs_or_dies_costs_no_answer_and_is_asked_again_when_it_is_back(
    fault: str, peer: Peer, served: Process
) -> None:
    with load(served) as seen:
        until(lambda: seen.by_model() >= 100)
        peer.send(signal.SIGSTOP if fault == "hangs" else signal.SIGKILL)
        faulty = len(seen.answers)
        until(lambda: seen.says("open", faulty))
        opened = len(seen.answers)
        until(lambda: len(seen.answers) > opened + 50)
        assert seen.by_model(opened) < 10, "an open breaker asks by single probes"
        if fault == "hangs":
            peer.send(signal.SIGCONT)
        else:
            peer.start()
        back = len(seen.answers)
        until(lambda: seen.by_model(back) >= 50 and seen.says("closed", back))
    assert seen.refused == []
    for answer in seen.answers:
        assert_sane(answer)
        assert answer.meta.fallback_used == (answer.meta.runtime == "baseline")
