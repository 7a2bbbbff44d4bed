"""Test where settings come from, which source outranks which, and what a wrong key is told."""

from pathlib import Path

import pytest

from tsfm_pipeline.serving.config_file import ConfigError, read_settings


def file_of(folder: Path, text: str) -> Path:
    path = folder / "serving.yaml"
    path.write_text(text)
    return path


def test_t1_the_file_has_the_same_keys_as_the_settings(tmp_path: Path) -> None:
    text = "port: 9000\ncache:\n  ttl_s: 5\nroute:\n  default: baseline\n  model_segments: [a=b]\n"
    settings = read_settings(file_of(tmp_path, text), {})
    assert (settings.port, settings.cache.ttl_s, settings.cache.stale_s) == (9_000, 5, 120)
    assert settings.route.default == "baseline"
    assert settings.route.model_segments == ("a=b",)


def test_options_outrank_the_environment_and_that_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_of(tmp_path, "host: 127.0.0.2\nport: 1\ncache: {ttl_s: 1, stale_s: 2}\n")
    monkeypatch.setenv("TSFM_SERVING_PORT", "2")
    monkeypatch.setenv("TSFM_SERVING_CACHE__TTL_S", "7")
    settings = read_settings(file, {"port": 3})
    assert (settings.host, settings.port) == ("127.0.0.2", 3)
    assert (settings.cache.ttl_s, settings.cache.stale_s) == (7, 2)
    assert read_settings(file, {}).port == 2


def test_the_token_may_have_its_older_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSFM_SERVING_TOKEN", raising=False)
    monkeypatch.setenv("FORECAST_API_TOKEN", "an older name")
    token = read_settings(None, {}).token
    assert token is not None
    assert token.get_secret_value() == "an older name"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot: 1\n", r"no setting prot .*serving\.yaml.*allowed: host, port"),
        ("cache: {ttl: 1}\n", r"no setting cache\.ttl .*allowed: ttl_s, stale_s, max_entries"),
        ("port: many\n", r"setting port .*integer"),
        ("port: 70000\n", r"setting port .*65535"),
        ("- 1\n", "not a mapping"),
        ("a: [\n", "not YAML"),
    ],
)
def test_a_wrong_file_is_told_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(file_of(tmp_path, text), {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        read_settings(tmp_path / "none.yaml", {})


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSFM_SERVING_BREAKER__WINDOW_S", "-1")
    with pytest.raises(ConfigError, match=r"TSFM_SERVING_BREAKER__WINDOW_S.*greater than 0"):
        read_settings(None, {})


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    empty = read_settings(file_of(tmp_path, "# nothing\n"), {})
    assert empty.model_dump() == read_settings(None, {}).model_dump()
