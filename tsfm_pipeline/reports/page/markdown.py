"""Short markdown summaries of reports, for Dagster's metadata.

What belongs here: which sentence and tables each summary shows. What does not: their contents (each
report's `words` and `tables`), markdown syntax (`reports.shared.markdown`).
"""

from collections.abc import Callable, Sequence
from typing import Any

from tsfm_pipeline.reports.ablation import tables as ablation_tables
from tsfm_pipeline.reports.ablation import words as ablation
from tsfm_pipeline.reports.acceptance import words as acceptance_words
from tsfm_pipeline.reports.cold_start import words as cold_start_words
from tsfm_pipeline.reports.headline import tables as headline_tables
from tsfm_pipeline.reports.headline import words as headline_words
from tsfm_pipeline.reports.latency import words as latency_words
from tsfm_pipeline.reports.quality import words as quality
from tsfm_pipeline.reports.recommendations import words as recommendations
from tsfm_pipeline.reports.served import words as served
from tsfm_pipeline.reports.shared.answer import Answer
from tsfm_pipeline.reports.shared.markdown import escape, table_markdown
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import cohort_note
from tsfm_pipeline.reports.sla import words as sla_words

_CONTENTS: dict[str, tuple[Callable[[Any], Answer], Sequence[Callable[[Any], Table]]]] = {
    "headline_report": (
        headline_words.headline_answer,
        (headline_tables.worth, headline_tables.methods),
    ),
    "latency_report": (latency_words.latency_answer, (latency_words.latency,)),
    "cold_start_report": (
        cold_start_words.cold_start_answer,
        (cold_start_words.cold_start, cold_start_words.gap, cold_start_words.retrieval),
    ),
    "sla_report": (sla_words.sla_answer, (sla_words.tiers, sla_words.steps, sla_words.cross)),
    "ablation_report": (ablation.ablation_answer, ablation_tables.TABLES),
    "forecast_quality_report": (quality.quality_answer, (quality.methods,)),
    "acceptance_criteria": (acceptance_words.criteria_answer, (acceptance_words.criteria,)),
    "recommendation_report": (recommendations.recommendations_answer, recommendations.TABLES),
    "recommendation_review": (recommendations.review_answer, recommendations.REVIEW_TABLES),
    "interval_evaluation": (
        served.served_answer,
        (served.service, served.bands, served.widths, served.segments),
    ),
    "experiment_ledger": (acceptance_words.ledger_answer, (acceptance_words.ledger,)),
}


def answer(report_name: str, report: Any) -> str:
    """Return the answer of a report, as plain text. Raises as `summary` does."""
    return _contents(report_name)[0](report).sentence


def summary(report_name: str, report: Any) -> str:
    """Return the answer of a report in a sentence, the size of the cohort where it does not rest on
    all tenants, then its tables.

    report: its model. Raises ValueError for an unknown report name.
    """
    _, tables = _contents(report_name)
    blocks = [escape(answer(report_name, report))]
    blocks += filter(None, [cohort_note(report.cohort_tenants, report.fleet_tenants)])
    blocks += [table_markdown(table) for make in tables if (table := make(report)).rows]
    return "\n\n".join(blocks) + "\n"


def _contents(
    report_name: str,
) -> tuple[Callable[[Any], Answer], Sequence[Callable[[Any], Table]]]:
    if report_name not in _CONTENTS:
        raise ValueError(
            f"there is no report {report_name!r}; the reports are {', '.join(_CONTENTS)}"
        )
    return _CONTENTS[report_name]
