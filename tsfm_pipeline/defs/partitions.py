"""The one partition dimension of the fleet graph: the fleet.

What belongs here: the partitions definition. What does not: what a fleet is (`fleets.spec`).
"""

import dagster as dg

from tsfm_pipeline.fleets.spec import load_specs
from tsfm_pipeline.settings import Settings


def fleet_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """One partition per YAML file; a new file appears after the code location is reloaded."""
    return dg.StaticPartitionsDefinition(list(load_specs(*settings.known_specs_dirs)))
