"""Test which licences are allowed in production, and that the shipped configuration is."""

import pytest

from tsfm_pipeline.forecaster.registry import REGISTRY, find_checkpoint
from tsfm_pipeline.serving.licences import (
    COMMERCIAL,
    DAEMON_LICENCES,
    LicenceTag,
    ModelNotAllowed,
    check_licence,
    default_licences,
    tag_of,
)
from tsfm_pipeline.serving.settings import LocalSettings, ServingSettings, TollamaSettings


@pytest.mark.parametrize(
    "licence", [*COMMERCIAL, "apache-2.0", "mit", " Apache 2.0 ", "bsd_3_clause", "commercial_ok"]
)
def test_permissive_licences_are_allowed_everywhere(licence: str) -> None:
    assert tag_of(licence) is LicenceTag.COMMERCIAL_OK
    check_licence(licence, "prod")
    check_licence(licence, "dev")


@pytest.mark.parametrize(
    "licence",
    [
        "cc-by-nc-4.0",
        "CC-BY-NC-SA-4.0",
        "cc_by_nc_nd_4.0",
        "research-only",
        "research_only",
        "TimesFM 3.0 Non-Commercial License",
        "timesfm-3.0",
        "noncommercial",
        "academic use",
    ],
)
def test_d16_research_only_weights_are_refused_in_production(licence: str) -> None:
    assert tag_of(licence) is LicenceTag.RESEARCH_ONLY
    check_licence(licence, "dev")
    with pytest.raises(ModelNotAllowed, match="allowed in production: MIT"):
        check_licence(licence, "prod", "m")


@pytest.mark.parametrize(
    "licence", ["unknown", "", "proprietary", "GPL-3.0", "MIT AND X", "MIT\nX", "mit-nc-", "other"]
)
def test_d16_what_nobody_stated_is_refused_in_production(licence: str) -> None:
    assert tag_of(licence) is not LicenceTag.COMMERCIAL_OK
    check_licence(licence, "dev")
    with pytest.raises(ModelNotAllowed):
        check_licence(licence, "prod")


def test_a_refusal_names_model_and_licence_and_cannot_forge_a_log_line() -> None:
    with pytest.raises(ModelNotAllowed) as caught:
        check_licence("x\n" * 500, "prod", "moirai")
    text = str(caught.value)
    assert "moirai" in text
    assert text.isprintable()
    assert len(text) < 300


def test_l1_every_model_that_the_shipped_configuration_serves_is_allowed_in_production(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Continuous integration checks the shipped configuration by this test."""
    for name in ("CHECKPOINT", "LOCAL__CHECKPOINT", "TOLLAMA__MODEL"):
        monkeypatch.delenv(f"TSFM_SERVING_{name}", raising=False)
    licences = default_licences(ServingSettings(environment="prod"))
    assert set(licences) == {"local/bundled", "tollama/chronos2"}
    assert {tag_of(licence).value for licence in licences.values()} == {"commercial_ok"}


def test_l1_the_bundled_weights_state_the_licence_that_the_registry_gives() -> None:
    info, _, _ = find_checkpoint("bundled")
    assert info.licence == REGISTRY["bundled"].licence
    check_licence(info.licence, "prod")


def test_l1_a_model_that_no_registry_names_is_not_allowed_in_production() -> None:
    settings = ServingSettings(
        local=LocalSettings(checkpoint="/weights/timesfm-3"),
        tollama=TollamaSettings(model="moirai-2.0-R-small"),
    )
    for licence in default_licences(settings).values():
        with pytest.raises(ModelNotAllowed):
            check_licence(licence, "prod")


def test_of_the_daemons_models_one_is_for_research_only() -> None:
    refused = [
        model for model, licence in DAEMON_LICENCES.items() if tag_of(licence) != "commercial_ok"
    ]
    assert refused == ["moirai-2.0-R-small"]
