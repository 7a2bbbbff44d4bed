"""Makes a table shard by shard, on any machine: the driver plans the missing shards, an executor
makes them, and the driver commits the table.

What belongs here: the work unit that is sent to a worker, the conditions under which a worker
accepts it, and the executor of this process. What does not: parts and records on disk (`lake`),
what a shard holds (`steps`), executors that need another package.

A worker opens the member (a fleet, say) from the settings that it receives, because its own
environment may have other settings. It keeps the member and the model for the next shard. A worker
refuses work if its result would differ from the driver's: by other code, settings, telemetry or
weights (another fingerprint), or in the last digits (another BLAS kernel, decoder, matrix product,
device or token budget). What every shard needs whole is made once, by the driver, and sent with the
work.
"""

import hashlib
import json
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
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


@dataclass(frozen=True)
class Shared:
    """What every shard needs whole, as the driver made it. Two of the same SHA-256 are equal.

    content: pickled.
    """

    sha256: str
    content: bytes = field(compare=False, repr=False)

    @classmethod
    def of(cls, value: object) -> "Shared":
        """Pack a value that can be pickled."""
        content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        return cls(hashlib.sha256(content).hexdigest(), content)


class ShardWork(NamedTuple):
    """Everything that a worker is sent besides the shard. It can be pickled; it holds neither the
    member nor the model.

    settings: as JSON, with absolute paths. opener: `module:function`, called with (settings, name
    of the member). make: `module:function`, called with (member, shard), or with (member) for a
    table that is made whole; if it `needs_model`, the model is the last argument. fingerprint: the
    driver's fingerprint of the table. numerics: what `numerics` returns for the driver. driver: the
    host of the driver. share: `module:function`, called with (member) by the driver; what it
    returns is the last argument of `make`, or none is passed if it is "". shared: the driver's
    result of `share`, once there is a shard to make.
    """

    settings: str
    opener: str
    member: str
    table: str
    make: str
    fingerprint: str
    numerics: str
    needs_model: bool = False
    driver: str = ""
    share: str = ""
    shared: Shared | None = None


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
    share: str = "",
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
        driver=socket.gethostname(),
        share=share,
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
    maker = executor or InProcess(member)

    def run(tasks: Sequence[Task]) -> Iterable[Part]:
        return maker.run(with_shared(member, work), tasks)

    return member.tables.complete(
        work.table,
        shards,
        run,
        provenance=made_with,
        force=force,
        numerics=work.numerics,
        log=log,
    )


def with_shared(member: Member, work: ShardWork) -> ShardWork:
    """Return the work with what every shard needs whole."""
    if not work.share:
        return work
    return work._replace(shared=Shared.of(resolve_name(work.share)(member)))


def make_shard(work: ShardWork, task: Task) -> Part:
    """Make one shard in a worker's process and write its part. Executors call this on the worker.

    Raises `LakeError` if this process would make a different table from the one that the driver
    asks for.
    """
    member = _opened(work.settings, work.opener, work.member, work.table, work.fingerprint)
    own = numerics(model_of(_settings(work.settings)) if work.needs_model else None)
    if own != work.numerics:
        here, there = _differences(own, work.numerics)
        raise LakeError(
            f"worker {socket.gethostname()} computes table {work.table!r} of {work.member!r} with "
            f"{here}, the run with {there} (on {work.driver}): the last digits would differ from "
            "shard to shard; give every worker the same processor type (or OPENBLAS_CORETYPE and "
            "TSFM_MATRIX_PRODUCT), device and decoder; `tsfm-pipeline doctor` on each of the two "
            "says why it has which"
        )
    return _make_part(member, work, task)


def _differences(own: str, wanted: str) -> tuple[str, str]:
    """Return what differs between two numerics, as words of each."""
    both: list[dict[str, Any]] = [json.loads(own), json.loads(wanted)]
    names = sorted(both[0].keys() | both[1].keys())
    differ = [name for name in names if both[0].get(name) != both[1].get(name)]
    here, there = (", ".join(f"{name} {one.get(name, 'none')}" for name in differ) for one in both)
    return here, there


def _make_part(member: Member, work: ShardWork, task: Task) -> Part:
    number, shard = task
    frame = resolve_name(work.make)(
        member,
        *([shard] if len(shard) else []),
        *([model_of(_settings(work.settings))] if work.needs_model else []),
        *shared_of(work),
    )
    return member.tables.put(work.table, number, shard, frame, work.numerics)


def shared_of(work: ShardWork) -> list[Any]:
    """Return the last argument of `make` if the work has something that is shared, else nothing.
    It is unpacked once per process.
    """
    return [] if work.shared is None else [_unpacked(work.shared)]


@lru_cache(maxsize=1)
def _unpacked(shared: Shared) -> Any:
    return pickle.loads(shared.content)


def numerics(model: "FrozenForecaster | None" = None) -> str:
    """Return, as JSON, what the last digits of a table depend on besides its fingerprint: the BLAS
    kernel, and of a model its decoder (see `forecaster.arithmetic`), matrix product, device and
    token budget.
    """
    if model is None:
        return json.dumps({"blas": blas_kernel()})
    from tsfm_pipeline.forecaster.arithmetic import arithmetic

    found = {"blas": blas_kernel(), "decoder": arithmetic(model.decoder), **model.plan}
    return json.dumps(found, sort_keys=True)


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
