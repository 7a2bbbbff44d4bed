"""Test that the documentation builds in strict mode, and that its pages load nothing from other
sites.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tsfm_pipeline.settings import PROJECT_ROOT

pytest.importorskip(
    "material", reason="mkdocs-material is not installed; it is part of the extra 'dev'"
)

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_of_the_navigation_is_built(site: Path) -> None:
    named = re.findall(r"([\w/-]+)\.md", (PROJECT_ROOT / "mkdocs.yml").read_text())
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {f"{name}.html" for name in named} <= built
    assert list(site.rglob("*.py")) == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = re.compile(
        r"""(?:src|srcset|data|action)=["']?\s*(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//"""
    )
    styled = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""")
    # What the theme's script would fetch for: diagrams, a repository's stars, comments.
    asked = re.compile(
        r"""class="mermaid"|data-md-component="source"|<iframe|<script[^>]+src=["']?http"""
    )
    for path in site.rglob("*.html"):
        text = path.read_text()
        for pattern in (loaded, styled, asked):
            assert pattern.search(text) is None, f"{path.name}: {pattern.search(text)}"
    for path in (*site.rglob("*.css"), *site.rglob("*.svg")):
        assert styled.search(path.read_text()) is None, path.name


def test_the_search_knows_the_pages(site: Path) -> None:
    assert "worked_example.py" in (site / "search" / "search_index.json").read_text()
