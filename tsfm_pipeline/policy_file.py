"""The policy file: values of the search's settings that were adopted, and where they come from.

What belongs here: finding, reading and checking the file, and its place among the sources of the
settings. What does not: the fields themselves (`search_settings`), the environment and the other
settings (`settings`), and finding better values (the study `policy_search`).

A policy file is YAML with the key `search` (fields of `SearchSettings` with their values) and
optionally `provenance` (anything that says where the values come from). A field that it does not
name keeps its default.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.search_settings import SearchSettings

PLACE = "policies/search.yaml"
"""Where the file lies below a data folder: the user's own, else that of the distribution."""
NONE = "none"
"""The name that stands for no file at all."""


class PolicyFileError(ValueError):
    """A policy file that cannot be used; the message names the file, the field and what is
    allowed.
    """


class PolicyFile(BaseModel):
    """The content of a policy file.

    search: fields of `SearchSettings` as the file has them; they have been checked. provenance:
    whatever the file says about their origin; `time` says since when they are promoted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    search: dict[str, Any]
    provenance: dict[str, Any] = Field(default_factory=dict)

    @cached_property
    def _changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, with their values."""
        return changed_fields(self.search)

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON; infinite values are strings."""
        return strict_json(self._changed)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that name the changes, as the study's ledger names a policy."""
        return digest_of(self._changed)

    @property
    def since(self) -> str:
        """Since when the policy is promoted, as its provenance says; else the time of the file."""
        time = self.provenance.get("time")
        if time is None:
            time = datetime.fromtimestamp(self.path.stat().st_mtime, UTC).replace(microsecond=0)
        return time.isoformat() if isinstance(time, datetime) else str(time)


def changed_fields(search: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that differ from their defaults, with their values; a field that is set to
    its default counts as not named. Raises `pydantic.ValidationError`.
    """
    own, default = (
        settings.model_dump(mode="json")
        for settings in (SearchSettings.model_validate(dict(search)), SearchSettings())
    )
    return {name: value for name, value in own.items() if value != default[name]}


def digest_of(changed: Mapping[str, Any]) -> str:
    """Return sixteen hex digits of the SHA-256 of changed fields; equal policies have equal
    digests, however they are written.
    """
    text = json.dumps(changed, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_policy_file(data_dir: Path, named: Path | Literal["none"] | None) -> Path | None:
    """Return the path of the policy file that counts, or None if there is none.

    named: the file to use whatever else there is, which need not exist; "none" for no file; None
    for the file in the data folder or, if there is none, in the distribution.
    """
    if named is not None:
        return None if named == NONE else Path(named)
    places = (data_dir / PLACE, packaged("data") / PLACE)
    return next((path for path in places if path.is_file()), None)


def read_policy_file(path: Path) -> PolicyFile:
    """Return a policy file's content. Raises `PolicyFileError`."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PolicyFileError(f"the policy file {path} cannot be read as YAML: {error}") from error
    keys = set(content) if isinstance(content, dict) else set()
    sections = [content[key] for key in sorted(keys & {"search", "provenance"})]
    if not {"search"} <= keys <= {"search", "provenance"} or not all(
        isinstance(section, dict) for section in sections
    ):
        raise PolicyFileError(
            f"the policy file {path} must have the key `search` with fields and values, and may "
            "have the key `provenance` with names and values; nothing else is allowed"
        )
    try:
        SearchSettings.model_validate(content["search"])
    except ValidationError as error:
        raise PolicyFileError(f"the policy file {path}: {_problems(error)}") from error
    return PolicyFile(path=path, **content)


def _problems(error: ValidationError) -> str:
    """Return each problem with its field, its value and what is allowed."""
    sentences = []
    for problem in error.errors():
        field = ".".join(map(str, ("search", *problem["loc"])))
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(SearchSettings.model_fields)
            sentences.append(f"field '{field}' is unknown; allowed: {allowed}")
        else:
            value = f" got {problem['input']!r}:" if problem["loc"] else ""
            said = problem["msg"].removeprefix("Value error, ")
            sentences.append(f"field '{field}':{value} {said}")
    return "; ".join(sentences)


class PolicySource(PydanticBaseSettingsSource):
    """The policy file as a source of settings, field by field, below every source before it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return nothing: all fields are read together."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the fields of the search that no earlier source sets. Raises `PolicyFileError`."""
        state = self.current_state
        given = state.get("search", {})
        if not isinstance(given, Mapping) or SearchSettings.model_fields.keys() <= given.keys():
            return {}  # a whole section was given, of which every field counts
        data_dir, named = (
            state.get(name, self.settings_cls.model_fields[name].default)
            for name in ("data_dir", "policy_file")
        )
        path = find_policy_file(absolute(data_dir), named if named == NONE else absolute(named))
        if path is None:
            return {}
        search = read_policy_file(path).search
        return {"search": {name: search[name] for name in search.keys() - given.keys()}}


def strict_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as any reader of JSON takes them: what JSON has no form for, as a string."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str), parse_constant=str)
    return plain


def absolute(path: Any) -> Any:
    """Return a path as an absolute one, with the home folder in place of `~`; None stays None."""
    return None if path is None else Path(path).expanduser().absolute()
