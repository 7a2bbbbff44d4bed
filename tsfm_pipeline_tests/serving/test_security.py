"""Test what an attacker would try and no other test does: code in files, other peers than those of
the settings, paths, clients that never end, and secrets in logs and answers.

What belongs here: those threats of docs/security.md. What does not: those that are tested with the
part that stops them, which the page names.
"""

import ast
import hashlib
import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tsfm_pipeline.autoresearch.bundle import SearchBundle
from tsfm_pipeline.evaluation.conformal import Calibration
from tsfm_pipeline.serving import guard, web_protocol
from tsfm_pipeline.serving.published import Published
from tsfm_pipeline.serving.runtimes import Failure, RuntimeFailure
from tsfm_pipeline.serving.settings import TollamaSettings
from tsfm_pipeline.serving.tollama import TollamaRuntime
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.http_server import QuietHandler, on_free_port
from tsfm_pipeline_tests.serving.live import SECONDS, TOKEN, Live, Model, live, until

pytestmark = pytest.mark.heavy

SERVING = PROJECT_ROOT / "tsfm_pipeline" / "serving"
RUNS_CODE = {
    "pickle",
    "cPickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "cloudpickle",
    "subprocess",
}
KEY = "a-key-of-the-daemon-that-stays-here"
opened: list[str] = []


def spring(name: str) -> str:
    opened.append(name)
    return name


class Trap:
    """An object whose pickle calls `spring` when it is opened."""

    def __reduce__(self) -> tuple[object, ...]:
        return spring, ("opened",)


def test_no_module_of_the_service_can_read_a_pickle_or_start_a_process() -> None:
    for module in SERVING.rglob("*.py"):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & RUNS_CODE, module.name
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "yaml.load", "os.system"), module.name


def test_a_bundle_with_a_pickle_in_it_is_refused_unopened(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, document=np.array([Trap()], dtype=object))
    payload = buffer.getvalue()
    line = f"tsfm-search-bundle sha256={hashlib.sha256(payload).hexdigest()}\n".encode()
    path = tmp_path / "search.bundle"
    path.write_bytes(line + payload)
    opened.clear()
    with pytest.raises(ValueError, match="allow_pickle"):
        SearchBundle.open(path)
    assert opened == []
    assert np.load(io.BytesIO(payload), allow_pickle=True)["document"] == ["opened"]
    assert opened == ["opened"], "the trap would work"


def test_a_published_file_is_data_and_not_code(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"version": "x", "__class__": "os.system", "segments": {}}))
    published = Published(path, Calibration, 0.0)
    assert published.current is None
    assert published.problem


# -- other peers


class Peer:
    """A server on loopback that counts who comes, and sends everybody elsewhere if it is told to."""

    def __init__(self, elsewhere: str = "") -> None:
        self.asked: list[str] = []
        peer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                peer.asked.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(307 if elsewhere else 404)
                if elsewhere:
                    self.send_header("Location", f"{elsewhere}{self.path}")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

        self.handler, self.url = Handler, ""


@contextmanager
def listening(elsewhere: str = "") -> Iterator[Peer]:
    peer = Peer(elsewhere)
    with on_free_port(peer.handler) as port:
        peer.url = f"http://127.0.0.1:{port}"
        yield peer


def test_a_daemon_cannot_send_the_service_to_another_peer() -> None:
    with listening() as other, listening(other.url) as daemon:
        settings = TollamaSettings(url=daemon.url, api_key=KEY)  # type: ignore[arg-type]
        with live(TollamaRuntime(settings)) as running:
            answer = running.forecast()
        assert daemon.asked
        assert other.asked == []
    assert answer.status_code == 200
    assert answer.json()["meta"]["fallback_used"]


@pytest.mark.parametrize("field", ["url", "base_url", "endpoint", "api_key"])
def test_a_request_cannot_name_a_peer(field: str) -> None:
    with listening() as other, live(Model()) as running:
        refused = running.forecast(model={"provider": "local", field: other.url})
        assert refused.status_code == 422
        assert refused.json()["code"] == "unknown_field"
        named = running.forecast(model={"model_name": other.url})
        assert named.status_code == 422
        assert running.forecast(model={"params": {field: other.url}}).status_code == 200
        assert other.asked == []


