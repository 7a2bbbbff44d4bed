"""Test the tables of group `serving`, and the report on them, on a small fleet whose answers are made
up: what is taken in, matched, calibrated, alerted and published.

What belongs here: everything that needs served records. What does not: the calibration from the
backtest, which needs a materialised fleet (`test_serving_of_a_fleet`).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from numpy.typing import NDArray
from scipy.stats import norm

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.intake import FILE, Intake
from tsfm_pipeline.catalogue.scopes import schema_of
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.defs.checks import interval_results
from tsfm_pipeline.evaluation.conformal import GLOBAL, Bucket, Calibration
from tsfm_pipeline.evaluation.rollout import Override, RolloutDecision
from tsfm_pipeline.evaluation.served import (
    CALIBRATION_FILE,
    FOLDER,
    INELIGIBLE,
    ROLLOUT_FILE,
    SERVED_COLUMNS,
)
from tsfm_pipeline.files import append_file
from tsfm_pipeline.reports.page.markdown import summary
from tsfm_pipeline.reports.served.figures import intervals_figure
from tsfm_pipeline.reports.served.judging import calibrated
from tsfm_pipeline.reports.served.model import BASELINE, CONFORMAL, RAW, TENANTS, TIME
from tsfm_pipeline.reports.served.numbers import (
    interval_evaluation,
    n_before_own,
    served_horizon,
)
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.makers import MAKERS
from tsfm_pipeline.steps.making import make as make_table
from tsfm_pipeline.steps.rollout_overrides import decide, published
from tsfm_pipeline.steps.serving_alerts import latest_bands
from tsfm_pipeline.steps.serving_calibration import publish_calibration
from tsfm_pipeline.steps.serving_records import OFF_GRID, OTHER_STEP, UNKNOWN_MARKET, as_of_step
from tsfm_pipeline.steps.serving_rollout import history, publish_rollout
from tsfm_pipeline.steps.serving_rows import PastForecasts

pytestmark = pytest.mark.heavy

HORIZON, N_TENANTS, DAYS = 12, 10, 16
Z = norm.ppf(np.arange(1, 10) / 10)
TELEMETRY = ("tenant_telemetry", "tenant_manifest", "forecast_requests", "request_targets")
SERVING = tuple(name for name, table in TABLES.items() if table.group == "serving")
LATER = datetime.now(UTC)


def make(fleet: Fleet, *names: str) -> None:
    """Make tables in this process, as their assets do."""
    for name in names:
        make_table(FLEETS, fleet, TABLES[name], MAKERS[name], fleet.settings)


def reopened(fleet: Fleet) -> Fleet:
    """As the next step of a run opens it."""
    return open_workspace_fleet(fleet.settings, fleet.name)


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet with telemetry and requests, of which nothing was served."""
    root = tmp_path_factory.mktemp("telemetry")
    (root / "specs").mkdir()
    spec = {"kind": "synthetic", "title": "Small", "tenants": N_TENANTS, "days": DAYS, "seed": 5}
    spec |= {"origins_per_tenant": 2, "minimum_per_archetype": 1, "horizon": HORIZON}
    (root / "specs" / "small.yaml").write_text(yaml.safe_dump(spec))
    settings = Settings(
        data_dir=root / "data",
        specs_dir=root / "specs",
        evaluation={"bootstrap_draws": 200, "group_bootstrap_draws": 200},
    )
    fleet = open_workspace_fleet(settings, "small")
    make(fleet, *TELEMETRY)
    return fleet


