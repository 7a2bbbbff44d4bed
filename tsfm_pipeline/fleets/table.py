"""Table fleets: from checked rows to one regular grid.

What belongs here: the step, the grid, duplicates and gaps. What does not: files, columns and single rows
(`fleets.table_files`).

Rules. The grid runs from the earliest to the latest timestamp of the fleet; a tenant that begins later or ends earlier
has NaN there and says so by first_step and last_step. Timestamps must lie on the grid: rows off it are an error and
never moved, because rounding could move a value before the moment at which it was known. Of rows with one tenant and
one timestamp the last one counts (by file name, then by row), and the others are counted. Missing rows and values are
NaN; nothing is interpolated.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.fleets.profiles import deal
from tsfm_pipeline.fleets.source import DATA_INDEPENDENT_FIELDS, MANIFEST_SCHEMA, FleetDataError, FleetSource
from tsfm_pipeline.fleets.spec import TableFleet, divides_a_day
from tsfm_pipeline.fleets.table_files import SHOWN, Rule, TableFiles, collect, open_files

READER_VERSION = 1
"""Raised with every change of a rule that changes values or manifest: it is part of the fingerprint."""

MINUTE_US = 60_000_000
SPARSEST = 0.01
"""A grid that rows fill to less than this is a mistake (one timestamp from 1970), and would not fit into memory."""

_TENANTS_FOR_STEP = 50
_TENANTS_AT_ONCE = 32


class TableSource(FleetSource):
    """A fleet in Parquet or CSV files; opening it reads and checks every row once, in bounded memory."""

    spec: TableFleet

    def __init__(self, spec: TableFleet, *, fleets_dir: Path) -> None:
        """Raises `FleetDataError` (see the module) where the table cannot be used."""
        self.spec = spec
        self._files = open_files(spec, fleets_dir)
        self._stamps = _stamps(self._files)
        self._fingerprint = _fingerprint(self._files)
        self._files.check(self._files.row_rules())
        self.metrics = self._files.metrics
        self.notes = self._files.notes
        tenants = _tenants(self._files)
        self._tenant_ids: list[str] = tenants["tenant"].to_list()
        self.n_tenants = len(self._tenant_ids)
        step_us, phase = _step(self._files, self._tenant_ids)
        self._start_us: int = tenants["first"].min()  # type: ignore[assignment]
        end_us: int = tenants["last"].max()  # type: ignore[assignment]
        self._check_phase(step_us, phase)
        self._step_us = step_us
        self.step = timedelta(microseconds=step_us)
        self.start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._start_us)
        self.n_steps = (end_us - self._start_us) // step_us + 1
        self._check_density(tenants)
        if not self.seasons:
            raise FleetDataError(f"fleet {spec.name!r}: steps of {self.step} have no daily or weekly season; give 'seasons'")
        self._manifest = self._take_stock(tenants)

    def manifest(self) -> pl.DataFrame:
        """One row per tenant with MANIFEST_SCHEMA; tenants are numbered in the order of their ids."""
        return self._manifest

    def _values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        if _stamps(self._files) != self._stamps:
            raise FleetDataError(f"fleet {self.spec.name!r}: {self.spec.path} changed since it was checked; open it again")
        return self._read(tenant_numbers)[0]

    def fingerprint(self) -> str:
        """Digest of the spec's data fields, the reader's version, and the names and bytes of the files."""
        return self._fingerprint

    def _check_phase(self, step_us: int, phase: int) -> None:
        rule = Rule(
            self.spec.timestamp_column,
            f"timestamps off the grid of {timedelta(microseconds=step_us)} steps that most rows lie on",
            (pl.col("time") - phase) % step_us != 0,
            "timestamps a whole number of steps apart; round them (down, never into the future) or correct 'step'",
        )
        self._files.check([rule])

    def _check_density(self, tenants: pl.DataFrame) -> None:
        filled = tenants["rows"].sum() / (self.n_tenants * self.n_steps)
        if filled < SPARSEST:
            early = tenants.sort("first").select("tenant", pl.from_epoch("first", "us")).row(0)
            late = tenants.sort("last").select("tenant", pl.from_epoch("last", "us")).row(-1)
            raise FleetDataError(
                f"{_where(self.spec)}: from {early[1]} (tenant {early[0]!r}) to {late[1]} (tenant {late[0]!r}) are "
                f"{self.n_steps} steps of {self.step}, of which rows fill {filled:.2%}; allowed: at least "
                f"{SPARSEST:.0%}. Is one of the two a wrong timestamp?"
            )

    def _read(self, tenant_numbers: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Values [N, D, T] and dropped duplicate rows [N] of the given tenants."""
        wanted = pl.DataFrame(
            {"tenant": [self._tenant_ids[number] for number in tenant_numbers], "row": range(len(tenant_numbers))},
            schema={"tenant": pl.String, "row": pl.Int64},
        )
        ours = self._files.rows().filter(pl.col("tenant").is_in(wanted["tenant"].to_list()))
        rows = collect(self.spec, ours, in_order=True)
        rows = rows.join(wanted, on="tenant", how="inner", maintain_order="left").with_columns(
            ((pl.col("time") - self._start_us) // self._step_us).alias("step")
        )
        cells = (rows["row"] * self.n_steps + rows["step"]).to_numpy()
        in_order = bool((np.diff(cells) > 0).all())  # the usual case, which cannot hold duplicates
        kept = rows if in_order else rows.unique(["row", "step"], keep="last", maintain_order=True)
        values = np.full((len(tenant_numbers), len(self.metrics), self.n_steps), np.nan, dtype=np.float32)
        observed = kept.select(f"metric:{metric}" for metric in self.metrics).to_numpy()
        values[kept["row"].to_numpy(), :, kept["step"].to_numpy()] = observed
        before, after = (np.bincount(frame["row"].to_numpy(), minlength=len(tenant_numbers)) for frame in (rows, kept))
        return values, before - after

    def _take_stock(self, tenants: pl.DataFrame) -> pl.DataFrame:
        """The manifest, from every value read once; raises for tenants with too little history."""
        stock = []
        for numbers in self.shards(_TENANTS_AT_ONCE):
            values, duplicates = self._read(numbers)
            stock += [
                {"tenant_number": number, "n_duplicates": int(duplicates[i]), **_stock(values[i])} for i, number in enumerate(numbers)
            ]
        manifest = pl.DataFrame(stock).with_columns(
            pl.Series("tenant_id", self._tenant_ids),
            tenants["archetype"] if "archetype" in tenants.columns else pl.lit(None, pl.String).alias("archetype"),
            tenants["tier"] if "tier" in tenants.columns else pl.Series("tier", deal(self.spec.tiers, self.n_tenants)),
        )
        manifest = manifest.select(MANIFEST_SCHEMA.names()).cast(MANIFEST_SCHEMA)
        self._check_history(manifest)
        return manifest

    def _check_history(self, manifest: pl.DataFrame) -> None:
        needed = 2 * self.seasons[0]
        spans = manifest.select("tenant_id", (pl.col("last_step") - pl.col("first_step") + 1).alias("span"))
        empty = spans.filter(manifest["n_observed"] == 0)
        if empty.height:
            raise FleetDataError(
                f"fleet {self.spec.name!r}: {empty.height} tenants without any observed value in columns "
                f"{', '.join(self.metrics)}: {_listed(empty['tenant_id'].to_list())}; allowed: tenants with values, "
                "leave the others out of the table"
            )
        short = spans.filter(pl.col("span") < needed)
        if short.height:
            named = [f"{tenant!r} ({span} steps)" for tenant, span in short.head(SHOWN).iter_rows()]
            more = f" and {short.height - SHOWN} more" if short.height > SHOWN else ""
            raise FleetDataError(
                f"{_where(self.spec)}: {short.height} tenants with fewer than two seasons of history: "
                f"{', '.join(named)}{more}; allowed: at least {needed} steps of {self.step} (twice the shortest "
                f"season, {self.seasons[0]} steps)"
            )


def _stamps(files: TableFiles) -> list[tuple[int, int]]:
    """Size and time of modification of every file."""
    return [(status.st_size, status.st_mtime_ns) for status in (path.stat() for path in files.paths)]


def _fingerprint(files: TableFiles) -> str:
    fields = files.spec.model_dump(mode="json", exclude={*DATA_INDEPENDENT_FIELDS, "path"})
    digests = []
    for path in files.paths:
        with path.open("rb") as file:
            digests.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    return hashlib.sha256(json.dumps([READER_VERSION, fields, digests], sort_keys=True).encode()).hexdigest()


def _tenants(files: TableFiles) -> pl.DataFrame:
    """tenant, rows, first, last (microseconds) and, where the spec names columns for them, tier and archetype."""
    labels = [role for role in ("tier", "archetype") if getattr(files.spec, f"{role}_column") is not None]
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
        raise FleetDataError(f"fleet {files.spec.name!r}, {files.paths[0]}: no rows; allowed: at least two seasons of every tenant")
    for role in labels:
        torn = tenants.filter(pl.col(f"different {role}s") > 1)["tenant"].to_list()
        if torn:
            column = getattr(files.spec, f"{role}_column")
            raise FleetDataError(
                f"fleet {files.spec.name!r}, column {column!r}: {len(torn)} tenants with more than one {role}: "
                f"{_listed(torn)}; allowed: one {role} per tenant, the same in all of its rows"
            )
    return tenants


def _step(files: TableFiles, tenant_ids: list[str]) -> tuple[int, int]:
    """The step in microseconds, and the remainder that most timestamps leave when they are divided by it."""
    spec = files.spec
    time = pl.col("time")
    some = files.rows().filter(pl.col("tenant").is_in(tenant_ids[:_TENANTS_FOR_STEP])).select("tenant", "time")
    apart = some.sort("tenant", "time").select(time.diff().over("tenant").alias("apart")).filter(pl.col("apart") > 0)
    counts = collect(spec, apart.group_by("apart").len().sort(["len", "apart"], descending=[True, False]))
    usual = counts["apart"][0] if counts.height and counts["len"][0] > counts["len"].sum() / 2 else None
    seen = ", ".join(f"{timedelta(microseconds=us)} ({n} times)" for us, n in counts.head(SHOWN).iter_rows()) or "none"
    if spec.step == "infer":
        if usual is None or not divides_a_day(usual / MINUTE_US):
            raise FleetDataError(
                f"{_where(spec)}: the step cannot be inferred; rows of one tenant "
                f"({_listed(tenant_ids[:_TENANTS_FOR_STEP])}) are apart by {seen}; allowed: one distance between most "
                "neighbours that divides a day, or a 'step' in the fleet file"
            )
        step_us = int(usual)
    else:
        step_us = round(float(spec.step) * MINUTE_US)
        if usual is not None and usual != step_us:
            raise FleetDataError(
                f"{_where(spec)}: the fleet file says steps of {timedelta(microseconds=step_us)}, but rows of one "
                f"tenant are apart by {seen}; allowed: 'infer', or the distance of most neighbours"
            )
    phases = files.rows().group_by((time % step_us).alias("phase")).len().sort(["len", "phase"], descending=[True, False])
    return step_us, int(collect(spec, phases.head(1))["phase"][0])


def _stock(values: NDArray[np.float32]) -> dict[str, int]:
    """The columns of the manifest that follow from one tenant's values [D, T]."""
    missing = np.isnan(values)
    steps = np.flatnonzero(~missing.all(axis=0))
    first, last = (int(steps[0]), int(steps[-1])) if steps.size else (0, -1)
    missing = missing[:, first : last + 1]
    edges = np.diff(missing.astype(np.int8), axis=1, prepend=0, append=0)
    gaps = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    n_missing = int(missing.sum())
    return {
        "first_step": first,
        "last_step": last,
        "n_observed": missing.size - n_missing,
        "n_missing": n_missing,
        "n_gaps": gaps.size,
        "longest_gap": int(gaps.max(initial=0)),
    }


def _where(spec: TableFleet) -> str:
    return f"fleet {spec.name!r}, column {spec.timestamp_column!r}"


def _listed(tenants: list[str]) -> str:
    more = f" and {len(tenants) - SHOWN} more" if len(tenants) > SHOWN else ""
    return ", ".join(map(repr, tenants[:SHOWN])) + more
