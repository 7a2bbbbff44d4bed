"""Reading YAML files that each describe one member of a partition, such as a fleet or a market.

What belongs here: finding the files of some folders, reading one into a pydantic model, and turning
a pydantic error into a sentence that says file, field, value and what is allowed. What does not:
the fields of any model, and the data that a file leads to.

A family of files is a `SpecKinds`: what one of its members is called, the models it allows by the
value of the field `kind`, and the error that is raised for a wrong file. A file's stem is the name
of what it describes.
"""

import difflib
import os
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

Spec = TypeVar("Spec", bound=BaseModel)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200
"""Shortens values in messages: a few lines of YAML with aliases can expand until they fill the
memory.
"""
_NOT_YAML = (
    yaml.YAMLError,
    RecursionError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
)
"""What PyYAML raises for text that it cannot read: a date like 2024-13-45 is a ValueError, and
`!!bool x` a KeyError.
"""

UNCOMPUTED = "default_factory_not_called"
"""Pydantic's error for a default that depends on other fields, where one of these is wrong."""


@dataclass(frozen=True)
class SpecKinds(Generic[Spec]):
    """One family of files.

    noun: what a file describes, such as `fleet`. models: the pydantic model of each allowed `kind`,
    or one under the key "" for files that have no such field; each model has a field `name`, which
    comes from the file's name. error: raised for a wrong file. never_repeated: fields that may
    contain a secret by mistake; messages leave their values out.
    """

    noun: str
    models: Mapping[str, type[Spec]]
    error: type[ValueError]
    never_repeated: Collection[str] = ()

    def find(self, *directories: str | Path) -> "SpecFiles[Spec]":
        """Find the files of these directories. Reads none of them."""
        folders = tuple(map(Path, directories))
        paths: dict[str, Path] = {}
        overlooked: dict[Path, str] = {}
        for folder in folders:
            if not folder.is_dir():
                overlooked[folder] = (
                    f"{folder}: no such directory; it must hold one YAML file per {self.noun}"
                )
            for path in sorted(folder.glob("*.yml")):
                overlooked[path] = (
                    f"{path}: the ending must be .yaml; files with other endings are overlooked"
                )
            paths |= {path.stem: path for path in folder.glob("*.yaml")}
        return SpecFiles(self, folders, {name: paths[name] for name in sorted(paths)}, overlooked)

    def load(self, path: str | Path) -> Spec:
        """Read one file. Raises `error`, which names the file, the field and what is allowed."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise self.error(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise self.error(f"{path}: not readable: {error}") from error
        return self.parse(text, path)

    def parse(self, text: str, path: Path) -> Spec:
        """Return what a file with this path and text describes. Raises as `load`."""
        try:
            document = yaml.safe_load(text)
        except _NOT_YAML as error:
            raise self.error(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(document, Mapping) or not all(isinstance(key, str) for key in document):
            raise self.error(
                f"{path}: a {self.noun} file must be a mapping from field names to values, like "
                f"{self._example}"
            )
        if "name" in document:
            raise self.error(
                f"{path}: field 'name': leave it out; a {self.noun} is named after its file"
            )
        named = "" if "" in self.models else document.get("kind")
        model = self.models.get(named) if isinstance(named, str) else None
        if model is None:
            given = f"{_SHORT.repr(named)}" if "kind" in document else "nothing"
            raise self.error(
                f"{path}: field 'kind': got {given}; allowed: {', '.join(self.models)}"
            )
        try:
            return model.model_validate({**document, "name": path.stem}, context={"file": path})
        except ValidationError as error:
            found = (
                self._for_people(path, model, detail)
                for detail in error.errors()
                if detail["type"] != UNCOMPUTED
            )
            raise self.error("\n".join(dict.fromkeys(found))) from error
        except OverflowError as error:
            raise self.error(f"{path}: a number or a date is out of range: {error}") from error

    @property
    def _example(self) -> str:
        return "'title: ...'" if "" in self.models else f"'kind: {next(iter(self.models))}'"

    def _for_people(self, path: Path, model: type[Spec], detail: Any) -> str:
        """Return a pydantic error as 'file: field: what is wrong, what was given, what is
        allowed'.
        """
        location = [str(part) for part in detail["loc"]]
        if not location:
            return f"{path}: {_reason(detail)}"
        where = ".".join(location)
        fields, allowed = _fields_and_allowed(model, location)
        if detail["type"] == "extra_forbidden":
            near = difflib.get_close_matches(location[-1], fields, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            return f"{path}: field {where!r}: unknown{hint}; allowed: {', '.join(fields)}"
        if detail["type"] == "missing":
            return f"{path}: field {where!r}: missing; allowed: {allowed}"
        given = (
            "a value that is not shown, because it may be secret"
            if location[0] in self.never_repeated
            else _SHORT.repr(detail["input"])
        )
        return f"{path}: field {where!r}: got {given}: {_reason(detail)}; allowed: {allowed}"


@dataclass(frozen=True)
class SpecFiles(Generic[Spec]):
    """The files of some folders, unread.

    paths: the file of each member by name, sorted; where two folders have the same name, the later
    folder's. overlooked: files and folders in which none is looked for, each with the reason.
    """

    kinds: SpecKinds[Spec]
    folders: tuple[Path, ...]
    paths: dict[str, Path]
    overlooked: dict[Path, str]

    def spec(self, name: str) -> Spec:
        """Read the file of one member and no other. Raises the family's error where it is wrong,
        and ValueError, with the known names, where there is none.
        """
        if name in self.paths:
            return self.kinds.load(self.paths[name])
        for path, reason in self.overlooked.items():
            if path.stem == name and path.suffix == ".yml":
                raise self.kinds.error(reason)
        if not self.paths:
            raise self.none_found()
        folders = " or ".join(map(str, self.folders))
        known = ", ".join(self.paths)
        raise ValueError(f"no {self.kinds.noun} {name!r} in {folders}; there are: {known}")

    def readable(self) -> tuple[dict[str, Spec], dict[Path, str]]:
        """Return what the files that can be read describe, by name, and the reason for each path
        that describes nothing.
        """
        specs, wrong = {}, dict(self.overlooked)
        for name, path in self.paths.items():
            try:
                specs[name] = self.kinds.load(path)
            except self.kinds.error as error:
                wrong[path] = str(error)
        return specs, wrong

    def none_found(self) -> ValueError:
        """Return the error for folders without any file."""
        if self.overlooked:
            return self.kinds.error("\n".join(self.overlooked.values()))
        where = " and ".join(map(str, self.folders))
        least = "'title'" if "" in self.kinds.models else "'kind' and 'title'"
        return self.kinds.error(
            f"{where}: no {self.kinds.noun} found; add a file <name>.yaml with at least {least}"
        )


def path_safe(name: str, noun: str) -> str:
    """Return the name unchanged if it is safe as the name of a file and of folders. Raises
    ValueError otherwise.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a valid {noun} name: a-z, 0-9, '_' and '-', beginning with a letter "
            "or digit, at most 64"
        )
    return name


