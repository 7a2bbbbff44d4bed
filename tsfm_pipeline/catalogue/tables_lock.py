"""`tables.lock`: by which code every table was made when its version was last set, and whether that
code has changed since.

What belongs here: what of the code changes no table, the lock file, what is wrong with it and when
it may be rewritten. What does not: how a digest is made (`code_digests`), what is made stale by
settings and inputs (`registry`), which functions make which table (`steps.makers`), the command
that writes the lock (`steps.lock_tables`).

A table's fingerprint holds its version, not its code: a person says whether a change of code
changes content. The lock makes sure that the question is asked. Where the code behind a table has
changed and its version has not, a test fails, and there are two ways out:

- The content changes: raise `version` in the registry of tables, then `make tables-lock`. The table
  is made anew, and so is everything that is made from it.
- The content stays the same, to the byte: `make tables-lock ARGS='--equal-content TABLE ...
  --reason "why"'`. The reason is kept in the lock.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tsfm_pipeline.catalogue.code_digests import Package
from tsfm_pipeline.catalogue.source_names import read_sources

PACKAGE = Path(__file__).resolve().parents[1]
LOCK_FILE = PACKAGE.parent / "tables.lock"
COMMAND = "make tables-lock"

LEFT_OUT: Mapping[str, str] = {
    "Settings": "values of settings enter a table by its parameters",
    "SearchSettings": "values of settings enter a table by its parameters",
    "EvaluationSettings": "values of settings enter a table by its parameters",
    "TIERS": "constants of the protocol enter a table by its parameters",
    "TIER_SHARES": "constants of the protocol enter a table by its parameters",
    "Fleet.protocol": "the protocol of a fleet enters a table by its parameters",
    "Fleet.context": "fingerprints say when a table is made, not what it holds",
    "Fleet.tables": "the lake says how tables are stored, and has a schema version of its own",
    "FleetLake": "the lake says how tables are stored, and has a schema version of its own",
    "found": "forecasters of other packages enter a table by its parameters",
    "find_checkpoint": "where a checkpoint lies; its digest is a parameter",
}
"""Definitions that no digest follows, and why."""

FIELDS_LEFT_OUT = frozenset({"FleetFields", "SyntheticFleet", "TableFleet", "PrometheusFleet"})
"""Of a fleet's file: what its fields say enters a table by its parameters or by the fingerprint of
the telemetry."""


def code_digests(package: Package, makers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The digest of the code behind every table, from the functions that make it."""
    return {table: package.digest(functions) for table, functions in makers.items()}


def open_package(sources: Mapping[str, str] | None = None) -> Package:
    """The package as the digests of tables read it: the one that is running, or other sources (path
    -> text)."""
    return Package(read_sources(PACKAGE) if sources is None else sources, LEFT_OUT, FIELDS_LEFT_OUT)


def problems(
    lock: Mapping[str, Any], versions: Mapping[str, int], digests: Mapping[str, str]
) -> dict[str, str]:
    """What is wrong with the lock, by table, in a sentence that says what to do; nothing where it
    is up to date.

    lock: as `read_lock` gives it. versions: of the registry. digests: of the code.
    """
    found = dict.fromkeys(lock.keys() - versions.keys(), f"is no table any more: run `{COMMAND}`")
    for table, version in versions.items():
        locked = lock.get(table)
        if locked is None:
            found[table] = f"is not in the lock: run `{COMMAND}`"
        elif version < locked["version"]:
            found[table] = (
                f"has version {version}, but had {locked['version']} already: a version is never "
                "used again; raise it"
            )
        elif version > locked["version"]:
            found[table] = (
                f"has version {version}, the lock still says {locked['version']}: run `{COMMAND}`"
            )
        elif digests[table] != locked["digest"]:
            found[table] = (
                f"the code that makes it has changed, its version ({version}) has not. Either its "
                "content changes: raise its `version` in "
                f"the registry of tables and run `{COMMAND}`. Or its content stays the same to "
                "the byte: run "
                f"`{COMMAND} ARGS='--equal-content {table} --reason \"why\"'`"
            )
    return found


def updated(
    lock: Mapping[str, Any],
    versions: Mapping[str, int],
    digests: Mapping[str, str],
    equal_content: Iterable[str] = (),
    reason: str = "",
) -> dict[str, Any]:
    """The lock for these versions and digests.

    A moved digest is accepted where the version was raised, or for the tables of `equal_content`,
    for a reason that is kept. Raises ValueError for any other, for unknown tables, and for equal
    content without a reason or where nothing has moved.
    """
    declared, moved = set(equal_content), moved_tables(lock, versions, digests)
    if not declared <= moved:
        names, allowed = (
            ", ".join(sorted(declared - moved)),
            ", ".join(sorted(moved)) or "none at present",
        )
        raise ValueError(
            f"{names}: equal content can be declared where the code has changed and the version "
            f"has not: {allowed}"
        )
    if declared and not reason.strip():
        raise ValueError(
            "equal content needs a reason: --reason 'why no byte of the table changes'"
        )
    wrong = problems(lock, versions, digests)
    lowered = {
        table
        for table, version in versions.items()
        if table in lock and version < lock[table]["version"]
    }
    refused = sorted((moved - declared) | lowered)
    if refused:
        raise ValueError("\n".join(f"{table}: {wrong[table]}" for table in refused))
    made: dict[str, Any] = {}
    for table, version in sorted(versions.items()):
        same = lock.get(table, {}).get("version") == version
        reasons = list(lock[table].get("equal_content", [])) if same else []
        reasons += [reason.strip()] if table in declared else []
        made[table] = {
            "version": version,
            "digest": digests[table],
            **({"equal_content": reasons} if reasons else {}),
        }
    return made


def moved_tables(
    lock: Mapping[str, Any], versions: Mapping[str, int], digests: Mapping[str, str]
) -> set[str]:
    """The tables whose code has changed and whose version has not."""
    same = {
        table
        for table, version in versions.items()
        if table in lock and lock[table]["version"] == version
    }
    return {table for table in same if lock[table]["digest"] != digests[table]}


def read_lock(path: Path) -> dict[str, Any]:
    """The lock by table: `version`, `digest`, and the reasons why the content of this version
    stayed equal (`equal_content`)."""
    lock: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return lock
