"""Guessing the role of each column of a table from its names, types and first rows.

What belongs here: the guess, and the error where none is possible. What does not: conclusions from
all rows (`fleets.inference`), and the checks of a table whose columns are known
(`fleets.table_files`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.fleets.dialects import scan
from tsfm_pipeline.fleets.kinds import LONG_COLUMNS
from tsfm_pipeline.fleets.series_layout import SERIES_NOTE, are_series
from tsfm_pipeline.fleets.source import FleetDataError, readable
from tsfm_pipeline.fleets.table_files import require_plain_names
from tsfm_pipeline.fleets.time_columns import choose_times

TENANTS = (
    *(
        "tenant_id",
        "unique_id",
        "tenant",
        "tenant_name",
        "customer_id",
        "customer",
        "account_id",
        "account",
        "series_id",
        "item_id",
        "host",
    ),
    *(
        "hostname",
        "host_id",
        "instance",
        "instance_id",
        "machine",
        "machine_id",
        "server",
        "server_id",
        "node",
        "namespace",
        "pod",
        "vm",
    ),
    *("vm_id", "device", "device_id", "app", "service", "site", "site_id", "store", "id"),
)
METRICS = (
    "metric",
    "metric_name",
    "__name__",
    "metric_id",
    "variable",
    "measure",
    "measurement",
    "kpi",
    "counter_name",
    "_field",
)
VALUES = ("y", "value", "val", "metric_value", "reading", "_value")

MOST_REPEATED = 0.2
"""Highest share of rows that may repeat a tenant's time; with more, another column must tell rows
apart.
"""

MOST_TIERS = 12
"""A column with more different words than this does not hold tiers."""

_SAMPLE_ROWS = 1_000
_MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class Columns:
    """The role of each column, in the terms of a table fleet's fields."""

    layout: str
    tenant: str | None
    timestamp: str | tuple[str, ...]
    value: str | None
    metric: str | None
    metrics: tuple[str, ...] | None
    tier: str | None
    archetype: str | None
    notes: tuple[str, ...] = ()
    """What was chosen among several possibilities, for people."""

    def fields(self) -> dict[str, object]:
        """Return the fields that a fleet file needs for these columns."""
        fields: dict[str, object] = {"layout": self.layout}
        if self.layout != "series":
            fields["tenant_column"] = self.tenant
        fields["timestamp_column"] = self.timestamp
        if self.layout == "series":
            fields["value_column"] = self.value
        if self.layout == "long":
            fields |= {"value_column": self.value, "metric_column": self.metric}
        labels = {
            "metrics": self.metrics,
            "tier_column": self.tier,
            "archetype_column": self.archetype,
        }
        return fields | {field: column for field, column in labels.items() if column is not None}


def find_columns(
    paths: Sequence[Path],
    *,
    tenant: str | None = None,
    timestamp: str | None = None,
    layout: str | None = None,
) -> Columns:
    """Guess the roles of the columns of these files, which must all have the same columns. `tenant`
    and `timestamp` (a column, or a date and a time of day with a comma between them) override the
    guess where given; so does `layout`, 'series' or 'wide', for columns of numbers beside the time.

    Raises `FleetDataError` where no column can be the time, the tenant or a metric; the message
    lists the columns and says what would help.
    """
    with readable(str(paths[0])):
        return _find_columns(paths, tenant, timestamp, layout)


def _find_columns(
    paths: Sequence[Path], tenant: str | None, timestamp: str | None, layout: str | None
) -> Columns:
    schema = _schema(paths[0])
    named: tuple[str, ...] = () if timestamp is None else (timestamp,)
    if timestamp is not None and timestamp not in schema:
        named = tuple(timestamp.split(","))
    _require(paths[0], schema, [*([] if tenant is None else [tenant]), *named])
    if not any(scan(path).head(1).collect().height for path in paths):
        raise FleetDataError(f"{paths[0]}: no rows")
    ids = [
        c
        for c, dtype in schema.items()
        if dtype.is_integer() and (c.lower() in TENANTS or c.lower().endswith("_id"))
    ]
    text = [
        column for column, dtype in schema.items() if dtype in (pl.String, pl.Categorical, pl.Enum)
    ]
    times = choose_times(
        paths,
        [*text, *ids] if tenant is None else [tenant, *_all_named(text, METRICS)],
        _described(paths[0], schema),
        timestamp,
    )
    time = times.chosen
    if layout == "series" or (
        layout is None and tenant is None and are_series(paths[0], (*time, *times.others))
    ):
        notes = (*times.note, SERIES_NOTE)
        return Columns("series", None, _one(time), "value", None, None, None, None, notes)
    tier = next(
        (
            c
            for c in text
            if c.lower() == "tier" and c not in (tenant, *time) and _are_tiers(paths[0], c)
        ),
        None,
    )
    archetype = next(
        (c for c in text if c.lower() == "archetype" and c not in (tenant, *time)), None
    )
    taken = {tenant, *time, *times.others, tier, archetype}
    numeric = [c for c, dtype in schema.items() if dtype.is_numeric() and c not in taken]
    metric = _named([c for c in text if c not in taken], METRICS)
    value = _named(numeric, VALUES) or (
        numeric[0] if metric is not None and len(numeric) == 1 else None
    )
    nixtla = set(LONG_COLUMNS.values()) <= set(schema)
    long = value is not None and (metric is not None or nixtla)
    if not long:
        metric = value = None
    candidates = [c for c in [*text, *ids] if c not in taken | {metric, value}]
    tenant_column = tenant if tenant is not None else _tenant(paths, candidates, time, metric)
    metrics = tuple(c for c in numeric if c != tenant_column)
    if not long and not metrics:
        raise FleetDataError(
            f"{paths[0]}: no column of numbers beside {tenant_column!r} and {_one(time)!r}; "
            f"columns: {_described(paths[0], schema)}{_lists(schema)}"
        )
    return Columns(
        "long" if long else "wide",
        tenant_column,
        _one(time),
        value,
        metric,
        None if long else metrics,
        tier,
        archetype,
        times.note,
    )


