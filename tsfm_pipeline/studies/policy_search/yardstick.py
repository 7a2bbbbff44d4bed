"""The yardstick: what no experiment may change, under one digest.

What belongs here: fleets, folds, budget and limits, sealing them with code, defaults and data into
one file, and refusing to go on when any of them has changed. What does not: the seals of code and
tables (`seals`), making the tables (`prepare`), dealing tenants into folds (`folds`), and what a
policy costs (`evaluation`).
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tsfm_pipeline.catalogue.shards import model_of
from tsfm_pipeline.files import (
    append_file,
    appended_at,
    fingerprint,
    is_intact,
    write_text_atomically,
)
from tsfm_pipeline.fleets.spec import load_specs
from tsfm_pipeline.settings import EvaluationSettings, SearchSettings, Settings
from tsfm_pipeline.studies.policy_search.claims import HARD_SECONDS
from tsfm_pipeline.studies.policy_search.folds import CHOOSING, CONFIRMING, N_FOLDS
from tsfm_pipeline.studies.policy_search.latency import LatencyLine, measure_line
from tsfm_pipeline.studies.policy_search.seals import (
    PREPARE,
    TableSeal,
    YardstickError,
    changed_code,
    changes_of_fleet,
    current_code,
    differing,
    sealed_tables,
    study_folder,
)
from tsfm_pipeline.studies.policy_search.tables import FOLDER

__all__ = [
    "Yardstick",
    "YardstickError",
    "read_yardstick",
    "require_untouched",
    "seal",
    "yardstick_file",
]

SETTINGS = (
    "device",
    *("evaluation.seed", "evaluation.tuning_share", "evaluation.cross_fitting_folds"),
    *("evaluation.bootstrap_draws", "evaluation.group_bootstrap_draws"),
)
"""Settings of a run that judging reads and no fingerprint of a table holds, or not each of them."""
FIXED = (
    *("n_folds", "choosing", "confirming", "fold_seed"),
    *("budget_ms", "soft_seconds", "hard_seconds", "memory_mib"),
)
"""Fields of a yardstick that are constants of the code; whoever edits the file is found out."""
MOST_SHOWN = 6
"""Changes that an error names."""
Measure = Callable[[Settings], LatencyLine]
"""Measures the latency line of the machine."""


class Yardstick(BaseModel):
    """Everything that the experiments of one study have in common.

    choosing, confirming: folds of tuning tenants whose losses choose a policy, and those that only
    a promotion sees; fold_seed: of the deal. budget_ms: of one request's p95 latency. soft_seconds:
    after which an experiment ends itself; hard_seconds: after which it is killed. memory_mib:
    private memory of its process. line: predicts latency from tokens. defaults: of
    `SearchSettings`, which a policy changes. settings: values of `SETTINGS`. code: the digest of
    the study's fixed modules and all that they reach; definitions: the digest of each of these
    alone, by `module:name`. data: the seals of the study's tables, by fleet and table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fleets: tuple[str, ...]
    n_folds: int = N_FOLDS
    choosing: tuple[int, ...] = CHOOSING
    confirming: tuple[int, ...] = CONFIRMING
    fold_seed: int = EvaluationSettings().seed
    budget_ms: float = 200.0
    soft_seconds: float = 300.0
    hard_seconds: float = HARD_SECONDS
    memory_mib: int = 4096
    line: LatencyLine
    defaults: dict[str, Any]
    settings: dict[str, Any]
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
    return study_folder(settings) / "yardstick.json"


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
    kept, so that its experiments still count. Raises `YardstickError` if a fleet lacks a table of
    the study or is named twice, and ValueError if the machine is too busy to measure.
    """
    if not fleets or len(set(fleets)) < len(fleets):
        raise YardstickError(f"fleets are {list(fleets)}; name at least one, and each of them once")
    fleets = sorted(fleets)
    data = {fleet: sealed_tables(settings, fleet) for fleet in fleets}
    require_different_tenants(settings, fleets)
    if kept := _unchanged(settings, fleets, log):
        log(f"yardstick {kept.digest} is unchanged")
        return kept
    if (load := os.getloadavg()[0]) > (cores := os.cpu_count() or 1) / 2:
        log(
            f"other processes keep this machine busy (load {load:.1f} on {cores} cores): latencies "
            "will come out too high; prepare when it is quiet"
        )
    log("measuring the latency of requests of different sizes")
    code, definitions = current_code()
    yardstick = Yardstick(
        fleets=tuple(fleets),
        line=(measure or measured_line)(settings),
        defaults=_defaults(),
        settings=_settings(settings),
        code=code,
        definitions=definitions,
        data=data,
    )
    content = {"digest": yardstick.digest, **yardstick.model_dump(mode="json")}
    text = json.dumps(content, indent=1, sort_keys=True)
    _write_record(settings, yardstick, text)
    write_text_atomically(yardstick_file(settings), text)
    log(f"yardstick {yardstick.digest} is sealed in {yardstick_file(settings)}")
    return yardstick


def require_different_tenants(settings: Settings, fleets: Sequence[str]) -> None:
    """Raise `YardstickError` if two fleets are made from one source: a tenant could then choose in
    one of them and confirm, or be tested, in the other.
    """
    specs, seen = load_specs(*settings.known_specs_dirs), dict[str, str]()
    for fleet in fleets:
        spec = specs[fleet]
        # Every fleet has a seed; only a synthetic one is made of it.
        origin = spec.seed if spec.kind == "synthetic" else getattr(spec, "path", fleet)
        source = f"{spec.kind} {origin}"
        if (other := seen.setdefault(source, fleet)) != fleet:
            raise YardstickError(
                f"fleets {other} and {fleet} come from one source ({source}), so that they share "
                "tenants; prepare one of them"
            )


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
    code, definitions = current_code()
    yield from changed_code(yardstick.definitions, definitions)
    if code != yardstick.code and definitions == yardstick.definitions:
        yield "the code was changed: other definitions of the same name are used"
    for name, (then, now) in differing(yardstick.defaults, _defaults()).items():
        yield f"the default of the setting {name!r} was changed from {then} to {now}"
    for name, (then, now) in differing(yardstick.settings, _settings(settings)).items():
        yield f"the setting {name!r} was changed from {then} to {now}"
    if not _is_recorded(settings, yardstick):
        yield f"no record in {_records(settings)} says that it was ever sealed"
    for name in FIXED:
        if (value := getattr(yardstick, name)) != (fixed := Yardstick.model_fields[name].default):
            yield f"{name!r} is {value} in the sealed file, and {fixed} in the code"
    for fleet, sealed in yardstick.data.items():
        yield from changes_of_fleet(settings, fleet, sealed)


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


def _settings(settings: Settings) -> dict[str, Any]:
    """Return the values of `SETTINGS`."""
    return {name: attrgetter(name)(settings) for name in SETTINGS}


def _records(settings: Settings) -> Path:
    """Return the folder with every yardstick that was sealed: it tells what the lines of earlier
    ones in the ledger were judged by, and that nobody made the sealed file by hand.
    """
    return settings.records_dir / FOLDER / "yardsticks"


def _write_record(settings: Settings, yardstick: Yardstick, text: str) -> None:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    append_file(_records(settings), write, suffix=".json", label=yardstick.digest)


def _is_recorded(settings: Settings, yardstick: Yardstick) -> bool:
    """Return whether an intact record holds this yardstick."""
    paths = _records(settings).glob(f"{yardstick.digest}-*.json")
    return any(appended_at(path) is not None and is_intact(path) for path in paths)


def _defaults() -> dict[str, Any]:
    """Return the defaults of the search's settings as JSON has them (no infinities)."""
    defaults: dict[str, Any] = json.loads(SearchSettings().model_dump_json())
    return defaults
