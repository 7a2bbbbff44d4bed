"""`tables.lock`: by which code every table was made when its version was last set, and whether that
code has changed since.

What belongs here: which functions make which table, what of the code changes no table, the lock
file and the command that writes it. What does not: how a digest is made (`code_digests`), what is
made stale by settings and inputs (`tables`).

A table's fingerprint holds its version, not its code: a person says whether a change of code
changes content. The lock makes sure that the question is asked. Where the code behind a table has
changed and its version has not, a test fails, and there are two ways out:

- The content changes: raise `version` in the registry of tables, then `make tables-lock`. The table
  is made anew, and so is everything that is made from it.
- The content stays the same, to the byte: `make tables-lock ARGS='--equal-content TABLE ...
  --reason "why"'`. The reason is kept in the lock.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tsfm_pipeline.catalogue.code_digests import Package
from tsfm_pipeline.catalogue.source_names import read_sources

PACKAGE = Path(__file__).resolve().parents[1]
LOCK_FILE = PACKAGE.parent / "tables.lock"
COMMAND = "make tables-lock"

MODEL = "tsfm_pipeline.forecaster:load_forecaster"
SOURCE = "tsfm_pipeline.fleets:open_fleet"
MAKERS: Mapping[str, tuple[str, ...]] = {
    "tenant_telemetry": (
        "tsfm_pipeline.steps.workloads:tenant_telemetry_shard",
        "tsfm_pipeline.steps.workloads:telemetry_provenance",
        SOURCE,
    ),
    "tenant_manifest": ("tsfm_pipeline.steps.workloads:tenant_manifest",),
    "tenant_features": ("tsfm_pipeline.steps.archetypes:features_table",),
    "archetype_index": ("tsfm_pipeline.steps.archetypes:archetype_index",),
    "forecast_requests": ("tsfm_pipeline.steps.requests:forecast_requests",),
    "archetype_retrieval": ("tsfm_pipeline.steps.archetypes:retrieval_table",),
    "request_targets": ("tsfm_pipeline.steps.forecasts:request_targets_shard",),
    "irreducible_losses": ("tsfm_pipeline.steps.irreducible:irreducible_losses_shard",),
    "config_portfolio": ("tsfm_pipeline.steps.portfolio:config_portfolio", MODEL),
    "forecast_grid": ("tsfm_pipeline.steps.forecasts:forecast_grid_shard", MODEL),
    "validation_losses": ("tsfm_pipeline.steps.forecasts:validation_losses_shard", MODEL),
    "baseline_forecasts": ("tsfm_pipeline.steps.forecasts:baseline_forecasts_shard",),
    "tuning_losses": ("tsfm_pipeline.steps.forecasts:tuning_losses_shard",),
    "config_priors": ("tsfm_pipeline.steps.policies:config_priors_shard",),
    "search_policy": ("tsfm_pipeline.steps.policies:search_policy",),
    "autoresearch_forecasts": ("tsfm_pipeline.steps.forecasts:autoresearch_forecasts_shard",),
    "scored_forecasts": ("tsfm_pipeline.steps.scores:scored_forecasts_shard",),
    "forecast_quality": ("tsfm_pipeline.steps.quality:forecast_quality_shard",),
    "headline_scores": ("tsfm_pipeline.steps.headline:headline_scores",),
    "block_calibration": ("tsfm_pipeline.steps.blocks:block_calibration",),
    "recommendation_scores": ("tsfm_pipeline.steps.blocks:recommendation_scores_shard",),
    "recommendations": ("tsfm_pipeline.steps.recommendations:recommendations_shard", MODEL),
}
"""The function that makes each table, or a shard of it (`catalogue.shards`), and those that make what
it is given: the model (known to it by a protocol only) and the telemetry's source."""

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
    "find_checkpoint": "where a checkpoint lies; its digest is a parameter",
}
"""Definitions that no digest follows, and why."""

