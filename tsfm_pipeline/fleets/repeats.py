"""Several rows of one tenant and time: identical ones, contradicting ones, and joining them.

What belongs here: joining such rows, counting how many contradict, and the refusal with its
remedies. What does not: placing rows on the grid (`fleets.table`).

A row that repeats tenant and time (in the long layout: and metric) of another one is identical if
all of its values are the same, and contradicts otherwise. Without `aggregate` in the fleet file the
last row counts. A table of which more than `MOST_CONTRADICTING` of the rows contradict is refused:
two workloads share a name, or rows are finer than the tenant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.source import SHOWN, FleetDataError
from tsfm_pipeline.fleets.table_rows import TableFiles, collect

MOST_CONTRADICTING = 0.01
"""Highest share of rows that may contradict another row of their tenant and time."""
_MOST_LABELS = 3
_TENANTS_FOR_LABELS = 50


@dataclass(frozen=True)
class Joined:
    """One row per key. n_dropped, n_contradicting [N]: rows of each tenant that did not enter it,
    and rows that contradict a later one.
    """

    rows: pl.DataFrame
    n_dropped: NDArray[np.int64]
    n_contradicting: NDArray[np.int64]


def join_repeats(rows: pl.DataFrame, keys: list[str], spec: TableFleet, n_tenants: int) -> Joined:
    """Join the rows of each key, which begins with `row`, the number of the tenant; they are in the
    order of the table.
    """
    values = [name for name in rows.columns if name == "value" or name.startswith("metric:")]
    rows = rows.with_columns(pl.col(values).fill_nan(None))
    repeated = rows.filter(pl.len().over(keys) > 1)
    if spec.aggregate in (None, "last"):
        last = [pl.col(name).last().over(*keys, "time") for name in values]
        same = [
            pl.col(name).eq_missing(counted) for name, counted in zip(values, last, strict=True)
        ]
        contradicting = repeated.filter(~pl.all_horizontal(same))
        kept = rows.unique(keys, keep="last", maintain_order=True)
        return Joined(kept, _dropped(rows, kept, n_tenants), _by_tenant(contradicting, n_tenants))
    # Without a label, equal rows may be two workloads with equal loads.
    labels = [name for name in rows.columns if name.startswith("label:")]
    different = rows
    if labels:
        different = rows.unique([*keys, "time", *values, *labels], maintain_order=True)
    joined = different.group_by(keys, maintain_order=True).agg(
        pl.col("time").last(), *(_joined(name, spec) for name in values)
    )
    return Joined(joined, _dropped(rows, different, n_tenants), np.zeros(n_tenants, dtype=np.int64))


def _joined(name: str, spec: TableFleet) -> pl.Expr:
    value = pl.col(name).cast(pl.Float64)
    result = {"sum": value.sum(), "mean": value.mean(), "max": value.max()}[str(spec.aggregate)]
    return pl.when(value.count() > 0).then(result).cast(pl.Float32).alias(name)


def _by_tenant(rows: pl.DataFrame, n_tenants: int) -> NDArray[np.int64]:
    return np.bincount(rows["row"].to_numpy(), minlength=n_tenants)


def _dropped(rows: pl.DataFrame, kept: pl.DataFrame, n_tenants: int) -> NDArray[np.int64]:
    return _by_tenant(rows, n_tenants) - _by_tenant(kept, n_tenants)


def repeat_notes(
    spec: TableFleet, n_dropped: int, contradictions: Mapping[str, int]
) -> tuple[str, ...]:
    """Return a note on the rows that repeat a time, if there are any."""
    if not n_dropped:
        return ()
    n_other = sum(contradictions.values())
    rows, are, count, repeat = (
        ("1 row", "is", "counts", "repeats")
        if n_dropped == 1
        else (f"{n_dropped} rows", "are", "count", "repeat")
    )
    if spec.aggregate not in (None, "last"):
        return (f"{rows} {are} identical in every column to another one and {count} once",)
    if spec.align == "up" and not n_other:
        return (f"{rows} {repeat} a tenant's step, of which the last counts",)
    other = (
        f"; {n_other} of them have other values than the last: {_named(contradictions)}"
        if n_other
        else ", all with the same values"
    )
    return (f"{rows} {repeat} a tenant's time, of which the last counts{other}",)


def refusal(files: TableFiles, n_rows: int, contradictions: Mapping[str, int]) -> FleetDataError:
    """Return the error for a table with too many contradicting rows; it names the columns that tell
    them apart, and what the fleet file can say.
    """
    spec, n_other = files.spec, sum(contradictions.values())
    apart = labels_apart(files, list(contradictions))
    joined, each = "", "no other column tells these rows apart. Allowed: "
    if apart:
        columns = sorted((*spec.tenant_columns, *apart), key=files.column_names().index)
        joined = ", ".join(columns)
        each = (
            f"{' and '.join(map(repr, apart))} tells them apart. Allowed: 'tenant_column: "
            f"[{joined}]' (--tenant {','.join(columns)}) where each of them is a tenant; "
        )
    remedy = "aggregate: sum (or mean, max, last)"
    return FleetDataError(
        f"fleet {spec.name!r}, {files.place}: {n_other} of {n_rows} rows "
        f"({n_other / n_rows:.0%}) have the tenant and time of another row and other values: "
        f"{_named(contradictions)}; {each}'aggregate: sum' (mean or max; --aggregate sum) where a "
        "tenant is all of its rows together; 'aggregate: last' (--aggregate last) where later rows "
        "correct earlier ones",
        {
            tenant: f"{n} rows have the time of another row and other values"
            for tenant, n in contradictions.items()
        },
        f"tenant_column: [{joined}], or {remedy}" if apart else remedy,
    )


def _named(tenants: Mapping[str, int]) -> str:
    most = sorted(tenants.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(most) - SHOWN} more tenants" if len(most) > SHOWN else ""
    return ", ".join(f"tenant {tenant!r} ({n})" for tenant, n in most[:SHOWN]) + more


def labels_apart(files: TableFiles, tenants: Sequence[str]) -> tuple[str, ...]:
    """Return the columns, as few as possible, that tell apart the contradicting rows of these
    tenants; an empty tuple where none do.
    """
    labels = label_columns(files)
    keys = ["tenant", "time", *(["metric"] if files.spec.layout == "long" else [])]
    if not labels:
        return ()
    some = pl.Series(tenants[:_TENANTS_FOR_LABELS])
    rows = collect(
        files.spec,
        files.rows(labels=labels).filter(pl.col("tenant").is_in(some.implode())).unique(),
    )
    return fewest_labels(rows, keys, {f"label:{label}": label for label in labels})


def label_columns(files: TableFiles) -> list[str]:
    """Return the columns that are not read and can tell rows apart."""
    return [left.column for left in files.left_out if left.is_label]


def fewest_labels(
    rows: pl.DataFrame, keys: Sequence[str], labels: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the labels, as few as possible, with which at most `MOST_CONTRADICTING` of these
    different rows repeat the keys of another; an empty tuple where none do. `labels`: the names by
    column of the rows.
    """
    chosen: list[str] = []
    while len(chosen) < _MOST_LABELS and len(chosen) < len(labels):
        others = [column for column in labels if column not in chosen]
        shares = repeated_shares(rows, [*keys, *chosen], others)
        best = min(others, key=lambda column: shares[column])
        chosen.append(best)
        if shares[best] <= MOST_CONTRADICTING:
            return tuple(labels[column] for column in chosen)
    return ()


def repeated_shares(
    rows: pl.DataFrame, keys: Sequence[str], columns: Sequence[str]
) -> dict[str, float]:
    """Return, for each column as a further key, the share of rows whose keys an earlier row has."""
    counted = rows.select(
        pl.struct([*keys, column]).n_unique().alias(str(i)) for i, column in enumerate(columns)
    )
    n_rows = max(1, rows.height)
    return {column: 1 - int(counted[str(i)][0]) / n_rows for i, column in enumerate(columns)}
