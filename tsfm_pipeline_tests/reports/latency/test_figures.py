"""Test that the latency figure names the machine of the measurement, and shows losses only where
there are any.
"""

from xml.etree import ElementTree

from tsfm_pipeline.reports.latency.figures import latency_figure
from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline_tests.reports import factory


def test_the_latency_figure_names_device_model_and_budget() -> None:
    svg = to_svg(latency_figure(factory.latency("NVIDIA H200")))
    shown = " ".join(ElementTree.fromstring(svg).itertext())
    assert "NVIDIA H200" in shown
    assert "2 threads" in shown
    assert "bundled (4.92 M parameters, 18.8 MiB)" in shown
    assert "500 requests at K = 8" in shown
    assert "200 ms" in shown


def test_the_latency_figure_shows_what_each_size_buys_only_where_it_was_scored() -> None:
    report = factory.latency()
    loss = latency_figure(report).axes[2]
    line = next(line for line in loss.lines if len(line.get_xdata()) == 6)
    assert list(line.get_xdata()) == [1, 2, 4, 8, 16, 32]
    assert list(line.get_ydata()) == [row.ratio.figure for row in report.table_pareto]
    filled = [line.get_xdata() for line in loss.lines if list(line.get_xdata()) == [8]]
    assert len(filled) == 1
    assert "standard tier, 60 requests" in loss.get_ylabel()
    assert len(latency_figure(factory.changed(report, table_pareto=[])).axes) == 2
