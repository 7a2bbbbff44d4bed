"""Group `reports`: the answers as JSON, markdown and figures, the ledger, and the one HTML file.

What belongs here: which report needs which tables, and its metadata. What does not: making its
tables (`steps`), computing and drawing it (`reports`).
"""

from functools import partial
from typing import Any

import dagster as dg

from tsfm_pipeline.catalogue.parameters import FLEET
from tsfm_pipeline.defs.checks import criteria_results, criteria_specs, plain_row
from tsfm_pipeline.defs.materialise import ALONE, HEAVY, holding
from tsfm_pipeline.defs.report import asset_of_a_report, numbers, report_result
from tsfm_pipeline.defs.resources import ForecasterResource, Workspace
from tsfm_pipeline.files import write_text_atomically
from tsfm_pipeline.reports.shared.files import read_report

GROUP = "reports"
LATENCY_REPORT = "latency_report"
QUALITY_REPORT = "forecast_quality_report"
RECOMMENDED = ("recommendation_report", "recommendation_review")
SERVED = "interval_evaluation"
ALL_BUT_LATENCY = ("headline_report", "ablation_report", "cold_start_report", "sla_report")


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the assets of this group over the given fleets."""

    report_asset = partial(asset_of_a_report, partitions, GROUP)

    @report_asset(
        "headline_report",
        ("headline_scores", "scored_forecasts", "search_policy", "forecast_requests"),
    )
    def headline_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """Does choosing the configuration per request cost less than the best single one, by how
        much, and how sure is that?
        """
        from tsfm_pipeline.reports.headline.figures import archetype_figure, headline_figure
        from tsfm_pipeline.reports.headline.numbers import headline_report as compute

        return report_result(
            context, workspace, "headline_report", compute, (headline_figure, archetype_figure)
        )

    @report_asset(
        "ablation_report",
        ("headline_scores", "scored_forecasts", "irreducible_losses", "search_policy"),
        op_tags=HEAVY,
    )
    def ablation_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """What does each part of the search add, which rivals does it not beat, who is worse off,
        and how near is perfect?
        """
        from tsfm_pipeline.reports.ablation import figures
        from tsfm_pipeline.reports.ablation.numbers import ablation_report as compute

        drawn = (
            figures.steps_figure,
            figures.rivals_figure,
            figures.groups_figure,
            figures.selection_figure,
        )
        return report_result(
            context,
            workspace,
            "ablation_report",
            compute,
            (*drawn, figures.controls_figure, figures.floor_figure),
        )

    @report_asset(
        "cold_start_report", ("cold_start_losses", "archetype_retrieval", "forecast_requests")
    )
    def cold_start_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """What may a tenant with half an hour to eight hours of history expect, and does others'
        experience help?
        """
        from tsfm_pipeline.reports.cold_start.figures import cold_start_figure
        from tsfm_pipeline.reports.cold_start.numbers import cold_start_report as compute

        return report_result(context, workspace, "cold_start_report", compute, (cold_start_figure,))

    @report_asset("sla_report", ("scored_forecasts", "autoresearch_forecasts"))
    def sla_report(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """Do the SLA tiers really get different forecasts, and is each the right one under its own
        alpha?
        """
        from tsfm_pipeline.reports.sla.figures import sla_figure
        from tsfm_pipeline.reports.sla.numbers import sla_report as compute

        return report_result(context, workspace, "sla_report", compute, (sla_figure,))

    @report_asset(QUALITY_REPORT, ("forecast_quality",), kinds={"duckdb", "csv"})
    def forecast_quality_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """How do WQL, MASE and coverage of every method compare with seasonal naive? Also writes
        fev's summary, `fev_summary.csv`.
        """
        from tsfm_pipeline.reports.quality.figures import quality_figure
        from tsfm_pipeline.reports.quality.numbers import forecast_quality_report as compute

        return report_result(context, workspace, QUALITY_REPORT, compute, (quality_figure,))

    @report_asset(
        LATENCY_REPORT,
        ("search_bundle", *ALL_BUT_LATENCY, QUALITY_REPORT),
        kinds={"torch"},
        op_tags=ALONE,
    )
    def latency_report(
        context: dg.AssetExecutionContext, workspace: Workspace, forecaster: ForecasterResource
    ) -> dg.MaterializeResult:
        """How long does one request take, stage by stage, and how many configurations fit into 200
        ms?

        Depends on the other reports only so that it runs last and alone: what shares its cores
        would be in its figures.
        """
        from tsfm_pipeline.reports.latency.figures import latency_figure
        from tsfm_pipeline.reports.latency.numbers import latency_report as compute

        model = forecaster.load()
        return report_result(
            context,
            workspace,
            LATENCY_REPORT,
            lambda fleet: compute(fleet, model),
            (latency_figure,),
        )

    @report_asset(
        "acceptance_criteria", (*ALL_BUT_LATENCY, LATENCY_REPORT), check_specs=criteria_specs()
    )
    def acceptance_criteria(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """Which of the criteria C1 to C10 are met on this fleet, with which figure and interval?"""
        from tsfm_pipeline.reports.acceptance.figures import criteria_figure
        from tsfm_pipeline.reports.acceptance.numbers import acceptance_criteria as compute

        return report_result(
            context,
            workspace,
            "acceptance_criteria",
            compute,
            (criteria_figure,),
            checks=lambda report: criteria_results(report.table_criteria),
            more=lambda report: {
                "criteria": dg.MetadataValue.json([plain_row(row) for row in report.table_criteria])
            },
        )

    @report_asset("experiment_ledger", ("acceptance_criteria", "search_policy"), kinds={"parquet"})
    def experiment_ledger(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """What was measured when, with which code, settings and checkpoint? One row per
        materialisation, never rewritten.
        """
        from tsfm_pipeline.reports.acceptance.figures import ledger_figure
        from tsfm_pipeline.reports.acceptance.ledger import ledger_report as compute

        return report_result(
            context,
            workspace,
            "experiment_ledger",
            compute,
            (ledger_figure,),
        )

    @report_asset(
        "fleet_report",
        ("acceptance_criteria", "experiment_ledger", *RECOMMENDED, SERVED),
        kinds={"html"},
    )
    def fleet_report(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """The whole answer for one fleet in one self-contained HTML file."""
        from tsfm_pipeline.reports.explain.numbers import most_expensive_misses
        from tsfm_pipeline.reports.models import model_of
        from tsfm_pipeline.reports.page import story
        from tsfm_pipeline.reports.page.html import render_fleet_report
        from tsfm_pipeline.reports.page.plugin_sections import plugin_reports

        fleet = workspace.fleet(context.partition_key)
        names = (
            *ALL_BUT_LATENCY,
            QUALITY_REPORT,
            LATENCY_REPORT,
            "acceptance_criteria",
            "experiment_ledger",
            *RECOMMENDED,
            SERVED,
        )
        with holding(context, FLEET, fleet):
            html = render_fleet_report(
                reports={name: model_of(name, read_report(fleet, name)) for name in names}
                | plugin_reports(fleet),
                gallery=story.gallery(fleet),
                provenance=story.provenance(fleet),
                data_quality=story.data_quality(fleet),
                explanations=most_expensive_misses(fleet),
            )
            path = fleet.reports_dir / "report.html"
            write_text_atomically(path, html)
            figures = story.headline_figures(fleet)
        shown: dict[str, Any] = {
            "report": dg.MetadataValue.path(str(path)),
            "size_kib": round(path.stat().st_size / 1024, 1),
        }
        return dg.MaterializeResult(
            metadata={**shown, "profile": fleet.settings.profile, **numbers(figures)}
        )

    return [
        headline_report,
        ablation_report,
        cold_start_report,
        sla_report,
        forecast_quality_report,
        latency_report,
        acceptance_criteria,
        experiment_ledger,
        fleet_report,
    ]
