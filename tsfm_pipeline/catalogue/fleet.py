"""An opened fleet: its spec, its time grid, its tables, and how its tenants are sharded.

What belongs here: opening a fleet under given settings, and the facts that all of its steps must
agree on. What does not: its tables as arrays (`arrays`), report files (`reports.shared.files`),
Dagster.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.space import candidates, validation_offsets
from tsfm_pipeline.baselines import plugin_forecasters
from tsfm_pipeline.catalogue.arrays import FleetArrays
from tsfm_pipeline.catalogue.intake import Intake, take_in, taken_in
from tsfm_pipeline.catalogue.moves import move_records, say
from tsfm_pipeline.catalogue.parameters import FingerprintContext
from tsfm_pipeline.catalogue.registry import expected_fingerprints
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.catalogue.time_grid import TimeGrid
from tsfm_pipeline.evaluation.protocol import Protocol
from tsfm_pipeline.evaluation.requests import OUTSIDE
from tsfm_pipeline.fleets import (
    FleetSource,
    SavedDatasetFleet,
    SyntheticFleet,
    TableFleet,
    fleet_fingerprint,
    open_fleet,
    raw_folder,
    refresh_fleet,
)
from tsfm_pipeline.fleets.spec import FleetSpec, fleet_files
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.registry import checkpoint_digest
from tsfm_pipeline.lake import FleetLake, open_lake
from tsfm_pipeline.settings import Settings

NO_RUN = "tsfm-pipeline"
"""The run id under which a command holds a fleet's lock if no Dagster run started it."""


def _by_fold(rows: pl.DataFrame) -> dict[int, tuple[ForecastConfig, ...]]:
    """Return the configurations of each test fold, in the order of the rows of the portfolio."""
    groups = rows.group_by("fold", maintain_order=True)
    return {
        int(fold): tuple(map(ForecastConfig.from_name, of_fold["config"]))
        for (fold,), of_fold in groups
    }


def open_workspace_fleet(settings: Settings, name: str, run_id: str = NO_RUN) -> "Fleet":
    """Return the fleet of that name under these settings. Raises ValueError, with the known names,
    if there is none, and `FleetSpecError` if its file is wrong. No other fleet's file is read.
    """
    return Fleet(settings, fleet_files(*settings.known_specs_dirs).spec(name), run_id)


