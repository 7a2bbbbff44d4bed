"""Measure the processor time of each step per tenant, and whether it stays the same as a fleet
grows.

`python benchmarks/scaling.py [--tenants 1000 3000] [--days 14] [--origins 4] [--shard-tenants 25]
[--quick]` prints one JSON object: the seconds of processor time per tenant of each table at each
size, the ratio of the last size to the first (`growth`), and the largest growth of a sharded table.

A model that forecasts the last value and a spread replaces the real one, so that its cost does not
hide the rest. Everything else is as in a run: the same functions make the same tables. `--quick`
uses 2 origins, few configurations and, by default, 100 and 300 tenants. Idle threads spin and would
count as a step's processor time on a busy machine, so run it as `POLARS_MAX_THREADS=1
OMP_NUM_THREADS=1 python benchmarks/scaling.py`.

What belongs here: the measurement. What does not: the steps (`steps`), and wall time and memory of
a whole run (`pipeline`).
"""

import argparse
import inspect
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import yaml
from measuring import ran_on
from numpy.typing import NDArray
from scipy.stats import norm

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.shards import (
    WHOLE,
    ShardExecutor,
    ShardWork,
    make_table,
    shard_work,
    shared_of,
)
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.forecaster.other_models import WindowForecaster
from tsfm_pipeline.forecaster.registry import find_checkpoint
from tsfm_pipeline.lake import FleetLake, TableSummary, Task
from tsfm_pipeline.parts import Part
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.steps.bundle import publish_bundle
from tsfm_pipeline.steps.makers import MAKERS

QUICK_CANDIDATES = (
    "ctx64",
    "ctx256",
    "ctx1024",
    "ctx1280-r5",
    "ctx2880-r15",
    "ctx128-s1x5",
    "ctx1280-r5-s1x5",
    "ctx256-log",
)
FEW_DRAWS = {"bootstrap_draws": 500, "group_bootstrap_draws": 500, "permutations": 200}


def last_value_and_spread(windows: NDArray[np.float32], n_points: int) -> NDArray[np.float64]:
    """Return forecasts [N, H, 10] of windows [N, L]: at every step the last value, and normal
    deciles with the window's standard deviation.
    """
    deviation = norm.ppf([0.5, *np.arange(1, 10) / 10]) * windows.std(axis=1, keepdims=True)
    forecast = windows[:, -1:] + deviation
    return np.repeat(forecast[:, None], n_points, axis=1).astype(np.float64)


class StandIn(WindowForecaster):
    """Last value and spread, which says that it is the bundled checkpoint: a search bundle asks."""

    checkpoint = find_checkpoint("bundled")[0]


STAND_IN = StandIn(last_value_and_spread)


class WithStandIn:
    """An executor that makes shards in this process, and passes the stand-in to steps that need a
    model.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def run(self, work: ShardWork, tasks: Sequence[Task]) -> Iterator[Part]:
        """Make each of these shards."""
        make = resolve_name(work.make)
        model = [STAND_IN] if "forecaster" in inspect.signature(make).parameters else []
        for number, shard in tasks:
            frame = make(self.fleet, *([shard] if len(shard) else []), *model, *shared_of(work))
            yield self.fleet.tables.put(work.table, number, shard, frame, work.numerics)


class CountedLake(FleetLake):
    """A fleet's tables that count how often each part of each table is opened."""

    def __init__(self, tables: FleetLake) -> None:
        super().__init__(tables.store, tables.expected)
        self.opened: dict[str, Counter[str]] = {}

    def _checked(self, table: str, parts: Sequence[Part]) -> list[Path]:
        self.opened.setdefault(table, Counter()).update(part.name for part in parts)
        return super()._checked(table, parts)


class Counting(WithStandIn):
    """`WithStandIn` that keeps, by table and for every shard, which parts of which input the shard
    opened; the fleet's tables are a `CountedLake`.
    """

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self.opened: dict[str, list[dict[str, set[str]]]] = {table: [] for table in TABLES}

    def run(self, work: ShardWork, tasks: Sequence[Task]) -> Iterator[Part]:
        """Make each of these shards."""
        tables = self.fleet.tables
        assert isinstance(tables, CountedLake)
        for task in tasks:
            tables.opened.clear()
            yield from super().run(work, [task])
            self.opened[work.table].append(
                {name: set(parts) for name, parts in tables.opened.items()}
            )


