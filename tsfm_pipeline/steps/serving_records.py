"""What the online service answered, and what happened after it.

What belongs here: the tables `served_forecasts` and `served_outcomes`. What does not: taking
records in (`catalogue.intake`), the errors of intervals (`steps.serving_rows`).
"""

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.intake import record_files, taken_in
from tsfm_pipeline.catalogue.records import read_record
from tsfm_pipeline.catalogue.serving_columns import (
    OUTCOMES,
    RENAMED,
    SERVED,
    schema_of_columns,
)
from tsfm_pipeline.catalogue.time_grid import TimeGrid
from tsfm_pipeline.evaluation.conformal import DAYS
from tsfm_pipeline.evaluation.rollout import RolloutLimits
from tsfm_pipeline.files import appended_at

_LIMITS = RolloutLimits()
KEPT = timedelta(days=1 + max(DAYS, _LIMITS.precision_days + _LIMITS.reference_days))
"""How far a calibration and the rollout look back, and a day for forecasts that began before."""
_ON_GRID_SECONDS = 1.0

UNKNOWN_MARKET = "no market of the fleet"
OTHER_STEP = "another step than the fleet's"
OFF_GRID = "off the fleet's grid"


def served_schema() -> pl.Schema:
    """Return the columns of served records as tables name them."""
    return pl.Schema({column.name: column.dtype for column in SERVED})


def served_forecasts(fleet: Fleet) -> pl.DataFrame:
    """Return the answers that were taken in, of the last `KEPT` before that."""
    schema, intake = served_schema(), taken_in(fleet.published_dir)
    empty = pl.DataFrame(schema=schema)
    if intake is None:
        return empty
    since = intake.until - KEPT
    paths = [
        path
        for path in record_files(fleet.records_dir, intake.until)
        if (time := appended_at(path)) is not None and time > since
    ]
    frames = [_as_declared(read_record(path), schema) for path in paths]
    return (
        pl.concat([empty, *frames]).filter(pl.col("received") > since).sort("received", "answer_id")
    )


