"""Wear down a whole fleet until it is as ragged as real telemetry: outages, holes, short lives, few
days.

What belongs here: whole telemetry to start from, and one function per kind of wear. What does not:
what the pipeline must answer on a worn fleet (the tests of requests, steps and reports).

    python -m tsfm_pipeline_tests.worn SOURCE KIND OUT

writes OUT/SOURCE-KIND.parquet and the fleet file OUT/SOURCE-KIND.yaml, which names the table by
its full path. SOURCE is `synthetic`, or `smd`, `asd` or `nab`, which lie in ../shared/fleets beside
the checkout. In a test, `wear(source, kind, folder)` does the same, and `worn_table(telemetry,
kind, folder)` wears values [N, D, T] of the test's own.

| kind | what is left |
|---|---|
| `outage` | everything but 31 hours of all tenants at once, which end where the last week begins |
| `holes` | everything but hour-long holes at random times of each tenant, three a week |
| `lifetimes` | several tenants for each one; each lives two days, and they begin one after the other |
| `daily` | the mean of each whole UTC day |
| `thirty-days` | the last thirty of these daily rows |
| `one-day` | one whole UTC day, at the source's own step |
| `two-days` | two whole UTC days, as means of five minutes |
| `newcomers` | every second tenant as it is, and of the others their last three hours |

What is missing has no row, as in an export. Where hours are cut away, all metrics of the tenant are
missing at once. Nothing is shifted or invented, except that the series of `nab`, which were
recorded at different times between 2013 and 2014, are moved by whole weeks so that they overlap.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from numpy.typing import NDArray

from tsfm_pipeline.fleets import SyntheticFleet, open_fleet
from tsfm_pipeline_tests.baselines.conftest import shared_file

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WEEK = 7 * DAY
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OUTAGE, HOLE, LIFETIME, NEWCOMER = 31 * HOUR, HOUR, 2 * DAY, 3 * HOUR
HOLES_PER_WEEK = 3
LIVES = 3
"""How many tenants of kind `lifetimes` each tenant of the source becomes."""


@dataclass(frozen=True)
class Telemetry:
    """values: float32 [N, D, T], NaN where missing. start: time of step 0, UTC. step: distance of
    two steps, a divisor of one day.
    """

    values: NDArray[np.float32]
    start: datetime
    step: timedelta
    tenants: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def n_steps(self) -> int:
        return self.values.shape[2]

    def steps_of(self, time: timedelta) -> int:
        """The number of steps in a time. Raises ValueError where it is not a whole number."""
        if time % self.step:
            raise ValueError(f"{time} is not a whole number of steps of {self.step}")
        return time // self.step


def of_values(
    values: NDArray[np.float32],
    step: timedelta,
    start: datetime = datetime(2024, 1, 1, tzinfo=UTC),
) -> Telemetry:
    """The telemetry of values [N, D, T], with made-up names."""
    return Telemetry(
        values,
        start,
        step,
        tuple(f"tenant-{number:03d}" for number in range(values.shape[0])),
        tuple(f"metric_{number}" for number in range(values.shape[1])),
    )


def synthetic(tenants: int = 8, days: int = 35, seed: int = 0) -> Telemetry:
    """A small generated fleet: one tenant of each archetype, at one minute."""
    spec = SyntheticFleet(
        kind="synthetic", name="whole", title="Whole", tenants=tenants, days=days, seed=seed
    )
    source = open_fleet(spec, fleets_dir=Path())
    names = tuple(source.manifest()["tenant_id"])
    return Telemetry(
        source.values(range(tenants)), source.start, source.step, names, source.metrics
    )


def smd() -> Telemetry:
    """Server Machine Dataset: 17 machines, 8 metrics, 33 days at one minute. Skips a test where it
    is absent.
    """
    return _of_frame(pl.read_parquet(shared_file("fleets/smd.parquet")), MINUTE)


def asd() -> Telemetry:
    """Application Server Dataset: 12 servers, 19 metrics, 45 days at five minutes. Skips a test
    where it is absent.
    """
    return _of_frame(pl.read_parquet(shared_file("fleets/asd.parquet")), 5 * MINUTE)


def nab() -> Telemetry:
    """The AWS series of the Numenta Anomaly Benchmark: 17 tenants of one metric, most of two weeks
    at five minutes, moved by whole weeks into the first one's. Skips a test where it is absent.
    """
    rows = pl.read_parquet(shared_file("fleets/nab_aws_raw.parquet")).rename(
        {"series_id": "tenant_id"}
    )
    first = pl.col("timestamp").min()
    weeks = (first.over("tenant_id") - first).dt.total_days() // 7
    moved = pl.col("timestamp") - pl.duration(weeks=weeks)
    return _of_frame(rows.with_columns(moved.alias("timestamp")), 5 * MINUTE)


SOURCES: dict[str, Callable[[], Telemetry]] = {
    "synthetic": synthetic,
    "smd": smd,
    "asd": asd,
    "nab": nab,
}


def outage(
    whole: Telemetry, *, length: timedelta = OUTAGE, before_end: timedelta = WEEK
) -> Telemetry:
    """Cut `length` away from all tenants at once; it ends `before_end` before the last step's
    end.
    """
    end = whole.n_steps - whole.steps_of(before_end)
    begin = end - whole.steps_of(length)
    if begin < 0:
        raise ValueError(
            f"{whole.n_steps} steps of {whole.step} are too few for an outage of {length} that "
            f"ends {before_end} before the end"
        )
    values = whole.values.copy()
    values[:, :, begin:end] = np.nan
    return replace(whole, values=values)


def holes(whole: Telemetry, *, per_week: float = HOLES_PER_WEEK, seed: int = 0) -> Telemetry:
    """Cut hours away from each tenant at random times of its own; two holes may touch."""
    generator = np.random.default_rng(seed)
    length = whole.steps_of(HOLE)
    n_holes = max(1, round(per_week * (whole.n_steps * whole.step / WEEK)))
    values = whole.values.copy()
    for tenant in values:
        for begin in generator.integers(0, whole.n_steps - length + 1, n_holes):
            tenant[:, begin : begin + length] = np.nan
    return replace(whole, values=values)


def lifetimes(whole: Telemetry, *, length: timedelta = LIFETIME, lives: int = LIVES) -> Telemetry:
    """Make `lives` tenants of each one. Each lives for `length` within the time of the tenant that
    it comes from, and the lives begin evenly over the fleet's time.
    """
    n_tenants, n_steps = len(whole.tenants), whole.steps_of(length)
    values = np.full((n_tenants * lives, *whole.values.shape[1:]), np.nan, dtype=np.float32)
    for number, life in enumerate(values):
        of = whole.values[number % n_tenants]
        first, last = _span(of)
        latest = last + 1 - n_steps - first
        if latest < 0:
            raise ValueError(
                f"tenant {whole.tenants[number % n_tenants]!r} has less than {length} of history"
            )
        begin = first + latest * number // max(len(values) - 1, 1)
        life[:, begin : begin + n_steps] = of[:, begin : begin + n_steps]
    names = tuple(f"{tenant}.{life}" for life in range(lives) for tenant in whole.tenants)
    return replace(whole, values=values, tenants=names)


def daily(whole: Telemetry) -> Telemetry:
    """The mean of what was observed on each whole UTC day, at the day's midnight."""
    return means(whole, DAY)


