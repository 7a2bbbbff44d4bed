"""Test `tsfm-pipeline report open` and `tsfm-pipeline run`: the path of the report, and the whole
chain.
"""

import sys
import webbrowser
from pathlib import Path

import pytest

import tsfm_pipeline.cli.run
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.cli.commands import Desk

pytestmark = pytest.mark.heavy


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "desk", {})
    desk.run("fleet", "init", desk.table())
    return desk


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser was asked for."""
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or True)
    return asked


def report_of(desk: Desk) -> Path:
    page = desk.data / "reports" / "shop" / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html>")
    return page


def test_the_report_is_printed_and_opened(desk: Desk, opened: list[str]) -> None:
    page = report_of(desk)
    done = desk.run("report", "open", "shop")
    assert done.exit_code == 0
    assert done.output.strip() == str(page)
    assert opened == [page.as_uri()]


def test_without_a_browser_it_is_only_printed(desk: Desk, opened: list[str]) -> None:
    page = report_of(desk)
    assert desk.run("report", "open", "shop", "--no-browser").output.strip() == str(page)
    assert opened == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shop", "tsfm-pipeline run shop"),
        ("nobody", "demo, shop, smd"),
        ("../shop", "demo, shop, smd"),
    ],
)
def test_a_report_that_is_not_there_says_how_to_make_it(
    desk: Desk, opened: list[str], name: str, words: str
) -> None:
    done = desk.run("report", "open", name)
    assert done.exit_code == 2
    assert words in done.output
    assert opened == []


def test_run_is_the_whole_chain_and_passes_its_status_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        tsfm_pipeline.cli.run, "main", lambda arguments: asked.append(arguments) or 7
    )
    assert desk.run("run", "shop").exit_code == 7
    assert asked == [["shop"]]
    monkeypatch.undo()
    unknown = desk.run("run", "nobody")
    assert unknown.exit_code == 2


def test_a_run_finds_dagsters_settings_beside_the_data_and_leaves_those_that_are_there(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = desk.root / "homes"
    program = desk.root / "dagster"
    program.write_text(f'#!/bin/sh\necho "$DAGSTER_HOME" >>"{told}"\nexit 7\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert desk.run("run", "shop").exit_code == 7
    config = desk.data / ".dagster" / "dagster.yaml"
    assert config.read_text() == (PROJECT_ROOT / "dagster.yaml").read_text()
    config.write_text("telemetry:\n  enabled: false\n")
    desk.run("run", "shop")
    assert config.read_text() == "telemetry:\n  enabled: false\n"
    monkeypatch.setenv("DAGSTER_HOME", str(desk.root / "home"))
    desk.run("run", "shop")
    homes = [config.parent, config.parent, desk.root / "home"]
    assert told.read_text().splitlines() == [str(home) for home in homes]
    assert not homes[-1].exists()