def open_fleet(
    root: Path, n_tenants: int, days: int, *, settings: dict[str, Any], **fields: Any
) -> Fleet:
    """Open a synthetic fleet of `n_tenants` tenants in an empty folder. `fields` are those of its
    file.
    """
    spec = yaml.safe_load((PROJECT_ROOT / "data" / "fleets" / "synthetic.yaml").read_text())
    spec |= {
        "tenants": n_tenants,
        "days": days,
        "minimum_per_archetype": max(1, n_tenants // 20),
        **fields,
    }
    (root / "specs").mkdir(parents=True)
    (root / "specs" / "growing.yaml").write_text(yaml.safe_dump(spec))
    return reopened(root, settings)


def reopened(root: Path, settings: dict[str, Any]) -> Fleet:
    """Open the fleet whose file `open_fleet` wrote."""
    fleet = open_workspace_fleet(
        Settings(data_dir=root / "data", specs_dir=root / "specs", **settings), "growing"
    )
    fleet.tables = CountedLake(fleet.tables)
    return fleet


def make(fleet: Fleet, table: str, executor: ShardExecutor | None = None) -> TableSummary:
    """Make one table whose inputs exist, with `WithStandIn` unless another executor is given."""
    record, maker = TABLES[table], MAKERS[table]
    shards = FLEETS.shards(fleet, record) if record.sharded else WHOLE
    provenance = resolve_name(maker.provenance)(fleet) if maker.provenance else {}
    work = shard_work(
        fleet.settings, FLEETS.opener, fleet, table, maker.function, share=maker.share
    )
    summary = make_table(
        fleet, work, shards, executor=executor or WithStandIn(fleet), provenance=provenance
    )
    if table == "search_bundle":  # as the asset does: recommendations open the file
        publish_bundle(fleet)
    return summary


def measure(fleet: Fleet) -> dict[str, float]:
    """Return the seconds of processor time of each table, in the order of making."""
    seconds = {}
    for table in TABLES:
        started = time.process_time()
        make(fleet, table)
        seconds[table] = time.process_time() - started
    return seconds


def grown(
    sizes: Sequence[int], days: int, origins: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return the seconds of processor time per tenant of each table at each size, and how they
    grow.
    """
    per_tenant: dict[str, list[float]] = {table: [] for table in TABLES}
    for n_tenants in sizes:
        with tempfile.TemporaryDirectory(prefix="scaling-benchmark-") as folder:
            fleet = open_fleet(
                Path(folder), n_tenants, days, origins_per_tenant=origins, settings=settings
            )
            for table, seconds in measure(fleet).items():
                per_tenant[table].append(round(seconds / n_tenants, 6))
                print(f"{n_tenants} tenants: {table} {seconds:.2f} s", file=sys.stderr, flush=True)
    growth = {
        table: round(values[-1] / values[0], 3)
        for table, values in per_tenant.items()
        if values[0] > 0
    }
    sharded = {table: growth[table] for table in growth if TABLES[table].sharded}
    return {
        "cpu_s_per_tenant": per_tenant,
        "growth": growth,
        "sharded": sorted(sharded),
        "largest_growth_of_a_sharded_table": max(sharded.values()),
    }


def settings_of(quick: bool, shard_tenants: int, **evaluation: Any) -> dict[str, Any]:
    """Return the settings under which a fleet is made, with further ones of the evaluation."""
    search = {"candidates": QUICK_CANDIDATES, "portfolio_size": 4} if quick else {}
    return {
        "shard_tenants": shard_tenants,
        "search": search,
        "evaluation": {**FEW_DRAWS, **evaluation},
    }


def main() -> int:
    """Measure with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, nargs="+", help="default: 1000 3000")
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--origins", type=int, default=4, help="requests per tenant and role")
    parser.add_argument("--shard-tenants", type=int, default=25)
    parser.add_argument(
        "--quick", action="store_true", help="2 origins, few configurations, 100 and 300 tenants"
    )
    options = parser.parse_args()
    sizes = sorted(options.tenants or ([100, 300] if options.quick else [1000, 3000]))
    origins = 2 if options.quick else options.origins
    settings = settings_of(options.quick, options.shard_tenants)
    result = {
        "benchmark": "scaling",
        "tenants": sizes,
        "days": options.days,
        "origins": origins,
        "shard_tenants": options.shard_tenants,
        **grown(sizes, options.days, origins, settings),
        **ran_on(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
