"""Test that the checks of a data set see what reading or cutting it did to its values, and that
somebody is told.

What belongs here: faults that are injected on the way from a file to windows, and where they are
said. What does not: the comparison of two arrays (`test_r1_quality`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1 import making, operations, scope
from tsfm_pipeline.studies.time_r1.definitions import REPORT, as_described, build_definitions
from tsfm_pipeline.studies.time_r1.making import data_set_facts
from tsfm_pipeline.studies.time_r1.quality import problems_of
from tsfm_pipeline.studies.time_r1.report.numbers import slow_thinking_report_of
from tsfm_pipeline.studies.time_r1.scope import SCOPE
from tsfm_pipeline.studies.time_r1.sources import Series, SourceError, read
from tsfm_pipeline.studies.time_r1.splits import windows_of
from tsfm_pipeline.studies.time_r1.tables import FACTS, TABLES
from tsfm_pipeline.studies.time_r1.windows import Windows
from tsfm_pipeline_tests.studies.time_r1.real_sets import hourly_table, table_set
from tsfm_pipeline_tests.studies.time_r1.report import made
from tsfm_pipeline_tests.studies.time_r1.small_recipe import write_recipe


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A recipe that is asked about one file of hours, whose digest is not known beforehand."""
    file = tmp_path / "mine.csv"
    hourly_table(400).write_csv(file)
    settings = write_recipe(tmp_path / "data", train=["mine"], evaluate=["mine"], look_back=24)
    described = table_set(file, season=24).model_dump(mode="json", exclude={"name"})
    path = settings.data_dir / "time_r1" / "datasets.yaml"
    path.write_text(yaml.safe_dump({"mine": described}))
    return settings


def found(settings: Settings) -> tuple[str, ...]:
    """What the checks find about the file."""
    return problems_of(data_set_facts(SCOPE.open(settings, "small")))["mine"]


def inject(monkeypatch: pytest.MonkeyPatch, where: str, change: Any) -> None:
    """Change the values of the channel `oil` while the file is read, or in windows of it."""

    def changed_series(*arguments: Any) -> Series:
        series = read(*arguments)
        values = series.values.copy()
        values[:, 1] = change(values[:, 1])
        return replace(series, values=values)

    def changed_windows(*arguments: Any, **fields: Any) -> Windows:
        windows = windows_of(*arguments, **fields)
        return replace(windows, truth=change(windows.truth))

    if where == "reading":
        monkeypatch.setattr(scope, "read", changed_series)
    else:
        monkeypatch.setattr(making, "windows_of", changed_windows)


def with_infinity(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flat[-7] = np.inf
    return values


def test_what_is_read_and_cut_as_it_lies_there_has_no_problem(settings: Settings) -> None:
    assert found(settings) == ()


@pytest.mark.parametrize("where", ["reading", "cutting"])
@pytest.mark.parametrize(
    "change", [with_infinity, lambda values: 1.01 * values, lambda values: values + 0.2]
)
def test_an_infinity_and_a_wrong_scale_are_seen(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, where: str, change: Any
) -> None:
    inject(monkeypatch, where, change)
    problems = found(settings)
    assert any(
        problem.startswith("data set 'mine', channel 'oil': the ") and " changed from " in problem
        for problem in problems
    ), problems
    if where == "reading":
        assert not any("'load'" in problem for problem in problems)


def test_an_infinity_in_the_file_is_refused_before_any_check(settings: Settings) -> None:
    file = settings.data_dir.parent / "mine.csv"
    first, row, *rows = file.read_text().splitlines()
    file.write_text("\n".join([first, row.rpartition(",")[0] + ",inf", *rows]))
    with pytest.raises(SourceError, match=r"column 'oil', row 1: 'inf' is not finite"):
        found(settings)


def test_a_run_says_what_the_checks_found(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "TABLES", {FACTS: TABLES[FACTS]})
    monkeypatch.setattr(operations, "finish", lambda _: (None, Path("report.html")))
    inject(monkeypatch, "reading", lambda values: 1.01 * values)
    for _ in range(2):  # the table is current the second time
        told: list[str] = []
        operations.run_recipe(settings, "small", told.append)
        alarms = [line for line in told if line.startswith("check failed: data set 'mine', ")]
        assert alarms


def test_the_report_has_what_was_found_and_that_a_file_is_not_pinned(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, "reading", lambda values: 1.01 * values)
    experiment = SCOPE.open(settings, "small")
    monkeypatch.setattr(operations, "TABLES", {FACTS: TABLES[FACTS]})
    monkeypatch.setattr(operations, "finish", lambda _: (None, Path("report.html")))
    operations.run_recipe(settings, "small")
    (note,) = operations.data_set_notes(experiment)
    assert not note.pinned
    assert "channel 'oil': the standard deviation changed from" in note.problems[0]


@pytest.mark.heavy
def test_the_asset_of_the_report_warns() -> None:
    won = slow_thinking_report_of(made.evidence())
    row = won.table_data_sets[0]
    drifted = row.model_copy(update={"problems": ("the mean changed",)})
    report = won.model_copy(update={"table_data_sets": (drifted,)})
    assert as_described(won).passed
    assert not as_described(report).passed
    graph = build_definitions(Settings()).resolve_asset_graph()
    assert [key.name for key in graph.asset_check_keys if key.asset_key.path == [REPORT]] == [
        "data_as_described"
    ]