FIELDS_LEFT_OUT = frozenset({"FleetFields", "SyntheticFleet", "TableFleet", "PrometheusFleet"})
"""Of a fleet's file: what its fields say enters a table by its parameters or by the fingerprint of
the telemetry."""


def code_digests(package: Package, makers: Mapping[str, Sequence[str]] = MAKERS) -> dict[str, str]:
    """The digest of the code behind every table."""
    return {table: package.digest(functions) for table, functions in makers.items()}


def open_package(sources: Mapping[str, str] | None = None) -> Package:
    """The package as the digests of tables read it: the one that is running, or other sources (path
    -> text)."""
    return Package(read_sources(PACKAGE) if sources is None else sources, LEFT_OUT, FIELDS_LEFT_OUT)


def problems(lock: Mapping[str, Any], versions: Mapping[str, int], digests: Mapping[str, str]) -> dict[str, str]:
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
            found[table] = f"has version {version}, but had {locked['version']} already: a version is never used again; raise it"
        elif version > locked["version"]:
            found[table] = f"has version {version}, the lock still says {locked['version']}: run `{COMMAND}`"
        elif digests[table] != locked["digest"]:
            found[table] = (
                f"the code that makes it has changed, its version ({version}) has not. Either its content changes: raise its `version` in "
                f"the registry of tables and run `{COMMAND}`. Or its content stays the same to the byte: run "
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
        names, allowed = ", ".join(sorted(declared - moved)), ", ".join(sorted(moved)) or "none at present"
        raise ValueError(f"{names}: equal content can be declared where the code has changed and the version has not: {allowed}")
    if declared and not reason.strip():
        raise ValueError("equal content needs a reason: --reason 'why no byte of the table changes'")
    wrong = problems(lock, versions, digests)
    lowered = {table for table, version in versions.items() if table in lock and version < lock[table]["version"]}
    refused = sorted((moved - declared) | lowered)
    if refused:
        raise ValueError("\n".join(f"{table}: {wrong[table]}" for table in refused))
    made: dict[str, Any] = {}
    for table, version in sorted(versions.items()):
        same = lock.get(table, {}).get("version") == version
        reasons = list(lock[table].get("equal_content", [])) if same else []
        reasons += [reason.strip()] if table in declared else []
        made[table] = {"version": version, "digest": digests[table], **({"equal_content": reasons} if reasons else {})}
    return made


def moved_tables(lock: Mapping[str, Any], versions: Mapping[str, int], digests: Mapping[str, str]) -> set[str]:
    """The tables whose code has changed and whose version has not."""
    same = {table for table, version in versions.items() if table in lock and lock[table]["version"] == version}
    return {table for table in same if lock[table]["digest"] != digests[table]}


def read_lock(path: Path) -> dict[str, Any]:
    """The lock by table: `version`, `digest`, and the reasons why the content of this version
    stayed equal (`equal_content`)."""
    lock: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return lock


def main(arguments: Sequence[str] | None = None) -> int:
    """Write `tables.lock`, or say why not."""
    from tsfm_pipeline.catalogue.tables import TABLES

    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--equal-content",
        nargs="*",
        metavar="TABLE",
        help="tables whose content stays the same to the byte although their code has changed; without a name: all of those",
    )
    parser.add_argument("--reason", default="", help="why; kept in the lock")
    chosen = parser.parse_args(arguments)
    lock, versions = read_lock(LOCK_FILE), {name: table.version for name, table in TABLES.items()}
    digests = code_digests(open_package())
    declared = moved_tables(lock, versions, digests) if chosen.equal_content == [] else chosen.equal_content or ()
    try:
        made = updated(lock, versions, digests, declared, chosen.reason)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    LOCK_FILE.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    changed = sorted(table for table in made.keys() | lock.keys() if made.get(table) != lock.get(table))
    print(f"{LOCK_FILE.name}: {', '.join(changed) or 'nothing'} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
