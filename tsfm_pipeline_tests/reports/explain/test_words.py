"""Test the sentences and tables that explain a tenant, and the pages that show them."""

import math
import re

import pytest

from tsfm_pipeline.reports.explain import words
from tsfm_pipeline.reports.explain.model import TenantExplanation
from tsfm_pipeline.reports.explain.section import explanations_answer, tenant_section
from tsfm_pipeline.reports.page.html import render_fleet_report, render_tenant
from tsfm_pipeline_tests.reports import factory as reports
from tsfm_pipeline_tests.reports.explain import factory


def points(explanation: TenantExplanation) -> dict[str, str]:
    return dict(words.points(explanation))


def test_the_answer_says_what_to_reserve_when_and_on_what_basis() -> None:
    assert words.answer(factory.explanation()) == (
        "web-1, standard (3 : 1): reserve cpu_util 0.420 for every step of 2024-01-15 00:00 to "
        "2024-01-15 00:59 UTC (60 minutes). Basis: full; the configurations were validated on its "
        "own past."
    )


@pytest.mark.parametrize("basis", ["shortened", "cold"])
def test_a_weaker_basis_is_stated_with_what_it_means(basis: str) -> None:
    answer = words.answer(factory.explanation(basis=basis))
    assert f"Basis: {basis}; {words.BASES[basis]}." in answer


def test_a_tenant_without_a_recommendation_is_told_so_and_why() -> None:
    none = factory.reservation(
        reservation=math.nan, config=None, config_weight=math.nan, note="no value in 90 steps"
    )
    explanation = factory.explanation(table_reservations=(none,))
    assert words.answer(explanation) == (
        "web-1, standard (3 : 1): there is no recommendation for 2024-01-15 00:00 to 2024-01-15 "
        "00:59 UTC (60 minutes)."
    )
    assert words.reservations(explanation).rows[0][-1] == "–", "what is not made has no basis"
    assert points(explanation)["Note"] == "no value in 90 steps."
    assert points(explanation)["Weights"] == "None. Rule: average by learned weights."


def test_the_reasons_name_weights_look_alikes_level_and_backtest() -> None:
    assert points(factory.explanation()) == {
        "Weights": "cpu_util mostly ctx512 (70.0 %, loss 0.950 of the fixed configuration's, 7 "
        "validation origins). Rule: average by learned weights.",
        "Look-alikes": "web-7 (similarity 0.90) and 1 more tuning tenant; by their votes it is of "
        "archetype b2b-saas.",
        "Level": "Moved after past misses, in units of q.9 - q.5: cpu_util +0.120.",
        "Backtest": "Cost of such constants at its 12 test requests, relative to the fixed "
        "configuration's: cpu_util 0.930. The load last exceeded one in the block from 2024-01-14 "
        "23:30 UTC: cpu_util, by up to 0.100 for 15 min.",
    }


def test_a_tenant_that_was_never_tested_has_no_backtest_and_no_weights() -> None:
    row = factory.explanation().table_weights[0]
    explanation = factory.explanation(
        scored_role="tuning",
        table_weights=(row.model_copy(update={"weight": math.nan}),),
        table_backtest=(),
        table_misses=(),
    )
    assert "Backtest" not in points(explanation)
    assert words.backtest(explanation).rows == ()
    table = words.weights(explanation)
    assert "a tuning one" in table.caption
    assert table.rows[0][2] == "–"


def test_losses_have_a_column_for_each_origin_with_evidence() -> None:
    table = words.validation(factory.explanation())
    assert table.columns == ("metric", "configuration", "1 h", "1 d")
    assert table.rows == (
        ("cpu_util", "ctx512", "0.0200", "0.0300"),
        ("cpu_util", "ctx1024 (fixed)", "0.0200", "0.0300"),
    )
    without = factory.explanation(table_validation=())
    assert words.validation(without).rows == ()


def test_the_own_tier_is_emphasised_and_a_miss_says_how_much_and_how_long() -> None:
    table = words.reservations(factory.explanation())
    assert [row[1] for i, row in enumerate(table.rows) if i in table.emphasised] == ["standard"]
    assert words.misses(factory.explanation()).rows == (
        ("cpu_util", "2024-01-14 23:30 to 00:29", "0.420", "0.520", "0.100", "15 of 60", "15 min"),
    )


def test_the_figures_survive_their_json() -> None:
    explanation = factory.explanation(table_misses=())
    again = TenantExplanation.from_flat(explanation.flat())
    assert again.flat().keys() == explanation.flat().keys()
    assert again.table_neighbours == explanation.table_neighbours


def test_the_page_of_a_tenant_holds_all_tables_and_no_foreign_markup() -> None:
    page = render_tenant(factory.explanation(tenant_id="<b>web</b>"))
    assert "<b>web</b>" not in page
    assert "&lt;b&gt;web&lt;/b&gt;" in page
    captions = [table(factory.explanation()).caption for table in words.TABLES[1:]]
    assert all(caption in page for caption in captions)
    assert "A cheap run" in render_tenant(factory.explanation(profile="cheap"))
    assert re.findall(r"(?:src|href)=\"(?!#)", page) == []


def test_the_report_explains_a_few_tenants_and_names_the_command_for_the_rest() -> None:
    explained = (factory.explanation(), factory.explanation(tenant_id="web-2"))
    assert explanations_answer(explained).sentence == (
        "Explained here are the tenants whose worst misses cost most: web-1, web-2. "
        "`tsfm-pipeline explain demo TENANT` explains any other."
    )
    empty = reports.page(reports={}, gallery=[])
    page = render_fleet_report(**empty | {"explanations": explained})
    assert '<section id="why">' in page
    assert page.count('<a href="#why">') == 3, "facts, contents and heading link to it"
    assert "web-2: what to reserve from 2024-01-15 00:00 UTC" in page
    assert '<section id="why">' not in render_fleet_report(**empty)


def test_a_section_of_its_own_begins_with_the_answer() -> None:
    section = tenant_section(factory.explanation())
    assert section.answer == words.answer(factory.explanation())
    assert len(section.tables) == len(words.TABLES)