def thirty_days(whole: Telemetry) -> Telemetry:
    """The last thirty daily rows."""
    days = daily(whole)
    if days.n_steps < 30:
        raise ValueError(f"{days.n_steps} whole days; thirty are needed")
    return _cut(days, days.n_steps - 30, 30)


def one_day(whole: Telemetry) -> Telemetry:
    """The whole UTC day with the most values (the first of several), at the source's own step."""
    return _fullest_days(whole, 1)


def two_days(whole: Telemetry) -> Telemetry:
    """The two whole UTC days in a row with the most values, as means of five minutes."""
    days = _fullest_days(whole, 2)
    return days if days.step == 5 * MINUTE else means(days, 5 * MINUTE)


def newcomers(whole: Telemetry, *, length: timedelta = NEWCOMER) -> Telemetry:
    """Of every second tenant only the last `length` of its values; the first stays whole."""
    values = whole.values.copy()
    for tenant in values[1::2]:
        _, last = _span(tenant)
        tenant[:, : last + 1 - whole.steps_of(length)] = np.nan
    return replace(whole, values=values)


KINDS: dict[str, Callable[[Telemetry], Telemetry]] = {
    "outage": outage,
    "holes": holes,
    "lifetimes": lifetimes,
    "daily": daily,
    "thirty-days": thirty_days,
    "one-day": one_day,
    "two-days": two_days,
    "newcomers": newcomers,
}


def wear(source: str, kind: str, folder: Path, **fields: Any) -> tuple[Path, str]:
    """Write one worn fleet; return its table's path and the text of its fleet file. The arguments
    are those of `worn_table`.
    """
    return worn_table(SOURCES[source](), kind, folder, name=f"{source}-{kind}", **fields)


