"""The scope of fleets.

What belongs here: the facts about fleets that assets and checks of any scope need. What does not:
the fleet itself (`fleet`), the records of its tables (`tables`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tsfm_pipeline.archetypes.features import feature_names
from tsfm_pipeline.catalogue.fleet import NO_RUN, Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.parameters import FLEET
from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.fleets.spec import load_specs
from tsfm_pipeline.settings import Settings

OF_EVERY_TENANT = frozenset({"tenant_telemetry", "tenant_features", "recommendations"})
"""The sharded tables that hold every tenant; the others hold the cohort (`evaluation.cohort`)."""


class FleetScope:
    """Fleets, one for each YAML file; implements `catalogue.scopes.Scope`."""

    name = FLEET
    opener = "tsfm_pipeline.catalogue.fleet:open_workspace_fleet"

    def partitions(self, settings: Settings) -> Sequence[str]:
        """Return the names of the fleets whose files can be read; the others are named in the log.
        A new file appears once the code location is reloaded.
        """
        return list(load_specs(*settings.known_specs_dirs))

    def open(self, settings: Settings, name: str, run_id: str = NO_RUN) -> Fleet:
        """Open a fleet. Raises ValueError, with the known names, if there is none of that name."""
        return open_workspace_fleet(settings, name, run_id)

    def dimension(self, fleet: Fleet, name: str) -> Sequence[Any]:
        """Return the entries of a dimension: tier, metric, feature, H (steps of the horizon) or K
        (configurations).

        The configurations can be read only once `config_portfolio` is made.
        """
        entries = {
            "tier": lambda: tuple(fleet.protocol.tiers),
            "metric": lambda: fleet.grid.metrics,
            "feature": lambda: feature_names(fleet.grid.metrics),
            "H": lambda: range(fleet.spec.horizon),
            "K": lambda: fleet.configs,
        }
        return entries[name]()

    def shards(self, fleet: Fleet, table: Table) -> Sequence[Sequence[int]]:
        """Return the tenant numbers of each shard: those of the cohort, or all of them for the
        tables of every tenant. They follow the stored telemetry, or the telemetry's source for the
        table that has no inputs.
        """
        if not table.inputs:
            return fleet.source.shards(fleet.settings.shard_tenants)
        return fleet.shards if table.name in OF_EVERY_TENANT else fleet.cohort_shards

    def provenance(self, fleet: Fleet) -> Mapping[str, Any]:
        """Return the digest of the checkpoint under which the fleet's tables were made."""
        return {"checkpoint_sha256": fleet.context.checkpoint_digest}


FLEETS = FleetScope()
