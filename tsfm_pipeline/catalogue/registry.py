"""Records of tables: the description of a table before it is made, and what can be read from it.

What belongs here: the records `Column` and `Table`, and what is derived from any set of tables:
their order, their fingerprints, their schemas. What does not: which tables exist (`tables` for
fleets; a study has its own), what a scope is (`scopes`), making a table (`steps`), storing one
(`lake`). Nothing here depends on the subject of a table.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any

import polars as pl

from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.parts import SCHEMA_VERSION

Dimension = Callable[[str], Sequence[Any]]
"""A function that returns the entries of a dimension, given its name, for one member of a scope:
the tiers of a fleet (`tier`), its metrics (`metric`), the steps of its horizon (`H`)."""


@dataclass(frozen=True)
class Column:
    """A column, or a template of columns: a name such as `loss_{tier}` stands for one column per
    tier.

    dtype: the type of the column, or of the entries of a list of fixed size. meaning: may contain
    the same placeholder as the name. unit: the unit of numbers; text, times and bytes have none.
    axis: the dimension that a list of fixed size runs over, with `per_entry` values for each of its
    entries. deciles: whether the last nine values per entry are the deciles of a forecast.
    """

    name: str
    dtype: pl.DataType
    meaning: str
    unit: str = ""
    axis: str = ""
    per_entry: int = 1
    deciles: bool = False

    @property
    def each(self) -> str:
        """The dimension that a template has one column per entry of; empty for a single column."""
        fields = [field for _, field, _, _ in Formatter().parse(self.name) if field]
        return fields[0] if fields else ""

    def expanded(self, dimension: Dimension) -> Iterator["Column"]:
        """Yield the columns that the template stands for; lists get their lengths."""
        column = self
        if self.axis:
            length = len(dimension(self.axis)) * self.per_entry
            column = replace(self, dtype=pl.Array(self.dtype, length), axis="")
        if self.each:
            for entry in dimension(self.each):
                filled = {self.each: entry}
                name, meaning = self.name.format(**filled), self.meaning.format(**filled)
                yield replace(column, name=name, meaning=meaning)
        else:
            yield column


@dataclass(frozen=True)
class Table:
    """One table, described once; everything else about it is derived from this record.

    scope: the kind of thing that has one such table each (a fleet, a market, ...). group: the group
    of the asset graph that shows it. version: raise it when the code that makes the table changes
    the table's content; a test against `tables.lock` enforces this (`catalogue.tables_lock`).
    question: the question that the table answers; the UI shows it. row: what one row is. inputs:
    tables of the same scope that it is made from. parameters: what else changes its content, given
    the scope's context. key: columns that identify a row; unless it is empty, a check requires that
    they are never null and never repeat. key_by_construction: the maker writes each key once, and
    there are too many keys to compare. n_rows: the required number of rows, given a member of the
    scope, if it is known. sharded: whether the table is made and stored shard by shard.
    """

    name: str
    scope: str
    group: str
    version: int
    question: str
    row: str
    columns: tuple[Column, ...]
    inputs: tuple[str, ...] = ()
    parameters: Callable[[Any], Any] = field(default=lambda context: None)
    key: tuple[str, ...] = ()
    key_by_construction: bool = False
    n_rows: Callable[[Any], int] | None = None
    sharded: bool = False

    @property
    def code_version(self) -> str:
        """The version as the asset graph shows it."""
        return str(self.version)

    def expanded(self, dimension: Dimension) -> tuple[Column, ...]:
        """Return the columns for one member of the scope, in their order."""
        return tuple(column for declared in self.columns for column in declared.expanded(dimension))

    def schema(self, dimension: Dimension) -> pl.Schema:
        """Return names and types of the columns for one member of the scope."""
        return pl.Schema({column.name: column.dtype for column in self.expanded(dimension)})

    @property
    def deciles(self) -> Column | None:
        """The column of quantile forecasts, if there is one."""
        return next((column for column in self.columns if column.deciles), None)


def registry(tables: Iterable[Table]) -> dict[str, Table]:
    """Return the tables of one scope by name; each comes after its inputs, otherwise in the given
    order.

    Raises ValueError if a name occurs twice, the tables have several scopes, an input is not among
    the tables or is made from the table itself, or a key is not a column.
    """
    waiting = list(tables)
    names = [table.name for table in waiting]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"tables {', '.join(repeated)} are declared twice")
    scopes = sorted({table.scope for table in waiting})
    if len(scopes) > 1:
        raise ValueError(f"tables of one registry have one scope, not {', '.join(scopes)}")
    for table in waiting:
        no_columns = set(table.key) - {column.name for column in table.columns}
        if no_columns:
            raise ValueError(f"table {table.name!r} has no columns {', '.join(sorted(no_columns))}")
    ordered: dict[str, Table] = {}
    while waiting:
        ready = next((table for table in waiting if ordered.keys() >= set(table.inputs)), None)
        if ready is None:
            missing = {table.name: sorted(set(table.inputs) - ordered.keys()) for table in waiting}
            raise ValueError(f"inputs that do not exist, or depend on the table itself: {missing}")
        waiting.remove(ready)
        ordered[ready.name] = ready
    return ordered


def expected_fingerprints(tables: Mapping[str, Table], context: Any) -> dict[str, str]:
    """Return the fingerprint of every table of a registry under a context of its scope.

    A table's fingerprint covers those of its inputs, so that a change anywhere upstream makes
    everything downstream stale.
    """
    fingerprints: dict[str, str] = {}
    for table in tables.values():
        covered = made_from(table, context, fingerprints)
        fingerprints[table.name] = fingerprint(
            table.name,
            covered["schema_version"],
            covered["version"],
            list(covered["inputs"].values()),
            covered["parameters"],
        )
    return fingerprints


def made_from(table: Table, context: Any, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """Return what a table's fingerprint covers, by name, as its record keeps it: schema_version,
    version, inputs (name: fingerprint) and parameters.

    fingerprints: of the tables of the registry under that context (`expected_fingerprints`).
    """
    parameters = json.dumps(table.parameters(context), sort_keys=True, default=str)
    return {
        "schema_version": SCHEMA_VERSION,
        "version": table.version,
        "inputs": {name: fingerprints[name] for name in table.inputs},
        "parameters": json.loads(parameters),
    }
