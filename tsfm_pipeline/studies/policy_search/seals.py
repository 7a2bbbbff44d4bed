"""Seals: digests of the code and the tables that experiments stand on, and what changed since.

What belongs here: which code is sealed, the seal of a table, and naming every difference between a
seal and what is there now. What does not: the record that holds the seals (`yardstick`), and how a
digest of code is made (`catalogue.code_digests`).

Checks are meant to run before every experiment. The source text of the package is parsed once per
process and text. A part of a table is read once per process, and again only when its file's inode,
size, or times of modification or status change differ: the kernel sets the last one at every write
and at every reset of the others. The first check therefore reads every part (1 GB takes 0.6 s), and
the next ones read only the states of files.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.catalogue.code_digests import Package
from tsfm_pipeline.catalogue.source_names import ON_IMPORT, Key, Sources, read_sources
from tsfm_pipeline.catalogue.tables_lock import FIELDS_LEFT_OUT
from tsfm_pipeline.files import StorageError, sha256_of
from tsfm_pipeline.lake import MANIFEST, FleetLake
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.scope import SCOPE
from tsfm_pipeline.studies.policy_search.tables import FOLDER, TABLES

PACKAGE = Path(__file__).resolve().parents[2]
STUDY = "tsfm_pipeline.studies.policy_search"
FREE = frozenset(
    {
        *("adoption", "apart", "commands", "definitions", "report"),
        *("claims", "drivers", "ledger", "moves", "program", "space"),
        *("codebook", "lock_tables", "making", "prepare", "promotion_records", "scope", "tables"),
    }
)
"""Modules of the study that may change under one yardstick: they show results, propose and record
policies, or make tables, whose bytes are sealed. All other modules are part of the yardstick, with
all the code that they reach."""
LEFT_OUT = (
    *("Settings", "found", "find_checkpoint"),
    *("Fleet", "FleetLake", "open_workspace_fleet", "StudyFleet", "TABLES"),
)
"""Definitions that the digest of the code does not follow: paths, and how tables are made, stored
and found. The tables themselves are sealed."""
PREPARE = "tsfm-pipeline policy-search prepare"


class YardstickError(StorageError):
    """The yardstick is missing or was changed; the message names the change and what to do."""


class TableSeal(BaseModel):
    """One sealed table: its fingerprint, and the SHA-256 of each part by its file's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    parts: dict[str, str]


def study_folder(settings: Settings) -> Path:
    """Return the folder of the study in the lake."""
    return settings.lake_dir / FOLDER


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values of every entry that differs, None where there is none."""
    pairs = {name: (then.get(name), now.get(name)) for name in sorted({**then, **now})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def current_code() -> tuple[str, dict[str, str]]:
    """Return `code_of` the running package. Raises `YardstickError` if its text cannot be read."""
    try:
        return code_of(tuple(sorted(read_sources(PACKAGE).items())))
    except (OSError, SyntaxError, ValueError) as error:
        raise YardstickError(
            f"the code in {PACKAGE} cannot be read, so no experiment may run on it: {error}"
        ) from error


@lru_cache(maxsize=4)
def code_of(sources: tuple[tuple[str, str], ...]) -> tuple[str, dict[str, str]]:
    """Return the digest of the study's fixed modules with all that they reach, and the digest of
    each definition by `module:name`, from the text of every module by its path.

    What the modules that are imported on the way do on import is part of both. Import lines are
    not, because every name is followed to what it stands for.
    """
    package = Package(dict(sources), LEFT_OUT, FIELDS_LEFT_OUT)
    functions = [
        function
        for module in _fixed(path for path, _ in sources)
        for function in package.functions(module)
    ]
    functions += _run_on_import(package.reached(functions), Sources(dict(sources)))
    return package.digest(functions), package.own_digests(functions)


def _run_on_import(reached: Iterable[Key], sources: Sources) -> list[str]:
    """Return what runs on import in the modules of these definitions, in the packages that hold
    them, and in the modules that they import in turn, as `Package.digest` takes it: any of it could
    replace a definition.
    """
    waiting, imported = {key.module for key in reached}, set[str]()
    while waiting:
        module = waiting.pop()
        imported.add(module)
        names = sources.module(module)
        found = {module.rpartition(".")[0], *names.whole}
        for source, name in names.imports.values():
            found |= {source, f"{source}.{name}"}
        waiting |= {name for name in found if name in sources} - imported
    return [f"{name}:{ON_IMPORT}" for name in sorted(imported) if sources.module(name).on_import]


def _fixed(paths: Iterable[str]) -> list[str]:
    """Return the names of the study's modules that are part of the yardstick."""
    start = f"{STUDY.replace('.', '/')}/"
    within = [
        path.removeprefix(start).removesuffix(".py") for path in paths if path.startswith(start)
    ]
    return [
        f"{STUDY}.{name.replace('/', '.')}"
        for name in within
        if name.split("/")[0] not in FREE and not name.endswith("__init__")
    ]


