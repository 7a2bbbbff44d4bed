"""Test that the command line starts quickly: heavy modules are imported only by the commands that
need them.
"""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import typer

from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.cli.commands import Desk, modules_after

pytestmark = pytest.mark.heavy

HEAVY = (
    "torch",
    "numba",
    "dagster",
    "timesfm",
    "faiss",
    "statsmodels",
    "matplotlib",
    "scipy",
    "sklearn",
    "duckdb",
    "pyarrow",
)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("fleet", "--help"),
        ("forecast", "--help"),
        ("fleet", "init", "--help"),
        ("fleet", "fetch", "--help"),
        ("benchmark", "--help"),
        ("rollout", "--help"),
        ("policy-search", "run", "--help"),
        ("market", "check", "--help"),
    ],
)
def test_help_imports_neither_the_pipeline_nor_its_libraries(arguments: tuple[str, ...]) -> None:
    assert modules_after(*arguments) & {*HEAVY, "polars", "numpy", "httpx"} == set()


def test_the_list_of_fleets_imports_nothing_heavy() -> None:
    assert modules_after("fleet", "list") & {*HEAVY, "httpx"} == set()


def test_from_a_table_to_a_checked_fleet_neither_the_model_nor_the_pipeline_is_loaded(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, {})
    table = desk.table()
    environment = os.environ | desk.variables
    for arguments in (("fleet", "init", str(table)), ("fleet", "check", table.stem)):
        loaded = modules_after(*arguments, environment=environment)
        assert "polars" in loaded, "it has read the table"
        assert (
            loaded & {"torch", "numba", "dagster", "timesfm", "faiss", "statsmodels", "matplotlib"}
            == set()
        )


def test_the_console_script_is_the_application() -> None:
    scripts = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, name = scripts["tsfm-pipeline"].split(":")
    assert isinstance(getattr(import_module(module), name), typer.Typer)


def test_the_package_can_be_run_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tsfm_pipeline.cli", "--help"],
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
        check=False,
    )
    assert run.returncode == 0
    assert "tsfm-pipeline [OPTIONS] COMMAND" in run.stdout
