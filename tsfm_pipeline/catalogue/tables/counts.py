"""The number of rows that a fleet's table must have, if it follows from earlier tables.

What belongs here: the row counts that a check compares with a table. What does not: the check
itself (`defs.checks`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

AXES: Mapping[str, Callable[[Any], int]] = {
    "metric": lambda fleet: len(fleet.grid.metrics),
    "config": lambda fleet: len(fleet.configs),
    "tier": lambda fleet: len(fleet.protocol.tiers),
}
"""The number of entries of each axis below a request, given a `catalogue.fleet.Fleet`."""


def n_tenants(fleet: Any) -> int:
    """Return the number of tenants in the telemetry."""
    return int(fleet.tables.record("tenant_telemetry")["n_tenants"])


def n_tenant_steps(fleet: Any) -> int:
    """Return the number of tenants times the number of steps of the telemetry."""
    return n_tenants(fleet) * int(fleet.grid.n_steps)


def per_request(roles: tuple[str, ...], *axes: str) -> Callable[[Any], int]:
    """Return a function that counts one row per request of these roles and combination of the axes'
    entries.
    """

    def count(fleet: Any) -> int:
        requests = fleet.tables.scan("forecast_requests").filter(pl.col("role").is_in(roles))
        n_rows = int(requests.select(pl.len()).collect().item())
        for axis in axes:
            n_rows *= AXES[axis](fleet)
        return n_rows

    return count
