"""Test that a test or CI runs every shell command of the README and the documentation. A command
that is not covered fails here, with its page.

What belongs here: which test or which line of CI covers which command. What does not: running what
is run elsewhere already.
"""

import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from tsfm_pipeline.cli.app import app
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.docs.pages import PAGES, commands

TESTS = PROJECT_ROOT / "tsfm_pipeline_tests"
CI = PROJECT_ROOT / ".ci" / "run"
OWN_FLEET = "cli/test_own_fleet_docs.py::test_every_command_of_the_page_does_what_it_says"
EXPLAIN = "cli/test_explain.py::test_text_json_and_page_show_the_same_figures"
MARKET = "studies/direction/test_market_commands.py::test_the_examples_of_the_page_are_what_the_commands_write_and_accept"
MARKET_RUN = "studies/direction/test_definitions.py::test_a_small_market_runs_from_prices_to_a_report_with_every_check"
TIME_R1 = (
    "studies/time_r1/test_r1_definitions.py::test_the_commands_show_recipes_data_sets_and_measures"
)
R1_REPLAY = "studies/time_r1/test_r1_replay.py::test_"
SERVED = "docs/test_serving.py::test_every_command_of_the_page_is_answered_as_it_says"
RUN_WHOLE = {
    "your-own-fleet.md": OWN_FLEET,
    "benchmarks.md": "cli/test_benchmark_docs.py::test_every_command_of_the_page_does_what_it_says",
    "operating.md": "docs/test_operating.py::test_the_page_names_no_command_that_nobody_runs",
    "scaling.md": "docs/test_scaling.py::test_the_page_names_no_command_that_nobody_knows",
    "serving.md": "docs/test_serving.py::test_the_page_names_no_command_that_nobody_runs",
    "runbook.md": "docs/test_serving.py::test_the_page_names_no_command_that_nobody_runs",
    "policy-search.md": "studies/policy_search/test_commands.py::test_every_command_of_the_page_does_what_it_says",
    "serving-tollama.md": "serving/tollama/test_page.py::test_the_page_makes_a_runner_that_answers",
}
"""Pages with a test of their own that fails for a command which it does not run."""
COVERED = {
    "git clone <this repository> && cd tsfm_pipeline": ".github/workflows/ci.yml: actions/checkout",
    "source .venv/bin/activate": ".ci/run: make lint",
    "make lint": ".ci/run: make lint",
    "make docs": ".ci/run: make docs",
    "make test": ".ci/run: make test",
    "make demo": "conftest.py::mini_project",
    "make bench": "benchmarks/test_benchmarks.py::test_every_benchmark_says_what_it_takes_and_has_a_quick_size",
    "make test-slow": "docs/test_commands.py::test_slow_tests_are_left_out_counted_and_run_by_their_own_target",
    "make wheel": ".github/workflows/wheel.yml: ./.ci/wheel",
    "make ui": "docs/test_commands.py::test_the_ui_finds_its_code_locations",
    "pip install tsfm_pipeline-*.whl": ".ci/wheel: pip install --quiet --constraint "
    'constraints.txt "$wheel"',
    "tsfm-pipeline --version": ".ci/wheel: use tsfm-pipeline --version",
    "tsfm-pipeline run demo": ".ci/wheel: clean tsfm-pipeline run",
    "tsfm-pipeline report open demo": ".ci/wheel: use tsfm-pipeline report open",
    "tsfm-pipeline fleet init shop.csv": OWN_FLEET,
    "tsfm-pipeline fleet check shop": OWN_FLEET,
    "tsfm-pipeline run shop": OWN_FLEET,
    "tsfm-pipeline report open shop": OWN_FLEET,
    "tsfm-pipeline forecast shop.csv --out next.csv": OWN_FLEET,
    "tsfm-pipeline explain shop host-07": EXPLAIN,
    "tsfm-pipeline explain shop host-07 --json": EXPLAIN,
    "tsfm-pipeline explain shop host-07 --html host-07.html": EXPLAIN,
    "tsfm-pipeline serve --fleet demo --no-auth": SERVED,
    "curl -s http://127.0.0.1:8000/ready": SERVED,
    "tsfm-pipeline market list": MARKET,
    "tsfm-pipeline market init spx --from spx.csv": MARKET,
    "tsfm-pipeline market check spx": MARKET,
    "tsfm-pipeline market run sp500": MARKET_RUN,
    "dagster asset materialize -m tsfm_pipeline.studies.direction.definitions --select '*' "
    "--partition sp500": MARKET_RUN,
    "tsfm-pipeline time-r1 list": TIME_R1,
    "tsfm-pipeline time-r1 datasets": TIME_R1,
    "tsfm-pipeline time-r1 runs": f"{R1_REPLAY}a_run_leaves_one_record_of_what_it_was_made_from",
    "tsfm-pipeline time-r1 replay 3f9c": f"{R1_REPLAY}a_replay_from_the_stored_configuration_is_identical_to_the_byte",
    "make replay HASH=3f9c": f"{R1_REPLAY}make_replay_asks_for_the_hash",
    "tsfm-pipeline time-r1 register 3f9c": f"{R1_REPLAY}a_candidate_is_written_by_the_command_and_judged_by_the_gate",
    "tsfm-pipeline time-r1 export-adapters 3f9c adapters": f"{R1_REPLAY}exported_adapters_and_their_base_are_the_policy_of_the_run",
    "tsfm-pipeline time-r1 checkpoints": f"{R1_REPLAY}a_promoted_checkpoint_is_in_use_until_another_one_is_promoted",
    "tsfm-pipeline time-r1 promote etth1-3f9c0a1b-grip": f"{R1_REPLAY}a_candidate_is_written_by_the_command_and_judged_by_the_gate",
    "tsfm-pipeline time-r1 run smoke": TIME_R1,
    "tsfm-pipeline time-r1 train-base base --steps 2786": "studies/time_r1/test_r1_base_training.py::test_the_command_of_the_card_writes_the_bytes_again",
    "tsfm-pipeline time-r1 evaluate smoke --json": "studies/time_r1/test_r1_definitions.py::test_the_evaluation_states_every_measure_with_its_unit_and_interval",
    "tsfm-pipeline codebook": "reports/page/test_codebook.py::test_the_command_prints_the_page",
}
"""Command -> the test that runs it (file, or file::function, below tsfm_pipeline_tests), or "<file
of CI>: <words in it>".
"""

