"""Define the fourth code location: the study of market direction.

What belongs here: the study's tables as assets and its report with the checks. What does not: the
work itself, which is in the other modules of this package.

    dagster asset materialize -m tsfm_pipeline.studies.direction.definitions \\
        --select '*' --partition sp500

The location is separate from the fleets' graph so that materialising `*` there trains nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from tsfm_pipeline.defs.materialise import OWNERS, holding
from tsfm_pipeline.defs.partitions import partitions_of
from tsfm_pipeline.defs.resources import Workspace
from tsfm_pipeline.defs.study import report_metadata, study_definitions
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.direction.check_names import CHECKS
from tsfm_pipeline.studies.direction.scope import SCOPE
from tsfm_pipeline.studies.direction.tables import CHECKED, MAKERS, MARKET, REPORTS, TABLES

if TYPE_CHECKING:
    from tsfm_pipeline.studies.direction.report.model import CheckRow

REPORT = "direction_report"


def _report_asset(partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        name=REPORT,
        partitions_def=partitions,
        group_name=REPORTS,
        owners=OWNERS,
        deps=[*TABLES],
        check_specs=[
            dg.AssetCheckSpec(name, asset=REPORT, description=text) for name, text in CHECKS.items()
        ],
        kinds={"json", "matplotlib", "html"},
        code_version="1",
    )
    def direction_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """Does anything know where this market goes, or only how much it moves?"""
        from tsfm_pipeline.studies.direction.operations import report_of
        from tsfm_pipeline.studies.direction.report import words
        from tsfm_pipeline.studies.direction.report.figures import FIGURES
        from tsfm_pipeline.studies.direction.report.sections import summary

        market = SCOPE.open(workspace.settings, context.partition_key, context.run_id)
        with holding(context, MARKET, market):
            report, page = report_of(market)
        drawn = ((draw.__name__, draw(report)) for draw in FIGURES)
        answer = words.verdict_answer(report).sentence
        return dg.MaterializeResult(
            metadata=report_metadata(summary(report), answer, page, drawn),
            check_results=[_result(name, report.table_checks) for name in CHECKS],
            data_version=dg.DataVersion(market.tables.expected[CHECKED]),
        )

    return direction_report


def _result(name: str, rows: "Sequence[CheckRow]") -> dg.AssetCheckResult:
    """Return the result of one check over all that it looked at; a red one only warns."""
    checked = [row for row in rows if row.name == name]
    return dg.AssetCheckResult(
        check_name=name,
        passed=all(row.passed for row in checked),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "n_checked": len(checked),
            **{row.subject: row.sentence for row in checked if not row.passed},
        },
    )


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return the study's assets over the markets that `settings` points at, with their job and
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
        "market",
        "Everything about one market, from prices to the report.",
        "direction",
    )


defs = build_definitions(Settings())
