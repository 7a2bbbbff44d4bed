"""Test a Prometheus fleet against a real Prometheus (Debian's package) that scrapes a real
exporter; the test starts both.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from tsfm_pipeline.fleets import FleetDataError, PrometheusFleet, open_fleet
from tsfm_pipeline.fleets.fetched_days import Refreshed, stored_days
from tsfm_pipeline.fleets.prometheus_api import MOST_STEPS
from tsfm_pipeline.fleets.prometheus_store import refresh
from tsfm_pipeline_tests.fleets.prometheus_server import START
from tsfm_pipeline_tests.http_server import QuietHandler, on_free_port

PROMETHEUS = os.environ.get("PROMETHEUS", "prometheus")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which(PROMETHEUS) is None,
        reason="no prometheus on the PATH: apt-get install prometheus, or name its binary in the "
        "variable PROMETHEUS",
    ),
]
PATIENCE_S = 60
CPU, RATE = "sum by (tenant) (demo_cpu)", "sum by (tenant) (rate(demo_requests_total[4s]))"


@dataclass
class Exporter:
    """Gauges and counters of tenants in the text format; the counters rise by 5 a second in each of
    two codes.
    """

    cpu: dict[str, float] = field(default_factory=lambda: {"a": 1.5, "b": 2.5, "c": 3.5})
    since: float = field(default_factory=time.monotonic)

    def text(self) -> str:
        n = 5 * (time.monotonic() - self.since)
        lines = [f'demo_cpu{{tenant="{tenant}"}} {value}' for tenant, value in self.cpu.items()]
        lines += [
            f'demo_requests_total{{tenant="{tenant}",code="{code}"}} {n}'
            for tenant in self.cpu
            for code in (200, 500)
        ]
        return (
            "# TYPE demo_cpu gauge\n# TYPE demo_requests_total counter\n" + "\n".join(lines) + "\n"
        )


@pytest.fixture
def exporter() -> Iterator[tuple[Exporter, int]]:
    exporter = Exporter()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(exporter.text().encode())

    with on_free_port(Handler) as port:
        yield exporter, port


@pytest.fixture
def prometheus(exporter: tuple[Exporter, int], tmp_path: Path) -> Iterator[str]:
    """Its address; it scrapes the exporter every second."""
    config = tmp_path / "prometheus.yml"
    job = f"{{job_name: demo, static_configs: [{{targets: ['127.0.0.1:{exporter[1]}']}}]}}"
    config.write_text(f"global: {{scrape_interval: 1s}}\nscrape_configs: [{job}]\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "prometheus.log").open("w") as log:
        process = subprocess.Popen([PROMETHEUS, *options], stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, (tmp_path / "prometheus.log").read_text()
            try:
                return httpx.get(f"{url}/-/ready").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_until(ready)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE_S)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def answer_of(url: str, query: str) -> float:
    result = httpx.get(f"{url}/api/v1/query", params={"query": query}).json()["data"]["result"]
    return float(result[0]["value"][1]) if result else float("nan")


def spec(url: str, **fields: object) -> PrometheusFleet:
    defaults = {
        "name": "demo",
        "title": "Demo",
        "kind": "prometheus",
        "url": url,
        "queries": {"cpu": CPU, "requests": RATE},
        "lower": 0,
    }
    grid = {
        "tenant_label": "tenant",
        "step": 1 / 60,
        "seasons": [3],
        "lookback_days": 1,
        "delay_seconds": 1,
        "horizon": 2,
        "fresh_hours": 0,
    }
    return PrometheusFleet.model_validate(defaults | grid | fields)


def fetch(url: str, folder: Path) -> Refreshed:
    return refresh(spec(url), folder)


def test_a_fleet_grows_with_what_is_scraped_through_a_counter_reset_and_the_end_of_a_tenant(
    prometheus, exporter, tmp_path
):
    demo = exporter[0]
    wait_until(lambda: answer_of(prometheus, "sum(count_over_time(demo_cpu[1h]))") >= 3 * 12)
    first = fetch(prometheus, tmp_path / "raw")
    # One to two days of seconds for two queries: no page holds more than the server's 11,000 steps,
    # or it would have said so.
    assert first.n_requests >= 1 + 2 * (86_400 // MOST_STEPS)
    before = open_fleet(spec(prometheus), fleets_dir=tmp_path, raw_dir=tmp_path / "raw")
    assert (before.n_tenants, before.metrics) == (3, ("cpu", "requests"))
    values = before.values([0, 1, 2])
    seen = ~np.isnan(values[:, 0])
    assert {float(value) for value in values[1, 0][seen[1]]} == {2.5}
    rates = values[:, 1][~np.isnan(values[:, 1])]
    assert 7 < np.median(rates) < 13, "two codes at five a second"

    demo.since = time.monotonic()  # the process restarts, its counters with it
    del demo.cpu["c"]
    gone_for_4s = 'count(demo_cpu{tenant="c"} offset 4s) or vector(0)'
    wait_until(lambda: answer_of(prometheus, gone_for_4s) == 0)
    second = fetch(prometheus, tmp_path / "raw")
    assert second.n_requests <= 1 + 2 * 2, "only what is newer, across midnight at most"
    assert second.through > first.through
    after = open_fleet(spec(prometheus), fleets_dir=tmp_path, raw_dir=tmp_path / "raw")
    assert after.fingerprint() != before.fingerprint()
    assert after.start == before.start
    later = after.values([0, 1, 2])
    np.testing.assert_array_equal(later[:, :, : before.n_steps], values)
    assert np.isnan(later[2, 0, -2:]).all(), "a tenant that is gone has no value, not its last one"
    assert not np.isnan(later[:2, 0, -2:]).any()
    assert np.nanmin(later[:, 1]) >= 0, "a counter's reset is no negative rate"


def test_the_servers_own_words_are_passed_on(prometheus, tmp_path):
    with pytest.raises(FleetDataError, match=r"metric 'cpu'.*bad_data.*parse error"):
        refresh(spec(prometheus, queries={"cpu": "sum by (tenant (demo_cpu)"}), tmp_path)
    wait_until(lambda: answer_of(prometheus, "count(demo_requests_total offset 2s)") == 6)
    with pytest.raises(FleetDataError, match=r"two series of tenant 'a'.*code"):
        refresh(spec(prometheus, queries={"requests": "demo_requests_total"}), tmp_path)


def test_the_time_of_the_server_is_its_own(prometheus, tmp_path):
    before = time.time()
    done = fetch(prometheus, tmp_path)
    assert done.through.timestamp() > START
    assert before - 3 < done.through.timestamp() <= time.time(), (
        "a second of delay, and the step in which it falls"
    )
    assert stored_days(next(tmp_path.glob("prometheus-*")), 30)
