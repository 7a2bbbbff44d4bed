"""Alerts: values that left the band that the service had last forecast for them.

What belongs here: the table `band_alerts`. What does not: deciding whether alerts are precise
enough to go on rolling out (`steps.serving_rollout`), and notifying people (Prometheus rules in
`deploy/`).

The band of a value is the 90 % interval of the latest answer before it: the calibrated one where
there is a calibration, else the raw one, and a baseline's where the model did not answer.
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.serving_columns import ALERTS, schema_of_columns
from tsfm_pipeline.evaluation.intervals import MOVE, MOVE_HOURS, followed, ranges

TABLE = "band_alerts"
_SERIES = ("tenant_number", "metric")


def band_alerts(fleet: Fleet) -> pl.DataFrame:
    """Return one row per series and step whose value lay outside its band, in the order of time."""
    schema = schema_of_columns(*ALERTS)
    outside = _outside(latest_bands(fleet.tables.read("served_outcomes")))
    if outside.is_empty():
        return pl.DataFrame(schema=schema)
    sizes, moved = _sizes(fleet, outside)
    start = pl.lit(fleet.grid.start).cast(pl.Datetime("us", "UTC"))
    step_us = round(fleet.grid.step_minutes * 60e6)
    shadow = pl.col("route") == "shadow"  # its deciles are the model's, its band is a baseline's
    baseline = (pl.col("runtime") == "baseline") | (pl.col("route") == "baseline") | shadow
    rows = outside.with_columns(
        time=start + (pl.col("step").cast(pl.Int64) * step_us).cast(pl.Duration("us")),
        band_source=pl.when(baseline)
        .then(pl.lit("baseline"))
        .when(pl.col("calibration").fill_null("") != "")
        .then(pl.lit("conformal"))
        .otherwise(pl.lit("raw")),
        fallback_used=(pl.col("fallback_reason").fill_null("") != "") | shadow,
        breach_size=pl.Series(sizes, dtype=pl.Float32).fill_nan(None),
        followed=pl.Series(moved).fill_nan(None).cast(pl.Boolean),
    )
    typed = rows.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    return typed.sort("time", "tenant_number", "metric")


def latest_bands(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return one row per series and step with a known value: step, observed, and the band of the
    latest answer before it. Columns of the answer are kept.

    outcomes: rows of `served_outcomes`.
    """
    whole = [pl.col(name).list.len() == pl.col("horizon") for name in ("low_90", "high_90")]
    answers = (
        outcomes.filter((pl.col("unmatched") == "") & (pl.col("n_known") > 0) & whole[0] & whole[1])
        .sort(*_SERIES, "as_of_step", "received")
        .unique([*_SERIES, "as_of_step"], keep="last", maintain_order=True)
    )
    until_next = pl.col("as_of_step").shift(-1).over(_SERIES) - pl.col("as_of_step")
    n_steps = pl.min_horizontal(pl.col("horizon"), until_next.fill_null(pl.col("horizon")))
    lists = {"observed": "outcome", "band_low": "low_90", "band_high": "high_90"}
    first = pl.col("as_of_step") + 1
    return (
        answers.with_columns(
            pl.int_ranges(first, first + n_steps).alias("step"),
            *(pl.col(source).list.head(n_steps).alias(name) for name, source in lists.items()),
        )
        .explode("step", *lists)
        .filter(pl.col("observed").is_not_null())
    )


def describe_alerts(fleet: Fleet) -> dict[str, Any]:
    """Return how many alerts there are, by the source of their band, and the share that was
    followed by a move.
    """
    rows = fleet.tables.read(TABLE, columns=["band_source", "followed"])
    known = rows["followed"].drop_nulls()
    by_source = rows["band_source"].value_counts(sort=True).to_dicts()
    return {
        "n_alerts": rows.height,
        "alerts_by_band": {row["band_source"]: row["count"] for row in by_source},
        "share_followed": float(known.mean()) if len(known) else "not known",  # type: ignore[arg-type]
    }


def _outside(bands: pl.DataFrame) -> pl.DataFrame:
    above = pl.col("observed") > pl.max_horizontal("band_low", "band_high")
    below = pl.col("observed") < pl.min_horizontal("band_low", "band_high")
    return bands.filter(above | below)


def _sizes(fleet: Fleet, outside: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far each value lies beyond its band as a share of the range of its series, which
    is that before the first of the alerts, and whether the series moved on; NaN where unknown.
    """
    observed, low, high = (
        outside[name].to_numpy().astype(np.float64)
        for name in ("observed", "band_low", "band_high")
    )
    low, high = np.minimum(low, high), np.maximum(low, high)
    beyond = np.where(observed > high, observed - high, observed - low)
    steps = outside["step"].to_numpy().astype(np.int64)
    series = SeriesOf(fleet, outside["tenant_number"].to_numpy(), outside["metric"].to_list())
    spread, moved = series.moves(steps, np.sign(beyond), int(steps.min()))
    usable = np.where(spread > 0, spread, np.nan)
    return beyond / usable, moved


class SeriesOf:
    """The telemetry of events of the fleet's series: tenant [R], metric [R]."""

    def __init__(self, fleet: Fleet, tenant: NDArray[np.integer], metric: list[str]) -> None:
        self.fleet = fleet
        self.tenant = np.asarray(tenant, dtype=np.int64)
        numbers = {name: d for d, name in enumerate(fleet.grid.metrics)}
        self.metric = np.array([numbers[name] for name in metric], dtype=np.int64)

    def moves(
        self, steps: NDArray[np.int64], sign: NDArray[np.floating], before: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the range of each event's series before a step [R], and whether it moved on after
        the event by `MOVE` of that range within `MOVE_HOURS` [R]; NaN where unknown.
        """
        fleet, n = self.fleet, len(steps)
        spread, moved = np.full(n, np.nan), np.full(n, np.nan)
        reach = max(1, fleet.grid.steps(60 * MOVE_HOURS))
        numbers = np.unique(self.tenant)
        for in_shard, values in fleet.arrays.values_by_shard(numbers):
            tenants = numbers[in_shard]
            for d, metric in enumerate(fleet.grid.metrics):
                own = np.flatnonzero(np.isin(self.tenant, tenants) & (self.metric == d))
                if not len(own):
                    continue
                rows = np.searchsorted(tenants, self.tenant[own])
                known = values[:, d, :before] if before > 0 else values[:, d]
                spread[own] = ranges(known, *fleet.spec.bounds_of(metric))[rows]
                moved[own] = followed(
                    values[:, d], rows, steps[own], sign[own], MOVE * spread[own], reach
                )
        return spread, moved
