"""Sections that other packages add to the fleet's page.

What belongs here: the type of such a section, reading the reports that they show, and filling them.
What does not: finding them (`plugins`), and their place on the page (`html`).
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tsfm_pipeline import plugins
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.reports.shared.files import read_report, write_report
from tsfm_pipeline.reports.shared.layout import Section

say = logging.getLogger(__name__).warning


@dataclass(frozen=True)
class ReportSection:
    """A section of the page on one JSON report; its anchor is the name of its entry point.

    label: in the table of contents. title: its heading, a question. report: the name of the JSON
    report, as `shared.files.write_report` wrote it. fill: fills the section from that report. make:
    returns the content of that report from the fleet's tables, whenever the page is written; None
    where something else writes the report.
    """

    label: str
    title: str
    report: str
    fill: Callable[[Section, Mapping[str, Any]], None]
    make: Callable[[Fleet], dict[str, Any]] | None = None


def plugin_reports(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Return the reports that sections of other packages show, by name. Those that a section makes
    itself are made and written first.

    A report that is missing or outdated, or whose tables are, is left out and logged: the fleet's
    own run does not make it, so it must not block the page.
    """
    reports = {}
    for section in _found().values():
        try:
            if section.make is not None:
                write_report(fleet, section.report, section.make(fleet))
            reports[section.report] = read_report(fleet, section.report)
        except (FileNotFoundError, LakeError) as error:
            say(str(error))
    return reports


def plugin_sections(records: Mapping[str, Any], anchors: Collection[str]) -> list[Section]:
    """Return the sections of other packages, filled from the records that they name.

    anchors: the anchors that the page already has. Raises `plugins.PluginError` if a section
    repeats one of them.
    """
    sections = []
    for anchor, added in _found(anchors).items():
        section = Section(anchor, added.label, added.title)
        if records.get(added.report):
            added.fill(section, records[added.report])
        else:
            section.missing = (
                f"Not materialised: there is no {added.report} of this fleet "
                "for its current scores. Materialise it, then this report again."
            )
        sections.append(section)
    return sections


def _found(anchors: Collection[str] = ()) -> dict[str, ReportSection]:
    return plugins.found(plugins.REPORT_SECTIONS, anchors, ReportSection)
