"""Test that the page about tollama says what works: its commands, its files, its request."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tsfm_pipeline.serving.runtimes import Failure
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.docs.pages import DOCS, blocks, commands

PAGE = DOCS / "serving-tollama.md"
SETTINGS = (
    "from tsfm_pipeline.serving.settings import ServingSettings as S; s = S(); "
    "print(s.provider, s.tollama.url, s.tollama.model)"
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with the command on its PATH and a home of its own."""
    program = tmp_path / "bin" / "tsfm-pipeline"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tsfm_pipeline.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / ".tollama").mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "TOLLAMA_HOME"}
    return kept | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT_ROOT),
        "HOME": str(tmp_path),
    }


def run(command: Any, environment: dict[str, str], given: str = "") -> str:
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.heavy
def test_the_page_makes_a_runner_that_answers(environment: dict[str, str], tmp_path: Path) -> None:
    script = "\n".join([*commands(PAGE), f'{sys.executable} -c "{SETTINGS}"'])
    told = run(["bash", "-ec", script], environment)
    assert told.split() == ["tollama", "http://127.0.0.1:11435", "chronos2"]
    manifest = json.loads(
        (tmp_path / ".tollama" / "models" / "tsfm-bundled" / "manifest.json").read_text()
    )
    config, request = (json.loads(block.text) for block in blocks(PAGE, "json"))
    command = config["daemon"]["runner_commands"][manifest["family"]]
    assert request["model"] == manifest["name"]
    line = json.dumps({"id": "1", "method": "forecast", "params": request})
    answer = json.loads(run(command, environment, line + "\n"))
    assert len(answer["result"]["forecasts"][0]["quantiles"]["0.5"]) == request["horizon"]


def test_the_page_names_every_failure_that_a_daemon_can_cause() -> None:
    text = PAGE.read_text()
    own = {Failure.QUEUE_FULL}
    assert [failure for failure in set(Failure) - own if f"`{failure}`" not in text] == []
