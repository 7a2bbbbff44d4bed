"""Test that every row of what the services before this one fixed is kept by a test, or named in
docs/serving.md with the reason why this one answers differently.

What belongs here: the list of rows, and finding them. What does not: the behaviour, which the tests
with these ids state.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.docs.pages import DOCS

TESTS = PROJECT_ROOT / "tsfm_pipeline_tests"
ROOMS = ("serving", "evaluation", "baselines", "deploy")
ROWS = (
    *(f"F{i}" for i in range(1, 14)),
    *("C1", "C2", "C3", "B1", "B2", "G1", "R1", "K1", "K2", "K3", "E1", "E2", "W1"),
    *("A1", "A2", "M1", "M2", "L1", "T1"),
)
"""What their code and tests fix: forecasts, cache, breaker, degradation, routes, calibration,
evaluation, baselines, access, metrics, licences, settings.
"""
DEFECTS = tuple(f"D-{i}" for i in range(1, 20))
"""What was wrong there."""
TEXT = (DOCS / "serving.md").read_text(encoding="utf-8")
DIFFERS = "### Where this service answers differently, and why"
MENDED = "### What was wrong there, and the test that it is not here"


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = TEXT.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [row for row in section.splitlines() if row.startswith("| ")][1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@cache
def ids_in_tests() -> frozenset[str]:
    """The ids in the names and docstrings of tests, as in `test_f3_...` or "row F3", `d4` for D-4."""
    found: set[str] = set()
    for file in (file for room in ROOMS for file in (TESTS / room).rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if not node.name.startswith("test_"):
                    continue
                found |= set(re.findall(r"_([a-z]\d{1,2})(?=_|$)", node.name))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
                ids = re.findall(r"\b([A-Z]-?\d{1,2})\b", ast.get_docstring(node) or "")
                found |= {name.replace("-", "").lower() for name in ids}
    return frozenset(found)


def differing() -> set[str]:
    return {name for row in table(DIFFERS) for name in row[0].split(", ")}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_a_test_or_a_reason(row: str) -> None:
    assert row.lower() in ids_in_tests() or row in differing()


def test_every_difference_is_of_a_row_and_has_a_reason() -> None:
    assert differing() <= {*ROWS}
    assert all(len(row) == 4 and all(row) for row in table(DIFFERS))


def test_every_defect_has_a_line_with_its_test() -> None:
    lines = table(MENDED)
    assert [row[0] for row in lines] == list(DEFECTS)
    for name, wrong, test in lines:
        assert wrong, name
        file, _, function = test.strip("`").partition("::")
        assert f"def {function}(" in (TESTS / file).read_text(encoding="utf-8"), name


def test_an_id_is_found_in_names_and_docstrings_only(tmp_path: Path) -> None:
    assert {"f13", "d4", "d5", "e1"} <= ids_in_tests()
    assert not {"f0", "f14", "z9", "d20"} & ids_in_tests()
