"""`tables.lock`: a digest of the code behind every table when its version was last set, to detect
later changes of that code.

What belongs here: which definitions the digests leave out, the lock file, its problems, and when it
may be rewritten. What does not: how a digest is made (`code_digests`), what settings and inputs
make stale (`registry`), which functions make which table (`steps.makers`), the command that writes
the lock (`steps.lock_tables`). A study has a lock of its own for its tables.

A table's fingerprint holds its version, not its code: a person decides whether a change of code
changes the content. The lock enforces that decision. If the code behind a table has changed and its
version has not, a test fails, and there are two ways to fix it:

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
    "Lake": "the lake says how tables are stored, and has a schema version of its own",
    "FleetLake": "the lake says how tables are stored, and has a schema version of its own",
    "found": "forecasters of other packages enter a table by its parameters",
    "find_checkpoint": "where a checkpoint lies; its digest is a parameter",
    "read_marked_steps": "the reader of a fleet's source enters a table by that of the telemetry",
}
"""Definitions that no digest follows, with the reason."""

FIELDS_LEFT_OUT = frozenset(
    {
        *("FleetFields", "SyntheticFleet", "RowFields", "TableFleet"),
        *("FetchedFields", "PrometheusFleet", "SqlFleet"),
    }
)
"""Classes of a fleet's YAML file: their fields enter a table by its parameters or by the
fingerprint of the telemetry."""


def code_digests(package: Package, makers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the digest of the code behind every table, given the functions that make it."""
    return {table: package.digest(functions) for table, functions in makers.items()}


def open_package(sources: Mapping[str, str] | None = None) -> Package:
    """Return the package as the digests of tables read it: the running one, or the given sources
    (path -> text)."""
    return Package(read_sources(PACKAGE) if sources is None else sources, LEFT_OUT, FIELDS_LEFT_OUT)


def problems(
    lock: Mapping[str, Any],
    versions: Mapping[str, int],
    digests: Mapping[str, str],
    command: str = COMMAND,
) -> dict[str, str]:
    """Return the problems of the lock by table, each as a sentence that says what to do. Tables
    that are up to date are left out.

    lock: what `read_lock` returns. versions: the tables' versions in the registry. digests: the
    digests of their code. command: writes the lock of these tables.
    """
    problem_of = dict.fromkeys(
        lock.keys() - versions.keys(), f"is not a table any more: run `{command}`"
    )
    for table, version in versions.items():
        locked = lock.get(table)
        if locked is None:
            problem_of[table] = f"is not in the lock: run `{command}`"
        elif version < locked["version"]:
            problem_of[table] = (
                f"has version {version}, but had {locked['version']} already: a version is never "
                "used again; raise it"
            )
        elif version > locked["version"]:
            problem_of[table] = (
                f"has version {version}, the lock still says {locked['version']}: run `{command}`"
            )
        elif digests[table] != locked["digest"]:
            problem_of[table] = (
                f"the code that makes it has changed, its version ({version}) has not. Either its "
                "content changes: raise its `version` in "
                f"the registry of tables and run `{command}`. Or its content stays the same to "
                "the byte: run "
                f"`{command} ARGS='--equal-content {table} --reason \"why\"'`"
            )
    return problem_of


def updated(
    lock: Mapping[str, Any],
    versions: Mapping[str, int],
    digests: Mapping[str, str],
    equal_content: Iterable[str] = (),
    reason: str = "",
    command: str = COMMAND,
) -> dict[str, Any]:
    """Return the lock for these versions and digests.

    A changed digest is accepted if the version was raised, or if the table is in `equal_content`,
    whose reason is kept. Raises ValueError for any other changed digest, for unknown tables, and
    for equal content without a reason or without a changed digest.
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
    problem_of = problems(lock, versions, digests, command)
    lowered = {
        table
        for table, version in versions.items()
        if table in lock and version < lock[table]["version"]
    }
    refused = sorted((moved - declared) | lowered)
    if refused:
        raise ValueError("\n".join(f"{table}: {problem_of[table]}" for table in refused))
    written: dict[str, Any] = {}
    for table, version in sorted(versions.items()):
        same = lock.get(table, {}).get("version") == version
        reasons = list(lock[table].get("equal_content", [])) if same else []
        reasons += [reason.strip()] if table in declared else []
        written[table] = {
            "version": version,
            "digest": digests[table],
            **({"equal_content": reasons} if reasons else {}),
        }
    return written


def moved_tables(
    lock: Mapping[str, Any], versions: Mapping[str, int], digests: Mapping[str, str]
) -> set[str]:
    """Return the tables whose code has changed while their version has not."""
    same = {
        table
        for table, version in versions.items()
        if table in lock and lock[table]["version"] == version
    }
    return {table for table in same if lock[table]["digest"] != digests[table]}


def read_lock(path: Path) -> dict[str, Any]:
    """Return the lock by table: `version`, `digest`, and the reasons why the content of this
    version stayed equal (`equal_content`)."""
    lock: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return lock