def _as_declared(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return a file's rows with the columns that the table has; null where a release had none."""
    named = frame.rename({old: new for old, new in RENAMED.items() if old in frame.columns})
    return named.select(
        (pl.col(name) if name in named.columns else pl.lit(None, dtype)).cast(dtype).alias(name)
        for name, dtype in schema.items()
    )


def describe_served(fleet: Fleet) -> dict[str, Any]:
    """Return how many files were taken in."""
    intake = taken_in(fleet.published_dir)
    return {
        "n_files_taken_in": intake.n_files if intake else 0,
        "taken_in_until": intake.until.isoformat() if intake else "nothing served yet",
    }


def served_outcomes(fleet: Fleet) -> pl.DataFrame:
    """Return every answer with what happened at its steps, where its market is one of the fleet's
    and its times lie on the fleet's grid.
    """
    schema = schema_of_columns(*OUTCOMES)
    # A request that ended in an error has no answer; only the rollout counts it.
    served = fleet.tables.read("served_forecasts").filter(pl.col("status").fill_null(200) == 200)
    if served.is_empty():
        return pl.DataFrame(schema=schema)
    markets = _markets(fleet)
    matched = served.join(markets, on="market_id", how="left", maintain_order="left")
    grid = fleet.grid
    step, off = as_of_step(grid)
    other_step = (pl.col("freq_minutes") - grid.step_minutes).abs() > 1e-9
    matched = matched.with_columns(
        unmatched=pl.when(pl.col("tenant_number").is_null())
        .then(pl.lit(UNKNOWN_MARKET))
        .when(other_step)
        .then(pl.lit(OTHER_STEP))
        .when(off)
        .then(pl.lit(OFF_GRID))
        .otherwise(pl.lit("")),
        as_of_step=step,
    ).with_columns(
        pl.when(pl.col("unmatched") == "").then(pl.col("as_of_step")).alias("as_of_step")
    )
    rows = pl.concat([matched, _outcomes(fleet, matched)], how="horizontal")
    return rows.select(pl.col(name).cast(dtype) for name, dtype in schema.items()).sort(
        "as_of", "received", "answer_id"
    )


def as_of_step(grid: TimeGrid) -> tuple[pl.Expr, pl.Expr]:
    """Return the step of the grid that is nearest to `as_of`, and whether it lies off the grid. The
    step is null where a client named a year that is too far away to be counted in steps.
    """
    start = pl.lit(grid.start).cast(pl.Datetime("us", "UTC"))
    steps = (pl.col("as_of") - start).dt.total_microseconds() / (grid.step_minutes * 60e6)
    nearest = steps.round().cast(pl.Int32, strict=False)
    off = (steps - steps.round()).abs() * grid.step_minutes * 60 > _ON_GRID_SECONDS
    return nearest, off | nearest.is_null()


def describe_outcomes(fleet: Fleet) -> dict[str, Any]:
    """Return how many answers could be matched, and why the others could not."""
    rows = fleet.tables.scan("served_outcomes").select("unmatched", "n_known").collect()
    reasons = rows.filter(pl.col("unmatched") != "")["unmatched"].value_counts(sort=True)
    return {
        "n_answers": rows.height,
        "n_matched": rows.filter(pl.col("unmatched") == "").height,
        "n_with_outcomes": rows.filter(pl.col("n_known") > 0).height,
        "unmatched": {row["unmatched"]: row["count"] for row in reasons.to_dicts()},
    }


def _markets(fleet: Fleet) -> pl.DataFrame:
    """Return the names under which the fleet's series are served."""
    tenants = fleet.manifest.select("tenant_number", "tenant_id")
    metrics = pl.DataFrame({"metric": list(fleet.grid.metrics)})
    return tenants.join(metrics, how="cross").select(
        pl.format("{}/{}", "tenant_id", "metric").alias("market_id"), "tenant_number", "metric"
    )


def _outcomes(fleet: Fleet, matched: pl.DataFrame) -> pl.DataFrame:
    """Return the known values at the steps of each answer, and their number, in the rows' order."""
    rows = matched.select("unmatched", "tenant_number", "metric", "as_of_step", "horizon")
    rows = rows.with_row_index("row").with_columns(
        pl.col("metric").replace_strict(
            fleet.grid.metrics, range(len(fleet.grid.metrics)), default=-1
        )
    )
    parts = [
        rows.filter(pl.col("unmatched") != "").select(
            "row",
            outcome=pl.lit([], pl.List(pl.Float32)),
            n_known=pl.lit(0, pl.Int32),
        )
    ]
    usable = rows.filter(pl.col("unmatched") == "")
    numbers = np.unique(usable["tenant_number"].to_numpy()).astype(np.int64)
    for in_shard, values in fleet.arrays.values_by_shard(numbers):
        tenants = numbers[in_shard]
        own = usable.filter(pl.col("tenant_number").is_in(tenants.tolist()))
        for (horizon,), same in own.group_by("horizon"):
            tenant = np.searchsorted(tenants, same["tenant_number"].to_numpy())
            known = values_after(
                values[tenant, same["metric"].to_numpy()],
                same["as_of_step"].to_numpy().astype(np.int64),
                int(horizon),
            )
            parts.append(
                same.select("row").with_columns(
                    outcome=pl.Series(known, dtype=pl.Array(pl.Float32, int(horizon)))
                    .arr.to_list()
                    .list.eval(pl.element().fill_nan(None)),
                    n_known=pl.Series(np.count_nonzero(~np.isnan(known), axis=1), dtype=pl.Int32),
                )
            )
    return pl.concat(parts).sort("row").drop("row")


def values_after(
    values: NDArray[np.float32], steps: NDArray[np.int64], horizon: int
) -> NDArray[np.float32]:
    """Return the `horizon` values after a step of each series, NaN beyond its ends: values [R, T],
    steps [R] -> float32 [R, H].
    """
    after = steps[:, None] + np.arange(1, horizon + 1)
    inside = (after >= 0) & (after < values.shape[1])
    taken = np.take_along_axis(values, np.clip(after, 0, values.shape[1] - 1), axis=1)
    return np.where(inside, taken, np.float32(np.nan))
