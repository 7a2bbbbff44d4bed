"""What the command line and Dagster both do with the study: prepare, search, try, promote, look.

What belongs here: putting the study's parts together, and its state in a few figures. What does
not: arguments and output (`commands`), assets (`definitions`), the parts themselves.
"""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from tsfm_pipeline.policy_file import read_policy_file
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.adoption import adopted_file, policy_in_force
from tsfm_pipeline.studies.policy_search.drivers import Driver, Options, driver
from tsfm_pipeline.studies.policy_search.drivers.file import FileDriver
from tsfm_pipeline.studies.policy_search.judging import incumbent_of
from tsfm_pipeline.studies.policy_search.ledger import Ledger
from tsfm_pipeline.studies.policy_search.promotion_records import PromotionRecords, n_looks
from tsfm_pipeline.studies.policy_search.yardstick import (
    Yardstick,
    read_yardstick,
    require_untouched,
    seal,
)

if TYPE_CHECKING:
    from tsfm_pipeline.studies.policy_search.loop import LoopEnd
    from tsfm_pipeline.studies.policy_search.promotion_records import Promotion

Log = Callable[[str], Any]
LAST_ROWS = 10


class StudyError(RuntimeError):
    """Something that must come first has not happened; the message says what to do."""


class Line(BaseModel):
    """One line of the ledger as `status` shows it. The figures are None where it has none."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    time: datetime
    experiment: str
    policy: str
    driver: str
    status: str
    screened_out: bool
    objective: float | None
    p95_ms: float | None
    seconds: float | None
    changes: dict[str, Any]
    description: str


class Status(BaseModel):
    """The state of the study under the sealed yardstick.

    counts: lines of the ledger by status; n_screened_out of the discarded ones saw a third of the
    requests only. incumbent: the last kept line, None before the first experiment. in_force: the
    policy that the next promotion would replace; provenance: what its file says about it.
    n_final_looks: looks at test requests, of all yardsticks. last: the last lines, newest last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    yardstick: str
    fleets: tuple[str, ...]
    n_experiments: int
    counts: dict[str, int]
    n_screened_out: int
    n_running: int
    incumbent: Line | None
    in_force: str
    in_force_changes: dict[str, Any]
    provenance: dict[str, Any]
    n_considered: int
    n_promoted: int
    n_final_looks: int
    last: tuple[Line, ...]


def prepare_study(settings: Settings, fleets: Sequence[str], log: Log) -> Yardstick:
    """Make the study's tables of these fleets and seal them as the yardstick; what is current is
    kept.
    """
    from tsfm_pipeline.studies.policy_search.prepare import prepare

    for fleet in fleets:
        prepare(settings, fleet, log)
    return seal(settings, fleets, log)


def search(
    settings: Settings,
    name: str,
    *,
    hours: float | None,
    experiments: int | None,
    seed: int,
    log: Log,
) -> "LoopEnd":
    """Run experiments with a driver until the time is up or so many of its policies were tried.

    Raises ValueError if neither limit is given, and as `loop.run_loop` does.
    """
    if hours is None and experiments is None:
        raise ValueError("say when to stop: after some hours, or after some experiments")
    yardstick = read_yardstick(settings)
    options = Options(seed=seed, budget_ms=yardstick.budget_ms)
    return _loop(
        settings, yardstick, driver(name, options), hours=hours, experiments=experiments, log=log
    )


def try_policy(settings: Settings, path: Path, description: str, log: Log) -> Line:
    """Run one experiment on the policy in a file and return its line. A policy that was tried
    before is not run again: its line is returned.

    Raises `PolicyError` for a file that is no policy, and `StudyError` if the loop ended before the
    policy had a line.
    """
    yardstick = read_yardstick(settings)
    proposing = FileDriver.read(path, description)
    digest, ledger = proposing.policy.digest, Ledger(settings)

    def line() -> dict[str, Any] | None:
        own = ledger.read(yardstick.digest).filter(pl.col("policy") == digest)
        return own.row(-1, named=True) if own.height else None

    if (row := line()) is not None:
        when = f"{row['time']:%Y-%m-%d %H:%M} UTC"
        log(f"not run: policy {digest} is in the ledger already, since {when}")
        return _line(row)
    end = _loop(settings, yardstick, proposing, hours=None, experiments=1, log=log)
    if (row := line()) is not None:
        return _line(row)
    if any(claim.policy.digest == digest for claim in ledger.running()):
        raise StudyError(f"policy {digest} is running in another loop: see `status`")
    raise StudyError(f"policy {digest} has no line in the ledger: {end.reason}")


