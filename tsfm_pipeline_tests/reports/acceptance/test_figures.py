"""The verdicts and the ledger are drawn with everything that they say in words."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg

from tsfm_pipeline.reports.acceptance.criteria import CRITERIA
from tsfm_pipeline.reports.acceptance.figures import criteria_figure, ledger_figure
from tsfm_pipeline.reports.acceptance.words import criterion_figure
from tsfm_pipeline.reports.page.markdown import summary
from tsfm_pipeline.reports.shared.style import to_svg


def criterion(verdict: str, figure: float | None) -> dict[str, object]:
    return {"id": "C1", "title": "win rate", "target": "> .5", "figure": figure, "low": None, "high": None, "verdict": verdict, "note": ""}


def run(time: str, ratio: float | None) -> dict[str, object]:
    row = {"time": time, "git_commit": None, "checkpoint_sha256": "ab" * 32, "n_requests": 12}
    return row | {"standard_ratio": ratio, "standard_ratio_low": None, "standard_ratio_high": None}


def test_every_verdict_can_be_drawn_also_without_a_figure() -> None:
    rows = [criterion(verdict, 0.6 if verdict == "PASS" else None) for verdict in ("PASS", "FAIL", "NULL", "N/A")]
    svg = to_svg(criteria_figure({"table_criteria": rows}))
    assert svg.count("<use") >= len(rows)


def test_no_text_of_the_criteria_lies_over_another() -> None:
    longest = {"figure": -0.625, "low": -0.875, "high": -0.375, "verdict": "FAIL"}
    rows = [{"id": name, "title": target.title, "target": target.target} | longest for name, target in CRITERIA.items()]
    figure = criteria_figure({"table_criteria": rows})
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = {text.get_text() + str(text.get_position()): text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts}
    assert len(boxes) == 5 * len(rows)
    assert [pair for pair in combinations(boxes, 2) if boxes[pair[0]].overlaps(boxes[pair[1]])] == []


def test_the_ledger_is_drawn_and_written_newest_first() -> None:
    rows = [run("2026-01-01 00:00:00+00:00", 0.97), run("2026-01-02 00:00:00+00:00", None)]
    assert "<svg" in to_svg(ledger_figure({"table_ledger": rows}))
    text = summary("experiment_ledger", {"table_ledger": rows})
    newest, oldest = (line for line in text.splitlines() if line.startswith("| 2026-"))
    assert newest.startswith("| 2026-01-02 00:00")
    assert "0.970" in oldest
    assert text.startswith("The latest measurement, 2026-01-02 00:00 UTC: –")


def test_a_criterions_figure_has_the_unit_of_its_target() -> None:
    assert criterion_figure({"target": ">= 5 %", "figure": 0.031, "low": -0.002, "high": 0.059}) == "3.1 % (−0.2 to 5.9)"
    assert criterion_figure({"target": ">= 8", "figure": 16.0, "low": None, "high": None}) == "16"
    assert criterion_figure({"target": "lower 95 % limit > 0.50", "figure": 0.6, "low": 0.5, "high": 0.7}) == "0.600 (0.500 to 0.700)"
