"""Test the text of the latency report: the device, the largest K within the budget, the portfolio."""

from tsfm_pipeline.reports.latency.words import latency, latency_answer
from tsfm_pipeline_tests.reports import factory


def test_latency_names_the_device_and_the_largest_k() -> None:
    assert latency_answer(factory.latency()).sentence == (
        "On 2 cores, Intel Xeon, up to 8 candidate configurations fit into 200 ms at the 95th "
        "percentile (K = 8: 168 ms). "
        "The portfolio has K = 8 and takes 168 (161 to 177) ms; its answers cost 0.931 (0.901 to "
        "0.956) times the fixed configuration's on "
        "60 timed requests."
    )


def test_what_was_not_measured_is_not_spoken_of() -> None:
    report = factory.latency()
    assert "portfolio" not in latency_answer(factory.changed(report, table_pareto=[])).sentence
    assert (
        "not even one"
        in latency_answer(factory.changed(report, largest_k_within_budget=0)).sentence
    )
    assert "not measured" in latency_answer(report.model_copy(update={"sizes": {}})).sentence


def test_the_table_has_a_row_per_size_with_every_stage() -> None:
    table = latency(factory.latency())
    assert [row[0] for row in table.rows] == ["1", "2", "4", "8", "16", "32"]
    assert table.columns[4:8] == (
        "retrieval p50, ms",
        "validation p50, ms",
        "forecast p50, ms",
        "decision p50, ms",
    )
    assert table.rows[3] == (
        "8",
        "134",
        "168 (161 to 177)",
        "214",
        "8.04",
        "88.4",
        "30.8",
        "6.70",
        "67.0",
        "0.931 (0.901 to 0.956)",
    )
