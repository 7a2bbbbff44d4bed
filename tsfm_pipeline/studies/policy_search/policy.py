"""Policy files: the one thing that an experiment may change.

What belongs here: reading, checking, hashing and writing a policy file. What does not: the values
that drivers choose from (`space`), and what a policy costs (`evaluation`).

A policy changes fields of `SearchSettings` and nothing else, so that a good one is adopted by
committing one file that any run reads.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tsfm_pipeline.policy_file import changed_fields, digest_of
from tsfm_pipeline.settings import SearchSettings


class PolicyError(ValueError):
    """A policy file that cannot be used; the message says what, where, and what is allowed."""


class Policy(BaseModel):
    """Changes of the search's settings; everything that is not named keeps its default.

    search: new values of fields of `SearchSettings`, as in YAML. A field that is set to its default
    counts as not named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_valid(self) -> "Policy":
        named = changed_fields(self.search)
        self.search.clear()
        self.search.update(named)
        return self

    @cached_property
    def settings(self) -> SearchSettings:
        """The settings of the search under this policy."""
        return SearchSettings.model_validate(self.search)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that name the changed fields (`policy_file.digest_of`)."""
        return digest_of(self.search)

    @property
    def n_changes(self) -> int:
        """How many fields differ from the default; of two equal results the lower number wins."""
        return len(self.search)

    @property
    def changes(self) -> str:
        """The changed fields as JSON, which `policy_of` reads; infinity is written as a string,
        because JSON has none.
        """
        return self.settings.model_dump_json(include=set(self.search))

    def changed(self, **fields: Any) -> "Policy":
        """Return the policy with further fields set. Raises `PolicyError`."""
        return policy_of({**self.search, **fields})

    def to_yaml(self) -> str:
        """Return the policy as the text of a file that `read_policy` reads."""
        return yaml.safe_dump({"search": self.search}, sort_keys=False)


DEFAULT = SearchSettings()


def policy_of(search: Mapping[str, Any], where: str = "the policy") -> Policy:
    """Return the policy with these changes. Raises `PolicyError`, which names `where`."""
    try:
        return Policy(search=dict(search))
    except ValidationError as error:
        problems = "; ".join(map(_problem, error.errors()))
        raise PolicyError(f"{where}: {problems}") from error


def _problem(problem: Mapping[str, Any]) -> str:
    """Return one problem of a policy in words."""
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        alike = get_close_matches(name, SearchSettings.model_fields, n=1)
        hint = f"; did you mean {alike[0]!r}?" if alike else "."
        known = ", ".join(SearchSettings.model_fields)
        return f"there is no field {name!r}{hint} The search's settings are {known}"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{name} is {problem['input']!r}: {said}" if name else said


def read_policy(path: Path) -> Policy:
    """Return the policy of a YAML file with the one key `search`. Raises `PolicyError`, with the
    file's name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} cannot be read: {error}") from error
    return parsed_policy(text, str(path))


def parsed_policy(content: Any, where: str) -> Policy:
    """Return the policy of the content of a policy file: its YAML text, or the mapping with the one
    key `search` that it stands for. Raises `PolicyError`, which names `where`.
    """
    if isinstance(content, str):
        try:
            content = yaml.safe_load(content)
        except (yaml.YAMLError, RecursionError) as error:
            raise PolicyError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or set(content) != {"search"}:
        raise PolicyError(f"{where} must have exactly one key, `search`, with the changed fields")
    if not isinstance(content["search"], dict):
        raise PolicyError(f"{where}: `search` must hold field names and their values")
    return policy_of(content["search"], where)
