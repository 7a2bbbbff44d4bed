"""The page's section on the acceptance criteria.

What belongs here: the contents of the section. What does not: its sentences and tables (`words`).
"""

from tsfm_pipeline.reports.acceptance import words
from tsfm_pipeline.reports.acceptance.model import CriteriaReport
from tsfm_pipeline.reports.shared.layout import Section


def criteria(section: Section, report: CriteriaReport) -> None:
    """Show the acceptance criteria."""
    section.answer = words.criteria_answer(report).sentence
    section.badges = True
    section.show(words.criteria(report))
