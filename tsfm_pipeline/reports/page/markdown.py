"""Short markdown summaries of reports, for Dagster's metadata.

What belongs here: the choice of sentence and tables per report, and markdown's syntax. What does not: their contents
(`answers`, `tables`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tsfm_pipeline.reports.ablation import words as ablation
from tsfm_pipeline.reports.acceptance import words as acceptance_words
from tsfm_pipeline.reports.cold_start import words as cold_start_words
from tsfm_pipeline.reports.headline import words as headline_words
from tsfm_pipeline.reports.latency import words as latency_words
from tsfm_pipeline.reports.page import records
from tsfm_pipeline.reports.quality import words as quality
from tsfm_pipeline.reports.recommendations import words as recommendations
from tsfm_pipeline.reports.shared.answer import Answer
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.sla import words as sla_words

Report = Mapping[str, Any]

_CONTENTS: dict[str, tuple[Callable[[Report], Answer], Sequence[Callable[[Report], Table]]]] = {
    "headline_report": (headline_words.headline_answer, (headline_words.worth, headline_words.methods)),
    "latency_report": (latency_words.latency_answer, (latency_words.latency,)),
    "cold_start_report": (
        cold_start_words.cold_start_answer,
        (cold_start_words.cold_start, cold_start_words.gap, cold_start_words.retrieval),
    ),
    "sla_report": (sla_words.sla_answer, (sla_words.tiers, sla_words.steps, sla_words.cross)),
    "ablation_report": (ablation.ablation_answer, ablation.TABLES),
    "forecast_quality_report": (quality.quality_answer, (quality.methods,)),
    "acceptance_criteria": (acceptance_words.criteria_answer, (acceptance_words.criteria,)),
    "recommendation_report": (recommendations.recommendations_answer, recommendations.TABLES),
    "recommendation_review": (recommendations.review_answer, recommendations.REVIEW_TABLES),
    "experiment_ledger": (acceptance_words.ledger_answer, (records.ledger,)),
}


def summary(report_name: str, report: Report) -> str:
    """The answer of a report in a sentence, then its tables. Raises ValueError for a name that is not a report's."""
    if report_name not in _CONTENTS:
        raise ValueError(f"there is no report {report_name!r}; the reports are {', '.join(_CONTENTS)}")
    answer, contents = _CONTENTS[report_name]
    blocks = [escape(answer(report).sentence)]
    blocks += [table_markdown(table) for make in contents if (table := make(report)).rows]
    return "\n\n".join(blocks) + "\n"


def table_markdown(table: Table) -> str:
    """A table in GitHub's markdown, its caption above it, emphasised rows bold."""
    rule = [":---" if i in table.text_columns else "---:" for i in range(len(table.columns))]
    lines = [f"**{escape(table.caption)}**", "", _line([escape(column) for column in table.columns]), _line(rule)]
    for i, row in enumerate(table.rows):
        cells = [escape(cell) for cell in row]
        lines.append(_line([f"**{cell}**" if cell else "" for cell in cells] if i in table.emphasised else cells))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """Names are data: no markup and no line break of theirs may reach the page."""
    for character in "\\`*_|[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
