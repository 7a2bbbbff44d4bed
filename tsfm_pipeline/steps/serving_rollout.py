"""The rollout of the service, decided from what it recorded and what came of its alerts.

What belongs here: the table `rollout_decision`, publishing its last row, and the record table
`rollout_history`. What does not: the rules (`evaluation.rollout`), people's decisions
(`steps.rollout_overrides`).

What was decided once stays decided: every run appends its decisions to the history, and the next
one goes on from the last of them. Decided anew, an old one would change as the answers of the weeks
before it are no longer read.
"""

from datetime import UTC, datetime, time, timedelta
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.intake import taken_in
from tsfm_pipeline.catalogue.records import ROLLOUT_HISTORY, RecordTable
from tsfm_pipeline.catalogue.serving_columns import DECISIONS, schema_of_columns
from tsfm_pipeline.evaluation.intervals import MOVE_HOURS
from tsfm_pipeline.evaluation.rollout import (
    AUTOMATIC,
    RolloutDecision,
    RolloutLimits,
    decisions,
    overridden,
)
from tsfm_pipeline.evaluation.rollout_windows import PrecisionDay, ServiceWindow, service_windows
from tsfm_pipeline.evaluation.served import INELIGIBLE
from tsfm_pipeline.steps.rollout_overrides import overrides, publish

TABLE = "rollout_decision"
HISTORY_SCHEMA: dict[str, Any] = {
    "since": pl.Datetime("us", "UTC"),
    "stage": pl.String,
    "percent": pl.Int32,
    "reason": pl.String,
    "by": pl.String,
}
SETTLED = timedelta(minutes=2)
"""Windows that end later before the records were taken in are not judged yet: a service writes its
records once a minute, so that some of theirs may be missing.
"""


def rollout_decision(fleet: Fleet) -> pl.DataFrame:
    """Return one row per decision, the last one in force; none where nothing was ever recorded."""
    made = all_decisions(fleet)
    if not made:
        return pl.DataFrame(schema=schema_of_columns(*DECISIONS))
    earlier = [
        {
            "stage": row["stage"],
            "percent": row["percent"],
            "since": row["since"],
            "decided_because": row["reason"],
            "decided_by": row["by"],
            "known_until": made[0].as_of,
        }
        for row in history(fleet).read()[:-1].iter_rows(named=True)
    ]
    rows = [
        {
            "stage": one.stage,
            "percent": one.percent,
            "since": one.since,
            "decided_because": one.reason,
            "decided_by": one.by,
            "known_until": one.as_of,
            "windows_judged": one.windows_judged,
            "clean_minutes": one.clean_minutes,
        }
        for one in made
    ]
    return pl.DataFrame([*earlier, *rows], schema=schema_of_columns(*DECISIONS))


def publish_rollout(fleet: Fleet) -> dict[str, Any]:
    """Publish the decision in force, and return what to show of it.

    A person may decide while the run decides. Whatever was recorded since the records were taken in
    is therefore applied to the decision, again until nothing new is there.
    """
    made = all_decisions(fleet)
    if not made:
        return {"stage": "off", "reason": "nothing was recorded"}
    _remember(fleet, made)
    n_known = -1
    while len(records := overrides(fleet)) != n_known:
        n_known, decision = len(records), made[-1]
        for override in records:
            if override.at > decision.as_of:
                decision = overridden(decision, override)
        publish(fleet, decision)
    return {
        "stage": decision.stage,
        "percent": decision.percent,
        "since": decision.since.isoformat(),
        "reason": decision.reason,
        "by": decision.by,
    }


def all_decisions(fleet: Fleet, limits: RolloutLimits | None = None) -> list[RolloutDecision]:
    """Return the last decision that was remembered, and those that follow from all that was taken
    in since; the last one is in force. None where nothing was ever taken in.
    """
    intake = taken_in(fleet.published_dir)
    if intake is None:
        return []
    limits = limits or RolloutLimits()
    initial, restarted = _remembered(fleet, intake.until)
    settled = intake.until - SETTLED - timedelta(minutes=limits.window_minutes)
    windows = windows_of(fleet.tables.read("served_forecasts"), limits.window_minutes)
    return decisions(
        [window for window in windows if window.start <= settled],
        precision_days(fleet),
        overrides(fleet),
        intake.until,
        limits,
        initial,
        restarted,
    )


def history(fleet: Fleet) -> RecordTable:
    """Return the record table `rollout_history`: one row per decision that a run made."""
    return RecordTable(fleet.records_dir / ROLLOUT_HISTORY, HISTORY_SCHEMA)


def _remembered(fleet: Fleet, as_of: datetime) -> tuple[RolloutDecision | None, datetime | None]:
    """Return the decision that was remembered last, and when a person last acted before it, or the
    rollout began; None where there is none.
    """
    rows = history(fleet).read()
    if rows.is_empty():
        return None, None
    people = rows.filter(pl.col("by") != AUTOMATIC)["since"]
    restarted = people[-1] if len(people) else rows["since"][0]
    return RolloutDecision(**rows.row(-1, named=True), as_of=as_of), restarted


def _remember(fleet: Fleet, made: list[RolloutDecision]) -> None:
    """Append the decisions that the history does not hold yet."""
    table = history(fleet)
    known = set(table.read().select("since", "stage").rows())
    new = [one for one in made if (one.since, one.stage) not in known]
    if new:
        rows = [{name: getattr(one, name) for name in HISTORY_SCHEMA} for one in new]
        table.append(pl.DataFrame(rows, schema=HISTORY_SCHEMA))


def of_the_model(served: pl.DataFrame) -> pl.DataFrame:
    """Return the answers that the model was to give, or was asked for in shadow."""
    return served.filter(
        pl.col("route").is_in(["model", "shadow"])
        & ~pl.col("fallback_reason").fill_null("").is_in(INELIGIBLE)
    )


def windows_of(served: pl.DataFrame, minutes: int) -> list[ServiceWindow]:
    """Return the windows of the answers that the model was asked for."""
    rows = of_the_model(served)
    return service_windows(
        rows["received"].dt.replace_time_zone(None).to_numpy(),
        rows["stage"].fill_null("off").to_list(),
        rows["latency_ms"].to_numpy().astype(np.float64),
        error=(rows["status"] >= 500).fill_null(value=False).to_numpy(),
        invalid=rows["invalid_output"].fill_null(value=False).to_numpy(),
        fallback=(rows["fallback_reason"].fill_null("") != "").to_numpy(),
        breaker_open=(rows["breaker"].fill_null("") == "open").to_numpy(),
        minutes=minutes,
    )


def precision_days(fleet: Fleet) -> list[PrecisionDay]:
    """Return the alerts of each day (UTC) whose follow-up time is over in the telemetry."""
    alerts = fleet.tables.read("band_alerts", columns=["time", "band_source", "followed"])
    end = fleet.grid.time_of(fleet.grid.n_steps - 1)
    rows = alerts.filter(pl.col("followed").is_not_null()).with_columns(
        day=pl.col("time").dt.date(), reference=pl.col("band_source") == "baseline"
    )
    days = []
    for (day,), own in rows.group_by("day", maintain_order=True):
        over = datetime.combine(day, time(), UTC) + timedelta(days=1, hours=MOVE_HOURS)
        if over > end:
            continue
        model, reference = own.filter(~pl.col("reference")), own.filter(pl.col("reference"))
        days.append(
            PrecisionDay(
                day=day,
                breaches=model.height,
                followed=int(model["followed"].sum()),
                reference_breaches=reference.height,
                reference_followed=int(reference["followed"].sum()),
            )
        )
    return days
