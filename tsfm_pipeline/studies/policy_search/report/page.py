"""The study's report as files: its JSON, its figures, and one self-contained HTML page.

What belongs here: rendering and writing. What does not: what a section shows (`sections`), the
figures behind it (`numbers`), the look (`reports.page`).
"""

from pathlib import Path

from tsfm_pipeline.reports.page.templating import template, write_page
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.report import words
from tsfm_pipeline.studies.policy_search.report.figures import FIGURES
from tsfm_pipeline.studies.policy_search.report.model import PolicySearchReport
from tsfm_pipeline.studies.policy_search.report.sections import sections

NAME = "policy_search_report"
EFFECTS = {
    "gain": "A better policy was promoted",
    "loss": "The promoted policy costs more at test requests",
    "null": "No better policy is demonstrated",
    "unknown": "Not answered",
}


def report_folder(settings: Settings) -> Path:
    """Return the folder of the study's report."""
    return settings.reports_dir / "policy_search"


def make_report(settings: Settings) -> tuple[PolicySearchReport, Path]:
    """Compute and write the report on the sealed yardstick; return it and the page's path.

    Raises `YardstickError` if there is no yardstick, and `StorageError` if a record cannot be read.
    """
    from tsfm_pipeline.studies.policy_search.report.numbers import policy_search_report
    from tsfm_pipeline.studies.policy_search.yardstick import read_yardstick

    report = policy_search_report(settings, read_yardstick(settings))
    return report, write_report(settings, report)


def write_report(settings: Settings, report: PolicySearchReport) -> Path:
    """Write JSON, figures and page, each atomically, and return the page's path."""
    return write_page(report_folder(settings), NAME, report, FIGURES, render(report))


def render(report: PolicySearchReport) -> str:
    """Return the page. Equal reports give an identical page."""
    answer = words.search_answer(report)
    return template("policy_search.html.j2", __package__).render(
        title="Does an outer loop find a better policy for the search?",
        kicker=_kicker(report),
        answer=answer,
        effect=EFFECTS[answer.effect],
        context=words.CONTEXT,
        sections=sections(report),
    )


def _kicker(report: PolicySearchReport) -> str:
    parts = [
        "Study: policy_search",
        f"fleets {', '.join(report.fleets)}" if report.fleets else "",
        f"until {report.last_time:%Y-%m-%d %H:%M} UTC" if report.last_time else "",
        f"test requests {words.looked(report.n_final_looks)}",
    ]
    return " · ".join(part for part in parts if part)
