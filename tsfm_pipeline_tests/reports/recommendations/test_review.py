"""Test the review of recommendations: a table fleet that grows, a bounded history, and what changed
from one run to the next.
"""

import math
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.recommendations import publication
from tsfm_pipeline.reports.recommendations.publication import past_runs, remember
from tsfm_pipeline.reports.recommendations.review import drift, recommendation_review, review
from tsfm_pipeline.steps import workloads
from tsfm_pipeline_tests.cli.conftest import START, STEP, add_table_fleet, telemetry
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.project import Project

FLEET = "grows"
N_TENANTS = 3
HORIZON = 4
N_DAYS = 10
END = START + N_DAYS * 48 * STEP
METRICS = ("cpu", "mem")


class Growing:
    """A table fleet of which every run sees the first so many steps, with telemetry and manifest
    really written.
    """

    def __init__(self, root: Path) -> None:
        self.project = Project(root, FAST | {"SHARD_TENANTS": "2"})
        self.every_row = telemetry(N_TENANTS, n_days=N_DAYS + 1)

    def until(self, n_more: int) -> Fleet:
        """The fleet once `n_more` steps after `END` have arrived."""
        rows = self.every_row.filter(pl.col("timestamp") < END + n_more * STEP)
        add_table_fleet(
            self.project,
            FLEET,
            rows,
            suffix="parquet",
            horizon=HORIZON,
            prices={"cpu": 0.5},
            currency="EUR",
        )
        fleet = self.project.fleet(FLEET)
        source = fleet.source
        fleet.tables.map_shards(
            "tenant_telemetry",
            lambda shard: workloads.telemetry_shard(source, shard),
            source.shards(fleet.settings.shard_tenants),
            provenance=workloads.telemetry_provenance(source),
        )
        fleet.tables.write("tenant_manifest", workloads.tenant_manifest(fleet))
        return fleet

    def recommended(
        self, fleet: Fleet, config: str = "ctx64", look_alike: str = "host-09"
    ) -> pl.DataFrame:
        """A table of recommendations for the block after the telemetry: the true maximum of the
        block, for all steps one unit less.
        """
        rows = []
        for tenant in fleet.manifest.iter_rows(named=True):
            start = fleet.grid.time_of(tenant["last_step"] + 1)
            block = self.every_row.filter(
                (pl.col("tenant_id") == tenant["tenant_id"])
                & pl.col("timestamp").is_between(start, start + HORIZON * STEP, closed="left")
            )
            for metric in METRICS:
                highest = float(block[metric].to_numpy().max(initial=0.0))
                for tier in TIERS:
                    rows.append(
                        {
                            "tenant_number": tenant["tenant_number"],
                            "tenant_id": tenant["tenant_id"],
                            "metric": metric,
                            "tier": tier,
                            "own_tier": tier == tenant["tier"],
                            "block_start": start,
                            "block_end": start + (HORIZON - 1) * STEP,
                            "made": True,
                            "reservation": highest - 1e-3,
                            "reservation_max": highest + 1e-3,
                            "reservation_fixed": highest + 1.0,
                            "reservation_last_block": None,
                            "expected_violation_rate": 0.2,
                            "config": config,
                            "config_weight": 0.5,
                            "archetype": None,
                            "look_alike": look_alike,
                        }
                    )
        schema = {
            "tenant_number": pl.Int32,
            "block_start": pl.Datetime("us", "UTC"),
            "block_end": pl.Datetime("us", "UTC"),
        }
        figures = [
            name for name in rows[0] if name.startswith(("reservation", "expected", "config_w"))
        ]
        texts = {"archetype": pl.String}
        return pl.DataFrame(
            rows, schema_overrides=schema | texts | dict.fromkeys(figures, pl.Float32)
        )

    def run(self, fleet: Fleet, **kwargs: str) -> pl.DataFrame:
        """A run's recommendations, stored and remembered."""
        table = self.recommended(fleet, **kwargs)
        fleet.tables.write("recommendations", table)
        remember(fleet, table)
        return table


@pytest.fixture
def growing(tmp_path: Path) -> Growing:
    return Growing(tmp_path)


def test_with_nothing_to_review_yet_the_report_says_so(growing: Growing) -> None:
    fleet = growing.until(0)
    growing.run(fleet)
    report = recommendation_review(fleet)
    assert (report.n_runs, report.n_reviewed, report.n_configs_changed) == (1, 0, 0)
    assert report.status.startswith("nothing to review yet")
    assert report.drift_status == "nothing to compare yet: this is the fleet's first run"
    assert not pl.read_parquet(fleet.reports_dir / "recommendation_review.parquet").height
    assert not pl.read_parquet(fleet.reports_dir / "tenant_drift.parquet").height


