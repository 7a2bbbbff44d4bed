"""The study's scope: fleets as experiments see them, whatever policy was adopted since.

What belongs here: opening a fleet for the study under the default search, which tenants, requests,
candidates and validation origins its tables hold, and the fleet's own tables that come before. What
does not: the records of the study's tables (`tables`), making them (`making`, `prepare`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.archetypes.features import retrieval_feature_names
from tsfm_pipeline.autoresearch.fitting import draw_for_requests
from tsfm_pipeline.autoresearch.space import candidates
from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import NO_RUN, Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.parameters import FingerprintContext
from tsfm_pipeline.catalogue.registry import Table, expected_fingerprints
from tsfm_pipeline.catalogue.scopes import open_tables
from tsfm_pipeline.catalogue.tables import TABLES as FLEET_TABLES
from tsfm_pipeline.fleets.spec import fleet_files
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.lake import FleetLake
from tsfm_pipeline.settings import SearchSettings, Settings
from tsfm_pipeline.steps.evidence import tunes
from tsfm_pipeline.steps.makers import MAKERS as FLEET_MAKERS
from tsfm_pipeline.steps.making import make
from tsfm_pipeline.steps.portfolio import last_resort_of
from tsfm_pipeline.store import FolderStore, Store
from tsfm_pipeline.studies.policy_search.tables import (
    FOLDER,
    MOST_REQUESTS,
    POLICY_SEARCH,
    TABLES,
    widest_offsets,
)

SHARED = ("tenant_telemetry", "tenant_manifest")
"""Tables of the fleet that the study's are made from, and that no setting of the search changes."""
COPIED = ("forecast_requests", "request_targets")
"""Tables of the fleet that depend on the search. The study has copies of its own, made under the
default search, so that an adopted policy makes neither the fleet's nor the study's stale."""
SERIES_PER_SHARD = 48
"""Series whose forecasts are in memory at the same time: enough to fill the model's batches, and
few enough that an interrupted preparation repeats little."""


@dataclass(frozen=True)
class StudyContext:
    """What parameters of the study's tables may read: the fleet's context under the default search,
    and the fingerprints of the fleet's own tables.
    """

    fleet: FingerprintContext
    fleet_tables: Mapping[str, str]

    @property
    def source_fingerprint(self) -> str:
        """The fingerprint of the telemetry."""
        return self.fleet.source_fingerprint


class _Tables(FleetLake):
    """A fleet's tables under the default search: `COPIED` ones lie in the study's folder."""

    def __init__(self, of_fleet: FleetLake, own: Path) -> None:
        super().__init__(of_fleet.store, of_fleet.expected)
        self.own = FolderStore(own)

    def store_of(self, table: str) -> Store:
        """Return where a table lies."""
        return self.own if table in COPIED else super().store_of(table)


class _DefaultFleet(Fleet):
    """A fleet under the default search."""

    @cached_property
    def tables(self) -> FleetLake:
        folder = self.settings.lake_dir / FOLDER / self.name
        return _Tables(super().tables, folder)


