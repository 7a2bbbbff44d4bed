"""The process of the service: its address, its web server, and how it ends.

What belongs here: listening, uvicorn's configuration, draining after SIGTERM. What does not: what
the service is made of (`build`), and its routes (`app`).

One process with one worker: several would split the batches and the cache.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from tsfm_pipeline.serving.guard import MAX_HEADER_BYTES, Gate
from tsfm_pipeline.serving.web_protocol import http_protocol

BACKLOG = 2_048
ACCEPTS = 16
"""Connections that are accepted in one turn of the event loop: uvloop accepts one per socket. Under
overload, when a turn takes long, a probe would wait behind thousands of connections."""
SWITCH_S = 0.0005
"""The model's thread waits so long for the interpreter whenever it needs it, which is some forty
times per batch, while the event loop is busy. Python's own 5 ms cost half of the throughput."""
_LOGGER = logging.getLogger(__name__)


class AddressError(ValueError):
    """The service cannot listen on its address; the message says what to do."""


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; port 0: any free one.

    Raises `AddressError` if the address is in use, or not one of this machine's.
    """
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as error:
        raise AddressError(f"host {host!r} is not an address: {error.strerror}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise AddressError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port "
            "(0: any free one) or --host, or stop the process that listens there"
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address under which a client on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _copies(listener: socket.socket) -> list[socket.socket]:
    """Return the socket, and further handles of it that accept too."""
    return [listener, *(listener.dup() for _ in range(ACCEPTS - 1))]


def allow_many_connections() -> None:
    """Let this process open as many files, and so connections, as it may.

    The usual limit of 1,024 is one that idle connections alone can reach; then none is accepted.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_what_is_loaded() -> None:
    """Tell the garbage collector to look no more at what lives now: modules and the model.

    Looking at them takes the event loop half a second, again and again.
    """
    gc.collect()
    gc.freeze()


class Server(uvicorn.Server):
    """A web server that finishes the requests in work before it ends.

    SIGTERM or SIGINT: new requests get 503 with `Connection: close`, while those in work have
    `drain_s` to finish. A second signal ends the process at once.
    """

    def __init__(self, app: Any, gate: Gate, drain_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=http_protocol(),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_graceful_shutdown=1,
            )
        )
        self._gate, self._drain_s = gate, drain_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, or until `stop`."""
        self._loop = asyncio.get_running_loop()
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            await super().serve([copy for one in sockets or () for copy in _copies(one)] or None)
        finally:
            sys.setswitchinterval(before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain after the first signal, end after the second."""
        if self._gate.draining or self._loop is None:
            self.should_exit = self.force_exit = True
        else:
            _LOGGER.info("%s: no new requests", signal.Signals(sig).name)
            self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Let no further request in, finish those in work, and end. From the loop's thread only."""
        self._gate.draining = True
        if self._drain is None:
            self._drain = asyncio.create_task(self._drained())

    async def _drained(self) -> None:
        try:
            async with asyncio.timeout(self._drain_s):
                await self._gate.emptied()
        except TimeoutError:
            _LOGGER.warning("%d requests did not finish in time", self._gate.active)
        self.should_exit = True


def run(server: Server, listener: socket.socket, on_start: Callable[[], None]) -> None:
    """Serve on the socket until a signal ends the process."""
    on_start()
    server.run(sockets=[listener])
