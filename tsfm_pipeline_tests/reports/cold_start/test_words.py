"""Test the text of the cold-start report: a gap that may be zero is undecided."""

from tsfm_pipeline.reports.cold_start.words import cold_start, cold_start_answer, gap
from tsfm_pipeline_tests.reports import factory


def test_a_cold_start_gap_that_may_be_zero_is_said_to_be_undecided() -> None:
    report = factory.cold_start()
    assert cold_start_answer(report).effect == "loss"
    undecided = factory.changed(
        report, table_gap=[row.flat() | {"gap_low": -0.01} for row in report.table_gap]
    )
    effect, sentence = cold_start_answer(undecided)
    assert effect == "null"
    assert "not decided" in sentence
    assert "not measured" in cold_start_answer(factory.without_rows(report)).sentence


def test_a_strategy_that_was_not_measured_at_some_length_leaves_its_cell_empty() -> None:
    report = factory.cold_start()
    kept = [
        row.flat()
        for row in report.table_cold_start
        if (row.minutes, row.strategy) != (60, "no_prior")
    ]
    rows = cold_start(factory.changed(report, table_cold_start=kept)).rows
    assert rows[1][:2] == ("60", "–")
    assert rows[0][:2] == ("30", "1.550 (1.500 to 1.610)")


def test_a_fleet_without_a_standard_tier_is_shown_at_its_middle_one() -> None:
    report = factory.cold_start(("gold", "silver", "iron"))
    assert (
        "at the silver tier cost 1.055 (1.005 to 1.115) times" in cold_start_answer(report).sentence
    )
    assert cold_start(report).caption == "Cost relative to full history, silver tier"
    assert [row[0] for row in gap(report).rows] == ["30", "60", "120", "240", "480"]
