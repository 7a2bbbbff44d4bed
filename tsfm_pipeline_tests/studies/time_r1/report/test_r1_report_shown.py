"""Test the sentences, figures and page of the report on slow thinking.

What belongs here: what a reader sees. What does not: numbers (`test_r1_report_numbers`).
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline.reports.shared.wording import interval
from tsfm_pipeline.studies.time_r1.methods import (
    DRAFT,
    METHODS,
    SLOW_THINKING,
    SLOW_THINKING_ONE_PASS,
)
from tsfm_pipeline.studies.time_r1.report import page as pages
from tsfm_pipeline.studies.time_r1.report import tables, training_words, words
from tsfm_pipeline.studies.time_r1.report.bars import bars
from tsfm_pipeline.studies.time_r1.report.figures import example_figure
from tsfm_pipeline.studies.time_r1.report.model import SlowThinkingReport
from tsfm_pipeline.studies.time_r1.report.page import FIGURES, render, write_report
from tsfm_pipeline.studies.time_r1.report.sections import sections, summary

pytestmark = pytest.mark.heavy
LARGEST_PAGE = 3_000_000
"""Bytes; the made page has as many curves and examples as a real one."""


def empty(report: SlowThinkingReport) -> SlowThinkingReport:
    """The report of a recipe of which nothing was run."""
    nothing = {**dict.fromkeys(SlowThinkingReport.tables(), ()), "exact_kl": Estimate()}
    return report.model_copy(update=nothing)


class Elements(HTMLParser):
    """The text of a page, its ids and links, and the tags around each figure and table."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.open: list[tuple[str, str]] = []
        self.around: list[tuple[str, set[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag == "a":
            self.links.add(given["href"])
        if tag in ("svg", "table"):
            self.around.append((tag, {name for _, name in self.open}))
        if tag not in ("meta", "br"):
            self.open.append((tag, given.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip() and not {"style", "title"} & {tag for tag, _ in self.open}:
            self.texts.append(" ".join(data.split()))


def read(page: str) -> Elements:
    parser = Elements()
    parser.feed(page)
    return parser


def test_the_first_five_lines_answer_the_question(won: SlowThinkingReport, page: str) -> None:
    lines = dict(words.first_lines(won))
    assert list(lines) == [
        "Slow thinking",
        "Without a draft",
        "GRIP's share",
        "Form and KL",
        "Cost",
    ]
    for title in ("the draft", "seasonal naive", "the four-day mean"):
        assert f"that of {title} (ratio " in lines["Slow thinking"]
    assert lines["Slow thinking"].count(" to ") == 4, "every figure has its interval"
    assert "greedy SFT without a draft" in lines["Without a draft"]
    for title in ("the median of SFT with the draft", "more SFT", "GRPO"):
        assert title in lines["GRIP's share"]
    assert "99.7 % without and 100.0 % with a grammar" in lines["Form and KL"]
    assert "nats per token" in lines["Form and KL"]
    assert "460 ms at the 95th percentile: 16 answers, 1,120 tokens" in lines["Cost"]
    texts = read(page).texts
    start = texts.index("Slow thinking")
    assert texts[start : start + 10 : 2] == list(lines)
    assert start <= 4, "nothing but title, kicker and verdict stands before"


def test_no_abbreviation_of_the_first_lines_is_left_unexplained(won: SlowThinkingReport) -> None:
    texts = [words.context(won), *(" ".join(line) for line in words.first_lines(won))]
    short = set(re.findall(r"\b[A-Z]{2,}\b|\bk3\b", " ".join(texts)))
    assert {"MASE", "SFT", "GRIP", "GRPO", "KL"} <= short
    explained = {word for row in tables.glossary().rows for word in row[0].split()}
    assert short <= explained


def test_a_win_a_null_and_a_loss_are_said_plainly(
    won: SlowThinkingReport, null: SlowThinkingReport, lost: SlowThinkingReport
) -> None:
    said = {
        report: (words.verdict_answer(report).effect, words.slow_thinking_line(report))
        for report in (won, null, lost)
    }
    assert [effect for effect, _ in said.values()] == ["gain", "null", "loss"]
    for (_, line), word in zip(
        said.values(), ("lower", "not distinguishable", "higher"), strict=True
    ):
        assert f"{word} {'from ' if 'not' in word else 'than '}that of the draft (ratio" in line
    assert "a lower MASE than the draft" in words.baseline_sentence(won)
    assert "no difference is shown from the draft" in words.baseline_sentence(null)
    assert re.search("higher MASE than the draft", words.baseline_sentence(lost))
    ((word, text),) = words.null_points(won)
    assert word == "not shown"
    assert "slow thinking in one pass" in text
    assert ("not shown", "GRIP raises the reward on validation windows.") in words.null_points(null)
    kinds = [word for word, _ in words.null_points(lost)]
    assert kinds.count("no") >= 4
    assert f"Answered with no: {kinds.count('no')}" in words.null_sentence(lost)
    assert any("Without the gate" in text for _, text in words.null_points(lost))


def test_without_an_interval_nothing_is_said_to_differ(won: SlowThinkingReport) -> None:
    assert (
        words.compared(Estimate(0.5), "x") == "without an interval against that of x (ratio 0.500)"
    )
    assert words.compared(Estimate(), "x") == ""
    bare = tuple(
        row.model_copy(update={"ratio": Estimate(row.ratio.figure)})
        for row in won.table_comparisons
    )
    report = won.model_copy(update={"table_comparisons": bare})
    assert words.verdict_answer(report).effect == "unknown"
    assert "cannot be said" in words.verdict_answer(report).sentence
    assert not re.search("lower|higher", words.baseline_sentence(report))


def test_the_words_of_trainings_follow_their_figures(
    won: SlowThinkingReport, null: SlowThinkingReport, lost: SlowThinkingReport
) -> None:
    assert "GRIP: the validation reward rose, from" in training_words.reward_sentence(won)
    assert "did not rise by more than two standard errors" in training_words.reward_sentence(null)
    assert "no step is better than none" in training_words.reward_sentence(lost)
    assert "tags 0.0300, reason 0.200, numbers 2.50" in training_words.training_sentence(won)
    terms = training_words.terms_sentence(won)
    same = [row.model_copy(update={"variance_share": 0.0}) for row in won.table_terms]
    flat = won.model_copy(update={"table_terms": tuple(same)})
    assert "never differed" in training_words.terms_sentence(flat)
    assert terms.index("squared error") < terms.index("format") < terms.index("trend −")
    assert "2 windows fell back to the draft" in training_words.failures_sentence(won)
    assert "truncated 4, too few 2" in training_words.failures_sentence(won)
    assert "6.4 %" in training_words.model_sentence(won)


def test_the_gate_is_told_with_what_others_would_gain(won: SlowThinkingReport) -> None:
    said = words.gate_sentence(won)
    right = sum(row.n for row in won.table_gate[:2])
    assert f"rightly in {right} windows" in said
    assert "with an oracle" in said
    assert said.count(" to ") == 4


def test_what_further_passes_add_is_a_row_and_a_sentence(won: SlowThinkingReport) -> None:
    (row,) = (r for r in won.comparisons(SLOW_THINKING) if r.reference == SLOW_THINKING_ONE_PASS)
    assert row.ratio.low < row.ratio.figure < row.ratio.high
    (cells,) = (
        cells
        for cells in tables.comparisons(won, SLOW_THINKING).rows
        if cells[0] == "slow thinking in one pass"
    )
    assert cells[1] in words.passes_sentence(won)


def test_questions_are_counted_by_how_they_are_answered(
    won: SlowThinkingReport, null: SlowThinkingReport
) -> None:
    assert re.search("has a lower MASE than its draft on [1-9]", words.across_sentence(won))
    assert "a MASE that cannot be told from its draft's on" in words.across_sentence(null)
    for report in (won, null):
        assert "on 0" not in words.across_sentence(report)
    assert words.across_sentence(empty(won)).endswith("on no question.")


def test_the_distance_is_told_exactly_and_by_its_estimate(
    won: SlowThinkingReport, page: str
) -> None:
    rows = tables.divergence(won).rows
    assert [row[0].split()[0] for row in rows] == ["exact", "estimated"]
    assert rows[0][1:] == ("30", interval(*won.exact_kl))
    assert rows[1][2] == interval(*won.k3)
    assert words.KL_NOTE in read(page).texts
    for text in (words.form_line(won), *tables.divergence(won).columns, bars(won)[4].asked):
        assert "nats per token" not in text or "nats per token of the answer" in text


def test_no_sentence_calls_anything_better(
    won: SlowThinkingReport, null: SlowThinkingReport, lost: SlowThinkingReport, page: str
) -> None:
    for report in (won, null, lost):
        texts = [text for _, text in words.first_lines(report)]
        texts += [text for _, text in words.null_points(report)]
        assert not re.search(r"\b(better|best|beats?|improves?)\b", " ".join(texts), re.I)
    assert not re.search(r"\b(better|beats?|state of the art)\b", " ".join(read(page).texts), re.I)


def test_bars_are_judged_by_their_figures(
    won: SlowThinkingReport, lost: SlowThinkingReport, page: str
) -> None:
    assert [bar.met for bar in bars(won)] == [True] * 5 + [None] + [True] * 2
    assert [bar.met for bar in bars(lost)][:2] == [False, True]
    assert bars(lost)[-1].met is False, "GRIP never raised its reward"
    assert "Bars met: 7 of 8; missed: 0; not measured: 1" in page
    own = won.model_copy(update={"data_set": "ETTh1", "horizon": 24})
    assert len(bars(own)) == 8, "no method was evaluated on that question"
    rows = tuple(
        row.model_copy(update={"data_set": "ETTh1", "horizon": 24}) for row in won.methods()
    )
    own = own.model_copy(update={"table_methods": rows})
    assert [bar.met for bar in bars(own)][:4] == [True, True, None, None]
    assert {bar.met for bar in bars(empty(won))} == {None}


def test_checks_of_the_data_are_told_with_what_is_not_pinned(
    won: SlowThinkingReport, page: str
) -> None:
    said = words.checks_sentence(won)
    assert "The checks found nothing. Every data set that was used is pinned" in said
    assert said in read(page).texts
    made, wind = won.table_data_sets
    drifted = made.model_copy(update={"pinned": False, "problems": ("the mean changed",)})
    report = won.model_copy(update={"table_data_sets": (drifted, wind)})
    said = words.checks_sentence(report)
    assert "The checks found: the mean changed." in said
    assert "Not pinned, because no digest is known: made." in said
    (row, _) = tables.data_sets(report).rows
    assert row[3] == "not pinned"
    assert row[-1] == "the mean changed"


def test_only_requests_of_128_steps_judge_the_latency(won: SlowThinkingReport) -> None:
    def judged(horizon: int, p95_ms: float) -> tuple[bool | None, str]:
        (slow,) = (row for row in won.table_costs if row.method == SLOW_THINKING)
        costs = (slow.model_copy(update={"p95_ms": p95_ms}),)
        report = won.model_copy(update={"horizon": horizon, "table_costs": costs})
        (bar,) = (bar for bar in bars(report) if bar.asked.startswith("Latency of a request of"))
        return bar.met, bar.measured

    assert judged(128, 460.0) == (True, "460 ms")
    assert judged(128, 1501.0)[0] is False
    for horizon in (8, 24, 96):
        assert judged(horizon, 460.0) == (None, f"460 ms with {horizon} steps")
        assert judged(horizon, 9000.0)[0] is None


def test_missing_data_sets_are_named(won: SlowThinkingReport, page: str) -> None:
    assert words.data_sentence(won) == "Data sets used: 1 of 2. Missing: wind."
    assert "not on this machine" in page


def test_every_sentence_figure_and_table_stands_without_results(won: SlowThinkingReport) -> None:
    nothing = empty(won)
    for section in sections(nothing):
        assert section.title.endswith("?")
    shown = " ".join(read(render(nothing)).texts)
    assert not re.search(r"\bnan\b", shown)
    assert summary(nothing).startswith("1. Slow thinking was not evaluated.")
    for draw in FIGURES:
        texts = " ".join(ElementTree.fromstring(to_svg(draw(nothing))).itertext())
        assert re.search(r"\bno\b", texts)


def test_the_summary_has_the_five_lines_and_every_method(won: SlowThinkingReport) -> None:
    text = summary(won)
    assert [line[:2] for line in text.splitlines()[:5]] == ["1.", "2.", "3.", "4.", "5."]
    for method in METHODS.values():
        assert method.title in text


def test_figures_are_labelled_and_the_same_each_time(won: SlowThinkingReport, page: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawn) == len(FIGURES) + len(won.table_gallery)
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert len(str(root.get("aria-label"))) > 10
    assert to_svg(FIGURES[3](won)) in drawn
    assert to_svg(example_figure(won.table_gallery[0])) in drawn


def test_the_forest_shows_every_method(won: SlowThinkingReport) -> None:
    left, right = FIGURES[0](won).axes
    points = {
        float(x) for line in left.lines if len(line.get_xdata()) == 1 for x in line.get_xdata()
    }
    assert points == {row.mase.figure for row in won.methods()}
    limits = right.get_xlim()
    inside = {
        won.over(DRAFT, row.method).figure
        for row in won.methods()
        if limits[0] <= won.over(DRAFT, row.method).figure <= limits[1]
    }
    drawn = {float(line.get_xdata()[0]) for line in right.lines if len(line.get_xdata()) == 1}
    assert inside <= drawn


def test_the_gallery_tells_reasoning_and_decision(won: SlowThinkingReport, page: str) -> None:
    title, details = words.example_caption(won, 0)
    row = won.table_gallery[0]
    assert title == f"Lower error: {row.channel}, row {row.origin}"
    assert "Reasoning: “The last day lay 0.31 deviations higher." in details
    assert ("kept the refined answer" in details) == row.kept
    assert page.count("Reasoning: “") == len(won.table_gallery) >= 4


def test_the_page_is_one_small_file_without_network(page: str) -> None:
    assert len(page.encode()) < LARGEST_PAGE
    assert "://" not in page
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    parser = read(page)
    assert len(parser.links) == len({link for link in parser.links if link.startswith("#")}) == 13
    assert {link.removeprefix("#") for link in parser.links} <= parser.ids
    assert "&lt;script&gt; recipe" in page


def test_narrow_screens_scroll_what_is_wide(page: str) -> None:
    assert 'name="viewport" content="width=device-width' in page
    found = read(page).around
    assert {tag for tag, _ in found} == {"svg", "table"}
    for _, classes in found:
        assert classes & {"scroll", "gallery"}


def test_json_page_and_figures_are_written_beside_each_other(
    won: SlowThinkingReport, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "render", lambda given: page if given is won else "")
    monkeypatch.setattr(pages, "FIGURES", FIGURES[3:4])
    path = write_report(tmp_path / "made", won)
    assert path.read_text(encoding="utf-8") == page
    content = json.loads((path.parent / "slow_thinking_report.json").read_text())
    assert content["recipe"] == "made"
    assert [each.stem for each in path.parent.glob("*.png")] == ["gate_figure"]
