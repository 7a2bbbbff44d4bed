"""Test the report's sentences, figures and page.

What belongs here: what a reader sees. What does not: numbers (`test_numbers`).
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline.studies.direction.report import page as pages
from tsfm_pipeline.studies.direction.report import words
from tsfm_pipeline.studies.direction.report.figures import FIGURES
from tsfm_pipeline.studies.direction.report.model import DirectionReport, VerdictKind
from tsfm_pipeline.studies.direction.report.page import render, write_report
from tsfm_pipeline.studies.direction.report.sections import sections, summary

pytestmark = pytest.mark.heavy
PROMISES = re.compile(
    r"profit|tradable|tradeable|beat the market|returns? of \d|buy|sell|outperform|guarantee", re.I
)


def empty(report: DirectionReport) -> DirectionReport:
    """The report of a market without any scorer."""
    return report.model_copy(
        update={**dict.fromkeys(DirectionReport.tables(), ()), "n_variants": 0, "reasons": ()}
    )


class Words(HTMLParser):
    """The text of a page in reading order, its ids, and the addresses that it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.skipped = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.skipped = tag in ("style", "title")
        if given.get("id"):
            self.ids.add(str(given["id"]))
        if tag == "a":
            self.links.add(str(given["href"]))

    def handle_data(self, data: str) -> None:
        if data.strip() and not self.skipped:
            self.texts.append(" ".join(data.split()))


def read(page: str) -> Words:
    parser = Words()
    parser.feed(page)
    return parser


def test_the_first_five_lines_answer_the_question(report: DirectionReport, page: str) -> None:
    lines = dict(words.first_lines(report))
    assert list(lines) == ["Base rate", "Volatility", "Models", "Direction", "Variants"]
    touch, sign = report.target("touch_up"), report.target("sign")
    volatility = report.score("volatility_logit", "touch_up")
    assert touch is not None
    assert sign is not None
    assert volatility is not None
    assert f"{touch.n_days:,} test days" in lines["Base rate"]
    assert words.auc_text(volatility.auc) in lines["Volatility"]
    for family in ("PatchTST", "its mean", "its spread", "its P", "probe", "fine-tuned"):
        assert family in lines["Models"]
    assert lines["Models"].count("(") == lines["Models"].count(" to ") == 6
    assert re.match(r"No: .*\.\d{3} \(\.\d{3} to \.\d{3}\)", lines["Direction"])
    assert lines["Variants"].startswith(f"{report.n_variants} variants")
    texts = read(page).texts
    start = texts.index("Base rate")
    assert texts[start : start + 10 : 2] == list(lines)
    assert start <= 4, "nothing but title, kicker and verdict stands before"


@pytest.mark.parametrize(
    ("verdict", "headline", "effect", "opening"),
    [
        ("direction", "direction, confirmed on a second market", "gain", "Yes, some"),
        ("volatility only", "volatility only", "null", "No"),
        ("nothing", "nothing", "null", "No"),
        ("undecided", "undecided: too few days", "unknown", "Not decided"),
    ],
)
def test_the_verdict_leads(
    report: DirectionReport, verdict: VerdictKind, headline: str, effect: str, opening: str
) -> None:
    changed = report.model_copy(update={"verdict": verdict, "headline": headline})
    answer = words.verdict_answer(changed)
    assert answer.effect == effect
    assert words.direction_line(changed).startswith(f"{opening}: ")
    if verdict == "undecided":
        assert answer.sentence == "Undecided: too few days"


def test_reasons_name_scorers_as_people_do(report: DirectionReport) -> None:
    (_, touch), (_, sign) = words.reason_points(report)
    assert touch.startswith("On touch up, volatility logit (1 day ahead)")
    assert "fine-tuned: labels (5 days ahead)" in sign


