"""The settings of one start: options of the command, the environment, and a file.

What belongs here: reading `--config FILE`, and which source outranks which. What does not: the
settings themselves (`settings`).

Options outrank environment variables, these outrank the file, and the file outranks the defaults.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from tsfm_pipeline.serving.settings import ServingSettings


class ConfigError(ValueError):
    """A setting is not valid; the message names it and says what is allowed."""


def read_settings(file: Path | None, options: Mapping[str, Any]) -> ServingSettings:
    """Return the settings. Raises `ConfigError` for a file or a value that is not valid."""
    values = {} if file is None else _read(file)

    class Settings(ServingSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    try:
        return Settings(**options)
    except ValidationError as error:
        raise ConfigError(_explained(error, file)) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"--config {file} is not a mapping of settings, as in `port: 8080`")
    return content


def _explained(error: ValidationError, file: Path | None) -> str:
    """Return the first problem: which setting, and what is allowed."""
    problem = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    variable = f"TSFM_SERVING_{'__'.join(path).upper()}"
    sources = f"in {file}, {variable} or an option" if file else f"{variable} or an option"
    if problem["type"] == "extra_forbidden":
        allowed = ", ".join(_keys(path[:-1]))
        return f"there is no setting {name} ({sources}); allowed: {allowed}"
    return f"setting {name} ({sources}): {problem['msg']}"


def _keys(path: list[str]) -> list[str]:
    """Return the settings of a section."""
    model: type[BaseModel] = ServingSettings
    for part in path:
        section = model.model_fields[part].annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        model = section
    return list(model.model_fields)
