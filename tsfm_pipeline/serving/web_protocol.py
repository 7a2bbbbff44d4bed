"""The web server's side of limits: how many bytes of headers are read, and for how long.

What belongs here: the protocol that uvicorn speaks on a connection. What does not: what a complete
request may hold (`guard`), starting and stopping the server (`server`).

httptools has no limit of its own: a client that sends one header without end would fill the memory.
"""

import asyncio
from typing import Any

from tsfm_pipeline.serving.guard import MAX_HEADER_BYTES

HEADERS_TIMEOUT_S = 10.0
"""Time that a client has to send the headers of a request once it has begun, or connected."""

_ANSWER = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


def http_protocol() -> "type[asyncio.Protocol] | str":
    """Return the protocol: httptools within limits where it is installed, else h11, which has
    limits.
    """
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return "h11"
    return _bounded(HttpToolsProtocol)


def _bounded(base: Any) -> type[asyncio.Protocol]:
    class BoundedHeaders(base):
        """A connection that is closed where headers are too large or do not end."""

        _in_headers = True
        _n_bytes = _n_messages = 0
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            n_before = self._n_messages if self._in_headers else -1
            super().data_received(data)
            if not self._in_headers or self.transport.is_closing():
                return
            if n_before == self._n_messages:  # else some of it was a body
                self._n_bytes += len(data)
            if self._n_bytes > MAX_HEADER_BYTES:
                self.transport.write(_ANSWER)
                self.transport.close()
            elif self._timer is None:
                self._wait()

        def on_headers_complete(self) -> None:
            self._in_headers = False
            self._stop_waiting()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_headers, self._n_bytes = True, 0
            self._n_messages += 1
            super().on_message_complete()

        def _wait(self) -> None:
            self._timer = self.loop.call_later(HEADERS_TIMEOUT_S, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return BoundedHeaders
