"""Saved data sets as fleets: from the items of a folder to one regular time grid.

What belongs here: the grid over all items, and which item or variate is which tenant. What does
not: the files (`fleets.saved_items`), the text of a fleet file (`fleets.saved_description`).

Rules. The step is the frequency of the items. The grid runs from the earliest start to the latest
end; an item has NaN before its start and after its end. Starts must lie on one grid. Where they do
not, each is moved up to the next whole step since 1970 (UTC): never down, which would place a value
before the time at which it was known. Nothing is interpolated.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.fleets.fields import divides_a_day
from tsfm_pipeline.fleets.kinds import SavedDatasetFleet
from tsfm_pipeline.fleets.profiles import deal
from tsfm_pipeline.fleets.saved_items import (
    Item,
    SavedDataset,
    data_files,
    open_dataset,
    variate_ids,
)
from tsfm_pipeline.fleets.source import (
    MANIFEST_SCHEMA,
    FleetDataError,
    FleetSource,
    data_fields,
    listed,
    take_stock,
)

READER_VERSION = 1
"""Raise this number with every change of a rule that changes values or manifest: it is part of the
fingerprint.
"""
SPARSEST = 0.01
"""A grid of which items fill a smaller share does not fit into memory with many items."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SavedDatasetSource(FleetSource):
    """A fleet in a folder that `datasets` saved; opening it reads every item once."""

    spec: SavedDatasetFleet

    def __init__(self, spec: SavedDatasetFleet, *, fleets_dir: Path) -> None:
        """Open and check the folder. Raises `FleetDataError` where it cannot be used."""
        self.spec = spec
        dataset = self._dataset = open_dataset(spec.expanded_path(fleets_dir))
        self._fingerprint = saved_fingerprint(spec, fleets_dir)
        self.metrics = spec.metrics
        self.step = step_of(dataset)
        _require_variates(spec, dataset)
        starts, moved = starts_of(dataset.items, self.step)
        first = min(starts)
        self.start = _EPOCH + first * timedelta(microseconds=1)
        step_us = self.step // timedelta(microseconds=1)
        self._first = [(start - first) // step_us for start in starts]
        ends = [
            offset + item.n_steps for offset, item in zip(self._first, dataset.items, strict=True)
        ]
        self.n_steps = max(ends)
        self._require_dense()
        self._tenants = self._with_values()
        self.n_tenants = len(self._tenants)
        self.notes = tuple(self._told(moved, ends))
        self._manifest = self._take_stock()

    def manifest(self) -> pl.DataFrame:
        """Return one row per tenant with MANIFEST_SCHEMA; tenants are numbered in the order of
        their ids.
        """
        return self._manifest

    def fingerprint(self) -> str:
        """Return the `saved_fingerprint` of the files as they were when they were opened."""
        return self._fingerprint

    def _values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        values = np.full(
            (len(tenant_numbers), len(self.metrics), self.n_steps), np.nan, dtype=np.float32
        )
        for own, number in zip(values, tenant_numbers, strict=True):
            _, item, variate = self._tenants[number]
            first = self._first[item.row]
            own[:, first : first + item.n_steps] = self._of(item, variate)
        return values

    def _of(self, item: Item, variate: int | None) -> NDArray[np.float32]:
        """Return the values of one tenant [D, T of the item]."""
        values = self._dataset.values(item)
        return values if variate is None else values[variate : variate + 1]

    def _with_values(self) -> list[tuple[str, Item, int | None]]:
        """Return id, item and variate (None: all of them) of each tenant that has a value, in the
        order of their ids; the others are listed in `left_out`.
        """
        tenants: list[tuple[str, Item, int | None]] = []
        empty = {}
        for item in self._dataset.items:
            known = [bool((~np.isnan(own)).any()) for own in self._dataset.values(item)]
            parts: list[tuple[str, int | None, bool]] = [(item.item_id, None, any(known))]
            if self.spec.variates == "tenants":
                parts = list(zip(variate_ids(item), range(len(known)), known, strict=True))
            for tenant, variate, has_values in parts:
                if has_values:
                    tenants.append((tenant, item, variate))
                else:
                    empty[tenant] = "no value in any step"
        if not tenants:
            raise FleetDataError(
                f"fleet {self.spec.name!r}, {self._dataset.folder}: no item has a value"
            )
        self.left_out = empty
        return sorted(tenants, key=lambda tenant: tenant[0])

    def _told(self, moved: int, ends: Sequence[int]) -> list[str]:
        """Return the notes about what was assumed and left out."""
        notes = []
        if self._dataset.left_out:
            notes.append(f"columns that are not read: {', '.join(self._dataset.left_out)}")
        if moved:
            notes.append(
                f"{moved} items start off the grid of whole steps; each is moved up to the next "
                "step"
            )
        in_order = sorted(zip(self._first, ends, strict=True))
        latest = in_order[0][1]
        overlaps = False
        for first, end in in_order[1:]:
            overlaps = overlaps or first < latest
            latest = max(latest, end)
        if len(in_order) > 1 and not overlaps and self.spec.calendar == "shared":
            notes.append(
                "no two items overlap in time: a test period that all tenants share can only hold "
                "requests of the last ones; 'calendar: own' tests each at the end of its own life"
            )
        return notes

    def _require_dense(self) -> None:
        items = self._dataset.items
        filled = sum(item.n_steps for item in items) / (len(items) * self.n_steps)
        if filled < SPARSEST:
            early, late = (pick(items, key=lambda item: item.start) for pick in (min, max))
            raise FleetDataError(
                f"fleet {self.spec.name!r}, {self._dataset.folder}: from {early.start} (item "
                f"{early.item_id!r}) to the last step after {late.start} (item {late.item_id!r}) "
                f"are {self.n_steps} steps of {self.step}, of which items fill {filled:.2%}; "
                f"allowed: at least {SPARSEST:.0%}. `tsfm-pipeline benchmark` needs no common grid"
            )

    def _take_stock(self) -> pl.DataFrame:
        stock = []
        for number in range(self.n_tenants):
            stock.append(
                {
                    "tenant_number": number,
                    "tenant_id": self._tenants[number][0],
                    "n_duplicates": 0,
                    **take_stock(self._values([number])[0]),
                }
            )
        return (
            pl.DataFrame(stock)
            .with_columns(
                pl.lit(None, pl.String).alias("archetype"),
                pl.Series("tier", deal(self.spec.tier_shares, self.n_tenants)),
            )
            .select(MANIFEST_SCHEMA.names())
            .cast(MANIFEST_SCHEMA)
        )


def saved_fingerprint(spec: SavedDatasetFleet, fleets_dir: Path) -> str:
    """Return a digest of the spec's data fields, the reader's version, and the names and bytes of
    the data files; it reads no item. Raises `FleetDataError` for files that are missing.
    """
    digests = []
    for path in data_files(spec.expanded_path(fleets_dir)):
        with path.open("rb") as file:
            digests.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    return hashlib.sha256(
        json.dumps([READER_VERSION, data_fields(spec, ("path",)), digests], sort_keys=True).encode()
    ).hexdigest()


def step_of(dataset: SavedDataset) -> timedelta:
    """Return the time between two steps. Raises `FleetDataError`, with the frequency's name, for
    steps that a fleet cannot have.
    """
    frequency = dataset.frequency
    if frequency.step is None or not divides_a_day(frequency.step / timedelta(minutes=1)):
        raise FleetDataError(
            f"{dataset.folder}: one step is {frequency.called}; allowed in a fleet: steps of which "
            "a day is a whole number. `tsfm-pipeline benchmark` reads every frequency"
        )
    return frequency.step


def starts_of(items: Sequence[Item], step: timedelta) -> tuple[list[int], int]:
    """Return the start of each item in microseconds since 1970, on one grid, and how many of them
    were moved up to it.
    """
    microsecond = timedelta(microseconds=1)
    starts = [(item.start - _EPOCH) // microsecond for item in items]
    length = step // microsecond
    if len({start % length for start in starts}) == 1:
        return starts, 0
    on_grid = [-(-start // length) * length for start in starts]
    return on_grid, sum(a != b for a, b in zip(starts, on_grid, strict=True))


def _require_variates(spec: SavedDatasetFleet, dataset: SavedDataset) -> None:
    """Raise `FleetDataError` unless each item has one variate per metric (variates: metrics)."""
    if spec.variates == "tenants":
        return
    other = [item.item_id for item in dataset.items if item.n_variates != len(spec.metrics)]
    if other:
        counts = sorted({item.n_variates for item in dataset.items})
        raise FleetDataError(
            f"fleet {spec.name!r}, field 'metrics': {len(spec.metrics)} names, and the items have "
            f"{' or '.join(map(str, counts))} variates: {listed(other)}; allowed: one name per "
            "variate, or 'variates: tenants'",
            dict.fromkeys(other, "another number of variates than metrics"),
        )
