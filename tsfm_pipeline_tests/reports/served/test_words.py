"""Test the text, the figure and the checks of the report on the online service."""

from xml.etree import ElementTree

import pytest

from tsfm_pipeline.defs.checks import INTERVAL_CHECKS, interval_results
from tsfm_pipeline.reports.served.figures import intervals_figure
from tsfm_pipeline.reports.served.model import CONFORMAL, TIME
from tsfm_pipeline.reports.served.section import served as fill
from tsfm_pipeline.reports.served.words import (
    bands,
    calibration_sentence,
    segments,
    served_answer,
    service,
    widths,
)
from tsfm_pipeline.reports.shared.layout import Section
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline_tests.reports.served.factory import band, served, unserved


def test_with_nothing_served_it_says_so_in_one_sentence_and_gives_the_backtest() -> None:
    effect, sentence = served_answer(unserved())
    assert effect == "gain"
    assert sentence.startswith("On later days of the backtest, 90.5 % (88.5 to 92.5) of what ")
    assert "lay within the service's calibrated 90 % interval" in sentence
    assert sentence.endswith(" The online service has answered nothing yet.")
    assert service(unserved()).rows == ()
    assert "tuning tenants" in calibration_sentence(unserved())


def test_what_was_served_is_summed_up() -> None:
    sentence = served_answer(served()).sentence
    assert "4,000 answers, 1.2 % of them by a baseline" in sentence
    assert "within 38.0 ms (95th percentile). Rollout: 10." in sentence
    assert "0.850 (0.830 to 0.870) times as wide" in sentence
    rows = {row[0]: row[1] for row in service(served()).rows}
    assert rows["rollout"] == "10: 30 minutes of clean windows in a row at stage shadow"
    assert rows["values outside their band"] == "310, 61.0 % followed by a move"


def test_intervals_that_do_not_hold_are_a_loss() -> None:
    missed = band(TIME, CONFORMAL, coverage_90=Estimate(0.82, 0.8, 0.84))
    rows = tuple(
        missed if (row.split, row.band) == (TIME, CONFORMAL) else row
        for row in served().table_bands
    )
    assert served_answer(served(table_bands=rows)).effect == "loss"


def test_without_enough_past_forecasts_nothing_is_judged() -> None:
    report = unserved(
        table_bands=(),
        table_widths=(),
        table_segments=(),
        calibration_version="",
        calibration_source="",
    )
    effect, sentence = served_answer(report)
    assert effect == "unknown"
    assert "too few past forecasts" in sentence
    assert "No calibration is published" in calibration_sentence(report)
    assert to_svg(intervals_figure(report)).startswith("<svg")


def test_segments_that_miss_their_target_most_come_first() -> None:
    assert [row[0] for row in segments(served()).rows] == ["metric=mem_util", "metric=cpu_util"]
    assert len(bands(served()).rows) == 6
    assert bands(served()).emphasised == {2, 5}
    assert len(widths(served()).rows) == 2


def test_the_section_shows_the_answer_the_service_and_the_intervals() -> None:
    section = Section("served", "Served", "?")
    fill(section, served())
    assert section.answer == served_answer(served()).sentence
    assert [table.caption for table in section.tables] == [
        "The service",
        "Intervals on the service's answers, in units of the scale",
    ]
    shown = " ".join(ElementTree.fromstring(to_svg(intervals_figure(served()))).itertext())
    assert "coverage of the 90 % interval" in shown
    assert "later days" in shown


def check(name: str, **replaced: object) -> bool:
    results = {result.check_name: result for result in interval_results(served(**replaced))}
    assert set(results) == set(INTERVAL_CHECKS)
    return results[name].passed


@pytest.mark.parametrize(
    ("coverage", "passed"),
    [
        (Estimate(0.88, 0.86, 0.89), True),
        (Estimate(0.86, 0.84, 0.88), False),
        (Estimate(0.86, 0.82, 0.905), True),
        (Estimate(0.94, 0.931, 0.95), False),
    ],
)
def test_coverage_passes_near_its_target_or_where_its_interval_holds_it(
    coverage: Estimate, passed: bool
) -> None:
    assert (
        check("coverage_90", table_bands=(band(TIME, CONFORMAL, coverage_90=coverage),)) == passed
    )


def test_checks_find_too_few_scores_and_values_from_after_the_as_of_date() -> None:
    assert check("enough_scores")
    assert not check("enough_scores", calibration_scores=499)
    assert check("enough_scores", calibration_scores=0, calibration_version="")
    assert check("no_value_after_as_of")
    assert not check("no_value_after_as_of", n_values_after_as_of=1)
    assert not check("no_value_after_as_of", n_judged_before_as_of=1)
    assert check("coverage_80", table_bands=())
