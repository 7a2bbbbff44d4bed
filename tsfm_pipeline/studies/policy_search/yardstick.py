"""The yardstick: what no experiment may change, under one digest.

What belongs here: fleets, folds, budget and limits, the digests of code, defaults and data, sealing
them into one file, and refusing to go on when any of them has changed. What does not: making the
tables (`prepare`), dealing tenants into folds (`folds`), and what a policy costs (`evaluation`).

Before every experiment, everything is read again. The source text of the package is parsed once per
process and text. A part of a table is read once per process and again only when its file's inode,
size, or times of modification or status change differ: the kernel sets the last one at every write
and at every reset of the others. The first check therefore reads every part (SHA-256 of 1 GB takes
0.6 s), and the next ones read only file states.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tsfm_pipeline.catalogue.code_digests import Package
from tsfm_pipeline.catalogue.shards import model_of
from tsfm_pipeline.catalogue.source_names import read_sources
from tsfm_pipeline.catalogue.tables_lock import FIELDS_LEFT_OUT
from tsfm_pipeline.files import StorageError, fingerprint, sha256_of, write_text_atomically
from tsfm_pipeline.lake import MANIFEST
from tsfm_pipeline.settings import EvaluationSettings, SearchSettings, Settings
from tsfm_pipeline.studies.policy_search.folds import CHOOSING, CONFIRMING, N_FOLDS
from tsfm_pipeline.studies.policy_search.latency import LatencyLine, measure_line

PACKAGE = Path(__file__).resolve().parents[2]
STUDY = "tsfm_pipeline.studies.policy_search"
FREE = frozenset(
    {
        *("adoption", "apart", "commands", "definitions", "final_look", "report"),
        *("claims", "drivers", "ledger", "loop", "moves", "program", "space"),
        *("lock_tables", "making", "prepare", "promotion_records", "scope", "tables"),
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
MOST_SHOWN = 6
"""Changes that an error names."""
PREPARE = "tsfm-pipeline policy-search prepare"

Measure = Callable[[Settings], LatencyLine]


class YardstickError(StorageError):
    """The yardstick is missing or was changed; the message names the change and what to do."""


class TableSeal(BaseModel):
    """One sealed table: its fingerprint, and the SHA-256 of each part by its file's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    parts: dict[str, str]


class Yardstick(BaseModel):
    """Everything that the experiments of one study have in common.

    choosing, confirming: folds of tuning tenants whose losses choose a policy, and those that only
    a promotion sees; fold_seed: of the deal. budget_ms: of one request's p95 latency. soft_seconds:
    after which an experiment ends itself; hard_seconds: after which it is killed. memory_mib:
    private memory of its process. line: predicts latency from tokens. defaults: of
    `SearchSettings`, which a policy changes. code: the digest of the study's fixed modules and all
    that they reach; definitions: the digest of each of these alone, by `module:name`. data: the
    seals of the study's tables, by fleet and table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fleets: tuple[str, ...]
    n_folds: int = N_FOLDS
    choosing: tuple[int, ...] = CHOOSING
    confirming: tuple[int, ...] = CONFIRMING
    fold_seed: int = EvaluationSettings().seed
    budget_ms: float = 200.0
    soft_seconds: float = 300.0
    hard_seconds: float = 600.0
    memory_mib: int = 4096
    line: LatencyLine
    defaults: dict[str, Any]
    code: str
    definitions: dict[str, str]
    data: dict[str, dict[str, TableSeal]]

    @model_validator(mode="after")
    def _folds_have_one_role(self) -> "Yardstick":
        known = set(range(self.n_folds))
        if (
            not self.choosing
            or not self.confirming
            or not {*self.choosing, *self.confirming} <= known
        ):
            raise ValueError(
                f"choosing {self.choosing} and confirming {self.confirming} must each name some of "
                f"the folds 0 to {self.n_folds - 1}"
            )
        if both := sorted({*self.choosing} & {*self.confirming}):
            raise ValueError(f"folds {both} cannot both choose and confirm")
        return self

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits over everything; experiments are comparable under one digest only."""
        return fingerprint(self.model_dump(mode="json"))