def test_what_was_recommended_is_judged_by_what_then_happened(growing: Growing) -> None:
    growing.run(growing.until(0))
    half_way = growing.until(HORIZON // 2 - 1)
    assert not review(half_way, past_runs(half_way)).height, (
        "less than half of the block has been observed"
    )
    fleet = growing.until(HORIZON)
    growing.run(fleet, config="ctx256")
    rows = review(fleet, past_runs(fleet))
    assert rows.height == N_TENANTS * len(METRICS) * len(TIERS)
    assert rows["block_start"].unique().to_list() == [END]
    assert set(rows["n_observed"]) == {HORIZON}
    assert set(rows["violation_rate"]) == {1 / HORIZON}, (
        "the maximum alone lies above a constant just below it"
    )
    assert set(rows["covered"]) == {1.0}
    assert rows["shortfall"].to_numpy() == pytest.approx(1e-3 / HORIZON, rel=0.05)
    assert (rows["loss_fixed"] > rows["loss"]).all()
    assert rows["loss_last_block"].is_nan().all(), "none was stored"
    report = recommendation_review(fleet)
    assert (report.n_runs, report.n_reviewed) == (2, rows.height)
    standard = report.tiers["standard"]
    assert (standard.violation_rate, standard.covered) == (0.25, 1.0)
    assert standard.ratio_fixed.figure < 1
    assert math.isnan(standard.ratio_last_block.figure)
    assert {row.run for row in report.table_runs} == {1}
    assert len(report.table_misses) == N_TENANTS * len(METRICS)
    assert report.currency == "EUR"
    own = rows.filter(pl.col("own_tier") & (pl.col("metric") == "cpu"))
    assert report.slack_cost_per_tenant_day == pytest.approx(
        own["slack"].mean() * 0.5 * 24, rel=1e-6
    )


def test_a_grid_that_begins_later_is_reviewed_by_time(growing: Growing) -> None:
    growing.run(growing.until(0))
    growing.every_row = growing.every_row.filter(pl.col("timestamp") >= START + timedelta(days=3))
    fleet = growing.until(HORIZON)
    assert fleet.grid.time_of(0) == START + timedelta(days=3)
    assert set(review(fleet, past_runs(fleet))["violation_rate"]) == {1 / HORIZON}


def test_one_table_is_remembered_once_and_old_copies_are_kept_but_not_looked_at(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "SEEN_RUNS", 2)
    first = growing.until(0)
    growing.run(first)
    path = past_runs(first)[0].path
    before = path.read_bytes()
    growing.run(first)
    assert [run.number for run in past_runs(first)] == [1]
    for n_more in (1, 2):
        fleet = growing.until(n_more)
        growing.run(fleet)
    assert [run.number for run in past_runs(fleet)] == [2, 3]
    assert past_runs(fleet)[-1].path.name.startswith("000003-20240314T010000Z-")
    assert path.read_bytes() == before


def test_changes_since_the_last_run_are_listed_with_old_and_new(growing: Growing) -> None:
    growing.run(growing.until(0))
    fleet = growing.until(HORIZON)
    growing.run(fleet, config="ctx256", look_alike="host-07")
    changed = drift(fleet, past_runs(fleet))
    assert changed.previous is not None
    assert (changed.previous.number, changed.n_series) == (1, N_TENANTS * len(METRICS))
    configs = changed.rows.filter(pl.col("what") == "configuration")
    assert configs.select("old", "new").unique().rows() == [("ctx64", "ctx256")]
    assert configs.height == N_TENANTS * len(METRICS), "at each tenant's own tier"
    groups = changed.rows.filter(pl.col("what") == "look-alike")
    assert groups.select("old", "new").unique().rows() == [("host-09", "host-07")]
    assert groups["tenant_id"].to_list() == [f"host-{n:02d}" for n in range(N_TENANTS)]
    report = recommendation_review(fleet)
    assert (report.n_configs_changed, report.n_groups_changed, report.n_tenants_changed) == (
        6,
        3,
        3,
    )
    assert (report.n_new_tenants, report.n_gone_tenants) == (0, 0)
    assert pl.read_parquet(fleet.reports_dir / "tenant_drift.parquet").equals(changed.rows)


def test_tenants_that_came_or_went_are_counted(growing: Growing) -> None:
    growing.run(growing.until(0))
    growing.every_row = growing.every_row.filter(pl.col("tenant_id") != "host-00").with_columns(
        pl.col("tenant_id").replace("host-01", "host-50")
    )
    fleet = growing.until(HORIZON)
    growing.run(fleet)
    changed = drift(fleet, past_runs(fleet))
    assert (changed.n_new_tenants, changed.n_gone_tenants, changed.n_series) == (1, 2, len(METRICS))
    assert set(review(fleet, past_runs(fleet))["tenant_id"]) == {"host-02"}, (
        "what became of the others is not known"
    )
