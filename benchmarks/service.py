"""Measure the online service over HTTP: throughput, latency, faults and overload.

`python benchmarks/service.py [--quick] [--rows NAME ...]` prints one JSON object.

The server is `tsfm-pipeline serve` in a process of its own on loopback, with the bundled model; the
client shares its cores. Unless a row says otherwise, a request has 288 values and 12 steps, every
key is different, and the caller's rate limit is off. Rows with `repeats` are medians.

- `unique`: closed loop, 32 connections, every request another series.
- `open_loop`: 50 requests/s whatever becomes of the earlier ones; times count from when a request
  was due.
- `cached`: 32 connections, 32 series that are in the cache.
- `reference`: the bench of the service before this one: 200 requests of 20 or 200 different series,
  an adapter that takes 15 ms, 32 at once. It reported 204.81 and 18.88 requests/s, sequentially, in
  process and without HTTP. Here the adapter is that of tollama, before a peer that takes 15 ms per
  call.
- `cycle`: 200 markets in one batch request, by the model and by baselines only.
- `fallback`: 2,000 values, one connection, answered by a baseline.
- `peer_hangs`, `peer_dies`: tollama's daemon stops answering (SIGSTOP) or is killed (SIGKILL) under
  50 requests/s, and comes back.
- `own_process_killed`: time until the service is ready again after SIGKILL.
- `overload`: four times the throughput that the same client reached just before.
- `single_flight`: 100 identical requests at once; how often the model was called.
- `search`: POST /forecast, 4 metrics, K = 8, at 5 requests/s; it needs the bundle of fleet demo.

What belongs here: the rows and their servers. What does not: the client (`http_load`).
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from http_load import Answer, Connection, Server, bodies, closed_loop, fallbacks, figures, medians
from http_load import open_loop as at_rate
from measuring import ran_on

from tsfm_pipeline.settings import Settings

TOKEN = "a-token-for-this-bench"
CONNECTIONS = 32
RATE = 50.0
REFERENCE_MS = 15.0
REFERENCE = {"20": 204.81, "200": 18.88}
READY_WITHIN_S = 90.0
FORECAST, BATCH, SEARCH = "/tsfm/forecast", "/tsfm/forecast/batch", "/forecast"
QUIET = {"TSFM_SERVING_RATE_LIMIT__ENABLED": "false"}


@contextmanager
def served(*arguments: str, **settings: str) -> Iterator[tuple[Server, psutil.Process, float]]:
    """Start the service; yield its address, its process, and the seconds until it was ready."""
    port = _free_port()
    environment = os.environ | QUIET | {"TSFM_SERVING_TOKEN": TOKEN} | settings
    command = [sys.executable, "-m", "tsfm_pipeline.cli", "serve", "--port", str(port), *arguments]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield (
                Server("127.0.0.1", port, {"authorization": f"Bearer {TOKEN}"}),
                psutil.Process(process.pid),
                _wait_until_ready(port, process, started, log),
            )
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(port: int, process: Any, started: float, log: Any) -> float:
    while time.perf_counter() - started < READY_WITHIN_S:
        if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(f"the service ended: {log.read().decode()[-2000:]}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ready", timeout=1).status_code == 200:
                return time.perf_counter() - started
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the service was not ready within {READY_WITHIN_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def posts(server: Server, path: str, payloads: list[bytes]) -> list[bytes]:
    """Return POST requests with these bodies."""
    return [server.post(path, body) for body in payloads]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, on uvloop where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        from asyncio import new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


@contextmanager
def processor_time(server: psutil.Process, row: dict[str, Any], n: int) -> Iterator[None]:
    """Note the processor time per request of the server and of this client, in milliseconds."""
    processes = {"server": server, "client": psutil.Process()}
    before = {name: process.cpu_times() for name, process in processes.items()}
    yield
    for name, process in processes.items():
        now = process.cpu_times()
        seconds = now.user + now.system - before[name].user - before[name].system
        row[f"{name}_cpu_ms"] = round(1e3 * seconds / n, 3)


def repeated(n: int, measure: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of n measurements, which are given their number as a seed."""
    return medians([measure(i) for i in range(n)]) | {"repeats": n}


# -- throughput and latency


