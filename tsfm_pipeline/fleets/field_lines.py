"""The lines of a fleet file that is written for a person: each field with its reason.

What belongs here: lines and reasons that every kind of file shares. What does not: the fields of
one kind (`fleets.fleet_text` for tables, `fleets.saved_description`), and their values
(`fleets.defaults`).
"""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tsfm_pipeline.fleets.kinds import FLEETS_DIR_VARIABLE
from tsfm_pipeline.fleets.seasons import Season, duration
from tsfm_pipeline.fleets.source import FleetDataError


def shared_reasons(
    fields: Mapping[str, Any], minutes: float, seasons: Sequence[Season]
) -> dict[str, str]:
    """Return the reasons of the fields that every kind has; minutes: of one step."""
    called = ", ".join(season.called for season in seasons)
    return {
        "source": "for people who read the report",
        "horizon": f"steps that one forecast covers: {duration(fields['horizon'] * minutes)}",
        "max_gap": f"steps: up to {duration(fields['max_gap'] * minutes)} without values repeat "
        "the last one and are never scored; after a longer gap, what lies before it is not used",
        "origins_per_tenant": "as many requests as fit into a tenant's test period",
        "calendar": "tenants live at different times: each is tested at the end of its own life",
        "seasons": f"in steps: {called}" if seasons else "the data show none",
        "lower": "no value is negative, so no forecast will be",
        "bounds": "metrics that are never negative; the others have negative values",
    }


def first_lines(fleet: str, command: str) -> list[str]:
    """Return the comment above the fields; `command` is the command line that writes the file."""
    return [
        f"# Written by `{command}`.",
        f"# Change what is wrong, then run `tsfm-pipeline fleet check {fleet}`.",
    ]


def field_line(name: str, value: Any, reasons: Mapping[str, str]) -> str:
    """Return one field, with its reason if there is one."""
    line = f"{name}: {one_line(value)}"
    return f"{line}  # {reasons[name]}" if name in reasons else line


LAST_LINE = "nightly: false  # true: the nightly schedule runs it"


def one_line(value: Any) -> str:
    """Return a value as one line of YAML."""
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(
        value, default_flow_style=True, width=100_000, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("...\n").strip()


def path_field(path: Path, fleets_dir: Path, *, of_patterns: bool) -> str:
    """Return a path as a fleet file holds it: relative to the fleets directory if it lies below it.
    of_patterns: escape the characters of glob patterns. Raises `FleetDataError` for a path with
    '$'.
    """
    if "$" in str(path):
        raise FleetDataError(
            f"{path}: '$' begins a variable in a fleet file; allowed: a path without it"
        )
    root = fleets_dir.absolute()
    below = path.is_relative_to(root) and path != root
    text = str(path.relative_to(root) if below else path)
    text = glob.escape(text) if of_patterns and glob.has_magic(text) else text
    return f"${{{FLEETS_DIR_VARIABLE}}}/{text}" if below else text
