"""Group `serving`: the report on the online service.

What belongs here: the asset of the report, its checks and its metadata. What does not: the group's
tables (`tables`); how the report is computed, drawn and worded (`reports.served`).
"""

import dagster as dg

from tsfm_pipeline.defs.checks import interval_results, interval_specs
from tsfm_pipeline.defs.materialise import HEAVY
from tsfm_pipeline.defs.report import asset_of_a_report, report_result
from tsfm_pipeline.defs.resources import Workspace

GROUP = "serving"
REPORT = "interval_evaluation"


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the assets of this group over the given fleets."""

    # Heavy only so that it never runs beside the latency measurement.
    @asset_of_a_report(
        partitions,
        GROUP,
        REPORT,
        ("conformal_calibration", "rollout_decision", "baseline_forecasts"),
        check_specs=interval_specs(),
        op_tags=HEAVY,
    )
    def interval_evaluation(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """What did the online service answer, and do its intervals hold what they promise on later
        days and for other tenants?
        """
        from tsfm_pipeline.reports.served.figures import intervals_figure
        from tsfm_pipeline.reports.served.numbers import interval_evaluation as compute
        from tsfm_pipeline.reports.served.numbers import publish_coverage

        return report_result(
            context,
            workspace,
            REPORT,
            compute,
            (intervals_figure,),
            checks=interval_results,
            publish=publish_coverage,
        )

    return [interval_evaluation]
