"""Group `reports`: the answers as JSON, markdown and figures, the ledger, and the one HTML file.

What belongs here: which report needs which tables, and how it is shown. What does not: computing it (`stages`), drawing it (`reporting`).
"""

import base64
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from tsfm_pipeline.defs.checks import criteria_results, criteria_specs
from tsfm_pipeline.defs.materialise import ALONE, HEAVY, OWNERS, RETRY, holding
from tsfm_pipeline.defs.resources import ForecasterResource, Workspace
from tsfm_pipeline.lake import write_atomically
from tsfm_pipeline.workspace import Fleet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUP = "reports"
LATENCY_REPORT = "latency_report"
ALL_BUT_LATENCY = ("headline_report", "ablation_report", "cold_start_report", "sla_report")


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:  # type: ignore[type-arg]
    """The assets of this group over the given fleets."""

    def report_asset(name: str, deps: tuple[str, ...], **kwargs: Any) -> Callable[..., dg.AssetsDefinition]:
        return dg.asset(
            name=name,
            partitions_def=partitions,
            group_name=GROUP,
            deps=list(deps),
            owners=OWNERS,
            retry_policy=RETRY,
            kinds={"json", "matplotlib", *kwargs.pop("kinds", set())},
            code_version=kwargs.pop("code_version", "1"),
            **kwargs,
        )

    @report_asset("headline_report", ("headline_scores", "scored_forecasts", "search_policy", "forecast_requests"))
    def headline_report(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """Does choosing the configuration per request cost less than the best single one, by how much, and how sure is that?"""
        from tsfm_pipeline.reporting.figures import archetype_figure, headline_figure
        from tsfm_pipeline.stages.headline import headline_report as compute

        return _report(context, workspace, "headline_report", compute, (headline_figure, archetype_figure))

    @report_asset("ablation_report", ("headline_scores", "scored_forecasts", "irreducible_losses", "search_policy"), op_tags=HEAVY)
    def ablation_report(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What does each part of the search add, which rivals does it not beat, who is worse off, and how near is perfect?"""
        from tsfm_pipeline.reporting import ablation_figures as figures
        from tsfm_pipeline.stages.ablation import ablation_report as compute

        drawn = (figures.steps_figure, figures.rivals_figure, figures.groups_figure, figures.selection_figure)
        return _report(context, workspace, "ablation_report", compute, (*drawn, figures.controls_figure, figures.floor_figure))

    @report_asset("cold_start_report", ("scored_forecasts", "archetype_retrieval"), kinds={"torch"}, op_tags=HEAVY)
    def cold_start_report(context: dg.AssetExecutionContext, workspace: Workspace, forecaster: ForecasterResource) -> dg.MaterializeResult:
        """What may a tenant with half an hour to eight hours of history expect, and does others' experience help?"""
        from tsfm_pipeline.reporting.figures import cold_start_figure
        from tsfm_pipeline.stages.cold_start import cold_start_report as compute

        model = forecaster.load()
        return _report(context, workspace, "cold_start_report", lambda fleet: compute(fleet, model), (cold_start_figure,))

    @report_asset("sla_report", ("scored_forecasts", "autoresearch_forecasts"))
    def sla_report(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """Do the SLA tiers really get different forecasts, and is each the right one under its own alpha?"""
        from tsfm_pipeline.reporting.figures import sla_figure
        from tsfm_pipeline.stages.tiers import sla_report as compute

        return _report(context, workspace, "sla_report", compute, (sla_figure,))

    @report_asset(LATENCY_REPORT, ("search_policy", *ALL_BUT_LATENCY), kinds={"torch"}, op_tags=ALONE)
    def latency_report(context: dg.AssetExecutionContext, workspace: Workspace, forecaster: ForecasterResource) -> dg.MaterializeResult:
        """How long does one request take, stage by stage, and how many configurations fit into 200 ms?

        Depends on the other reports only so that it runs last and alone: what shares its cores would be in its figures.
        """
        from tsfm_pipeline.reporting.latency import latency_figure
        from tsfm_pipeline.stages.latency import latency_report as compute

        model = forecaster.load()
        return _report(context, workspace, LATENCY_REPORT, lambda fleet: compute(fleet, model), (latency_figure,))

    @report_asset("acceptance_criteria", (*ALL_BUT_LATENCY, LATENCY_REPORT), check_specs=criteria_specs())
    def acceptance_criteria(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """Which of the criteria C1 to C10 are met on this fleet, with which figure and interval?"""
        from tsfm_pipeline.reporting.scoreboard import criteria_figure
        from tsfm_pipeline.stages.acceptance import acceptance_criteria as compute

        return _report(
            context,
            workspace,
            "acceptance_criteria",
            compute,
            (criteria_figure,),
            checks=lambda report: criteria_results(report["table_criteria"]),
        )

    @report_asset("experiment_ledger", ("acceptance_criteria", "search_policy"), kinds={"parquet"})
    def experiment_ledger(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What was measured when, with which code, settings and checkpoint? One row per materialisation, never rewritten."""
        from tsfm_pipeline.reporting.ledger import ledger_markdown
        from tsfm_pipeline.reporting.scoreboard import ledger_figure
        from tsfm_pipeline.stages.acceptance import ledger_report as compute

        return _report(
            context,
            workspace,
            "experiment_ledger",
            compute,
            (ledger_figure,),
            describe=lambda report: ledger_markdown(report["table_ledger"]),
        )

    @report_asset("fleet_report", ("acceptance_criteria", "experiment_ledger"), kinds={"html"})
    def fleet_report(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """The whole answer for one fleet in one self-contained HTML file."""
        from tsfm_pipeline.reporting.html import render_fleet_report
        from tsfm_pipeline.stages import story

        fleet = workspace.fleet(context.partition_key)
        names = (*ALL_BUT_LATENCY, LATENCY_REPORT, "acceptance_criteria")
        with holding(context, fleet):
            html = render_fleet_report(
                reports={name: fleet.read_report(name) for name in names},
                gallery=story.gallery(fleet),
                provenance=story.provenance(fleet),
                data_quality=story.data_quality(fleet),
            )
            path = fleet.reports_dir / "report.html"
            write_atomically(path, lambda p: p.write_text(html, encoding="utf-8"))
        return dg.MaterializeResult(metadata={"report": dg.MetadataValue.path(str(path)), "size_kib": round(path.stat().st_size / 1024, 1)})

    return [
        headline_report,
        ablation_report,
        cold_start_report,
        sla_report,
        latency_report,
        acceptance_criteria,
        experiment_ledger,
        fleet_report,
    ]


def _report(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    name: str,
    compute: Callable[[Fleet], dict[str, Any]],
    figures: tuple[Callable[[dict[str, Any]], "Figure"], ...],
    checks: Callable[[dict[str, Any]], list[dg.AssetCheckResult]] = lambda report: [],
    describe: Callable[[dict[str, Any]], str] | None = None,
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Compute a report, write its JSON and figures, and show figures, markdown and numbers as metadata."""
    from tsfm_pipeline.reporting.markdown import summary
    from tsfm_pipeline.reporting.style import to_png

    fleet = workspace.fleet(context.partition_key)
    with holding(context, fleet):
        path = fleet.write_report(name, compute(fleet))
        report = fleet.read_report(name)
        text = describe(report) if describe else summary(name, report)
        metadata: dict[str, Any] = {"summary": dg.MetadataValue.md(text), "path": dg.MetadataValue.path(str(path))}
        for draw in figures:
            name_of_figure, figure = draw.__name__, draw(report)
            write_atomically(fleet.reports_dir / f"{name_of_figure}.png", partial(to_png, figure))
            encoded = base64.b64encode(to_png(figure, dpi=80)).decode()
            metadata[name_of_figure] = dg.MetadataValue.md(f"![{name_of_figure}](data:image/png;base64,{encoded})")
    metadata |= {key: value for key, value in report.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    return dg.MaterializeResult(metadata=metadata, check_results=checks(report))
