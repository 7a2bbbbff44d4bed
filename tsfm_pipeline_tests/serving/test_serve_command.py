"""Test `tsfm-pipeline serve` as a process: how it starts, what it says where it cannot, and how it
ends.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from typer.testing import CliRunner

from tsfm_pipeline.cli.app import app
from tsfm_pipeline.cli.screen import Status
from tsfm_pipeline.files import is_intact
from tsfm_pipeline_tests.cli.commands import modules_after
from tsfm_pipeline_tests.serving.bundles import STEP, small_bundle, telemetry
from tsfm_pipeline_tests.serving.live import SECONDS, request, until

pytestmark = pytest.mark.heavy

PATIENCE_S = 120.0
TOKEN = "a token of this process"


def environment(folder: Path, **variables: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TSFM_")}
    own.pop("FORECAST_API_TOKEN", None)
    return own | {"TSFM_DATA_DIR": str(folder)} | variables


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tsfm_pipeline.cli", "serve", *arguments]


class Process:
    """A service in a process of its own."""

    def __init__(self, folder: Path, arguments: Sequence[str], **variables: str) -> None:
        self.log = folder / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command("--port", "0", *arguments),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(folder, TSFM_SERVING_TOKEN=TOKEN, **variables),
            )
        self._wait(lambda: bool(re.search(r"http://\S+ answers", self.said)))
        (self.url,) = re.findall(r"(http://\S+) answers", self.said)
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=SECONDS
        )

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def _wait(self, condition: Any) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.05)

    def ready(self) -> "Process":
        self._wait(lambda: self.client.get("/ready").status_code == 200)
        return self

    def end(self, sign: int) -> int:
        self.process.send_signal(sign)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def process(folder: Path, *arguments: str, **variables: str) -> Iterator[Process]:
    running = Process(folder, arguments, **variables)
    try:
        yield running
    finally:
        running.client.close()
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a start that is refused says; keywords are variables."""
    for name in ("TSFM_SERVING_TOKEN", "FORECAST_API_TOKEN", "TSFM_FORECAST_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TSFM_DATA_DIR", str(tmp_path))

    def said(*arguments: str, **variables: str) -> str:
        with monkeypatch.context() as one:
            for name, value in variables.items():
                one.setenv(name, value)
            run = CliRunner().invoke(app, ["serve", *arguments])
        assert run.exit_code == Status.UNUSABLE, run.output
        return " ".join(run.stderr.split())

    return said


def test_the_command_imports_nothing_of_the_service_for_its_help() -> None:
    loaded = modules_after("serve", "--help")
    assert loaded & {"fastapi", "uvicorn", "prometheus_client", "torch", "numpy", "polars"} == set()


def test_a1_without_a_real_token_the_service_does_not_start(refused: Callable[..., str]) -> None:
    assert "TSFM_SERVING_TOKEN" in refused()
    assert "placeholder" in refused(TSFM_SERVING_TOKEN="changeme")
    assert "loopback" in refused("--no-auth", "--host", "0.0.0.0")


