"""The page's section on tenants with little history.

What belongs here: the contents of the section. What does not: its sentences and tables (`words`),
its figures (`figures`).
"""

from tsfm_pipeline.reports.cold_start import words
from tsfm_pipeline.reports.cold_start.figures import cold_start_figure, retrieval_figure
from tsfm_pipeline.reports.cold_start.model import ColdStartReport
from tsfm_pipeline.reports.shared.layout import Section


def cold_start(section: Section, report: ColdStartReport) -> None:
    """Show what a tenant with little history may expect."""
    section.answer = words.cold_start_answer(report).sentence
    section.draw(
        cold_start_figure(report),
        "Cost with little history over cost with full history, with 95 % intervals.",
    )
    section.fold(words.cold_start(report))
    section.fold(words.gap(report))
    section.fold(
        words.retrieval(report),
        figure=retrieval_figure(report),
        caption="Held-out tenants whose archetype is found, 95 % intervals.",
    )
