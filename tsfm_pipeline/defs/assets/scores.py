"""Group `scores`: every method on every test request, and the figures that follow."""

import dagster as dg

from tsfm_pipeline.defs.materialise import materialise, table_asset
from tsfm_pipeline.defs.resources import Workspace


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of this group over the given fleets."""

    @table_asset(partitions, "irreducible_losses", kinds={"scipy"})
    def irreducible_losses(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What would a forecaster still lose who knew the generator and its state? Rows for synthetic fleets only."""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "irreducible_losses", shards=lambda: fleet.shards)

    @table_asset(partitions, "scored_forecasts")
    def scored_forecasts(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What did every method's decision cost, at every test request and tier?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "scored_forecasts", shards=lambda: fleet.shards)

    @table_asset(partitions, "forecast_quality")
    def forecast_quality(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """How good are whole forecasts, apart from what a decision costs: CRPS, WQL, MASE and coverage of every method's deciles?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "forecast_quality", shards=lambda: fleet.shards)

    @table_asset(partitions, "headline_scores", kinds={"duckdb"})
    def headline_scores(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """How does every method compare with the best fixed configuration, with which confidence, and for whom?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "headline_scores")

    return [irreducible_losses, scored_forecasts, forecast_quality, headline_scores]
