"""Test that the section "Shards on Ray" of docs/scaling.md is true: settings, sentences, commands,
and the configuration of dagster-ray.

What belongs here: the page. What does not: shards on Ray (`catalogue/test_on_ray`).
"""

import re
import shlex
from typing import Any

import pytest
import yaml

from tsfm_pipeline.catalogue import on_ray, same_release
from tsfm_pipeline.settings import ExecutionSettings
from tsfm_pipeline_tests.docs.pages import DOCS

PAGE = (DOCS / "scaling.md").read_text()
SECTION = PAGE[PAGE.index("## Shards on Ray") :].split("\n## ")[0]


def code(language: str) -> list[str]:
    """The section's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", SECTION, flags=re.DOTALL)


def test_every_setting_is_there_with_its_default() -> None:
    rows = re.findall(r"^\| `TSFM_EXECUTION__(\w+)` \| (\S+) \|", SECTION, flags=re.MULTILINE)
    stated = {name.lower(): default.strip("`") for name, default in rows}
    fields = ExecutionSettings.model_fields
    assert stated == {
        name: "none" if field.default is None else str(field.default)
        for name, field in fields.items()
    }


def test_the_sentences_of_the_log_are_those_of_the_code() -> None:
    said = " ".join(
        re.sub(r'"\s*f?"', "", module.__loader__.get_source(module.__name__))  # type: ignore[union-attr]
        for module in (on_ray, same_release)
    )
    for sentence in (
        "was killed or its node died",
        "had no memory left, and the worker was ended",
        "has no part after",
        "though a slot should be free",
        "its workers are still starting, or a node does not answer",
        "runs another release than the run",
        "finished shards are kept",
    ):
        assert sentence in SECTION
        assert sentence in said


def test_the_commands_are_ones_that_ray_takes() -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    commands = re.findall(r"`ray start ([^`]+)`", SECTION)
    assert len(commands) == 2
    for command in commands:
        context = scripts.start.make_context("ray start", shlex.split(command))
        assert context.params["block"]


def test_the_configuration_of_dagster_ray_has_its_schema() -> None:
    dagster_ray = pytest.importorskip("dagster_ray")
    from dagster._config import process_config, resolve_to_config_type

    blocks: list[dict[str, Any]] = [yaml.safe_load(block) for block in code("yaml")]
    (launcher,) = [block["run_launcher"] for block in blocks if "run_launcher" in block]
    assert getattr(dagster_ray, launcher["class"])
    kind = resolve_to_config_type(dagster_ray.RayRunLauncher.config_type())
    assert process_config(kind, launcher["config"]).success
    assert not process_config(kind, launcher["config"]["ray"]).success
    names = [pair.split("=")[0] for pair in launcher["config"]["ray"]["env_vars"]]
    assert {name.rpartition("__")[2].lower() for name in names if "EXECUTION" in name} == {
        "engine",
        "address",
    }
