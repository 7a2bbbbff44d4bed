"""What was fetched from a Prometheus server, day by day, and the fetching of what is newer.

What belongs here: which steps are asked for, and the files they are kept in. What does not: requests and their errors
(`fleets.prometheus_api`), the fleet that is read from the files (`fleets.prometheus`).

Steps are whole multiples of the step since 1970 UTC. A step is taken once the server's own clock is `delay_seconds` past it. Each UTC day
is one Parquet file that remembers through which step it was fetched; `refresh` asks only for what is newer, day by day, so that a run
that was killed goes on where it stopped, and drops days older than `lookback_days`. What is younger than `fresh_hours` is fresh enough: a
run that was interrupted after its telemetry goes on with what it saw, instead of beginning anew with a few more steps. The files lie
under a digest of address, queries, label and step, so that another query never continues the numbers of an earlier one. What the server
does not answer (staleness, a target that was down) is no row, or null; infinities are null and counted.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.files import fingerprint, write_atomically
from tsfm_pipeline.fleets.kinds import PrometheusFleet
from tsfm_pipeline.fleets.prometheus_api import WAIT, Page, PrometheusClient
from tsfm_pipeline.fleets.source import UNREADABLE, FleetDataError

DAY_S = 86_400
FILES = "????-??-??.parquet"
_KEY = "tsfm_pipeline.prometheus"
_ROWS_PER_GROUP = 100_000


@dataclass(frozen=True)
class StoredDay:
    """One file: all steps of one UTC day up to and with `through` (seconds), of which `n_infinite` values were infinite."""

    path: Path
    through: int
    digest: str
    n_infinite: int


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did; `through` is the newest step that is stored."""

    n_requests: int
    n_new_rows: int
    through: datetime
    warnings: tuple[str, ...]


def store_of(spec: PrometheusFleet, raw_dir: Path) -> Path:
    """The folder of everything that was fetched by this address, these queries, this label and this step."""
    return raw_dir / f"prometheus-{fingerprint(spec.url, sorted(spec.queries.items()), spec.tenant_label, spec.step)}"


def stored_days(folder: Path, log: Callable[[str], Any] = lambda _: None) -> list[StoredDay]:
    """The readable files of a store, oldest first; a file that cannot be read counts as absent and is said to be."""
    days = []
    for path in sorted(folder.glob(FILES)):
        try:
            record = json.loads(pl.read_parquet_metadata(path).get(_KEY, "null"))
        except (*UNREADABLE, ValueError) as error:
            log(f"{path} cannot be read and is fetched again: {error}")
            record = None
        if record is not None:
            days.append(StoredDay(path, **record))
    return days


