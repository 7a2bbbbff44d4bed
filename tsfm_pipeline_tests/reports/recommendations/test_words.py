"""Test the text and tables of the recommendations: gains, missing intervals, nothing to review, and
series left out.
"""

import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.recommendations import words
from tsfm_pipeline.reports.recommendations.figures import recommendation_figure
from tsfm_pipeline.reports.recommendations.model import RecommendationReport, RecommendationReview
from tsfm_pipeline.reports.recommendations.section import recommendations_section
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline_tests.reports import factory
from tsfm_pipeline_tests.reports.recommendations.factory import nothing_to_review, reserved

OWN_TIERS = {"gold": 0.95, "silver": 0.8, "iron": 0.5}


def test_the_answer_counts_what_was_made_and_points_the_right_way() -> None:
    answer = words.recommendations_answer(factory.recommendations())
    assert answer.effect == "gain"
    assert answer.sentence.startswith(
        "5 series of 3 tenants have a constant reservation for their next 60 minutes."
    )
    assert (
        "cost less than the fixed configuration's: ratio 0.900 (0.850 to 0.950)" in answer.sentence
    )
    assert "0.700 to the last block's" in answer.sentence, (
        "a ratio without an interval stands alone"
    )
    wide = words.recommendations_answer(
        factory.changed(factory.recommendations(), standard_ratio_high=1.05)
    )
    assert wide.effect == "null"
    assert "are not shown to cost more or less" in wide.sentence


def test_what_was_promised_stands_beside_what_held() -> None:
    every_step, maximum = words.kept_promises(factory.recommendations())
    assert (
        every_step[1]
        == "Demand exceeded them at 24.0 % of the steps; the standard tier allows 25.0 %."
    )
    assert "held in 76.0 % (70.0 to 82.0) of the blocks; the target is 75.0 %" in maximum[1]
    assert maximum[1].endswith("would have held in 21.0 %.")


def test_money_is_spoken_of_only_where_there_are_prices() -> None:
    saved = {
        "saved_per_tenant_day_vs_last_block": 1.5,
        "saved_per_tenant_day_vs_last_block_low": 1,
        "saved_per_tenant_day_vs_last_block_high": 2,
    }
    report = factory.recommendations()
    assert words.money_answer(report) == ""
    assert words.money_answer(factory.changed(report, **saved, currency="EUR")) == (
        "Saved per tenant and day, in EUR, every tenant at its own tier: 1.50 (1.00 to 2.00) "
        "against the last block."
    )


def test_a_fleet_without_intermittent_series_or_reserved_columns_says_nothing_of_them() -> None:
    report = factory.recommendations()
    assert words.intermittent_answer(report) == words.reserved_answer(report) == ""
    assert not words.reserved(report).rows
    assert not {"n_intermittent", "intermittent_covered", "table_reserved"} & set(report.flat())


def test_intermittent_series_are_told_which_constant_to_take_and_how_often_it_held() -> None:
    report = factory.recommendations().model_copy(
        update={
            "n_intermittent": 2,
            "intermittent_covered_max": Estimate(0.9, 0.8, 1.0),
            "intermittent_covered": Estimate(0.1),
        }
    )
    assert words.intermittent_answer(report) == (
        "2 series of 6 are idle at most steps and busy at single ones. A constant for every step "
        "reserves next to nothing for these: take reservation_max. In the backtest it held in "
        "90.0 % (80.0 to 100.0) of their blocks. The constant for every step would have held "
        "in 10.0 % of their blocks."
    )


def test_what_is_reserved_today_is_compared_with_savings_and_risks() -> None:
    row = reserved()
    report = factory.recommendations().model_copy(
        update={
            "currency": "EUR",
            "table_reserved": (row, row.model_copy(update={"tier": "basic"})),
        }
    )
    assert words.reserved_answer(report) == (
        "In the backtest, at the standard tier, means per step: cpu 1.00 instead of 2.50 (saved "
        "1.50 (1.20 to 1.80)), exceeded at 20.0 % of the steps instead of 1.0 %."
    )
    table = words.reserved(report)
    assert table.columns[-2] == "saved per tenant and day, EUR"
    assert [cells[:2] for cells in table.rows] == [("cpu", "standard"), ("cpu", "basic")]
    assert table.rows[0][-2] == "0.500 (0.400 to 0.600)"
    again = RecommendationReport.from_flat(report.flat())
    assert again.table_reserved == report.table_reserved


def test_a_review_is_as_plain_about_a_loss_as_about_having_nothing() -> None:
    answer = words.review_answer(factory.review())
    assert answer.effect == "loss"
    assert (
        "Recommendations of 1 earlier run were reviewed. At the standard tier demand exceeded the "
        "reservations at 30.0 %" in answer.sentence
    )
    assert (
        "2 of 6 series have a different heaviest configuration, 1 tenant a different archetype or "
        "look-alike." in answer.sentence
    )
    nothing = words.review_answer(nothing_to_review())
    assert nothing == ("unknown", "Nothing to review yet: x. Nothing to compare yet: y.")


def test_drift_shows_old_and_new_with_their_weights() -> None:
    assert words.drifted(factory.review()).rows == (
        ("a", "–", "archetype", "batch", "web"),
        ("a", "cpu", "configuration", "ctx64 (50.0 %)", "ctx256 (30.0 %)"),
    )


def test_a_fleet_without_a_standard_tier_is_worded_and_drawn_at_its_middle_one() -> None:
    report, review = factory.recommendations(OWN_TIERS), factory.review(OWN_TIERS)
    assert (
        "ratio 0.900 (0.850 to 0.950) at the silver tier"
        in words.recommendations_answer(report).sentence
    )
    assert (
        "At the silver tier demand exceeded the reservations at 25.0 %"
        in words.review_answer(review).sentence
    )
    assert [row[0] for row in words.coverage(report).rows] == [
        "gold (19 : 1)",
        "silver (4 : 1)",
        "iron (1 : 1)",
    ]
    assert len(words.methods(report).rows) == len(words.METHOD_LABELS)
    assert "silver tier" in to_svg(recommendation_figure(report))


@pytest.mark.parametrize("review", [None, factory.review()], ids=["no review", "a review"])
def test_the_section_of_a_real_report_shows_every_tier_and_method(
    mini_fleet: Fleet, review: RecommendationReview | None
) -> None:
    report = RecommendationReport.from_flat(read_report(mini_fleet, "recommendation_report"))
    section = Section("reserve", "Reserve", "What should be reserved next?")
    recommendations_section(section, report, review)
    (coverage,) = section.tables
    assert [row[0].split()[0] for row in coverage.rows] == list(TIERS)
    folded = {fold.title for fold in section.folded}
    assert "One constant per block, standard tier" in folded
    assert ("Changed since the last run" in folded) == bool(review)
    ((svg, _),) = section.figures
    assert "<svg" in svg
    assert all(label in svg for label in words.METHOD_LABELS.values())
