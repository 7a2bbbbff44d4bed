"""A stand-in for tollama's daemon that a benchmark can stop and kill: it answers every forecast
with the last value plus a fixed spread.

`python benchmarks/tollama_peer.py --port 21435 [--delay-ms 15]` serves until it is killed.

What belongs here: the few routes that the adapter uses, as cheap as they can be, because the peer
shares the machine with what is measured. What does not: the daemon's checks and faults, which the
tests' double has.
"""

import argparse
import asyncio
import json

import numpy as np

SPREAD = 0.05


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Serve the requests of one connection, in turn."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = head.lower()
            stated = fields.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(stated or 0))
            path = head.split(b" ", 2)[1].decode()
            status, content = 200, other(path)
            if path in ("/api/forecast", "/v1/forecast"):
                await asyncio.sleep(delay)
                content = forecasts(json.loads(body))
            elif not content:
                status, content = 404, {"detail": "Not Found"}
            text = json.dumps(content).encode()
            line = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
            writer.write(f"{line}content-length: {len(text)}\r\n\r\n".encode() + text)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def forecasts(request: dict) -> dict:  # type: ignore[type-arg]
    """Return the daemon's answer to a forecast request."""
    horizon = request["horizon"]
    levels = np.array(request["quantiles"])
    answers = []
    for series in request["series"]:
        last = series["target"][-1]
        mean = np.full(horizon, last)
        quantiles = {f"{q:g}": (mean + SPREAD * (q - 0.5)).tolist() for q in levels}
        answers.append(
            {
                "id": series["id"],
                "freq": series["freq"],
                "start_timestamp": series["timestamps"][-1],
                "mean": mean.tolist(),
                "quantiles": quantiles,
            }
        )
    return {"model": request["model"], "forecasts": answers, "warnings": None}


def other(path: str) -> dict:  # type: ignore[type-arg]
    """Return the answers of the daemon's other routes; empty for an unknown one."""
    model = {"name": "chronos2", "model": "chronos2", "digest": "0" * 12}
    return {
        "/v1/health": {"status": "ok"},
        "/api/version": {"version": "0.1.0"},
        "/api/tags": {"models": [model]},
        "/v1/models": {"models": [{"name": "chronos2", "license": "apache-2.0"}]},
        "/api/show": {"name": "chronos2", "license": {"type": "apache-2.0"}},
    }.get(path, {})


async def serve(port: int, delay: float) -> None:
    """Serve for ever."""
    server = await asyncio.start_server(lambda r, w: answer(r, w, delay), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    chosen = parser.parse_args()
    asyncio.run(serve(chosen.port, chosen.delay_ms / 1e3))
