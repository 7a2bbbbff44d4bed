"""The assets of a fleet's tables: one for each record in the registry.

What belongs here: what few tables do beside being made, as every table is by
`defs.materialise.table_asset`. What does not: what a table is (`catalogue.tables`), how it is made
and described (`steps.makers`).
"""

import dagster as dg

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.defs.materialise import Hook, Model, Shown, as_failure, table_asset
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.reports.shared.files import write_report
from tsfm_pipeline.steps.makers import MAKERS


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of all tables over the given fleets."""
    return [
        table_asset(
            FLEETS, table, MAKERS[name], partitions, before=BEFORE.get(name), after=AFTER.get(name)
        )
        for name, table in TABLES.items()
    ]


def _refresh(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Fetch what is new where the telemetry comes from, before anything of it is opened."""
    try:
        fetched = fleet.refresh(context.run_id, context.log.info)
        _ = fleet.source
    except (StorageError, ValueError, OSError) as error:
        raise as_failure(error, FLEETS.name, fleet) from error
    return fetched


def _agreement(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Measure how well shared passes stand in for exact windows, and keep that as a report."""
    from tsfm_pipeline.steps.agreement import rank_agreement

    measured = rank_agreement(fleet, **model)
    write_report(fleet, "rank_agreement", measured)
    return measured


def _publish_bundle(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Hand the search bundle out as a file."""
    from tsfm_pipeline.steps.bundle import publish_bundle

    return publish_bundle(fleet)


def _publish(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Hand the recommendations out as files."""
    from tsfm_pipeline.reports.recommendations.publication import publish

    return publish(fleet)


BEFORE: dict[str, Hook[Fleet]] = {"tenant_telemetry": _refresh}
AFTER: dict[str, Hook[Fleet]] = {
    "validation_losses": _agreement,
    "search_bundle": _publish_bundle,
    "recommendations": _publish,
}
"""What is done before a table is made, and after."""
