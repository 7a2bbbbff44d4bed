"""Test the text and the figures of the forecast quality report: they claim no more than the
interval shows.
"""

import pytest

from tsfm_pipeline.reports.page.markdown import summary
from tsfm_pipeline.reports.quality.figures import quality_figure
from tsfm_pipeline.reports.quality.words import methods, quality_answer
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline_tests.reports import factory


@pytest.mark.parametrize(
    ("over_fixed", "effect", "words"),
    [
        (
            Estimate(0.05, 0.02, 0.08),
            "gain",
            "the search's deciles are better than those of the fixed configuration: reduction of "
            "WQL 5.0 % (2.0 to 8.0)",
        ),
        (
            Estimate(-0.05, -0.08, -0.02),
            "loss",
            "are worse than those of the fixed configuration: reduction of WQL −5.0 %",
        ),
        (
            Estimate(0.02, -0.01, 0.05),
            "null",
            "are not shown to differ from those of the fixed configuration",
        ),
        (Estimate(0.02), "unknown", "without an interval: reduction of WQL 2.0 %."),
        (
            Estimate(),
            "unknown",
            "On shop, no forecast of the search and the fixed configuration was scored.",
        ),
    ],
)
def test_the_sentence_says_what_the_interval_shows(
    over_fixed: Estimate, effect: str, words: str
) -> None:
    answered = quality_answer(factory.quality(over_fixed))
    assert answered.effect == effect
    assert words in answered.sentence


def test_the_table_has_the_headline_tier_and_no_single_configurations() -> None:
    table = methods(factory.quality())
    assert [cells[0] for cells in table.rows] == [
        "search, per request",
        "seasonal naive",
        "fixed configuration (the one to beat)",
    ]
    assert table.emphasised == {0}
    assert "| **search, per request** | **0.200 (0.150 to 0.250)** |" in summary(
        "forecast_quality_report", factory.quality()
    )


def test_the_figure_shows_a_mark_per_method_in_both_scores_and_says_when_there_is_none() -> None:
    figure = quality_figure(factory.quality())
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "WQL, relative to seasonal naive",
        "MASE, relative to seasonal naive",
    ]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "search, per request"
    search = next(
        line
        for line in figure.axes[0].lines
        if line.get_ydata().tolist() == [0] and line.get_marker() == "o"
    )
    assert search.get_xdata().tolist() == [0.55], (
        "a skill of 0.45 leaves 0.55 of seasonal naive's error"
    )
    assert (
        quality_figure(factory.without_rows(factory.quality())).texts[0].get_text()
        == "no forecast was scored"
    )


def test_a_fleet_without_a_standard_tier_is_shown_at_its_own_headline_tier() -> None:
    table = methods(factory.quality(tier="gold"))
    assert table.caption == "Forecast quality, deciles of the gold tier"
    assert len(table.rows) == 3
