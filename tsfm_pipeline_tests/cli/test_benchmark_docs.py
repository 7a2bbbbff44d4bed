"""Test docs/benchmarks.md by running every command in it, in order, on small data sets."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.fleets.hub import BENCHMARKS
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.docs.pages import DOCS, commands
from tsfm_pipeline_tests.fleets.saved_datasets import item, save
from tsfm_pipeline_tests.project import CHECKPOINT

PAGE = DOCS / "benchmarks.md"
COMMANDS = commands(PAGE)
FREQUENCIES = {"ds-0-T": "T", "electricity/15T": "15T"}


def bring(arguments: list[str]) -> None:
    """Write the folder that a `fleet fetch` would bring; `fleets/test_hub.py` tests the fetching."""
    steps = np.arange(11_000 if arguments[3] == "ds-0-T" else 700)
    rows = [
        item(
            name,
            (3 + np.sin(steps * 2 * np.pi / 480 + k)).tolist(),
            freq=FREQUENCIES[arguments[3]],
        )
        for k, name in enumerate("ab")
    ]
    save(Path(arguments[arguments.index("--to") + 1]), rows)


@pytest.mark.heavy
def test_every_command_of_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path / "desk", {"CHECKPOINT": CHECKPOINT})
    desk.root.mkdir()
    monkeypatch.chdir(desk.root)
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "tsfm-pipeline"
        if arguments[:2] == ["fleet", "fetch"]:
            assert arguments[2] in BENCHMARKS
            bring(arguments)
            continue
        done = desk.run(*arguments)
        missing = "--bundle" in arguments  # of a run, which is not made here
        assert done.exit_code == (2 if missing else 0), f"{command}\n{done.output}"
        assert not missing or "cannot be read" in done.output
    assert (desk.root / "scores.csv").is_file()


def test_the_page_names_the_pinned_commits() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for published in BENCHMARKS.values():
        assert f"`{published.revision[:8]}` of `{published.repository}`" in text