def refresh(
    spec: PrometheusFleet,
    raw_dir: Path,
    *,
    always: bool = False,
    log: Callable[[str], Any] = lambda _: None,
    connect: Callable[[PrometheusFleet], PrometheusClient] = lambda spec: PrometheusClient(spec, wait=WAIT),
) -> Refreshed:
    """Fetch every complete step that is newer than what is stored, unless that is fresh enough; the caller holds the fleet's lock.

    always: fetch even then. Raises `FleetDataError` as `PrometheusClient.pages` does, and where the stored steps lie in the server's
    future. Days that were fetched before an error are kept.
    """
    folder = store_of(spec, raw_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    step = round(spec.step * 60)
    n_new = 0
    warnings: dict[str, None] = {}
    days = {day.path.stem: day for day in stored_days(folder, log)}
    with connect(spec) as client:
        newest = int((client.now() - spec.delay_seconds) // step) * step
        _refuse_the_future(spec, list(days.values()), newest)
        first_day, last_day = newest // DAY_S - spec.lookback_days, newest // DAY_S
        through = max((day.through for day in days.values()), default=0)
        whole = all(date_text(number * DAY_S) in days for number in range(first_day, through // DAY_S + 1))
        if not always and whole and newest - through < spec.fresh_hours * 3600:
            log(f"{spec.name}: fetched through {time_text(through)}, which is fresh enough (fresh_hours: {spec.fresh_hours:g})")
            return Refreshed(client.n_requests, 0, datetime.fromtimestamp(through, UTC), ())
        for number in range(first_day, last_day + 1):
            midnight, end = number * DAY_S, min((number + 1) * DAY_S - step, newest)
            path = folder / f"{date_text(number * DAY_S)}.parquet"
            stored = days.get(path.stem)
            if stored is not None and stored.through >= end:
                continue
            known = None if stored is None else _read(stored, log)
            begin = midnight if known is None or stored is None else stored.through + step
            pages = {metric: list(client.pages(metric, begin, end)) for metric in sorted(spec.queries)}
            warnings |= dict.fromkeys(f"{metric}: {text}" for metric, found in pages.items() for page in found for text in page.warnings)
            new, n_infinite = _rows(pages, begin, end, step)
            n_new += new.height
            if known is not None and stored is not None:
                new, n_infinite = pl.concat([known, new]), n_infinite + stored.n_infinite
            _write(path, new.sort("tenant_id", "timestamp"), through=end, n_infinite=n_infinite)
            log(f"{spec.name}: fetched {path.stem} from {time_text(begin)} through {time_text(end)}")
        n_requests = client.n_requests
    for path in folder.glob(FILES):
        if path.stem < date_text(first_day * DAY_S):
            path.unlink()
    for warning in warnings:
        log(f"{spec.name}: the server warns about {warning}")
    return Refreshed(n_requests, n_new, datetime.fromtimestamp(newest, UTC), tuple(warnings))


def date_text(seconds: int) -> str:
    """The UTC day of a time, as its file is called."""
    return (date(1970, 1, 1) + timedelta(days=seconds // DAY_S)).isoformat()


def time_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _refuse_the_future(spec: PrometheusFleet, days: Sequence[StoredDay], newest: int) -> None:
    ahead = [day for day in days if day.through > newest + DAY_S]
    if ahead:
        raise FleetDataError(
            f"fleet {spec.name!r}: {ahead[-1].path} goes through {time_text(ahead[-1].through)}, but by the clock of {spec.url} it is "
            f"{time_text(newest)}; allowed: a server whose clock does not go back by days. Correct it, or delete the files of its future"
        )


def _read(day: StoredDay, log: Callable[[str], Any]) -> pl.DataFrame | None:
    """The rows of a day, or None where they cannot be read any more."""
    try:
        return pl.read_parquet(day.path, glob=False)
    except UNREADABLE as error:
        log(f"{day.path} cannot be read and is fetched again: {error}")
        return None


def _rows(pages: dict[str, list[Page]], begin: int, end: int, step: int) -> tuple[pl.DataFrame, int]:
    """Rows (tenant_id, timestamp, one column per metric) of all steps at which anything is known, and how many values were infinite."""
    tenants = sorted({series.tenant for found in pages.values() for page in found for series in page.series})
    number = {tenant: i for i, tenant in enumerate(tenants)}
    values = np.full((len(tenants), (end - begin) // step + 1, len(pages)), np.nan, dtype=np.float32)
    for d, found in enumerate(pages.values()):
        for page in found:
            for series in page.series:
                with np.errstate(over="ignore"):
                    values[number[series.tenant], (page.first - begin) // step + series.steps, d] = series.values
    infinite = np.isinf(values)
    values[infinite] = np.nan
    tenant, at = np.nonzero(~np.isnan(values).all(axis=2))
    columns: dict[str, pl.Series] = {
        "tenant_id": pl.Series(tenants, dtype=pl.String).gather(tenant),
        "timestamp": pl.Series((begin + at * step) * 1_000_000).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        **{metric: pl.Series(values[tenant, at, d]).fill_nan(None) for d, metric in enumerate(pages)},
    }
    return pl.DataFrame(columns), int(infinite.sum())


def _write(path: Path, frame: pl.DataFrame, *, through: int, n_infinite: int) -> None:
    digest = hashlib.sha256()
    for tenant, n_rows in frame.group_by("tenant_id", maintain_order=True).len().iter_rows():
        digest.update(f"{tenant}\0{n_rows}\0".encode())
    for column in frame.columns[1:]:
        digest.update(np.ascontiguousarray(frame[column].to_physical().to_numpy()).tobytes())
    record = {"through": through, "digest": digest.hexdigest(), "n_infinite": n_infinite}
    write_atomically(path, lambda target: frame.write_parquet(target, row_group_size=_ROWS_PER_GROUP, metadata={_KEY: json.dumps(record)}))
