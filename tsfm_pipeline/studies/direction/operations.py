"""What the command line and Dagster both do with a market: make its tables and its report.

What belongs here: putting the study's parts together. What does not: arguments and output
(`commands`), assets (`definitions`), the parts themselves.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.making import make
from tsfm_pipeline.studies.direction.scope import SCOPE, Market
from tsfm_pipeline.studies.direction.tables import EVALUATED, MAKERS, TABLES

if TYPE_CHECKING:
    from tsfm_pipeline.studies.direction.report.model import DirectionReport

Log = Callable[[str], Any]


def run_market(settings: Settings, name: str, log: Log = lambda _: None) -> Path:
    """Make the tables of a market that are missing or stale, and its report; return the report's
    page.

    Raises ValueError if there is no such market or its prices cannot be used, and
    `FleetLockedError` if another process holds it.
    """
    market = SCOPE.open(settings, name)
    with market.tables.lock(market.run_id):
        for table in TABLES.values():
            log(f"{name}: {table.name}")
            make(SCOPE, market, table, MAKERS[table.name], settings, log=log)
        return report_of(market)[1]


def report_of(market: Market) -> "tuple[DirectionReport, Path]":
    """Compute and write the report of a market whose tables are made; return it and the page."""
    from tsfm_pipeline.studies.direction.report.page import write_report

    return write_report(market, second_of(market))


def second_of(market: Market) -> Market | None:
    """Return the market that must confirm what is found on this one; None if the file names none,
    or it has no current scores yet.
    """
    name = market.spec.second
    if name is None:
        return None
    second = SCOPE.open(market.settings, name)
    return second if second.tables.state(EVALUATED) == "current" else None
