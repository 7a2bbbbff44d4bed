import re
from html.parser import HTMLParser

import pytest

from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.page.html import render_fleet_report
from tsfm_pipeline_tests.reports import factory

pytestmark = pytest.mark.heavy
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Checker(HTMLParser):
    """Collects elements, addresses and visible text, and insists that every element is closed in
    turn.
    """

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name.endswith(("href", "src", "srcset"))
        ]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return render_fleet_report(**factory.page())


def test_equal_arguments_give_an_identical_page(page):
    assert render_fleet_report(**factory.page()) == page


def test_the_page_is_well_formed_and_needs_no_network(page):
    checked = Checker(page)
    assert checked.open == []
    assert len(checked.ids) == len(set(checked.ids))
    assert all(address.startswith("#") for address in checked.addresses)
    assert {address[1:] for address in checked.addresses} <= set(checked.ids)
    assert not {"script", "link", "img", "iframe"} & set(checked.seen)
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"@import|url\((?!#)", page)


def test_the_answer_stands_above_everything_else(page):
    text = Checker(page).text
    answer = text.index("cost 3.1 % less than the best fixed configuration at the standard tier")
    assert answer < text.index("What is it worth?")
    assert "Yes: it costs less" in text


@pytest.mark.parametrize(
    ("ratio", "low", "high", "words"),
    [
        (1.04, 1.01, 1.07, "No: it costs more"),
        (0.99, 0.96, 1.02, "Not demonstrated"),
        (0.99, None, None, "Not answered"),
    ],
)
def test_losses_and_nulls_are_not_dressed_up(ratio, low, high, words):
    headline = factory.changed(
        factory.headline(ratio, 0.9, 0.95), standard_ratio_low=low, standard_ratio_high=high
    )
    text = Checker(
        render_fleet_report(**factory.page(reports={"headline_report": headline}, gallery=[]))
    ).text
    assert words in text
    assert "Yes: it costs less" not in text


def test_every_section_holds_its_figures_and_tables(page):
    checked = Checker(page)
    assert checked.seen.count("svg") == 7 + 6 + 3 + 2 + 1
    assert len(page) < 3_000_000
    for words in (
        "b2b-saas 0.880 (0.840 to 0.920), low-traffic-blog",
        "costs more (above 1) for 1 (cache-driven)",
        "Mean slack 2.31 scale units",
        "tenant-0031",
        "1.190 (1.140 to 1.250)",
        "static ensemble",
        "It loses to one configuration per tenant",
        "always ctx512",
        "168 (161 to 177)",
        "1.055 (1.005 to 1.115)",
        "worst miss",
        "gap of N steps in the history",
        "30,240, 2024-01-01 00:00 to 2024-01-21 23:59",
        "9,870 (0.2 %)",
        "too new: 300 steps of history",
        "tested on 2024-01-15 to 2024-01-21 · measured 2026-01-02 02:00 UTC",
        "git checkout 0123abc\ndagster asset materialize",
        "9f" * 32,
        "dagster asset materialize -m tsfm_pipeline.definitions --select '*' --partition demo",
        "20250101",
        "search.temperatures",
        "0, 0.02, 0.05, 0.1",
    ):
        assert words in checked.text


def test_sections_are_in_the_order_of_a_readers_questions_and_all_can_be_reached(page):
    anchors = re.findall(r'<section id="([^"]+)"', page)
    order = [
        "worth",
        "for-whom",
        "rivals",
        "latency",
        "cold-start",
        "tiers",
        "gallery",
        "criteria",
        "data",
        "provenance",
    ]
    assert [anchor for anchor in anchors if anchor in order] == order
    for anchor in anchors:
        assert f'<a href="#{anchor}">' in page[: page.index("<main>")]


def test_details_are_closed_and_every_figure_says_what_it_shows(page):
    assert page.count("<details>") > 10
    assert "<details open" not in page
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', page)
    assert len(labels) == page.count("<svg")
    assert len(set(labels)) == len(labels)


