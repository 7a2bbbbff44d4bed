"""Test the benchmarks' own arithmetic, and that each can be started. Nothing is asserted about what
they measure.
"""

import asyncio
import os
import subprocess
import sys
import time
from types import ModuleType

import numpy as np
import psutil
import pytest

from tsfm_pipeline.progress import Event
from tsfm_pipeline.settings import PROJECT_ROOT

BENCHMARKS = PROJECT_ROOT / "benchmarks"
SCRIPTS = (
    *("fleet_generation", "reading", "forecast_grid", "request_latency", "cuda", "pipeline"),
    *("scaling", "step_memory", "gaps", "service", "smoothing", "ray_overhead"),
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """One benchmark as a module, found as it is when it is run."""
    import importlib

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(request.param)


@pytest.mark.heavy
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_says_what_it_takes_and_has_a_quick_size(name: str) -> None:
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "--quick" in run.stdout


@pytest.mark.parametrize("script", ["pipeline"], indirect=True)
def test_times_and_processes_of_steps_are_read_off_the_events(script: ModuleType) -> None:
    events = [
        Event("run", 0, n_total=2),
        Event("start", 10, "tenant_manifest", 77),
        Event("start", 11, "forecast_grid", 78),
        Event("shards", 12, "forecast_grid", 78, n_done=1, n_total=2),
        Event("end", 13, "tenant_manifest", 77),
        Event("end", 76, "forecast_grid", 78),
    ]
    seconds, processes = script.steps(events)
    assert list(seconds.items()) == [("forecast_grid", 65.0), ("tenant_manifest", 3.0)]
    assert processes == {"tenant_manifest": 77, "forecast_grid": 78}


@pytest.mark.parametrize("script", ["pipeline"], indirect=True)
def test_growth_is_told_from_the_time_per_additional_tenant(script: ModuleType) -> None:
    runs = [
        {"tenants": n, "wall_s": 40 + 2.0 * n, "cpu_s": 0.001 * n**2, "peak_rss_mib": 500}
        for n in (100, 300, 1000)
    ]
    growth = script.growth(runs)
    assert growth["marginal_time_ratio"] == 1.0
    assert growth["marginal_cpu_ratio"] == pytest.approx(1.3 / 0.4)
    assert growth["marginal_s_per_tenant"] == 2.0
    assert growth["peak_rss_ratio_last_to_first"] == 1.0
    assert growth["exponent"] < 1
    assert script.growth([{**run, "wall_s": 0.01 * run["tenants"] ** 2} for run in runs])[
        "exponent"
    ] == pytest.approx(2.0)
    assert script.growth(runs[:1]) == {}


def cpu_seconds_of_children(pid: int) -> float:
    times = [child.cpu_times() for child in psutil.Process(pid).children(recursive=True)]
    return sum(time.user + time.system for time in times)


@pytest.mark.heavy
@pytest.mark.parametrize("script", ["pipeline"], indirect=True)
def test_the_memory_and_processor_time_of_a_run_count_its_children(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = (
        "import select, sys\nx = bytearray(200_000_000)\nwhile not select.select([sys.stdin], "
        "[], [], 0)[0]: sum(range(100_000))"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    sleep, spent = time.sleep, [0.0]

    def after_a_sample(seconds: float) -> None:
        """Runs between two samples: closes the child's input once a sample has seen it at work for
        a second.
        """
        assert run.stdin is not None
        if spent[-1] > 1:
            run.stdin.close()
        else:
            spent.append(cpu_seconds_of_children(run.pid))
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", after_a_sample)
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE) as run:
        peak, largest, cpu_s = script.watch(run)
    assert 200e6 < max(largest.values()) <= peak < 500e6
    assert spent[-1] <= cpu_s < spent[-1] + 30


@pytest.mark.parametrize("script", ["forecast_grid"], indirect=True)
def test_a_difference_is_in_units_of_its_own_windows_deviation(script: ModuleType) -> None:
    exact = np.zeros((1, 2, 1, 3, 10), dtype=np.float32)
    other = exact.copy()
    other[0, 0, 0, 1, 4], other[0, 1, 0, 2, 9] = 0.5, -9.0
    assert script.difference(other, exact, np.array([[[2.0], [np.nan]]])) == {
        "largest": 0.25,
        "p99": 0.25,
        "median": 0.25,
    }


@pytest.mark.parametrize("script", ["service"], indirect=True)
def test_an_answer_of_the_service_is_valid_where_its_quantiles_are(script: ModuleType) -> None:
    rising = {f"{level:g}": [level] * 12 for level in (0.1, 0.5, 0.9)}
    assert script._valid({"yhat_q": rising})
    for wrong in ([0.6] * 12, [0.5] * 11 + [float("nan")], [0.5] * 11, [-0.1] * 12):
        values = {
            name: wrong if name == "0.1" else row[: len(wrong)] for name, row in rising.items()
        }
        assert not script._valid({"yhat_q": values})
    assert not script._valid({})


@pytest.mark.parametrize("script", ["http_load"], indirect=True)
def test_times_of_an_open_loop_count_from_when_a_request_was_due(script: ModuleType) -> None:
    """A server that answers nothing for a while is charged for all whom it kept waiting."""

    async def measured() -> list[float]:
        free = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await free.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            writer.close()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        server = script.Server("127.0.0.1", listener.sockets[0].getsockname()[1])
        load = asyncio.create_task(script.open_loop(server, [server.get("/")], 50, 0.2))
        await asyncio.sleep(0.4)
        free.set()
        answers = await load
        listener.close()
        assert {answer.status for answer in answers} == {200}
        return [answer.seconds for answer in answers]

    times = asyncio.run(measured())
    assert len(times) == 10
    assert times[0] > times[-1] + 0.05
    assert times[-1] > 0.1
