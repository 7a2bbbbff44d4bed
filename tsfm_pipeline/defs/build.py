"""The factory of all definitions: settings in, one `Definitions` out; shared by the entry point and the tests.

What belongs here: putting the parts together. What does not: the parts.
"""

import dagster as dg

from tsfm_pipeline.defs.assets import archetypes, evidence, forecasts, reports, scores, workloads
from tsfm_pipeline.defs.jobs import build_jobs, executor
from tsfm_pipeline.defs.partitions import fleet_partitions
from tsfm_pipeline.defs.resources import resources
from tsfm_pipeline.defs.schedules import build_schedules
from tsfm_pipeline.defs.sensors import explain_failures
from tsfm_pipeline.settings import Settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """All assets over the fleets that `settings` points at, with jobs, schedules, sensors and resources."""
    partitions = fleet_partitions(settings)
    groups = (workloads, archetypes, forecasts, scores, reports, evidence)
    return dg.Definitions(
        assets=[asset for group in groups for asset in group.build(partitions)],
        jobs=build_jobs(partitions),
        schedules=build_schedules(settings),
        sensors=[explain_failures],
        resources=resources(settings),
        executor=executor,
    )
