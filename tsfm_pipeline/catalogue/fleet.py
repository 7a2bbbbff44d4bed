"""One fleet at hand: its spec, its tables, and the tables' array form that the domain functions take.

What belongs here: opening a fleet under given settings, its shards, and reshaping long tables into arrays [N, O, D, ...]. What does not:
any arithmetic on them, and anything of Dagster.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.space import candidates, validation_offsets
from tsfm_pipeline.catalogue.moves import move_records, say
from tsfm_pipeline.catalogue.tables import FingerprintContext, expected_fingerprints
from tsfm_pipeline.evaluation.protocol import Protocol
from tsfm_pipeline.evaluation.requests import Role
from tsfm_pipeline.files import write_atomically
from tsfm_pipeline.fleets import (
    FleetSource,
    SyntheticFleet,
    TableFleet,
    fleet_fingerprint,
    open_fleet,
    raw_folder,
    refresh_fleet,
)
from tsfm_pipeline.fleets.spec import FleetSpec, load_specs
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.forecaster.registry import checkpoint_digest
from tsfm_pipeline.lake import FleetLake, Lake, LakeError
from tsfm_pipeline.settings import Settings

REQUEST_KEYS = ("request_id", "tenant_number", "metric")
NO_RUN = "tsfm-pipeline"
"""The run that a command holds a fleet's lock for, where no run of Dagster started it."""


