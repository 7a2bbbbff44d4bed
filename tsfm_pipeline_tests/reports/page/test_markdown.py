import pytest

from tsfm_pipeline.reports.page.markdown import summary
from tsfm_pipeline_tests.reports import factory


@pytest.mark.parametrize("name", list(factory.reports()))
def test_a_summary_opens_with_its_answer_and_holds_well_formed_tables(name):
    text = summary(name, factory.reports()[name])
    assert not text.startswith(("|", "*"))
    widths = [
        line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")
    ]
    assert len(widths) >= 3
    for block in text.split("\n\n"):
        lines = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


@pytest.mark.parametrize("name", ["acceptance_criteria", "experiment_ledger"])
def test_a_report_without_rows_has_a_sentence_and_no_tables(name):
    text = summary(name, factory.without_rows(factory.reports()[name]))
    assert text.strip()
    assert "|" not in text


def test_the_headline_shows_ratio_win_rate_violations_and_the_searchs_row_in_bold():
    text = summary("headline_report", factory.headline())
    assert text.startswith("On demo, choosing the configuration per request cost 3.1 % less")
    assert (
        "**0.969 (0.941 to 0.998)** | **56.2 % (51.1 to 61.3)** | **25.8 % / 27.1 %** | **25.0 %**"
        in text
    )
    assert "| **search, per request** |" in text


def test_the_fixed_configuration_is_the_reference_of_the_rivals():
    row = next(
        line
        for line in summary("headline_report", factory.headline()).splitlines()
        if "the one to beat" in line
    )
    assert "| 1 | – |" in row


def test_names_cannot_break_out_of_their_cell():
    report = factory.criteria()
    rows = [row.flat() | {"note": "a|b\n<script>"} for row in report.table_criteria]
    text = summary("acceptance_criteria", factory.changed(report, table_criteria=rows))
    assert "a\\|b &lt;script&gt;" in text
    assert "<script>" not in text


def test_an_unknown_report_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no report 'headline'.*headline_report, latency_report"):
        summary("headline", {})
