"""Test that the pages agree with the code: criteria, names of tests, the worked example, and the
README's Python.
"""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tsfm_pipeline.reports.acceptance.criteria import CRITERIA
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.docs.pages import DOCS, PAGES, blocks

TESTS = PROJECT_ROOT / "tsfm_pipeline_tests"
TOLERANCE = 0.03
"""Between machines, figures of the worked example may differ in their last digit; weights are the
most sensitive.
"""


@pytest.fixture(scope="module")
def worked_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "worked_example", DOCS / "figures" / "worked_example.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def cells(text: str) -> list[list[str]]:
    """The rows of every Markdown table in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip(" *`") for cell in line.strip().strip("|").split("|")] for line in lines]


def test_the_criteria_of_the_page_are_those_that_are_judged() -> None:
    rows = [
        row
        for row in cells((DOCS / "evidence-protocol.md").read_text())
        if re.fullmatch(r"C\d+", row[0])
    ]
    assert rows == [
        [name, criterion.title, criterion.target] for name, criterion in CRITERIA.items()
    ]


def test_every_test_that_a_page_names_is_there() -> None:
    named = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(r"`([\w/]+\.py(?:::\w+)?)`", page.read_text())
    }
    tests = {(page, *name.split("::")) for page, name in named if "::" in name}
    absent = [
        name
        for _, file, name in tests
        if not (TESTS / file).exists() or f"def {name}" not in (TESTS / file).read_text()
    ]
    assert absent == []
    assert len(tests) >= len(CRITERIA)


@pytest.mark.heavy
def test_the_worked_example_gives_the_figures_of_the_page(
    worked_example: ModuleType, tmp_path: Path
) -> None:
    page = (DOCS / "how-the-search-works.md").read_text()
    found = worked_example.example()
    printed = worked_example.table(found)
    head = printed.splitlines()[0]
    stated = page[page.index(head) :].split("\n\n")[0]
    numbers = [
        [float(cell) for row in cells(text)[2:] for cell in row[1:] if cell]
        for text in (printed, stated)
    ]
    assert [row[0] for row in cells(printed)] == [row[0] for row in cells(stated)]
    np.testing.assert_allclose(*numbers, rtol=TOLERANCE, atol=TOLERANCE)
    costs, own = found.costs
    assert own < costs.min(), "the page says that the average did better than each of them alone"
    drawn = {
        "worked_evidence": worked_example.evidence_figure(found),
        "worked_forecast": worked_example.forecast_figure(found),
    }
    worked_example.write(drawn, tmp_path)
    for name in drawn:
        words = [
            set(re.findall(r">([^<>\n]{4,})</text>", (folder / f"{name}.svg").read_text()))
            for folder in (tmp_path, DOCS / "figures")
        ]
        assert words[0] == words[1], (
            f"docs/figures/{name}.svg is another figure; run python docs/figures/worked_example.py"
        )


def test_the_map_of_rooms_shows_every_asset(worked_example: ModuleType) -> None:
    shown = (DOCS / "figures" / "rooms.svg").read_text()
    absent = [
        name
        for names in worked_example.asset_groups().values()
        for name in names
        if f">{name}<" not in shown
    ]
    assert absent == [], "run python docs/figures/worked_example.py"


def test_the_lines_of_python_in_the_readme_forecast() -> None:
    (block,) = blocks(PROJECT_ROOT / "README.md", "python")
    values = np.random.default_rng(0).random((2, 1500)).astype(np.float32)
    names: dict[str, object] = {"values": values, "origins": np.array([800, 1499])}
    exec(block.text, names)
    grid = names["grid"]
    assert isinstance(grid, np.ndarray)
    assert grid.shape == (2, 2, 1, 60, 10)
    assert np.isfinite(grid).all()


def test_every_page_is_in_the_navigation_and_linked_from_the_readme_or_another_page() -> None:
    navigation = (PROJECT_ROOT / "mkdocs.yml").read_text()
    texts = {page.name: page.read_text() for page in PAGES}
    for page in (page.name for page in PAGES if page.name not in ("README.md", "index.md")):
        assert page in navigation
        assert any(page in text for name, text in texts.items() if name != page), (
            f"nothing links to {page}"
        )
