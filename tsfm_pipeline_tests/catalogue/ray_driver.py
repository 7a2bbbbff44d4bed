"""The driver of the tests with several nodes, as a process of its own: `python -m
tsfm_pipeline_tests.catalogue.ray_driver JSON`.

What belongs here: making tables under given settings, and printing what came of it. What does not:
the nodes (`ray_network`). The options are `settings` (as JSON), `tables`, `fleet`, `force`, `make`
(another function than the table's own), and `nodes`: the number of nodes to wait for.

Prints what the log says, then one JSON object: the parts of each table, and its seconds; or `error`.
"""

import json
import logging
import resource
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import polars as pl
import ray

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.on_ray import WorkersLostError
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.forecasts import request_targets_shard
from tsfm_pipeline.steps.makers import MAKERS, Maker
from tsfm_pipeline.steps.making import make

SHARD_S = 3.0
"""Seconds that a shard of `slow_targets` takes; it sleeps, whatever else the machine does."""


def slow_targets(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Make a shard of `request_targets`, slowly."""
    time.sleep(SHARD_S)
    return request_targets_shard(fleet, shard)


def targets_without_room(fleet: Fleet, shard: Sequence[int]) -> pl.DataFrame:
    """Make a shard of `request_targets` in a process that may from now on write no file of more
    than a kilobyte: to it, the disk is full.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    return request_targets_shard(fleet, shard)


def said(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def connect(address: str, n_nodes: int) -> None:
    """Join the network when it has this many nodes; it stays joined for all tables."""
    for left in reversed(range(60)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            break
        except (ConnectionError, RuntimeError):
            if not left:
                raise
            time.sleep(2)
    while sum(node["Alive"] for node in ray.nodes()) < n_nodes:
        time.sleep(0.5)
    said("joined")


def main() -> None:
    """Make the tables that the command line names."""
    options = json.loads(sys.argv[1])
    settings = Settings.model_validate_json(options["settings"])
    connect(settings.execution.address, options.get("nodes", 1))
    parts: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    found: dict[str, Any] = {"parts": parts, "seconds": seconds}
    for table in options["tables"]:
        fleet = open_workspace_fleet(settings, options["fleet"])
        started = time.monotonic()
        try:
            summary = make(
                FLEETS,
                fleet,
                TABLES[table],
                Maker(options["make"]) if "make" in options else MAKERS[table],
                settings,
                force=options.get("force", False),
                log=said,
            )
        except (StorageError, WorkersLostError) as error:
            found["error"] = f"{type(error).__name__}: {error}"
            break
        seconds[table] = round(time.monotonic() - started, 1)
        parts[table] = [list(part) for part in fleet.tables.parts(table)]
        found["kept"] = summary.n_skipped
    said(json.dumps(found))


if __name__ == "__main__":
    main()
