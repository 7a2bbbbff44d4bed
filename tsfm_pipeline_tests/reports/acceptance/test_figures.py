"""Test that the figures of the verdicts and the ledger show everything that the text says."""

from itertools import combinations
from typing import get_args

from matplotlib.backends.backend_agg import FigureCanvasAgg

from tsfm_pipeline.reports.acceptance.criteria import CRITERIA
from tsfm_pipeline.reports.acceptance.figures import criteria_figure, ledger_figure
from tsfm_pipeline.reports.acceptance.model import CriteriaReport, Criterion, LedgerRow, Verdict
from tsfm_pipeline.reports.acceptance.words import criterion_figure
from tsfm_pipeline.reports.page.markdown import summary
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline_tests.reports import factory


def criterion(
    verdict: Verdict, reached: Estimate, target: str = "> .5", title: str = "win rate"
) -> Criterion:
    return Criterion(id="C1", title=title, target=target, reached=reached, verdict=verdict, note="")


def report_of(rows: list[Criterion]) -> CriteriaReport:
    return CriteriaReport(
        fleet="demo", n_pass=0, n_fail=0, n_null=0, n_na=0, table_criteria=tuple(rows)
    )


def test_every_verdict_can_be_drawn_also_without_a_figure() -> None:
    rows = [
        criterion(verdict, Estimate(0.6) if verdict == "PASS" else Estimate())
        for verdict in get_args(Verdict)
    ]
    svg = to_svg(criteria_figure(report_of(rows)))
    assert svg.count("<use") >= len(rows)


def test_no_text_of_the_criteria_lies_over_another() -> None:
    longest = Estimate(-0.625, -0.875, -0.375)
    rows = [
        criterion("FAIL", longest, target.target, target.title).model_copy(update={"id": name})
        for name, target in CRITERIA.items()
    ]
    figure = criteria_figure(report_of(rows))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = {
        text.get_text() + str(text.get_position()): text.get_window_extent(canvas.get_renderer())
        for text in figure.axes[0].texts
    }
    assert len(boxes) == 5 * len(rows)
    assert [
        pair for pair in combinations(boxes, 2) if boxes[pair[0]].overlaps(boxes[pair[1]])
    ] == []


def test_the_ledger_is_drawn_and_written_newest_first() -> None:
    report = factory.ledger(
        factory.run("2026-01-01 00:00:00+00:00", 0.97), factory.run("2026-01-02 00:00:00+00:00")
    )
    assert "<svg" in to_svg(ledger_figure(report))
    text = summary("experiment_ledger", report)
    newest, oldest = (line for line in text.splitlines() if line.startswith("| 2026-"))
    assert newest.startswith("| 2026-01-02 00:00")
    assert "0.970" in oldest
    assert text.startswith("The latest measurement, 2026-01-02 00:00 UTC: –")


def test_a_run_at_other_tiers_and_the_columns_of_another_release_stay_in_the_ledger() -> None:
    row = factory.run("2026-01-01 00:00:00+00:00", 0.97).flat() | {"mae": 0.5, "verdict_C1": "PASS"}
    older = LedgerRow.from_flat(
        {key.replace("standard_", "gold_"): value for key, value in row.items()}
    )
    report = factory.ledger(older, factory.run("2026-01-02 00:00:00+00:00", 0.96))
    assert report.table_ledger[0].flat() == older.flat()
    assert older.flat()["mae"] == 0.5
    oldest = summary("experiment_ledger", report).splitlines()[-1]
    assert oldest.endswith("| – |")
    assert "<svg" in to_svg(ledger_figure(report))


def test_a_criterions_figure_has_the_unit_of_its_target() -> None:
    def shown(target: str, *reached: float) -> str:
        return criterion_figure(criterion("PASS", Estimate(*reached), target))

    assert shown(">= 5 %", 0.031, -0.002, 0.059) == "3.1 % (−0.2 to 5.9)"
    assert shown(">= 8", 16.0) == "16"
    assert shown("lower 95 % limit > 0.50", 0.6, 0.5, 0.7) == "0.600 (0.500 to 0.700)"
