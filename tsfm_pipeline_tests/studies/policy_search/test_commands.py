"""Test `tsfm-pipeline policy-search`: what it prints, its exit codes, and every command of its page.

What belongs here: the command line. What does not: the study behind it.
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from tsfm_pipeline.plugins import COMMANDS
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.studies.policy_search.commands import application
from tsfm_pipeline.studies.policy_search.drivers.agent import request_messages
from tsfm_pipeline.studies.policy_search.ledger import Ledger
from tsfm_pipeline.studies.policy_search.policy import Policy
from tsfm_pipeline.studies.policy_search.promotion_records import PromotionRecords
from tsfm_pipeline_tests.cli.conftest import add_table_fleet, telemetry
from tsfm_pipeline_tests.docs.pages import DOCS, blocks, commands
from tsfm_pipeline_tests.project import Project
from tsfm_pipeline_tests.studies.policy_search import simulated
from tsfm_pipeline_tests.studies.policy_search.conftest import Study

Run = Callable[..., Result]
PROGRAM = "from tsfm_pipeline.studies.policy_search.commands import application; application()"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run one command below a folder; `output` holds both streams."""

    def one(*arguments: str, data: Path = tmp_path / "data") -> Result:
        environment = {"TSFM_DATA_DIR": str(data), "NO_COLOR": "1", "TERM": "dumb"}
        return CliRunner().invoke(application, list(arguments), env=environment)

    return one


def test_the_program_finds_the_commands_by_their_entry_point() -> None:
    declared = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    assert declared["entry-points"][COMMANDS]["policy-search"] == (
        "tsfm_pipeline.studies.policy_search.commands:application"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status",), "there is no yardstick"),
        (("promote",), "there is no yardstick"),
        (("report",), "there is no yardstick"),
        (("run", "--driver", "random"), "say when to stop"),
        (("run", "--driver", "random", "--hours", "1"), "there is no yardstick"),
    ],
)
@pytest.mark.heavy
def test_what_must_come_first_is_said_without_a_traceback(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    refused = run(*arguments)
    assert refused.exit_code == 2, refused.output
    assert message in refused.output
    assert "Traceback" not in refused.output


@pytest.mark.heavy
def test_a_file_that_is_no_policy_is_refused_and_leaves_no_line(run: Run, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    simulated.sealed(settings)
    policy = tmp_path / "policy.yaml"
    policy.write_text("search:\n  neighbour: 3\n")
    refused = run("try", str(policy), "--describe", "a slip of the pen")
    assert refused.exit_code == 2, refused.output
    assert "neighbour" in refused.output
    assert "neighbours" in refused.output, "the error says what is allowed"
    assert not Ledger(settings).read().height


@pytest.mark.heavy
def test_status_says_the_same_to_people_and_to_programs(run: Run, study: Study) -> None:
    data = study.settings.data_dir
    state = json.loads(run("status", "--json", data=data).output)
    rows = Ledger(study.settings).read(study.yardstick.digest)
    kept = rows.filter(pl.col("status") == "keep").row(-1, named=True)
    assert state["n_experiments"] == rows.height == sum(state["counts"].values())
    assert state["incumbent"]["policy"] == kept["policy"]
    assert state["incumbent"]["changes"] == json.loads(kept["changes"])
    assert state["n_promoted"] == state["n_final_looks"] == study.report.n_promoted
    assert state["in_force"] == study.report.promoted == state["provenance"]["policy"]
    assert [line["experiment"] for line in state["last"]] == rows["experiment"].tail(10).to_list()
    text = run("status", data=data).output
    assert f"incumbent: {kept['policy']}, objective {kept['objective']:.4f}" in text
    assert f"policy in force: {state['in_force']}, promoted" in text
    assert rows["experiment"][-1] in text


@pytest.mark.heavy
def test_no_command_of_a_driver_prints_what_the_confirming_folds_or_test_requests_say(
    run: Run, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsfm_pipeline.studies.policy_search import operations

    monkeypatch.setattr(operations, "require_untouched", lambda *_: None)  # a simulated yardstick
    records = PromotionRecords(study.settings)
    figures = [
        figure
        for promotion in records.read()
        for fleet in promotion.verdict.fleets
        for effect in (fleet.corrected, *fleet.tiers.values(), *fleet.groups.values())
        for figure in (effect.gain, effect.low, effect.high)
    ]
    # As a reason says them, and as JSON does.
    secret = {f"{100 * figure:+.2f} %" for figure in figures}
    secret |= {f"{abs(figure):.7f}" for figure in (*figures, *records.looks()["ratio"])}
    assert len(secret) > 50
    data = study.settings.data_dir
    said = [run("status", data=data).output, run("status", "--json", data=data).output]
    promoted = run("promote", data=data)
    assert promoted.exit_code in (0, 1), promoted.output
    said += [promoted.output, run("promote", "--json", data=data).output]
    said += [message["content"] for message in request_messages(Policy(), records_of(study))]
    for text in said:
        assert len(text) > 50
        assert not {figure for figure in secret if figure in text}


def records_of(study: Study) -> pl.DataFrame:
    return Ledger(study.settings).read(study.yardstick.digest)


@pytest.mark.heavy
def test_without_a_better_policy_there_is_nothing_to_promote(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsfm_pipeline.studies.policy_search import operations

    monkeypatch.setattr(operations, "require_untouched", lambda *_: None)  # a simulated yardstick
    simulated.ran(Settings(data_dir=tmp_path / "data"), 0)
    refused = run("promote")
    assert refused.exit_code == 2, refused.output
    assert "nothing to promote" in refused.output


def test_program_prints_the_page_for_whoever_drives(run: Run) -> None:
    page = PROJECT_ROOT / "tsfm_pipeline/studies/policy_search/program.md"
    assert run("program").output == page.read_text()


@pytest.mark.slow
def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    """On two small fleets, with one experiment in place of hours."""
    project = Project(tmp_path / "project", {"SHARD_TENANTS": "4"})
    frame = telemetry(6, n_days=20)
    for name in ("hosts", "racks"):
        add_table_fleet(project, name, frame, origins_per_tenant=3)
    page = DOCS / "policy-search.md"
    small = {
        "--fleet synthetic-400 --fleet smd": "--fleet hosts --fleet racks",
        "--driver optuna --hours 8": "--driver random --experiments 1",
    }
    (policy,) = [block for block in blocks(page, "console") if "cat my-policy.yaml" in block.text]
    text = re.search(r"^search:\n(?:  .*\n)+", policy.text, re.MULTILINE)
    assert text is not None
    file = tmp_path / "my-policy.yaml"
    file.write_text(text[0])
    for shown in commands(page):
        if shown == "cat my-policy.yaml":
            continue
        command = shown.replace("my-policy.yaml", str(file))
        for long, short in small.items():
            command = command.replace(long, short)
        program, group, *arguments = shlex.split(command)
        assert (program, group) == ("tsfm-pipeline", "policy-search"), shown
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            env=project.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{shown}: {done.stdout}{done.stderr}"
    rows = Ledger(project.settings).read()
    assert rows["driver"].to_list() == ["default", "random", "file"]
    assert rows["status"].is_in(["keep", "discard"]).all()
    assert (project.settings.reports_dir / "policy_search" / "report.html").is_file()
