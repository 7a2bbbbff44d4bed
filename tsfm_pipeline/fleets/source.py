"""The interface through which every kind of fleet is read: grid, manifest, shards and values.

What belongs here: the interface and the schema of the manifest. What does not: any particular kind
of fleet.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.protocol import TIER_SHARES
from tsfm_pipeline.fleets.kinds import AnyFleet

MANIFEST_SCHEMA = pl.Schema(
    {
        "tenant_number": pl.Int32,
        "tenant_id": pl.String,
        "archetype": pl.String,
        "tier": pl.String,
        "first_step": pl.Int32,
        "last_step": pl.Int32,
        "n_observed": pl.Int64,
        "n_missing": pl.Int64,
        "n_duplicates": pl.Int64,
        "n_gaps": pl.Int64,
        "longest_gap": pl.Int32,
    }
)
"""One row per tenant. first_step, last_step: first and last step of the fleet's grid at which any
metric is observed. n_observed, n_missing: values over all metrics between the two. n_duplicates:
rows dropped because a later row had the same tenant and timestamp. n_gaps: runs of missing values
between the two, summed over metrics; longest_gap: the longest of them, in steps."""

MARKED_SCHEMA = pl.Schema({"tenant_number": pl.Int32, "step": pl.Int32})
"""One row per step of a tenant that belongs to a known event."""

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What polars raises for a file that it cannot read. Some damage makes polars panic, and its panic
is not an `Exception`.
"""

TOO_MANY_VALUES = (
    "a row has more values than columns: "
    "quote text that has commas, and write decimals with a point"
)

SHOWN = 5
"""How many rows, tenants or values an error names; it only counts the rest."""

CELL_LENGTH = 40
"""How many characters of a cell a message shows."""

DATA_INDEPENDENT_FIELDS = frozenset(
    {
        "name",
        "title",
        "description",
        "source",
        "nightly",
        "horizon",
        "max_gap",
        "calendar",
        "events",
        "origins_per_tenant",
        "minimum_per_archetype",
        "prices",
        "currency",
        "tiers",
        "tier_shares",
    }
)
"""Fields of a spec that change no telemetry value and so are not part of a fleet's fingerprint. The
fields of the tiers are parameters of the tables that depend on them.
"""


def data_fields(spec: AnyFleet, unused: Iterable[str] = ()) -> dict[str, Any]:
    """Return the fields of a spec that determine its telemetry, for fingerprints; without fields
    that are `unused`.

    The field `tiers` always holds the default shares, as it once held a fleet's shares: the
    fingerprint of telemetry made at that time stays the same.
    """
    fields = spec.model_dump(mode="json", exclude={*DATA_INDEPENDENT_FIELDS, *unused})
    return fields | {"tiers": TIER_SHARES}


@dataclass(frozen=True)
class LeftOut:
    """A column of a table that is not read: a cell of it, the reason, and what would have it read.

    is_label: the column holds text or whole numbers, which can tell rows apart.
    """

    column: str
    cell: str
    reason: str
    remedy: str = ""
    is_label: bool = True


def cell_text(cell: object) -> str:
    """Return a cell as text of at most `CELL_LENGTH` characters; an empty text for no cell."""
    text = "" if cell is None else str(cell)
    return text if len(text) <= CELL_LENGTH else f"{text[: CELL_LENGTH - 3]}..."


def left_out_notes(columns: Sequence[LeftOut]) -> tuple[str, ...]:
    """Return the columns that are not read as notes, one per reason."""
    by_reason: dict[str, list[LeftOut]] = {}
    for column in columns:
        by_reason.setdefault(column.reason, []).append(column)
    notes = []
    for reason, group in by_reason.items():
        named = ", ".join(
            repr(left.column) + (f" (like {left.cell!r})" if left.cell else "") for left in group
        )
        columns_are = "columns that are" if len(group) > 1 else "a column that is"
        remedy = f"; {group[0].remedy}" if group[0].remedy else ""
        notes.append(f"{columns_are} not read: {named}: {reason}{remedy}")
    return tuple(notes)