def yardstick_file(settings: Settings) -> Path:
    """Return the path of the sealed yardstick."""
    return settings.lake_dir / ".policy_search" / "yardstick.json"


def seal(
    settings: Settings,
    fleets: Sequence[str],
    log: Callable[[str], Any] = lambda _: None,
    *,
    measure: Measure | None = None,
) -> Yardstick:
    """Seal the study's tables of these fleets, and the code, as the yardstick of all experiments
    from now on.

    measure: measures the latency line; by default with the frozen model of the settings, which
    takes about a minute. A sealed yardstick of the same fleets that nothing has changed since is
    kept, so that its experiments still count. Raises `YardstickError` for fleets without tables or
    named twice, and ValueError if the machine is too busy to measure.
    """
    if not fleets or len(set(fleets)) < len(fleets):
        raise YardstickError(f"fleets are {list(fleets)}; name at least one, and each of them once")
    data = {fleet: _sealed(settings, fleet) for fleet in fleets}
    if kept := _unchanged(settings, fleets, log):
        log(f"yardstick {kept.digest} is unchanged")
        return kept
    log("measuring the latency of requests of different sizes")
    code, definitions = _code()
    yardstick = Yardstick(
        fleets=tuple(fleets),
        line=(measure or measured_line)(settings),
        defaults=_defaults(),
        code=code,
        definitions=definitions,
        data=data,
    )
    content = {"digest": yardstick.digest, **yardstick.model_dump(mode="json")}
    write_text_atomically(yardstick_file(settings), json.dumps(content, indent=1, sort_keys=True))
    log(f"yardstick {yardstick.digest} is sealed in {yardstick_file(settings)}")
    return yardstick


def measured_line(settings: Settings) -> LatencyLine:
    """Measure the latency line with the frozen model of these settings, on this machine."""
    from tsfm_pipeline.forecaster.allocator import keep_large_buffers
    from tsfm_pipeline.reports.latency.numbers import device_name

    keep_large_buffers()  # as the processes that answer requests do
    forecaster = model_of(settings)
    return measure_line(forecaster, device_name(forecaster.device))


