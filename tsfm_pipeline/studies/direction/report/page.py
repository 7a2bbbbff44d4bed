"""The study's report on one market as files: its JSON, its figures, and one self-contained HTML
page.

What belongs here: rendering and writing. What does not: what a section shows (`sections`), the
figures behind it (`numbers`), the look (`reports.page`).
"""

from pathlib import Path

from tsfm_pipeline.reports.page.templating import template, write_page
from tsfm_pipeline.studies.direction.report import words
from tsfm_pipeline.studies.direction.report.figures import FIGURES
from tsfm_pipeline.studies.direction.report.model import DirectionReport
from tsfm_pipeline.studies.direction.report.sections import sections

NAME = "direction_report"
TITLE = "Does a frozen model know where the market goes, or only how much it moves?"


def write_report(folder: Path, report: DirectionReport) -> Path:
    """Write JSON, figures and page into a folder, each atomically, and return the page's path."""
    return write_page(folder, NAME, report, FIGURES, render(report))


def render(report: DirectionReport) -> str:
    """Return the page. Equal reports give an identical page."""
    return template("study.html.j2").render(
        title=TITLE,
        kicker=_kicker(report),
        answer=words.verdict_answer(report),
        lines=words.first_lines(report),
        truth=words.truth_sentence(report),
        context=words.context(report),
        sections=sections(report),
    )


def _kicker(report: DirectionReport) -> str:
    parts = [
        "Study: direction",
        f"market {report.market}",
        f"{report.first_day} to {report.last_day}",
        f"model {report.checkpoint}" if report.checkpoint else "",
    ]
    return " · ".join(part for part in parts if part)
