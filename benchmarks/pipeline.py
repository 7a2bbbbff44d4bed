"""Measure the time and memory of the whole pipeline for N tenants, and how both grow.

`python benchmarks/pipeline.py [--tenants 100 300 1000] [--days 30] [--origins 12] [--cohort 1000]
[--dtype bfloat16] [--keep DIR] [--quick]` prints one JSON object.

Each size is the fleet `synthetic` with that many tenants, materialised in an empty folder as a user
would (`dagster asset materialize --select '*'`). Measured are wall time, processor time (which a
busy machine affects less), the highest sampled sum of resident memory over the run's processes, and
time and memory per step. `marginal_time_ratio` is the time per additional tenant between the last
two sizes, divided by that between the first two. `marginal_cpu_ratio` is the same for processor
time. The exponent is that of a power law through the first and the last size. `--keep` keeps each
size's tables and reports in DIR. Settings have their defaults unless TSFM_* variables change them.

What belongs here: the measurement. What does not: what the steps do (`steps`).
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml
from measuring import ran_on

from tsfm_pipeline.cli.materialise import materialise_command
from tsfm_pipeline.progress import Event, EventReader
from tsfm_pipeline.settings import PROJECT_ROOT

SAMPLING_S = 0.2
QUICK_OPTIONS = {
    "EVALUATION__LATENCY_REQUESTS": "20",
    "EVALUATION__BOOTSTRAP_DRAWS": "500",
    "EVALUATION__PERMUTATIONS": "200",
}


def run_fleet(
    n_tenants: int, days: int, origins: int, options: dict[str, str], keep: Path | None
) -> dict[str, Any]:
    """Run one whole pipeline in an empty folder. Raises RuntimeError with the end of the run's
    output if it fails.
    """
    name = f"synthetic-of-{n_tenants}"
    with ExitStack() as stack:
        root = (
            keep / name
            if keep
            else Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="pipeline-benchmark-"))
            )
        )
        root.mkdir(parents=True, exist_ok=True)
        for part in ("specs", "data", "dagster_home"):
            # This raises for the folder of an earlier run, whose tables would be read, not made.
            (root / part).mkdir()
        shutil.copy(PROJECT_ROOT / "dagster.yaml", root / "dagster_home")
        spec = yaml.safe_load((PROJECT_ROOT / "data" / "fleets" / "synthetic.yaml").read_text())
        spec |= {
            "tenants": n_tenants,
            "days": days,
            "origins_per_tenant": origins,
            "minimum_per_archetype": n_tenants // 20,
        }
        (root / "specs" / f"{name}.yaml").write_text(yaml.safe_dump(spec))
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DAGSTER_")},
            **{f"TSFM_{key}": value for key, value in options.items()},
            "TSFM_SPECS_DIR": str(root / "specs"),
            "TSFM_DATA_DIR": str(root / "data"),
            "DAGSTER_HOME": str(root / "dagster_home"),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "PYTHONPATH": str(PROJECT_ROOT),
        }
        log, events = root / "run.log", root / "events.jsonl"
        events.touch()
        started = time.perf_counter()
        with log.open("w") as output:
            run = subprocess.Popen(
                materialise_command(name, progress=events),
                env=environment,
                cwd=root,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                peak, largest, cpu_s = watch(run)
            except BaseException:
                os.killpg(run.pid, signal.SIGTERM)
                raise
        wall_s = time.perf_counter() - started
        text = log.read_text()
        step_s, processes = steps(EventReader(events).new())
        if run.returncode:
            raise RuntimeError(
                f"the run of {n_tenants} tenants failed; the end of its output:\n{text[-6000:]}"
            )
        lake_bytes = sum(
            path.stat().st_size for path in (root / "data" / "lake").rglob("*.parquet")
        )
    return {
        "tenants": n_tenants,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "peak_rss_mib": round(peak / 2**20),
        "lake_mib": round(lake_bytes / 2**20, 1),
        "step_s": step_s,
        "step_mib": {
            step: round(largest.get(process, 0) / 2**20) for step, process in processes.items()
        },
    }


def watch(run: subprocess.Popen[bytes]) -> tuple[int, dict[int, int], float]:
    """Wait for a process to end.

    Returns the highest sum of resident memory over the process and its descendants, the highest
    memory of each of them by process id (all in bytes), and the sum of their last sampled processor
    times in seconds.
    """
    peak = 0
    largest: dict[int, int] = {}
    cpu_s: dict[int, float] = {}
    while run.poll() is None:
        sizes = []
        try:
            process = psutil.Process(run.pid)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            try:
                sizes.append(member.memory_info().rss)
                largest[member.pid] = max(largest.get(member.pid, 0), sizes[-1])
                times = member.cpu_times()
            except psutil.NoSuchProcess:
                continue
            cpu_s[member.pid] = times.user + times.system
        peak = max(peak, sum(sizes))
        time.sleep(SAMPLING_S)
    return peak, largest, sum(cpu_s.values())


def steps(events: Iterable[Event]) -> tuple[dict[str, float], dict[str, int]]:
    """Return the seconds from start to success of each step, longest first, and the process of each
    step.
    """
    started: dict[str, Event] = {}
    seconds: dict[str, float] = {}
    for event in events:
        if event.kind == "start":
            started[event.step] = event
        elif event.kind == "end":
            seconds[event.step] = round(event.at - started[event.step].at, 2)
    processes = {step: event.pid for step, event in started.items()}
    return dict(sorted(seconds.items(), key=lambda item: -item[1])), processes


def growth(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return how time and memory grow from size to size; empty for a single size."""
    if len(runs) < 2:
        return {}
    first, last = runs[0], runs[-1]

    def per_tenant(unit: str) -> list[float]:
        return [(b[unit] - a[unit]) / (b["tenants"] - a["tenants"]) for a, b in pairwise(runs)]

    figures = {
        "exponent": math.log(last["wall_s"] / first["wall_s"])
        / math.log(last["tenants"] / first["tenants"]),
        "peak_rss_ratio_last_to_first": last["peak_rss_mib"] / first["peak_rss_mib"],
        "marginal_s_per_tenant": per_tenant("wall_s")[-1],
    }
    if len(runs) > 2:
        for figure, unit in {
            "marginal_time_ratio": "wall_s",
            "marginal_cpu_ratio": "cpu_s",
        }.items():
            *_, before, after = per_tenant(unit)
            figures[figure] = after / before
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> int:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--origins", type=int, default=12, help="requests per tenant and role")
    parser.add_argument(
        "--cohort",
        type=int,
        metavar="TENANTS",
        help="tenants that carry the backtest (default: all); recommendations cover every tenant",
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--keep", type=Path, help="keep each size's tables and reports in this folder"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a quick look: 32 tenants, 14 days, 3 origins, few repetitions",
    )
    options = parser.parse_args()
    tenants, days, origins = (
        ([32], 14, 3) if options.quick else (sorted(options.tenants), options.days, options.origins)
    )
    settings = {"DTYPE": options.dtype, **(QUICK_OPTIONS if options.quick else {})}
    if options.cohort is not None:
        settings["EVALUATION__COHORT_TENANTS"] = str(options.cohort)
    runs = [run_fleet(n, days, origins, settings, options.keep) for n in tenants]
    result = {
        "benchmark": "pipeline",
        "growth": growth(runs),
        "runs": runs,
        "days": days,
        "origins": origins,
        **settings,
        **ran_on(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
