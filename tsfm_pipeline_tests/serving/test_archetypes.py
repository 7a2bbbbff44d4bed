"""Test a service whose look-alikes come from Qdrant: the same answers, and what is missing is named.

What belongs here: the setting `archetypes_url`, with Qdrant's local mode. What does not: the store
(`archetypes.test_store`).
"""

from pathlib import Path
from typing import Any

import pytest

from tsfm_pipeline.files import StorageError
from tsfm_pipeline.serving.build import build
from tsfm_pipeline.serving.settings import ServingSettings
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.serving.bundles import small_bundle, telemetry
from tsfm_pipeline_tests.serving.live import live

pytest.importorskip("qdrant_client", reason="the extra [qdrant] is not installed")

PROGRAM = ("index", "export", "--bundle")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "search.bundle"
    small_bundle().write(path)
    return path


def searched(**options: Any) -> dict[str, Any]:
    """What POST /forecast answers, without what depends on the clock."""
    history = [[float(value) for value in step] for step in telemetry(700).T]
    with live(**options) as running:
        body = {"tenant_id": "nobody's", "history": history, "sla_tier": "standard"}
        answer = running.client.post("/forecast", json=body).raise_for_status().json()
    return {name: value for name, value in answer.items() if name != "timing_ms"}


@pytest.mark.heavy
def test_the_answers_are_the_same_and_the_way_back_is_to_unset_it(
    tmp_path: Path, bundle: Path
) -> None:
    folder = tmp_path / "qdrant"
    done = Desk(tmp_path, {}).run(*PROGRAM, bundle, "--to", folder)
    assert done.exit_code == 0, done.output
    assert "tsfm-archetypes-" in done.output
    stored = searched(bundle=bundle, archetypes_url=str(folder))
    assert stored == searched(bundle=bundle)
    assert not stored["fallback_used"]


def test_without_an_export_the_service_says_what_to_do(tmp_path: Path, bundle: Path) -> None:
    settings = ServingSettings(bundle=bundle, archetypes_url=str(tmp_path / "empty"))
    with pytest.raises(StorageError, match=r"has no collection .*`tsfm-pipeline index export`"):
        build(settings, no_auth=True)
