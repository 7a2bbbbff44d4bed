"""What tells the tenants of a table apart: columns, files, or nothing because it is one series.

What belongs here: the choice, from names and from the times of the rows, with its reason. What does
not: the other roles (`fleets.columns`), rows that contradict each other all the same
(`fleets.repeats`).

A column names the tenants only if it is needed to make times unique, or if the rows of each of its
values cover the time between their first and last. So weather, a weekday or a time of day beside
one series is no tenant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import polars as pl

from tsfm_pipeline.fleets.names import usual_name
from tsfm_pipeline.fleets.repeats import MOST_CONTRADICTING, fewest_labels, repeated_shares
from tsfm_pipeline.fleets.source import FleetDataError
from tsfm_pipeline.fleets.table_rows import TableFiles, collect

TENANTS = (
    *("tenant_id", "unique_id", "tenant", "tenant_name", "customer_id", "customer"),
    *("customer_name", "account_id", "account", "series_id", "item_id", "host", "hostname"),
    *("host_name", "host_id", "instance", "instance_name", "instance_id", "machine"),
    *("machine_name", "machine_id", "server", "server_name", "server_id", "node", "node_name"),
    *("namespace", "pod", "pod_name", "vm", "vm_name", "vm_id", "device", "device_id", "app"),
    *("service", "site", "site_id", "store", "store_id"),
)
"""Usual names of the column that names the tenant, in lower case; a column `id` comes after every
other one, because it often names rows.
"""
MOST_REPEATED = 0.2
"""Highest share of rows that may repeat a tenant's time; with more, another column must tell rows
apart.
"""
LEAST_COVERED = 0.5
"""A tenant's rows, at their usual distance, fill at least this share of the time from its first to
its last.
"""
_MOST_OF = 0.9
_LITTLE_OVERLAP = 0.02
_MOST_ROWS = 1_000_000
_FILE = "tenant"
"""The column of the sample that names the file of a row."""


@dataclass(frozen=True)
class Tenants:
    """columns: those that name the tenant, joined; none where each file is one, or where the table
    is one tenant called `one_tenant` (None: like its only file).
    """

    columns: tuple[str, ...]
    why: str
    one_tenant: str | None = None


@dataclass(frozen=True)
class Sample:
    """Rows of all files, or of their last days where there are many: `tenant` (the file's name),
    `time` in microseconds and one `label:<column>` per label.

    labels: the columns, by their name in the sample. keys: what a row must not repeat, beside the
    tenant. spans: per file, its first and last time over all rows. distinct: rows
    that are identical in every column are there once.
    """

    files: TableFiles
    rows: pl.DataFrame
    labels: dict[str, str]
    keys: tuple[str, ...]
    spans: pl.DataFrame
    distinct: bool = False

    def repeated(self, *columns: str) -> float:
        """Return the share of rows whose keys and values of these columns an earlier row has."""
        keys = [*self.keys, *columns]
        return repeated_shares(self.rows, keys[:-1], keys[-1:])[keys[-1]]


def is_id(column: str) -> bool:
    """Return whether a column of whole numbers has the name of an id."""
    name = usual_name(column)
    return name in TENANTS or name == "id" or name.endswith(("_id", "_nbr", " id"))


def take_sample(
    files: TableFiles, labels: Sequence[str], metric: str | None, *, distinct: bool = False
) -> Sample:
    """Read rows with these columns as labels, and the column of metrics as part of what a row must
    not repeat. distinct: without rows that are identical in every column.

    Whole steps are left out of a long table, the first ones: so all tenants of a time are there.
    """
    wanted = list(dict.fromkeys([*labels, *([metric] if metric else [])]))
    time = pl.col("time")
    spans = collect(
        files.spec,
        files.rows()
        .group_by(_FILE)
        .agg(time.min().alias("first"), time.max().alias("last"), pl.len().alias("n"))
        .sort("first", "last"),
    )
    rows = files.rows(labels=wanted, identity=distinct)
    n_rows = int(spans["n"].sum())
    if n_rows > _MOST_ROWS and not spans["first"].null_count():
        last = int(spans["last"].to_numpy().max())
        part = (last - int(spans["first"].to_numpy().min())) * _MOST_ROWS // n_rows
        rows = rows.filter(time >= last - part)
    found = collect(files.spec, rows, in_order=True)
    if distinct:
        found = found.unique("identity", keep="first", maintain_order=True)
    keys = ("time", *([f"label:{metric}"] if metric else []))
    return Sample(
        files, found, {f"label:{label}": label for label in labels}, keys, spans, distinct
    )


def find_tenants(
    sample: Sample, whole_numbers: Sequence[str], *, joins_rows: bool = False
) -> Tenants:
    """Return what tells the tenants apart; `whole_numbers` are columns without the name of an id
    that may hold ids all the same. joins_rows: several rows of one tenant and time are allowed.

    Raises `FleetDataError` where nothing does; the message says what would help.
    """
    if joins_rows and (named := _known(sample)):
        return Tenants((sample.labels[named[0]],), "the first usual name of a tenant's column")
    chosen = _by_one(sample)
    if chosen is None:
        metric = next((key.removeprefix("label:") for key in sample.keys[1:]), None)
        sample = take_sample(sample.files, list(sample.labels.values()), metric, distinct=True)
        chosen = _by_one(sample) or _by_file(sample) or _by_several(sample)
    if chosen is None:
        chosen = _by_whole_numbers(sample, whole_numbers) or _at_least_mostly(sample)
    if chosen is None:
        raise _nothing_tells(sample)
    return chosen


def _candidates(sample: Sample) -> list[str]:
    """Return the labels that repeat: one that names each row names no tenant."""
    return [
        label
        for label in sample.labels
        if sample.rows.height < 4 or 2 * sample.rows[label].n_unique() <= sample.rows.height
    ]


def _rank(sample: Sample, label: str) -> tuple[int, int]:
    """Return a place in the order of preference: usual names, other names, `id`; of two of the same
    standing the one with fewer values.
    """
    name = usual_name(sample.labels[label])
    place = TENANTS.index(name) if name in TENANTS else len(TENANTS) + (name == "id")
    return place, sample.rows[label].n_unique()


def _known(sample: Sample) -> list[str]:
    known = [label for label in sample.labels if usual_name(sample.labels[label]) in TENANTS]
    return sorted(known, key=lambda label: _rank(sample, label))


def _by_one(sample: Sample) -> Tenants | None:
    """Return one column, or one series, with which hardly any row repeats a time."""
    without = sample.repeated()
    candidates = _candidates(sample)
    if without <= MOST_CONTRADICTING:
        return _of_unique_times(sample, candidates)
    share = {label: sample.repeated(label) for label in candidates}
    enough = [label for label in candidates if share[label] <= MOST_CONTRADICTING]
    if not enough:
        return None
    best = min(enough, key=lambda label: (round(share[label], 2), _rank(sample, label)))
    others = [sample.labels[label] for label in enough if label != best]
    also = f"; {', '.join(map(repr, others))} would do as well" if others else ""
    return Tenants(
        (sample.labels[best],),
        f"needed to tell {without:.0%} of the rows from others of the same time{also}",
    )


def _of_unique_times(sample: Sample, candidates: Sequence[str]) -> Tenants:
    """Return the tenants of a table in which hardly any time repeats."""
    covering = [label for label in candidates if covers(sample.rows, label)]
    covering.sort(key=lambda label: _rank(sample, label))
    known = [label for label in covering if usual_name(sample.labels[label]) in TENANTS]
    regular = is_regular(sample.rows)
    if known or (covering and not regular):
        best = (known or covering)[0]
        return Tenants(
            (sample.labels[best],), "the rows of each of its values cover their own time"
        )
    if len(sample.files.paths) == 1:
        return Tenants((), "one series: no column is needed to tell rows of the same time apart")
    if follow_each_other(sample):
        return Tenants(
            (),
            "one series: the files follow each other in time and do not contradict each other",
            _common_name(sample.files),
        )
    return Tenants((), "each file is one tenant, named after the file")


def _by_file(sample: Sample) -> Tenants | None:
    if len(sample.files.paths) == 1 or sample.repeated(_FILE) > MOST_CONTRADICTING:
        return None
    return Tenants((), "each file is one tenant, named after the file")


def _by_several(sample: Sample) -> Tenants | None:
    """Return the fewest columns that tell rows apart together, in the order of the table."""
    candidates = {label: sample.labels[label] for label in _candidates(sample)}
    found = fewest_labels(sample.rows, sample.keys, candidates)
    if not found:
        return None
    order = sample.files.column_names()
    columns = tuple(sorted(found, key=order.index))
    alone = " and ".join(
        f"{column!r} alone leaves {sample.repeated(f'label:{column}'):.0%} of the rows with the "
        "time of another"
        for column in columns
    )
    return Tenants(columns, f"only together do they tell rows apart: {alone}")


def _by_whole_numbers(sample: Sample, columns: Sequence[str]) -> Tenants | None:
    """Return a column of whole numbers that tells rows apart exactly, and covers their time."""
    if not columns:
        return None
    wider = take_sample(sample.files, columns, None)
    for label, column in wider.labels.items():
        distinct = wider.rows[label].n_unique() > 1
        exact = distinct and label in _candidates(wider) and wider.repeated(label) == 0
        if exact and covers(wider.rows, label):
            return Tenants(
                (column,), "whole numbers that tell all rows of the same time apart, as ids do"
            )
    return None


def _at_least_mostly(sample: Sample) -> Tenants | None:
    candidates = _candidates(sample)
    share = {label: sample.repeated(label) for label in candidates}
    best = min(
        candidates, key=lambda label: (round(share[label], 2), _rank(sample, label)), default=None
    )
    if best is None or share[best] > MOST_REPEATED:
        return None
    return Tenants(
        (sample.labels[best],),
        f"the best that there is: {share[best]:.0%} of the rows repeat one of the same time",
    )


def _nothing_tells(sample: Sample) -> FleetDataError:
    candidates = list(sample.labels)
    why = "no column of text or whole numbers could be an id"
    if candidates:
        share = {label: sample.repeated(label) for label in candidates}
        best = min(candidates, key=lambda label: (round(share[label], 2), _rank(sample, label)))
        why = (
            f"with {sample.labels[best]!r}, the best of {', '.join(sample.labels.values())}, "
            f"{share[best]:.0%} of the rows repeat an earlier row's time"
        )
    return FleetDataError(
        f"{sample.files.paths[0]}: nothing tells tenants apart: {why}. Allowed: a column that "
        "names the tenant of each row (choose it with --tenant), or one file per tenant in a "
        "directory. Where a tenant is several rows of one time together, choose its column with "
        "--tenant, and --aggregate sum, mean or max. Several metrics in one column need a second "
        "column, named 'metric', with their names"
    )


def covers(rows: pl.DataFrame, label: str) -> bool:
    """Return whether the rows of each value of a label (nearly) fill the time from its first to its
    last, at their usual distance.
    """
    apart = pl.col("time").diff().over(label)
    spans = (
        rows.unique([label, "time"])
        .sort(label, "time")
        .with_columns(apart.alias("apart"))
        .group_by(label)
        .agg(
            pl.len().alias("n"),
            pl.col("apart").median().alias("step"),
            (pl.col("time").max() - pl.col("time").min()).alias("span"),
        )
    )
    covered = pl.col("n") * pl.col("step") >= LEAST_COVERED * (pl.col("span") + pl.col("step"))
    enough = spans.filter(covered & (pl.col("n") > 2))["n"].sum()
    return int(enough) >= _MOST_OF * int(spans["n"].sum())


def is_regular(rows: pl.DataFrame) -> bool:
    """Return whether all rows together are one series: most follow each other at one distance."""
    times = rows["time"].drop_nulls().unique().sort()
    apart = times.diff().drop_nulls()
    if len(apart) == 0:
        return False
    step = float(np.median(apart))
    return float(np.mean(np.abs(apart.to_numpy() - step) <= 0.1 * step)) > LEAST_COVERED


def follow_each_other(sample: Sample) -> bool:
    """Return whether each file begins after the one before and goes on where that one ended. Files
    that overlap by more than a little follow each other only where they have rows in common.
    """
    first, last = sample.spans["first"], sample.spans["last"]
    apart = sample.rows["time"].unique().sort().diff().drop_nulls()
    ascending = all((bound.diff().drop_nulls() > 0).all() for bound in (first, last))
    gaps = (first.shift(-1) - last).drop_nulls()
    if not ascending or len(apart) == 0 or len(gaps) == 0:
        return False
    overlaps = (gaps < -_LITTLE_OVERLAP * (last - first).head(len(gaps))).any()
    if overlaps and not sample.distinct:
        return False
    return float((gaps <= 2 * float(np.median(apart))).to_numpy().mean()) > LEAST_COVERED


def _common_name(files: TableFiles) -> str:
    """Return what the names of the files have in common, else the name of their folder."""
    letters = zip(*(path.stem for path in files.paths), strict=False)
    common = "".join(same[0] for same in takewhile(lambda same: len(set(same)) == 1, letters))
    return common.rstrip("0123456789-_. ") or files.paths[0].absolute().parent.name
