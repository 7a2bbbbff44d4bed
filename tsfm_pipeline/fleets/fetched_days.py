"""Telemetry that was fetched from a server, stored day by day, and the fetching of newer steps.

What belongs here: choosing the steps to fetch, and the files that store them. What does not: asking
a server (`fleets.prometheus_store`, `fleets.sql_store`), the fleet that is read from the files
(`fleets.prometheus`, `fleets.sql`).

Steps are whole multiples of the step since 1970 UTC. A step is fetched once the server's own clock
is `delay_seconds` past it. `refresh` requests only newer steps, day by day, so that a run that was
killed resumes where it stopped. Steps younger than `fresh_hours` count as fresh: a run that was
interrupted after fetching resumes with the same telemetry, instead of starting again with a few
more steps. The folder is named after a digest of what was asked, so that a new query never
continues the numbers of an earlier one.

Files are only ever added, as in a record table (`catalogue.records`): a server deletes old data, so
it cannot be fetched again. Each fetch of some steps of one UTC day is one Parquet file, which
records its first and its last step. A day is read as a chain of files, each of which begins where
the previous one ends; where two begin at the same step, the later one counts. A file that cannot be
read ends its day's chain until the steps after it are fetched again into a new file. Days older
than `lookback_days` are kept but not read.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from tsfm_pipeline.files import append_file
from tsfm_pipeline.fleets.kinds import FetchedFleet
from tsfm_pipeline.fleets.source import UNREADABLE, FleetDataError

DAY_S = 86_400
FILES = "????-??-??-*.parquet"
_KEY = "tsfm_pipeline.prometheus"
"""Where a file holds its record, whatever it was fetched from: the name dates from the first kind.
"""
NO_ROWS = hashlib.sha256().hexdigest()
"""The digest of a day without rows."""
_ROWS_PER_GROUP = 100_000


@dataclass(frozen=True)
class StoredDay:
    """All stored steps of one UTC day up to and including `through` (seconds); `n_infinite` of
    their values were infinite.

    paths: the files of the day's chain, one or more. digest: of the rows of the whole day,
    regardless of how they are split into files. lost: a file of the day that could not be read, or
    that continues a missing one, and that no later file has replaced.
    """

    day: str
    paths: tuple[Path, ...]
    through: int
    digest: str
    n_infinite: int
    lost: Path | None = None


@dataclass(frozen=True)
class Refreshed:
    """The result of a refresh; `through` is the newest stored step."""

    n_requests: int
    n_new_rows: int
    through: datetime
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Fetched:
    """The answer for some steps of one day: rows of `columns` (time as Datetime in UTC), sorted."""

    rows: pl.DataFrame
    n_infinite: int = 0
    warnings: tuple[str, ...] = ()


class Client(Protocol):
    """What `refresh_days` needs of a server; times are seconds since 1970 UTC."""

    @property
    def name(self) -> str:
        """Return what a person knows the server by, without secrets."""

    @property
    def order(self) -> tuple[str, ...]:
        """Return the columns that the rows of one day are sorted by, the tenant's first."""

    @property
    def n_requests(self) -> int:
        """Return how many requests were sent."""

    def now(self) -> float:
        """Return the time of the server's own clock."""

    def fetch(self, spans: Sequence[tuple[int, int]]) -> Iterator[Fetched]:
        """Yield the answer for each span, which goes from its first to its last step (inclusive)
        and lies within one UTC day. Raises `FleetDataError`.
        """


