"""Test that commands of other packages are listed with the program's own, in a process that
discovers them itself.
"""

import os
import subprocess
import sys

import pytest

from tsfm_pipeline.plugins import COMMANDS
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.packages import Site

SOURCE = '''
import typer

application = typer.Typer(help="Studies of the weather.")


@application.command()
def list() -> None:
    """List them."""
    typer.echo("rain, wind")


def greet(name: str = "you") -> None:
    """Greet somebody."""
    typer.echo(f"hello {name}")
'''


def run(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(PROJECT_ROOT), str(site.folder))),
        "NO_COLOR": "1",
    }
    command = [sys.executable, "-m", "tsfm_pipeline.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.heavy
def test_an_application_and_a_function_are_listed_and_run(site: Site) -> None:
    site.install("weather", SOURCE, {COMMANDS: {"weather": "application", "greet": "greet"}})
    listed = " ".join(run(site, "--help").stdout.split())
    assert " greet Greet somebody. " in listed
    assert listed.endswith(" weather Studies of the weather.")
    assert run(site, "weather", "list").stdout == "rain, wind\n"
    assert run(site, "greet", "--name", "world").stdout == "hello world\n"


@pytest.mark.heavy
def test_one_whose_extra_is_missing_is_named_once_and_nothing_else_suffers(site: Site) -> None:
    requires = ("no-such-library; extra == 'maps'",)
    site.install(
        "maps", "import no_such_library\n", {COMMANDS: {"maps": "application"}}, requires=requires
    )
    listed = run(site, "--help")
    assert listed.returncode == 0
    assert "maps" not in listed.stdout
    assert listed.stderr.count("maps of maps 1.0 is left out") == 1
    assert "pip install 'maps[maps]'" in listed.stderr


@pytest.mark.heavy
def test_a_broken_one_is_named_where_it_is_needed_and_own_commands_go_on(site: Site) -> None:
    site.install("broken", "1 / 0\n", {COMMANDS: {"bad": "application"}})
    for arguments in (("--help",), ("bad",)):
        refused = run(site, *arguments)
        assert refused.returncode == 2
        assert (
            "error: tsfm_pipeline.commands: bad of broken 1.0 failed to load: ZeroDivisionError"
            in refused.stderr
        )
        assert "Traceback" not in refused.stderr
    assert run(site, "fleet", "--help").returncode == 0


@pytest.mark.heavy
def test_the_name_of_an_own_command_is_refused(site: Site) -> None:
    site.install("weather", SOURCE, {COMMANDS: {"run": "application"}})
    for arguments in (("--help",), ("run", "--help")):
        refused = run(site, *arguments)
        assert refused.returncode == 2
        assert "run of weather 1.0 has the name of something built in" in refused.stderr
