"""Group `workloads`: the fleet's telemetry and its tenants."""

import dagster as dg

from tsfm_pipeline.defs.materialise import HEAVY, as_failure, materialise, table_asset
from tsfm_pipeline.defs.resources import Workspace
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.steps import workloads as steps


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of this group over the given fleets."""

    @table_asset(partitions, "tenant_telemetry", op_tags=HEAVY)
    def tenant_telemetry(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What did every tenant use, minute by minute? One row per tenant and step; null where nothing was observed."""
        fleet = workspace.fleet(context.partition_key)
        try:
            fetched = fleet.refresh(context.run_id, context.log.info)
            source = fleet.source
        except (StorageError, ValueError, OSError) as error:
            raise as_failure(error, fleet) from error
        return materialise(
            context,
            fleet,
            "tenant_telemetry",
            shards=lambda: source.shards(fleet.settings.shard_tenants),
            provenance=steps.telemetry_provenance(source),
            metadata=lambda: {**fetched, "notes": list(source.notes), "n_tenants": source.n_tenants, "n_steps": source.n_steps},
        )

    @table_asset(partitions, "tenant_manifest")
    def tenant_manifest(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """Who are the tenants, how complete is their telemetry, and who tunes and who is tested?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(
            context,
            fleet,
            "tenant_manifest",
            metadata=lambda: steps.describe_manifest(fleet),
        )

    return [tenant_telemetry, tenant_manifest]
