"""The command line answers at once: what is heavy is imported by the commands that need it, and by no other."""

import subprocess
import sys
import tomllib
from importlib import import_module

import pytest
import typer

from tsfm_pipeline.settings import PROJECT_ROOT

HEAVY = ("torch", "numba", "dagster", "timesfm", "faiss", "statsmodels", "matplotlib", "scipy", "sklearn", "duckdb", "pyarrow")
PROGRAM = """
import sys
from tsfm_pipeline.cli.app import app
try:
    app(sys.argv[1:])
finally:
    print("MODULES", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def modules_after(*arguments: str) -> set[str]:
    run = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=PROJECT_ROOT, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stderr.split("MODULES", 1)[1].split())


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("fleet", "--help"), ("forecast", "--help"), ("fleet", "init", "--help")]
)
def test_help_imports_neither_the_pipeline_nor_its_libraries(arguments: tuple[str, ...]) -> None:
    assert modules_after(*arguments) & {*HEAVY, "polars", "numpy", "httpx"} == set()


def test_the_list_of_fleets_imports_nothing_heavy() -> None:
    assert modules_after("fleet", "list") & {*HEAVY, "httpx"} == set()


def test_the_console_script_is_the_application() -> None:
    scripts = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, name = scripts["tsfm-pipeline"].split(":")
    assert isinstance(getattr(import_module(module), name), typer.Typer)


def test_the_package_can_be_run_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tsfm_pipeline.cli", "--help"], capture_output=True, text=True, cwd=PROJECT_ROOT, check=False
    )
    assert run.returncode == 0
    assert "tsfm-pipeline [OPTIONS] COMMAND" in run.stdout
