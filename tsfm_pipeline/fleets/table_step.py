"""The step of a table fleet's grid, and the rows that lie off the grid.

What belongs here: inferring the step from the distances between rows, and the rule for timestamps.
What does not: placing rows on the grid (`fleets.table`).
"""

from datetime import timedelta

import polars as pl

from tsfm_pipeline.fleets.fields import possible_step
from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.source import SHOWN, FleetDataError, listed
from tsfm_pipeline.fleets.table_rows import Rule, TableFiles, collect

MINUTE_US = 60_000_000
JITTER = 0.1
"""How far the median distance between rows may lie from a usual step, as a share of it, with
`align: up`.
"""
USUAL_STEPS_US = tuple(
    length * unit
    for unit, lengths in (
        (1_000_000, (1, 2, 5, 10, 15, 20, 30)),
        (MINUTE_US, (1, 2, 3, 4, 5, 10, 15, 20, 30)),
        (60 * MINUTE_US, (1, 2, 3, 4, 6, 12, 24, 168)),
    )
    for length in lengths
)
"""Steps that clocks usually have: seconds, minutes, hours, a day and a week."""
WEEK_US = 7 * 24 * 60 * MINUTE_US
_TENANTS_FOR_STEP = 50


def off_grid_rule(spec: TableFleet, step_us: int, phase: int) -> Rule:
    """Return the rule that the time of a row is `phase` after a whole number of steps."""
    return Rule(
        spec.time_name,
        f"timestamps off the grid of {timedelta(microseconds=step_us)} steps that most rows lie on",
        (pl.col("time") - phase) % step_us != 0,
        "timestamps a whole number of steps apart; correct 'step', or set 'align: up' to move "
        "each up to the next step (an earlier step would use the value before it was known)",
    )


def step_of(files: TableFiles, tenant_ids: list[str]) -> tuple[int, int]:
    """Return the step in microseconds, and the remainder that most timestamps leave when divided by
    it.

    With `align: up`, distances that jitter around a usual step count as that step. Raises
    `FleetDataError` where the step cannot be inferred, or where the fleet file names another one.
    """
    spec = files.spec
    time = pl.col("time")
    some = (
        files.rows()
        .filter(pl.col("tenant").is_in(tenant_ids[:_TENANTS_FOR_STEP]))
        .select("tenant", "time")
    )
    apart = (
        some.sort("tenant", "time")
        .select(time.diff().over("tenant").alias("apart"))
        .filter(pl.col("apart") > 0)
    )
    counts = collect(
        spec, apart.group_by("apart").len().sort(["len", "apart"], descending=[True, False])
    )
    usual = (
        counts["apart"][0] if counts.height and counts["len"][0] > counts["len"].sum() / 2 else None
    )
    if spec.align == "up" and (usual is None or not possible_step(usual / MINUTE_US)):
        usual = _jittering_around(counts)
    distances = (
        ", ".join(
            f"{timedelta(microseconds=us)} ({n} times)" for us, n in counts.head(SHOWN).iter_rows()
        )
        or "none"
    )
    if spec.step == "infer":
        if (median := _median(counts)) is not None and median > WEEK_US:
            raise FleetDataError(
                f"{time_column(spec)}: rows of one tenant are apart by {distances}: "
                f"{_long_step(median)}; allowed: steps of at most a week. Use weekly or daily rows"
            )
        if usual is None or not possible_step(usual / MINUTE_US):
            raise FleetDataError(
                f"{time_column(spec)}: the step cannot be inferred; rows of one tenant "
                f"({listed(tenant_ids[:_TENANTS_FOR_STEP])}) are apart by {distances}; allowed: "
                "one distance between most consecutive rows that divides a day or is a whole "
                "number of days up to a week, or a 'step' in the fleet file (--step of `fleet "
                "init`)"
            )
        step_us = int(usual)
    else:
        step_us = round(float(spec.step) * MINUTE_US)
        if usual is not None and usual != step_us:
            raise FleetDataError(
                f"{time_column(spec)}: the fleet file sets steps of "
                f"{timedelta(microseconds=step_us)}, but rows of one tenant are apart by "
                f"{distances}; allowed: 'infer', or the distance of most consecutive rows"
            )
    phases = (
        files.rows()
        .group_by((time % step_us).alias("phase"))
        .len()
        .sort(["len", "phase"], descending=[True, False])
    )
    return step_us, int(collect(spec, phases.head(1))["phase"][0])


def _jittering_around(counts: pl.DataFrame) -> int | None:
    """Return the usual step within a tenth of which the median of the distances (apart, len) lies,
    in microseconds; None if there is none.
    """
    median = _median(counts)
    if median is None:
        return None
    near = [step for step in USUAL_STEPS_US if abs(median - step) <= JITTER * step]
    return near[0] if near else None


def _median(counts: pl.DataFrame) -> int | None:
    """Return the median of the distances (apart, len) in microseconds; None without any."""
    ordered = counts.sort("apart").with_columns(pl.col("len").cum_sum().alias("up to"))
    half = ordered.filter(pl.col("up to") * 2 >= counts["len"].sum())["apart"]
    return int(half[0]) if len(half) else None


def _long_step(median_us: int) -> str:
    days = median_us / (WEEK_US / 7)
    return "steps of a month" if 28 <= days <= 31 else f"steps of {days:g} days"


def time_column(spec: TableFleet) -> str:
    """Return the fleet and its column of times, as errors name them."""
    return f"fleet {spec.name!r}, column {spec.time_name!r}"