def unique(quick: bool) -> dict[str, Any]:
    """Measure all keys different over 32 connections."""
    n = 400 if quick else 2_000
    with served() as (server, process, ready_s):

        def once(seed: int) -> dict[str, Any]:
            requests = posts(server, FORECAST, bodies(n, seed=seed))
            row: dict[str, Any] = {}
            with processor_time(process, row, n):
                answers, took = run(closed_loop(server, requests, CONNECTIONS))
            return figures(answers, took) | {"fallback_share": fallbacks(answers)} | row

        once(99)
        row = repeated(1 if quick else 5, once)
        rss = process.memory_info().rss / 2**20
    return row | {"ready_after_s": round(ready_s, 2), "rss_mib": round(rss, 1)}


def open_loop(quick: bool) -> dict[str, Any]:
    """Measure a fixed rate of 50 requests/s."""
    seconds = 6 if quick else 20
    with served() as (server, _, _):

        def once(seed: int) -> dict[str, Any]:
            requests = posts(server, FORECAST, bodies(round(RATE * seconds), seed=seed))
            answers = run(at_rate(server, requests, RATE, seconds))
            return figures(answers) | {"fallback_share": fallbacks(answers)}

        once(99)
        return repeated(1 if quick else 5, once)


def cached(quick: bool) -> dict[str, Any]:
    """Measure answers from the cache."""
    n = 1_000 if quick else 4_000
    with served(TSFM_SERVING_CACHE__TTL_S="3600") as (server, process, _):
        few = posts(server, FORECAST, bodies(CONNECTIONS))
        run(closed_loop(server, few, CONNECTIONS))

        def once(seed: int) -> dict[str, Any]:
            requests = [few[i % len(few)] for i in range(n)]
            row: dict[str, Any] = {}
            with processor_time(process, row, n):
                answers, took = run(closed_loop(server, requests, CONNECTIONS))
            hits = [json.loads(a.body)["meta"]["cache_hit"] for a in answers if a.status == 200]
            return figures(answers, took) | {"cache_hit_share": float(np.mean(hits))} | row

        return repeated(1 if quick else 5, once)


def reference(quick: bool) -> dict[str, Any]:
    """Measure the earlier service's bench: 200 requests, an adapter that takes 15 ms."""
    rows: dict[str, Any] = {}
    with peer("--delay-ms", str(REFERENCE_MS)) as (port, _):
        for different in (20, 200):
            with served(**_tollama(port)) as (server, _, _):

                def once(seed: int, server: Server = server, n: int = different) -> dict[str, Any]:
                    some = posts(server, FORECAST, bodies(n, seed=seed))
                    requests = [some[i % n] for i in range(200)]
                    answers, took = run(closed_loop(server, requests, CONNECTIONS))
                    return figures(answers, took) | {"fallback_share": fallbacks(answers)}

                once(99)
                row = repeated(1 if quick else 5, once)
                reported = REFERENCE[str(different)]
                ratio = round(row["requests_per_s"] / reported, 2)
                rows[f"unique_{different}"] = row | {"reported": reported, "ratio": ratio}
    return rows


def cycle(quick: bool) -> dict[str, Any]:
    """Measure 200 markets in one batch request."""
    rows = {}
    for name, extra in (("model", {}), ("baselines", {"liquidity_bucket": "low"})):
        with served() as (server, _, _):

            def once(seed: int, server: Server = server, extra: Any = extra) -> dict[str, Any]:
                items = b",".join(bodies(200, seed=seed, **extra))
                request = server.post(BATCH, b'{"items":[' + items + b"]}")
                answers, _ = run(closed_loop(server, [request], 1))
                answered = json.loads(answers[0].body)["items"]
                used = [item["response"]["meta"]["fallback_used"] for item in answered]
                return {
                    "seconds": answers[0].seconds,
                    "answered": sum(item["status"] == 200 for item in answered),
                    "fallback_share": float(np.mean(used)),
                }

            once(99)
            rows[name] = repeated(1 if quick else 5, once)
    return rows


def fallback(quick: bool) -> dict[str, Any]:
    """Measure baselines over 2,000 values, one request at a time."""
    rows = {}
    for method in ("ewma", "local_level_kalman", "rolling_quantile"):
        with served(TSFM_SERVING_FALLBACK__CHAIN=json.dumps([method])) as (server, _, _):

            def once(seed: int, server: Server = server) -> dict[str, Any]:
                payloads = bodies(200, points=2_000, seed=seed, liquidity_bucket="low")
                answers, _ = run(closed_loop(server, posts(server, FORECAST, payloads), 1))
                return figures(answers) | {"fallback_share": fallbacks(answers)}

            once(99)
            rows[method] = repeated(1 if quick else 5, once)
    return rows


