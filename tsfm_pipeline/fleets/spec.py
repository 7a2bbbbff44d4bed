"""Reading the fleet files, the YAML files in `data/fleets/`, with clear messages for fields that
are wrong.

What belongs here: turning a file into a model, and a pydantic error into a sentence. What does not:
the fields themselves (`fleets.fields`, `fleets.kinds`).
"""

import difflib
import logging
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tsfm_pipeline.fleets.fields import Bounds, FleetSpecError
from tsfm_pipeline.fleets.kinds import (
    AnyFleet,
    PrometheusFleet,
    SavedDatasetFleet,
    SqlFleet,
    SyntheticFleet,
    TableFleet,
)

FleetSpec = AnyFleet
KINDS: dict[str, type[AnyFleet]] = {
    "synthetic": SyntheticFleet,
    "table": TableFleet,
    "saved_dataset": SavedDatasetFleet,
    "prometheus": PrometheusFleet,
    "sql": SqlFleet,
}
"""The kinds that a fleet file may name, each with the model of its fields. `fleets.OPENERS` says
how each is opened.
"""
warn = logging.getLogger(__name__).warning
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200
"""Shortens values in messages: a few lines of YAML with aliases can expand until they fill the
memory.
"""
NOT_YAML = (
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
_NEVER_REPEATED = ("url", "headers_from_env", "database", "url_from_env", "password_env")
"""Fields that may contain a secret by mistake: messages leave their values out."""


@dataclass(frozen=True)
class FleetFiles:
    """The fleet files of some folders, unread.

    paths: the file of each fleet by name, sorted; where two folders have the same name, the later
    folder's. overlooked: files and folders in which no fleet is looked for, each with the reason.
    """

    folders: tuple[Path, ...]
    paths: dict[str, Path]
    overlooked: dict[Path, str]

    def spec(self, name: str) -> AnyFleet:
        """Read the file of one fleet and no other. Raises `FleetSpecError` where it is wrong, and
        ValueError, with the known names, where there is none.
        """
        if name in self.paths:
            return load_spec(self.paths[name])
        for path, reason in self.overlooked.items():
            if path.stem == name and path.suffix == ".yml":
                raise FleetSpecError(reason)
        if not self.paths:
            raise self.none_found()
        folders = " or ".join(map(str, self.folders))
        raise ValueError(f"no fleet {name!r} in {folders}; there are: {', '.join(self.paths)}")

    def readable(self) -> tuple[dict[str, AnyFleet], dict[Path, str]]:
        """Return the fleets whose files can be read, by name, and the reason for each path that
        gives no fleet.
        """
        specs, wrong = {}, dict(self.overlooked)
        for name, path in self.paths.items():
            try:
                specs[name] = load_spec(path)
            except FleetSpecError as error:
                wrong[path] = str(error)
        return specs, wrong

    def none_found(self) -> FleetSpecError:
        """Return the error for folders without any fleet."""
        if self.overlooked:
            return FleetSpecError("\n".join(self.overlooked.values()))
        where = " and ".join(map(str, self.folders))
        return FleetSpecError(
            f"{where}: no fleet found; add a file <name>.yaml with at least 'kind' and 'title'"
        )


def fleet_files(*directories: str | Path) -> FleetFiles:
    """Find the fleet files of these directories. Reads none of them."""
    folders = tuple(map(Path, directories))
    paths: dict[str, Path] = {}
    overlooked: dict[Path, str] = {}
    for folder in folders:
        if not folder.is_dir():
            overlooked[folder] = (
                f"{folder}: no such directory; it must hold one YAML file per fleet"
            )
        for path in sorted(folder.glob("*.yml")):
            overlooked[path] = (
                f"{path}: the ending must be .yaml; files with other endings are overlooked"
            )
        paths |= {path.stem: path for path in folder.glob("*.yaml")}
    return FleetFiles(folders, {name: paths[name] for name in sorted(paths)}, overlooked)


def load_specs(*directories: str | Path, log: Callable[[str], Any] = warn) -> dict[str, AnyFleet]:
    """Return the fleets of these directories by name, sorted. A file that is wrong stops no other
    fleet: its error goes to `log`. Where two have the same name, the later directory wins.

    Raises `FleetSpecError` where no fleet can be read: for directories that are missing, without
    any fleet, or with wrong files only.
    """
    files = fleet_files(*directories)
    specs, wrong = files.readable()
    if not specs:
        raise FleetSpecError("\n".join(wrong.values())) if wrong else files.none_found()
    for reason in wrong.values():
        log(reason)
    return specs


def load_spec(path: str | Path) -> AnyFleet:
    """Read one fleet file; its stem is the fleet's name. Raises `FleetSpecError`, which names the
    file, the field and what is allowed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FleetSpecError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FleetSpecError(f"{path}: not readable: {error}") from error
    return parse_spec(text, path)


def parse_spec(text: str, path: Path) -> AnyFleet:
    """Return the fleet that a file with this path and text describes. Raises as `load_spec`."""
    try:
        document = yaml.safe_load(text)
    except NOT_YAML as error:
        raise FleetSpecError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, Mapping) or not all(isinstance(field, str) for field in document):
        raise FleetSpecError(
            f"{path}: a fleet file must be a mapping from field names to values, like 'kind: "
            "synthetic'"
        )
    if "name" in document:
        raise FleetSpecError(f"{path}: field 'name': leave it out; a fleet is named after its file")
    named = document.get("kind")
    kind = KINDS.get(named) if isinstance(named, str) else None
    if kind is None:
        given = f"{_SHORT.repr(named)}" if "kind" in document else "nothing"
        raise FleetSpecError(f"{path}: field 'kind': got {given}; allowed: {', '.join(KINDS)}")
    try:
        return kind.model_validate({**document, "name": path.stem})
    except ValidationError as error:
        messages = dict.fromkeys(_for_people(path, kind, detail) for detail in error.errors())
        raise FleetSpecError("\n".join(messages)) from error
    except OverflowError as error:
        raise FleetSpecError(f"{path}: a number or a date is out of range: {error}") from error


def _for_people(path: Path, kind: type[AnyFleet], detail: Any) -> str:
    """Return a pydantic error as 'file: field: what is wrong, what was given, what is allowed'."""
    location = [str(part) for part in detail["loc"]]
    if not location:
        return f"{path}: {_reason(detail)}"
    field, where = location[0], ".".join(location)
    if detail["type"] == "extra_forbidden":
        fields = [
            name for name in (kind if len(location) == 1 else Bounds).model_fields if name != "name"
        ]
        near = difflib.get_close_matches(location[-1], fields, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{path}: field {where!r}: unknown{hint}; allowed: {', '.join(fields)}"
    allowed = kind.model_fields[field].description
    if detail["type"] == "missing":
        return f"{path}: field {where!r}: missing; allowed: {allowed}"
    given = (
        "a value that is not shown, because it may be secret"
        if field in _NEVER_REPEATED
        else _SHORT.repr(detail["input"])
    )
    return f"{path}: field {where!r}: got {given}: {_reason(detail)}; allowed: {allowed}"


def _reason(detail: Any) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
