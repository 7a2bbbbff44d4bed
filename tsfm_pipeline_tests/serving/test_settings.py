"""Test the settings of the service and the page that lists them.

What belongs here: `serving.settings` and `serving.settings_table`. What does not: the file of
`serve --config` (`test_serve_command`).
"""

import pytest
from pydantic import BaseModel, ValidationError

from tsfm_pipeline.serving.settings import TOKEN_NAMES, ServingSettings
from tsfm_pipeline.serving.settings_table import settings_markdown
from tsfm_pipeline.settings import PROJECT_ROOT


def test_the_page_lists_every_setting_as_it_is() -> None:
    page = (PROJECT_ROOT / "docs" / "serving-settings.md").read_text()
    assert page == settings_markdown(), (
        "run: python -m tsfm_pipeline.serving.settings_table > docs/serving-settings.md"
    )


def test_t1_every_setting_can_be_set_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSFM_SERVING_CACHE__TTL_S", "7")
    monkeypatch.setenv("TSFM_SERVING_TOLLAMA__MODEL", "mock")
    monkeypatch.setenv("TSFM_SERVING_ROUTE__DEFAULT", "baseline")
    settings = ServingSettings()
    assert settings.cache.ttl_s == 7
    assert settings.tollama.model == "mock"
    assert settings.route.default == "baseline"


@pytest.mark.parametrize("name", TOKEN_NAMES)
def test_each_name_of_the_token_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "secret")
    token = ServingSettings().token
    assert token is not None
    assert token.get_secret_value() == "secret"


def test_a_token_of_another_program_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TOKEN_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKEN", "of a build server")
    assert ServingSettings().token is None


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("TSFM_SERVING_PORT", "70000", "port"),
        ("TSFM_SERVING_SAFETY__WIDTH_MAX", "1.5", "safety.width_max"),
        ("TSFM_SERVING_BREAKER__NO_SUCH", "1", "breaker.no_such"),
        ("TSFM_SERVING_ENVIRONMENT", "staging", "environment"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_and_not_repeated(
    name: str, value: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=where) as caught:
        ServingSettings()
    assert value not in str(caught.value) or value == "1"


def test_no_section_can_be_changed_after_it_was_read() -> None:
    for field in ServingSettings.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert field.annotation.model_config.get("frozen")
            assert field.annotation.model_config.get("extra") == "forbid"


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSFM_SERVING_TOKEN", "very-secret")
    assert "very-secret" not in repr(ServingSettings())
