"""The page's section on the online service.

What belongs here: the contents of the section. What does not: its sentences and tables (`words`),
its figure (`figures`).
"""

from tsfm_pipeline.reports.served import words
from tsfm_pipeline.reports.served.figures import intervals_figure
from tsfm_pipeline.reports.served.model import ServedReport
from tsfm_pipeline.reports.shared.layout import Section


def served(section: Section, report: ServedReport) -> None:
    """Show what the service answered, and whether its intervals hold what they promise."""
    section.answer = words.served_answer(report).sentence
    section.notes.append(words.calibration_sentence(report))
    section.show(words.service(report))
    if report.table_bands:
        section.draw(
            intervals_figure(report),
            "95 % intervals. The broken line is what the interval promises. Baseline: last value + "
            "quantiles of changes; raw: the model's own quantiles. The calibration was fitted on "
            "other days, or on other tenants.",
        )
    section.show(words.bands(report))
    section.fold(words.segments(report), words.widths(report))
