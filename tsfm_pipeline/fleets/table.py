"""Table fleets: from checked rows to one regular grid.

What belongs here: the grid, duplicates and gaps. What does not: files and columns
(`fleets.table_files`), single rows (`fleets.table_rows`), the step (`fleets.table_step`).

Rules. The grid runs from the earliest to the latest timestamp of the fleet. A tenant that begins
later or ends earlier has NaN there; its first_step and last_step say so. Timestamps must lie on the
grid: a row off it is an error, unless the fleet file says `align: up`. Then each timestamp is moved
up to the next step of the grid of whole steps since midnight UTC. Moving it down would place the
value before the time at which it was known. Of several rows with one tenant and one timestamp (in
the long layout: and one metric) the last one counts (by file name, then by row), or all of them
together (`aggregate`, see `fleets.repeats`); the others are counted as duplicates. Missing rows and
values are NaN; nothing is interpolated.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.fleets.dialects import partition_of
from tsfm_pipeline.fleets.fields import FleetFields
from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.numbers import MISSING_WORDS
from tsfm_pipeline.fleets.profiles import deal
from tsfm_pipeline.fleets.reading import TableReading
from tsfm_pipeline.fleets.repeats import (
    MOST_CONTRADICTING,
    join_repeats,
    label_columns,
    refusal,
    repeat_notes,
)
from tsfm_pipeline.fleets.row_rules import row_rules, unit_rules, words_for_missing
from tsfm_pipeline.fleets.source import (
    MANIFEST_SCHEMA,
    MARKED_SCHEMA,
    FleetDataError,
    FleetSource,
    data_fields,
    left_out_notes,
    listed,
    take_stock,
)
from tsfm_pipeline.fleets.table_files import open_files
from tsfm_pipeline.fleets.table_rows import TableFiles, collect
from tsfm_pipeline.fleets.table_step import off_grid_rule, step_of, time_column

READER_VERSION = 1
"""Raise this number with every change of a rule that changes values or manifest: it is part of the
fingerprint.
"""
SPARSEST = 0.01
"""A grid of which rows fill a smaller share is a mistake (such as one timestamp in 1970) and would
not fit into memory.
"""
_LATER_FIELDS = (
    *("layout", "value_column", "metric_column", "align", "reserved_columns", "event_column"),
    *(name for name in TableReading.model_fields if name not in FleetFields.model_fields),
)
"""Fields that were added after fleets had been read without them; at their defaults they do not
enter the fingerprint.
"""
UNMARKED = frozenset({*MISSING_WORDS, "false", "no"})
"""Cells of an event column, in lower case, that mark no event. Nor does the number 0."""
_TENANTS_AT_ONCE = 32


class TableSource(FleetSource):
    """A fleet in Parquet or CSV files; opening it reads and checks every row once, in bounded
    memory.
    """

    spec: TableFleet
    row_notes: tuple[str, ...]
    """The notes on cells and rows; the others are on files and columns."""

    def __init__(
        self, spec: TableFleet, *, fleets_dir: Path, paths: tuple[Path, ...] | None = None
    ) -> None:
        """Open and check the table. Raises `FleetDataError` (see the module) where it cannot be
        used.

        paths: read these files instead of the spec's.
        """
        self.spec = spec
        self._files = open_files(spec, fleets_dir, paths)
        self._stamps = _stamps(self._files)
        self._fingerprint = table_fingerprint(self._files)
        self._files.check_rows_fit()
        suspects = self._files.check(row_rules(self._files))
        self._files.check(unit_rules(self._files))
        self.metrics = self._files.metrics
        self._require_known_metrics()
        self.columns_left_out = self._files.left_out
        self.row_notes = words_for_missing(self._files, suspects)
        tenants = tenants_of(self._files)
        self._tenant_ids: list[str] = tenants["tenant"].to_list()
        self.n_tenants = len(self._tenant_ids)
        self.row_notes += _blank_notes(self._tenant_ids)
        step_us, phase = step_of(self._files, self._tenant_ids)
        if spec.align == "up":
            tenants = moved_up(tenants, step_us)
        else:
            self._files.check([off_grid_rule(spec, step_us, phase)])
        self._start_us: int = tenants["first"].min()  # type: ignore[assignment]
        end_us: int = tenants["last"].max()  # type: ignore[assignment]
        self._step_us = step_us
        self.step = timedelta(microseconds=step_us)
        self.start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._start_us)
        self.n_steps = (end_us - self._start_us) // step_us + 1
        self._check_density(tenants)
        self._labels = label_columns(self._files) if spec.aggregate not in (None, "last") else []
        self._manifest = self._take_stock(tenants)
        self.notes = (
            *self._files.notes,
            *left_out_notes(self.columns_left_out),
            *self.row_notes,
        )

    def manifest(self) -> pl.DataFrame:
        """Return one row per tenant with MANIFEST_SCHEMA; tenants are numbered in the order of
        their ids.
        """
        return self._manifest

    def marked_steps(self) -> pl.DataFrame:
        """Return the steps that the event column marks for each tenant (MARKED_SCHEMA): those with
        any row whose cell is not empty, 0, false or no.
        """
        column = self.spec.event_column
        if column is None:
            return super().marked_steps()
        cell = pl.col(f"label:{column}").str.strip_chars().str.to_lowercase()
        is_zero = (cell.cast(pl.Float64, strict=False) == 0).fill_null(False)
        ordinary = cell.is_null() | cell.is_in(sorted(UNMARKED)) | is_zero
        marked = self._files.rows(labels=[column]).filter(~ordinary)
        numbers = {tenant: number for number, tenant in enumerate(self._tenant_ids)}
        steps = marked.select(
            pl.col("tenant").replace_strict(numbers, return_dtype=pl.Int32).alias("tenant_number"),
            self._step.cast(pl.Int32),
        )
        return collect(self.spec, steps.unique().sort("tenant_number", "step")).cast(MARKED_SCHEMA)

    @property
    def _step(self) -> pl.Expr:
        """The step of a row: its time rounded up, which leaves times on the grid unchanged."""
        return (-((self._start_us - pl.col("time")) // self._step_us)).alias("step")

    def _values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        if _stamps(self._files) != self._stamps:
            raise FleetDataError(
                f"fleet {self.spec.name!r}: {self.spec.path} changed since it was checked; open "
                "it again"
            )
        return self._read(tenant_numbers)[0]

    def fingerprint(self) -> str:
        """Return the `table_fingerprint` of the files as they were when they were checked."""
        return self._fingerprint

    def _require_known_metrics(self) -> None:
        try:
            self.spec.check_metrics(self.metrics)
        except ValueError as error:
            raise FleetDataError(
                f"fleet {self.spec.name!r}: {error}; correct the fleet file, or the columns"
            ) from error

    def _check_density(self, tenants: pl.DataFrame) -> None:
        rows_per_step = 1 if self.spec.layout == "wide" else len(self.metrics)
        filled = tenants["rows"].sum() / (self.n_tenants * self.n_steps * rows_per_step)
        if filled < SPARSEST:
            early = tenants.sort("first").select("tenant", pl.from_epoch("first", "us")).row(0)
            late = tenants.sort("last").select("tenant", pl.from_epoch("last", "us")).row(-1)
            raise FleetDataError(
                f"{time_column(self.spec)}: from {early[1]} (tenant {early[0]!r}) to {late[1]} "
                f"(tenant {late[0]!r}) are {self.n_steps} steps of {self.step}, of which rows fill "
                f"{filled:.2%}; allowed: at least {SPARSEST:.0%}. Is one of the two a wrong "
                "timestamp?"
            )

    def _read(
        self, tenant_numbers: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Return values [N, D, T] of the given tenants, the number of dropped duplicate rows [N],
        and of rows that contradict a later one [N].
        """
        n_tenants, n_metrics = len(tenant_numbers), len(self.metrics)
        wanted = pl.DataFrame(
            {
                "tenant": [self._tenant_ids[number] for number in tenant_numbers],
                "row": range(n_tenants),
            },
            schema={"tenant": pl.String, "row": pl.Int64},
        )
        selected = self._files.rows_of(wanted["tenant"].to_list(), labels=self._labels)
        rows = collect(self.spec, selected, in_order=True)
        rows = rows.join(wanted, on="tenant", how="inner", maintain_order="left").with_columns(
            self._step
        )
        long = self.spec.layout != "wide"
        keys = ["row", "metric", "step"] if long else ["row", "step"]
        series = pl.col("row") * n_metrics + pl.col("metric") if long else pl.col("row")
        cells = rows.select(series.cast(pl.Int64) * self.n_steps + pl.col("step"))["row"]
        occupied = np.zeros(n_tenants * (n_metrics if long else 1) * self.n_steps, dtype=bool)
        occupied[cells.to_numpy()] = True
        dropped = contradicting = np.zeros(n_tenants, dtype=np.int64)
        if np.count_nonzero(occupied) < rows.height:  # rare: joining sorts and compares rows
            joined = join_repeats(rows, keys, self.spec, n_tenants)
            rows, dropped, contradicting = joined.rows, joined.n_dropped, joined.n_contradicting
        values = np.full((n_tenants, n_metrics, self.n_steps), np.nan, dtype=np.float32)
        place = rows["row"].to_numpy(), rows["step"].to_numpy()
        if long:
            values[place[0], rows["metric"].to_numpy(), place[1]] = rows["value"].to_numpy()
        else:
            observed = rows.select(f"metric:{metric}" for metric in self.metrics).to_numpy()
            values[place[0], :, place[1]] = observed
        return values, dropped, contradicting

    def _take_stock(self, tenants: pl.DataFrame) -> pl.DataFrame:
        """Return the manifest, from one pass over all values. Raises `FleetDataError` where tenants
        have no values, and where too many rows contradict another one.
        """
        stock = []
        contradictions: dict[str, int] = {}
        for numbers in self.shards(_TENANTS_AT_ONCE):
            values, duplicates, contradicting = self._read(numbers)
            contradictions |= {
                self._tenant_ids[number]: int(n)
                for number, n in zip(numbers, contradicting, strict=True)
                if n
            }
            stock += [
                {
                    "tenant_number": number,
                    "n_duplicates": int(duplicates[i]),
                    **take_stock(values[i]),
                }
                for i, number in enumerate(numbers)
            ]
        manifest = pl.DataFrame(stock).with_columns(
            pl.Series("tenant_id", self._tenant_ids),
            tenants["archetype"]
            if "archetype" in tenants.columns
            else pl.lit(None, pl.String).alias("archetype"),
            tenants["tier"]
            if "tier" in tenants.columns
            else pl.Series("tier", deal(self.spec.tier_shares, self.n_tenants)),
        )
        manifest = manifest.select(MANIFEST_SCHEMA.names()).cast(MANIFEST_SCHEMA)
        n_dropped, n_rows = int(manifest["n_duplicates"].sum()), int(tenants["rows"].sum())
        self._judge_repeats(n_dropped, n_rows, contradictions)
        self._require_values(manifest)
        return manifest

    def _judge_repeats(
        self, n_dropped: int, n_rows: int, contradictions: Mapping[str, int]
    ) -> None:
        """Note the rows that repeat a time; raise `FleetDataError` where too many contradict."""
        self.contradictions = contradictions
        self.row_notes += repeat_notes(self.spec, n_dropped, contradictions)
        too_many = sum(contradictions.values()) > MOST_CONTRADICTING * n_rows
        if too_many and self.spec.aggregate is None:
            raise refusal(self._files, n_rows, contradictions)

    def _require_values(self, manifest: pl.DataFrame) -> None:
        empty = manifest.filter(pl.col("n_observed") == 0)
        if empty.height:
            raise FleetDataError(
                f"fleet {self.spec.name!r}: {empty.height} tenants without any observed value in "
                f"columns {', '.join(self.metrics)}: {listed(empty['tenant_id'].to_list())}; "
                "allowed: tenants with values; remove the others from the table",
                dict.fromkeys(empty["tenant_id"].to_list(), "no observed value"),
            )


