"""A fleet whose tables a stand-in for the model made, with the parts that each shard opened.

What belongs here: making it by `benchmarks/scaling.py`. What does not: what tests ask of it.
"""

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.tables import TABLES


class CountedFleet(NamedTuple):
    """The fleet with all of its tables, and by table, for every shard, which parts it opened of
    which input.
    """

    fleet: Fleet
    opened: dict[str, list[dict[str, set[str]]]]


def counted_fleet(
    scaling: ModuleType, root: Path, n_tenants: int, settings: dict[str, Any]
) -> CountedFleet:
    """Make every table of a fleet of 14 days with two requests of each tenant and role."""
    fleet = scaling.open_fleet(root, n_tenants, 14, origins_per_tenant=2, settings=settings)
    counting = scaling.Counting(fleet)
    for table in TABLES:
        scaling.make(fleet, table, counting)
    return CountedFleet(fleet, counting.opened)
