"""The assets of a fleet's tables, one for each record in the registry.

What belongs here: the extra actions of a few tables; `defs.materialise.table_asset` does what is
common to all. What does not: the record of a table (`catalogue.tables`), how it is made and
described (`steps.makers`).
"""

import dagster as dg

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.defs.assets import policy
from tsfm_pipeline.defs.materialise import Hook, Model, Shown, as_failure, table_asset
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.reports.shared.files import write_report
from tsfm_pipeline.steps.makers import MAKERS


def build(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the assets of all tables over the given fleets."""
    return [
        table_asset(
            FLEETS,
            table,
            MAKERS[name],
            partitions,
            before=BEFORE.get(name),
            after=AFTER.get(name),
            shown_after=(policy.NAME,) if name in policy.READERS else (),
        )
        for name, table in TABLES.items()
    ]


def _refresh(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Fetch new telemetry from its source before any of it is opened."""
    try:
        fetched = fleet.refresh(context.run_id, context.log.info)
        _ = fleet.source
    except (StorageError, ValueError, OSError) as error:
        raise as_failure(error, FLEETS.name, fleet) from error
    return fetched


def _agreement(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Measure how closely shared passes agree with exact windows, and store that as a report."""
    from tsfm_pipeline.steps.agreement import rank_agreement

    measured = rank_agreement(fleet, **model)
    write_report(fleet, "rank_agreement", measured)
    return measured


def _publish_bundle(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Publish the search bundle as a file."""
    from tsfm_pipeline.steps.bundle import publish_bundle

    return publish_bundle(fleet)


def _publish(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Publish the recommendations as files."""
    from tsfm_pipeline.reports.recommendations.publication import publish

    return publish(fleet)


def _take_in(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Take in what the online service has recorded until now, before any table is opened."""
    try:
        fleet.take_in(context.run_id, context.log.info)
    except (StorageError, ValueError, OSError) as error:
        raise as_failure(error, FLEETS.name, fleet) from error
    return {}


def _publish_calibration(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Publish the calibration as the file that the online service reads."""
    from tsfm_pipeline.steps.serving_calibration import publish_calibration

    return publish_calibration(fleet)


def _publish_rollout(context: dg.AssetExecutionContext, fleet: Fleet, model: Model) -> Shown:
    """Publish the decision about the rollout as the file that the online service reads."""
    from tsfm_pipeline.steps.serving_rollout import publish_rollout

    return publish_rollout(fleet)


BEFORE: dict[str, Hook[Fleet]] = {"tenant_telemetry": _refresh, "served_forecasts": _take_in}
AFTER: dict[str, Hook[Fleet]] = {
    "conformal_calibration": _publish_calibration,
    "rollout_decision": _publish_rollout,
    "validation_losses": _agreement,
    "search_bundle": _publish_bundle,
    "recommendations": _publish,
}
"""Actions before and after a table is made, by its name."""
