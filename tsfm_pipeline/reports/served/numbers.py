"""The report on the online service: what it answered, and how good its intervals are.

What belongs here: the contents of `interval_evaluation`. What does not: past forecasts
(`steps.serving_rows`), their calibration (`steps.serving_calibration`), how intervals are judged
(`reports.served.judging`).

Two splits say how the calibration fares on what it has not seen. *Later days*: the test period of
the backtest, or the last fifth of the time in which answers were served. *Other tenants*: a
seeded fifth of the tenants, stratified by tier and archetype, with a calibration that was fitted
without them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsfm_pipeline.baselines.empirical import LastValueChangeQuantiles
from tsfm_pipeline.catalogue.arrays import panel_of
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.conformal import GLOBAL, Calibration
from tsfm_pipeline.evaluation.requests import TUNING_FOLD, split_tenants
from tsfm_pipeline.evaluation.served import COVERAGE_FILE, MeasuredCoverage
from tsfm_pipeline.files import write_text_atomically
from tsfm_pipeline.reports.served.judging import Judged, judge
from tsfm_pipeline.reports.served.model import CONFORMAL, TENANTS, TIME, ServedReport
from tsfm_pipeline.steps.serving_calibration import (
    TABLE,
    Past,
    backtest_past,
    calibration_of,
    fit_past,
    read_calibration,
    served_past,
)
from tsfm_pipeline.steps.serving_rollout import of_the_model
from tsfm_pipeline.steps.serving_rows import PastForecasts, backtest_forecasts, local_model

HELD_OUT = 0.2
"""Share of the time, and of the tenants, that a calibration is judged on."""
MOST_JUDGED = 1_000
"""Served forecasts of a split that are judged; a seeded sample of more. Each costs a baseline."""


@dataclass(frozen=True, eq=False)
class Split:
    """What one split is judged on: forecasts, the baseline's at the same requests, and a
    calibration that has not seen them; None where there were too few to fit one.
    """

    name: str
    forecasts: PastForecasts
    baseline: PastForecasts
    calibration: Calibration | None


def interval_evaluation(fleet: Fleet) -> ServedReport:
    """Judge the service's intervals, and summarise what it answered."""
    published = read_calibration(fleet)
    if published is not None and published.source == "served":
        judged_on, splits = "served", served_splits(fleet, served_horizon(fleet.tables.read(TABLE)))
    else:
        judged_on, splits = "backtest", backtest_splits(fleet, published)
    judged = [judge(fleet, split.name, split) for split in splits if len(split.forecasts)]
    return ServedReport(
        fleet=fleet.name,
        **_answers(fleet)._asdict(),
        **_alerts(fleet)._asdict(),
        **_rollout(fleet)._asdict(),
        judged_on=judged_on,
        calibration_version=published.version if published else "",
        calibrated_until=published.as_of.isoformat() if published else "",
        calibration_source=published.source if published else "",
        calibration_scores=_fewest(published),
        n_values_after_as_of=_n_after(fleet),
        n_judged_before_as_of=_n_before(fleet, splits, published),
        **_tables(judged),
    )


def publish_coverage(fleet: Fleet, report: ServedReport) -> None:
    """Write what calibrated intervals covered on later days as `coverage.json`, for the metrics of
    the service. Where nothing could be judged, an earlier file stays.
    """
    row = report.band(TIME, CONFORMAL)
    if row is None:
        return
    measured = MeasuredCoverage(
        coverage={"0.8": row.coverage_80.figure, "0.9": row.coverage_90.figure},
        judged_on=report.judged_on,
        calibration_version=report.calibration_version,
    )
    write_text_atomically(fleet.published_dir / COVERAGE_FILE, measured.model_dump_json() + "\n")


def backtest_splits(fleet: Fleet, published: Calibration | None) -> tuple[Split, ...]:
    """Return the test requests of all test tenants under the published calibration, and those of
    the tenants that are held out under one that was fitted on the other tenants' tuning requests.
    """
    everyone = np.ones(fleet.manifest.height, dtype=bool)
    tested = backtest_forecasts(fleet, "test", everyone)
    baseline = tested.with_deciles(_stored_baseline(fleet))
    usable = tested.available & baseline.available
    tested, baseline = tested.take(usable), baseline.take(usable)
    held = held_out(fleet, np.unique(tested.tenant))
    rows = held[tested.tenant]
    past = Past(
        "backtest",
        fleet.grid.time_of(0),
        local_model(fleet),
        backtest_forecasts(fleet, "tuning", ~held),
    )
    return (
        Split(TIME, tested, baseline, published),
        Split(TENANTS, tested.take(rows), baseline.take(rows), _fitted(past)),
    )


