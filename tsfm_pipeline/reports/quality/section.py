"""The page's section on whole forecasts.

What belongs here: the contents of the section. What does not: its sentences and tables (`words`),
its figures (`figures`).
"""

from tsfm_pipeline.reports.quality import words
from tsfm_pipeline.reports.quality.figures import quality_figure
from tsfm_pipeline.reports.quality.model import QualityReport
from tsfm_pipeline.reports.shared.layout import Section


def quality(section: Section, report: QualityReport) -> None:
    """Show scores of whole forecasts, apart from what a decision costs."""
    section.answer = words.quality_answer(report).sentence
    section.fold(
        words.methods(report),
        figure=quality_figure(report),
        caption="WQL and MASE over those of seasonal naive, with 95 % intervals; left of the line "
        "is better.",
    )
