"""Group `scores`: every method on every test request, and the figures that follow."""

from functools import partial

import dagster as dg

from tsfm_pipeline.defs.materialise import materialise, table_asset
from tsfm_pipeline.defs.resources import Workspace


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of this group over the given fleets."""

    @table_asset(partitions, "irreducible_losses", kinds={"scipy"})
    def irreducible_losses(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What would a forecaster still lose who knew the generator and its state? Rows for synthetic fleets only."""
        from tsfm_pipeline.steps import irreducible as steps

        fleet = workspace.fleet(context.partition_key)
        make = partial(steps.irreducible_losses_shard, fleet)
        return materialise(context, fleet, "irreducible_losses", make, shards=lambda: fleet.shards)

    @table_asset(partitions, "scored_forecasts")
    def scored_forecasts(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What did every method's decision cost, at every test request and tier?"""
        from tsfm_pipeline.steps import scores as steps

        fleet = workspace.fleet(context.partition_key)
        make = partial(steps.scored_forecasts_shard, fleet)
        return materialise(context, fleet, "scored_forecasts", make, shards=lambda: fleet.shards)

    @table_asset(partitions, "forecast_quality")
    def forecast_quality(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """How good are whole forecasts, apart from what a decision costs: CRPS, WQL, MASE and coverage of every method's deciles?"""
        from tsfm_pipeline.steps import quality as steps

        fleet = workspace.fleet(context.partition_key)
        make = partial(steps.forecast_quality_shard, fleet)
        return materialise(context, fleet, "forecast_quality", make, shards=lambda: fleet.shards)

    @table_asset(partitions, "headline_scores", kinds={"duckdb"})
    def headline_scores(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """How does every method compare with the best fixed configuration, with which confidence, and for whom?"""
        from tsfm_pipeline.steps import headline as steps

        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "headline_scores", lambda: steps.headline_scores(fleet))

    return [irreducible_losses, scored_forecasts, forecast_quality, headline_scores]
