"""Sensors: the events that Dagster reacts to by itself.

What belongs here: reacting to files and to events of the instance, and storing in a cursor which of
them were handled. What does not: work on fleets (`assets`), what counts as a change
(`fleets.changes`), delivering alerts (`alerts`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from tsfm_pipeline.defs.alerts import Alert, AlertError, AlertSettings, post
from tsfm_pipeline.defs.jobs import FULL_JOB
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.fleets import FetchedFleet, FleetDataError, FleetSpecError
from tsfm_pipeline.fleets.changes import Look, look_again
from tsfm_pipeline.fleets.spec import AnyFleet, fleet_files
from tsfm_pipeline.lake import open_lake
from tsfm_pipeline.settings import Settings

CRITERIA = dg.AssetKey("acceptance_criteria")
PARTITION = "dagster/partition"
LOOK_EVERY_S = 120
"""Seconds between two evaluations. A file must stay unchanged for this long before its fleet is
run.
"""
EARLIER_VERDICTS = 20
"""How many earlier materialisations are searched for the last one of the same profile."""
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_LOOKS = TypeAdapter(dict[str, Look])


def build_sensors(settings: Settings, alerts: AlertSettings) -> list[dg.SensorDefinition]:
    """Return the sensors: `explain_failures` and `failing_criteria` only report; `changed_fleets`
    requests runs and is off by default.
    """
    return [_explain_failures(alerts), _failing_criteria(alerts), _changed_fleets(settings)]


def _explain_failures(alerts: AlertSettings) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name="explain_failures",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="After every failed run, reports which step failed on which fleet, why, and "
        "what to do: in the sensor's log, and to the webhook of TSFM_ALERT_WEBHOOK_URL, if set.",
    )
    def explain_failures(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        fleet = run.tags.get(PARTITION, "an unpartitioned run")
        failures = [
            event
            for event in context.get_step_failure_events()
            if event.step_failure_data is not None
        ]
        details = tuple(
            {"step": str(event.step_key), "reason": _reason(event)} for event in failures
        )
        lines = [
            f"step {failed['step']} of run {run.run_id} on fleet {fleet} failed: "
            f"{failed['reason']}. "
            "Fix the cause, then re-execute the run from failure: finished shards are kept."
            for failed in details
        ] or [
            f"run {run.run_id} on {fleet} failed outside of any step: "
            f"{context.failure_event.message}; start it again"
        ]
        for line in lines:
            context.log.error(line)
        _tell(
            context.log,
            alerts,
            Alert(
                kind="run_failed",
                fleet=fleet,
                run_id=run.run_id,
                text="\n".join(lines),
                details=details,
            ),
        )

    return explain_failures


def _failing_criteria(alerts: AlertSettings) -> dg.SensorDefinition:
    @dg.sensor(
        name="failing_criteria",
        minimum_interval_seconds=LOOK_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports which acceptance criteria turned from PASS to FAIL since the "
        "fleet's last run of the same profile: in the sensor's log, and to the webhook of "
        "TSFM_ALERT_WEBHOOK_URL, if set. It requests no runs.",
    )
    def failing_criteria(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        latest = context.instance.fetch_materializations(CRITERIA, limit=1).records
        if context.cursor is None or not context.cursor.isdecimal():
            newest = latest[0].storage_id if latest else 0
            return dg.SensorResult(
                cursor=str(newest),
                skip_reason="first evaluation: later results will be compared",
            )
        since = dg.AssetRecordsFilter(asset_key=CRITERIA, after_storage_id=int(context.cursor))
        records = context.instance.fetch_materializations(
            since, limit=EARLIER_VERDICTS, ascending=True
        ).records
        n_alerts = 0
        for record in records:
            fleet = str(record.partition_key)
            before, now = _verdicts_before(context.instance, record), _verdicts(record)
            turned = [
                name
                for name, row in now.items()
                if row["verdict"] == "FAIL" and before.get(name, {}).get("verdict") == "PASS"
            ]
            for name in turned:
                context.log.warning(
                    f"fleet {fleet}: {name} turned from PASS to FAIL: {_said(now[name])}; before: "
                    f"{_said(before[name])}"
                )
            if turned:
                n_alerts += 1
                details = tuple(
                    {
                        "criterion": name,
                        "now": _said(now[name]),
                        "before": _said(before[name]),
                        "target": str(now[name]["target"]),
                    }
                    for name in turned
                )
                text = f"fleet {fleet}: {', '.join(turned)} turned from PASS to FAIL"
                _tell(
                    context.log,
                    alerts,
                    Alert(
                        kind="criterion_failed",
                        fleet=fleet,
                        run_id=record.run_id,
                        text=text,
                        details=details,
                    ),
                )
        cursor = str(records[-1].storage_id) if records else context.cursor
        return dg.SensorResult(
            cursor=cursor,
            skip_reason=f"{len(records)} new results, {n_alerts} with a criterion that now fails",
        )

    return failing_criteria


def _changed_fleets(settings: Settings) -> dg.SensorDefinition:
    known, _ = fleet_files(settings.fleet_specs_dir).readable()

    @dg.sensor(
        name="changed_fleets",
        job_name=FULL_JOB,
        minimum_interval_seconds=LOOK_EVERY_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Requests a full run of every fleet whose files or YAML changed and then "
        "stayed unchanged for two minutes; logs when a YAML file requires a reload of this code "
        "location. Prometheus and SQL fleets are left to the nightly schedule, which queries their "
        "server. Off by default, because it starts runs.",
    )
    def changed_fleets(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        files = fleet_files(settings.fleet_specs_dir)
        specs, wrong = files.readable()
        messages = list(wrong.values())
        looks = _remembered(context)
        watched = {
            name: spec
            for name, spec in specs.items()
            if name in known and not isinstance(spec, FetchedFleet)
        }
        requests = []
        for name, spec in watched.items():
            try:
                look, state = look_again(
                    spec, settings.fleet_tables_dir, looks.get(name), _made_from(settings, name)
                )
            except (FleetDataError, FleetSpecError, LakeError, OSError) as error:
                messages.append(str(error).partition(". ")[0])
                continue
            if state == "being written":
                messages.append(
                    f"fleet {name} has just changed; it will be run once it stays unchanged"
                )
            elif state == "changed" and (busy := _unfinished(context.instance, name)):
                messages.append(
                    f"fleet {name} has changed, but run {busy} of it is queued or running; it "
                    "will be checked again after that run"
                )
                continue
            elif state == "changed":
                # The stamp gives a fleet that changed back a new key, so that it is run again.
                key = f"{name}-{look.fingerprint[:16]}-{look.stamp}"
                requests.append(
                    dg.RunRequest(
                        run_key=key, partition_key=name, tags={"fleet": name, "purpose": "changed"}
                    )
                )
                context.log.info(f"fleet {name} has changed: a run is requested")
            looks[name] = look
        messages += _reloads(known, specs, files.paths)
        for line in messages:
            context.log.warning(line)
        cursor = _LOOKS.dump_json(
            {name: look for name, look in looks.items() if name in known}
        ).decode()
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=cursor)
        return dg.SensorResult(
            cursor=cursor,
            skip_reason="; ".join([f"none of {len(watched)} fleets is to be run", *messages]),
        )

    return changed_fleets


def _remembered(context: dg.SensorEvaluationContext) -> dict[str, Look]:
    """Return the previous tick's cursor; empty (and logged) if it cannot be parsed."""
    if context.cursor is None:
        return {}
    try:
        return _LOOKS.validate_json(context.cursor)
    except ValidationError:
        context.log.warning(
            "the cursor was written by another release: every fleet is compared with its stored "
            "telemetry again"
        )
        return {}