class StudyFleet:
    """One fleet for the study; implements `catalogue.scopes.Member`.

    settings: the given ones with the default search, so that an adopted policy does not move the
    yardstick.
    """

    def __init__(self, settings: Settings, name: str, run_id: str = NO_RUN) -> None:
        self.settings = settings.model_copy(update={"search": SearchSettings()})
        self.name = name
        self.run_id = run_id

    @cached_property
    def fleet(self) -> Fleet:
        """The fleet itself. Raises ValueError, with the known names, if there is none."""
        spec = fleet_files(*self.settings.known_specs_dirs).spec(self.name)
        return _DefaultFleet(self.settings, spec, self.run_id)

    @cached_property
    def context(self) -> StudyContext:
        return StudyContext(
            self.fleet.context, expected_fingerprints(FLEET_TABLES, self.fleet.context)
        )

    @cached_property
    def tables(self) -> FleetLake:
        return open_tables(self.settings, POLICY_SEARCH, self.name, TABLES, self.context)

    def prepare(self, log: Callable[[str], Any]) -> None:
        """Make the tables of the fleet that come before and are missing or stale, if a table of the
        study is: `SHARED` under the fleet's lock, `COPIED` under the study's.
        """
        self.fleet.prepare(log)
        if all(self.tables.state(name) == "current" for name in TABLES):
            return
        for written, names in ((self.fleet.tables, SHARED), (self.tables, COPIED)):
            if any(self.fleet.tables.state(name) != "current" for name in names):
                with written.lock(self.run_id):
                    for name in names:
                        table, maker = FLEET_TABLES[name], FLEET_MAKERS[name]
                        make(FLEETS, self.fleet, table, maker, self.settings, log=log)

    @cached_property
    def tenants(self) -> NDArray[np.int64]:
        """The numbers of the tuning tenants [N], ascending: all, or a seeded draw of as many as
        have `MOST_REQUESTS` requests.
        """
        per_tenant, seed = self.fleet.spec.origins_per_tenant, (self.settings.evaluation.seed,)
        return draw_for_requests(np.flatnonzero(tunes(self.fleet)), MOST_REQUESTS, per_tenant, seed)

    @cached_property
    def requests(self) -> Requests:
        """The tuning requests of these tenants."""
        return self.fleet.arrays.requests("tuning", only=self.tenants.tolist())

    @cached_property
    def candidates(self) -> tuple[ForecastConfig, ...]:
        """The C candidates: those of the default search, and the last resort of histories that are
        too short for most of them.
        """
        listed, last_resort = candidates(self.settings.search), last_resort_of(self.fleet)
        return listed if last_resort in listed else (*listed, last_resort)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The J validation origins, in steps before a request, ascending."""
        return widest_offsets(self.fleet.spec.horizon, self.fleet.grid.first_season)


class PolicyScope:
    """Fleets as the study sees them; implements `catalogue.scopes.Scope`."""

    name = POLICY_SEARCH
    opener = f"{__name__}:StudyFleet"

    def partitions(self, settings: Settings) -> Sequence[str]:
        """Return the names of the fleets."""
        return FLEETS.partitions(settings)

    def open(self, settings: Settings, name: str, run_id: str = NO_RUN) -> StudyFleet:
        """Open a fleet for the study. Raises ValueError, with the known names, when it is first
        used if there is none of that name.
        """
        return StudyFleet(settings, name, run_id)

    def dimension(self, study: StudyFleet, name: str) -> Sequence[Any]:
        """Return the entries of a dimension: tier, H (steps of the horizon), J (validation origins)
        or F (features).
        """
        entries: dict[str, Callable[[], Sequence[Any]]] = {
            "tier": lambda: tuple(study.fleet.protocol.tiers),
            "H": lambda: range(study.fleet.spec.horizon),
            "J": lambda: study.offsets,
            "F": lambda: retrieval_feature_names(study.fleet.grid.metrics),
        }
        return entries[name]()

    def shards(self, study: StudyFleet, table: Table) -> Sequence[Sequence[int]]:
        """Return the tenant numbers of each shard."""
        n_metrics = len(study.fleet.grid.metrics)
        size = min(study.settings.shard_tenants, max(1, SERIES_PER_SHARD // n_metrics))
        tenants = study.tenants.tolist()
        return [tenants[first : first + size] for first in range(0, len(tenants), size)]

    def provenance(self, study: StudyFleet) -> Mapping[str, Any]:
        """Return the checkpoint's digest, what the axes of the tables are, and how many of the
        fleet's tuning tenants were drawn.
        """
        fleet = study.fleet
        return {
            **FLEETS.provenance(fleet),
            "metrics": list(fleet.grid.metrics),
            "horizon": fleet.spec.horizon,
            "season": fleet.grid.first_season,
            "candidates": [config.name for config in study.candidates],
            "offsets": list(study.offsets),
            "n_tuning_tenants": int(tunes(fleet).sum()),
            "n_tenants": len(study.tenants),
            "n_requests": int(study.requests.ids.size),
            "most_requests": MOST_REQUESTS,
        }


SCOPE = PolicyScope()
