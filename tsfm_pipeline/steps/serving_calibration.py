"""The calibration of the service's intervals: fitted, stored as a table, and published as a file.

What belongs here: the table `conformal_calibration`, and `calibration.json`. What does not: the
scores (`evaluation.conformal`), the past forecasts (`steps.serving_rows`), judging the calibration
(`reports.served`).

The past intervals are those that the service answered in the last days. Before there are enough of
them, they are those that it would have answered at the tuning requests of the tuning tenants, which
all lie before any test period.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.serving_columns import CALIBRATIONS, schema_of_columns
from tsfm_pipeline.evaluation.conformal import (
    DAYS,
    GLOBAL,
    Bucket,
    Calibration,
    Fitted,
    bucket_of,
    fit,
)
from tsfm_pipeline.evaluation.quantiles import TARGETS
from tsfm_pipeline.evaluation.served import CALIBRATION_FILE
from tsfm_pipeline.files import write_text_atomically
from tsfm_pipeline.steps.evidence import tunes
from tsfm_pipeline.steps.serving_rows import (
    Answering,
    PastForecasts,
    backtest_forecasts,
    local_model,
    served_answering,
    served_forecasts_since,
)

TABLE = "conformal_calibration"
Source = Literal["served", "backtest"]


class Past(NamedTuple):
    """What a calibration is fitted on, and what it is for."""

    kind: Source
    as_of: datetime
    answering: Answering
    forecasts: PastForecasts


def conformal_calibration(fleet: Fleet) -> pl.DataFrame:
    """Return the buckets of every segment; no rows where there are too few past intervals."""
    schema = schema_of_columns(*CALIBRATIONS)
    past, fitted, horizon = fitted_past(fleet)
    n_own = past.forecasts.actual.shape[1]
    common = {
        "calibrated_until": past.as_of,
        "newest_value": fleet.grid.time_of(past.forecasts.newest),
        "runtime": past.answering.runtime,
        "model": past.answering.model,
        "version": past.answering.version,
        "freq_minutes": past.answering.step_minutes,
        "horizon": horizon,
    }
    rows = [
        common
        | {
            "source": past.kind if bucket.first_step <= n_own else "backtest",
            "segment_key": key,
            "target": float(target),
            "first_of_bucket": bucket.first_step,
            "last_of_bucket": _last_of(bucket.first_step, horizon),
            "n_scores": bucket.n,
            "conformal_score": bucket.score,
        }
        for key, by_target in fitted.items()
        for target, buckets in by_target.items()
        for bucket in buckets
    ]
    return pl.DataFrame(rows, schema=schema)


def fitted_past(fleet: Fleet) -> tuple[Past, Fitted, int]:
    """Return what was served, its fit, and the horizon up to which that holds: the last step before
    which every step of everything is calibrated. The backtest is used if most answers reach beyond
    that, and for later steps if it is of the same model.
    """
    served = served_past(fleet)
    if served is not None:
        whole = _whole_horizon(fit_past(served.forecasts), served.forecasts.actual.shape[1])
        if whole and whole >= served.forecasts.usual_horizon:
            served = served._replace(forecasts=served.forecasts.until(whole))
            fitted, horizon = fit_past(served.forecasts), fleet.spec.horizon
            if whole >= horizon or served.answering != local_model(fleet):
                return served, fitted, whole
            later = fit_past(backtest_past(fleet).forecasts)
            return served, extended(fitted, later, whole), horizon
    backtest = backtest_past(fleet)
    return backtest, fit_past(backtest.forecasts), backtest.forecasts.actual.shape[1]


def extended(fitted: Fitted, later: Fitted, horizon: int) -> Fitted:
    """Return a fit with the buckets of another one that begin after a horizon, for the segments and
    targets that it has itself.
    """
    return {
        key: {
            target: (
                *buckets,
                *(b for b in later.get(key, {}).get(target, ()) if b.first_step > horizon),
            )
            for target, buckets in by_target.items()
        }
        for key, by_target in fitted.items()
    }


def fit_past(forecasts: PastForecasts) -> Fitted:
    """Return the calibration of past forecasts."""
    return fit(forecasts.intervals, forecasts.actual, forecasts.segments)


def served_past(fleet: Fleet) -> Past | None:
    """Return the answers of the last `DAYS` before the telemetry's end by the model that answers
    most; None where no model has answered.
    """
    answering = served_answering(fleet)
    if answering is None:
        return None
    as_of = fleet.grid.time_of(fleet.grid.n_steps - 1)
    since, seed = as_of - timedelta(days=DAYS), fleet.settings.evaluation.seed
    return Past("served", as_of, answering, served_forecasts_since(fleet, answering, since, seed))


def backtest_past(fleet: Fleet) -> Past:
    """Return what the service would have answered at the tuning tenants' tuning requests."""
    forecasts = backtest_forecasts(fleet, "tuning", tunes(fleet))
    as_of = fleet.grid.time_of(max(forecasts.newest, 0))
    return Past("backtest", as_of, local_model(fleet), forecasts)


