"""Scopes: the kinds of things that tables are made for. Each member of a scope has one table of
each name.

What belongs here: what the catalogue, checks and assets need to know about a scope (a fleet, a
market, a dataset, a project) and about one member of it, and where members of any scope keep their
tables. What does not: a particular scope (`fleet_scope`; a study brings its own), the records of
its tables (`registry`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import polars as pl

from tsfm_pipeline.catalogue.registry import Column, Table, expected_fingerprints
from tsfm_pipeline.lake import FleetLake, Lake
from tsfm_pipeline.settings import Settings


class Context(Protocol):
    """What `Table.parameters` may read; it has at least a fingerprint of the data that the first
    tables are made from."""

    @property
    def source_fingerprint(self) -> str: ...


class Member(Protocol):
    """One opened fleet, market, dataset or project; the functions that make its tables receive it.

    prepare: called before the member is locked and before any of its files is read or written.
    """

    @property
    def name(self) -> str: ...

    @property
    def context(self) -> Context: ...

    @property
    def tables(self) -> FleetLake: ...

    def prepare(self, log: Callable[[str], Any]) -> None: ...


M = TypeVar("M", bound=Member)


class Scope(Protocol[M]):
    """A kind of thing that tables are made for.

    name: as in `Table.scope`. partitions: the names of its members, one partition each. open: opens
    a member for a run. opener: a function that opens a member from settings and its name, as
    `module:function`, for a worker on another machine. dimension: the entries of a dimension of a
    member's columns (`Column.each`, `Column.axis`); raises KeyError for an unknown one. shards: how
    a sharded table of a member is split; the table's maker is given one shard. provenance: what the
    record of every table says about how it was made, besides its fingerprint.
    """

    @property
    def name(self) -> str: ...

    def partitions(self, settings: Settings) -> Sequence[str]: ...

    @property
    def opener(self) -> str: ...

    def open(self, settings: Settings, name: str, run_id: str = ...) -> M: ...

    def dimension(self, member: M, name: str) -> Sequence[Any]: ...

    def shards(self, member: M, table: Table) -> Sequence[Sequence[int]]: ...

    def provenance(self, member: M) -> Mapping[str, Any]: ...


def columns_of(scope: Scope[M], member: M, table: Table) -> dict[str, Column]:
    """Return the columns of a member's table by name, in their order."""
    expanded = table.expanded(partial(scope.dimension, member))
    return {column.name: column for column in expanded}


def schema_of(scope: Scope[M], member: M, table: Table) -> pl.Schema:
    """Return the schema of a member's table."""
    return table.schema(partial(scope.dimension, member))


def open_tables(
    settings: Settings,
    scope: str,
    member: str,
    tables: Mapping[str, Table],
    context: Context,
) -> FleetLake:
    """Open the tables of a member in its own folder, with the fingerprints that they must have.

    The folder is `<lake>/.<scope>/<member>`; no fleet can have such a name. Tables of fleets, the
    oldest scope, are in `<lake>/<fleet>`.
    """
    folder = settings.lake_dir / f".{scope}"
    return Lake(folder).fleet(member, expected_fingerprints(tables, context))
