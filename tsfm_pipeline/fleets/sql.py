"""SQL fleets: the rows that were fetched from a database, read as a table.

What belongs here: the fleet that the stored rows make. What does not: fetching and storing rows
(`fleets.sql_store`, `fleets.fetched_days`), and the rules of rows and grid, which are those of
every table (`fleets.table`).

Opening a fleet never contacts the database, so that all steps of a run see the same telemetry.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.fleets import fetched_days, table
from tsfm_pipeline.fleets.fetched_days import NO_ROWS, StoredDay, time_text
from tsfm_pipeline.fleets.kinds import SqlFleet
from tsfm_pipeline.fleets.source import FleetDataError, FleetSource, data_fields, readable
from tsfm_pipeline.fleets.sql_databases import server_name
from tsfm_pipeline.fleets.sql_store import STEP_S, store_of
from tsfm_pipeline.fleets.table_files import open_files
from tsfm_pipeline.fleets.table_rows import TableFiles

READER_VERSION = 1
"""Raise this number with every change of a rule that changes values or manifest and is not one of
the table reader; it is part of the fingerprint.
"""

_IN_THE_FILES = {
    "database",
    "url_from_env",
    "password_env",
    "query",
    "delay_seconds",
    "timeout_seconds",
    "lookback_days",
    "fresh_hours",
}
"""Fields whose effect on values is already contained in the fetched files."""


class SqlSource(FleetSource):
    """A SQL fleet as it was last fetched."""

    spec: SqlFleet

    def __init__(self, spec: SqlFleet, *, raw_dir: Path) -> None:
        """Open and check the fetched rows. Raises `FleetDataError` where nothing has been fetched,
        or where the rows cannot be used.
        """
        self.spec = spec
        days = what_is_stored(spec, raw_dir)
        folder = store_of(spec, raw_dir)
        self._fingerprint = stored_fingerprint(spec, days)
        self._table = table.TableSource(
            spec.as_table(folder), fleets_dir=folder, paths=_with_rows(spec, days)
        )
        self.metrics, self.start = self._table.metrics, self._table.start
        self.step, self.n_steps = self._table.step, self._table.n_steps
        self.n_tenants = self._table.n_tenants
        fetched = f"fetched from {server_name(spec)} through {time_text(days[-1].through)}"
        self.notes = (fetched, *self._table.notes)
        self.columns_left_out = self._table.columns_left_out
        self.contradictions = self._table.contradictions

    def manifest(self) -> pl.DataFrame:
        """Return one row per tenant with MANIFEST_SCHEMA; tenants are numbered in the order of
        their ids.
        """
        return self._table.manifest()

    def marked_steps(self) -> pl.DataFrame:
        """Return the steps that the event column marks, as `TableSource.marked_steps` does."""
        return self._table.marked_steps()

    def _values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        return self._table.values(tenant_numbers)

    def fingerprint(self) -> str:
        """Return the `stored_fingerprint` of the rows stored when the fleet was opened."""
        return self._fingerprint


def what_is_stored(spec: SqlFleet, raw_dir: Path) -> list[StoredDay]:
    """Return the fetched days; raises as `fetched_days.what_is_stored` does."""
    return fetched_days.what_is_stored(
        spec, store_of(spec, raw_dir), step=STEP_S, server=server_name(spec)
    )


def stored_files(spec: SqlFleet, raw_dir: Path) -> TableFiles:
    """Return the fetched rows as the files of a table. Raises `FleetDataError`."""
    folder = store_of(spec, raw_dir)
    days = what_is_stored(spec, raw_dir)
    return open_files(spec.as_table(folder), folder, _with_rows(spec, days))


def stored_fingerprint(spec: SqlFleet, days: Sequence[StoredDay]) -> str:
    """Return a digest of the spec's data fields, the readers' versions, and the fetched rows; it
    reads no row. A fetch that found nothing new leaves it as it was.
    """
    versions = [READER_VERSION, table.READER_VERSION]
    stored = [[day.day, day.digest] for day in days if day.digest != NO_ROWS]
    fields = data_fields(spec, _IN_THE_FILES)
    return hashlib.sha256(
        json.dumps([versions, fields, stored], sort_keys=True).encode()
    ).hexdigest()


def _with_rows(spec: SqlFleet, days: Sequence[StoredDay]) -> tuple[Path, ...]:
    """Return the files that hold any row, oldest first: without rows, the types of a file's columns
    mean nothing.
    """
    paths = [path for day in days for path in day.paths]
    with readable(f"fleet {spec.name!r}, {paths[0].parent}"):
        full = tuple(
            path for path in paths if pl.scan_parquet(path, glob=False).head(1).collect().height
        )
    if not full:
        raise FleetDataError(
            f"fleet {spec.name!r}: the query gave no row from {days[0].day} to "
            f"{time_text(days[-1].through)}; raise lookback_days if the rows are older, or try "
            f"the query at {server_name(spec)}"
        )
    return full
