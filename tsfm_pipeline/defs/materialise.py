"""What every table asset does alike: lock the fleet, make missing shards, check, describe.

What belongs here: the shape of a materialisation and its metadata. What does not: what a table contains (`steps`), what is checked
(`checks`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.shards import WHOLE, make_table, shard_work
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.catalogue.tables_lock import MAKERS, MODEL
from tsfm_pipeline.defs.checks import check_results, check_specs, fleet_schema
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.lake import FleetLockedError, TableSummary

HEAVY_KEY, HEAVY_VALUE = "tsfm_pipeline/load", "heavy"
HEAVY = {HEAVY_KEY: HEAVY_VALUE}
"""Steps that use every core or the GPU; the executor runs one of them at a time."""
ALONE = {HEAVY_KEY: HEAVY_VALUE, "dagster/priority": "-10"}
"""Steps that measure time: heavy, and started after all others that are ready."""
OWNERS = ["team:forecasting-platform"]
RETRY = dg.RetryPolicy(max_retries=1, delay=5)
"""Once more for a passing fault (a busy disk, a lost worker); errors that a person must mend are raised as failures without retry."""


def table_asset(partitions: dg.PartitionsDefinition, name: str, **kwargs: Any) -> Callable[..., dg.AssetsDefinition]:
    """`@dg.asset` for a table of `tables.TABLES`: its group, inputs, version, checks and kinds are read from there."""
    table = TABLES[name]
    return dg.asset(
        name=name,
        partitions_def=partitions,
        group_name=table.group,
        deps=list(table.inputs),
        code_version=table.code_version,
        check_specs=check_specs(name),
        owners=OWNERS,
        retry_policy=RETRY,
        kinds={"parquet", *kwargs.pop("kinds", set())},
        **kwargs,
    )


def materialise(
    context: dg.AssetExecutionContext,
    fleet: Fleet,
    name: str,
    *,
    shards: Callable[[], Sequence[Sequence[int]]] | None = None,
    provenance: dict[str, Any] | None = None,
    checks: dict[str, Callable[[], Any]] | None = None,
    metadata: Callable[[], dict[str, Any]] | None = None,
) -> dg.MaterializeResult:
    """Make a table (per shard where `shards` are given, whole otherwise), check it and describe it.

    Raises `dg.Failure` without retry for what a person must mend: a locked fleet, missing or stale inputs, bad telemetry.
    """
    with holding(context, fleet):
        make, *others = MAKERS[name]
        summary = make_table(
            fleet,
            shard_work(fleet, name, make, needs_model=MODEL in others),
            WHOLE if shards is None else shards(),
            provenance={"checkpoint_sha256": fleet.context.checkpoint_digest, **(provenance or {})},
            force=context.resources.workspace.force,
            log=context.log.info,
        )
        checked = check_results(fleet, name, **{key: measure() for key, measure in (checks or {}).items()})
        shown = {**describe_table(fleet, summary), **(metadata() if metadata else {})}
    return dg.MaterializeResult(metadata=shown, data_version=dg.DataVersion(summary.fingerprint), check_results=checked)


@contextmanager
def holding(context: dg.AssetExecutionContext, fleet: Fleet) -> Iterator[None]:
    """Hold the fleet for this run; what a person must mend (lock, missing table, bad telemetry) becomes a failure without retry."""
    try:
        fleet.move_records(context.log.info)
        with fleet.tables.lock(context.run_id):
            yield
    except (StorageError, ValueError, FileNotFoundError) as error:
        raise as_failure(error, fleet) from error


def as_failure(error: Exception, fleet: Fleet) -> dg.Failure:
    """An error that a person must mend, as Dagster shows it: the message first, no retry."""
    kind = "fleet is locked" if isinstance(error, FleetLockedError) else type(error).__name__
    return dg.Failure(description=str(error), metadata={"fleet": fleet.name, "kind": kind}, allow_retries=False)


def describe_table(fleet: Fleet, summary: TableSummary) -> dict[str, Any]:
    """Row count, size, column schema and lineage, and what was kept from earlier runs."""
    meanings = fleet_schema(fleet, summary.table)
    inputs = {name: fleet.tables.record(name)["schema"] for name in TABLES[summary.table].inputs}
    # A name means the same in every table (`catalogue.columns`): a column comes from the inputs that have it; all others are computed here.
    sources = {column: [dg.TableColumnDep(name, column) for name in inputs if column in inputs[name]] for column in summary.schema}
    columns = [dg.TableColumn(name, dtype, description=meanings.get(name, ("", ""))[1]) for name, dtype in summary.schema.items()]
    return {
        "dagster/row_count": summary.n_rows,
        "dagster/column_schema": dg.TableSchema(columns),
        "dagster/column_lineage": dg.TableColumnLineage({column: deps for column, deps in sources.items() if deps}),
        "size_mib": round(summary.n_bytes / 2**20, 3),
        "n_shards": summary.n_parts,
        "n_shards_kept": summary.n_skipped,
        "fingerprint": summary.fingerprint,
        "path": dg.MetadataValue.path(str(fleet.tables.path / summary.table)),
    }