def promote(settings: Settings, log: Log) -> "Promotion":
    """Compare the incumbent with the policy in force on the confirming folds, and adopt it if it is
    shown to be better and harms nothing.

    Raises `StudyError` if nothing but the default policy was kept, and `YardstickError` if the
    yardstick was touched.
    """
    from tsfm_pipeline.studies.policy_search.process import run_experiment

    yardstick = read_yardstick(settings)
    _complete_interrupted(settings, yardstick, log)
    ledger = Ledger(settings)
    incumbent = incumbent_of(ledger.read(yardstick.digest))
    if incumbent is None or not incumbent.policy.n_changes:
        raise StudyError(
            "no policy was kept but the default one, so there is nothing to promote; run "
            "experiments first: tsfm-pipeline policy-search run --driver optuna --hours 1"
        )
    return _consider(log)(settings, yardstick, ledger, incumbent.row, run_experiment)


def status(settings: Settings, n_last: int = LAST_ROWS, ledger: Ledger | None = None) -> Status:
    """Return the state of the study under the sealed yardstick. Raises `YardstickError` if there is
    none.

    ledger: one that is kept reads only the lines that are new since it was last asked.
    """
    yardstick = read_yardstick(settings)
    ledger = Ledger(settings) if ledger is None else ledger
    rows = ledger.read(yardstick.digest)
    incumbent = incumbent_of(rows)
    in_force, path = policy_in_force(settings), adopted_file(settings)
    adopted = read_policy_file(path) if path.is_file() else None
    promotions = PromotionRecords(settings).promotions()
    own = promotions.filter(pl.col("yardstick") == yardstick.digest)
    orphans = ledger.orphans(yardstick.digest, yardstick.hard_seconds)
    # Gains are figures of the confirming folds, which no driver may see.
    said = adopted.provenance if adopted else {}
    provenance = {name: value for name, value in said.items() if name != "gains"}
    counts = dict(rows.group_by("status").len().sort("status").iter_rows())
    return Status(
        yardstick=yardstick.digest,
        fleets=yardstick.fleets,
        n_experiments=rows.height,
        counts=counts,
        n_screened_out=int(rows["screened_out"].sum()),
        n_running=len(ledger.running(yardstick.digest)) - len(orphans),
        incumbent=None if incumbent is None else _line(incumbent.row),
        in_force=in_force.digest,
        in_force_changes=json.loads(in_force.changes),
        provenance=provenance,
        n_considered=own.height,
        n_promoted=int(own["promoted"].sum()),
        n_final_looks=n_looks(settings),
        last=tuple(_line(row) for row in rows.tail(n_last).iter_rows(named=True)),
    )


def _loop(
    settings: Settings,
    yardstick: Yardstick,
    proposing: Driver,
    *,
    hours: float | None,
    experiments: int | None,
    log: Log,
) -> "LoopEnd":
    from tsfm_pipeline.studies.policy_search.loop import run_loop
    from tsfm_pipeline.studies.policy_search.process import run_experiment

    _complete_interrupted(settings, yardstick, log)
    return run_loop(
        settings,
        yardstick,
        proposing,
        run=run_experiment,
        check=require_untouched,
        hours=hours,
        experiments=experiments,
        consider=_consider(log),
        log=log,
    )


def _complete_interrupted(settings: Settings, yardstick: Yardstick, log: Log) -> None:
    """Complete promotions that were interrupted after their verdict, also those of a yardstick that
    was sealed before, under which no comparison will come. Raises as `require_untouched` does.
    """
    from tsfm_pipeline.studies.policy_search.promotion import complete_interrupted

    require_untouched(settings, yardstick)
    complete_interrupted(settings, yardstick, log)


def _consider(log: Log) -> Callable[..., "Promotion"]:
    from tsfm_pipeline.studies.policy_search.promotion import consider

    return partial(consider, log=log)


def _line(row: Any) -> Line:
    fields = {name: row[name] for name in Line.model_fields if name != "changes"}
    return Line(**fields, changes=json.loads(row["changes"]))