# -- faults


@contextmanager
def peer(*arguments: str, port: int | None = None) -> Iterator[tuple[int, psutil.Process]]:
    """Start a stand-in for tollama's daemon; yield its port and process."""
    port = port or _free_port()
    script = Path(__file__).with_name("tollama_peer.py")
    process = subprocess.Popen([sys.executable, str(script), "--port", str(port), *arguments])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def _tollama(port: int) -> dict[str, str]:
    return {
        "TSFM_SERVING_PROVIDER": "tollama",
        "TSFM_SERVING_TOLLAMA__URL": f"http://127.0.0.1:{port}",
    }


def peer_hangs(quick: bool) -> dict[str, Any]:
    """Stop the peer with SIGSTOP for ten seconds under 50 requests/s."""

    async def disturb(port: int, process: psutil.Process) -> AsyncIterator[None]:
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(10)
        process.send_signal(signal.SIGCONT)
        yield

    return _disturbed(asynccontextmanager(disturb))


def peer_dies(quick: bool) -> dict[str, Any]:
    """Kill the peer under 50 requests/s, and start it again after ten seconds."""

    async def disturb(port: int, process: psutil.Process) -> AsyncIterator[None]:
        process.kill()
        process.wait()
        await asyncio.sleep(10)
        with peer(port=port):
            yield

    return _disturbed(asynccontextmanager(disturb))


def _disturbed(disturb: Any) -> dict[str, Any]:
    """Return what clients saw: 4 s before the fault, 10 s of it, 10 s after it."""
    with peer() as (port, process), served(**_tollama(port)) as (server, _, _):
        requests = posts(server, FORECAST, bodies(round(RATE * 25)))

        async def faulty() -> tuple[list[Answer], float, float]:
            began = time.perf_counter()
            load = asyncio.create_task(at_rate(server, requests, RATE, 24))
            await asyncio.sleep(4)
            fault_at = time.perf_counter() - began
            async with disturb(port, process):
                back_at = time.perf_counter() - began
                answers = await load
            return answers, fault_at, back_at

        answers, fault_at, back_at = run(faulty())
    due = np.arange(len(answers)) / RATE
    read = [json.loads(answer.body) if answer.status == 200 else {} for answer in answers]
    by_model = np.array([r.get("meta", {}).get("runtime") == "tollama" for r in read])
    state = [r.get("meta", {}).get("circuit_breaker_state") for r in read]
    answered = due + [answer.seconds for answer in answers]
    opened = [at for at, s in zip(answered, state, strict=True) if s == "open" and at >= fault_at]
    again = answered[by_model & (due >= back_at)]
    during = [a for a, at in zip(answers, due, strict=True) if fault_at + 2 <= at < back_at]
    return {
        "requests": len(answers),
        "not_200": sum(answer.status != 200 for answer in answers),
        "invalid": sum(not _valid(r) for r in read),
        "worst_ms": round(1e3 * max(answer.seconds for answer in answers), 1),
        "breaker_open_after_s": round(min(opened) - fault_at, 2) if opened else None,
        "p95_while_open_ms": figures(during)["p95_ms"],
        "model_again_after_s": round(float(again.min()) - back_at, 2) if len(again) else None,
    }


def _valid(answer: dict[str, Any]) -> bool:
    """Return whether all quantiles are finite, ordered and in [0, 1] at every step."""
    if "yhat_q" not in answer:
        return False
    values = np.array(list(answer["yhat_q"].values()), dtype=float)
    inside = np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
    return bool(inside and values.shape[1] == 12 and (np.diff(values, axis=0) >= 0).all())


def own_process_killed(quick: bool) -> dict[str, Any]:
    """Kill the service under load and start it again."""
    with tempfile.TemporaryDirectory() as folder:
        records = {"TSFM_SERVING_RECORDS_DIR": folder}
        with served(**records) as (server, process, _):

            async def until_killed() -> None:
                requests = posts(server, FORECAST, bodies(round(RATE * 4)))
                load = asyncio.create_task(at_rate(server, requests, RATE, 4))
                await asyncio.sleep(2)
                process.kill()
                await load

            run(until_killed())
        with served(**records) as (_, _, ready_s):
            torn = [path.name for path in Path(folder).rglob("*.tmp")]
    return {"ready_after_s": round(ready_s, 2), "torn_files": len(torn)}


