"""Prometheus fleets: from fetched samples to one regular grid.

What belongs here: the grid, the tenants on it, and their values. What does not: fetching and
storing samples (`fleets.prometheus_store`, `fleets.fetched_days`).

Opening a fleet never contacts the server, so that all steps of a run see the same telemetry. The
grid runs from the earliest to the latest step with a value. Tenants come and go while a server is
watched, but a fleet is evaluated over one period. A tenant therefore belongs to the fleet only if
it has values on the last day (unless tenants have calendars of their own) and enough history for a
request. The other tenants are left out, each with the reason.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.requests import minimum_history
from tsfm_pipeline.fleets import fetched_days
from tsfm_pipeline.fleets.fetched_days import DAY_S, StoredDay, date_text, time_text
from tsfm_pipeline.fleets.kinds import PrometheusFleet
from tsfm_pipeline.fleets.profiles import deal
from tsfm_pipeline.fleets.prometheus_store import store_of
from tsfm_pipeline.fleets.source import (
    MANIFEST_SCHEMA,
    UNREADABLE,
    FleetDataError,
    FleetSource,
    data_fields,
    listed,
    take_stock,
)

READER_VERSION = 1
"""Raise this number with every change of a rule that changes values or manifest: it is part of the
fingerprint.
"""

_IN_THE_FILES = {
    "url",
    "queries",
    "delay_seconds",
    "headers_from_env",
    "timeout_seconds",
    "lookback_days",
    "fresh_hours",
}
"""Fields whose effect on values is already contained in the fetched files."""
_TENANTS_AT_ONCE = 32


class PrometheusSource(FleetSource):
    """A Prometheus fleet as it was last fetched."""

    spec: PrometheusFleet

    def __init__(self, spec: PrometheusFleet, *, raw_dir: Path) -> None:
        """Open the fetched samples. Raises `FleetDataError` where nothing has been fetched, or
        where the samples cannot be used.
        """
        self.spec = spec
        self.metrics = tuple(spec.queries)
        self._days = what_is_stored(spec, raw_dir)
        self.step = timedelta(minutes=spec.step)
        self._step_us = round(spec.step * 60) * 1_000_000
        tenants = self._tenants()
        self._start_us: int = tenants["first"].min()  # type: ignore[assignment]
        end_us: int = tenants["last"].max()  # type: ignore[assignment]
        self.start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._start_us)
        self.n_steps = (end_us - self._start_us) // self._step_us + 1
        if not self.seasons:
            raise FleetDataError(
                f"fleet {spec.name!r}: steps of {self.step} have no daily or weekly season; give "
                "'seasons'"
            )
        self.left_out = self._left_out(tenants, end_us)
        self._tenant_ids = [
            tenant for tenant in tenants["tenant_id"] if tenant not in self.left_out
        ]
        self.n_tenants = len(self._tenant_ids)
        if not self._tenant_ids:
            raise FleetDataError(
                f"fleet {spec.name!r}: none of {tenants.height} tenants can be used yet, for "
                f"instance {listed(list(self.left_out))}: "
                f"{next(iter(self.left_out.values()))}; wait, or raise lookback_days if the "
                "server keeps more",
                self.left_out,
            )
        self.notes = self._notes()

    def manifest(self) -> pl.DataFrame:
        """Return one row per tenant with MANIFEST_SCHEMA; tenants are numbered in the order of
        their ids.
        """
        return self._manifest

    @cached_property
    def _manifest(self) -> pl.DataFrame:
        stock = [
            {"tenant_number": number, "n_duplicates": 0, **take_stock(values)}
            for numbers in self.shards(_TENANTS_AT_ONCE)
            for number, values in zip(numbers, self.values(numbers), strict=True)
        ]
        manifest = pl.DataFrame(stock).with_columns(
            pl.Series("tenant_id", self._tenant_ids),
            pl.lit(None, pl.String).alias("archetype"),
            pl.Series("tier", deal(self.spec.tier_shares, self.n_tenants)),
        )
        return manifest.select(MANIFEST_SCHEMA.names()).cast(MANIFEST_SCHEMA)

    def _values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        wanted = {self._tenant_ids[number]: row for row, number in enumerate(tenant_numbers)}
        rows = self._collect(self._rows().filter(pl.col("tenant_id").is_in(list(wanted))))
        row = rows["tenant_id"].replace_strict(wanted, return_dtype=pl.Int64).to_numpy()
        step = ((rows["timestamp"].to_physical() - self._start_us) // self._step_us).to_numpy()
        values = np.full(
            (len(tenant_numbers), len(self.metrics), self.n_steps), np.nan, dtype=np.float32
        )
        values[row, :, step] = rows.select(self.metrics).to_numpy()
        return values

    def fingerprint(self) -> str:
        """Return the `stored_fingerprint` of the samples that were stored when the fleet was
        opened.
        """
        return stored_fingerprint(self.spec, self._days)

    def _rows(self) -> pl.LazyFrame:
        return pl.scan_parquet([path for day in self._days for path in day.paths], glob=False)

    def _collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        try:
            return frame.collect(engine="streaming")
        except UNREADABLE as error:
            raise FleetDataError(
                f"fleet {self.spec.name!r}: samples in {self._days[0].paths[0].parent} cannot be "
                f"read: {error}; move the named file away, and its steps are fetched again"
            ) from error

    def _tenants(self) -> pl.DataFrame:
        """Return tenant_id, first, last (microseconds), sorted. Raises `FleetDataError` for values
        out of bounds, and for metrics or fleets without any value.
        """
        extremes = [
            getattr(pl.col(metric), side)().alias(f"{side}:{metric}")
            for metric in self.metrics
            for side in ("min", "max")
        ]
        time = pl.col("timestamp")
        spans = [time.min().to_physical().alias("first"), time.max().to_physical().alias("last")]
        tenants = self._collect(
            self._rows().group_by("tenant_id").agg(*spans, *extremes).sort("tenant_id")
        )
        where = f"fleet {self.spec.name!r}"
        empty_metrics = [
            metric
            for metric in self.metrics
            if tenants[f"min:{metric}"].null_count() == tenants.height
        ]
        if empty_metrics:
            days = f"{date_text(self._days[0].through)} to {date_text(self._days[-1].through)}"
            queries = "; ".join(self.spec.queries[metric] for metric in empty_metrics)
            raise FleetDataError(
                f"{where}: not a single value of {', '.join(map(repr, empty_metrics))} from "
                f"{days}; try the query on the server's own web page: {queries}"
            )
        for metric in self.metrics:
            lower, upper = self.spec.bounds_of(metric)
            outside = (
                [] if lower is None else [(f"below {lower:g}", pl.col(f"min:{metric}") < lower)]
            )
            outside += (
                [] if upper is None else [(f"above {upper:g}", pl.col(f"max:{metric}") > upper)]
            )
            for what, bad in outside:
                tenant_ids = tenants.filter(bad)["tenant_id"].to_list()
                if tenant_ids:
                    raise FleetDataError(
                        f"{where}, metric {metric!r}: values {what} of {len(tenant_ids)} tenants: "
                        f"{listed(tenant_ids)}; allowed: values within the bounds of the fleet "
                        "file; correct lower, upper or bounds there, or the query (clamp_min, "
                        "clamp_max)",
                        dict.fromkeys(tenant_ids, f"values of {metric} {what}"),
                    )
        return tenants

    def _left_out(self, tenants: pl.DataFrame, end_us: int) -> dict[str, str]:
        """Return the tenants that do not belong to the fleet, each with the reason (see the
        module).
        """
        first_us, last_us = (tenants[end].to_numpy() for end in ("first", "last"))
        needed = minimum_history(first_us // self._step_us, last_us // self._step_us)
        shared = self.spec.calendar == "shared"
        left_out = {}
        for tenant, first, last in tenants.select("tenant_id", "first", "last").iter_rows():
            span = (last - first) // self._step_us + 1
            if shared and end_us - last > DAY_S * 1_000_000:
                left_out[tenant] = f"gone: nothing since {time_text(last // 1_000_000)}"
            elif span < needed:
                left_out[tenant] = f"too new: {span} steps of history; {needed} are needed"
        return left_out

    def _notes(self) -> tuple[str, ...]:
        notes = [f"fetched from {self.spec.url} through {time_text(self._days[-1].through)}"]
        if self.left_out:
            notes.append(
                f"{len(self.left_out)} tenants are left out: {listed(list(self.left_out))}"
            )
        if n_infinite := sum(day.n_infinite for day in self._days):
            notes.append(
                f"{n_infinite} infinite values count as missing; does a query divide by zero?"
            )
        return tuple(notes)


def what_is_stored(spec: PrometheusFleet, raw_dir: Path) -> list[StoredDay]:
    """Return the fetched days; raises as `fetched_days.what_is_stored` does."""
    step = round(spec.step * 60)
    return fetched_days.what_is_stored(spec, store_of(spec, raw_dir), step=step, server=spec.url)


def stored_fingerprint(spec: PrometheusFleet, days: Sequence[StoredDay]) -> str:
    """Return a digest of the spec's data fields, the reader's version, and the fetched samples with
    the time up to which they reach; it reads no row.
    """
    fields = data_fields(spec, _IN_THE_FILES)
    stored = [[day.day, day.through, day.digest] for day in days]
    return hashlib.sha256(
        json.dumps([READER_VERSION, fields, list(spec.queries), stored], sort_keys=True).encode()
    ).hexdigest()
