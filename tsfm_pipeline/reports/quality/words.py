"""The forecast quality report in words, tables and a figure: how good are whole forecasts, apart from what a decision costs?

What belongs here: sentence, tables and figure of `forecast_quality_report`. What does not: computing it (`reports.quality.numbers`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.shared.answer import Answer, Effect
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import CONFIG_PREFIX, count, figure_of, interval, method_label, percent, percent_interval, whole

if TYPE_CHECKING:
    pass

Report = Mapping[str, Any]
Row = Mapping[str, Any]

SKILL_LABELS = {"wql": "WQL, relative to seasonal naive", "mase": "MASE, relative to seasonal naive"}


def quality_answer(report: Report) -> Answer:
    """Does the search forecast better than the fixed configuration, and how far are both from seasonal naive?"""
    gained = [figure_of(report, f"search_wql_skill_over_fixed{limit}") for limit in ("", "_low", "_high")]
    if gained[0] != gained[0]:
        return Answer(
            "unknown", f"On {report.get('fleet', 'this fleet')}, no forecast of the search and the fixed configuration was scored."
        )
    effect: Effect = "gain" if gained[1] > 0 else "loss" if gained[2] < 0 else "null" if gained[1] == gained[1] else "unknown"
    words = {
        "gain": "are better than those of the fixed configuration",
        "loss": "are worse than those of the fixed configuration",
        "null": "are not shown to differ from those of the fixed configuration",
        "unknown": "are scored beside those of the fixed configuration, without an interval",
    }
    skill, fixed = (
        percent_interval(*(figure_of(report, f"{method}_wql_skill{limit}") for limit in ("", "_low", "_high")))
        for method in ("search", "fixed_quantile")
    )
    return Answer(
        effect,
        f"On {report.get('fleet')}, over {count(figure_of(report, 'n_requests'), 'request')}, the search's deciles {words[effect]}: "
        f"cut of WQL {percent_interval(*gained)}. Seasonal naive's is cut by {skill} (search) and {fixed} (fixed configuration). "
        f"{percent(figure_of(report, 'search_coverage_80'))} of what happened lay within the search's 80 % interval.",
    )


def methods(report: Report) -> Table:
    """Every method at the headline tier, lowest WQL first."""
    rows = method_rows(report)
    cells = tuple(
        (
            method_label(str(row.get("method"))),
            *(interval(*(figure_of(row, f"{score}{limit}") for limit in ("", "_low", "_high"))) for score in ("wql", "mase")),
            *(percent_interval(*(figure_of(row, f"{s}_skill{limit}") for limit in ("", "_low", "_high"))) for s in ("wql", "mase")),
            percent(figure_of(row, "coverage_80")),
            whole(row.get("n_failed")),
        )
        for row in rows
    )
    columns = ("method", "WQL", "MASE", "WQL skill", "MASE skill", "coverage of the 80 % interval", "failed")
    emphasised = frozenset(i for i, row in enumerate(rows) if row.get("method") == "search")
    return Table(f"Forecast quality, deciles of the {HEADLINE_TIER} tier", columns, cells, emphasised=emphasised)


def method_rows(report: Report) -> list[Row]:
    """The headline tier's methods; single configurations stay in the JSON."""
    rows = [row for row in report.get("table_methods") or [] if row.get("tier") in (HEADLINE_TIER, "all")]
    return [row for row in rows if not str(row.get("method")).startswith(CONFIG_PREFIX)]


def ratio_of(row: Row, score: str) -> dict[str, float]:
    """A skill as the ratio that it came from."""
    ends = {"ratio": "", "ratio_low": "_high", "ratio_high": "_low"}
    return {name: 1.0 - figure_of(row, f"{score}_skill{end}") for name, end in ends.items()}