def read_yardstick(settings: Settings) -> Yardstick:
    """Return the sealed yardstick. Raises `YardstickError` if there is none, or if its file is not
    what was sealed.
    """
    path = yardstick_file(settings)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest") if isinstance(content, dict) else None
        yardstick = Yardstick.model_validate(content)
    except FileNotFoundError as error:
        raise YardstickError(
            f"there is no yardstick (looked for {path}); make one: {PREPARE}"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise YardstickError(
            f"the yardstick {path} cannot be read: {problem}; seal a new one: {PREPARE}"
        ) from error
    if digest != yardstick.digest:
        raise YardstickError(
            f"the yardstick {path} was changed after it was sealed: it has the digest "
            f"{yardstick.digest}, and says {digest}; restore it, or seal a new one: {PREPARE}"
        )
    return yardstick


def require_untouched(settings: Settings, yardstick: Yardstick) -> None:
    """Raise `YardstickError` unless code, defaults, tables and the sealed file are those of this
    yardstick; the message names what changed.
    """
    changes = [*_changes(settings, yardstick), *_changes_of_file(settings, yardstick)]
    if changes:
        raise YardstickError(
            f"yardstick {yardstick.digest} has been touched, and no experiment may run on it: "
            f"{_shown(changes)}. Undo this, or seal a new yardstick, whose experiments begin "
            f"anew: {PREPARE}"
        )


def _unchanged(
    settings: Settings, fleets: Sequence[str], log: Callable[[str], Any]
) -> Yardstick | None:
    """Return the sealed yardstick if it is of these fleets and nothing has changed since."""
    if not yardstick_file(settings).exists():
        return None
    try:
        yardstick = read_yardstick(settings)
    except YardstickError as error:
        log(str(error))
        return None
    changes = list(_changes(settings, yardstick))
    if yardstick.fleets != tuple(fleets):
        changes.insert(0, f"its fleets are {', '.join(yardstick.fleets)}")
    if changes:
        log(f"yardstick {yardstick.digest} is replaced: {_shown(changes)}")
        return None
    return yardstick


def _changes(settings: Settings, yardstick: Yardstick) -> Iterator[str]:
    """Yield what differs between a yardstick and the code, defaults and tables that there are."""
    code, definitions = _code()
    yield from _changed_code(yardstick.definitions, definitions)
    if code != yardstick.code and definitions == yardstick.definitions:
        yield "the code was changed: other definitions of the same name are used"
    for name, (then, now) in _differing(yardstick.defaults, _defaults()).items():
        yield f"the default of the setting {name!r} was changed from {then} to {now}"
    for fleet, tables in yardstick.data.items():
        for table, sealed in tables.items():
            for problem in _changes_of_table(settings, fleet, table, sealed):
                yield f"fleet {fleet!r}, table {table!r}: {problem}"


def _changes_of_file(settings: Settings, yardstick: Yardstick) -> Iterator[str]:
    """Yield what differs between a yardstick and the sealed file."""
    try:
        sealed = read_yardstick(settings)
    except YardstickError as error:
        yield str(error)
        return
    for name in Yardstick.model_fields:
        then, now = getattr(yardstick, name), getattr(sealed, name)
        if then != now:
            values = f" from {then} to {now}" if len(f"{then}{now}") < 200 else ""
            yield f"{name!r} in {yardstick_file(settings).name} was changed{values}"


def _shown(changes: Sequence[str]) -> str:
    more = len(changes) - MOST_SHOWN
    return "; ".join([*changes[:MOST_SHOWN], *([f"and {more} more changes"] if more > 0 else [])])


def _changed_code(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name, (before, after) in _differing(then, now).items():
        what = "is new" if before is None else "is gone" if after is None else "was changed"
        yield f"the code of {name} {what}"


def _changes_of_table(
    settings: Settings, fleet: str, table: str, sealed: TableSeal
) -> Iterator[str]:
    folder = _folder(settings, fleet) / table
    try:
        recorded = _seal_of(folder)
    except YardstickError:
        yield "the table is gone"
        return
    if recorded.fingerprint != sealed.fingerprint:
        yield f"it was made again, with the fingerprint {recorded.fingerprint}"
    for name, (before, after) in _differing(sealed.parts, recorded.parts).items():
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


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values of every entry that differs, None where there is none."""
    pairs = {name: (then.get(name), now.get(name)) for name in sorted({**then, **now})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _folder(settings: Settings, fleet: str) -> Path:
    return yardstick_file(settings).parent / fleet


def _sealed(settings: Settings, fleet: str) -> dict[str, TableSeal]:
    """Return the seals of all tables that the study has of a fleet. Raises `YardstickError` if
    there are none.
    """
    folder = _folder(settings, fleet)
    seals = {
        path.parent.name: _seal_of(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}"))
    }
    if not seals:
        raise YardstickError(f"fleet {fleet!r} has no tables of the study in {folder}: {PREPARE}")
    return seals


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


def _defaults() -> dict[str, Any]:
    """Return the defaults of the search's settings as JSON has them (no infinities)."""
    defaults: dict[str, Any] = json.loads(SearchSettings().model_dump_json())
    return defaults


def _code() -> tuple[str, dict[str, str]]:
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
    """
    package = Package(dict(sources), LEFT_OUT, FIELDS_LEFT_OUT)
    functions = [
        function
        for module in _fixed(path for path, _ in sources)
        for function in package.functions(module)
    ]
    return package.digest(functions), package.own_digests(functions)


def _fixed(paths: Iterator[str]) -> list[str]:
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
