"""Serve a handler on this machine, for tests that need a small server of their own.

What belongs here: starting and stopping the server. What does not: what any server answers.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that writes nothing to stderr: tests read it."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def on_free_port(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve on a free port of the loopback interface, and yield the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
