"""Group `archetypes`: features of tenants and the index over the tuning tenants."""

import dagster as dg

from tsfm_pipeline.defs.materialise import HEAVY, materialise, table_asset
from tsfm_pipeline.defs.resources import Workspace


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of this group over the given fleets."""

    @table_asset(partitions, "tenant_features")
    def tenant_features(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What does each tenant's telemetry look like, in seven numbers per metric from before any test period?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "tenant_features")

    @table_asset(partitions, "archetype_index", kinds={"faiss"}, op_tags=HEAVY)
    def archetype_index(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """Which tuning tenants resemble a tenant, given its full history, its last week, or its first minutes?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "archetype_index")

    @table_asset(partitions, "archetype_retrieval", kinds={"faiss"})
    def archetype_retrieval(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """How often does retrieval name a held-out tenant's true archetype, from full history and from 30 to 480 minutes?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "archetype_retrieval")

    return [tenant_features, archetype_index, archetype_retrieval]
