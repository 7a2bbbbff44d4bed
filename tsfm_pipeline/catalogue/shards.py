"""Makes a table shard by shard, on any machine: the driver plans the missing shards, an executor
makes them, and the driver commits the table.

What belongs here: the work unit that is sent to a worker, the conditions under which a worker
accepts it, and the executor of this process. What does not: parts and records on disk (`lake`),
what a shard holds (`steps`), executors that need another package.

A worker opens the member (a fleet, say) from the settings that it receives, because its own
environment may have other settings. It keeps the member and the model for the next shard. A worker
refuses work if its result would differ from the driver's: by other code, settings, telemetry or
weights (another fingerprint), or in the last digits (another BLAS kernel, device, token budget or
matrix product).
"""

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tsfm_pipeline.catalogue.scopes import Member
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.lake import TableSummary, Task
from tsfm_pipeline.parts import Part
from tsfm_pipeline.settings import Settings

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

WHOLE: Sequence[Sequence[int]] = ((),)
"""The shards of a table that is made whole."""


class ShardWork(NamedTuple):
    """Everything that a worker is sent besides the shard. It can be pickled; it holds neither the
    member nor the model.

    settings: as JSON, with absolute paths. opener: `module:function`, called with (settings, name
    of the member). make: `module:function`, called with (member, shard), or with (member) for a
    table that is made whole; if it `needs_model`, the model is the last argument. fingerprint: the
    driver's fingerprint of the table. numerics: what `numerics` returns for the driver.
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
        """Make each of these shards, in any order, and yield each part as soon as it is written."""


class InProcess:
    """Makes one shard after the other in the driver's process, with the member that is already
    open.
    """

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
    """Return the work of making a member's table by the function `make` (see `ShardWork`)."""
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
    """Make the missing shards of a table (or `WHOLE`), in this process by default, and commit the
    table; see `FleetLake.complete`.
    """
    made_with = {"numerics": json.loads(work.numerics), **(provenance or {})}
    run = partial((executor or InProcess(member)).run, work)
    return member.tables.complete(
        work.table, shards, run, provenance=made_with, force=force, log=log
    )


def make_shard(work: ShardWork, task: Task) -> Part:
    """Make one shard in a worker's process and write its part. Executors call this on the worker.

    Raises `LakeError` if this process would make a different table from the one that the driver
    asks for.
    """
    member = _opened(work.settings, work.opener, work.member, work.table, work.fingerprint)
    own = numerics(model_of(_settings(work.settings)) if work.needs_model else None)
    if own != work.numerics:
        raise LakeError(
            f"worker {socket.gethostname()} computes table {work.table!r} of {work.member!r} with "
            f"{own}, the run with "
            f"{work.numerics}: the last digits would differ from shard to shard; give every "
            "worker the same processor type "
            "(or OPENBLAS_CORETYPE and TSFM_MATRIX_PRODUCT) and device"
        )
    return _make_part(member, work, task)


def _make_part(member: Member, work: ShardWork, task: Task) -> Part:
    number, shard = task
    model = [model_of(_settings(work.settings))] if work.needs_model else []
    frame = resolve_name(work.make)(member, *([shard] if len(shard) else []), *model)
    return member.tables.put(work.table, number, shard, frame)


def numerics(model: "FrozenForecaster | None" = None) -> str:
    """Return, as JSON, what the last digits of a table depend on besides its fingerprint: the BLAS
    kernel, and a model's device, token budget and matrix product.
    """
    plan = {} if model is None else model.plan
    return json.dumps({"blas": blas_kernel(), **plan}, sort_keys=True)


def model_of(settings: Settings) -> "FrozenForecaster":
    """Return the frozen model under these settings, loaded once per process. Raises ValueError if
    it cannot be used.
    """
    return frozen_model(
        settings.checkpoint, settings.device, settings.dtype, settings.matrix_product
    )


@cache
def frozen_model(
    checkpoint: str, device: str, dtype: str, matrix_product: str
) -> "FrozenForecaster":
    """Call `load_forecaster` once per process and return its model."""
    return load_forecaster(checkpoint, device=device, dtype=dtype, matrix_product=matrix_product)


@lru_cache(maxsize=1)
def _settings(text: str) -> Settings:
    return Settings.model_validate_json(text)


@lru_cache(maxsize=1)
def _opened(settings: str, opener: str, name: str, table: str, fingerprint: str) -> Member:
    """Open the member under the driver's settings. It is opened again for every table, because
    cached values may be stale for the next table.
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
    """Return the kernel of the BLAS library that numpy computes with. Another kernel gives other
    last digits.
    """
    import numpy  # noqa: F401
    from threadpoolctl import threadpool_info

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    # Other packages bring their own BLAS libraries, and whether they are loaded yet depends on what
    # ran before.
    own = [library for library in libraries if "numpy" in library["filepath"]] or libraries
    return " ".join(
        sorted({f"{library['internal_api']} {library.get('architecture')}" for library in own})
    )