def served_horizon(calibration: pl.DataFrame) -> int:
    """Return the last step whose scores come from what was served; later ones are the backtest's.

    calibration: rows of `conformal_calibration`.
    """
    rows = calibration.filter(pl.col("source") == "served")
    return int(rows["last_of_bucket"].max())  # type: ignore[arg-type]


def served_splits(fleet: Fleet, horizon: int) -> tuple[Split, ...]:
    """Return the last fifth of the time, and a fifth of the tenants, each under a calibration that
    was fitted on what was served before, or to the others. horizon: steps that are calibrated from
    what was served.
    """
    past = served_past(fleet)
    assert past is not None
    rows, seed = past.forecasts.until(horizon), fleet.settings.evaluation.seed
    first, last = int(rows.origin.min()), int(rows.origin.max())
    cut = first + round((1 - HELD_OUT) * (last - first))
    held = held_out(fleet, np.unique(rows.tenant))[rows.tenant]
    parts = (
        (TIME, rows.origin + horizon <= cut, rows.origin >= cut),
        (TENANTS, ~held, held),
    )
    splits = []
    for name, fitted_on, judged_on in parts:
        judged = _sample(rows.take(judged_on), seed)
        fitted = _fitted(past._replace(forecasts=rows.take(fitted_on)))
        baseline = judged.with_deciles(change_quantiles(fleet, judged))
        usable = judged.available & baseline.available
        splits.append(Split(name, judged.take(usable), baseline.take(usable), fitted))
    return tuple(splits)


def held_out(fleet: Fleet, tenants: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which tenants [N] are held out: a fifth of the given ones, of each tier and archetype
    as many as fit; none of a single tenant.
    """
    held = np.zeros(fleet.manifest.height, dtype=bool)
    if len(tenants) < 2:
        return held
    manifest = fleet.manifest[tenants.tolist()]
    strata = [
        f"{tier or ''}|{archetype or ''}"
        for tier, archetype in zip(manifest["tier"], manifest["archetype"], strict=True)
    ]
    fold = split_tenants(
        manifest["tenant_id"].to_list(),
        strata,
        fleet.settings.evaluation.seed,
        tuning_share=1 - HELD_OUT,
        min_disjoint=2,
    )
    held[tenants[fold != TUNING_FOLD]] = True
    return held


def change_quantiles(fleet: Fleet, rows: PastForecasts) -> NDArray[np.float32]:
    """Return the baseline's deciles [R, H, 9] at the requests of some forecasts."""
    horizon = rows.actual.shape[1]
    deciles = np.full((len(rows), horizon, 9), np.nan, dtype=np.float32)
    forecaster, numbers = LastValueChangeQuantiles(), np.unique(rows.tenant)
    for in_shard, values in fleet.arrays.values_by_shard(numbers):
        tenants = numbers[in_shard]
        for t, tenant in enumerate(tenants.tolist()):
            for d, metric in enumerate(fleet.grid.metrics):
                own = np.flatnonzero((rows.tenant == tenant) & (rows.metric == d))
                if len(own):
                    series = values[t, d][None]
                    panel = panel_of(fleet.spec, (metric,), fleet.grid.seasons, series)
                    deciles[own] = forecaster.forecast(panel, rows.origin[own][None], horizon)[0]
    return deciles


def _stored_baseline(fleet: Fleet) -> NDArray[np.float32]:
    """Return the baseline's stored deciles [R, H, 9] at all valid test requests."""
    requests = fleet.arrays.requests("test")
    rows = fleet.arrays.rows("baseline_forecasts", requests).filter(
        pl.col("method") == LastValueChangeQuantiles.name
    )
    deciles = rows.select("deciles").collect()["deciles"].to_numpy()
    valid = np.repeat(requests.valid.ravel(), len(fleet.grid.metrics))
    return deciles.reshape(len(valid), fleet.spec.horizon, 9)[valid]


def _sample(rows: PastForecasts, seed: int) -> PastForecasts:
    if len(rows) <= MOST_JUDGED:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), MOST_JUDGED, replace=False)
    return rows.take(np.sort(chosen))


