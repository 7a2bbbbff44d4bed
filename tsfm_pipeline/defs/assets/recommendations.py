"""Group `recommendations`: what to reserve for the next block, what that cost in the backtest, and what became of it.

What belongs here: one asset per table or report, its resources and what it shows. What does not: how it is made (`steps`), how it is drawn
and worded (`reports`).
"""

from functools import partial

import dagster as dg

from tsfm_pipeline.defs.materialise import HEAVY, materialise, table_asset
from tsfm_pipeline.defs.report import asset_of_a_report, report_result
from tsfm_pipeline.defs.resources import ForecasterResource, Workspace

GROUP = "recommendations"
REPORT, REVIEW = "recommendation_report", "recommendation_review"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of this group over the given fleets."""
    report_asset = partial(asset_of_a_report, partitions, GROUP)

    @table_asset(partitions, "block_calibration")
    def block_calibration(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """How often was one constant per block exceeded before any test period, and how far beyond it does a block's maximum lie?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "block_calibration")

    @table_asset(partitions, "recommendation_scores")
    def recommendation_scores(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What would one constant per block have cost at every test request, by the search and by what people use instead?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "recommendation_scores", shards=lambda: fleet.shards)

    @table_asset(partitions, "recommendations", kinds={"torch", "csv", "json"}, op_tags=HEAVY)
    def recommendations(context: dg.AssetExecutionContext, workspace: Workspace, forecaster: ForecasterResource) -> dg.MaterializeResult:
        """How much should every tenant reserve for its next block, per metric and tier, and on which evidence?"""
        from tsfm_pipeline.reports.recommendations.publication import publish

        fleet = workspace.fleet(context.partition_key)
        forecaster.load()  # here, so that a checkpoint that cannot be used is a failure without retry
        return materialise(
            context,
            fleet,
            "recommendations",
            shards=lambda: fleet.shards,
            metadata=lambda: publish(fleet),
        )

    # Heavy only so that they never run beside the latency measurement.
    @report_asset(REPORT, ("recommendation_scores", "recommendations"), op_tags=HEAVY)
    def recommendation_report(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What do the recommended constants cost beside their rivals', do they hold as often as promised, and what is that in money?"""
        from tsfm_pipeline.reports.recommendations.figures import recommendation_figure
        from tsfm_pipeline.reports.recommendations.numbers import recommendation_report as compute

        return report_result(context, workspace, REPORT, compute, (recommendation_figure,))

    @report_asset(REVIEW, ("recommendations", "tenant_telemetry"), kinds={"parquet"}, op_tags=HEAVY)
    def recommendation_review(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What became of earlier recommendations, and which tenants have another configuration or archetype than at the last run?"""
        from tsfm_pipeline.reports.recommendations.review import recommendation_review as compute

        return report_result(context, workspace, REVIEW, compute, ())

    return [block_calibration, recommendation_scores, recommendations, recommendation_report, recommendation_review]
