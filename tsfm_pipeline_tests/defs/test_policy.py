"""Test the asset of the policy in force, with and without a policy file."""

from pathlib import Path

import dagster as dg
import pytest

from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.defs.progress import ANSWER
from tsfm_pipeline.settings import PROJECT_ROOT, Settings


def materialised(settings: Settings) -> tuple[dict[str, object], str]:
    """The metadata and the data version of the asset."""
    definitions = build_definitions(settings)
    (asset,) = (
        asset
        for asset in definitions.assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        and asset.key.to_user_string() == "promoted_policy"
    )
    result = dg.materialize([asset], resources=definitions.resources)
    (event,) = result.asset_materializations_for_node("promoted_policy")
    version = (event.tags or {})["dagster/data_version"]
    return {name: value.value for name, value in event.metadata.items()}, version


def fleets(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, specs_dir=PROJECT_ROOT / "data" / "fleets")


def test_without_a_file_the_defaults_are_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSFM_POLICY_FILE", "none")
    metadata, version = materialised(fleets(tmp_path))
    assert version == "defaults"
    assert "the defaults of this release" in str(metadata[ANSWER])


def test_a_file_is_shown_with_its_changes_and_where_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "policies" / "search.yaml"
    file.parent.mkdir()
    file.write_text(
        "search: {half_lives: [.inf, 3], neighbours: 5}\n"
        "provenance: {time: 2026-11-28T22:00:00Z, gains: {demo: -0.02}}\n"
    )
    settings = fleets(tmp_path)
    metadata, version = materialised(settings)
    assert settings.policy is not None
    assert version == metadata["policy"] == settings.policy.digest
    assert metadata["since"] == "2026-11-28T22:00:00+00:00"
    assert metadata["changes"] == {"half_lives": ["Infinity", 3.0]}
    assert metadata["provenance"] == {"time": "2026-11-28 22:00:00+00:00", "gains": {"demo": -0.02}}
    assert metadata["path"] == str(file)
    assert "it changes half_lives." in str(metadata[ANSWER])
