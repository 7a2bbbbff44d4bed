"""What the command line and Dagster both do with a market: make its tables and its report.

What belongs here: putting the study's parts together. What does not: arguments and output
(`commands`), assets (`definitions`), the parts themselves.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.making import make
from tsfm_pipeline.studies.direction.checks import Check
from tsfm_pipeline.studies.direction.scope import SCOPE, Market
from tsfm_pipeline.studies.direction.tables import CHECKED, EVALUATED, MAKERS, RUNS, TABLES
from tsfm_pipeline.studies.direction.verdict import verdict

if TYPE_CHECKING:
    from tsfm_pipeline.studies.direction.report.model import DirectionReport

Log = Callable[[str], Any]
OF_THE_MODEL = ("zero_shot", "covariates", "probes", "fine_tuned")
"""Groups of scorers that use the foundation model."""


def run_market(settings: Settings, name: str, log: Log = lambda _: None) -> Path:
    """Make the tables of a market that are missing or stale, and its report; return the report's
    page.

    Raises ValueError if there is no such market or its prices cannot be used, and
    `FleetLockedError` if another process holds it.
    """
    market = SCOPE.open(settings, name)
    with market.tables.lock(market.run_id):
        for table in TABLES.values():
            make(SCOPE, market, table, MAKERS[table.name], settings, log=log)
        return report_of(market)[1]


def report_of(market: Market) -> "tuple[DirectionReport, Path]":
    """Compute and write the report of a market whose tables are made; return it and the page."""
    from tsfm_pipeline.studies.direction.report.numbers import Evidence, direction_report_of
    from tsfm_pipeline.studies.direction.report.page import write_report

    evaluated, spec = market.tables.read(EVALUATED), market.spec
    takes_part = set(OF_THE_MODEL) & set(spec.study.scorers)
    evidence = Evidence(
        market=market.name,
        title=spec.title,
        simulated_truth=spec.truth,
        problem=market.problem,
        evaluated=evaluated,
        scores=market.scores(),
        verdict=verdict(evaluated, _of_second(market)),
        checks=[_check(row) for row in market.tables.read(CHECKED).iter_rows(named=True)],
        sweep=market.tables.read(RUNS).drop("scores"),
        checkpoint=market.settings.checkpoint if takes_part else "",
        second_market=spec.second or "",
    )
    report = direction_report_of(evidence)
    return report, write_report(market.reports_dir, report)


def _of_second(market: Market) -> pl.DataFrame | None:
    """Return how good every scorer is on the market that must confirm what is found on this one;
    None if the file names none, or it has no current scores yet.
    """
    if market.spec.second is None:
        return None
    second = SCOPE.open(market.settings, market.spec.second)
    return second.tables.read(EVALUATED) if second.tables.state(EVALUATED) == "current" else None


def _check(row: dict[str, Any]) -> Check:
    return Check(**{**row, "figures": json.loads(row["figures"])})
