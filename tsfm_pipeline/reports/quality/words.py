"""The forecast quality report in words and tables.

What belongs here: sentences and tables from the report's figures. What does not: the figures
themselves (`numbers`), drawings (`figures`).
"""

import math

from tsfm_pipeline.evaluation.methods import FIXED, SEARCH
from tsfm_pipeline.reports.quality.model import QualityReport
from tsfm_pipeline.reports.shared.answer import Answer, Effect
from tsfm_pipeline.reports.shared.table import Table, positions_of
from tsfm_pipeline.reports.shared.wording import (
    count,
    interval,
    method_label,
    percent,
    percent_interval,
    whole,
)


def quality_answer(report: QualityReport) -> Answer:
    """Say whether the search forecasts better than the fixed configuration, and how far both are
    from seasonal naive.
    """
    gained = report.search_wql_skill_over_fixed
    if math.isnan(gained.figure):
        return Answer(
            "unknown",
            f"On {report.fleet}, no forecast of the search and the fixed configuration was scored.",
        )
    effect: Effect = (
        "gain"
        if gained.low > 0
        else "loss"
        if gained.high < 0
        else "unknown"
        if math.isnan(gained.low)
        else "null"
    )
    words: dict[Effect, str] = {
        "gain": "are better than those of the fixed configuration",
        "loss": "are worse than those of the fixed configuration",
        "null": "are not shown to differ from those of the fixed configuration",
        "unknown": "are scored beside those of the fixed configuration, without an interval",
    }
    search, fixed = report.scores[SEARCH], report.scores[FIXED]
    return Answer(
        effect,
        f"On {report.fleet}, over {count(report.n_requests, 'request')}, the search's deciles "
        f"{words[effect]}: "
        f"reduction of WQL {percent_interval(*gained)}. The reduction of seasonal naive's WQL is "
        f"{percent_interval(*search.wql_skill)} (search) and "
        f"{percent_interval(*fixed.wql_skill)} (fixed configuration). "
        f"{percent(search.coverage_80.figure)} of what happened lay within the search's 80 % "
        "interval.",
    )


def methods(report: QualityReport) -> Table:
    """Return every method at the headline tier, lowest WQL first."""
    rows = report.headline_methods
    cells = tuple(
        (
            method_label(row.method),
            interval(*row.wql),
            interval(*row.mase),
            percent_interval(*row.wql_skill),
            percent_interval(*row.mase_skill),
            percent(row.coverage_80.figure),
            whole(row.n_failed),
        )
        for row in rows
    )
    columns = (
        "method",
        "WQL",
        "MASE",
        "WQL skill",
        "MASE skill",
        "coverage of the 80 % interval",
        "failed",
    )
    emphasised = positions_of([row.method for row in rows], SEARCH)
    return Table(
        f"Forecast quality, deciles of the {report.headline_tier} tier",
        columns,
        cells,
        emphasised=emphasised,
    )
