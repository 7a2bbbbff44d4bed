"""The page's section on the tiers.

What belongs here: the contents of the section. What does not: its sentences and tables (`words`),
its figures (`figures`).
"""

from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.sla import words
from tsfm_pipeline.reports.sla.figures import sla_figure
from tsfm_pipeline.reports.sla.model import SlaReport


def tiers(section: Section, report: SlaReport) -> None:
    """Show what each tier reserves and how often demand exceeds it."""
    section.answer = words.sla_answer(report).sentence
    section.draw(
        sla_figure(report),
        "95 % intervals. The middle ones overlap because tenants differ; on the right each tenant "
        "is compared with itself.",
    )
    section.show(words.tiers(report), words.cross(report))
    section.fold(words.steps(report))
