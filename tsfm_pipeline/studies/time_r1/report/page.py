"""The study's report on one recipe as files: its JSON, its figures, and one self-contained HTML
page.

What belongs here: rendering and writing. What does not: what a section shows (`sections`), the
figures behind it (`numbers`), the look (`reports.page`).
"""

from pathlib import Path

from tsfm_pipeline.reports.page.templating import template, write_page
from tsfm_pipeline.studies.time_r1.report import words
from tsfm_pipeline.studies.time_r1.report.figures import (
    across_figure,
    forest_figure,
    gate_figure,
    share_figure,
)
from tsfm_pipeline.studies.time_r1.report.model import SlowThinkingReport
from tsfm_pipeline.studies.time_r1.report.sections import sections
from tsfm_pipeline.studies.time_r1.report.training_figures import (
    base_figure,
    reward_figure,
    terms_figure,
    warm_up_figure,
)

NAME = "slow_thinking_report"
TITLE = "Does a language model improve a forecast by thinking about it?"
FIGURES = (
    forest_figure,
    across_figure,
    share_figure,
    gate_figure,
    reward_figure,
    terms_figure,
    warm_up_figure,
    base_figure,
)
"""Figures of the whole report; those of the gallery are drawn per window."""


def write_report(folder: Path, report: SlowThinkingReport) -> Path:
    """Write JSON, figures and page into a folder, each atomically, and return the page's path."""
    return write_page(folder, NAME, report, FIGURES, render(report))


def render(report: SlowThinkingReport) -> str:
    """Return the page. Equal reports give an identical page."""
    return template("study.html.j2").render(
        title=TITLE,
        kicker=f"Study: Time-R1 · recipe {report.recipe} · {report.title}",
        answer=words.verdict_answer(report),
        lines=words.first_lines(report),
        truth="",
        context=words.context(report),
        sections=sections(report),
    )
