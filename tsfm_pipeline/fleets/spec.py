"""Reading the fleet files, the YAML files in `data/fleets/`, with clear messages for fields that
are wrong.

What belongs here: turning a file into a model, and a pydantic error into a sentence. What does not:
the fields themselves (`fleets.fields`, `fleets.kinds`).
"""

import difflib
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tsfm_pipeline.fleets.fields import Bounds, FleetSpecError
from tsfm_pipeline.fleets.kinds import (
    AnyFleet,
    PrometheusFleet,
    SqlFleet,
    SyntheticFleet,
    TableFleet,
)

FleetSpec = AnyFleet
KINDS: dict[str, type[AnyFleet]] = {
    "synthetic": SyntheticFleet,
    "table": TableFleet,
    "prometheus": PrometheusFleet,
    "sql": SqlFleet,
}
"""The kinds that a fleet file may name, each with the model of its fields. `fleets.OPENERS` says
how each is opened.
"""
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200
"""Shortens values in messages: a few lines of YAML with aliases can expand until they fill the
memory.
"""
_NEVER_REPEATED = ("url", "headers_from_env", "database", "url_from_env", "password_env")
"""Fields that may contain a secret by mistake: messages leave their values out."""


def load_specs(*directories: str | Path) -> dict[str, AnyFleet]:
    """Return every fleet of these directories by name, sorted. Where two have the same name, the
    later directory wins.

    Raises `FleetSpecError` for a bad file, a missing directory, or directories without any fleet.
    """
    paths: dict[str, Path] = {}
    for directory in map(Path, directories):
        if not directory.is_dir():
            raise FleetSpecError(
                f"{directory}: no such directory; it must hold one YAML file per fleet"
            )
        misnamed = sorted(directory.glob("*.yml"))
        if misnamed:
            raise FleetSpecError(
                f"{misnamed[0]}: the ending must be .yaml; files with other endings are overlooked"
            )
        paths |= {path.stem: path for path in directory.glob("*.yaml")}
    if not paths:
        where = " and ".join(map(str, directories))
        raise FleetSpecError(
            f"{where}: no fleet found; add a file <name>.yaml with at least 'kind' and 'title'"
        )
    return {name: load_spec(paths[name]) for name in sorted(paths)}


def readable_specs(directory: Path) -> tuple[dict[str, AnyFleet], list[str]]:
    """Return the fleets of a directory whose files can be read, and the error of each of the other
    files.
    """
    specs, problems = {}, []
    for path in sorted(directory.glob("*.yaml"), key=lambda path: path.stem):
        try:
            specs[path.stem] = load_spec(path)
        except FleetSpecError as error:
            problems.append(str(error))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: not readable: {error}")
    return specs, problems


def load_spec(path: str | Path) -> AnyFleet:
    """Read one fleet file; its stem is the fleet's name. Raises `FleetSpecError`, which names the
    file, the field and what is allowed.
    """
    path = Path(path)
    try:
        return parse_spec(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise FleetSpecError(f"{path}: no such file") from None


def parse_spec(text: str, path: Path) -> AnyFleet:
    """Return the fleet that a file with this path and text describes. Raises as `load_spec`."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
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