def _blank_notes(tenant_ids: Sequence[str]) -> tuple[str, ...]:
    """Return a note on tenants whose names differ by blanks at their ends only, if any do."""
    alike: dict[str, list[str]] = {}
    for tenant in tenant_ids:
        alike.setdefault(tenant.strip(), []).append(tenant)
    twins = [tenant for group in alike.values() if len(group) > 1 for tenant in group]
    if not twins:
        return ()
    return (f"names that differ by blanks only are different tenants: {listed(twins)}",)


def _stamps(files: TableFiles) -> list[tuple[int, int]]:
    """Return the size and modification time of every file."""
    return [
        (status.st_size, status.st_mtime_ns) for status in (path.stat() for path in files.paths)
    ]


def table_fingerprint(files: TableFiles) -> str:
    """Return a digest of the spec's data fields, the reader's version, the names and bytes of the
    files, and the keys of their partitions that the spec uses; it reads no row.
    """
    unused = {
        name
        for name in _LATER_FIELDS
        if getattr(files.spec, name)
        == TableFleet.model_fields[name].get_default(call_default_factory=True)
    }
    fields = data_fields(files.spec, ("path", *unused))
    if files.chosen_by_all_rows:
        fields["metrics"] = files.metrics
    digests = []
    for path in files.paths:
        keys = partition_of(path)
        used = {key: keys[key] for key in files.spec.columns if key in keys}
        name = [path.name, *([used] if used else [])]
        with path.open("rb") as file:
            digests.append([*name, hashlib.file_digest(file, "sha256").hexdigest()])
    return hashlib.sha256(
        json.dumps([READER_VERSION, fields, digests], sort_keys=True).encode()
    ).hexdigest()


