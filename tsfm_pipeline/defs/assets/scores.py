"""Group `scores`: every method on every test request, and the figures that follow."""

from functools import partial

import dagster as dg

from tsfm_pipeline.defs.materialise import MaterializeConfig, materialise, table_asset
from tsfm_pipeline.defs.resources import Workspace


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:  # type: ignore[type-arg]
    """The assets of this group over the given fleets."""

    @table_asset(partitions, "irreducible_losses", kinds={"scipy"})
    def irreducible_losses(context: dg.AssetExecutionContext, workspace: Workspace, config: MaterializeConfig) -> dg.MaterializeResult:
        """What would a forecaster still lose who knew the generator and its state? Rows for synthetic fleets only."""
        from tsfm_pipeline.stages import irreducible as stages

        fleet = workspace.fleet(context.partition_key)
        make = partial(stages.irreducible_losses_shard, fleet)
        return materialise(context, fleet, "irreducible_losses", make, shards=lambda: fleet.shards, config=config)

    @table_asset(partitions, "scored_forecasts")
    def scored_forecasts(context: dg.AssetExecutionContext, workspace: Workspace, config: MaterializeConfig) -> dg.MaterializeResult:
        """What did every method's decision cost, at every test request and tier?"""
        from tsfm_pipeline.stages import scores as stages

        fleet = workspace.fleet(context.partition_key)
        make = partial(stages.scored_forecasts_shard, fleet)
        return materialise(context, fleet, "scored_forecasts", make, shards=lambda: fleet.shards, config=config)

    @table_asset(partitions, "headline_scores", kinds={"duckdb"})
    def headline_scores(context: dg.AssetExecutionContext, workspace: Workspace, config: MaterializeConfig) -> dg.MaterializeResult:
        """How does every method compare with the best fixed configuration, with which confidence, and for whom?"""
        from tsfm_pipeline.stages import headline as stages

        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "headline_scores", lambda: stages.headline_scores(fleet), config=config)

    return [irreducible_losses, scored_forecasts, headline_scores]