FOUND = [
    (page.name, command)
    for page in PAGES
    if page.name not in RUN_WHOLE
    for command in commands(page)
]


@pytest.mark.parametrize(
    ("page", "command"), FOUND, ids=[f"{page}: {command}" for page, command in FOUND]
)
def test_every_command_is_covered(page: str, command: str) -> None:
    assert command in COVERED, (
        f"{page} shows {command!r}; say here which test runs it, or write one"
    )


def test_nothing_is_registered_that_no_page_shows() -> None:
    assert set(COVERED) <= {command for _, command in FOUND}
    assert set(RUN_WHOLE) <= {page.name for page in PAGES}


@pytest.mark.parametrize("cover", sorted({*COVERED.values(), *RUN_WHOLE.values()}))
def test_what_covers_a_command_is_there(cover: str) -> None:
    if cover.startswith("."):
        file, words = cover.split(": ", 1)
        assert words in (PROJECT_ROOT / file).read_text()
        return
    file, _, function = cover.partition("::")
    text = (TESTS / file).read_text()
    assert f"def {function}" in text if function else "def test_" in text


@pytest.mark.parametrize("command", [command for command in COVERED if command.startswith("make ")])
def test_make_has_the_target_and_every_file_that_its_recipe_names(command: str) -> None:
    dry = subprocess.run(
        [*shlex.split(command), "--dry-run", "--no-print-directory"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert dry.returncode == 0, dry.stderr
    modules = re.findall(r"python -m (tsfm_pipeline[\w.]*)", dry.stdout)
    files = re.findall(r"-w (\S+)", dry.stdout) + [
        f"{module.replace('.', '/')}.py" for module in modules
    ]
    assert [file for file in files if not (PROJECT_ROOT / file).exists()] == []


def parse(arguments: list[str]) -> None:
    """Parse a command line down to the innermost command. Raises for a command, option or argument
    that there is not.
    """
    command: Any = get_command(app)
    while isinstance(command, TyperGroup):
        context = command.make_context(command.name, arguments)
        _, command, arguments = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
    command.make_context(command.name, arguments)


TYPED = sorted(
    {
        command
        for page in PAGES
        for command in commands(page)
        if command.startswith("tsfm-pipeline ")
    }
)


@pytest.mark.parametrize("command", TYPED)
def test_the_program_takes_the_command_as_it_stands(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.csv").touch()
    with suppress(typer.Exit):  # `--version` ends here
        parse(shlex.split(command)[1:])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("fleet delete shop", "delete"),
        ("run shop --quickly", "--quickly"),
        ("report open", "Missing"),
    ],
)
def test_a_command_or_an_option_that_there_is_not_is_noticed(line: str, fault: str) -> None:
    with pytest.raises(Exception, match=fault):
        parse(shlex.split(line))


def test_the_ui_finds_its_code_locations() -> None:
    import importlib

    workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())
    modules = [entry["python_module"] for entry in workspace["load_from"]]
    names = [module["module_name"] if isinstance(module, dict) else module for module in modules]
    assert "tsfm_pipeline.definitions" in names
    assert all(hasattr(importlib.import_module(name), "defs") for name in names)


@pytest.mark.slow
@pytest.mark.heavy
def test_slow_tests_are_left_out_counted_and_run_by_their_own_target(tmp_path: Path) -> None:
    shutil.copy(TESTS / "conftest.py", tmp_path)
    marks = (
        "import pytest\n@pytest.mark.slow\ndef test_long(): ...\n@pytest.mark.slow\ndef "
        "test_root(): ...\ndef test_quick(): ...\n"
    )
    (tmp_path / "test_marked.py").write_text(marks)
    dry = subprocess.run(
        ["make", "--dry-run", "test", "test-slow"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said = []
    for line in re.findall(r"-m (pytest .*)", dry.stdout):
        command = [
            sys.executable,
            "-m",
            *shlex.split(line),
            "-p",
            "no:cacheprovider",
            "-c",
            str(PROJECT_ROOT / "pyproject.toml"),
        ]
        said.append(
            subprocess.run(
                [*command, "."], cwd=tmp_path, capture_output=True, text=True, check=True
            ).stdout
        )
    assert "tests not run: 2 slow" in said[0]
    assert "1 passed" in said[0]
    assert "2 passed" in said[1]
    assert "not run" not in said[1]


def test_ci_builds_the_documentation_strictly() -> None:
    assert "make docs" in CI.read_text()
    assert "mkdocs build --strict" in (PROJECT_ROOT / "Makefile").read_text()