def stored_days(
    folder: Path, lookback_days: int, log: Callable[[str], Any] = lambda _: None
) -> list[StoredDay]:
    """Return the stored files of the newest day and the `lookback_days` before it, oldest first; a
    day of which nothing can be read has no paths.

    A file that cannot be read is logged, unless another file has replaced it.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(FILES)):
        files.setdefault(path.name[: len("2024-03-11")], []).append(path)
    first = date.fromisoformat(max(files)) - timedelta(days=lookback_days) if files else date.max
    days = [_chain(day, paths, log) for day, paths in files.items() if day >= first.isoformat()]
    return sorted(days, key=lambda day: day.day)


def _chain(day: str, paths: Iterable[Path], log: Callable[[str], Any]) -> StoredDay:
    """Return the files of one day that continue each other, from files in the order in which they
    were fetched.
    """
    midnight = round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
    chain: list[tuple[Path, dict[str, Any]]] = []
    lost: tuple[Path, str] | None = None
    for path in paths:
        record = _record(path)
        if isinstance(record, str):
            lost = (path, record)
            continue
        # Earlier releases stored a day in one file, without its beginning.
        begin, after = record.get("begin", midnight), record.get("after")
        kept = [(earlier, of) for earlier, of in chain if of["through"] < begin]
        if begin == midnight or (kept and kept[-1][1]["through"] == after):
            chain, lost = [*kept, (path, record)], None
        else:
            lost = (path, "it continues a file that is missing")
    if lost is not None:
        log(f"{lost[0]} cannot be read and is fetched again: {lost[1]}")
    newest: dict[str, Any] = (
        chain[-1][1] if chain else {"through": midnight, "digest": "", "n_infinite": 0}
    )
    return StoredDay(
        day,
        tuple(path for path, _ in chain),
        through=newest["through"],
        digest=newest["digest"],
        n_infinite=newest["n_infinite"],
        lost=None if lost is None else lost[0],
    )


def _record(path: Path) -> dict[str, Any] | str:
    """Return the record of the fetch that a file holds, or why it cannot be read."""
    try:
        record = json.loads(pl.read_parquet_metadata(path).get(_KEY, "null"))
    except (*UNREADABLE, ValueError) as error:
        return str(error)
    return record if isinstance(record, dict) else "it has no record of a fetch"


def missing(days: Sequence[StoredDay], first_day: int, through: int, step: int) -> list[str]:
    """Return the files and days that should exist and do not, from a day (counted since 1970) to a
    step in seconds, including all steps between.
    """
    by_day = {day.day: day for day in days}
    absent = []
    for number in range(first_day, through // DAY_S + 1):
        name = date_text(number * DAY_S)
        day = by_day.get(name)
        if day is None:
            absent.append(f"the day {name}")
        elif day.lost is not None:
            absent.append(str(day.lost))
        elif day.through < min((number + 1) * DAY_S - step, through):
            absent.append(f"the end of the day {name}")
    return absent


def what_is_stored(spec: FetchedFleet, folder: Path, *, step: int, server: str) -> list[StoredDay]:
    """Return the fetched days. Raises `FleetDataError` where there are none, or where one of them
    is missing or cannot be read.
    """
    days = stored_days(folder, spec.lookback_days)
    if not any(day.paths for day in days):
        raise FleetDataError(
            f"fleet {spec.name!r}: nothing has been fetched from {server} yet; run "
            f"`tsfm-pipeline fleet check {spec.name}`, or "
            "materialise the asset 'tenant_telemetry'"
        )
    first, through = days[0].through // DAY_S, max(day.through for day in days)
    lost = missing(days, first, through, step)
    if lost:
        raise FleetDataError(
            f"fleet {spec.name!r}: of {through // DAY_S - first + 1} days, {lost[0]} is missing or "
            f"cannot be read; fetch it again with `tsfm-pipeline fleet check {spec.name} --fetch`, "
            "or materialise the asset 'tenant_telemetry'"
        )
    return days


@dataclass(frozen=True)
class _Span:
    """Steps of one day that are to be fetched, `begin` to `end` (inclusive, seconds), after the
    rows that are known of this day.
    """

    day: str
    begin: int
    end: int
    known: pl.DataFrame | None
    stored: StoredDay | None


def refresh_days(
    spec: FetchedFleet,
    folder: Path,
    client: Client,
    *,
    step: int,
    always: bool,
    log: Callable[[str], Any],
) -> Refreshed:
    """Fetch every complete step (of `step` seconds) that is newer than the stored ones, unless the
    stored ones are fresh. The caller must hold the fleet's lock.

    always: fetch even then. Raises `FleetDataError` as the client does, and where the stored steps
    lie in the server's future. Days that were fetched before an error are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    n_new = 0
    warnings: dict[str, None] = {}
    days = {day.day: day for day in stored_days(folder, spec.lookback_days, log) if day.paths}
    newest = int((client.now() - spec.delay_seconds) // step) * step
    _refuse_the_future(spec, list(days.values()), newest, client.name)
    first_day = newest // DAY_S - spec.lookback_days
    through = max((day.through for day in days.values()), default=0)
    whole = not missing(list(days.values()), first_day, through, step)
    if not always and whole and newest - through < spec.fresh_hours * 3600:
        log(
            f"{spec.name}: fetched through {time_text(through)}, which is fresh enough "
            f"(fresh_hours: {spec.fresh_hours:g})"
        )
        return Refreshed(client.n_requests, 0, datetime.fromtimestamp(through, UTC), ())
    spans = list(_spans(days, first_day, newest, step, log))
    answers = client.fetch([(span.begin, span.end) for span in spans])
    for span, answer in zip(spans, answers, strict=True):
        warnings |= dict.fromkeys(answer.warnings)
        n_new += answer.rows.height
        n_infinite = answer.n_infinite
        record: dict[str, Any] = {"begin": span.begin, "through": span.end}
        whole_day = answer.rows
        if span.known is not None and span.stored is not None:
            whole_day = pl.concat([span.known, answer.rows], how="diagonal_relaxed")
            record |= {"after": span.stored.through}
            n_infinite += span.stored.n_infinite
        record |= {
            "n_infinite": n_infinite,
            "digest": _digest(whole_day.sort(client.order, maintain_order=True)),
        }
        _append(folder, span.day, answer.rows, record)
        log(
            f"{spec.name}: fetched {span.day} from {time_text(span.begin)} through "
            f"{time_text(span.end)}"
        )
    for warning in warnings:
        log(f"{spec.name}: the server warns about {warning}")
    return Refreshed(client.n_requests, n_new, datetime.fromtimestamp(newest, UTC), tuple(warnings))


def _spans(
    days: Mapping[str, StoredDay],
    first_day: int,
    newest: int,
    step: int,
    log: Callable[[str], Any],
) -> Iterator[_Span]:
    """Yield the steps that are not stored, from a day (counted since 1970) to the newest step."""
    for number in range(first_day, newest // DAY_S + 1):
        midnight, end = number * DAY_S, min((number + 1) * DAY_S - step, newest)
        day = date_text(midnight)
        stored = days.get(day)
        if stored is not None and stored.lost is None and stored.through >= end:
            continue
        known = _read(stored, log) if stored is not None and stored.through < end else None
        begin = midnight if known is None or stored is None else stored.through + step
        yield _Span(day, begin, end, known, stored)


def date_text(seconds: int) -> str:
    """Return the UTC day of a time, as in its file's name."""
    return (date(1970, 1, 1) + timedelta(days=seconds // DAY_S)).isoformat()


def time_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _refuse_the_future(
    spec: FetchedFleet, days: Sequence[StoredDay], newest: int, server: str
) -> None:
    ahead = [day for day in days if day.through > newest + DAY_S]
    if ahead:
        raise FleetDataError(
            f"fleet {spec.name!r}: {ahead[-1].paths[-1]} goes through "
            f"{time_text(ahead[-1].through)}, but by the clock of {server} it is "
            f"{time_text(newest)}; allowed: a server whose clock does not go back by days. Correct "
            "the clock, or move the files that lie in its future away"
        )


def _read(day: StoredDay, log: Callable[[str], Any]) -> pl.DataFrame | None:
    """Return the rows of a day, or None where they can no longer be read."""
    frames = []
    for path in day.paths:
        try:
            frames.append(pl.read_parquet(path, glob=False))
        except UNREADABLE as error:
            log(f"{path} cannot be read and is fetched again: {error}")
            return None
    return pl.concat(frames)


def _digest(frame: pl.DataFrame) -> str:
    """Return a digest of sorted rows, of which columns of text repeat themselves."""
    digest = hashlib.sha256()
    for column in frame:
        if column.dtype == pl.String:
            for n_rows, text in column.rle().struct.unnest().iter_rows():
                digest.update(f"{text}\0{n_rows}\0".encode())
        else:
            digest.update(np.ascontiguousarray(column.to_physical().to_numpy()).tobytes())
    return digest.hexdigest()


def _append(folder: Path, day: str, frame: pl.DataFrame, record: dict[str, Any]) -> None:
    metadata = {_KEY: json.dumps(record)}
    append_file(
        folder,
        lambda path: frame.write_parquet(path, row_group_size=_ROWS_PER_GROUP, metadata=metadata),
        suffix=".parquet",
        label=day,
    )
