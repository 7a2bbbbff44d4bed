"""Test docs/security.md: every threat has a test, and every test that it names is one.

What belongs here: the page. What does not: the tests that it names.
"""

import ast
import re

import pytest

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.docs.pages import DOCS

TESTS = PROJECT_ROOT / "tsfm_pipeline_tests"
TEXT = (DOCS / "security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \*\*(\w[\w ]*)\*\*[^|]*\|([^|]*)\|([^|]*)\|$", TEXT, re.MULTILINE)
THREATS = (
    *("Auth", "Size", "Gzip bomb", "Headers", "Path", "Log injection", "Pickle", "Secrets"),
    *("SSRF", "Load"),
)


@pytest.mark.parametrize("threat", THREATS)
def test_a_threat_is_named(threat: str) -> None:
    assert threat in {name for name, _, _ in ROWS}


@pytest.mark.parametrize(
    ("threat", "tests"), [(name, tests) for name, _, tests in ROWS], ids=lambda part: part[:40]
)
def test_every_test_of_a_threat_exists_and_is_run(threat: str, tests: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named, threat
    assert len(named) == tests.count("`") // 2
    for file, function in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        (found,) = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
        ]
        marks = " ".join(ast.unparse(mark) for mark in found.decorator_list)
        assert not re.search(r"\bskip\b|xfail", marks), function


def test_the_policy_and_the_page_know_each_other() -> None:
    assert "docs/security.md" in (PROJECT_ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "SECURITY.md" in TEXT