def calibration_of(past: Past, fitted: Fitted) -> Calibration:
    """Return a fit as the service applies it."""
    return Calibration.of(
        fitted,
        as_of=past.as_of,
        source=past.kind,
        runtime=past.answering.runtime,
        model=past.answering.model,
        model_version=past.answering.version,
        step_minutes=past.answering.step_minutes,
        horizon=past.forecasts.actual.shape[1],
    )


def read_calibration(fleet: Fleet) -> Calibration | None:
    """Return the table as the service applies it; None where it has no rows."""
    rows = fleet.tables.read(TABLE)
    if rows.is_empty():
        return None
    fitted: dict[str, dict[str, tuple[Bucket, ...]]] = {}
    for row in rows.iter_rows(named=True):
        bucket = Bucket(
            first_step=row["first_of_bucket"], n=row["n_scores"], score=row["conformal_score"]
        )
        by_target = fitted.setdefault(row["segment_key"], {})
        target = f"{row['target']:g}"
        by_target[target] = (*by_target.get(target, ()), bucket)
    first: Mapping[str, Any] = rows.row(0, named=True)
    return Calibration.of(
        fitted,
        as_of=first["calibrated_until"],
        source=first["source"],
        runtime=first["runtime"],
        model=first["model"],
        model_version=first["version"],
        step_minutes=first["freq_minutes"],
        horizon=first["horizon"],
    )


def publish_calibration(fleet: Fleet) -> dict[str, Any]:
    """Write the table as `calibration.json`, which the service reads, and return what to show of
    it. An empty table leaves the file that is there, because the service would keep it anyway.
    """
    calibration = read_calibration(fleet)
    if calibration is None:
        return {"calibration": "none: too few past intervals"}
    path = fleet.published_dir / CALIBRATION_FILE
    write_text_atomically(path, calibration.model_dump_json() + "\n")
    overall = calibration.segments.get(GLOBAL, {}).get("0.9", ())
    return {
        "calibration": str(path),
        "calibration_version": calibration.version,
        "calibrated_until": calibration.as_of.isoformat(),
        "source": calibration.source,
        "n_segments": len(calibration.segments),
        "n_scores_of_the_smallest_bucket": min((bucket.n for bucket in overall), default=0),
    }


def _last_of(first: int, horizon: int) -> int:
    last = first
    while last < horizon and bucket_of(last + 1) == first:
        last += 1
    return last


def _whole_horizon(fitted: Fitted, horizon: int) -> int:
    """Return the steps, from the first on, at which everything is calibrated for every target."""
    buckets = fitted.get(GLOBAL, {}).values()
    known = [{bucket.first_step for bucket in own} for own in buckets]
    firsts = bucket_of(range(1, horizon + 1)).tolist()
    if len(known) < len(TARGETS):
        return 0
    missing = (h for h, first in enumerate(firsts) if any(first not in own for own in known))
    return next(missing, horizon)
