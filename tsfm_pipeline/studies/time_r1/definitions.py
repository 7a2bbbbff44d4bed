"""Define the code location of the study of slow thinking.

What belongs here: the study's tables as assets and its report. What does not: the work itself,
which is in the other modules of this package.

    dagster asset materialize -m tsfm_pipeline.studies.time_r1.definitions \\
        --select '*' --partition etth1

The location is separate from the fleets' graph so that materialising `*` there trains nothing.
"""

from typing import TYPE_CHECKING

import dagster as dg

from tsfm_pipeline.defs.materialise import OWNERS, holding
from tsfm_pipeline.defs.partitions import partitions_of
from tsfm_pipeline.defs.resources import Workspace
from tsfm_pipeline.defs.study import report_metadata, study_definitions
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.scope import SCOPE
from tsfm_pipeline.studies.time_r1.tables import EVALUATED, MAKERS, RECIPE, REPORTS, TABLES

if TYPE_CHECKING:
    from tsfm_pipeline.studies.time_r1.report.model import SlowThinkingReport

REPORT = "slow_thinking_report"
AS_DESCRIBED = "data_as_described"
CHECKED = (
    "Every data set is as its description says, and neither its values nor its training windows "
    "differ from its file or telemetry."
)


def _report_asset(partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        name=REPORT,
        partitions_def=partitions,
        group_name=REPORTS,
        owners=OWNERS,
        deps=[*TABLES],
        kinds={"json", "matplotlib", "html"},
        code_version="2",
        check_specs=[dg.AssetCheckSpec(AS_DESCRIBED, asset=REPORT, description=CHECKED)],
    )
    def slow_thinking_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """Does a language model improve a forecast by thinking about it?"""
        from tsfm_pipeline.studies.time_r1.operations import finish
        from tsfm_pipeline.studies.time_r1.report import words
        from tsfm_pipeline.studies.time_r1.report.page import FIGURES
        from tsfm_pipeline.studies.time_r1.report.sections import summary

        experiment = SCOPE.open(workspace.settings, context.partition_key, context.run_id)
        with holding(context, RECIPE, experiment):
            report, page = finish(experiment)
        drawn = ((draw.__name__, draw(report)) for draw in FIGURES)
        answer = words.verdict_answer(report).sentence
        return dg.MaterializeResult(
            metadata=report_metadata(summary(report), answer, page, drawn),
            data_version=dg.DataVersion(experiment.tables.expected[EVALUATED]),
            check_results=[as_described(report)],
        )

    return slow_thinking_report


def as_described(report: "SlowThinkingReport") -> dg.AssetCheckResult:
    """Return the result of the check of the data sets; what it finds only warns."""
    problems = {row.name: list(row.problems) for row in report.table_data_sets if row.problems}
    return dg.AssetCheckResult(
        check_name=AS_DESCRIBED,
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"problems": dg.MetadataValue.json(problems)},
    )


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return the study's assets over the recipes that `settings` points at, with their job and
    resources.
    """
    partitions = partitions_of(SCOPE, settings)
    return study_definitions(
        settings,
        SCOPE,
        TABLES,
        MAKERS,
        partitions,
        _report_asset(partitions),
        "slow_thinking",
        "Everything about one recipe, from data sets to the report.",
        "time_r1",
    )


defs = build_definitions(Settings())
