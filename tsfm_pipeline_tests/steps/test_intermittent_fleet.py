"""Test a fleet of jobs that run one step in twelve, through every table: nothing that is stored or
published lies outside of its metric's limits, the constant for the maximum is recommended, it is
compared with what is reserved today, and a marked event counts for its own tenant.

What belongs here: limits, intermittent series, reserved columns and event columns in tables, files
and answers, because all need such a fleet. What does not: the
methods by themselves (`autoresearch.test_within_limits`), the rule by itself
(`evaluation.test_intermittence`).
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.cli.app import app
from tsfm_pipeline.evaluation.methods import SEARCH_DESPITE_EVENTS
from tsfm_pipeline.reports.recommendations.numbers import recommendation_report
from tsfm_pipeline.reports.recommendations.words import (
    intermittent_answer,
    reserved,
    reserved_answer,
)
from tsfm_pipeline.steps.evidence import validation_arrays
from tsfm_pipeline.steps.known_events import comparable_origins, known_events
from tsfm_pipeline.steps.recommendations import INTERMITTENT
from tsfm_pipeline_tests.cli.conftest import add_table_fleet
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.project import Project

# Their fleet takes over 20 s to run.
pytestmark = [pytest.mark.run, pytest.mark.slow]

FLEET, N_JOBS, N_SERVICES, N_STEPS = "jobs", 4, 2, 12 * 288
TIERS = {"gold": 0.95, "iron": 0.7}
STEP = timedelta(minutes=5)
BUSY_MEMORY = 600e6
RESERVED, PRICE = 1.5, 0.03
MARKED, RELEASE = 5, range(288, 288 + 60)
"""The service with an event of five hours that ends a day before the telemetry."""
RESERVATIONS = [
    "reservation",
    "reservation_max",
    "reservation_median",
    "reservation_fixed",
    "reservation_last_block",
]


def rows() -> pl.DataFrame:
    """Jobs whose cpu reaches its highest value one step in twelve, and services with a daily cycle
    that end at theirs. All jobs but one have a cpu of 1.5 reserved; of the services nobody knows.
    """
    rng = np.random.default_rng(3)
    step = np.arange(N_STEPS)
    frames = []
    for tenant in range(N_JOBS + N_SERVICES):
        if tenant < N_JOBS:
            busy = (step + tenant) % 12 == 0
            cpu = busy * np.minimum(1.0, rng.normal(0.95, 0.1, N_STEPS))
            memory = busy * BUSY_MEMORY * rng.uniform(0.9, 1.1, N_STEPS)
        else:
            cycle = 0.7 + 0.3 * np.sin(2 * np.pi * step / 288)
            cpu = np.where(step < N_STEPS - 1000, cycle, 1.0) + 0.05 * rng.normal(size=N_STEPS)
            memory = 1e8 * (1 + cycle + 0.1 * rng.normal(size=N_STEPS))
        frames.append(
            pl.DataFrame(
                {
                    "tenant_id": [f"{'job' if tenant < N_JOBS else 'service'}-{tenant}"] * N_STEPS,
                    "timestamp": [datetime(2024, 3, 1, tzinfo=UTC) + int(t) * STEP for t in step],
                    "cpu": np.clip(cpu, 0, 1),
                    "memory": np.maximum(0, memory),
                    "cpu_requested": [RESERVED if tenant in range(1, N_JOBS) else None] * N_STEPS,
                    "release": (tenant == MARKED) & np.isin(step, N_STEPS - np.array(RELEASE)),
                },
                schema_overrides={"cpu_requested": pl.Float64},
            )
        )
    return pl.concat(frames)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("jobs"), FAST)
    fields: dict[str, Any] = {"horizon": 12, "max_gap": 6, "origins_per_tenant": 6}
    fields |= {"prices": {"cpu": PRICE}, "currency": "EUR"}
    add_table_fleet(
        project,
        FLEET,
        rows(),
        "parquet",
        tiers=TIERS,
        bounds={"cpu": {"lower": 0, "upper": 1}},
        reserved_columns={"cpu": "cpu_requested"},
        event_column="release",
        **fields,
    )
    run = project.materialise(
        FLEET, ["*scored_forecasts", "*recommendations", "*recommendation_scores"]
    )
    assert run.returncode == 0, run.stdout[-8000:]
    return project


@pytest.fixture(scope="module")
def fleet(project: Project) -> Fleet:
    return project.fleet(FLEET)


def within_limits(fleet: Fleet, table: pl.DataFrame, column: str) -> bool:
    """Whether every value of the column that is known lies within the limits of its metric."""
    for metric in fleet.grid.metrics:
        low, high = fleet.spec.bounds_of(metric)
        values = table.filter(pl.col("metric") == metric)[column].to_numpy().astype(np.float64)
        known = values[np.isfinite(values)]
        assert known.size, f"{column} of {metric}"
        inside = (known >= low) & (known <= (np.inf if high is None else high))
        if not inside.all():
            return False
    return True


@pytest.mark.parametrize(
    ("table", "columns"),
    {
        "forecast_grid": ["forecast"],
        "baseline_forecasts": ["deciles"],
        "autoresearch_forecasts": ["decision", "deciles"],
        "recommendation_scores": ["reservation"],
        "recommendations": RESERVATIONS,
    }.items(),
    ids=str,
)
def test_whatever_is_stored_lies_within_the_limits_of_its_metric(
    fleet: Fleet, table: str, columns: list[str]
) -> None:
    stored = fleet.tables.read(table)
    for column in columns:
        assert within_limits(fleet, stored, column), column


@pytest.mark.parametrize(
    ("table", "key", "column"),
    [
        ("autoresearch_forecasts", ["request_id", "metric"], "decision"),
        ("recommendation_scores", ["request_id", "metric", "method"], "reservation"),
        ("recommendations", ["tenant_number", "metric"], "reservation"),
        ("recommendations", ["tenant_number", "metric"], "reservation_max"),
    ],
)
def test_no_higher_tier_gets_less(fleet: Fleet, table: str, key: list[str], column: str) -> None:
    stored = fleet.tables.read(table)
    gold, iron = (
        np.stack(stored.filter(pl.col("tier") == tier).sort(key)[column].to_list())
        for tier in TIERS
    )
    known = np.isfinite(gold.astype(np.float64)) & np.isfinite(iron.astype(np.float64))
    assert known.any()
    assert (gold >= iron)[known].all()


def test_a_job_is_known_as_intermittent_and_a_service_is_not(fleet: Fleet) -> None:
    table = fleet.tables.read("recommendations")
    jobs = table.filter(pl.col("tenant_id").str.starts_with("job"))
    services = table.filter(pl.col("tenant_id").str.starts_with("service"))
    assert jobs["demand_interval"].to_numpy() == pytest.approx(12, rel=0.05)
    assert services["demand_interval"].is_null().all()
    assert (jobs["note"] == f"{INTERMITTENT}busy at one step in 12, take reservation_max").all()
    assert not services["note"].str.contains(INTERMITTENT).any()
    maximum = jobs.filter(pl.col("metric") == "memory", pl.col("tier") == "gold")
    assert (maximum["reservation_max"] > 0.8 * BUSY_MEMORY).all(), "the job takes 540 to 660 MB"


def test_the_vpa_file_asks_for_the_maximum_of_a_job_and_keeps_its_bounds_in_order(
    fleet: Fleet,
) -> None:
    document = json.loads((fleet.reports_dir / "recommendations.vpa.json").read_text())
    table = fleet.tables.read("recommendations").filter("own_tier")
    for item in document["items"]:
        own = table.filter(pl.col("tenant_id") == item["metadata"]["name"])
        (container,) = item["status"]["recommendation"]["containerRecommendations"]
        low, target, high = (container[n] for n in ("lowerBound", "target", "upperBound"))
        is_job = item["metadata"]["name"].startswith("job")
        take = dict(
            own.select("metric", "reservation_max" if is_job else "reservation").iter_rows()
        )
        assert target == pytest.approx(take, rel=1e-5)
        for metric in fleet.grid.metrics:
            assert 0 <= low[metric] <= target[metric] <= high[metric]
            assert metric != "cpu" or high[metric] <= 1
        (condition,) = item["status"]["conditions"]
        assert (INTERMITTENT in condition.get("message", "")) == is_job


def test_the_report_says_how_often_the_maximum_held_for_intermittent_series(
    fleet: Fleet,
) -> None:
    report = recommendation_report(fleet)
    assert report.n_intermittent == N_JOBS * len(fleet.grid.metrics)
    covered, by_steps = report.intermittent_covered_max, report.intermittent_covered
    assert covered is not None
    assert by_steps is not None
    assert covered.figure > 0.7 > by_steps.figure
    text = intermittent_answer(report)
    assert text.startswith("8 series of 12 are idle at most steps")
    assert "take reservation_max" in text


def test_a_marked_event_changes_what_counts_for_its_own_tenant_only(fleet: Fleet) -> None:
    requests = fleet.arrays.requests("test")
    owner = np.repeat(requests.tenant_numbers, requests.ids.shape[1])
    counts = comparable_origins(fleet, requests)
    assert len(known_events(fleet)) == 1
    assert counts[owner != MARKED].all()
    first, after = N_STEPS - RELEASE[-1], N_STEPS - RELEASE[0] + 1

    def touched(origin: int) -> bool:
        return origin + 1 < after and origin + fleet.spec.horizon >= first

    for origin, heard in zip(
        requests.origins.ravel()[owner == MARKED], counts[owner == MARKED], strict=True
    ):
        alike = [touched(origin - offset) == touched(origin) for offset in fleet.offsets]
        assert heard.tolist() == (alike if any(alike) else [True] * len(alike))
    assert not counts.all()
    losses = validation_arrays(fleet, requests)[0]
    assert np.isnan(np.moveaxis(losses, 3, 1)[~counts]).all()
    scored = fleet.tables.read("scored_forecasts")["method"].unique().to_list()
    assert SEARCH_DESPITE_EVENTS in scored


def test_what_is_reserved_today_is_no_metric_and_stands_beside_what_is_recommended(
    fleet: Fleet,
) -> None:
    assert fleet.grid.metrics == ("cpu", "memory")
    report = recommendation_report(fleet)
    assert [(row.metric, row.tier) for row in report.table_reserved] == [
        ("cpu", tier) for tier in TIERS
    ]
    requests = fleet.arrays.requests("test")
    jobs = [n for n in requests.tenant_numbers.tolist() if n in range(1, N_JOBS)]
    valid = requests.valid[np.isin(requests.tenant_numbers, jobs)].sum()
    actual = fleet.tables.read("request_targets").filter(
        pl.col("metric") == "cpu", pl.col("tenant_number").is_in(jobs)
    )
    tested = actual.filter(pl.col("request_id").is_in(requests.ids.ravel().tolist()))
    load = float(np.stack(tested["actual"].to_list()).mean())
    for row in report.table_reserved:
        assert (row.n_requests, row.n_tenants) == (valid, len(jobs))
        assert row.reserved_today == pytest.approx(RESERVED)
        assert (row.violation_rate_today, row.shortfall_today) == (0, 0)
        assert row.slack_today == pytest.approx(RESERVED - load, rel=1e-4)
        assert row.recommended <= 1, "its limit"
        assert row.saved.figure == pytest.approx(RESERVED - row.recommended)
        assert row.slack - row.shortfall == pytest.approx(row.recommended - load, rel=1e-4)
        assert row.saved_cost_per_tenant_day is not None
        ratio = TIERS[row.tier] / (1 - TIERS[row.tier])
        costs = [
            24 * PRICE * (slack + ratio * shortfall)
            for slack, shortfall in ((row.slack_today, 0.0), (row.slack, row.shortfall))
        ]
        assert row.saved_cost_per_tenant_day.figure == pytest.approx(costs[0] - costs[1], rel=1e-4)
    assert "cpu" in reserved_answer(report)
    assert "instead of 1.50 (saved" in reserved_answer(report)
    assert len(reserved(report).rows) == len(TIERS)


@pytest.mark.parametrize("options", [[], ["--fleet", FLEET]], ids=["one configuration", "search"])
def test_forecasts_stay_within_the_limits_and_name_what_is_intermittent(
    project: Project, tmp_path: Path, options: list[str]
) -> None:
    out = tmp_path / "out.parquet"
    table = tmp_path / "new.parquet"
    rows().drop("cpu_requested").write_parquet(table)
    environment = {**project.environment, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "400"}
    done = CliRunner().invoke(
        app, ["forecast", str(table), "--out", str(out), *options], env=environment
    )
    assert done.exit_code == 0, done.output
    answered = pl.read_parquet(out)
    values = answered.select("decision", pl.col("^q[1-9]0$")).to_numpy()
    assert values.min() >= 0
    if options:
        of_cpu = answered.filter(pl.col("metric") == "cpu")
        assert of_cpu.select("decision", "q90").to_numpy().max() <= 1
    seldom = answered.filter(pl.col("demand_interval").is_not_null())
    assert seldom["tenant_id"].unique().sort().to_list() == [f"job-{n}" for n in range(N_JOBS)]
    assert "8 series are intermittent (column demand_interval)" in " ".join(done.output.split())
