"""Define the code location of the study of slow thinking.

What belongs here: the study's tables as assets and its report. What does not: the work itself,
which is in the other modules of this package.

    dagster asset materialize -m tsfm_pipeline.studies.time_r1.definitions \\
        --select '*' --partition etth1

The location is separate from the fleets' graph so that materialising `*` there trains nothing.
"""

from typing import Any

import dagster as dg

from tsfm_pipeline.defs.code_references import with_references_to_bodies
from tsfm_pipeline.defs.materialise import OWNERS, holding, table_asset
from tsfm_pipeline.defs.partitions import partitions_of
from tsfm_pipeline.defs.progress import ANSWER
from tsfm_pipeline.defs.report import shown_png
from tsfm_pipeline.defs.resources import Workspace, resources
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.scope import SCOPE
from tsfm_pipeline.studies.time_r1.tables import EVALUATED, MAKERS, RECIPE, REPORTS, TABLES

REPORT = "slow_thinking_report"


def _report_asset(partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        name=REPORT,
        partitions_def=partitions,
        group_name=REPORTS,
        owners=OWNERS,
        deps=[*TABLES],
        kinds={"json", "matplotlib", "html"},
        code_version="1",
    )
    def slow_thinking_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """Does a language model improve a forecast by thinking about it?"""
        from tsfm_pipeline.reports.shared.style import to_png
        from tsfm_pipeline.studies.time_r1.operations import report_of
        from tsfm_pipeline.studies.time_r1.report import words
        from tsfm_pipeline.studies.time_r1.report.page import FIGURES

        experiment = SCOPE.open(workspace.settings, context.partition_key, context.run_id)
        with holding(context, RECIPE, experiment):
            report, page = report_of(experiment)
        metadata: dict[str, Any] = {
            ANSWER: words.verdict_answer(report).sentence,
            "path": dg.MetadataValue.path(str(page)),
        }
        for draw in FIGURES:
            png = to_png(draw(report), dpi=80)
            metadata[draw.__name__] = shown_png(draw.__name__, png)
        return dg.MaterializeResult(
            metadata=metadata, data_version=dg.DataVersion(experiment.tables.expected[EVALUATED])
        )

    return slow_thinking_report


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return the study's assets over the recipes that `settings` points at, with their job and
    resources.
    """
    partitions = partitions_of(SCOPE, settings)
    tables = [table_asset(SCOPE, table, MAKERS[name], partitions) for name, table in TABLES.items()]
    report = with_references_to_bodies([_report_asset(partitions)])
    job = dg.define_asset_job(
        "slow_thinking",
        dg.AssetSelection.all(),
        description="Everything about one recipe, from data sets to the report.",
        tags={"purpose": "time_r1"},
    )
    return dg.Definitions(
        assets=[*tables, *report],
        jobs=[job],
        resources=resources(settings),
        executor=dg.in_process_executor,
    )


defs = build_definitions(Settings())
