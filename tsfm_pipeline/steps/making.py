"""Making one table of a member of any scope: what its asset does, and a command without Dagster.

What belongs here: the work of all shards, and what the table's record says about how it was made.
What does not: which function makes a table (`makers`), the loop over shards (`catalogue.shards`),
and what is checked and shown of a finished table (`defs.materialise`).
"""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from tsfm_pipeline.catalogue.on_ray import OnRay
from tsfm_pipeline.catalogue.registry import Table, made_from
from tsfm_pipeline.catalogue.scopes import M, Scope
from tsfm_pipeline.catalogue.shards import (
    WHOLE,
    ShardExecutor,
    make_table,
    model_of,
    shard_work,
)
from tsfm_pipeline.lake import TableSummary
from tsfm_pipeline.settings import ExecutionSettings, Settings
from tsfm_pipeline.steps.makers import Maker


def make(
    scope: Scope[M],
    member: M,
    table: Table,
    maker: Maker,
    settings: Settings,
    *,
    force: bool = False,
    log: Callable[[str], Any] = lambda _: None,
) -> TableSummary:
    """Make what is missing of a table: shard by shard if it is sharded, whole otherwise.

    settings: those under which workers open the member; `settings.execution` says where shards are
    made. force: makes finished shards again.
    """
    provenance = dict(scope.provenance(member))
    provenance["made_from"] = made_from(table, member.context, member.tables.expected)
    if maker.needs_model:
        from tsfm_pipeline.steps.forecasts import recorded_plan

        provenance |= recorded_plan(model_of(settings))
    if maker.provenance:
        provenance |= resolve_name(maker.provenance)(member)
    work = shard_work(
        settings,
        scope.opener,
        member,
        table.name,
        maker.function,
        maker.needs_model,
        maker.share,
    )
    shards = scope.shards(member, table) if table.sharded else WHOLE
    return make_table(
        member,
        work,
        shards,
        executor=_executor(table, settings.execution, log),
        provenance=provenance,
        force=force,
        log=log,
    )


def _executor(
    table: Table, execution: ExecutionSettings, log: Callable[[str], Any]
) -> ShardExecutor | None:
    """Return the executor of a table's shards; None for this process.

    A table that is made whole stays in this process: it has no second shard to run beside it, and
    its inputs are read here for the checks anyway.
    """
    return OnRay(execution, log) if execution.engine == "ray" and table.sharded else None
