"""A fleet of five shards and its first tables, for tests of where shards are made.

What belongs here: the fleet, and making one of its tables. What does not: Ray (`test_on_ray`,
`ray_network`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.lake import TableSummary
from tsfm_pipeline.parts import Part
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.makers import MAKERS
from tsfm_pipeline.steps.making import make

NAME = "small"
N_SHARDS = 5
TABLE = "request_targets"
"""A sharded table that is made from telemetry and requests, without the model."""
SPEC = {
    "kind": "synthetic",
    "title": "Ten tenants",
    "tenants": 10,
    "days": 14,
    "seed": 7,
    "origins_per_tenant": 2,
    "minimum_per_archetype": 1,
}


def small_settings(root: Path, **options: Any) -> Settings:
    """Return the settings of the small fleet below `root`, and write its file."""
    (root / "specs").mkdir(parents=True, exist_ok=True)
    (root / "specs" / f"{NAME}.yaml").write_text(yaml.safe_dump(SPEC))
    values: dict[str, Any] = {"shard_tenants": 2, **options}
    return Settings(data_dir=root / "data", specs_dir=root / "specs", **values)


def made(
    settings: Settings,
    table: str,
    log: Callable[[str], Any] = lambda _: None,
    *,
    force: bool = False,
) -> TableSummary:
    """Make one table of the small fleet as its asset does."""
    fleet = opened(settings)
    return make(FLEETS, fleet, TABLES[table], MAKERS[table], settings, force=force, log=log)


def opened(settings: Settings) -> Fleet:
    """Open the small fleet."""
    return open_workspace_fleet(settings, NAME)


def parts(settings: Settings, table: str = TABLE) -> Sequence[Part]:
    """Return the parts of a table: their names, sizes and SHA-256."""
    return opened(settings).tables.parts(table)


def inputs_made(root: Path, **options: Any) -> Settings:
    """Make, in this process, what `TABLE` is made from, and `TABLE` itself."""
    settings = small_settings(root, **options)
    for table in ("tenant_telemetry", "tenant_manifest", "forecast_requests", TABLE):
        made(settings, table)
    return settings
