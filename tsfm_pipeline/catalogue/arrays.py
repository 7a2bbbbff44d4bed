"""A fleet's tables as the arrays that domain functions take: telemetry, requests, and columns by
request.

What belongs here: reshaping long tables into arrays [N, O, D, ...], and reading only the parts of
them that are needed. What does not: which fleet and under which settings (`fleet`), arithmetic on
arrays, and the array form of a single table (`steps`).

Of a sharded table, only the parts that hold the given tenants are read. A table with a single part,
such as the requests, is read once and kept in memory. The tables of a cohort have a part for each
part of the telemetry that holds a tenant of the cohort.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.time_grid import TimeGrid
from tsfm_pipeline.evaluation.limits import Limits
from tsfm_pipeline.evaluation.requests import ROLES, Role
from tsfm_pipeline.fleets.spec import FleetSpec
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.lake import FleetLake


@dataclass(frozen=True)
class Requests:
    """Requests of one role, O for each of N tenants: ids, origins and validity [N, O], and the
    tenants' rows in the shard [N].
    """

    frame: pl.DataFrame
    tenant_numbers: NDArray[np.int64]
    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    origins: NDArray[np.int64]
    valid: NDArray[np.bool_]

    @property
    def tenants(self) -> NDArray[np.int64]:
        """The tenant number of each request [R = N * O], in the order of `ids`."""
        return np.repeat(self.tenant_numbers, self.ids.shape[1])

    def series_origins(self, n_metrics: int) -> NDArray[np.int64]:
        """Return the origins of each series [N * D, O], series-major as in `FleetArrays.panel`."""
        return np.repeat(self.origins, n_metrics, axis=0)


def panel_of(
    spec: FleetSpec,
    metrics: Sequence[str],
    seasons: tuple[int, ...],
    series: NDArray[np.float32],
) -> Panel:
    """Return the series of tenants of a fleet, float32 [N * D, T], as a panel with its seasons
    (steps), bounds and longest gap.
    """
    bounds = [spec.bounds_of(metric) for metric in metrics]
    return Panel.of_tenants(series, seasons, bounds, spec.max_gap)


class FleetArrays:
    """Arrays of one fleet's tables. Each shard of the telemetry holds `shard_size` tenants, in the
    order of their numbers.
    """

    def __init__(self, tables: FleetLake, spec: FleetSpec, grid: TimeGrid, shard_size: int) -> None:
        self.tables = tables
        self.spec = spec
        self.grid = grid
        self.shard_size = shard_size

    def shard_number(self, tenants: Sequence[int] | NDArray[np.int64]) -> int:
        """Return the number of a shard of the telemetry, given tenants of it."""
        return int(tenants[0]) // self.shard_size

    def values(self, shard: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the telemetry of tenants of one shard, float32 [N, D, T]; NaN means missing."""
        metrics, number = list(self.grid.metrics), self.shard_number(shard)
        frame = self.tables.read("tenant_telemetry", number, columns=metrics)
        rows = np.asarray(shard) - number * self.shard_size
        columns = [
            frame[metric].to_numpy().reshape(-1, self.grid.n_steps)[rows] for metric in metrics
        ]
        return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float32)

    def values_by_shard(
        self, tenants: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float32]]]:
        """Yield, for each shard that holds any of the tenant numbers [N] (ascending), a mask of
        those in the shard, bool [N], and their telemetry [n, D, T].
        """
        numbers = tenants // self.shard_size
        for number in np.unique(numbers).tolist():
            in_shard = numbers == number
            yield in_shard, self.values(tenants[in_shard])

    def panel(self, values: NDArray[np.float32]) -> Panel:
        """Return telemetry [N, D, T] as a panel of N * D series, with the fleet's seasons, bounds
        and longest gap.

        Where metrics have different bounds, each series has those of its metric.
        """
        series = values.reshape(-1, values.shape[-1])
        return panel_of(self.spec, self.grid.metrics, self.grid.seasons, series)

    @cached_property
    def limits(self) -> Limits:
        """The limits of the metrics [D]."""
        return Limits.of(self.spec.bounds_of(metric) for metric in self.grid.metrics)

    def requests(
        self, role: Role, shard: Sequence[int] | None = None, only: Sequence[int] | None = None
    ) -> Requests:
        """Return the requests of a role, for one shard's tenants or for all tenants. If `only` is
        given, keep the requests of those tenants.
        """
        all_requests = self._requests[role]
        tenants = all_requests.tenant_numbers
        if only is None:
            positions = np.arange(len(tenants))
        else:
            wanted = np.unique(np.asarray(only, dtype=np.int64))
            positions = np.searchsorted(tenants, wanted)
            inside = positions < len(tenants)
            positions = positions[inside][tenants[positions[inside]] == wanted[inside]]
        if shard is not None:
            numbers = tenants[positions]
            positions = positions[(numbers >= shard[0]) & (numbers <= shard[-1])]
        n_origins = all_requests.ids.shape[1]
        rows = (positions[:, None] * n_origins + np.arange(n_origins)).ravel()
        return Requests(
            frame=all_requests.frame[rows],
            tenant_numbers=tenants[positions],
            rows=tenants[positions]
            if shard is None
            else np.searchsorted(shard, tenants[positions]),
            ids=all_requests.ids[positions],
            origins=all_requests.origins[positions],
            valid=all_requests.valid[positions],
        )

    def of(
        self, table: str, requests: Requests, columns: Sequence[str], per_row: Sequence[int]
    ) -> list[NDArray[Any]]:
        """Return columns of a table keyed by request as arrays [R, *per_row, ...], R = N * O in the
        order of `requests.ids`.

        `per_row` holds the lengths of the table's axes below the request (metric, configuration,
        ...), in its sort order. Raises ValueError if the table does not hold exactly those rows.
        """
        frame = self.rows(table, requests).select("request_id", *columns).collect()
        expected = requests.ids.size * int(np.prod(per_row))
        if frame.height != expected:
            raise ValueError(
                f"table {table!r} of fleet {self.tables.name!r} holds {frame.height} rows for "
                f"{requests.ids.size} requests; "
                f"expected {expected}"
            )
        shape = (requests.ids.size, *per_row)
        arrays = []
        for column in columns:
            values = frame[column].to_numpy()
            arrays.append(values.reshape(shape + values.shape[1:]))
        return arrays

    def rows(self, table: str, requests: Requests) -> pl.LazyFrame:
        """Return the table's rows for these requests, in table order, from the parts that hold
        their tenants.
        """
        numbers = np.unique(requests.tenant_numbers // self.shard_size)
        parts = np.searchsorted(self._cohort_shards, numbers).tolist() or [0]
        if len(self.tables.parts(table)) == 1:
            parts = [0]
        return self.tables.scan(table, *parts).filter(
            pl.col("request_id").is_in(requests.ids.ravel().tolist())
        )

    @cached_property
    def archetype_index(self) -> dict[str, NDArray[Any]]:
        """The stored arrays of `archetype_index`."""
        return self.tables.read_arrays("archetype_index")

    @cached_property
    def _cohort_shards(self) -> NDArray[np.int64]:
        """The numbers of the shards that hold a tenant of the cohort, each of which has a tuning
        request.
        """
        return np.unique(self._requests["tuning"].tenant_numbers // self.shard_size)

    @cached_property
    def _requests(self) -> dict[Role, Requests]:
        """All requests of each role, by tenant number."""
        table = self.tables.read("forecast_requests").sort("request_id")
        by_role = {}
        for role in ROLES:
            frame = table.filter(pl.col("role") == role)
            numbers = frame["tenant_number"].unique(maintain_order=True).to_numpy().astype(np.int64)
            shape = (len(numbers), self.spec.origins_per_tenant)
            by_role[role] = Requests(
                frame=frame,
                tenant_numbers=numbers,
                rows=numbers,
                ids=frame["request_id"].to_numpy().astype(np.int64).reshape(shape),
                origins=frame["origin_step"].to_numpy().astype(np.int64).reshape(shape),
                valid=frame["valid"].to_numpy().reshape(shape),
            )
        return by_role
