"""Fleet files: the reading of the YAML files in `data/fleets/`, and messages for people who wrote a
field wrongly.

What belongs here: from a file to a model, and from a model's complaint to a sentence. What does
not: the fields themselves (`fleets.kinds`).
"""

import difflib
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tsfm_pipeline.fleets.kinds import (
    AnyFleet,
    Bounds,
    FleetSpecError,
    PrometheusFleet,
    SyntheticFleet,
    TableFleet,
)

FleetSpec = AnyFleet
KINDS: dict[str, type[AnyFleet]] = {
    "synthetic": SyntheticFleet,
    "table": TableFleet,
    "prometheus": PrometheusFleet,
}
"""What a fleet file may say for `kind`, with the fields that it then has; how each is opened:
`fleets.OPENERS`.
"""
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200
"""Values in messages: a few lines of YAML can name each other until they fill the memory once they
are spelt out.
"""
_NEVER_REPEATED = ("url", "headers_from_env")
"""Fields into which someone may have written a secret: messages leave their values out."""


def load_specs(*directories: str | Path) -> dict[str, AnyFleet]:
    """Every fleet of these directories by name, sorted; of two with one name the later directory's.

    Raises `FleetSpecError` for a bad file, an absent directory, or no fleet at all.
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
                f"{misnamed[0]}: the ending must be .yaml, so that no fleet is overlooked"
            )
        paths |= {path.stem: path for path in directory.glob("*.yaml")}
    if not paths:
        where = " and ".join(map(str, directories))
        raise FleetSpecError(
            f"{where}: no fleet in it; add a file <name>.yaml with at least 'kind' and 'title'"
        )
    return {name: load_spec(paths[name]) for name in sorted(paths)}


def readable_specs(directory: Path) -> tuple[dict[str, AnyFleet], list[str]]:
    """The fleets of a directory whose files can be read, and what `load_spec` says of each of the
    others.
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
    """Read one fleet file; its stem is the fleet's name. Raises `FleetSpecError`: file, field, what
    is allowed.
    """
    path = Path(path)
    try:
        return parse_spec(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise FleetSpecError(f"{path}: no such file") from None


def parse_spec(text: str, path: Path) -> AnyFleet:
    """The fleet that a file of this name and text describes. Raises as `load_spec`."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise FleetSpecError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, Mapping) or not all(isinstance(field, str) for field in document):
        raise FleetSpecError(
            f"{path}: a fleet file is a mapping from field names to values, like 'kind: synthetic'"
        )
    if "name" in document:
        raise FleetSpecError(
            f"{path}: field 'name': leave it out, the name of a fleet is the name of its file"
        )
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
    """One pydantic error as 'file: field: what is wrong, what was given, what is allowed'."""
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
        "something that is not repeated here"
        if field in _NEVER_REPEATED
        else _SHORT.repr(detail["input"])
    )
    return f"{path}: field {where!r}: got {given}: {_reason(detail)}; allowed: {allowed}"


def _reason(detail: Any) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
