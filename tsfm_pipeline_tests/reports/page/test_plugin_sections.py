"""Test a section of another package on the fleet's page."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.plugins import REPORT_SECTIONS, PluginError
from tsfm_pipeline.reports.page.html import render_fleet_report
from tsfm_pipeline.reports.page.plugin_sections import plugin_reports
from tsfm_pipeline.reports.shared.files import write_report
from tsfm_pipeline_tests.packages import Site
from tsfm_pipeline_tests.reports import factory

SOURCE = """
from tsfm_pipeline.reports.page.plugin_sections import ReportSection


def fill(section, report):
    section.answer = f"It rained on {report['n_days']} days."


section = ReportSection(label="Rain", title="Did it rain?", report="weather_report", fill=fill)
"""
MADE = """
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.reports.page.plugin_sections import ReportSection

days = iter((1, 2))


def make(fleet):
    for day in days:
        return {"n_days": day}
    raise LakeError("there were only two days")


section = ReportSection(
    label="Rain", title="Did it rain?", report="weather_report", fill=None, make=make
)
"""


def rendered(reports: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The page without the built-in reports, whose figures take seconds: every section is there,
    and says what is missing.
    """
    return render_fleet_report(**factory.page(reports=reports, gallery=[]))


@pytest.mark.heavy
def test_it_stands_before_the_provenance_and_shows_its_report(site: Site) -> None:
    site.install("weather", SOURCE, {REPORT_SECTIONS: {"rain": "section"}})
    page = rendered({"weather_report": {"n_days": 3}})
    anchors = [page.index(f'<section id="{anchor}">') for anchor in ("parts", "rain", "provenance")]
    assert anchors == sorted(anchors)
    assert '<a href="#rain">Rain</a>' in page
    assert "Did it rain?" in page
    assert "It rained on 3 days." in page


@pytest.mark.heavy
def test_without_its_report_it_says_what_to_materialise(site: Site) -> None:
    site.install("weather", SOURCE, {REPORT_SECTIONS: {"rain": "section"}})
    page = rendered()
    assert "Not materialised: there is no weather_report of this fleet" in page


@pytest.mark.heavy
@pytest.mark.parametrize("anchor", ["worth", "provenance", "glossary"])
def test_an_anchor_of_the_page_is_refused(site: Site, anchor: str) -> None:
    site.install("weather", SOURCE, {REPORT_SECTIONS: {anchor: "section"}})
    with pytest.raises(
        PluginError, match=rf"{anchor} of weather 1\.0 has the name of something built in"
    ):
        rendered()


@pytest.mark.heavy
def test_what_is_no_section_is_refused(site: Site) -> None:
    site.install("weather", SOURCE, {REPORT_SECTIONS: {"rain": "fill"}})
    with pytest.raises(
        PluginError, match=r"rain of weather 1\.0 is of type function; it must be a ReportSection"
    ):
        rendered()


def test_reports_that_are_not_current_are_left_out_and_named(
    mini_fleet: Fleet, tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(mini_fleet.settings.model_copy(update={"data_dir": tmp_path}), mini_fleet.spec)
    assert plugin_reports(fleet) == {}
    site.install("weather", SOURCE, {REPORT_SECTIONS: {"rain": "section"}})
    assert plugin_reports(fleet) == {}
    assert "materialise the asset 'weather_report'" in caplog.text
    path = write_report(fleet, "weather_report", {"n_days": 3})
    assert plugin_reports(fleet)["weather_report"]["n_days"] == 3
    path.write_text('{"n_days": 3, "scores_fingerprint": "of other scores"}')
    assert plugin_reports(fleet) == {}


def test_a_report_that_a_section_makes_is_made_whenever_the_page_is_written(
    mini_fleet: Fleet, tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(mini_fleet.settings.model_copy(update={"data_dir": tmp_path}), mini_fleet.spec)
    site.install("weather", MADE, {REPORT_SECTIONS: {"rain": "section"}})
    assert plugin_reports(fleet)["weather_report"]["n_days"] == 1
    assert plugin_reports(fleet)["weather_report"]["n_days"] == 2
    assert plugin_reports(fleet) == {}
    assert "there were only two days" in caplog.text
