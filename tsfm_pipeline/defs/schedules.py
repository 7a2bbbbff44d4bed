"""Schedules: when fleets are run automatically.

What belongs here: cron expressions and which partitions they request. What does not: what a run
does (`jobs`).
"""

import dagster as dg

from tsfm_pipeline.catalogue.records import SUFFIX
from tsfm_pipeline.defs.jobs import SERVING_JOB
from tsfm_pipeline.evaluation.served import FOLDER
from tsfm_pipeline.fleets.spec import fleet_files
from tsfm_pipeline.settings import Settings

NIGHTLY_CRON = "30 2 * * *"
CALIBRATION_CRON = "30 5 * * *"
"""After the nightly runs, which hold the fleets that they make."""


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Return the nightly schedules, which are off until someone switches them on in the UI."""
    known = set(fleet_files(settings.fleet_specs_dir).readable()[0])
    everywhere = set(fleet_files(*settings.known_specs_dirs).readable()[0])

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

    @dg.schedule(
        job_name=SERVING_JOB,
        cron_schedule=CALIBRATION_CRON,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Every night at 05:30 UTC: one run of the job `serving` for each fleet that "
        "the online service has answered, so that its calibration is that of the last days. Off "
        "by default, because it starts runs.",
    )
    def nightly_calibration(
        context: dg.ScheduleEvaluationContext,
    ) -> list[dg.RunRequest] | dg.SkipReason:
        served = [
            name
            for name in sorted(everywhere)
            if any((settings.records_dir / name / FOLDER).glob(f"*{SUFFIX}"))
        ]
        if not served:
            return dg.SkipReason(f"no fleet has served records in {settings.records_dir}")
        night = context.scheduled_execution_time.date().isoformat()
        return [
            dg.RunRequest(
                run_key=f"serving-{night}-{name}",
                partition_key=name,
                tags={"fleet": name, "night": night},
            )
            for name in served
        ]

    return [nightly_schedule, nightly_calibration]