def changed_code(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield every definition that differs, from two results of `code_of`."""
    for name, (before, after) in differing(then, now).items():
        what = "is new" if before is None else "is gone" if after is None else "was changed"
        yield f"the code of {name} {what}"


def changes_of_fleet(
    settings: Settings, fleet: str, sealed: Mapping[str, TableSeal]
) -> Iterator[str]:
    """Yield what differs between a fleet's sealed tables and those that there are, and those that
    would be made now.
    """
    try:
        expected = _opened(settings, fleet).expected
    except YardstickError as error:
        yield str(error)
        return
    for table, seal_of_table in sealed.items():
        if expected.get(table, seal_of_table.fingerprint) != seal_of_table.fingerprint:
            yield (
                f"fleet {fleet!r}, table {table!r}: its file, telemetry, model or version was "
                f"changed: it would be made with the fingerprint {expected[table]}"
            )
        for problem in _changes_of_table(study_folder(settings) / fleet / table, seal_of_table):
            yield f"fleet {fleet!r}, table {table!r}: {problem}"


def _changes_of_table(folder: Path, sealed: TableSeal) -> Iterator[str]:
    try:
        recorded = _seal_of(folder)
    except YardstickError:
        yield "the table is gone"
        return
    if recorded.fingerprint != sealed.fingerprint:
        yield f"it was made again, with the fingerprint {recorded.fingerprint}"
    for name, (before, after) in differing(sealed.parts, recorded.parts).items():
        what = "is new" if before is None else "is gone" if after is None else "has another seal"
        yield f"part {name} {what}"
    for name, sha256 in sealed.parts.items():
        try:
            intact = _sha256(folder / name, _state(folder / name)) == sha256
        except FileNotFoundError:
            yield f"part {name} is gone from the disk"
        else:
            if not intact:
                yield f"part {name} was changed on the disk"


def _opened(settings: Settings, fleet: str) -> FleetLake:
    """Return the study's tables of a fleet, with the fingerprints that they must have. Raises
    `YardstickError` if the fleet cannot be opened.
    """
    try:
        return SCOPE.open(settings, fleet).tables
    except (OSError, ValueError) as error:
        raise YardstickError(f"fleet {fleet!r} cannot be opened: {error}") from error


def sealed_tables(settings: Settings, fleet: str) -> dict[str, TableSeal]:
    """Return the seals of all tables in the study's folder of a fleet. Raises `YardstickError` if a
    table of the study is not current.
    """
    tables = _opened(settings, fleet)
    for name in TABLES:
        if (state := tables.state(name)) != "current":
            raise YardstickError(
                f"table {name!r} of fleet {fleet!r} is {state}; make it: {PREPARE}"
            )
    records = sorted((study_folder(settings) / fleet).glob(f"*/{MANIFEST}"))
    return {path.parent.name: _seal_of(path.parent) for path in records}


def _seal_of(folder: Path) -> TableSeal:
    """Return what a table's record says of it. Raises `YardstickError` without a usable record."""
    try:
        record = json.loads((folder / MANIFEST).read_bytes())
        return TableSeal(
            fingerprint=record["fingerprint"],
            parts={part["name"]: part["sha256"] for part in record["parts"]},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise YardstickError(
            f"table {folder} has no record that can be read; make it again: {PREPARE}"
        ) from error


def _state(path: Path) -> tuple[int, ...]:
    """Return what the kernel changes when a file is replaced or written to."""
    status = path.stat()
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


@lru_cache(maxsize=100_000)
def _sha256(path: Path, state: tuple[int, ...]) -> str:
    """Return the SHA-256 of a file, which is read again when its state differs."""
    return sha256_of(path)