class Fleet:
    """Spec, time grid, tables and shards of one fleet under given settings."""

    def __init__(self, settings: Settings, spec: FleetSpec, run_id: str = NO_RUN) -> None:
        self.settings = settings
        self.spec = spec
        self.name = spec.name
        self.run_id = run_id

    @cached_property
    def source(self) -> FleetSource:
        """The source of the telemetry (generator or table); only `tenant_telemetry` reads values
        from it.
        """
        return open_fleet(
            self.spec, fleets_dir=self.settings.fleet_tables_dir, raw_dir=self.raw_dir
        )

    @cached_property
    def records_dir(self) -> Path:
        """The folder of the fleet's records. Records that an earlier release kept elsewhere are
        moved there first.

        Raises `FleetLockedError` if a record must be moved and another run holds the fleet.
        """
        self.prepare()
        return self.settings.records_dir / self.name

    def prepare(self, log: Callable[[str], Any] = say) -> None:
        """Prepare the fleet before any of its files is read or written: move the records that an
        earlier release kept elsewhere, under the fleet's lock (`catalogue.moves`).
        """
        move_records(self.settings, self.name, self.run_id, log)

    @property
    def raw_dir(self) -> Path | None:
        """The folder of fetched telemetry; None for a fleet that fetches nothing."""
        return (
            None
            if isinstance(self.spec, SyntheticFleet | TableFleet | SavedDatasetFleet)
            else raw_folder(self.records_dir)
        )

    def refresh(self, run_id: str, log: Callable[[str], Any] = lambda _: None) -> dict[str, Any]:
        """Fetch new telemetry from its source, under the fleet's lock and before any of the fleet's
        tables is opened.
        """
        self.prepare(log)
        with open_lake(self.settings).fleet(self.name).lock(run_id):
            return refresh_fleet(
                self.spec,
                raw_dir=self.raw_dir,
                fleets_dir=self.settings.fleet_tables_dir,
                log=log,
            )

    def take_in(self, run_id: str, log: Callable[[str], Any] = lambda _: None) -> Intake | None:
        """Take in the records of the online service until now, under the fleet's lock and before
        any of the fleet's tables is opened (`catalogue.intake`).
        """
        self.prepare(log)
        with open_lake(self.settings).fleet(self.name).lock(run_id):
            return take_in(self.settings.records_dir / self.name, self.published_dir)

    @cached_property
    def context(self) -> FingerprintContext:
        intake = taken_in(self.published_dir)
        return FingerprintContext(
            spec=self.spec,
            settings=self.settings,
            source_fingerprint=fleet_fingerprint(
                self.spec, fleets_dir=self.settings.fleet_tables_dir, raw_dir=self.raw_dir
            ),
            checkpoint_digest=checkpoint_digest(self.settings.checkpoint),
            protocol=self.protocol,
            forecasters=plugin_forecasters(),
            served=intake.digest if intake else "",
            overrides=intake.overrides if intake else "",
        )

    @cached_property
    def protocol(self) -> Protocol:
        """The protocol that the fleet is evaluated under: the common one with the fleet's own tiers
        and shares.
        """
        return Protocol(tiers=self.spec.tiers, tier_shares=self.spec.tier_shares)

    @cached_property
    def tables(self) -> FleetLake:
        return open_lake(self.settings).fleet(
            self.name, expected_fingerprints(TABLES, self.context)
        )

    @cached_property
    def grid(self) -> TimeGrid:
        return TimeGrid.from_json(self.tables.record("tenant_telemetry")["grid"])

    @cached_property
    def _ranked(self) -> dict[int, tuple[ForecastConfig, ...]]:
        """Each test fold's ranked configurations, best first."""
        return _by_fold(self._portfolio_rows)

    @cached_property
    def _members(self) -> dict[int, tuple[ForecastConfig, ...]]:
        """Each test fold's portfolio, best first."""
        return _by_fold(self._portfolio_rows.filter("member"))

    @cached_property
    def _portfolio_rows(self) -> pl.DataFrame:
        return self.tables.read("config_portfolio").sort("fold", "rank")

    def ranked_configs(self, fold: int) -> tuple[ForecastConfig, ...]:
        """Return up to `ranked_size` configurations chosen on the tuning tenants of a test fold, in
        the order in which they were chosen.
        """
        return self._ranked[fold]

    @cached_property
    def configs(self) -> tuple[ForecastConfig, ...]:
        """The K configurations of the grid: every test fold's portfolio, in the order of the
        candidates, and then those for histories too short for any candidate.
        """
        chosen = {config for members in self._members.values() for config in members}
        listed = candidates(self.settings.search)
        further = sorted(chosen.difference(listed), key=lambda config: config.context_len)
        return (*(config for config in listed if config in chosen), *further)

    def portfolio_mask(self, fold: int) -> NDArray[np.bool_]:
        """Return which of the K configurations are in the portfolio of a test fold, bool [K]."""
        return np.array([config in self._members[fold] for config in self.configs], dtype=bool)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        return validation_offsets(self.settings.search, self.spec.horizon, self.grid.first_season)

    @cached_property
    def manifest(self) -> pl.DataFrame:
        return self.tables.read("tenant_manifest").sort("tenant_number")

    @cached_property
    def arrays(self) -> FleetArrays:
        """The fleet's tables as arrays."""
        return FleetArrays(self.tables, self.spec, self.grid, self.settings.shard_tenants)

    @cached_property
    def shards(self) -> list[list[int]]:
        """Numbers of all tenants per shard of the telemetry."""
        n_tenants = int(self.tables.record("tenant_telemetry")["n_tenants"])
        size = self.settings.shard_tenants
        return [
            list(range(first, min(first + size, n_tenants))) for first in range(0, n_tenants, size)
        ]

    @cached_property
    def tenant_ids(self) -> NDArray[np.str_]:
        """The name of each tenant [N]."""
        return np.array(self.manifest["tenant_id"].to_list(), dtype=np.str_)

    @cached_property
    def archetypes(self) -> NDArray[np.str_]:
        """The archetype of each tenant [N], "" where unknown."""
        return np.array(self.manifest["archetype"].fill_null("").to_list(), dtype=np.str_)

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """The fold of each tenant [N]; see `evaluation.requests`."""
        return self.manifest["fold"].to_numpy().astype(np.int64)

    @cached_property
    def cohort_shards(self) -> list[list[int]]:
        """Tenant numbers of the cohort, shard by shard of the telemetry; without shards that hold
        none. A shard of a cohort's table therefore reads one part of the telemetry.
        """
        return list(self._cohort_by_shard.values())

    @cached_property
    def _cohort_by_shard(self) -> dict[int, list[int]]:
        # The telemetry is asked for first, because it is what a new fleet lacks first.
        shards, inside = self.shards, self.folds != OUTSIDE
        members = {n: [t for t in shard if inside[t]] for n, shard in enumerate(shards)}
        return {number: tenants for number, tenants in members.items() if tenants}

    @property
    def cohort(self) -> tuple[int, int] | None:
        """The number of tenants in the cohort and in the fleet; None where all are in the
        cohort.
        """
        if self.settings.evaluation.cohort_tenants is None:
            return None
        n_cohort = int((self.folds != OUTSIDE).sum())
        return None if n_cohort == len(self.folds) else (n_cohort, len(self.folds))

    def shards_of(
        self, tenants: NDArray[np.int64]
    ) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
        """Yield each shard of the cohort that holds any of the tenant numbers [N], which are in the
        cohort, with the numbers that it holds, ascending.
        """
        ordered = np.unique(tenants)
        numbers = ordered // self.settings.shard_tenants
        for number in np.unique(numbers).tolist():
            yield self._cohort_by_shard[number], ordered[numbers == number]

    @property
    def published_dir(self) -> Path:
        """The folder of what a run publishes for the online service (`evaluation.served`)."""
        return self.settings.output_dir / "serving" / self.name

    @property
    def reports_dir(self) -> Path:
        """The folder of the fleet's reports (`reports.shared.files` writes and reads them)."""
        return self.settings.reports_dir / self.name
