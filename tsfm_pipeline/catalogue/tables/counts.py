"""How many rows a fleet's table must have, where that follows from the tables before it.

What belongs here: counts that a check holds a table against. What does not: the check itself
(`defs.checks`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

AXES: Mapping[str, Callable[[Any], int]] = {
    "metric": lambda fleet: len(fleet.grid.metrics),
    "config": lambda fleet: len(fleet.configs),
    "tier": lambda fleet: len(fleet.protocol.tiers),
}
"""Entries of each axis below a request, of a `catalogue.fleet.Fleet`."""


def n_tenants(fleet: Any) -> int:
    """Return how many tenants the telemetry holds."""
    return int(fleet.tables.record("tenant_telemetry")["n_tenants"])


def n_tenant_steps(fleet: Any) -> int:
    """Return how many tenants times steps the telemetry covers."""
    return n_tenants(fleet) * int(fleet.grid.n_steps)


def per_request(roles: tuple[str, ...], *axes: str) -> Callable[[Any], int]:
    """Count a row for each request of these roles and each combination of the axes' entries."""

    def count(fleet: Any) -> int:
        requests = fleet.tables.scan("forecast_requests").filter(pl.col("role").is_in(roles))
        n_rows = int(requests.select(pl.len()).collect().item())
        for axis in axes:
            n_rows *= AXES[axis](fleet)
        return n_rows

    return count