def test_aucs_and_differences_are_written_as_such() -> None:
    assert words.auc_text(Estimate(0.7871, 0.766, 0.807)) == ".787 (.766 to .807)"
    assert words.auc_text(Estimate(1.0, 0.99, 1.0)) == "1.000 (.990 to 1.000)"
    assert words.difference_text(Estimate(-0.029, -0.039, 0.021)) == "−.029 (−.039 to +.021)"
    assert words.difference_text(Estimate(-0.0001, -0.01, 0.01)) == ".000 (−.010 to +.010)"
    assert words.difference_text(Estimate(0, 0, 0)) == words.auc_text(Estimate()) == "–"
    assert words.rate_text(3e-5) == "3e−5"
    assert words.gate_text(0.60) == ".60"


def test_the_gates_say_what_they_measure(report: DirectionReport) -> None:
    assert "volatility logit, which is no foundation model" in words.gate_sentence(report)
    assert "Same days: −RSI .723" in words.gate_side_note()


def test_no_text_promises_a_signal(report: DirectionReport, page: str) -> None:
    found = report.model_copy(update={"verdict": "direction", "headline": "direction"})
    lines = [words.verdict_answer(found).sentence, words.direction_line(found)]
    said = " ".join([*read(page).texts, *lines])
    assert not PROMISES.search(said), PROMISES.search(said)
    assert words.NO_PROMISE in said


def test_a_simulated_market_tells_its_truth(report: DirectionReport, page: str) -> None:
    assert "the truth is known: persistent volatility, no direction." in page
    assert not words.truth_sentence(report.model_copy(update={"simulated_truth": ""}))


def test_every_sentence_and_table_stands_without_scorers(report: DirectionReport) -> None:
    nothing = empty(report)
    for section in sections(nothing):
        assert section.title.endswith("?")
    assert "nan" not in " ".join(read(render(nothing)).texts)
    assert summary(nothing)


def test_the_summary_has_the_five_lines_and_the_main_tables(report: DirectionReport) -> None:
    text = summary(report)
    assert text.count("\n1. ") + text.startswith("1. ") == 1
    assert "5. 16 variants" in text
    assert text.count("**volatility logit**") == 2


def test_figures_are_labelled_and_the_same_each_time(report: DirectionReport, page: str) -> None:
    for draw in FIGURES:
        svg = to_svg(draw(report))
        assert svg in page
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert len(str(root.get("aria-label"))) > 10


def test_figures_without_scorers_say_why_they_are_empty(report: DirectionReport) -> None:
    nothing = empty(report)
    for draw in FIGURES:
        texts = " ".join(ElementTree.fromstring(to_svg(draw(nothing))).itertext())
        assert re.search(r"no|nothing", texts)


def test_the_forest_shows_both_questions_side_by_side(report: DirectionReport) -> None:
    figure = FIGURES[0](report)
    touch, sign = figure.axes
    for axes, label in ((touch, "touch_up"), (sign, "sign")):
        drawn = {
            float(x) for line in axes.lines if len(line.get_xdata()) == 1 for x in line.get_xdata()
        }
        assert drawn == {row.auc.figure for row in report.scores(label)}


def test_the_page_is_one_file_whose_links_lead_to_its_own_sections(page: str) -> None:
    assert "://" not in page
    parser = read(page)
    assert len(parser.links) == 9
    assert {link.removeprefix("#") for link in parser.links} <= parser.ids


def test_what_a_market_file_says_is_shown_as_text(page: str) -> None:
    assert "<script>" not in page
    assert "&lt;script&gt; market made for tests" in page


def test_json_page_and_figures_are_written_beside_each_other(
    report: DirectionReport, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "render", lambda given: page if given is report else "")
    monkeypatch.setattr(pages, "FIGURES", FIGURES[-1:])
    path = write_report(tmp_path / "made", report)
    assert path.read_text(encoding="utf-8") == page
    content = json.loads((path.parent / "direction_report.json").read_text())
    assert content["verdict"] == "volatility only"
    assert [each.stem for each in path.parent.glob("*.png")] == ["learning_rate_figure"]
