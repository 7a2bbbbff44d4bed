"""The factory of all definitions: settings in, one `Definitions` out; shared by the entry point and the tests.

What belongs here: putting the parts together. What does not: the parts.
"""

import warnings
from typing import Any

import dagster as dg

from tsfm_pipeline.defs.alerts import AlertSettings
from tsfm_pipeline.defs.assets import archetypes, evidence, forecasts, recommendations, reports, scores, workloads
from tsfm_pipeline.defs.jobs import build_jobs, executor
from tsfm_pipeline.defs.partitions import fleet_partitions
from tsfm_pipeline.defs.resources import resources
from tsfm_pipeline.defs.schedules import build_schedules
from tsfm_pipeline.defs.sensors import build_sensors
from tsfm_pipeline.settings import Settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """All assets over the fleets that `settings` points at, with jobs, schedules, sensors and resources."""
    partitions = fleet_partitions(settings)
    groups = (workloads, archetypes, forecasts, scores, recommendations, reports, evidence)
    return dg.Definitions(
        assets=_with_code_references([asset for group in groups for asset in group.build(partitions)]),
        jobs=build_jobs(partitions),
        schedules=build_schedules(settings),
        sensors=build_sensors(settings, AlertSettings()),
        resources=resources(settings),
        executor=executor,
    )


def _with_code_references(assets: list[Any]) -> list[Any]:
    """The assets with file and line of their bodies, which the UI shows; Dagster's release is pinned, so its beta warning says nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return list(dg.with_source_code_references(assets))