# -- paths


@pytest.mark.parametrize(
    "name", ["../../../../tmp/x", "/etc/passwd", "C:\\x", "a/../../b", "..", "~"]
)
def test_a_markets_name_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    records = tmp_path / "records"
    with live(Model(), records_dir=records) as running:
        assert running.forecast(market_id=name).status_code == 200
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {records}
    assert all(path.suffix == ".parquet" for path in files)


# -- clients that never end


def first_line(address: tuple[str, int], sent: bytes) -> bytes:
    """The first line of the answer to bytes after which the client says nothing more."""
    with socket.create_connection(address, timeout=SECONDS) as connection:
        connection.sendall(sent)
        return connection.recv(65_536).split(b"\r\n")[0]


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT_S", 0.2)
    head = f"POST /tsfm/forecast HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    with live(Model()) as running:
        line = first_line(running.address, f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert line.startswith(b"HTTP/1.1 408 ")
        # The line comes before the request has left the gate.
        until(lambda: running.service.gate.active == 0)


def test_a_client_that_does_not_end_its_headers_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_protocol, "HEADERS_TIMEOUT_S", 0.2)
    with live(Model()) as running:
        assert first_line(running.address, b"GET /health HTTP/1.1\r\nX: ") in (
            b"",
            b"HTTP/1.1 408 Request Timeout",
            b"HTTP/1.1 431 Request Header Fields Too Large",
        )


def test_two_lengths_of_one_body_are_refused() -> None:
    """So that no proxy in front sees another request than the service does."""
    head = f"POST /tsfm/forecast HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    with live(Model()) as running:
        both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert first_line(running.address, (head + both).encode()).startswith(b"HTTP/1.1 4")
        twice = "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"
        assert first_line(running.address, (head + twice).encode()).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("route", ["/tsfm/forecast", "/tsfm/forecast/batch"])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"items":[{"y":'])
def test_json_of_any_depth_is_refused_quickly(route: str, opening: bytes) -> None:
    with live(Model()) as running:
        began = time.process_time()
        response = running.client.post(route, content=opening * 100_000)
        assert response.status_code == 422
        assert len(response.content) < 10_000
        assert time.process_time() - began < 5
        assert running.client.get("/health").status_code == 200


# -- secrets


def leaks(running: Live) -> str:
    """Everything that the service says to anybody on these routes."""
    texts = [
        httpx.get(f"{running.url}{path}", headers=headers).text
        for path in ("/", "/ready", "/health", "/models", "/metrics", "/openapi.json", "/nope")
        for headers in ({}, {"Authorization": "Bearer wrong"}, running.headers)
    ]
    bad = [running.forecast(y=[]).text, running.forecast(market_id="m").text]
    return "\n".join((*texts, *bad))


def test_no_secret_is_logged_or_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    failing = Model("tollama", "chronos2")
    failing.fails = RuntimeFailure(Failure.CONNECTION, "gone", counts=True)
    secret = {"tollama": {"api_key": KEY}, "metrics_token": "another-secret-of-the-tests"}
    with listening() as daemon:
        settings = TollamaSettings(url=daemon.url, api_key=KEY)  # type: ignore[arg-type]
        with live(
            failing, TollamaRuntime(settings.model_copy(update={"model": "mock"})), **secret
        ) as r:
            said = leaks(r)
            said += r.forecast(model={"provider": "tollama", "model_name": "mock"}).text
            said += repr(r.service.__dict__) + str(r.service.app)
    logged = "\n".join(record.getMessage() + str(record.exc_text) for record in caplog.records)
    for text in (said, logged):
        assert KEY not in text
        assert "another-secret" not in text
    assert TOKEN not in said
    service_log = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    assert service_log
    assert not [r for r in service_log if TOKEN in r.getMessage()]
