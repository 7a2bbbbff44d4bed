"""Schedules: when fleets are run automatically.

What belongs here: cron expressions and which partitions they request. What does not: what a run
does (`jobs`).
"""

import dagster as dg

from tsfm_pipeline.fleets.spec import fleet_files
from tsfm_pipeline.settings import Settings

NIGHTLY_CRON = "30 2 * * *"


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the nightly schedule, which is off until someone switches it on in the UI."""
    known = set(fleet_files(settings.fleet_specs_dir).readable()[0])

    @dg.schedule(
        job_name="nightly",
        cron_schedule=NIGHTLY_CRON,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Every night at 02:30 UTC: one run for each fleet whose YAML file says "
        "`nightly: true`. A run keeps tables that are still current, so that a night without new "
        "telemetry only renews the reports. Off by default, because it starts runs.",
    )
    def nightly_schedule(
        context: dg.ScheduleEvaluationContext,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        specs, wrong = fleet_files(settings.fleet_specs_dir).readable()
        problems = list(wrong.values())
        fleets = [name for name, spec in specs.items() if spec.nightly and name in known]
        new = [
            f"{name}.yaml: reload the code location first"
            for name, spec in specs.items()
            if spec.nightly and name not in known
        ]
        for line in (*problems, *new):
            context.log.warning(f"left out: {line}")
        if not fleets:
            return dg.SkipReason(
                "; ".join(
                    [
                        f"no fleet in {settings.fleet_specs_dir} says `nightly: true`",
                        *problems,
                        *new,
                    ]
                )
            )
        night = context.scheduled_execution_time.date().isoformat()
        return [
            dg.RunRequest(
                run_key=f"{night}-{name}", partition_key=name, tags={"fleet": name, "night": night}
            )
            for name in fleets
        ]

    return [nightly_schedule]