def _lists(schema: pl.Schema) -> str:
    lists = [column for column, dtype in schema.items() if dtype.is_nested()]
    named = ", ".join(map(repr, lists))
    return f". In {named} each cell holds a list; write one row per time" if lists else ""


def _one(columns: tuple[str, ...]) -> str | tuple[str, ...]:
    return columns[0] if len(columns) == 1 else columns


def _schema(path: Path) -> pl.Schema:
    """Return the columns with their types. A CSV's types come from its first rows, and its times
    are text.
    """
    schema = scan(path, infer_rows=10_000).collect_schema()
    require_plain_names(str(path), schema)
    return schema


def _require(path: Path, schema: pl.Schema, columns: Sequence[str]) -> None:
    absent = [column for column in columns if column not in schema]
    if absent:
        raise FleetDataError(
            f"{path}: no column {', '.join(map(repr, absent))}; columns: {_described(path, schema)}"
        )


def _tenant(
    paths: Sequence[Path], candidates: list[str], time: tuple[str, ...], metric: str | None
) -> str | None:
    """Return the column with which rows repeat a time least; of equal columns, the one with a known
    name. None: each file is one tenant.
    """
    repeated = _repeated(paths, candidates, [*time, *([metric] if metric else [])])
    rank = {column: (round(repeated[column], 2), _rank(column, TENANTS)) for column in candidates}
    best = min(candidates, key=lambda column: rank[column], default=None)
    if best is not None and repeated[best] <= MOST_REPEATED:
        return best
    if len(paths) > 1 and best is None:
        return None
    if len(paths) > 1 and all(
        _repeated([path], [], [*time])[""] <= MOST_REPEATED for path in paths
    ):
        return None
    why = "no column of text or whole numbers could be an id"
    if best is not None:
        why = (
            f"with {best!r}, the best of {', '.join(candidates)}, {repeated[best]:.0%} of the rows "
            "repeat an earlier row's time"
        )
    raise FleetDataError(
        f"{paths[0]}: nothing tells tenants apart: {why}. Allowed: a column that names the tenant "
        "of each row (choose it with --tenant), or one file per tenant in a directory. Several "
        "metrics in one column need a second column, named 'metric', with their names"
    )


def _repeated(paths: Sequence[Path], candidates: list[str], keys: list[str]) -> dict[str, float]:
    """Return, for each candidate as a further key ('': none), the share of rows whose keys an
    earlier row has, over the first rows of every file.
    """
    names = candidates or [""]
    wanted = list(dict.fromkeys([*candidates, *keys]))
    n_each = max(_SAMPLE_ROWS, _MOST_ROWS // len(paths))
    rows = pl.concat(
        [scan(path).select(wanted).head(n_each) for path in paths], how="vertical_relaxed"
    )
    counted = rows.select(
        pl.len(),
        *(
            pl.struct([*([name] if name else []), *keys]).n_unique().alias(f"n:{name}")
            for name in names
        ),
    ).collect()
    n_rows = max(1, int(counted["len"][0]))
    return {name: 1 - int(counted[f"n:{name}"][0]) / n_rows for name in names}


def _are_tiers(path: Path, column: str) -> bool:
    return set(_first(path, column).unique().to_list()) <= set(TIERS)


def unknown_tiers(path: Path) -> tuple[str, ...]:
    """Return the words in a column `tier` if some are not default tiers; an empty tuple where there
    is no such column, or where it has too many different words for tiers.
    """
    if _schema(path).get("tier") not in (pl.String, pl.Categorical, pl.Enum):
        return ()
    words = sorted(map(str, _first(path, "tier").unique().to_list()))
    return tuple(words) if len(words) <= MOST_TIERS and not set(words) <= set(TIERS) else ()


def _first(path: Path, column: str) -> pl.Series:
    """Return the first values of a column that are not null."""
    return scan(path).select(pl.col(column)).head(_SAMPLE_ROWS).collect()[column].drop_nulls()


def _all_named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for column in columns if column.lower() in names]


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column whose name comes first in `names`, or None if no name is in it."""
    return min(
        (column for column in columns if column.lower() in names),
        key=lambda column: _rank(column, names),
        default=None,
    )


def _rank(column: str, names: Sequence[str]) -> int:
    return names.index(column.lower()) if column.lower() in names else len(names)


def _described(path: Path, schema: pl.Schema) -> str:
    row = scan(path).head(1).collect()
    first = row.row(0) if row.height else ("",) * len(schema)
    return ", ".join(
        f"{column} ({dtype}, like {value!r})"
        for (column, dtype), value in zip(schema.items(), first, strict=True)
    )
