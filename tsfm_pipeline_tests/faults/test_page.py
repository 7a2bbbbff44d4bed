"""Test that docs/reliability.md names only tests that exist, and names every test of this folder."""

import ast
import re
from pathlib import Path

from tsfm_pipeline.settings import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "reliability.md"
TESTS = Path(__file__).parent.parent
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))


def named_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_the_page_names_exists() -> None:
    assert [f"{file}::{name}" for file, name in NAMED if name not in named_in(TESTS / file)] == []


def test_every_test_of_this_folder_stands_on_the_page() -> None:
    ours = {
        (f"faults/{path.name}", name)
        for path in Path(__file__).parent.glob("test_*.py")
        for name in named_in(path)
    }
    assert {(file, name) for file, name in ours if file != "faults/test_page.py"} - set(
        NAMED
    ) == set()


def test_every_row_of_the_page_names_a_test() -> None:
    rows = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| fault |")
    ]
    assert len(rows) > 30
    assert [row for row in rows if "::test_" not in row] == []
