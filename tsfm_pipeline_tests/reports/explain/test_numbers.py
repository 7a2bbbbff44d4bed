"""Test that an explanation is what the stored tables say, and that only the tenant's own parts of
them are read.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.reports.explain.model import TenantExplanation
from tsfm_pipeline.reports.explain.numbers import (
    LEAST_WEIGHT,
    SHOWN_MISSES,
    SHOWN_TENANTS,
    UnknownTenantError,
    explain,
    most_expensive_misses,
)
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.project import Project

NUMBER = 17
SHARDED = (
    "tenant_telemetry",
    "request_targets",
    "forecast_grid",
    "validation_losses",
    "config_priors",
    "autoresearch_forecasts",
    "recommendation_scores",
    "recommendations",
)


@pytest.fixture(scope="module")
def tenant_id(mini_fleet: Fleet) -> str:
    return str(mini_fleet.manifest["tenant_id"][NUMBER])


@pytest.fixture(scope="module")
def explained(mini_fleet: Fleet, tenant_id: str) -> TenantExplanation:
    return explain(mini_fleet, tenant_id)


def of_tenant(fleet: Fleet, table: str) -> pl.DataFrame:
    return fleet.tables.read(table).filter(pl.col("tenant_number") == NUMBER)


def test_reservations_are_those_that_are_published(
    mini_fleet: Fleet, explained: TenantExplanation
) -> None:
    stored = of_tenant(mini_fleet, "recommendations")
    shown = pl.DataFrame([row.flat() for row in explained.table_reservations])
    same = [name for name in shown.columns if name in stored.columns]
    assert same == shown.columns
    for name in same:
        assert shown[name].to_list() == stored[name].to_list(), name
    assert {row.tier for row in explained.own} == {explained.tier}
    assert explained.archetype == stored["archetype"][0]


def test_the_nearest_neighbour_is_the_stored_look_alike(
    mini_fleet: Fleet, explained: TenantExplanation
) -> None:
    stored = of_tenant(mini_fleet, "recommendations")
    neighbours = explained.table_neighbours
    assert neighbours[0].tenant_id == stored["look_alike"][0]
    assert [row.rank for row in neighbours] == list(range(1, len(neighbours) + 1))
    assert len(neighbours) == mini_fleet.settings.search.neighbours
    similarities = [row.similarity for row in neighbours]
    assert similarities == sorted(similarities, reverse=True)
    actual = dict(mini_fleet.manifest.select("tenant_id", "archetype").iter_rows())
    assert all(row.archetype == actual[row.tenant_id] for row in neighbours)
    assert explained.tenant_id not in {row.tenant_id for row in neighbours}


def test_weights_and_losses_are_those_of_the_latest_valid_test_request(
    mini_fleet: Fleet, explained: TenantExplanation
) -> None:
    requests = of_tenant(mini_fleet, "forecast_requests").filter("valid", role="test")
    latest = requests.sort("origin_step").row(-1, named=True)
    assert explained.scored_request == f"{latest['origin_time']:%Y-%m-%d %H:%M}"
    own = (pl.col("request_id") == latest["request_id"]) & (pl.col("tier") == explained.tier)
    decided = mini_fleet.tables.read("autoresearch_forecasts").filter(own)
    names = [config.name for config in mini_fleet.configs]
    losses = mini_fleet.tables.read("validation_losses").filter(request_id=latest["request_id"])
    column = f"loss_{explained.tier}"
    for row in decided.iter_rows(named=True):
        weights = dict(zip(names, row["weights"], strict=True))
        shown = {
            each.config: each for each in explained.table_weights if each.metric == row["metric"]
        }
        heavy = {name for name, weight in weights.items() if weight >= LEAST_WEIGHT}
        assert heavy <= set(shown)
        assert all(each.is_fixed for name, each in shown.items() if name not in heavy)
        assert {name: shown[name].weight for name in heavy} == {
            name: weights[name] for name in heavy
        }
        assert next(iter(shown)) == row["chosen"]
        for name, each in shown.items():
            stored = losses.filter(metric=row["metric"], config=name)[column].fill_nan(None)
            assert each.mean_validation_loss == pytest.approx(stored.mean(), nan_ok=True)
            assert each.n_validation_origins == stored.count()
    shifts = dict(decided.select("metric", "shift").iter_rows())
    assert {row.metric: row.shift for row in explained.table_corrections} == shifts


def test_misses_are_the_latest_blocks_in_which_the_load_exceeded_the_constant(
    mini_fleet: Fleet,
) -> None:
    scores = mini_fleet.tables.read("recommendation_scores").filter(method="search")
    tiers = mini_fleet.manifest.select("tenant_number", "tier")
    valid = mini_fleet.tables.read("forecast_requests").filter("valid")
    own = scores.join(tiers, on=["tenant_number", "tier"]).join(
        valid.select("request_id", "origin_step"), on="request_id"
    )
    n_missed = 0
    for number, tenant_id in enumerate(mini_fleet.manifest["tenant_id"][:6]):
        stored = own.filter(pl.col("tenant_number") == number)
        missed = stored.filter(pl.col("violation_rate") > 0).sort("origin_step", descending=True)
        rows = explain(mini_fleet, tenant_id).table_misses
        assert len(rows) == min(SHOWN_MISSES, missed.height)
        steps = missed["origin_step"].to_list()[: len(rows)]
        assert [row.block_start for row in rows] == [
            f"{mini_fleet.grid.time_of(step + 1):%Y-%m-%d %H:%M}" for step in steps
        ]
        for row, step in zip(rows, steps, strict=True):
            same = missed.filter(origin_step=step, metric=row.metric).row(0, named=True)
            assert row.n_above / row.n_observed == pytest.approx(same["violation_rate"])
            assert row.shortfall == same["shortfall"]
            assert row.highest > row.reservation == same["reservation"]
            assert row.minutes_above == row.n_above * mini_fleet.grid.step_minutes
        n_missed += len(rows)
    assert n_missed > 0


def test_the_backtest_compares_the_same_requests(
    mini_fleet: Fleet, explained: TenantExplanation
) -> None:
    scores = of_tenant(mini_fleet, "recommendation_scores").filter(tier=explained.tier)
    valid = mini_fleet.tables.read("forecast_requests").filter("valid")["request_id"]
    scores = scores.filter(pl.col("request_id").is_in(valid.implode()))
    for row in explained.table_backtest:
        own = scores.filter(metric=row.metric)
        search, fixed = (own.filter(method=name)["loss"] for name in ("search", "fixed_quantile"))
        assert row.n_requests == len(search)
        assert row.ratio_fixed == pytest.approx(search.sum() / fixed.sum(), rel=1e-5)
        held = own.filter(method="search_peak")["covered"].mean()
        assert row.covered == pytest.approx(held)


def test_only_the_tenants_own_parts_are_read(
    mini_project: Project, tmp_path: Path, tenant_id: str, explained: TenantExplanation
) -> None:
    copy = mini_project.copy_to(tmp_path / "copy")
    own = f"part-{NUMBER // copy.settings.shard_tenants:05d}-"
    others = [
        part
        for table in SHARDED
        for part in copy.parts(MINI, table)
        if not part.name.startswith(own)
    ]
    assert len(others) >= len(SHARDED)
    for part in others:
        part.unlink()
    assert explain(copy.fleet(MINI), tenant_id).flat() == explained.flat()


def test_invalid_requests_are_evidence_of_nothing(
    mini_project: Project, tmp_path: Path, tenant_id: str, explained: TenantExplanation
) -> None:
    fleet = mini_project.copy_to(tmp_path / "copy").fleet(MINI)
    requests = fleet.tables.read("forecast_requests")
    tested = requests.filter("valid", role="test", tenant_number=NUMBER).sort("origin_step")
    latest, before = tested["request_id"][-1], tested["origin_time"][-2]
    fleet.tables.write(
        "forecast_requests",
        requests.with_columns(valid=pl.col("valid") & (pl.col("request_id") != latest)),
    )
    without = explain(fleet, tenant_id)
    assert without.scored_request == f"{before:%Y-%m-%d %H:%M}" != explained.scored_request
    n_requests = explained.table_backtest[0].n_requests
    assert [row.n_requests for row in without.table_backtest] == [n_requests - 1] * 4


def test_neither_rounding_nor_a_missing_score_is_a_miss(
    mini_project: Project, tmp_path: Path, tenant_id: str, explained: TenantExplanation
) -> None:
    fleet = mini_project.copy_to(tmp_path / "copy").fleet(MINI)
    scores = fleet.tables.read("recommendation_scores")
    cpu, memory = (pl.col("metric") == metric for metric in ("cpu_util", "mem_util"))
    fleet.tables.write(
        "recommendation_scores",
        scores.with_columns(
            violation_rate=pl.when(cpu)
            .then(0.0)
            .when(memory)
            .then(float("nan"))
            .otherwise("violation_rate")
            .cast(pl.Float32),
            shortfall=pl.when(cpu).then(1e-9).otherwise("shortfall").cast(pl.Float32),
        ),
    )
    assert {row.metric for row in explained.table_misses} & {"cpu_util", "mem_util"}
    rows = explain(fleet, tenant_id).table_misses
    assert rows
    assert not {row.metric for row in rows} & {"cpu_util", "mem_util"}


def test_the_basis_is_that_of_the_recommendations_that_are_made(
    mini_project: Project, tmp_path: Path, tenant_id: str
) -> None:
    fleet = mini_project.copy_to(tmp_path / "copy").fleet(MINI)
    stored = fleet.tables.read("recommendations")
    is_cold = pl.when(pl.col("metric") == "cpu_util").then(pl.lit("cold"))
    no_past = stored.with_columns(basis=is_cold.otherwise(pl.lit("full")))
    fleet.tables.write("recommendations", no_past)
    assert explain(fleet, tenant_id).basis == "cold"
    fleet.tables.write(
        "recommendations",
        no_past.with_columns(made=pl.col("made") & (pl.col("metric") != "cpu_util")),
    )
    assert explain(fleet, tenant_id).basis == "full"


def test_an_unknown_tenant_is_refused_with_names_that_are_near(
    mini_fleet: Fleet, tenant_id: str
) -> None:
    with pytest.raises(UnknownTenantError, match=f"did you mean .*'{tenant_id}'"):
        explain(mini_fleet, f" {tenant_id.upper()}")
    with pytest.raises(UnknownTenantError, match=r"it has 32 tenants, such as 'tenant-00000'"):
        explain(mini_fleet, "?")


def test_the_page_explains_the_tenants_with_the_most_expensive_misses(mini_fleet: Fleet) -> None:
    shown = most_expensive_misses(mini_fleet)
    scores = mini_fleet.tables.read("recommendation_scores").filter(method="search")
    targets = mini_fleet.tables.read("request_targets", columns=["request_id", "metric", "scale"])
    valid = mini_fleet.tables.read("forecast_requests").filter("valid").select("request_id")
    own = scores.join(
        mini_fleet.manifest.select("tenant_number", "tier", "tenant_id"),
        on=["tenant_number", "tier"],
    )
    own = own.join(targets, on=["request_id", "metric"]).join(valid, on="request_id")
    scaled = (own["shortfall"] / own["scale"]).to_numpy()
    scaled = np.where(np.isfinite(scaled), scaled, -1)
    worst = list(dict.fromkeys(own["tenant_id"].gather(np.argsort(-scaled, kind="stable"))))
    assert [each.tenant_id for each in shown] == worst[:SHOWN_TENANTS]
