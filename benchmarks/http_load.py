"""A small HTTP client for load: it sends prepared requests over many connections and keeps times.

What belongs here: connections, a closed loop, an open loop, and figures of the answers. What does
not: servers and what is measured (`service.py`). This file prints nothing.

The client runs on the same cores as the server, so it does as little as it can: requests are bytes
that were built before the clock starts, and of an answer only its status and length are parsed.
"""

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answer:
    """One answer: HTTP status (0: the connection failed), seconds, and the body."""

    status: int
    seconds: float
    body: bytes


@dataclass(frozen=True)
class Server:
    """An address, and the headers that every request has."""

    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def post(self, path: str, body: bytes) -> bytes:
        """Return the bytes of a POST request."""
        return self._head("POST", path, {"content-type": "application/json"}, len(body)) + body

    def get(self, path: str) -> bytes:
        """Return the bytes of a GET request."""
        return self._head("GET", path, {}, 0)

    def _head(self, method: str, path: str, headers: dict[str, str], length: int) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"host: {self.host}:{self.port}"]
        fields = {**self.headers, **headers, "content-length": str(length)}
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Connection:
    """One connection that is kept open, and opened again when the server closed it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes, since: float | None = None) -> Answer:
        """Send one request and return its answer. since: the moment from which its time counts."""
        started = time.perf_counter() if since is None else since
        try:
            status, body = await self._exchange(request)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            status, body = 0, b""
        return Answer(status, time.perf_counter() - started, body)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # it was idle for longer than the server keeps a connection
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.server.host, self.server.port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if b"\r\nconnection: close" in head:
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(
    server: Server, requests: Iterable[bytes], connections: int, until: float | None = None
) -> tuple[list[Answer], float]:
    """Send requests over some connections, each as soon as its previous answer is there.

    until: a moment on `time.perf_counter` after which nothing more is sent; by default all requests
    are sent. Returns the answers and the seconds from the first request to the last answer.
    """
    waiting, answers = iter(requests), []

    async def client() -> None:
        connection = Connection(server)
        for request in waiting:
            if until is not None and time.perf_counter() > until:
                break
            answers.append(await connection.send(request))
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return answers, time.perf_counter() - started


async def open_loop(
    server: Server, requests: Sequence[bytes], rate: float, seconds: float
) -> list[Answer]:
    """Send `rate` requests a second whatever becomes of the earlier ones.

    An answer's time counts from the moment at which its request was due, so that a server that
    stalls is charged for all requests that it kept waiting. Returns the answers in order of due
    time.
    """
    idle: list[Connection] = []
    tasks = []

    async def one(request: bytes, due: float) -> Answer:
        connection = idle.pop() if idle else Connection(server)
        answer = await connection.send(request, due)
        idle.append(connection)
        return answer

    started = time.perf_counter()
    for i, request in zip(range(round(rate * seconds)), cycle(requests), strict=False):
        due = started + i / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(request, due)))
    answers = await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return answers


def figures(answers: Sequence[Answer], seconds: float | None = None) -> dict[str, Any]:
    """Return p50, p95, p99 and the largest time, the statuses, and requests per second."""
    ms = np.array([answer.seconds for answer in answers]) * 1e3
    result: dict[str, Any] = {
        **{f"p{q}_ms": round(float(np.quantile(ms, q / 100)), 2) for q in (50, 95, 99)},
        "max_ms": round(float(ms.max()), 2),
        "statuses": {str(s): n for s, n in sorted(Counter(a.status for a in answers).items())},
    }
    if seconds is not None:
        result["requests_per_s"] = round(len(answers) / seconds, 1)
    return result


def fallbacks(answers: Sequence[Answer]) -> float:
    """Return the share of forecasts that a baseline answered."""
    used = [json.loads(a.body)["meta"]["fallback_used"] for a in answers if a.status == 200]
    return round(float(np.mean(used)), 4) if used else float("nan")


def series(n: int, points: int = 288, seed: int = 0) -> Iterator[list[float]]:
    """Yield n different series of shares in (0, 1), rounded as a client would send them."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        steps = rng.normal(0, 0.01, points).cumsum()
        day = 0.1 * np.sin(2 * np.pi * (np.arange(points) / 288 + rng.random()))
        yield np.clip(0.5 + steps - steps.mean() + day, 0.01, 0.99).round(4).tolist()


def bodies(n: int, points: int = 288, seed: int = 0, **fields: Any) -> list[bytes]:
    """Return n bodies of POST /tsfm/forecast, every one for another market and series."""
    common = {"as_of_ts": "2026-01-01T00:00:00Z", **fields}
    return [
        json.dumps({"market_id": f"m{seed}-{i}", "y": y, **common}).encode()
        for i, y in enumerate(series(n, points, seed))
    ]


def medians(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every number over repetitions; statuses are added up."""
    merged: dict[str, Any] = {}
    for name, value in rows[0].items():
        if isinstance(value, dict):
            total: Counter[str] = Counter()
            for row in rows:
                total.update(row[name])
            merged[name] = dict(total)
        else:
            merged[name] = round(statistics.median(row[name] for row in rows), 3)
    return merged
