"""Test the report's sentences, figures and page.

What belongs here: what a reader sees. What does not: numbers (`test_numbers`).
"""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import to_png, to_svg
from tsfm_pipeline.studies.policy_search.report import importance, tables, words
from tsfm_pipeline.studies.policy_search.report.figures import FIGURES
from tsfm_pipeline.studies.policy_search.report.model import LookRow, PolicySearchReport
from tsfm_pipeline.studies.policy_search.report.page import make_report, render, report_folder
from tsfm_pipeline.studies.policy_search.report.sections import sections, summary
from tsfm_pipeline_tests.studies.policy_search.conftest import Study

pytestmark = pytest.mark.heavy
IDS = [draw.__name__ for draw in FIGURES]


def empty(report: PolicySearchReport) -> PolicySearchReport:
    """The report of a yardstick without experiments."""
    tables = dict.fromkeys(PolicySearchReport.tables(), ())
    counts = {name: 0 for name in PolicySearchReport.model_fields if name.startswith("n_")}
    return report.model_copy(
        update={
            **tables,
            **counts,
            "first_time": None,
            "last_time": None,
            "incumbent_changes": "{}",
            "incumbent_objective": float("nan"),
            "optimism": float("nan"),
            "test_optimism": float("nan"),
        }
    )


def with_looks(report: PolicySearchReport, *ratios: Estimate) -> PolicySearchReport:
    """The report, its looks at test requests replaced by these at the standard tier."""
    (first, *_) = [row for row in report.table_looks if row.tier == "standard" and not row.group]
    last = [row.number for row in report.table_promotions if row.promoted][-1]
    rows: tuple[LookRow, ...] = tuple(
        first.model_copy(update={"ratio": ratio, "promotion": last}) for ratio in ratios
    )
    return report.model_copy(update={"table_looks": rows})


GAIN, LOSS, NONE = Estimate(0.98, 0.97, 0.99), Estimate(1.02, 1.01, 1.03), Estimate(1, 0.9, 1.1)


@pytest.mark.parametrize(
    ("ratios", "effect"),
    [
        ((GAIN, GAIN), "gain"),
        ((GAIN, NONE), "gain"),
        ((NONE, NONE), "null"),
        ((GAIN, LOSS), "loss"),
    ],
)
def test_the_answer_is_what_the_look_at_test_requests_says(
    study: Study, ratios: tuple[Estimate, ...], effect: str
) -> None:
    answer = words.search_answer(with_looks(study.report, *ratios))
    assert answer.effect == effect
    assert "At the one look at test requests" in answer.sentence
    assert "test requests were looked at once" in answer.sentence


def test_without_a_promotion_the_answer_is_that_nothing_is_demonstrated(study: Study) -> None:
    refused = tuple(
        row.model_copy(update={"promoted": False}) for row in study.report.table_promotions
    )
    report = study.report.model_copy(
        update={"table_promotions": refused, "n_promoted": 0, "n_final_looks": 0}
    )
    answer = words.search_answer(report)
    assert answer.effect == "null"
    assert "was promoted: on the confirming folds" in answer.sentence
    assert "Test requests were never looked at" in words.optimism_sentence(report)


def test_without_experiments_the_question_is_not_answered(study: Study) -> None:
    answer = words.search_answer(empty(study.report))
    assert answer.effect == "unknown"
    assert "No experiment" in answer.sentence


def test_every_sentence_and_table_stands_without_figures(study: Study) -> None:
    report = empty(study.report)
    for section in sections(report):
        assert section.title.endswith("?")
    assert "none" not in words.progress_sentence(report).lower()
    assert summary(report)


def test_names_of_candidates_are_shown_as_what_differs(study: Study) -> None:
    from tsfm_pipeline.studies.policy_search.policy import DEFAULT

    changes = {"candidates": [*DEFAULT.candidates[1:], "ctx4096"], "gate_traits": None}
    report = study.report.model_copy(update={"incumbent_changes": json.dumps(changes)})
    (candidates, traits) = tables.policy(report).rows
    assert candidates == ("candidates", "36 names", "36 names: without ctx64; with ctx4096")
    assert traits[2] == "none"


