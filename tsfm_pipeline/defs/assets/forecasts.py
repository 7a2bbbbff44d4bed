"""Group `forecasts`: requests, the grid, the evidence, the priors, the policy and the search.

What belongs here: one asset per table, its resources and what it shows. What does not: how the table is made (`steps`).
"""

from typing import Any

import dagster as dg

from tsfm_pipeline.defs.materialise import HEAVY, materialise, table_asset
from tsfm_pipeline.defs.resources import ForecasterResource, Workspace


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of this group over the given fleets."""

    @table_asset(partitions, "forecast_requests")
    def forecast_requests(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """Which (tenant, origin) pairs are forecast, and which of them cannot be, and why?"""
        from tsfm_pipeline.steps import requests as steps

        fleet = workspace.fleet(context.partition_key)
        return materialise(
            context,
            fleet,
            "forecast_requests",
            metadata=lambda: steps.describe_requests(fleet),
        )

    @table_asset(partitions, "request_targets")
    def request_targets(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What happened after each request, and by what are its losses scaled?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "request_targets", shards=lambda: fleet.shards)

    @table_asset(partitions, "config_portfolio", kinds={"torch"}, op_tags=HEAVY)
    def config_portfolio(context: dg.AssetExecutionContext, workspace: Workspace, forecaster: ForecasterResource) -> dg.MaterializeResult:
        """Which few of the candidate configurations together serve the tuning tenants best?"""
        from tsfm_pipeline.steps import portfolio as steps
        from tsfm_pipeline.steps.forecasts import recorded_plan

        fleet, model = workspace.fleet(context.partition_key), forecaster.load()
        return materialise(
            context,
            fleet,
            "config_portfolio",
            provenance=recorded_plan(model),
            metadata=lambda: {"portfolio": dg.MetadataValue.json(steps.describe_portfolio(fleet))},
        )

    @table_asset(partitions, "forecast_grid", kinds={"torch"}, op_tags=HEAVY)
    def forecast_grid(context: dg.AssetExecutionContext, workspace: Workspace, forecaster: ForecasterResource) -> dg.MaterializeResult:
        """What would every configuration have forecast, at every request?"""
        from tsfm_pipeline.steps import forecasts as steps
        from tsfm_pipeline.steps.leakage import grid_leakage

        fleet, model = workspace.fleet(context.partition_key), forecaster.load()
        checks = {"leakage": lambda: grid_leakage(fleet, model)}
        plan = steps.recorded_plan(model)
        return materialise(context, fleet, "forecast_grid", shards=lambda: fleet.shards, provenance=plan, checks=checks)

    @table_asset(partitions, "validation_losses", kinds={"torch"}, op_tags=HEAVY)
    def validation_losses(context: dg.AssetExecutionContext, workspace: Workspace, forecaster: ForecasterResource) -> dg.MaterializeResult:
        """What would every configuration have cost at earlier origins of the same series?"""
        from tsfm_pipeline.reports.shared.files import write_report
        from tsfm_pipeline.steps import forecasts as steps
        from tsfm_pipeline.steps.agreement import rank_agreement
        from tsfm_pipeline.steps.leakage import validation_leakage

        fleet, model = workspace.fleet(context.partition_key), forecaster.load()
        checks = {"leakage": lambda: validation_leakage(fleet, model)}

        def agreement() -> dict[str, Any]:
            measured = rank_agreement(fleet, model)
            write_report(fleet, "rank_agreement", measured)
            return measured

        return materialise(
            context,
            fleet,
            "validation_losses",
            shards=lambda: fleet.shards,
            provenance=steps.recorded_plan(model),
            checks=checks,
            metadata=agreement,
        )

    @table_asset(partitions, "baseline_forecasts", kinds={"statsmodels"})
    def baseline_forecasts(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What do the baselines that need no model forecast at every test request?"""
        from tsfm_pipeline.steps.leakage import baseline_leakage

        fleet = workspace.fleet(context.partition_key)
        checks = {"leakage": lambda: baseline_leakage(fleet)}
        return materialise(context, fleet, "baseline_forecasts", shards=lambda: fleet.shards, checks=checks)

    @table_asset(partitions, "tuning_losses")
    def tuning_losses(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What did every configuration cost before the test period?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "tuning_losses", shards=lambda: fleet.shards)

    @table_asset(partitions, "config_priors", kinds={"faiss"})
    def config_priors(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What does the experience of (other) tuning tenants say about each configuration, for the fleet and for look-alikes?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "config_priors", shards=lambda: fleet.shards)

    @table_asset(partitions, "search_policy")
    def search_policy(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """Which constants of the search, and which shared choice of every rival, do the tuning tenants support?"""
        from tsfm_pipeline.steps import policies as steps

        fleet = workspace.fleet(context.partition_key)
        return materialise(
            context,
            fleet,
            "search_policy",
            metadata=lambda: {"policies": dg.MetadataValue.json(steps.describe_policies(fleet))},
        )

    @table_asset(partitions, "autoresearch_forecasts")
    def autoresearch_forecasts(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """What does the search decide at every test request, for every tier?"""
        fleet = workspace.fleet(context.partition_key)
        return materialise(context, fleet, "autoresearch_forecasts", shards=lambda: fleet.shards)

    return [
        forecast_requests,
        request_targets,
        config_portfolio,
        forecast_grid,
        validation_losses,
        baseline_forecasts,
        tuning_losses,
        config_priors,
        search_policy,
        autoresearch_forecasts,
    ]
