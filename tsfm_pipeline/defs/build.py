"""The factory of all definitions: it takes settings and returns one `Definitions`. The entry point
and the tests share it.

What belongs here: putting the parts together. What does not: the parts.
"""

import dagster as dg

from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.defs.alerts import AlertSettings
from tsfm_pipeline.defs.assets import (
    evidence,
    policy,
    recommendations,
    reports,
    serving,
    tables,
)
from tsfm_pipeline.defs.code_references import with_references_to_bodies
from tsfm_pipeline.defs.jobs import build_jobs, executor
from tsfm_pipeline.defs.partitions import partitions_of
from tsfm_pipeline.defs.progress import loggers
from tsfm_pipeline.defs.resources import resources
from tsfm_pipeline.defs.schedules import build_schedules
from tsfm_pipeline.defs.sensors import build_sensors
from tsfm_pipeline.settings import Settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return all assets over the fleets that `settings` points at, with jobs, schedules, sensors,
    resources and loggers.
    """
    partitions = partitions_of(FLEETS, settings)
    shown = policy.build() + [
        asset
        for group in (recommendations, serving, reports, evidence)
        for asset in group.build(partitions)
    ]
    assets = [*tables.build(partitions), *with_references_to_bodies(shown)]
    questions = {
        key.to_user_string(): question
        for asset in assets
        for key, question in asset.descriptions_by_key.items()
    }
    return dg.Definitions(
        assets=assets,
        jobs=build_jobs(partitions),
        schedules=build_schedules(settings),
        sensors=build_sensors(settings, AlertSettings()),
        resources=resources(settings),
        executor=executor,
        loggers=loggers(questions),
    )