def test_every_promotion_shows_all_of_its_reasons(study: Study) -> None:
    table = tables.promotions(study.report)
    assert len(table.rows) == study.report.n_promotions_considered
    for row, promotion in zip(table.rows, study.report.table_promotions[::-1], strict=True):
        assert row[-1] == "; ".join(promotion.reasons)
        assert row[2] == ("promoted" if promotion.promoted else "refused")


def test_promotions_stand_beside_the_last_refusals(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "MOST_REFUSED", 1)
    shown = [word for word, _ in words.promotion_points(study.report)]
    rows = study.report.table_promotions[::-1]
    last_refusal = next(row.number for row in rows if not row.promoted)
    assert f"{last_refusal} refused" in shown
    assert [word for word in shown if word.endswith("promoted")] == [
        f"{row.number} promoted" for row in rows if row.promoted
    ]
    assert len(shown) == study.report.n_promoted + 1


@pytest.mark.parametrize("draw", FIGURES, ids=IDS)
def test_figures_are_labelled_equal_for_equal_reports_and_hold_no_address(
    study: Study, draw: Callable[[PolicySearchReport], Any]
) -> None:
    svg = to_svg(draw(study.report))
    assert svg == to_svg(draw(study.report))
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert len(str(root.get("aria-label"))) > 10
    assert "://" not in svg
    assert to_png(draw(study.report), dpi=40).startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", FIGURES, ids=IDS)
def test_figures_of_an_empty_report_say_why_they_are_empty(
    study: Study, draw: Callable[[PolicySearchReport], Any]
) -> None:
    texts = " ".join(ElementTree.fromstring(to_svg(draw(empty(study.report)))).itertext())
    assert re.search(r"no|few", texts)


def test_the_progress_shows_how_every_experiment_ended(study: Study) -> None:
    figure = FIGURES[0](study.report)
    (axes,) = figure.axes
    drawn = {str(line.get_label()): line for line in axes.lines if str(line.get_label())[0] != "_"}
    report = study.report
    assert f"kept ({report.n_kept})" in drawn
    assert f"crashed ({report.n_crashed})" in drawn
    assert f"promoted ({report.n_promoted})" in drawn
    steps = drawn["incumbent"].get_ydata()
    assert list(steps[:-1]) == [
        row.objective for row in report.table_experiments if row.end == "keep"
    ]
    n_marks = sum(len(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "None")
    assert n_marks == report.n_experiments + report.n_promoted


class Anchors(HTMLParser):
    """The ids of a page, and the addresses that it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.add(str(given["id"]))
        if tag == "a":
            self.links.add(str(given["href"]))


def test_the_page_is_one_file_whose_links_lead_to_its_own_sections(study: Study) -> None:
    page = render(study.report)
    assert page == render(study.report)
    assert "://" not in page
    anchors = Anchors()
    anchors.feed(page)
    assert anchors.links == {f"#{section.anchor}" for section in sections(study.report)}
    assert {link.removeprefix("#") for link in anchors.links} <= anchors.ids


def test_what_a_driver_says_is_shown_as_text(study: Study) -> None:
    rows = list(study.report.table_experiments)
    rows[-1] = rows[-1].model_copy(update={"description": "<script>alert(1)</script>"})
    page = render(study.report.model_copy(update={"table_experiments": tuple(rows)}))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_json_page_and_figures_are_written_beside_each_other(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importance, "N_FORESTS", 2)
    report, page = make_report(study.settings)
    folder = report_folder(study.settings)
    assert page == folder / "report.html"
    assert page.read_text() == render(report)
    content = json.loads((folder / "policy_search_report.json").read_text())
    assert content["n_experiments"] == report.n_experiments
    assert content["incumbent_p95_ms"] == report.incumbent_p95_ms
    assert {path.stem for path in folder.glob("*.png")} == set(IDS)
