"""Measure the time and memory of opening a table fleet and reading all of its values.

`python benchmarks/reading.py [--rows 10000000] [--against CHECKOUT] [--quick]` prints one JSON
object. With `--against`, the same tables are also read by the package of another checkout, and the
ratios are printed. Each table is read in a process of its own.

What belongs here: this measurement, and the check that both checkouts read the same values. What
does not: assertions (they are tests).
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

TENANTS = 60
ROWS, QUICK_ROWS = 10_000_000, 1_000_000
FORMS = {
    "naive.csv": "%Y-%m-%d %H:%M:%S",
    "zulu.csv": "%Y-%m-%dT%H:%M:%SZ",
    "offset.csv": "%Y-%m-%d %H:%M:%S+00:00",
    "datetime.parquet": None,
}
"""The tables, each with the form of its times; None: datetimes."""
TENANTS_AT_ONCE = 32


def write_table(path: Path, rows: int, form: str | None) -> None:
    """Write `rows` rows of two metrics, one per minute and tenant."""
    n_steps = rows // TENANTS
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = pl.datetime_range(
        start,
        start + (n_steps - 1) * timedelta(minutes=1),
        "1m",
        time_unit="us",
        time_zone="UTC",
        eager=True,
    )
    column = times if form is None else times.dt.strftime(form)
    rng = np.random.default_rng(0)
    table = pl.concat(
        pl.DataFrame(
            {
                "tenant_id": pl.repeat(f"host-{number:03d}", n_steps, eager=True),
                "timestamp": column,
                "cpu": rng.gamma(2.0, 2.0, n_steps).round(3),
                "mem": rng.gamma(4.0, 200.0, n_steps).round(1),
            }
        )
        for number in range(TENANTS)
    )
    if path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)


def read(path: Path) -> dict[str, Any]:
    """Open and read one table, and return seconds, peak memory and a digest of the values."""
    from tsfm_pipeline.fleets import TableFleet, open_fleet

    spec = TableFleet.model_validate(
        {"name": "read", "title": "Read", "kind": "table", "path": path.name, "source": "made up"}
    )
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin, begin_cpu = time.perf_counter(), time.process_time()
    source = open_fleet(spec, fleets_dir=path.parent)
    opened = time.perf_counter()
    digest = hashlib.sha256(source.fingerprint().encode())
    for numbers in source.shards(TENANTS_AT_ONCE):
        digest.update(source.values(numbers).tobytes())
    return {
        "open_s": round(opened - begin, 2),
        "total_s": round(time.perf_counter() - begin, 2),
        "processor_s": round(time.process_time() - begin_cpu, 2),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "rss_before_mib": round(before_mib),
        "digest": digest.hexdigest()[:16],
    }


def read_elsewhere(path: Path, checkout: Path) -> dict[str, Any]:
    """Read one table by the package of a checkout, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, "--read", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=checkout
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def ratios(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what one reading costs in multiples of the other, and whether both read the same."""
    costs = ("total_s", "processor_s", "peak_rss_mib")
    compared = {f"{name}_ratio": round(ours[name] / theirs[name], 2) for name in costs}
    return {**compared, "same_values": ours["digest"] == theirs["digest"]}


def main() -> None:
    """Measure with the options of the command line, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows of each table ({ROWS})")
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--quick", action="store_true", help=f"tables of {QUICK_ROWS} rows")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read is not None:
        print(json.dumps(read(arguments.read)))
        return
    rows = QUICK_ROWS if arguments.quick else arguments.rows
    ours = Path(__file__).resolve().parents[1]
    tables: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for table, form in FORMS.items():
            path = Path(name) / table
            write_table(path, rows, form)
            here = read_elsewhere(path, ours)
            tables[table] = {"size_mb": round(path.stat().st_size / 1e6, 1), "here": here}
            if arguments.against is not None:
                there = read_elsewhere(path, arguments.against.resolve())
                tables[table] |= {"there": there, **ratios(here, there)}
            path.unlink()
    print(
        json.dumps(
            {"benchmark": "reading", "rows": rows, "cores": os.cpu_count(), "tables": tables},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