def _made_from(settings: Settings, fleet: str) -> str | None:
    """Return the fingerprint of the source that a fleet's stored telemetry was made from, or None
    if no telemetry is stored.
    """
    return open_lake(settings).fleet(fleet).recorded("tenant_telemetry").get("source_fingerprint")


def _unfinished(instance: dg.DagsterInstance, fleet: str) -> str | None:
    """Return the id of an unfinished run of that fleet, or None."""
    runs = instance.get_runs(dg.RunsFilter(tags={PARTITION: fleet}, statuses=UNFINISHED), limit=1)
    return runs[0].run_id if runs else None


def _reloads(
    known: Mapping[str, AnyFleet], specs: Mapping[str, AnyFleet], paths: Mapping[str, Path]
) -> list[str]:
    """Return the changes in YAML files that this code location has not loaded yet, one sentence
    each.
    """
    reload = "reload the code location (Deployment > Reload)"
    appeared = [
        f"{name}.yaml has appeared: {reload}, then the fleet can be run"
        for name in sorted(set(specs) - set(known))
    ]
    vanished = [
        f"{name}.yaml has vanished: {reload}; until then runs of the fleet fail"
        for name in sorted(set(known) - set(paths))
    ]
    both = sorted(set(known) & set(specs))
    changed = [
        f"{name}.yaml has changed: runs already follow it; {reload} to clear this message"
        for name in both
        if known[name] != specs[name]
    ]
    return appeared + vanished + changed


def _shown(record: dg.EventLogRecord) -> Mapping[str, Any]:
    """Return the metadata of a materialisation, as plain values."""
    materialisation = record.asset_materialization
    return (
        {}
        if materialisation is None
        else {name: value.value for name, value in materialisation.metadata.items()}
    )


def _verdicts(record: dg.EventLogRecord) -> dict[str, dict[str, Any]]:
    """Return {criterion: its row} of one materialisation; empty if an older release made it."""
    return {row["id"]: row for row in _shown(record).get("criteria", ())}


def _verdicts_before(
    instance: dg.DagsterInstance, record: dg.EventLogRecord
) -> dict[str, dict[str, Any]]:
    """Return the verdicts on the same fleet from the last earlier materialisation of the same
    profile.
    """
    earlier = dg.AssetRecordsFilter(
        CRITERIA, asset_partitions=[str(record.partition_key)], before_storage_id=record.storage_id
    )
    for candidate in instance.fetch_materializations(earlier, limit=EARLIER_VERDICTS).records:
        if _shown(candidate).get("profile") == _shown(record).get("profile"):
            return _verdicts(candidate)
    return {}


def _said(row: dict[str, Any]) -> str:
    figure = "" if row["figure"] is None else f" at {row['figure']:.4g}"
    return f"{row['verdict']}{figure}"


def _tell(log: Any, alerts: AlertSettings, alert: Alert) -> None:
    """Post an alert. If that fails, log the error and go on."""
    try:
        post(alert, alerts)
    except AlertError as error:
        log.error(str(error))


def _reason(event: dg.DagsterEvent) -> str:
    """Return why the step failed: the failure's description, or the innermost error of the chain
    (Dagster wraps errors).
    """
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else "unknown"
