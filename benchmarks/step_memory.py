"""Measure how much memory each step takes where a cohort of a fleet's tenants carries the backtest.

`python benchmarks/step_memory.py [--fleets 20000] [--cohort 2000] [--days 14] [--origins 4]
[--shard-tenants 25] [--quick]` prints one JSON object. By size of `--fleets`, `memory` has the
highest resident memory of each step in MiB (`step_mib`: tables, then reports), each in a process of
its own, and the largest of them with its step (`largest_mib`, `largest_step`). A process that only
imports what steps need takes `idle_mib`. The latency report is left out: it times the real model.

A model that forecasts the last value and a spread replaces the real one. `--quick` uses 2 origins,
few configurations and, by default, a cohort of 40 of 100 tenants. Run it as `POLARS_MAX_THREADS=1
OMP_NUM_THREADS=1 python benchmarks/step_memory.py`, as `scaling.py`. A fleet of 20,000 tenants over
14 days takes 6 GiB of disk below TMPDIR.

What belongs here: the measurement. What does not: the stand-in and the fleet (`scaling`), the
steps (`steps`), and time and memory of a whole run (`pipeline`).
"""

import argparse
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import scaling
from measuring import ran_on

from tsfm_pipeline.catalogue.tables import TABLES

REPORTS = {
    "headline_report": "tsfm_pipeline.reports.headline.numbers",
    "ablation_report": "tsfm_pipeline.reports.ablation.numbers",
    "cold_start_report": "tsfm_pipeline.reports.cold_start.numbers",
    "sla_report": "tsfm_pipeline.reports.sla.numbers",
    "forecast_quality_report": "tsfm_pipeline.reports.quality.numbers",
    "recommendation_report": "tsfm_pipeline.reports.recommendations.numbers",
}
"""The module of each report's function, which has the report's name."""


def peak_mib() -> float:
    """Return the highest resident memory that this process has had, in MiB, as Linux counts it
    (`VmHWM`).
    """
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def step_peak_mib(root: Path, settings: dict[str, Any], table: str) -> float:
    """Make one table whose inputs exist, and return this process's highest memory in MiB."""
    scaling.make(scaling.reopened(root, settings), table)
    return peak_mib()


def report_peak_mib(root: Path, settings: dict[str, Any], report: str) -> float:
    """Compute one report whose tables exist, and return this process's highest memory in MiB."""
    resolve_name(f"{REPORTS[report]}:{report}")(scaling.reopened(root, settings))
    return peak_mib()


def memory(n_tenants: int, days: int, origins: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the highest memory of each step of one fleet, each in a process of its own."""
    step_mib = {}
    with tempfile.TemporaryDirectory(prefix="memory-benchmark-") as folder:
        root = Path(folder)
        scaling.open_fleet(root, n_tenants, days, origins_per_tenant=origins, settings=settings)
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), max_tasks_per_child=1
        ) as processes:
            idle_mib = processes.submit(peak_mib).result()
            for step in (*TABLES, *REPORTS):
                peak = step_peak_mib if step in TABLES else report_peak_mib
                step_mib[step] = round(processes.submit(peak, root, settings, step).result())
                print(f"{n_tenants} tenants: {step} {step_mib[step]} MiB", file=sys.stderr)
    largest = max(step_mib, key=lambda step: step_mib[step])
    return {
        "idle_mib": round(idle_mib),
        "step_mib": step_mib,
        "largest_mib": step_mib[largest],
        "largest_step": largest,
    }


def main() -> int:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleets", type=int, nargs="*", help="sizes of fleets; default: 20000")
    parser.add_argument("--cohort", type=int, help="tenants of the cohort; default: 2000")
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--origins", type=int, default=4, help="requests per tenant and role")
    parser.add_argument("--shard-tenants", type=int, default=25)
    parser.add_argument(
        "--quick", action="store_true", help="2 origins, few configurations, small fleets"
    )
    options = parser.parse_args()
    quick, shard = options.quick, options.shard_tenants
    usual, cohort, origins = ([100], 40, 2) if quick else ([20_000], 2000, options.origins)
    fleets = sorted(options.fleets or usual)
    cohort = options.cohort or cohort
    result: dict[str, Any] = {
        "benchmark": "step_memory",
        "cohort": cohort,
        "days": options.days,
        "origins": origins,
        "shard_tenants": shard,
    }
    drawn = scaling.settings_of(quick, shard, cohort_tenants=cohort)
    result["memory"] = {size: memory(size, options.days, origins, drawn) for size in fleets}
    print(json.dumps(result | ran_on()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