def test_without_a_bundle_the_asset_to_materialise_is_named(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    said = refused("--no-auth", "--fleet", "shop")
    assert "materialise the asset 'search_bundle' of fleet 'shop'" in said
    assert "`tsfm-pipeline run shop`" in said
    assert "cannot be read" in refused("--no-auth", "--bundle", str(tmp_path / "none"))


def test_a_wrong_key_is_told_what_is_allowed(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "wrong.yaml").write_text("prot: 1\n")
    said = refused("--no-auth", "--config", str(tmp_path / "wrong.yaml"))
    assert "no setting prot" in said
    assert "port" in said


def test_a_port_in_use_is_named(refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused("--no-auth", "--port", port)
    assert f"127.0.0.1:{port}" in said
    assert "--port" in said


def test_l1_in_production_a_model_without_a_known_licence_does_not_start(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    said = refused(
        "--no-auth",
        TSFM_SERVING_ENVIRONMENT="prod",
        TSFM_SERVING_LOCAL__CHECKPOINT=str(tmp_path),
    )
    assert "licence" in said


def test_a_model_that_cannot_be_loaded_ends_the_process(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = str(tmp_path / "none")
    said = refused("--no-auth", "--port", "0", TSFM_SERVING_LOCAL__CHECKPOINT=path)
    assert "the model cannot be loaded" in said


def test_a_first_curl_is_printed_and_is_answered_by_the_model(tmp_path: Path) -> None:
    with process(tmp_path) as running:
        running.ready()
        line = next(line for line in running.said.splitlines() if line.startswith("  curl"))
        run = subprocess.run(
            ["sh", "-c", line],
            env=environment(tmp_path, TSFM_SERVING_TOKEN=TOKEN),
            capture_output=True,
            text=True,
            check=True,
        )
        meta = json.loads(run.stdout)["meta"]
        assert (meta["runtime"], meta["model"]) == ("local", "bundled")
        assert not meta["fallback_used"]
        text = running.client.get("/metrics").text
        assert 'tsfm_batch_series_count{runtime="local"} 1.0' in text
        assert 'tsfm_queue_length{runtime="local"} 0.0' in text


def test_a_bundles_series_and_its_search_are_answered_and_sigterm_keeps_the_records(
    tmp_path: Path,
) -> None:
    bundle = tmp_path / "reports" / "small" / "search.bundle"
    bundle.parent.mkdir(parents=True)
    small_bundle().write(bundle)
    with process(tmp_path, "--fleet", "small") as running:
        running.ready()
        history = telemetry(400)
        body = {"tenant_id": "d", "history": history.T.astype(float).tolist()}
        searched = running.client.post("/forecast", json=body | {"sla_tier": "premium"})
        assert searched.status_code == 200, searched.text
        assert searched.json()["metrics"] == ["cpu_util", "net_bytes"]
        cold = running.client.post("/forecast", json=body | {"sla_tier": "none"})
        assert cold.status_code == 422
        fields = {"y": history[0].astype(float).tolist(), "freq": f"{STEP:g}m"}
        forecast = running.client.post(
            "/tsfm/forecast", json=request(market_id="d/cpu_util", **fields)
        )
        assert forecast.json()["meta"]["configuration"] == "ctx96-s1x2"
        assert running.client.get("/ready").json()["fleet"] == "small"
        assert running.end(signal.SIGTERM) == 0, running.said
    (file,) = (tmp_path / "records" / "full" / "small" / "served_forecasts").iterdir()
    (row,) = pl.read_parquet(file).to_dicts()
    assert row["market_id"] == "d/cpu_util"
    assert row["segment"] == "metric=cpu_util"


def test_sigterm_finishes_what_is_in_work_and_refuses_the_rest(tmp_path: Path) -> None:
    """A body that is still being sent is work; the service ends when it has been answered."""
    body = json.dumps(request()).encode()
    head = (
        f"POST /tsfm/forecast HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        "Expect: 100-continue\r\n\r\n"
    )
    with process(tmp_path, "--no-auth") as running:
        running.ready()
        address = httpx.URL(running.url).host, httpx.URL(running.url).port
        with socket.create_connection(address, timeout=SECONDS) as slow:
            slow.sendall(head.encode())
            assert slow.recv(65_536).startswith(b"HTTP/1.1 100 ")  # it is in work
            slow.sendall(body[:100])
            running.process.send_signal(signal.SIGTERM)

            def refuses() -> bool:
                response = running.client.post("/tsfm/forecast", json=request())
                closes = response.headers.get("connection") == "close"
                return response.status_code == 503 and closes

            until(refuses)
            assert running.client.get("/ready").status_code == 503
            assert running.client.get("/health").status_code == 200
            slow.sendall(body[100:])
            answer = slow.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert running.process.wait(SECONDS) == 0, running.said


def test_sigkill_under_load_leaves_no_torn_file(tmp_path: Path) -> None:
    records = tmp_path / "records"
    variables = {"TSFM_SERVING_RECORDS_DIR": str(records)}
    with process(tmp_path, "--no-auth", **variables) as running:
        running.ready()
        stop = threading.Event()

        def load() -> None:
            with httpx.Client(base_url=running.url, timeout=SECONDS) as client:
                number = 0
                while not stop.is_set():
                    try:
                        client.post("/tsfm/forecast", json=request(market_id=f"m{number}"))
                    except httpx.HTTPError:
                        return
                    number += 1

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        metric = 'tsfm_request_total{rollout_stage="off",status="answered"}'
        until(lambda: f"{metric} 0.0" not in running.client.get("/metrics").text)
        running.end(signal.SIGKILL)
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
    assert all(is_intact(path) for path in records.glob("*.parquet"))
    with process(tmp_path, "--no-auth", **variables) as again:
        again.ready()
        assert again.client.post("/tsfm/forecast", json=request()).status_code == 200
        assert again.end(signal.SIGINT) == 0
    files = list(records.glob("*.parquet"))
    assert files
    assert all(is_intact(path) for path in files)