class FleetDataError(ValueError):
    """Raised for telemetry that cannot be used; the message names fleet, file, column, rows and
    tenants, and what is allowed.

    tenants: for a fault of single tenants, every such tenant with its problem; the message names
    the first few. remedy: the lines of the fleet file that would solve it, where that is known.
    """

    def __init__(
        self, message: str, tenants: Mapping[str, str] | None = None, remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.tenants: dict[str, str] = dict(tenants or {})
        self.remedy = remedy


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Turn the error of an unreadable file into a `FleetDataError` that names the file."""
    try:
        yield
    except UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if "more fields than defined" in reason:
            raise FleetDataError(f"{where}: not readable: {TOO_MANY_VALUES}") from error
        hint = (
            "; a column of bytes is not UTF-8: write it as text" if "invalid utf8" in reason else ""
        )
        raise FleetDataError(f"{where}: not readable: {reason}{hint}") from error


class FleetSource(ABC):
    """A fleet that can be read shard by shard; two sources with the same fingerprint return the
    same bytes.
    """

    spec: AnyFleet
    metrics: tuple[str, ...]
    start: datetime
    """Time of step 0, UTC."""
    step: timedelta
    n_steps: int
    n_tenants: int
    notes: tuple[str, ...] = ()
    """Notes for people about assumptions made when the fleet was read."""
    left_out: Mapping[str, str] = MappingProxyType({})
    """Tenants of the source that do not belong to the fleet, each with the reason."""
    columns_left_out: tuple[LeftOut, ...] = ()
    """Columns of the source that are not read."""
    contradictions: Mapping[str, int] = MappingProxyType({})
    """Tenants with rows that repeat a time with other values, each with their number."""

    @property
    def step_minutes(self) -> float:
        """Return the minutes between two steps."""
        return self.step / timedelta(minutes=1)

    @property
    def steps_per_day(self) -> int:
        """Return the whole steps of a day, at least one: a longer step counts as a day."""
        return max(1, timedelta(days=1) // self.step)

    @property
    def seasons(self) -> tuple[int, ...]:
        """Return the season lengths in steps, shortest first."""
        return self.spec.seasons_in_steps(self.step_minutes)

    def shards(self, size: int) -> list[list[int]]:
        """Return all tenant numbers in ascending order, `size` at a time."""
        if size < 1:
            raise ValueError(f"a shard of {size} tenants; allowed: at least 1")
        return [
            list(range(first, min(first + size, self.n_tenants)))
            for first in range(0, self.n_tenants, size)
        ]

    def timestamps(self) -> pl.Series:
        """Return the time of every step, UTC [T]."""
        end = self.start + (self.n_steps - 1) * self.step
        return pl.datetime_range(
            self.start, end, self.step, time_unit="us", time_zone="UTC", eager=True
        ).alias("timestamp")

    @abstractmethod
    def manifest(self) -> pl.DataFrame:
        """Return one row per tenant, sorted by tenant_number, with MANIFEST_SCHEMA."""

    def values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        """Return telemetry float32 [N, D, T], C-contiguous, NaN where missing; N in the given
        order, D as `metrics`, T = n_steps. Raises ValueError for a tenant number that the fleet
        does not have.
        """
        outside = [number for number in tenant_numbers if not 0 <= number < self.n_tenants]
        if outside:
            raise ValueError(
                f"tenant number {outside[0]}; fleet {self.spec.name!r} has 0 to "
                f"{self.n_tenants - 1}"
            )
        return self._values(tenant_numbers)

    def marked_steps(self) -> pl.DataFrame:
        """Return the steps that the source marks as known events of single tenants, with
        MARKED_SCHEMA: each of them once, ascending.
        """
        return pl.DataFrame(schema=MARKED_SCHEMA)

    @abstractmethod
    def _values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        """Return `values` of tenant numbers that are known to exist."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a digest that changes whenever values or manifest may change: of the spec's
        fields, the reader's version and the bytes of the files.
        """


def take_stock(values: NDArray[np.float32]) -> dict[str, int]:
    """Return the columns of the manifest that follow from one tenant's values [D, T]."""
    missing = np.isnan(values)
    steps = np.flatnonzero(~missing.all(axis=0))
    first, last = (int(steps[0]), int(steps[-1])) if steps.size else (0, -1)
    missing = missing[:, first : last + 1]
    gaps = gap_lengths(missing)
    n_missing = int(missing.sum())
    return {
        "first_step": first,
        "last_step": last,
        "n_observed": missing.size - n_missing,
        "n_missing": n_missing,
        "n_gaps": gaps.size,
        "longest_gap": int(gaps.max(initial=0)),
    }


def gap_lengths(missing: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the lengths of all runs of missing steps, missing [D, T]."""
    edges = np.diff(missing.astype(np.int8), axis=1, prepend=0, append=0)
    lengths: NDArray[np.int64] = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    return lengths


def listed(tenants: Sequence[str]) -> str:
    """Return the first few tenants as text, with the number of the others."""
    more = f" and {len(tenants) - SHOWN} more" if len(tenants) > SHOWN else ""
    return ", ".join(map(repr, tenants[:SHOWN])) + more