def expanded_path(path: str, folder: Path, known: Mapping[str, str] | None = None) -> Path:
    """Return a path with `~` and variables expanded; a relative one starts in `folder`.

    known: values of variables that count before those of the environment. Raises ValueError for a
    variable that is not set and for the home of an unknown user.
    """
    variables = {**os.environ, **(known or {})}

    def value(match: re.Match[str]) -> str:
        variable = match.group(1) or match.group(2)
        if variable not in variables:
            raise ValueError(f"environment variable {variable} of {path!r} is not set")
        return variables[variable]

    try:
        return folder / Path(_VARIABLE.sub(value, path)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path!r}: {error}") from error


def _fields_and_allowed(
    model: type[BaseModel], location: Sequence[str]
) -> tuple[list[str], str | None]:
    """Return the fields of the innermost model that a location leads to, and what is allowed in its
    last described field.
    """
    inner: type[BaseModel] | None = model
    fields, allowed = list(model.model_fields), None
    for part in location:
        if inner is not None and part in inner.model_fields:
            field = inner.model_fields[part]
            allowed = field.description or allowed
            inner = next(iter(_models_in(field.annotation)), None)
            fields = list(inner.model_fields) if inner is not None else fields
    return [name for name in fields if name != "name"], allowed


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation such as `dict[str, Bounds]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _reason(detail: Any) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