def probes(server: Server, seconds: float) -> list[Answer]:
    """Ask for /health ten times a second, as an orchestrator does: from another process, which no
    load delays, and over a new connection each time.
    """

    async def ask() -> list[Answer]:
        until, answers = time.perf_counter() + seconds, []
        while time.perf_counter() < until:
            connection = Connection(server)
            answers.append(await connection.send(server.get("/health")))
            connection.close()
            await asyncio.sleep(0.1)
        return answers

    return asyncio.run(ask())


def overload(quick: bool) -> dict[str, Any]:
    """Send four times what the same client reached just before."""
    seconds = 8 if quick else 30
    with served() as (server, process, _), ProcessPoolExecutor(1, get_context("spawn")) as other:
        some = posts(server, FORECAST, bodies(4_000))
        closed, took = run(closed_loop(server, some[:1_000], CONNECTIONS))
        capacity = len(closed) / took
        before = process.memory_info().rss
        other.submit(probes, server, 0).result()  # it has started
        probing = other.submit(probes, server, seconds)
        began = time.perf_counter()
        answers = run(at_rate(server, some, 4 * capacity, seconds))
        took = time.perf_counter() - began
        health = probing.result()
        after = process.memory_info().rss
    good = sum(answer.status == 200 for answer in answers)
    return {
        "capacity_per_s": round(capacity, 1),
        "sent_per_s": round(4 * capacity, 1),
        "goodput_share": round(good / took / capacity, 3),
        "fallback_share": fallbacks(answers),
        "health_p95_ms": figures(health)["p95_ms"],
        "memory_growth_mib": round((after - before) / 2**20, 1),
        "statuses": figures(answers)["statuses"],
    }


def single_flight(quick: bool) -> dict[str, Any]:
    """Send 100 identical requests at once and count the model's series."""
    with served() as (server, _, _):
        before = _series_forecast(server)
        requests = posts(server, FORECAST, bodies(1)) * 100
        answers, _ = run(closed_loop(server, requests, 100))
        return {
            "model_calls": _series_forecast(server) - before,
            "statuses": figures(answers)["statuses"],
        }


def _series_forecast(server: Server) -> int:
    """Return how many series the model has forecast, by the service's own count."""
    url = f"http://{server.host}:{server.port}/metrics"
    text = httpx.get(url, headers=server.headers).text
    counts = [line for line in text.splitlines() if line.startswith("tsfm_batch_series_sum")]
    return round(sum(float(line.split()[-1]) for line in counts))


def search(quick: bool) -> dict[str, Any]:
    """Measure POST /forecast with 4 metrics and K = 8 at 5 requests/s."""
    bundle = Settings().reports_dir / "demo" / "search.bundle"
    if not bundle.exists():
        return {"not_measured": "fleet demo has no bundle here; run: make demo"}
    seconds = 6 if quick else 20
    with served("--bundle", str(bundle)) as (server, _, _):

        def once(seed: int) -> dict[str, Any]:
            rng = np.random.default_rng(seed)
            payloads = []
            for _ in range(round(5 * seconds)):
                walk = rng.normal(0, 1, (4_000, 4)).cumsum(axis=0)
                history = (50 + 10 * np.sin(np.arange(4_000) / 230)[:, None] + walk / 10).round(3)
                content = {
                    "tenant_id": "unknown",
                    "history": history.tolist(),
                    "sla_tier": "premium",
                    "k": 8,
                }
                payloads.append(json.dumps(content).encode())
            return figures(run(at_rate(server, posts(server, SEARCH, payloads), 5, seconds)))

        once(99)
        return repeated(1 if quick else 3, once)


ROWS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "unique": unique,
    "open_loop": open_loop,
    "cached": cached,
    "reference": reference,
    "cycle": cycle,
    "fallback": fallback,
    "peer_hangs": peer_hangs,
    "peer_dies": peer_dies,
    "own_process_killed": own_process_killed,
    "overload": overload,
    "single_flight": single_flight,
    "search": search,
}


def main() -> None:
    """Measure the rows and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less load and one repeat, minutes")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS])
    chosen = parser.parse_args()
    results = {}
    for name in chosen.rows:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = ROWS[name](chosen.quick)
    print(json.dumps({"benchmark": "service", "quick": chosen.quick, **results, **ran_on()}))


if __name__ == "__main__":
    main()