@dataclass(frozen=True)
class Grid:
    """The fleet's time grid and metrics; seasons and days in steps."""

    start: datetime
    step_minutes: float
    n_steps: int
    metrics: tuple[str, ...]
    seasons: tuple[int, ...]

    @property
    def steps_per_day(self) -> int:
        return round(1440 / self.step_minutes)

    def steps(self, minutes: float) -> int:
        """A duration in steps, rounded down."""
        return int(minutes // self.step_minutes)

    def time_of(self, step: int) -> datetime:
        return self.start + timedelta(minutes=self.step_minutes) * int(step)

    def to_json(self) -> dict[str, Any]:
        return {
            "start": self.start.isoformat(),
            "step_minutes": self.step_minutes,
            "n_steps": self.n_steps,
            "metrics": list(self.metrics),
            "seasons": list(self.seasons),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Grid":
        return cls(
            start=datetime.fromisoformat(record["start"]),
            step_minutes=record["step_minutes"],
            n_steps=record["n_steps"],
            metrics=tuple(record["metrics"]),
            seasons=tuple(record["seasons"]),
        )


@dataclass(frozen=True)
class Requests:
    """Requests of one role, O for each of N tenants: ids and origins [N, O], validity [N, O], tenant rows in the shard [N]."""

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
        """Origins per series [N * D, O], series-major as in `Fleet.panel`."""
        return np.repeat(self.origins, n_metrics, axis=0)


def open_workspace_fleet(settings: Settings, name: str, run_id: str = NO_RUN) -> "Fleet":
    """The fleet of that name under these settings. Raises ValueError, with the names there are, for an unknown one."""
    specs = load_specs(*settings.known_specs_dirs)
    if name not in specs:
        folders = " or ".join(map(str, settings.known_specs_dirs))
        raise ValueError(f"no fleet {name!r} in {folders}; there are: {', '.join(specs)}")
    return Fleet(settings, specs[name], run_id)


class Fleet:
    """Tables, grid, shards and reports of one fleet."""

    def __init__(self, settings: Settings, spec: FleetSpec, run_id: str = NO_RUN) -> None:
        self.settings = settings
        self.spec = spec
        self.name = spec.name
        self.run_id = run_id

    @cached_property
    def source(self) -> FleetSource:
        """The telemetry where it comes from (generator or table); only `tenant_telemetry` reads values from it."""
        return open_fleet(self.spec, fleets_dir=self.settings.fleet_tables_dir, raw_dir=self.raw_dir)

    @cached_property
    def records_dir(self) -> Path:
        """Where the fleet's records lie; what an earlier release kept elsewhere is moved there before anybody looks.

        Raises `FleetLockedError` where something is to be moved and another run holds the fleet.
        """
        self.move_records()
        return self.settings.records_dir / self.name

    def move_records(self, log: Callable[[str], Any] = say) -> None:
        """Move what an earlier release left of the fleet's records, under the fleet's lock (`catalogue.moves`)."""
        move_records(self.settings, self.name, self.run_id, log)

    @property
    def raw_dir(self) -> Path | None:
        """Where what was fetched is kept; None for a fleet that fetches nothing."""
        return None if isinstance(self.spec, SyntheticFleet | TableFleet) else raw_folder(self.records_dir)

    def refresh(self, run_id: str, log: Callable[[str], Any] = lambda _: None) -> dict[str, Any]:
        """Fetch what is new where telemetry comes from, under the fleet's lock and before anything of the fleet is opened."""
        self.move_records(log)
        with Lake(self.settings.lake_dir).fleet(self.name).lock(run_id):
            return refresh_fleet(self.spec, raw_dir=self.raw_dir, log=log)

    @cached_property
    def context(self) -> FingerprintContext:
        return FingerprintContext(
            spec=self.spec,
            settings=self.settings,
            source_fingerprint=fleet_fingerprint(self.spec, fleets_dir=self.settings.fleet_tables_dir, raw_dir=self.raw_dir),
            checkpoint_digest=checkpoint_digest(self.settings.checkpoint),
            protocol=self.protocol,
        )

    @cached_property
    def protocol(self) -> Protocol:
        """The protocol that the fleet is evaluated under: the common one with the fleet's own tiers and shares."""
        return Protocol(tiers=self.spec.tiers, tier_shares=self.spec.tier_shares)

    @cached_property
    def tables(self) -> FleetLake:
        return Lake(self.settings.lake_dir).fleet(self.name, expected_fingerprints(self.context))

    @cached_property
    def grid(self) -> Grid:
        return Grid.from_json(self.tables.record("tenant_telemetry")["grid"])

    @cached_property
    def _ranked(self) -> dict[int, tuple[ForecastConfig, ...]]:
        """Each test fold's ranked configurations, best first."""
        table = self.tables.read("config_portfolio").sort("fold", "rank")
        groups = table.group_by("fold", maintain_order=True)
        return {int(fold): tuple(map(ForecastConfig.from_name, rows["config"])) for (fold,), rows in groups}

    def ranked_configs(self, fold: int) -> tuple[ForecastConfig, ...]:
        """Up to `ranked_size` configurations that the tuning tenants of a test fold support, in the order in which they were chosen."""
        return self._ranked[fold]

    @cached_property
    def configs(self) -> tuple[ForecastConfig, ...]:
        """The K configurations of the grid: every test fold's portfolio, in the order of the candidates."""
        chosen = {config for ranked in self._ranked.values() for config in ranked[: self.settings.search.portfolio_size]}
        return tuple(config for config in candidates(self.settings.search) if config in chosen)

    def portfolio_mask(self, fold: int) -> NDArray[np.bool_]:
        """Which of the K configurations are in the portfolio of a test fold, bool [K]."""
        portfolio = self._ranked[fold][: self.settings.search.portfolio_size]
        return np.array([config in portfolio for config in self.configs], dtype=bool)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        seasons = self.grid.seasons
        return validation_offsets(self.settings.search, self.spec.horizon, seasons[0] if seasons else None)

    @cached_property
    def manifest(self) -> pl.DataFrame:
        return self.tables.read("tenant_manifest").sort("tenant_number")

    @cached_property
    def index_arrays(self) -> dict[str, NDArray[Any]]:
        """The stored arrays of `archetype_index`."""
        return self.tables.read_arrays("archetype_index")

    @property
    def shards(self) -> list[list[int]]:
        """Tenant numbers per shard."""
        n_tenants = int(self.tables.record("tenant_telemetry")["n_tenants"])
        size = self.settings.shard_tenants
        return [list(range(first, min(first + size, n_tenants))) for first in range(0, n_tenants, size)]

    def shards_of(self, tenants: NDArray[np.int64]) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
        """Each shard that holds any of some tenant numbers [N], with those that it holds, ascending."""
        for shard in self.shards:
            mine = np.intersect1d(shard, tenants)
            if mine.size:
                yield shard, mine

    def shard_number(self, tenants: Sequence[int]) -> int:
        return tenants[0] // self.settings.shard_tenants

    def values(self, shard: Sequence[int]) -> NDArray[np.float32]:
        """Telemetry of a shard's tenants, float32 [N, D, T]; NaN = missing."""
        metrics = list(self.grid.metrics)
        frame = self.tables.read("tenant_telemetry", self.shard_number(shard), columns=metrics)
        stacked = np.stack([frame[metric].to_numpy().reshape(len(shard), self.grid.n_steps) for metric in metrics], axis=1)
        return np.ascontiguousarray(stacked, dtype=np.float32)

    def values_by_shard(self, tenants: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float32]]]:
        """Of tenant numbers [N], ascending: which of them lie in a shard, bool [N], and their telemetry [n, D, T], shard by shard."""
        for shard in self.shards:
            mine = np.isin(tenants, shard)
            if mine.any():
                yield mine, self.values(shard)[tenants[mine] - shard[0]]

    def panel(self, values: NDArray[np.float32]) -> Panel:
        """Telemetry [N, D, T] as a panel of N * D series, with the fleet's seasons and bounds.

        A bound holds for the panel where all metrics share it; otherwise the panel is unbounded on that side.
        """
        lower, upper = self.spec.shared_bounds(self.grid.metrics)
        return Panel(values.reshape(-1, values.shape[-1]), seasons=self.grid.seasons, lower=lower, upper=upper)

    def requests(self, role: Role, shard: Sequence[int] | None = None, only: Sequence[int] | None = None) -> Requests:
        """The requests of a role, of one shard's tenants or of all; of these `only` the given tenants', if any are given."""
        frame = self.tables.scan("forecast_requests").filter(pl.col("role") == role)
        if only is not None:
            frame = frame.filter(pl.col("tenant_number").is_in(list(only)))
        if shard is not None:
            frame = frame.filter(pl.col("tenant_number").is_in(list(shard)))
        table = frame.sort("request_id").collect()
        numbers = table["tenant_number"].unique(maintain_order=True).to_numpy().astype(np.int64)
        shape = (len(numbers), self.spec.origins_per_tenant)
        first = 0 if shard is None else shard[0]
        return Requests(
            frame=table,
            tenant_numbers=numbers,
            rows=numbers - first,
            ids=table["request_id"].to_numpy().astype(np.int64).reshape(shape),
            origins=table["origin_step"].to_numpy().astype(np.int64).reshape(shape),
            valid=table["valid"].to_numpy().reshape(shape),
        )

    def arrays(self, table: str, requests: Requests, columns: Sequence[str], per_row: Sequence[int]) -> list[NDArray[Any]]:
        """Columns of a table keyed by request as arrays [R, *per_row, ...], R = N * O in the order of `requests.ids`.

        `per_row` are the lengths of the table's axes below the request (metric, configuration, ...), in its sort order.
        Raises ValueError where the table does not hold exactly those rows.
        """
        ids = requests.ids.ravel()
        frame = self.tables.scan(table).filter(pl.col("request_id").is_in(ids.tolist())).select("request_id", *columns).collect()
        expected = len(ids) * int(np.prod(per_row))
        if frame.height != expected:
            raise ValueError(
                f"table {table!r} of fleet {self.name!r} holds {frame.height} rows for {len(ids)} requests; expected {expected}"
            )
        shape = (len(ids), *per_row)
        arrays = []
        for column in columns:
            values = frame[column].to_numpy()
            arrays.append(values.reshape(shape + values.shape[1:]))
        return arrays

    # -- reports ------------------------------------------------------------------------------------------------

    @property
    def reports_dir(self) -> Path:
        return self.settings.reports_dir / self.name

    def write_report(self, name: str, content: dict[str, Any]) -> Path:
        """Write `<reports>/<fleet>/<name>.json` (flat keys with units, NaN as null)."""
        path = self.reports_dir / f"{name}.json"
        made_from = {"profile": self.settings.profile, "scores_fingerprint": self.tables.expected["headline_scores"]}
        write_json(path, {**made_from, **content})
        return path

    def read_report(self, name: str) -> dict[str, Any]:
        """A report's JSON. Raises `FileNotFoundError` or `LakeError` that names the asset to materialise where it is missing or stale."""
        path = self.reports_dir / f"{name}.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; materialise the asset {name!r} of fleet {self.name!r} first")
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise LakeError(f"{path} is damaged: {error}; materialise the asset {name!r} of fleet {self.name!r} again") from error
        if content.get("scores_fingerprint") != self.tables.expected["headline_scores"]:
            raise LakeError(
                f"{path} was made from other scores than now apply (other code, settings or telemetry); "
                f"materialise the asset {name!r} of fleet {self.name!r} again"
            )
        return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a report's JSON, NaN as null; a reader sees the old file or the new one."""
    text = json.dumps(_nan_as_null(content), indent=1, allow_nan=False, default=str)
    write_atomically(path, lambda p: p.write_text(text + "\n"))


def _nan_as_null(value: Any) -> Any:
    """The same nested value with None for every float that JSON cannot say."""
    if isinstance(value, dict):
        return {key: _nan_as_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_as_null(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
