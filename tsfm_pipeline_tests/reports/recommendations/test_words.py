"""The recommendations in words and tables: honest about a gain, a missing interval, nothing to review, and series left out."""

import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.recommendations import words as recommendations_words
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.reports.shared.layout import Section

REPORT = {
    "block_minutes": 60.0,
    "n_tenants": 3,
    "n_series": 6,
    "n_not_made": 1,
    "standard_ratio": 0.9,
    "standard_ratio_low": 0.85,
    "standard_ratio_high": 0.95,
    "standard_ratio_last_block": 0.7,
    "standard_ratio_last_block_low": None,
    "standard_ratio_last_block_high": None,
    "standard_violation_rate_search": 0.24,
    "standard_violation_rate_target": 0.25,
    "standard_covered": 0.76,
    "standard_covered_low": 0.7,
    "standard_covered_high": 0.82,
    "standard_covered_target": 0.75,
    "standard_covered_largest_step": 0.21,
    "table_not_made": [{"reason": "no value in the last N steps (at most N are filled)", "n_series": 1}],
}
REVIEW = {
    "n_reviewed": 12,
    "n_runs_reviewed": 1,
    "standard_violation_rate": 0.3,
    "standard_violation_rate_target": 0.25,
    "standard_covered": 0.5,
    "standard_covered_target": 0.75,
    "standard_ratio_fixed": 1.1,
    "standard_ratio_fixed_low": 1.02,
    "standard_ratio_fixed_high": 1.2,
    "standard_ratio_last_block": 0.8,
    "drift_status": "compared with run 4",
    "n_series_compared": 6,
    "n_configs_changed": 2,
    "n_groups_changed": 1,
    "table_drift": [
        {"tenant_id": "a", "metric": None, "what": "archetype", "old": "batch", "new": "web", "old_weight": None, "new_weight": None},
        {"tenant_id": "a", "metric": "cpu", "what": "configuration", "old": "ctx64", "new": "ctx256", "old_weight": 0.5, "new_weight": 0.3},
    ],
}


def test_the_answer_counts_what_was_made_and_points_the_right_way() -> None:
    answer = recommendations_words.recommendations_answer(REPORT)
    assert answer.effect == "gain"
    assert answer.sentence.startswith("5 series of 3 tenants have a constant reservation for their next 60 minutes.")
    assert "cost less than the fixed configuration's: ratio 0.900 (0.850 to 0.950)" in answer.sentence
    assert "0.700 to the last block's" in answer.sentence, "a ratio without an interval stands alone"
    wide = recommendations_words.recommendations_answer(REPORT | {"standard_ratio_high": 1.05})
    assert wide.effect == "null"
    assert "are not shown to cost more or less" in wide.sentence


def test_what_was_promised_stands_beside_what_held() -> None:
    every_step, maximum = recommendations_words.kept_promises(REPORT)
    assert every_step[1] == "Demand exceeded them at 24.0 % of the steps; the standard tier allows 25.0 %."
    assert "held in 76.0 % (70.0 to 82.0) of the blocks; it should in 75.0 %" in maximum[1]
    assert maximum[1].endswith("would have held in 21.0 %.")


def test_money_is_spoken_of_only_where_there_are_prices() -> None:
    saved = {
        "saved_per_tenant_day_vs_last_block": 1.5,
        "saved_per_tenant_day_vs_last_block_low": 1,
        "saved_per_tenant_day_vs_last_block_high": 2,
    }
    assert recommendations_words.money_answer(REPORT) == ""
    assert recommendations_words.money_answer(REPORT | saved | {"currency": "EUR"}) == (
        "Saved per tenant and day, in EUR, every tenant at its own tier: 1.50 (1.00 to 2.00) against the last block."
    )


def test_a_review_is_as_plain_about_a_loss_as_about_having_nothing() -> None:
    answer = recommendations_words.review_answer(REVIEW)
    assert answer.effect == "loss"
    assert (
        "Recommendations of 1 earlier run were reviewed. At the standard tier demand exceeded the reservations at 30.0 %" in answer.sentence
    )
    assert "2 of 6 series have another heaviest configuration, 1 tenant another archetype or look-alike." in answer.sentence
    nothing = recommendations_words.review_answer(
        {"n_reviewed": 0, "status": "nothing to review yet: x", "drift_status": "nothing to compare yet: y"}
    )
    assert nothing == ("unknown", "Nothing to review yet: x. Nothing to compare yet: y.")


def test_drift_shows_old_and_new_with_their_weights() -> None:
    assert recommendations_words.drifted(REVIEW).rows == (
        ("a", "–", "archetype", "batch", "web"),
        ("a", "cpu", "configuration", "ctx64 (50.0 %)", "ctx256 (30.0 %)"),
    )


@pytest.mark.parametrize("review", [{}, REVIEW], ids=["no review", "a review"])
def test_the_section_of_a_real_report_shows_every_tier_and_method(mini_fleet: Fleet, review: dict[str, object]) -> None:
    report = read_report(mini_fleet, "recommendation_report")
    section = Section("reserve", "Reserve", "What should be reserved next?")
    section.recommendations_section(section, report, review)
    (coverage,) = section.tables
    assert [row[0].split()[0] for row in coverage.rows] == list(TIERS)
    folded = {fold.title for fold in section.folded}
    assert "One constant per block, standard tier" in folded
    assert ("Changed since the last run" in folded) == bool(review)
    ((svg, _),) = section.figures
    assert "<svg" in svg
    assert all(label in svg for label in recommendations_words.METHOD_LABELS.values())
