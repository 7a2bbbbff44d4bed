"""Test how connections are accepted. What the process does at its end is in `test_serve_command`."""

import asyncio
import contextlib
import socket
import threading
from typing import Any

from tsfm_pipeline.serving.guard import Gate
from tsfm_pipeline.serving.server import ACCEPTS, Server, listening
from tsfm_pipeline_tests.serving.live import SECONDS, until

WAITING = 6 * ACCEPTS


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "lifespan"
    for answer in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
        await receive()
        await send({"type": answer})


def test_connections_that_wait_are_accepted_many_in_one_turn_of_the_loop() -> None:
    """A probe must not wait for as many turns as there are connections before it."""
    listener = listening("127.0.0.1", 0)
    server = Server(app, Gate(1), 1.0)
    loops: list[asyncio.AbstractEventLoop] = []
    connected, turns = threading.Event(), 0

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listener])

    def count() -> None:
        nonlocal turns
        if len(server.server_state.connections) < WAITING:
            turns += 1
            loops[0].call_soon(count)

    def hold_up() -> None:
        connected.wait(SECONDS)
        count()

    import uvloop

    thread = threading.Thread(
        target=lambda: asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve()), daemon=True
    )
    thread.start()
    until(lambda: server.started)
    loops[0].call_soon_threadsafe(hold_up)
    with contextlib.ExitStack() as clients:
        for _ in range(WAITING):
            clients.enter_context(socket.create_connection(listener.getsockname(), SECONDS))
        connected.set()
        until(lambda: len(server.server_state.connections) == WAITING)
    server.should_exit = True
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert turns < WAITING / 2
