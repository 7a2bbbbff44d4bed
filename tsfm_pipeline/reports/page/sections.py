"""The sections of the page that show two reports together.

What belongs here: which part of which report they show. What does not: sections of one report (each
report's `section`), sections about the page itself (`background`), their order (`html`).
"""

from tsfm_pipeline.reports.ablation import section as ablation
from tsfm_pipeline.reports.ablation.model import AblationReport
from tsfm_pipeline.reports.headline import section as headline
from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.shared.layout import Section


def worth(section: Section, report: HeadlineReport, parts: AblationReport | None) -> None:
    """Show the headline, with the intervals of violation rates from the ablation report."""
    headline.worth(section, report, parts.violation_rates if parts else {})


def rivals(section: Section, report: HeadlineReport, parts: AblationReport | None) -> None:
    """Show every other method, and the search's ratio to each from the ablation report."""
    headline.rivals(section, report)
    if parts:
        ablation.paired_rivals(section, parts)
    headline.every_method(section, report)