@pytest.fixture
def fleet(telemetry: Fleet, tmp_path: Path) -> Fleet:
    """The same telemetry with records and published files of its own."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "lake").mkdir()
    lake = telemetry.settings.lake_dir / telemetry.name
    target = data / "lake" / telemetry.name
    target.mkdir()
    for name in TELEMETRY:
        (target / name).symlink_to(lake / name)
    settings = telemetry.settings.model_copy(update={"data_dir": data})
    return open_workspace_fleet(settings, telemetry.name)


def answers(
    fleet: Fleet, *, n_times: int = 20, width: float = 0.5, **constant: Any
) -> list[dict[str, Any]]:
    """Forecasts of every series at times of the last days: the last value and normal deciles that
    grow with the step. At `width` 1 the deciles would be about right; `constant` columns replace
    what is made up.
    """
    values = fleet.arrays.values(range(N_TENANTS))
    scale = np.nanmean(np.abs(np.diff(values, axis=2)), axis=2)
    first = fleet.grid.n_steps - 4 * 1440
    steps = np.linspace(first, fleet.grid.n_steps - 1 - HORIZON, n_times).astype(int)
    grow = np.sqrt(np.arange(1, HORIZON + 1))[:, None]
    rows = []
    for tenant, tier in enumerate(fleet.manifest["tier"].to_list()):
        for d, metric in enumerate(fleet.grid.metrics):
            for i, step in enumerate(steps.tolist()):
                deciles = values[tenant, d, step] + width * 1.5 * scale[tenant, d] * grow * Z
                rows.append(
                    {
                        "request_id": f"{tenant}-{d}-{i}",
                        "received": LATER - timedelta(days=2) + timedelta(minutes=i),
                        "market_id": f"{fleet.manifest['tenant_id'][tenant]}/{metric}",
                        "as_of": fleet.grid.time_of(step),
                        "freq_minutes": fleet.grid.step_minutes,
                        "horizon": HORIZON,
                        "deciles": deciles.ravel().tolist(),
                        "baseline": [],
                        **interval(deciles, 80, 0, 8),
                        **interval(deciles, 90, 0, 8),
                        "segment": f"metric={metric}|tier={tier}",
                        "runtime": "local",
                        "model": "bundled",
                        "version": "abc",
                        "calibration": "",
                        "route": "model",
                        "stage": "off",
                        "fallback_reason": "",
                        "invalid_output": False,
                        "breaker": "closed",
                        "cache_hit": False,
                        "volume_24h": None,
                        "open_interest": None,
                        "status": 200,
                        "latency_ms": 20.0 + i,
                        **constant,
                    }
                )
    return rows


def interval(deciles: NDArray[np.float64], name: int, low: int, high: int) -> dict[str, Any]:
    return {f"low_{name}": deciles[:, low].tolist(), f"high_{name}": deciles[:, high].tolist()}


def record(fleet: Fleet, rows: Sequence[dict[str, Any]]) -> None:
    """Append rows as the service does: one file."""
    types = {"Datetime": pl.Datetime("us", "UTC"), "List[Float32]": pl.List(pl.Float32)}
    schema = {c.name: types.get(c.dtype, getattr(pl, c.dtype, None)) for c in SERVED_COLUMNS}
    frame = pl.DataFrame(rows, schema=schema)
    append_file(
        fleet.settings.records_dir / fleet.name / FOLDER, frame.write_parquet, suffix=".parquet"
    )


def served(fleet: Fleet, *tables: str) -> Fleet:
    """Take the records in and make tables from them, all of the group by default."""
    fleet.take_in("run")
    fleet = reopened(fleet)
    make(fleet, *(tables or SERVING))
    return fleet


# -- taking in


def test_nothing_served_gives_empty_tables_with_their_columns(fleet: Fleet) -> None:
    assert fleet.take_in("run") is None
    make(fleet, "served_forecasts", "served_outcomes", "band_alerts", "rollout_decision")
    for name in ("served_forecasts", "served_outcomes", "band_alerts", "rollout_decision"):
        table = fleet.tables.read(name)
        assert table.is_empty()
        assert table.schema == schema_of(FLEETS, fleet, TABLES[name])
    assert publish_rollout(fleet) == {"stage": "off", "reason": "nothing was recorded"}
    assert not (fleet.published_dir / ROLLOUT_FILE).exists()


def test_records_make_tables_stale_when_they_are_taken_in_and_not_before(fleet: Fleet) -> None:
    record(fleet, answers(fleet, n_times=1))
    fleet = served(fleet, "served_forecasts", "served_outcomes")
    first = fleet.tables.read("served_forecasts").height
    record(fleet, answers(fleet, n_times=2))
    again = reopened(fleet)
    assert again.tables.state("served_forecasts") == "current", "a run in progress goes on"
    again.take_in("run")
    again = reopened(fleet)
    for name in ("served_forecasts", "served_outcomes"):
        assert again.tables.state(name) == "stale"
    make(again, "served_forecasts")
    assert again.tables.read("served_forecasts").height == 3 * first
    assert again.tables.state("tenant_telemetry") == "current"


def test_without_new_records_nothing_is_stale(fleet: Fleet) -> None:
    record(fleet, answers(fleet, n_times=1))
    fleet = served(fleet, "served_forecasts")
    fleet.take_in("run")
    assert reopened(fleet).tables.state("served_forecasts") == "current"


def test_records_that_a_later_file_brings_wait_for_the_next_time(fleet: Fleet) -> None:
    record(fleet, answers(fleet, n_times=1))
    fleet.take_in("run")
    record(fleet, answers(fleet, n_times=2))
    fleet = reopened(fleet)
    make(fleet, "served_forecasts")
    assert fleet.tables.read("served_forecasts").height == N_TENANTS * len(fleet.grid.metrics)


def test_a_record_of_an_earlier_release_may_lack_a_column(fleet: Fleet) -> None:
    rows = [
        {name: value for name, value in row.items() if name != "open_interest"}
        for row in answers(fleet, n_times=1)
    ]
    folder = fleet.settings.records_dir / fleet.name / FOLDER
    append_file(folder, pl.DataFrame(rows).write_parquet, suffix=".parquet")
    fleet = served(fleet, "served_forecasts")
    assert fleet.tables.read("served_forecasts")["open_interest"].null_count() == len(rows)


# -- outcomes


def test_outcomes_are_the_telemetry_after_the_as_of_time(fleet: Fleet) -> None:
    record(fleet, answers(fleet, n_times=3))
    fleet = served(fleet, "served_forecasts", "served_outcomes")
    outcomes = fleet.tables.read("served_outcomes")
    values = fleet.arrays.values(range(N_TENANTS))
    metrics = list(fleet.grid.metrics)
    for row in outcomes.sample(20, seed=1).iter_rows(named=True):
        step = row["as_of_step"]
        series = values[row["tenant_number"], metrics.index(row["metric"])]
        known = np.array(row["outcome"], dtype=np.float32)
        np.testing.assert_array_equal(known, series[step + 1 : step + 1 + HORIZON])
        assert fleet.grid.time_of(step) == row["as_of"]
        assert row["n_known"] == np.isfinite(known).sum()


def test_the_future_has_no_outcome_yet(fleet: Fleet) -> None:
    last = fleet.grid.time_of(fleet.grid.n_steps - 4)
    record(fleet, answers(fleet, n_times=1, as_of=last))
    outcomes = served(fleet, "served_forecasts", "served_outcomes").tables.read("served_outcomes")
    assert outcomes["n_known"].unique().to_list() == [3]
    assert outcomes["outcome"].list.tail(HORIZON - 3).list.drop_nulls().list.len().max() == 0


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("market_id", "nobody/cpu_util", UNKNOWN_MARKET),
        ("freq_minutes", 5.0, OTHER_STEP),
        ("as_of", datetime(2024, 1, 10, 0, 0, 30, tzinfo=UTC), OFF_GRID),
    ],
)
def test_what_cannot_be_matched_is_counted_with_the_reason(
    fleet: Fleet, column: str, value: Any, reason: str
) -> None:
    rows = answers(fleet, n_times=1)
    record(fleet, [rows[0] | {column: value}, *rows[1:]])
    fleet = served(fleet, "served_forecasts", "served_outcomes")
    outcomes = fleet.tables.read("served_outcomes")
    assert outcomes.height == len(rows)
    (unmatched,) = outcomes.filter(pl.col("unmatched") != "").iter_rows(named=True)
    assert unmatched["unmatched"] == reason
    assert unmatched["outcome"] == []
    assert unmatched["n_known"] == 0
    described = resolve_name(MAKERS["served_outcomes"].describe)(fleet)
    assert described["unmatched"] == {reason: 1}
    assert described["n_matched"] == len(rows) - 1


def test_a_time_that_cannot_be_counted_in_steps_is_off_the_grid(fleet: Fleet) -> None:
    grid = replace(fleet.grid, step_minutes=1 / 60)
    times = [fleet.grid.time_of(2), datetime(2200, 1, 1, tzinfo=UTC)]
    step, off = as_of_step(grid)
    rows = pl.DataFrame({"as_of": times}).select(step.alias("step"), off.alias("off"))
    assert rows.rows() == [(120, False), (None, True)]


# -- calibration


def test_answers_that_are_too_narrow_are_calibrated_to_their_targets(fleet: Fleet) -> None:
    record(fleet, answers(fleet, width=0.3))
    fleet = served(fleet)
    table = fleet.tables.read("conformal_calibration")
    overall = table.filter(pl.col("segment_key") == GLOBAL)
    assert set(table["source"]) == {"served"}
    assert (overall["conformal_score"] > 0.2).all()
    assert overall["first_of_bucket"].to_list() == [1, 2, 4, 7] * 2
    assert overall["last_of_bucket"].to_list() == [1, 3, 6, 12] * 2
    assert (table["newest_value"] <= table["calibrated_until"]).all()
    assert publish_calibration(fleet)["source"] == "served"
    path = fleet.published_dir / CALIBRATION_FILE
    known = Calibration.model_validate_json(path.read_bytes())
    assert known.fits("local", "bundled", "abc", fleet.grid.step_minutes)
    report = interval_evaluation(fleet)
    assert report.judged_on == "served"
    assert report.calibration_version == known.version
    for split in (TIME, TENANTS):
        raw, conformal = report.band(split, RAW), report.band(split, CONFORMAL)
        assert raw is not None
        assert conformal is not None
        assert raw.coverage_90.figure < 0.8
        assert 0.85 < conformal.coverage_90.figure < 0.98, "ten tenants"
        assert conformal.winkler_90.figure < raw.winkler_90.figure
        assert report.band(split, BASELINE).n_forecasts == raw.n_forecasts  # type: ignore[union-attr]
    checks = {result.check_name: result for result in interval_results(report)}
    assert checks["no_value_after_as_of"].passed
    assert checks["enough_scores"].passed
    assert "gave 800 answers" in summary("interval_evaluation", report)


def test_answers_to_a_single_tenant_are_judged_on_later_days_alone(fleet: Fleet) -> None:
    record(fleet, answers(fleet, n_times=200)[:800])
    fleet = served(fleet)
    report = interval_evaluation(fleet)
    assert report.judged_on == "served"
    assert report.band(TIME, CONFORMAL).n_tenants == 1  # type: ignore[union-attr]
    assert report.band(TENANTS, CONFORMAL) is None
    assert "gave 800 answers" in summary("interval_evaluation", report)
    intervals_figure(report)
    assert all(result.passed for result in interval_results(report)[2:])


def test_only_the_days_before_the_as_of_date_count(fleet: Fleet) -> None:
    old = fleet.grid.time_of(100)
    record(fleet, answers(fleet, width=50.0, n_times=1, as_of=old))
    record(fleet, answers(fleet))
    with_old = served(fleet).tables.read("conformal_calibration")
    overall = with_old.filter((pl.col("segment_key") == GLOBAL) & (pl.col("first_of_bucket") == 1))
    assert overall["n_scores"].to_list() == [800, 800]


def test_the_model_that_answers_now_is_calibrated_alone(fleet: Fleet) -> None:
    before = LATER - timedelta(days=3)
    record(fleet, answers(fleet, width=9.0, version="old", received=before, n_times=21))
    record(fleet, answers(fleet))
    table = served(fleet).tables.read("conformal_calibration")
    assert set(table["version"]) == {"abc"}
    assert table.filter(pl.col("segment_key") == GLOBAL)["n_scores"][0] == 800


def test_one_request_for_another_model_does_not_end_the_calibration(fleet: Fleet) -> None:
    last = LATER - timedelta(days=1, hours=12)
    record(fleet, [*answers(fleet), answers(fleet)[0] | {"model": "other", "received": last}])
    table = served(fleet).tables.read("conformal_calibration")
    assert set(table["model"]) == {"bundled"}


def test_few_long_answers_do_not_end_the_calibration_of_the_others(fleet: Fleet) -> None:
    rows = answers(fleet)
    long = [twice_as_long(row) for row in rows[:20]]
    record(fleet, [*rows, *long])
    fleet = served(fleet)
    table = fleet.tables.read("conformal_calibration")
    assert set(table["source"]) == {"served"}
    assert set(table["horizon"]) == {HORIZON}, "of the steps beyond it there are too few"
    overall = table.filter((pl.col("segment_key") == GLOBAL) & (pl.col("first_of_bucket") == 1))
    assert overall["n_scores"].to_list() == [800, 800], "a longer answer repeats the shorter one"
    report = interval_evaluation(fleet)
    assert report.judged_on == "served"
    assert report.band(TIME, CONFORMAL) is not None
    assert (report.rollout_stage, report.rollout_percent) == ("off", 100), "as was served"


def twice_as_long(row: dict[str, Any]) -> dict[str, Any]:
    lists = ("deciles", "low_80", "high_80", "low_90", "high_90")
    return row | {"horizon": 2 * HORIZON} | {name: 2 * row[name] for name in lists}


@pytest.mark.parametrize(
    "constant",
    [
        {"fallback_reason": "deadline", "runtime": "baseline", "model": "ewma"},
        {"fallback_reason": "stale_if_error"},
        {"deciles": []},
    ],
)
def test_answers_that_no_model_gave_are_not_calibrated(
    fleet: Fleet, constant: dict[str, Any]
) -> None:
    from tsfm_pipeline.steps.serving_rows import served_answering

    record(fleet, answers(fleet, n_times=1, **constant))
    fleet = served(fleet, "served_forecasts", "served_outcomes")
    assert served_answering(fleet) is None


def test_repeated_answers_count_once(fleet: Fleet) -> None:
    from tsfm_pipeline.steps.serving_calibration import served_past

    rows = answers(fleet, n_times=2)
    record(fleet, rows + [row | {"cache_hit": True, "request_id": "again"} for row in rows])
    past = served_past(served(fleet, "served_forecasts", "served_outcomes"))
    assert past is not None
    assert len(past.forecasts) == len(rows)


def test_where_tenants_live_at_different_times_only_their_own_later_values_are_early() -> None:
    def forecasts(tenant: list[int], origin: list[int]) -> PastForecasts:
        n = len(tenant)
        none = np.zeros(n, dtype=np.int64)
        rows = np.array(tenant, dtype=np.int64), none, np.array(origin, dtype=np.int64)
        actual = np.tile([0.0, 0.0, np.nan], (n, 1))
        return PastForecasts(*rows, np.zeros((n, 3, 5)), actual, [{}] * n)

    fitted_on = forecasts([0, 1], [10, 500])
    assert fitted_on.last_known.tolist() == [12, 502]
    assert n_before_own(forecasts([0, 0, 1, 2], [11, 12, 502, 3]), fitted_on) == 1
    assert n_before_own(forecasts([], []), fitted_on) == 0


def test_steps_beyond_what_was_served_keep_the_backtest_s_scores() -> None:
    from tsfm_pipeline.steps.serving_calibration import extended

    def buckets(*firsts: int, score: float) -> tuple[Bucket, ...]:
        return tuple(Bucket(first_step=first, n=500, score=score) for first in firsts)

    served = {GLOBAL: {"0.9": buckets(1, 2, 4, 7, score=1.0)}, "category=web": {"0.9": ()}}
    backtest = {
        GLOBAL: {"0.9": buckets(1, 2, 4, 7, 13, 25, score=2.0)},
        "metric=cpu": {"0.9": buckets(1, 2, 4, 7, 13, 25, score=3.0)},
    }
    assert extended(served, backtest, 12) == {
        GLOBAL: {"0.9": (*buckets(1, 2, 4, 7, score=1.0), *buckets(13, 25, score=2.0))},
        "category=web": {"0.9": ()},
    }


def test_steps_that_only_the_backtest_calibrates_are_not_judged_as_served() -> None:
    """Else an answer of a few steps would be judged as one of all, and so as not calibrated."""
    firsts = (1, 2, 4, 7, 13, 25)
    rows = pl.DataFrame(
        {
            "source": ["served"] * 4 + ["backtest"] * 2,
            "first_of_bucket": firsts,
            "last_of_bucket": (1, 3, 6, 12, 24, 48),
        }
    )
    assert served_horizon(rows) == 12


def test_a_calibration_is_no_other_for_what_comes_after_its_as_of_date(fleet: Fleet) -> None:
    """The future-shuffle test of calibration: later answers with any outcome change nothing."""
    from tsfm_pipeline.steps.serving_calibration import fit_past, served_past

    record(fleet, answers(fleet))
    fleet = served(fleet, "served_forecasts", "served_outcomes")
    before = served_past(fleet)
    after = fleet.grid.time_of(fleet.grid.n_steps - 1)
    record(fleet, answers(fleet, n_times=1, as_of=after, width=100.0))
    fleet = served(fleet, "served_forecasts", "served_outcomes")
    again = served_past(fleet)
    assert before is not None
    assert again is not None
    assert fit_past(before.forecasts) == fit_past(again.forecasts)


@pytest.mark.parametrize(
    ("scores", "low_80", "low_90"),
    [
        ({"0.9": 1.0}, -1.0, -2.0),
        ({"0.8": 1.0, "0.9": 1.0}, -2.0, -4.0),
        ({"0.8": 3.0, "0.9": -0.5}, -4.0, -4.0),
        ({"0.8": -1.0, "0.9": -2.0}, 0.0, 0.0),
    ],
)
def test_intervals_are_judged_as_the_service_answers_them(
    fleet: Fleet, scores: dict[str, float], low_80: float, low_90: float
) -> None:
    """Both calibrated or none, and one within the other."""
    fitted = {GLOBAL: {t: (Bucket(first_step=1, n=500, score=s),) for t, s in scores.items()}}
    calibration = Calibration.of(
        fitted,
        as_of=LATER,
        source="served",
        runtime="local",
        model="bundled",
        model_version="abc",
        step_minutes=1.0,
        horizon=1,
    )
    zero, quantiles = np.zeros(1, dtype=np.int64), np.array([[[-2.0, -1.0, 0.0, 1.0, 2.0]]])
    unlimited = fleet.grid.metrics.index("net_bytes") + zero
    upwards = quantiles + 10.0
    rows = PastForecasts(zero, unlimited, zero, upwards, np.zeros((1, 1)), [{}])
    ends = calibrated(fleet, rows, calibration).ends
    assert [float(ends[target][0][0, 0]) for target in (0.8, 0.9)] == [10 + low_80, 10 + low_90]
    assert [float(ends[target][1][0, 0]) for target in (0.8, 0.9)] == [10 - low_80, 10 - low_90]


# -- alerts


def test_a_band_is_the_latest_one_before_its_value() -> None:
    def row(step: int, low: float, received: int, outcome: list[float | None]) -> dict[str, Any]:
        return {
            "tenant_number": 0,
            "metric": "cpu_util",
            "as_of_step": step,
            "received": datetime(2024, 1, 1, 0, received),
            "horizon": len(outcome),
            "outcome": outcome,
            "low_90": [low] * len(outcome),
            "high_90": [low + 1.0] * len(outcome),
            "n_known": len(outcome),
            "unmatched": "",
        }

    rows = [
        row(10, 1.0, 0, [0.1, 0.2, 0.3, 0.4]),
        row(12, 2.0, 1, [0.3, 0.4, None]),
        row(12, 3.0, 2, [0.3, 0.4, None]),
        row(20, 4.0, 3, [0.9]),
    ]
    bands = latest_bands(pl.DataFrame(rows, infer_schema_length=None))
    assert bands.select("step", "band_low").rows() == [
        (11, 1.0),
        (12, 1.0),
        (13, 3.0),
        (14, 3.0),
        (21, 4.0),
    ]


@pytest.mark.parametrize(
    ("constant", "source", "fallback"),
    [
        ({"calibration": "v1"}, "conformal", False),
        ({}, "raw", False),
        ({"runtime": "baseline", "fallback_reason": "deadline"}, "baseline", True),
        ({"route": "shadow", "calibration": "v1"}, "baseline", True),
    ],
)
def test_an_alert_says_whose_band_was_left_and_by_how_much(
    fleet: Fleet, constant: dict[str, Any], source: str, fallback: bool
) -> None:
    record(fleet, answers(fleet, **constant))
    fleet = served(fleet, "served_forecasts", "served_outcomes", "band_alerts")
    alerts = fleet.tables.read("band_alerts")
    assert alerts.height > 100
    assert set(alerts["band_source"]) == {source}
    assert set(alerts["fallback_used"]) == {fallback}
    above = alerts["observed"] > alerts["band_high"]
    below = alerts["observed"] < alerts["band_low"]
    assert (above | below).all()
    sizes = alerts["breach_size"].fill_null(1.0)
    assert ((sizes > 0) == above).filter(alerts["breach_size"].is_not_null()).all()
    values = fleet.arrays.values(range(N_TENANTS))
    metrics = list(fleet.grid.metrics)
    for row in alerts.sample(10, seed=2).iter_rows(named=True):
        step = round((row["time"] - fleet.grid.start).total_seconds() / 60)
        series = values[row["tenant_number"], metrics.index(row["metric"])]
        assert row["observed"] == series[step]
    described = resolve_name(MAKERS["band_alerts"].describe)(fleet)
    assert described["n_alerts"] == alerts.height
    assert 0 < described["share_followed"] < 1


# -- rollout


def day_of(fleet: Fleet, stage: str, **constant: Any) -> list[dict[str, Any]]:
    """An hour of answers at a stage, thirty in each minute."""
    rows = answers(fleet, n_times=1)[:30]
    begin = LATER - timedelta(hours=2)
    return [
        row
        | {"received": begin + timedelta(minutes=m), "stage": stage, "route": "shadow"}
        | constant
        for m in range(60)
        for row in rows
    ]


def test_clean_windows_lead_to_the_next_stage_which_is_published(fleet: Fleet) -> None:
    record(fleet, day_of(fleet, "shadow"))
    fleet = served(fleet, "served_forecasts", "served_outcomes", "band_alerts", "rollout_decision")
    decisions = fleet.tables.read("rollout_decision")
    assert decisions["stage"].to_list() == ["shadow", "10"]
    assert publish_rollout(fleet)["percent"] == 10
    decision = RolloutDecision.model_validate_json(
        (fleet.published_dir / ROLLOUT_FILE).read_bytes()
    )
    assert (decision.stage, decision.percent, decision.by) == ("10", 10, "automatic")


@pytest.mark.parametrize("reason", INELIGIBLE)
def test_requests_that_no_model_could_answer_say_nothing_about_the_model(
    fleet: Fleet, reason: str
) -> None:
    constant = {"fallback_reason": reason, "runtime": "baseline", "latency_ms": 1e4}
    bad = day_of(fleet, "shadow", route="model", **constant)
    record(fleet, [*day_of(fleet, "shadow"), *bad])
    fleet = served(fleet, "served_forecasts", "served_outcomes", "band_alerts", "rollout_decision")
    assert fleet.tables.read("rollout_decision")["stage"].to_list() == ["shadow", "10"]


def test_a_person_s_decision_outranks_the_windows_and_is_never_overwritten(fleet: Fleet) -> None:
    record(fleet, day_of(fleet, "shadow"))
    tables = ("served_forecasts", "served_outcomes", "band_alerts", "rollout_decision")
    fleet = served(fleet, *tables)
    override = Override(at=datetime.now(UTC), action="rollback", reason="odd", by="ann")
    decide(fleet, override)
    # A run that began before the override ends after it.
    assert publish_rollout(fleet)["stage"] == "rolled-back"
    assert reopened(fleet).tables.state("rollout_decision") == "current"
    fleet = served(fleet, *tables)
    last = fleet.tables.read("rollout_decision").row(-1, named=True)
    assert (last["stage"], last["decided_by"]) == ("rolled-back", "ann")
    publish_rollout(fleet)
    assert published(fleet).by == "ann"  # type: ignore[union-attr]


def test_a_rollback_outlives_the_alerts_that_led_to_it(fleet: Fleet) -> None:
    """Judged anew, without the weeks before, it would not have been one."""
    long_ago, lately = (datetime.now(UTC) - timedelta(days=days) for days in (60, 4))
    first = {"since": long_ago, "stage": "100", "percent": 100, "reason": "clean", "by": "ann"}
    second = {"since": lately, "stage": "rolled-back", "percent": 0, "reason": "imprecise"}
    history(fleet).append(pl.DataFrame([first, second | {"by": "automatic"}]))
    record(fleet, day_of(fleet, "100", route="model"))
    fleet = served(fleet, "served_forecasts", "served_outcomes", "band_alerts", "rollout_decision")
    assert fleet.tables.read("rollout_decision")["stage"].to_list() == ["100", "rolled-back"]
    assert publish_rollout(fleet)["stage"] == "rolled-back"


def test_a_window_is_judged_when_all_of_its_records_are_there(fleet: Fleet) -> None:
    until = LATER.replace(minute=1, second=0, microsecond=0) + timedelta(hours=2)
    row = {"since": LATER, "stage": "100", "percent": 100, "reason": "clean", "by": "automatic"}
    history(fleet).append(pl.DataFrame([row]))
    received = until - timedelta(minutes=2)
    rows = answers(fleet, n_times=1, route="model", stage="100", invalid_output=True)
    record(fleet, [row | {"received": received} for row in rows])
    for later, stage in ((0, "100"), (1, "rolled-back")):
        intake = Intake(until=until + timedelta(minutes=later), n_files=1, digest=str(later))
        (fleet.published_dir / FILE).parent.mkdir(parents=True, exist_ok=True)
        (fleet.published_dir / FILE).write_text(intake.model_dump_json())
        fleet = reopened(fleet)
        tables = ("served_forecasts", "served_outcomes", "band_alerts", "rollout_decision")
        make(fleet, *tables)
        assert fleet.tables.read("rollout_decision")["stage"].to_list()[-1] == stage


def test_the_table_keeps_the_decisions_of_earlier_runs(fleet: Fleet) -> None:
    record(fleet, day_of(fleet, "shadow"))
    tables = ("served_forecasts", "served_outcomes", "band_alerts", "rollout_decision")
    fleet = served(fleet, *tables)
    publish_rollout(fleet)
    record(fleet, day_of(fleet, "10", route="model", invalid_output=True))
    later = [
        row | {"received": row["received"] + timedelta(minutes=45)}
        for row in day_of(fleet, "10", route="model", invalid_output=True)
    ]
    record(fleet, later)
    fleet = served(fleet, *tables)
    stages = fleet.tables.read("rollout_decision")["stage"].to_list()
    assert stages == ["shadow", "10", "rolled-back"]


def test_a_stage_outlives_the_records_that_led_to_it(fleet: Fleet) -> None:
    """The answers of the last weeks alone would begin in shadow again."""
    long_ago = datetime.now(UTC) - timedelta(days=60)
    row = {"since": long_ago, "stage": "100", "percent": 100, "reason": "clean", "by": "automatic"}
    history(fleet).append(pl.DataFrame([row]))
    record(fleet, day_of(fleet, "100", route="model"))
    fleet = served(fleet, "served_forecasts", "served_outcomes", "band_alerts", "rollout_decision")
    decisions = fleet.tables.read("rollout_decision")
    assert decisions.select("stage", "since").rows() == [("100", long_ago)]
    publish_rollout(fleet)
    publish_rollout(fleet)
    assert history(fleet).read().height == 1, "a decision is remembered once"
