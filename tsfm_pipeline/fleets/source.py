"""The one interface through which every kind of fleet is read: grid, manifest, shards and values.

What belongs here: the interface and the schema of the manifest. What does not: any kind of fleet
itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What polars raises for a file that it cannot read; some damage makes it panic, which is no
`Exception`.
"""

SHOWN = 5
"""How many rows, tenants or values an error names before it only counts them."""

DATA_INDEPENDENT_FIELDS = frozenset(
    {
        "name",
        "title",
        "description",
        "source",
        "nightly",
        "horizon",
        "max_gap",
        "origins_per_tenant",
        "minimum_per_archetype",
        "prices",
        "currency",
        "tiers",
        "tier_shares",
    }
)
"""Fields of a spec that change no value of telemetry, and so are no part of a fleet's fingerprint;
those of the tiers are parameters of the tables that they decide.
"""


def data_fields(spec: AnyFleet, unused: Iterable[str] = ()) -> dict[str, Any]:
    """What a spec says of its telemetry, for fingerprints; without fields that are `unused`.

    The default shares stand where the shares of a fleet once were, so that telemetry that was made
    then is still known.
    """
    fields = spec.model_dump(mode="json", exclude={*DATA_INDEPENDENT_FIELDS, *unused})
    return fields | {"tiers": TIER_SHARES}


class FleetDataError(ValueError):
    """Telemetry that cannot be used; the message names fleet, file, column, rows and tenants, and
    what is allowed.

    tenants: every tenant that is at fault, with its problem, where the fault is one of tenants; the
    message names the first few.
    """

    def __init__(self, message: str, tenants: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.tenants: dict[str, str] = dict(tenants or {})


@contextmanager
def readable(where: str) -> Iterator[None]:
    """A file that cannot be read becomes a `FleetDataError` that says where it is."""
    try:
        yield
    except UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        ragged = "more fields than defined" in reason
        hint = (
            "; a row has more values than columns: quote text that has commas, and write decimals "
            "with a point"
            if ragged
            else ""
        )
        raise FleetDataError(f"{where}: not readable: {reason}{hint}") from error


class FleetSource(ABC):
    """A fleet that can be read shard by shard; two sources with one fingerprint hand out the same
    bytes.
    """

    spec: AnyFleet
    metrics: tuple[str, ...]
    start: datetime
    """Time of step 0, UTC."""
    step: timedelta
    n_steps: int
    n_tenants: int
    notes: tuple[str, ...] = ()
    """Sentences for people about what was assumed when the fleet was read."""
    left_out: Mapping[str, str] = MappingProxyType({})
    """Tenants that the source knows and the fleet does not have, with the reason."""

    @property
    def step_minutes(self) -> float:
        """Minutes between two steps."""
        return self.step / timedelta(minutes=1)

    @property
    def steps_per_day(self) -> int:
        """Steps per day; specs and readers accept only steps that divide a day."""
        return timedelta(days=1) // self.step

    @property
    def seasons(self) -> tuple[int, ...]:
        """Season lengths in steps, shortest first."""
        return self.spec.seasons_in_steps(self.step_minutes)

    def shards(self, size: int) -> list[list[int]]:
        """All tenant numbers in ascending order, `size` at a time."""
        if size < 1:
            raise ValueError(f"a shard of {size} tenants; allowed: at least 1")
        return [
            list(range(first, min(first + size, self.n_tenants)))
            for first in range(0, self.n_tenants, size)
        ]

    def timestamps(self) -> pl.Series:
        """Time of every step, UTC [T]."""
        end = self.start + (self.n_steps - 1) * self.step
        return pl.datetime_range(
            self.start, end, self.step, time_unit="us", time_zone="UTC", eager=True
        ).alias("timestamp")

    @abstractmethod
    def manifest(self) -> pl.DataFrame:
        """One row per tenant, sorted by tenant_number, with MANIFEST_SCHEMA."""

    def values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        """Telemetry float32 [N, D, T], C-contiguous, NaN where missing; N as given, D as `metrics`,
        T = n_steps.
        """
        outside = [number for number in tenant_numbers if not 0 <= number < self.n_tenants]
        if outside:
            raise ValueError(
                f"tenant number {outside[0]}; fleet {self.spec.name!r} has 0 to "
                f"{self.n_tenants - 1}"
            )
        return self._values(tenant_numbers)

    @abstractmethod
    def _values(self, tenant_numbers: Sequence[int]) -> NDArray[np.float32]:
        """`values` of tenants that exist."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever values or manifest may: fields of the spec, version of the reader, bytes
        of the files.
        """


def take_stock(values: NDArray[np.float32]) -> dict[str, int]:
    """The columns of the manifest that follow from one tenant's values [D, T]."""
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
    """Lengths of all runs of missing steps, missing [D, T]."""
    edges = np.diff(missing.astype(np.int8), axis=1, prepend=0, append=0)
    lengths: NDArray[np.int64] = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    return lengths


def listed(tenants: Sequence[str]) -> str:
    """The first few tenants, and how many more there are."""
    more = f" and {len(tenants) - SHOWN} more" if len(tenants) > SHOWN else ""
    return ", ".join(map(repr, tenants[:SHOWN])) + more
