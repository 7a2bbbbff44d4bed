"""Preparing a fleet for experiments: all of the study's tables, in one process.

What belongs here: making every table that is missing or stale. What does not: how one is made
(`making`), and sealing what was made (`yardstick`).
"""

from collections.abc import Callable
from typing import Any

from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.lake import TableSummary
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.making import make
from tsfm_pipeline.studies.policy_search.scope import SCOPE, StudyFleet
from tsfm_pipeline.studies.policy_search.tables import MAKERS, TABLES


def prepare(
    settings: Settings, fleet: str, log: Callable[[str], Any] = lambda _: None
) -> list[TableSummary]:
    """Make the study's tables of a fleet, and the fleet's own tables that come before; return a
    summary of each of the study's.

    Finished tables and finished shards are kept, so an interrupted preparation goes on where it
    was. Raises ValueError if there is no such fleet or its telemetry cannot be used, and
    `FleetLockedError` if another process holds the fleet or its study.
    """
    study = SCOPE.open(settings, fleet)
    study.prepare(log)
    with study.tables.lock(study.run_id):
        return [_make(study, table, log) for table in TABLES.values()]


def _make(study: StudyFleet, table: Table, log: Callable[[str], Any]) -> TableSummary:
    """Make what is missing of one table, and say what it holds."""
    summary = make(SCOPE, study, table, MAKERS[table.name], study.settings, log=log)
    log(
        f"{study.name}: {table.name} holds {summary.n_rows:,} rows in {summary.n_parts} parts, "
        f"{summary.n_bytes / 2**20:.0f} MiB"
    )
    return summary
