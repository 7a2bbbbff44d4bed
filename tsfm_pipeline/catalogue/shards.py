"""Making a table shard by shard, anywhere: what is missing is planned, an executor makes it, and
the driver commits it.

What belongs here: the work that is handed out (all that travels to a worker), who may do it, and
the executor of this process. What does not: parts and records on disk (`lake`), what a shard holds
(`steps`), an executor that needs another package.

A worker opens the member (a fleet, say) from the settings that it is sent, because its own
environment may name others, and keeps it, and the model, for the next shard. It refuses work that
it would do otherwise than the driver: by other code, settings, telemetry or weights (another
fingerprint), or with other last digits (another BLAS kernel, device or token budget).
"""

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tsfm_pipeline.catalogue.scopes import Member
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.lake import LakeError, Part, TableSummary, Task
from tsfm_pipeline.settings import Settings

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

WHOLE: Sequence[Sequence[int]] = ((),)
"""The shards of a table that is made in one piece."""


class ShardWork(NamedTuple):
    """All that a worker is sent besides the shard: it can be pickled, and holds neither the member
    nor the model.

    settings: as JSON, paths absolute. opener: `module:function` of (settings, name of the member).
    make: `module:function` of (member, shard), or of (member) for a table in one piece, with the
    model as last argument where it `needs_model`. fingerprint: of the table, numerics: as
    `numerics` gives it, both the driver's.
    """

    settings: str
    opener: str
    member: str
    table: str
    make: str
    fingerprint: str
    numerics: str
    needs_model: bool = False


class ShardExecutor(Protocol):
    """Makes shards somewhere."""

    def run(self, work: ShardWork, tasks: Sequence[Task]) -> Iterator[Part]:
        """Make each of these shards, in any order, and say what was written as soon as it is."""


class InProcess:
    """One shard after the other, by the driver itself, with the member that it has at hand."""

    def __init__(self, member: Member) -> None:
        self.member = member

    def run(self, work: ShardWork, tasks: Sequence[Task]) -> Iterator[Part]:
        """Make each of these shards."""
        for task in tasks:
            yield _make_part(self.member, work, task)


def shard_work(
    settings: Settings,
    opener: str,
    member: Member,
    table: str,
    make: str,
    needs_model: bool = False,
) -> ShardWork:
    """The work of making a member's table by the function `make` (see `ShardWork`)."""
    return ShardWork(
        settings=settings.model_dump_json(),
        opener=opener,
        member=member.name,
        table=table,
        make=make,
        fingerprint=member.tables.expected[table],
        numerics=numerics(model_of(settings) if needs_model else None),
        needs_model=needs_model,
    )


def make_table(
    member: Member,
    work: ShardWork,
    shards: Sequence[Sequence[int]],
    *,
    executor: ShardExecutor | None = None,
    provenance: Mapping[str, Any] | None = None,
    force: bool = False,
    log: Callable[[str], Any] = lambda _: None,
) -> TableSummary:
    """Make what is missing of a table (its shards, or `WHOLE`), in process by default, and commit
    it; see `FleetLake.complete`.
    """
    made_with = {"numerics": json.loads(work.numerics), **(provenance or {})}
    run = partial((executor or InProcess(member)).run, work)
    return member.tables.complete(
        work.table, shards, run, provenance=made_with, force=force, log=log
    )


def make_shard(work: ShardWork, task: Task) -> Part:
    """Make one shard in a worker's process and write its part; what an executor calls there.

    Raises `LakeError` where this process would make another table than the driver asks for.
    """
    member = _opened(work.settings, work.opener, work.member, work.table, work.fingerprint)
    own = numerics(model_of(_settings(work.settings)) if work.needs_model else None)
    if own != work.numerics:
        raise LakeError(
            f"worker {socket.gethostname()} computes table {work.table!r} of {work.member!r} with "
            f"{own}, the run with "
            f"{work.numerics}: the last digits would differ from shard to shard; give every "
            "worker the same processor type "
            "(or OPENBLAS_CORETYPE) and device"
        )
    return _make_part(member, work, task)


def _make_part(member: Member, work: ShardWork, task: Task) -> Part:
    number, shard = task
    model = [model_of(_settings(work.settings))] if work.needs_model else []
    frame = resolve_name(work.make)(member, *([shard] if len(shard) else []), *model)
    return member.tables.put(work.table, number, shard, frame)


def numerics(model: "FrozenForecaster | None" = None) -> str:
    """What the last digits of a table depend on besides its fingerprint, as JSON: the BLAS kernel,
    and a model's device and batches.
    """
    plan = (
        {} if model is None else {"device": str(model.device), "token_budget": model.token_budget}
    )
    return json.dumps({"blas": blas_kernel(), **plan}, sort_keys=True)


def model_of(settings: Settings) -> "FrozenForecaster":
    """The frozen model under these settings, loaded once per process. Raises ValueError where it
    cannot be used.
    """
    return frozen_model(settings.checkpoint, settings.device, settings.dtype)


@cache
def frozen_model(checkpoint: str, device: str, dtype: str) -> "FrozenForecaster":
    """`load_forecaster`, once per process."""
    return load_forecaster(checkpoint, device=device, dtype=dtype)


@lru_cache(maxsize=1)
def _settings(text: str) -> Settings:
    return Settings.model_validate_json(text)


@lru_cache(maxsize=1)
def _opened(settings: str, opener: str, name: str, table: str, fingerprint: str) -> Member:
    """The member under the driver's settings, opened anew for every table: what this process cached
    for one may be stale for the next.
    """
    member: Member = resolve_name(opener)(_settings(settings), name)
    own = member.tables.expected[table]
    if own != fingerprint:
        raise LakeError(
            f"worker {socket.gethostname()} would make another table {table!r} of {name!r} "
            f"(fingerprint {own}, the run's is "
            f"{fingerprint}); give every worker the same release, fleet files, telemetry and "
            "checkpoint"
        )
    return member


@cache
def blas_kernel() -> str:
    """The kernel of the BLAS library that numpy computes with: the same numbers, another kernel,
    other last digits.
    """
    import numpy  # noqa: F401
    from threadpoolctl import threadpool_info

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    # Other packages bring libraries of their own, and whether they are loaded yet depends on what
    # ran before.
    own = [library for library in libraries if "numpy" in library["filepath"]] or libraries
    return " ".join(
        sorted({f"{library['internal_api']} {library.get('architecture')}" for library in own})
    )
