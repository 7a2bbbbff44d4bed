"""Schedules: when fleets are run without anyone asking.

What belongs here: cron expressions and which partitions they request. What does not: what a run does (`jobs`).
"""

import dagster as dg

from tsfm_pipeline.fleets.spec import load_specs
from tsfm_pipeline.settings import Settings

NIGHTLY_CRON = "30 2 * * *"


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The nightly schedule, off until someone switches it on in the UI."""

    @dg.schedule(
        job_name="nightly",
        cron_schedule=NIGHTLY_CRON,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Every night at 02:30 UTC: one run for each fleet whose YAML file says `nightly: true`. Off by default.",
    )
    def nightly_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        fleets = [name for name, spec in load_specs(settings.fleet_specs_dir).items() if spec.nightly]
        if not fleets:
            return dg.SkipReason(f"no fleet in {settings.fleet_specs_dir} says `nightly: true`")
        night = context.scheduled_execution_time.date().isoformat()
        return [dg.RunRequest(run_key=f"{night}-{name}", partition_key=name, tags={"fleet": name, "night": night}) for name in fleets]

    return [nightly_schedule]
