"""The body that all table assets share: lock the member, make missing shards, check, describe.

What belongs here: the asset of a table of any scope, the shape of its materialisation and its
metadata. What does not: the record of a table (`catalogue.registry`), its content (`steps`), its
checks (`checks`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any

import dagster as dg

from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.catalogue.scopes import M, Member, Scope, columns_of
from tsfm_pipeline.defs.checks import check_results, check_specs
from tsfm_pipeline.defs.code_references import reference_to
from tsfm_pipeline.files import StorageError
from tsfm_pipeline.lake import TableSummary
from tsfm_pipeline.lock import FleetLockedError
from tsfm_pipeline.steps.makers import Maker
from tsfm_pipeline.steps.making import make

Model = dict[str, Any]
"""The loaded model as the argument `forecaster`; empty if none is needed."""
Shown = dict[str, Any]
"""Metadata of a materialisation."""
Hook = Callable[[dg.AssetExecutionContext, M, Model], Shown]

HEAVY_KEY, HEAVY_VALUE = "tsfm_pipeline/load", "heavy"
HEAVY = {HEAVY_KEY: HEAVY_VALUE}
"""Steps that use every core or the GPU; the executor runs one of them at a time."""
ALONE = {HEAVY_KEY: HEAVY_VALUE, "dagster/priority": "-10"}
"""Steps that measure time: they are heavy, and start after all other steps that are ready."""
OWNERS = ["team:forecasting-platform"]
RETRY = dg.RetryPolicy(max_retries=1, delay=5)
"""One retry for a temporary fault (a busy disk, a lost worker). Errors that a person must fix are
raised as failures without retry.
"""


def table_asset(
    scope: Scope[M],
    table: Table,
    maker: Maker,
    partitions: dg.PartitionsDefinition,
    *,
    before: Hook[M] | None = None,
    after: Hook[M] | None = None,
    shown_after: Sequence[str] = (),
) -> dg.AssetsDefinition:
    """Return the asset of a table; everything about it is read from `table` and `maker`.

    before, after: called before the table is made and after it is checked, for the few tables that
    need more; what they return is added to the metadata. shown_after: assets upstream of the table
    that are not its inputs; its parameters hold what they decide. Errors that a person must fix (a
    locked member, missing or stale inputs, bad telemetry) raise a `dg.Failure` without retry.
    """

    @dg.asset(
        name=table.name,
        partitions_def=partitions,
        group_name=table.group,
        deps=[*table.inputs, *shown_after],
        description=table.question,
        code_version=table.code_version,
        check_specs=check_specs(table, maker),
        owners=OWNERS,
        retry_policy=RETRY,
        kinds={"parquet", *maker.kinds},
        op_tags=HEAVY if maker.heavy else None,
        metadata=reference_to(maker.function),
        required_resource_keys={"workspace", *(["forecaster"] if maker.needs_model else [])},
    )
    def body(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        settings = context.resources.workspace.settings
        member = scope.open(settings, context.partition_key, context.run_id)
        model = {"forecaster": context.resources.forecaster.load()} if maker.needs_model else {}
        shown = before(context, member, model) if before else {}
        with holding(context, scope.name, member):
            force = context.resources.workspace.force
            summary = make(scope, member, table, maker, settings, force=force, log=context.log.info)
            leakage = resolve_name(maker.leakage)(member, **model) if maker.leakage else None
            checked = check_results(scope, member, table, leakage)
            shown = describe_table(scope, member, table, summary) | shown
            shown |= resolve_name(maker.describe)(member) if maker.describe else {}
            shown |= after(context, member, model) if after else {}
        version = dg.DataVersion(summary.fingerprint)
        return dg.MaterializeResult(metadata=shown, data_version=version, check_results=checked)

    return body


@contextmanager
def holding(context: dg.AssetExecutionContext, scope: str, member: Member) -> Iterator[None]:
    """Hold a member's lock for this run. Errors that a person must fix become failures without
    retry.
    """
    try:
        member.prepare(context.log.info)
        with member.tables.lock(context.run_id):
            yield
    except (StorageError, ValueError, FileNotFoundError) as error:
        raise as_failure(error, scope, member) from error


def as_failure(error: Exception, scope: str, member: Member) -> dg.Failure:
    """Return an error that a person must fix as Dagster shows it: the message first, no retry."""
    kind = f"{scope} is locked" if isinstance(error, FleetLockedError) else type(error).__name__
    return dg.Failure(
        description=str(error), metadata={scope: member.name, "kind": kind}, allow_retries=False
    )


def describe_table(
    scope: Scope[M], member: M, table: Table, summary: TableSummary
) -> dict[str, Any]:
    """Return a table's metadata: row count, size, column schema and lineage, and how many shards
    were kept from earlier runs.
    """
    inputs = {name: member.tables.record(name)["schema"] for name in table.inputs}
    # A name means the same in every table of a scope, so a column comes from the inputs that have
    # it. All other columns are computed here.
    sources = {
        column: [dg.TableColumnDep(name, column) for name in inputs if column in inputs[name]]
        for column in summary.schema
    }
    meanings = {name: column.meaning for name, column in columns_of(scope, member, table).items()}
    columns = [
        dg.TableColumn(name, dtype, description=meanings.get(name))
        for name, dtype in summary.schema.items()
    ]
    return {
        "dagster/row_count": summary.n_rows,
        "dagster/column_schema": dg.TableSchema(columns),
        "dagster/column_lineage": dg.TableColumnLineage(
            {column: deps for column, deps in sources.items() if deps}
        ),
        "size_mib": round(summary.n_bytes / 2**20, 3),
        "n_shards": summary.n_parts,
        "n_shards_kept": summary.n_skipped,
        "fingerprint": summary.fingerprint,
        "path": dg.MetadataValue.path(member.tables.where(summary.table)),
    }
