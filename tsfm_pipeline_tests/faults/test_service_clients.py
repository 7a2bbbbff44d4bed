"""Test the online service before clients that are slow, idle or too many: others are answered, and
a healthy model is not taken for a broken one.

What belongs here: connections that behave badly. What does not: requests that are wrong
(`serving/test_app`), and clients that leave (`serving/test_service`).
"""

import contextlib
import json
import resource
import socket
from pathlib import Path

import httpx
import pytest

from tsfm_pipeline_tests.serving.live import SECONDS, TOKEN, Live, Model, live, request, until
from tsfm_pipeline_tests.serving.test_serve_command import process

SOFT_LIMIT = 256
"""Files that a process may open before it raises the limit itself."""
LATE_CLIENTS = 64


def head(length: int) -> bytes:
    return (
        f"POST /tsfm/forecast HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def status(connection: socket.socket) -> int:
    """The status of the answer on a connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65_536)
    return int(received[9:12])


def test_bodies_that_drip_in_are_answered_and_delay_nobody() -> None:
    body = json.dumps(request()).encode()
    with live(Model()) as running, contextlib.ExitStack() as slow:
        connections = [
            slow.enter_context(socket.create_connection(running.address, SECONDS))
            for _ in range(LATE_CLIENTS)
        ]
        for connection in connections:
            connection.sendall(head(len(body)))
        for start in range(0, len(body), len(body) // 4):
            for connection in connections:
                connection.sendall(body[start : start + len(body) // 4])
            assert running.forecast(market_id=f"m{start}").status_code == 200
        assert {status(connection) for connection in connections} == {200}


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsfm_pipeline.serving.guard.BODY_TIMEOUT_S", 0.1)
    with live(Model()) as running, socket.create_connection(running.address, SECONDS) as slow:
        slow.sendall(head(1_000) + b"{")
        assert status(slow) == 408
        until(lambda: not slow.recv(65_536))
        assert running.forecast().status_code == 200


@pytest.mark.heavy
def test_idle_connections_beyond_the_usual_limit_of_files_keep_nobody_out(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 4 * SOFT_LIMIT:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT_LIMIT, hard))
    try:
        service = process(tmp_path, "--no-auth", TSFM_SERVING_PROVIDER="tollama")
        running = service.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with contextlib.ExitStack() as idle:
        idle.push(service)
        running.ready()
        url = httpx.URL(running.url)
        for _ in range(2 * SOFT_LIMIT):
            idle.enter_context(socket.create_connection((url.host, url.port), SECONDS))
        answer = httpx.post(f"{running.url}/tsfm/forecast", json=request(), timeout=SECONDS)
        assert answer.status_code == 200


def breaker_openings(running: Live) -> float:
    return running.metric('tsfm_breaker_open_total{runtime="local"}')


@pytest.mark.heavy
def test_too_many_requests_at_once_open_no_breaker() -> None:
    bodies = [request(market_id=f"m{i}", y=[0.5 + i / 1_000] * 288) for i in range(150)]
    with live(rate_limit={"enabled": False}, local={"queue": 8, "max_batch": 4}) as running:
        answers = [answer for _ in range(2) for answer in running.together(bodies)]
        assert {answer.status_code for answer in answers} == {200}
        by = [answer.json()["meta"]["runtime"] for answer in answers]
        assert "baseline" in by, "this was no overload"
        assert breaker_openings(running) == 0
        until(lambda: running.forecast(y=[0.25] * 288).json()["meta"]["runtime"] == "local")
