"""Sensors: what Dagster notices by itself.

What belongs here: reacting to events of the instance. What does not: work on fleets (`assets`).
"""

import dagster as dg


@dg.run_failure_sensor(
    name="explain_failures",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="After every failed run: which step failed on which fleet, why, and what to do, in the sensor's log.",
)
def explain_failures(context: dg.RunFailureSensorContext) -> None:
    """Log what failed and what to do about it."""
    run = context.dagster_run
    fleet = run.tags.get("dagster/partition", "an unpartitioned run")
    failures = [event for event in context.get_step_failure_events() if event.step_failure_data is not None]
    if not failures:
        context.log.error(f"run {run.run_id} on {fleet} failed outside of any step: {context.failure_event.message}; start it again")
    for event in failures:
        context.log.error(
            f"step {event.step_key} of run {run.run_id} on fleet {fleet} failed: {_reason(event)}. "
            "Mend the cause, then re-execute the run from failure: finished shards are kept."
        )


def _reason(event: dg.DagsterEvent) -> str:
    """What the step said: the failure's description, or the error at the bottom of the chain (Dagster wraps it)."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else "unknown"
