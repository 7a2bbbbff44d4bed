"""Group `recommendations`: the reports on what to reserve for the next block.

What belongs here: one asset per report and its metadata. What does not: the group's tables
(`tables`); how a report is computed, drawn and worded (`reports`).
"""

from functools import partial

import dagster as dg

from tsfm_pipeline.defs.materialise import HEAVY
from tsfm_pipeline.defs.report import asset_of_a_report, report_result
from tsfm_pipeline.defs.resources import Workspace

GROUP = "recommendations"
REPORT, REVIEW = "recommendation_report", "recommendation_review"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the assets of this group over the given fleets."""
    report_asset = partial(asset_of_a_report, partitions, GROUP)

    # Heavy only so that they never run beside the latency measurement.
    @report_asset(REPORT, ("recommendation_scores", "recommendations"), op_tags=HEAVY)
    def recommendation_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """What do the recommended constants cost beside their rivals', do they hold as often as
        promised, and what is that in money?
        """
        from tsfm_pipeline.reports.recommendations.figures import recommendation_figure
        from tsfm_pipeline.reports.recommendations.numbers import recommendation_report as compute

        return report_result(context, workspace, REPORT, compute, (recommendation_figure,))

    @report_asset(REVIEW, ("recommendations", "tenant_telemetry"), kinds={"parquet"}, op_tags=HEAVY)
    def recommendation_review(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """What became of earlier recommendations, and which tenants have another configuration or
        archetype than at the last run?
        """
        from tsfm_pipeline.reports.recommendations.review import recommendation_review as compute

        return report_result(context, workspace, REVIEW, compute, ())

    return [recommendation_report, recommendation_review]