def worn_table(
    whole: Telemetry, kind: str, folder: Path, *, name: str | None = None, **fields: Any
) -> tuple[Path, str]:
    """Wear telemetry down and write it as `<name>.parquet` (by default `<kind>.parquet`) with its
    fleet file; return the table's path and the file's text. `fields` are added to the fleet file
    and replace its own.
    """
    worn = KINDS[kind](whole)
    name = name or kind
    path = folder.absolute() / f"{name}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    rows(worn).write_parquet(path)
    hour = max(1, HOUR // worn.step)
    document: dict[str, Any] = {
        "kind": "table",
        "title": f"{name}, worn down",
        "source": f"made by tsfm_pipeline_tests/worn.py: a whole fleet, worn down to {kind}",
        "path": str(path),
        "step": worn.step / MINUTE,
        "horizon": max(12, hour) if worn.step < DAY else 7,
        "max_gap": max(1, hour // 2),
        **({"seasons": [7]} if worn.step == DAY else {}),
        **({"lower": 0} if np.nanmin(worn.values) >= 0 else {}),
        **fields,
    }
    text = yaml.safe_dump(document, sort_keys=False)
    path.with_suffix(".yaml").write_text(text, encoding="utf-8")
    return path, text


def rows(telemetry: Telemetry) -> pl.DataFrame:
    """Rows (tenant_id, timestamp, one Float32 column per metric) of all steps with at least one
    value, sorted; a missing value is null.
    """
    tenant, step = np.nonzero(~np.isnan(telemetry.values).all(axis=1))
    step_us = telemetry.step // timedelta(microseconds=1)
    start_us = (telemetry.start - EPOCH) // timedelta(microseconds=1)
    return pl.DataFrame(
        {
            "tenant_id": pl.Series(telemetry.tenants).gather(tenant),
            "timestamp": pl.Series(start_us + step * step_us)
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("UTC"),
            **{
                metric: pl.Series(telemetry.values[tenant, d, step]).fill_nan(None)
                for d, metric in enumerate(telemetry.metrics)
            },
        }
    )


def _of_frame(frame: pl.DataFrame, step: timedelta) -> Telemetry:
    """Telemetry of rows (tenant_id, timestamp, metrics). A row between two steps of the UTC grid
    counts for the later one; of several rows at one step the last counts.
    """
    metrics = [column for column in frame.columns if column not in ("tenant_id", "timestamp")]
    tenants = frame["tenant_id"].unique().sort()
    step_us = step // timedelta(microseconds=1)
    at = -(-frame["timestamp"].dt.epoch("us") // step_us)
    first, last = at.min(), at.max()
    assert isinstance(first, int)
    assert isinstance(last, int)
    number = frame["tenant_id"].replace_strict(tenants, range(len(tenants)))
    values = np.full((len(tenants), len(metrics), last - first + 1), np.nan, dtype=np.float32)
    values[number.to_numpy(), :, (at - first).to_numpy()] = frame.select(metrics).to_numpy()
    return Telemetry(values, EPOCH + first * step, step, tuple(tenants), tuple(metrics))


def _span(values: NDArray[np.float32]) -> tuple[int, int]:
    """The first and the last step of a tenant's values [D, T] at which any is observed."""
    observed = np.flatnonzero(~np.isnan(values).all(axis=0))
    return int(observed[0]), int(observed[-1])


def _cut(whole: Telemetry, begin: int, n_steps: int) -> Telemetry:
    """`n_steps` from step `begin` on, without the tenants that have no value there."""
    values = whole.values[:, :, begin : begin + n_steps]
    there = ~np.isnan(values).all(axis=(1, 2))
    tenants = tuple(np.array(whole.tenants)[there].tolist())
    start = whole.start + begin * whole.step
    return replace(whole, values=values[there], start=start, tenants=tenants)


def _whole_days(whole: Telemetry) -> Telemetry:
    """The telemetry from its first UTC midnight to its last. Raises ValueError without a whole
    day.
    """
    begin = whole.steps_of(-(whole.start - EPOCH) % DAY)
    n_days = (whole.n_steps - begin) * whole.step // DAY
    if n_days < 1:
        raise ValueError(f"{whole.n_steps} steps of {whole.step} hold no whole UTC day")
    return _cut(whole, begin, n_days * whole.steps_of(DAY))


def _fullest_days(whole: Telemetry, n_days: int) -> Telemetry:
    days = _whole_days(whole)
    per_day = days.steps_of(DAY)
    observed = (~np.isnan(days.values)).sum(axis=(0, 1)).reshape(-1, per_day).sum(axis=1)
    if len(observed) < n_days:
        raise ValueError(f"{len(observed)} whole days; {n_days} are needed")
    together = np.lib.stride_tricks.sliding_window_view(observed, n_days).sum(axis=1)
    return _cut(days, int(together.argmax()) * per_day, n_days * per_day)


def means(whole: Telemetry, step: timedelta) -> Telemetry:
    """Means over longer steps of whole UTC days; each lies at the beginning of its step, and is NaN
    where nothing was observed.
    """
    days = _whole_days(whole)
    blocks = days.values.reshape(*days.values.shape[:2], -1, step // days.step)
    observed = ~np.isnan(blocks)
    n_observed = observed.sum(axis=3)
    sums = np.where(observed, blocks, 0.0).sum(axis=3, dtype=np.float64)
    values = np.divide(sums, n_observed, out=np.full(sums.shape, np.nan), where=n_observed > 0)
    return replace(days, values=values.astype(np.float32), step=step)


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 3 or arguments[0] not in SOURCES or arguments[1] not in KINDS:
        sys.exit(
            "usage: python -m tsfm_pipeline_tests.worn SOURCE KIND OUT\n"
            f"SOURCE: {', '.join(SOURCES)}\nKIND: {', '.join(KINDS)}\nOUT: a folder"
        )
    source, kind, folder = arguments
    try:
        path, _ = wear(source, kind, Path(folder))
    except (ValueError, pytest.skip.Exception) as error:
        sys.exit(f"{source} cannot be worn down to {kind}: {error}")
    print(f"{path}\n{path.with_suffix('.yaml')}")


if __name__ == "__main__":
    main(sys.argv[1:])