def test_a_cheap_run_is_not_shown_as_an_answer(page):
    assert 'class="warning"' not in page
    cheap = factory.provenance() | {"profile": "cheap"}
    shown = render_fleet_report(**factory.page(reports={}, gallery=[], provenance=cheap))
    assert "A cheap run: a first look, not an answer." in Checker(shown).text


def test_verdicts_are_badges_that_read_without_colour(page):
    for verdict, symbol in (
        ("pass", "✓&nbsp;PASS"),
        ("fail", "✗&nbsp;FAIL"),
        ("null", "○&nbsp;NULL"),
        ("na", "–&nbsp;N/A"),
    ):
        assert f'<span class="badge badge-{verdict}">{symbol}</span>' in page


def test_missing_reports_are_named_and_the_rest_is_rendered():
    text = Checker(render_fleet_report(reports={}, gallery=[], provenance={}, data_quality={})).text
    for name in (
        "headline_report",
        "latency_report",
        "cold_start_report",
        "sla_report",
        "acceptance_criteria",
    ):
        assert f"Not materialised: {name}" in text
    only_sla = render_fleet_report(**factory.page(reports={"sla_report": factory.sla()}))
    assert "premium &gt; standard &gt; basic" in only_sla


def test_names_from_the_data_are_text_and_never_markup():
    evil = '<img src=x onerror="alert(1)">'
    headline = factory.headline(archetypes=(evil, "b2b-saas"))
    headline = factory.changed(
        headline,
        table_tenants=[row.flat() | {"tenant_id": evil} for row in headline.table_tenants[:1]],
    )
    criteria = factory.criteria()
    criteria = factory.changed(
        criteria,
        table_criteria=[row.flat() | {"note": evil} for row in criteria.table_criteria[:1]],
    )
    gallery = [factory.gallery_record(tenant_id=evil, title="<b>worst</b>")]
    provenance = factory.provenance() | {
        "fleet": evil,
        "title": evil,
        "description": evil,
        "settings": {evil: evil},
        "reproduce": [evil],
    }
    quality = factory.data_quality()
    quality |= {"invalid_reasons": {evil: 3}, "left_out": {evil: evil}}
    quality["table_incomplete"][0]["tenant_id"] = evil
    page = render_fleet_report(
        reports=factory.reports(headline_report=headline, acceptance_criteria=criteria),
        gallery=gallery,
        provenance=provenance,
        data_quality=quality,
    )
    checked = Checker(page)
    assert checked.open == []
    assert "img" not in checked.seen
    assert "b" not in checked.seen
    assert checked.text.count(evil) >= 15


def test_a_fleet_of_one_tenant_and_one_metric_without_archetypes():
    content = factory.headline(archetypes=()).flat()
    content |= {key: None for key in content if key.endswith(("_low", "_high"))}
    content["table_metrics"] = [
        row
        | {
            "ratio_low": None,
            "ratio_high": None,
            "win_rate_low": None,
            "win_rate_high": None,
            "n_tenants": 1,
        }
        for row in content["table_metrics"]
        if row["scope_value"] == "cpu_util"
    ]
    headline = HeadlineReport.from_flat(content)
    cold_start = factory.changed(factory.cold_start(), table_retrieval=[], table_gap=[])
    reports = factory.reports(headline_report=headline, cold_start_report=cold_start)
    text = Checker(
        render_fleet_report(**factory.page(reports=reports, gallery=[factory.gallery_record()]))
    ).text
    assert "This fleet has no archetypes" in text
    assert "No intervalcpu_util" in text
    assert "nan" not in re.findall(r"[A-Za-z]+", text)
    assert "None" not in text


def test_a_fleet_may_have_one_tier_of_its_own():
    alphas = {"gold": 0.95}
    reports = {
        "headline_report": factory.headline(alphas=alphas),
        "ablation_report": factory.ablation(alphas=alphas),
    }
    page = factory.page(reports=reports, gallery=[])
    text = Checker(render_fleet_report(**page)).text.split("Not materialised: sla_report")[0]
    assert "the best fixed configuration at the gold tier" in text
    assert "gold (19 : 1)" in text
    assert "premium" not in text
