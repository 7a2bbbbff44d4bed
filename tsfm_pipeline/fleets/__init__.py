"""Telemetry in: fleet specs, the synthetic generator, tables, and one entry for all of them.

What belongs here: everything between a fleet's YAML file and its values on a regular grid. What does not: writing
telemetry (`lake`), features (`archetypes`), requests and scores (`evaluation`).
"""

from pathlib import Path

from tsfm_pipeline.fleets.source import MANIFEST_SCHEMA, FleetDataError, FleetSource
from tsfm_pipeline.fleets.spec import FleetSpec, FleetSpecError, SyntheticFleet, TableFleet, load_spec, load_specs

__all__ = [
    "MANIFEST_SCHEMA",
    "FleetDataError",
    "FleetSource",
    "FleetSpec",
    "FleetSpecError",
    "SyntheticFleet",
    "TableFleet",
    "load_spec",
    "load_specs",
    "open_fleet",
]


def open_fleet(spec: SyntheticFleet | TableFleet, *, fleets_dir: Path) -> FleetSource:
    """The fleet that a spec describes; tables are looked for in `fleets_dir` and checked in full.

    Raises `FleetDataError` for a table that is missing or cannot be used.
    """
    if isinstance(spec, SyntheticFleet):
        from tsfm_pipeline.fleets.synthetic import SyntheticSource

        return SyntheticSource(spec)
    from tsfm_pipeline.fleets.table import TableSource

    return TableSource(spec, fleets_dir=fleets_dir)