def _fitted(past: Past) -> Calibration | None:
    fitted = fit_past(past.forecasts) if len(past.forecasts) else {}
    return calibration_of(past, fitted) if fitted else None


def _fewest(calibration: Calibration | None) -> int:
    buckets = calibration.segments.get(GLOBAL, {}) if calibration else {}
    return min((bucket.n for own in buckets.values() for bucket in own), default=0)


def _n_after(fleet: Fleet) -> int:
    """Return how many buckets of the stored calibration used a value after its as-of date."""
    rows = fleet.tables.scan(TABLE).filter(pl.col("newest_value") > pl.col("calibrated_until"))
    return int(rows.select(pl.len()).collect().item())


def _n_before(fleet: Fleet, splits: tuple[Split, ...], published: Calibration | None) -> int:
    """Return how many of the forecasts on later days begin before the calibration's as-of date, or,
    where tenants live at different times, before a value of their own tenant that it used.
    """
    (later,) = (split for split in splits if split.name == TIME)
    if published is None or published.source == "served":
        return 0  # judged by a calibration of its own, which ends before the split's first forecast
    if fleet.spec.calendar == "own":
        return n_before_own(later.forecasts, backtest_past(fleet).forecasts)
    minutes = (published.as_of - fleet.grid.start).total_seconds() / 60
    return int(np.count_nonzero(later.forecasts.origin + 1 <= minutes / fleet.grid.step_minutes))


def n_before_own(judged: PastForecasts, fitted_on: PastForecasts) -> int:
    """Return how many forecasts begin before a value of the same tenant that was fitted on."""
    tenants = np.concatenate([judged.tenant, fitted_on.tenant])
    newest = np.full(int(tenants.max(initial=-1)) + 1, -1)
    np.maximum.at(newest, fitted_on.tenant, fitted_on.last_known)
    return int(np.count_nonzero(judged.origin + 1 <= newest[judged.tenant]))


class _Answers(NamedTuple):
    n_answers: int
    n_with_outcomes: int
    n_unmatched: int
    served_from: str
    served_to: str
    fallback_rate: float
    p50_latency_ms: float
    p95_latency_ms: float


def _answers(fleet: Fleet) -> _Answers:
    rows = fleet.tables.read(
        "served_forecasts", columns=["received", "fallback_reason", "route", "latency_ms"]
    )
    outcomes = fleet.tables.read("served_outcomes", columns=["n_known", "unmatched"])
    if rows.is_empty():
        nan = float("nan")
        return _Answers(0, 0, 0, "", "", nan, nan, nan)
    failed = of_the_model(rows)["fallback_reason"].fill_null("") != ""
    p50, p95 = np.nanquantile(rows["latency_ms"].to_numpy(), (0.5, 0.95)).tolist()
    return _Answers(
        rows.height,
        outcomes.filter(pl.col("n_known") > 0).height,
        outcomes.filter(pl.col("unmatched") != "").height,
        str(rows["received"].min()),
        str(rows["received"].max()),
        float(failed.mean()) if len(failed) else float("nan"),  # type: ignore[arg-type]
        p50,
        p95,
    )


class _Alerts(NamedTuple):
    n_alerts: int
    alerts_followed: float


def _alerts(fleet: Fleet) -> _Alerts:
    rows = fleet.tables.read("band_alerts", columns=["followed"])
    known = rows["followed"].drop_nulls()
    return _Alerts(rows.height, float(known.mean()) if len(known) else float("nan"))  # type: ignore[arg-type]


class _Rollout(NamedTuple):
    rollout_stage: str
    rollout_percent: float
    rollout_reason: str


def _rollout(fleet: Fleet) -> _Rollout:
    decisions = fleet.tables.read("rollout_decision")
    if decisions.is_empty():
        return _Rollout("off", float("nan"), "nothing was decided")
    stages = fleet.tables.read("served_forecasts", columns=["stage"])["stage"]
    if len(stages) and (stages == "off").all():
        return _Rollout("off", 100.0, "no service obeys a decision (TSFM_SERVING_ROUTE__ROLLOUT)")
    last = decisions.row(-1, named=True)
    return _Rollout(last["stage"], last["percent"], last["decided_because"])


def _tables(judged: list[Judged]) -> dict[str, tuple[object, ...]]:
    return {
        "table_bands": tuple(row for one in judged for row in one.bands),
        "table_widths": tuple(row for one in judged for row in one.widths),
        "table_segments": tuple(row for one in judged for row in one.segments),
    }
