"""Test the text of the SLA report: tiers in the fleet's order, separated only where every step is."""

from xml.etree import ElementTree

from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline.reports.sla.figures import sla_figure
from tsfm_pipeline.reports.sla.words import cross, sla_answer, tiers
from tsfm_pipeline_tests.reports import factory

OWN_TIERS = {"iron": 0.5, "gold": 0.95}


def test_tiers_are_called_separated_only_where_every_step_is() -> None:
    report = factory.sla()
    assert (
        "premium > standard > basic, every step beyond its interval" in sla_answer(report).sentence
    )
    first, last = (row.flat() for row in report.table_steps)
    effect, sentence = sla_answer(
        factory.changed(report, table_steps=[first, last | {"low": -0.1}])
    )
    assert effect == "null"
    assert "not separated" in sentence
    assert sla_answer(factory.without_rows(report)).effect == "unknown"


def test_a_fleets_own_tiers_are_worded_and_drawn_in_its_own_order() -> None:
    report = factory.sla(OWN_TIERS)
    assert "Reservations are ordered iron > gold" in sla_answer(report).sentence
    assert [row[0] for row in tiers(report).rows] == ["iron (1 : 1)", "gold (19 : 1)"]
    assert cross(report).columns == ("", "forecast of iron", "forecast of gold")
    assert [row[0] for row in cross(report).rows] == ["priced as iron", "priced as gold"]
    shown = " ".join(ElementTree.fromstring(to_svg(sla_figure(report))).itertext())
    assert "(19 : 1)" in shown
    assert "premium" not in shown


def test_a_fleet_of_one_tier_has_nothing_to_cross() -> None:
    report = factory.sla({"gold": 0.95})
    assert cross(report).rows == ()
    assert sla_answer(report).effect == "unknown"