def moved_up(tenants: pl.DataFrame, step_us: int) -> pl.DataFrame:
    """Return the tenants of `tenants_of` with their first and last times moved up to the next step
    of the grid of whole steps since midnight UTC.
    """
    return tenants.with_columns(-(-pl.col("first", "last") // step_us) * step_us)


def tenants_of(files: TableFiles) -> pl.DataFrame:
    """Return one row per tenant: tenant, rows, first, last (microseconds) and, where the spec names
    columns for them, tier and archetype. Raises `FleetDataError` for a table without rows, and for
    a tenant with more than one tier or archetype.
    """
    labels = [
        role for role in ("tier", "archetype") if getattr(files.spec, f"{role}_column") is not None
    ]
    tenants = collect(
        files.spec,
        files.rows()
        .group_by("tenant")
        .agg(
            pl.len().alias("rows"),
            pl.col("time").min().alias("first"),
            pl.col("time").max().alias("last"),
            *(pl.col(role).first() for role in labels),
            *(pl.col(role).n_unique().alias(f"different {role}s") for role in labels),
        )
        .sort("tenant"),
    )
    if tenants.is_empty():
        raise FleetDataError(
            f"fleet {files.spec.name!r}, {files.paths[0]}: no rows; allowed: at least one row "
            "of every tenant"
        )
    for role in labels:
        several = tenants.filter(pl.col(f"different {role}s") > 1)["tenant"].to_list()
        if several:
            column = getattr(files.spec, f"{role}_column")
            raise FleetDataError(
                f"fleet {files.spec.name!r}, column {column!r}: {len(several)} tenants with more "
                f"than one {role}: {listed(several)}; allowed: one {role} per tenant, the same in "
                "all of its rows",
                dict.fromkeys(several, f"more than one {role}"),
            )
    return tenants
