"""Serve S3 on this machine with moto, for tests of tables in an object store.

What belongs here: starting and stopping the server, and answers that fail on purpose. What does
not: what a test expects.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Fault:
    """How the next requests are answered that have this method and whose path ends so: by this
    error, after a delay, and whether they are carried out all the same.
    """

    method: str
    path_end: str
    status: str = "503 Slow Down"
    delay_s: float = 0.0
    carried_out: bool = False
    times: int = 1


@dataclass
class S3:
    """A running server. It carries out one request at a time: moto looks at a precondition and
    writes in two steps, S3 in one.
    """

    application: Application
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    ignores_conditions: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request, as WSGI wants it."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if self.ignores_conditions:
            environ = {name: value for name, value in environ.items() if "HTTP_IF_" not in name}
        with self._lock:
            self.requests.append(f"{method} {path}")
            fault = self._fault(method, path)
            if fault is None:
                return list(self.application(environ, start_response))
            if fault.carried_out:
                list(self.application(environ, lambda *answer: None))
            else:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        time.sleep(fault.delay_s)
        start_response(fault.status, [("Content-Type", "application/xml")])
        return [b"<Error><Code>SlowDown</Code></Error>"]

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and path.endswith(fault.path_end):
                fault.times -= 1
                return fault
        return None

    def bucket(self, name: str) -> str:
        """Make a bucket and return its URL."""
        import httpx

        httpx.put(f"http://127.0.0.1:{self.port}/{name}").raise_for_status()
        return f"s3://{name}"


@contextmanager
def serving_s3() -> Iterator[S3]:
    """Serve S3 on a free port of the loopback interface, and let this process and its children find
    it by their environment.
    """
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            """Say nothing."""

    s3 = S3(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, s3, threaded=True, request_handler=Quiet)
    s3.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3.port}",
        "AWS_ALLOW_HTTP": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            yield s3
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
