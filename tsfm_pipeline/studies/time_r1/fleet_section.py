"""The plugin of the section about slow thinking on the page of a fleet that asked for it.

What belongs here: what the pipeline loads through its entry point. What does not: the section's
figures (`fleet_thinking`) and its contents (`report.fleet`).
"""

from typing import Any

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.reports.page.plugin_sections import ReportSection
from tsfm_pipeline.studies.time_r1.report.fleet import fill


def report_of(fleet: Fleet) -> dict[str, Any]:
    """Return the content of the section's report: scores from the fleet's tables, and a few
    requests that the policy is asked about again.

    Raises LakeError where the fleet's tables are outdated or were made without slow thinking, and
    CheckpointError where there is no policy.
    """
    from tsfm_pipeline.reports.quality.numbers import request_quality
    from tsfm_pipeline.studies.time_r1.fleet_thinking import fleet_thinking
    from tsfm_pipeline.studies.time_r1.forecaster_plugin import make

    return fleet_thinking(fleet, request_quality(fleet), make(0)).flat()


SECTION = ReportSection(
    label="Slow thinking",
    title="Does thinking improve the forecast?",
    report="fleet_thinking",
    fill=fill,
    make=report_of,
)
