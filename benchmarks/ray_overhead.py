"""Measure what Ray costs: its processor and wall time against one process on the same cores, and
the driver's time and memory for many shards that hold nothing.

`python benchmarks/ray_overhead.py [--shards 6] [--shard-tenants 20] [--repeats 2] [--nothing 10000]
[--quick]` prints one JSON object. `--shards 0` or `--nothing 0` leaves one of the two parts out;
`--quick` takes 2 small shards, 1 repeat and 200 empty shards.

The shards are those of `forecast_grid` with the bundled model. In process they are made one after
the other by as many threads as there are cores; on Ray, one core makes one shard. Both are warm:
the model is loaded, and a first table was made. The processor time of Ray is that of the driver, of
the workers, and of Ray's own processes. The empty shards go the same way, but a worker writes no
file for them. Run it on a calm machine: `RAY_worker_niceness=0 python benchmarks/ray_overhead.py`.

What belongs here: the measurement. What does not: the executor (`catalogue.on_ray`).
"""

import argparse
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import ray

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.on_ray import OnRay
from tsfm_pipeline.catalogue.shards import InProcess, ShardExecutor, ShardWork, numerics, shard_work
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.lake import Task
from tsfm_pipeline.parts import Part
from tsfm_pipeline.settings import PROJECT_ROOT, ExecutionSettings, Settings
from tsfm_pipeline.steps.makers import MAKERS

TABLE = "forecast_grid"
ORIGINS = 8
FINGERPRINT = "0" * 16


class EmptyTables:
    """Tables that keep nothing."""

    def __init__(self) -> None:
        self.expected = {"nothing": FINGERPRINT}

    def put(self, table: str, number: int, shard: Sequence[int], frame: pl.DataFrame) -> Part:
        """Return the part that would have been written."""
        return Part(number, f"part-{number:05d}-00000000-00000000.parquet", 0, 0, "0" * 64)


class Empty:
    """A member without data."""

    name = "empty"

    def __init__(self) -> None:
        self.tables = EmptyTables()


def open_empty(settings: Settings, name: str) -> Empty:
    """Open the member without data, on a worker."""
    return Empty()


def nothing(member: Empty, shard: Sequence[int]) -> pl.DataFrame:
    """Make an empty shard."""
    return pl.DataFrame()


def many_empty_shards(n_shards: int) -> dict[str, Any]:
    """Return the driver's milliseconds per empty shard, and its peak memory."""
    work = ShardWork(
        settings=Settings().model_dump_json(),
        opener=f"{Path(__file__).stem}:open_empty",
        member="empty",
        table="nothing",
        make=f"{Path(__file__).stem}:nothing",
        fingerprint=FINGERPRINT,
        numerics=numerics(),
    )
    before = _peak_rss_mib()
    executor = OnRay(ExecutionSettings(engine="ray"), _to_stderr)
    tasks: list[Task] = [(number, [number]) for number in range(n_shards)]
    list(executor.run(work, tasks[:100]))  # the workers have started
    wall, cpu = time.perf_counter(), time.process_time()
    n_made = sum(1 for _ in executor.run(work, tasks))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert n_made == n_shards
    return {
        "empty_shards": n_shards,
        "driver_cpu_ms_per_shard": round(1e3 * cpu / n_shards, 3),
        "driver_wall_ms_per_shard": round(1e3 * wall / n_shards, 3),
        "driver_rss_before_mib": before,
        "driver_peak_rss_mib": _peak_rss_mib(),
    }


def against_one_process(fleet: Fleet, n_repeats: int) -> dict[str, Any]:
    """Return the seconds of a table's shards in process and on Ray, and the ratios of neighbouring
    runs.
    """
    from measuring import spread

    maker = MAKERS[TABLE]
    work = shard_work(fleet.settings, FLEETS.opener, fleet, TABLE, maker.function, needs_model=True)
    tasks: list[Task] = list(enumerate(fleet.shards))
    (fleet.tables.path / TABLE).mkdir(exist_ok=True)
    arms: dict[str, tuple[ShardExecutor, Callable[[], float]]] = {
        "in_process": (InProcess(fleet), time.process_time),
        "ray": (OnRay(ExecutionSettings(engine="ray"), _to_stderr), _cpu_of_the_network),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    parts: dict[str, list[Part]] = {}
    for repeat in range(n_repeats + 1):
        for name, (executor, clock) in arms.items():
            wall, cpu = time.perf_counter(), clock()
            parts[name] = sorted(executor.run(work, tasks))
            wall, cpu = time.perf_counter() - wall, clock() - cpu
            _to_stderr(f"{name}: {cpu:.1f} s of processor time, {wall:.1f} s")
            if repeat:  # the first time is the warm-up
                seconds[name].append((wall, cpu))
    assert parts["in_process"] == parts["ray"]
    pairs = list(zip(seconds["ray"], seconds["in_process"], strict=True))
    return {
        "shards": len(tasks),
        "cpu_s_per_shard": round(min(cpu for _, cpu in seconds["in_process"]) / len(tasks), 2),
        "cpu_ratio": spread([there[1] / here[1] for there, here in pairs]),
        "wall_ratio": spread([there[0] / here[0] for there, here in pairs]),
    }


def _cpu_of_the_network() -> float:
    """Return the processor time of the driver and of every process of Ray, which it started."""
    total = time.process_time()
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _peak_rss_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fleet(root: Path, n_tenants: int, shard_tenants: int, origins: int) -> Fleet:
    """Return a fleet with everything that `forecast_grid` is made from."""
    from scaling import make, open_fleet

    settings = {"shard_tenants": shard_tenants}
    fleet: Fleet = open_fleet(root, n_tenants, 21, origins_per_tenant=origins, settings=settings)
    for table in list(TABLES)[: list(TABLES).index(TABLE)]:
        make(fleet, table)
    return fleet


def main() -> int:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, help="default: 6")
    parser.add_argument("--shard-tenants", type=int, help="default: 20")
    parser.add_argument("--repeats", type=int, help="default: 2")
    parser.add_argument("--nothing", type=int, help="empty shards; default: 10000")
    parser.add_argument("--quick", action="store_true", help="2 small shards, 200 empty ones")
    options = parser.parse_args()
    usual = (2, 10, 1, 200) if options.quick else (6, 20, 2, 10_000)
    given = (options.shards, options.shard_tenants, options.repeats, options.nothing)
    n_shards, shard_tenants, n_repeats, n_empty = (
        default if value is None else value for value, default in zip(given, usual, strict=True)
    )
    # Workers have the environment of the node, and import this file.
    paths = [str(Path(__file__).parent), str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    n_cores = len(os.sched_getaffinity(0))
    ray.init(
        "local",
        num_cpus=n_cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    result: dict[str, Any] = {"benchmark": "ray_overhead", "cores": n_cores, "ray": ray.__version__}
    if n_empty:
        result |= many_empty_shards(n_empty)
    if n_shards:
        with tempfile.TemporaryDirectory(prefix="ray-benchmark-") as folder:
            fleet = _fleet(
                Path(folder),
                n_shards * shard_tenants,
                shard_tenants,
                2 if options.quick else ORIGINS,
            )
            result |= against_one_process(fleet, n_repeats)
    ray.shutdown()
    # These import torch, which is no part of the driver's memory above.
    from measuring import ran_on

    print(json.dumps(result | ran_on()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
