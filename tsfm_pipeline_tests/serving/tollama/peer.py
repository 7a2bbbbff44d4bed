"""A peer on loopback that answers in ways in which no web framework would.

What belongs here: the faults, as bytes on a socket. What does not: the daemon's behaviour
(`double`).
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from tsfm_pipeline.evaluation.protocol import DECILES

Fault = Callable[[asyncio.StreamReader, asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]


def answer_to(body: dict[str, Any]) -> dict[str, Any]:
    """Return a right answer to a request."""
    levels = body.get("quantiles", DECILES)
    return {
        "model": body["model"],
        "forecasts": [
            {
                "id": series["id"],
                "freq": series["freq"],
                "start_timestamp": series["timestamps"][-1],
                "mean": [0.5] * body["horizon"],
                "quantiles": {format(q, "g"): [q] * body["horizon"] for q in levels},
            }
            for series in body["series"]
        ],
    }


def response(
    content: bytes, status: int = 200, headers: str = "", length: int | None = None
) -> bytes:
    """Return a response as bytes. length: content-length, if it is to be a lie."""
    length = len(content) if length is None else length
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {length}\r\n\r\n".encode() + content


def says(content: bytes, status: int = 200, headers: str = "", length: int | None = None) -> Fault:
    """Return the fault of one fixed response, after which the connection is closed."""

    async def fault(_: object, writer: asyncio.StreamWriter, __: dict[str, Any]) -> None:
        writer.write(response(content, status, headers, length))
        await writer.drain()

    return fault


def edits(change: Callable[[dict[str, Any]], object]) -> Fault:
    """Return the fault of an answer that is right but for one change."""

    async def fault(_: object, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        answer = answer_to(body)
        change(answer)
        writer.write(response(json.dumps(answer).encode()))
        await writer.drain()

    return fault


async def right(_: object, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """Answer as a daemon does."""
    writer.write(response(json.dumps(answer_to(body)).encode()))
    await writer.drain()


async def reset(_: object, writer: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    """Drop the connection with a reset."""
    writer.transport.abort()


async def half(_: object, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    """Send half of an answer and close the connection."""
    content = json.dumps(answer_to(body)).encode()
    writer.write(response(content[: len(content) // 2], length=len(content)))
    await writer.drain()


async def drip(_: object, writer: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    """Send one byte after the other, often enough for any timeout between two bytes."""
    writer.write(response(b"", length=1_000_000))
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    """Answer nothing, until the client leaves."""
    await reader.read()


@cache
def packed() -> bytes:
    """Return the zeros of `bomb`."""
    return gzip.compress(bytes(100_000_000))


async def bomb(_: object, writer: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    """Send 100 MB of zeros as 100 kB."""
    writer.write(response(packed(), headers="content-encoding: gzip\r\n"))
    await writer.drain()


async def flood(_: object, writer: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    """Send without an end."""
    writer.write(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\n\r\n")
    while True:
        writer.write(bytes(65_536))
        await writer.drain()


class Peer:
    """Answers with one fault after the other, and with the last one from then on."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = list(faults)
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[bytes] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the first request of a connection; looks at the model are refused."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line[15:])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ),
                0,
            )
            content = await reader.readexactly(length)
            if b" /api/forecast " in head or b" /v1/forecast " in head:
                self.heads.append(head)
                self.bodies.append(json.loads(content))
                fault = self.faults[min(len(self.bodies), len(self.faults)) - 1]
                await fault(reader, writer, self.bodies[-1])
            else:
                writer.write(response(b'{"detail": "closed"}', 503))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.heads.append(b"")
        finally:
            writer.close()


@asynccontextmanager
async def peering(*faults: Fault) -> AsyncIterator[Peer]:
    """Run a peer on a free port."""
    peer = Peer(*faults)
    server = await asyncio.start_server(peer.handle, "127.0.0.1", 0)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield peer
    finally:
        server.close()
