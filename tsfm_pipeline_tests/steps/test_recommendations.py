"""Test recommendations of a materialised fleet: the shipped decisions are the scored ones, nothing
after the origin is read, and files agree.
"""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.arrays import Requests
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import (
    BLOCK_CONSTANTS,
    FIXED,
    LARGEST_STEP,
    SEARCH,
    SEARCH_PEAK,
)
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.spec import parse_spec
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.reports.recommendations.numbers import block_losses
from tsfm_pipeline.reports.recommendations.publication import vpa_document, with_money
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline.steps.blocks import method_constants
from tsfm_pipeline.steps.live import Recommender, next_requests
from tsfm_pipeline_tests.conftest import N_ORIGINS, N_TENANTS
from tsfm_pipeline_tests.docs.pages import blocks

TOLERANCE = 1e-5
N_ROUNDINGS = 6
"""Of the level in float32: the four of the request path, the prior, the constant as stored."""
N_TEST = N_TENANTS // 2


@pytest.fixture(scope="module")
def table(mini_fleet: Fleet) -> pl.DataFrame:
    return mini_fleet.tables.read("recommendations")


@pytest.fixture(scope="module")
def recommender(mini_fleet: Fleet, mini_forecaster: FrozenForecaster) -> Recommender:
    return Recommender(mini_fleet, mini_forecaster)


@pytest.fixture(scope="module")
def asked(mini_fleet: Fleet) -> tuple[Requests, np.ndarray]:
    """All test requests of two tenants of the second shard, and these tenants' telemetry."""
    shard = mini_fleet.shards[1]
    tenants = mini_fleet.arrays.requests("test", shard).tenant_numbers[:2].tolist()
    requests = mini_fleet.arrays.requests("test", shard, only=tenants)
    return requests, mini_fleet.arrays.values(shard)[requests.rows]


def test_what_is_shipped_is_what_is_scored(
    mini_fleet: Fleet, recommender: Recommender, asked: tuple[Requests, np.ndarray]
) -> None:
    requests, values = asked
    shipped = recommender.batch(requests, values).constants
    scores = mini_fleet.tables.read("recommendation_scores").filter(
        pl.col("request_id").is_in(requests.ids.ravel().tolist())
    )
    (scale,) = mini_fleet.arrays.of("request_targets", requests, ["scale"], (values.shape[1],))
    for method, constant in ((SEARCH, shipped.steps), (SEARCH_PEAK, shipped.peak)):
        stored = (
            scores.filter(pl.col("method") == method)["reservation"]
            .to_numpy()
            .reshape(constant.shape)
        )
        excess = np.abs(constant - stored) - N_ROUNDINGS * np.spacing(np.abs(stored))
        assert (excess / scale[..., None]).max() <= TOLERANCE


def test_nothing_after_an_origin_is_read(
    mini_fleet: Fleet, recommender: Recommender, asked: tuple[Requests, np.ndarray]
) -> None:
    requests, values = asked
    noisy = values.copy()
    rng = np.random.default_rng(0)
    earliest = Requests(
        requests.frame[::N_ORIGINS],
        requests.tenant_numbers,
        requests.rows,
        *(part[:, :1] for part in _parts(requests)),
    )
    for row, origin in zip(noisy, earliest.origins[:, 0], strict=True):
        future = row[:, origin + 1 :]
        future[:] = rng.exponential(10 * np.abs(values).mean(), future.shape)
    before, after = (
        recommender.batch(earliest, telemetry).constants for telemetry in (values, noisy)
    )
    np.testing.assert_array_equal(before.steps, after.steps)
    np.testing.assert_array_equal(before.peak, after.peak)
    of_methods = [
        method_constants(mini_fleet, earliest, telemetry) for telemetry in (values, noisy)
    ]
    for method in BLOCK_CONSTANTS:
        np.testing.assert_array_equal(of_methods[0][method], of_methods[1][method], err_msg=method)


def _parts(requests: Requests) -> tuple[np.ndarray, ...]:
    return requests.ids, requests.origins, requests.valid


def test_every_series_has_a_reservation_at_every_tier_for_the_block_after_its_telemetry(
    mini_fleet: Fleet, table: pl.DataFrame
) -> None:
    assert table.height == N_TENANTS * len(mini_fleet.grid.metrics) * len(TIERS)
    assert table["made"].all()
    assert (table["note"] == "").all()
    assert table["reservation"].is_finite().all()
    last = mini_fleet.grid.time_of(mini_fleet.grid.n_steps - 1)
    step = mini_fleet.grid.time_of(1) - mini_fleet.grid.time_of(0)
    assert table["block_start"].unique().to_list() == [last + step]
    assert table["block_end"].unique().to_list() == [last + mini_fleet.spec.horizon * step]
    own = table.filter("own_tier").unique("tenant_number", maintain_order=True)
    assert own["tier"].to_list() == mini_fleet.manifest["tier"].to_list()


def test_reservations_are_ordered_as_their_meaning_asks_for(table: pl.DataFrame) -> None:
    assert (table["reservation_max"] >= table["reservation"]).all()
    assert (table["reservation"] >= table["reservation_median"]).all()
    assert (table["reservation_median"] >= 0).all(), "the fleet's bound"
    by_tier = {
        tier: table.filter(pl.col("tier") == tier).sort("tenant_number", "metric")["reservation"]
        for tier in TIERS
    }
    assert (by_tier["premium"] >= by_tier["standard"]).all()
    assert (by_tier["standard"] >= by_tier["basic"]).all()
    assert table["demand_interval"].is_null().all(), "no synthetic series is intermittent"


def test_the_evidence_stands_beside_each_recommendation(
    mini_fleet: Fleet, table: pl.DataFrame
) -> None:
    assert set(table["config"]) <= {config.name for config in mini_fleet.configs}
    assert (table["n_validation_origins"] == len(mini_fleet.offsets)).all()
    assert table["config_weight"].is_between(1 / len(mini_fleet.configs) - 1e-6, 1).all()
    assert table["relative_validation_loss"].median() == pytest.approx(1, abs=0.2)
    for tier, alpha in TIERS.items():
        rates = table.filter(pl.col("tier") == tier)["expected_violation_rate"]
        assert rates.mean() == pytest.approx(1 - alpha, abs=0.06)
    assert set(table["archetype"].drop_nulls()) <= set(mini_fleet.manifest["archetype"])
    others = table.filter(pl.col("look_alike") == pl.col("tenant_id"))
    assert not others.height, "nobody resembles itself"


def test_stale_and_gappy_series_say_so(mini_fleet: Fleet, recommender: Recommender) -> None:
    shard = mini_fleet.shards[0]
    values = mini_fleet.arrays.values(shard).copy()
    values[0, 1, -45:] = np.nan
    values[1, 2, -200:-100] = np.nan
    rows = _live(recommender, shard, values)
    at = {
        (row["tenant_number"], row["metric"]): row
        for row in rows.filter("own_tier").iter_rows(named=True)
    }
    metrics = mini_fleet.grid.metrics
    stale, gappy = at[0, metrics[1]], at[1, metrics[2]]
    assert (stale["made"], stale["reservation"], stale["config"]) == (False, None, None)
    assert stale["note"] == "no value in the last 45 steps (at most 30 are filled)"
    assert gappy["made"]
    assert (gappy["note"], gappy["basis"]) == ("", "shortened")
    assert at[0, metrics[0]]["made"]
    assert at[0, metrics[0]]["note"] == ""


def _live(recommender: Recommender, shard: list[int], values: np.ndarray) -> pl.DataFrame:
    """The rows for the first two tenants of a shard, from other telemetry than the stored one."""
    from tsfm_pipeline.steps.recommendations import rows_of

    every = next_requests(recommender.fleet, shard)
    two = Requests(
        every.frame[:2],
        every.tenant_numbers[:2],
        every.rows[:2],
        *(part[:2] for part in _parts(every)),
    )
    return rows_of(recommender.batch(two, values[:2]))


def test_constants_hold_as_often_as_they_should_and_the_largest_step_far_too_rarely(
    mini_fleet: Fleet,
) -> None:
    scores = block_losses(mini_fleet)
    assert set(scores["method"]) == set(BLOCK_CONSTANTS)
    n_rows = N_TEST * N_ORIGINS * len(mini_fleet.grid.metrics)
    for tier, alpha in TIERS.items():
        by_method = {
            name: part
            for (name,), part in scores.filter(pl.col("tier") == tier)
            .partition_by("method", as_dict=True)
            .items()
        }
        assert all(part.height == n_rows for part in by_method.values())
        assert by_method[SEARCH]["violation_rate"].mean() == pytest.approx(1 - alpha, abs=0.05)
        assert by_method[SEARCH_PEAK]["covered"].mean() == pytest.approx(alpha, abs=0.1), (
            "as near as 48 requests can tell"
        )
        assert by_method[LARGEST_STEP]["covered"].mean() < alpha - 0.25
        assert (
            by_method[SEARCH]["scaled_loss"].mean()
            < by_method["percentile_margin"]["scaled_loss"].mean()
        )


def test_the_report_states_what_the_scores_say(mini_fleet: Fleet, table: pl.DataFrame) -> None:
    report = read_report(mini_fleet, "recommendation_report")
    assert report["n_series"] == N_TENANTS * len(mini_fleet.grid.metrics)
    assert (report["n_not_made"], report["block_minutes"]) == (0, 60)
    scores = block_losses(mini_fleet).filter(pl.col("tier") == "standard")
    per_request = scores.group_by("method", "request_id").agg(
        pl.col("scaled_loss", "covered").mean()
    )
    means = {
        name: part.mean().row(0, named=True)
        for (name,), part in per_request.partition_by("method", as_dict=True).items()
    }
    assert report["standard_ratio"] == pytest.approx(
        means[SEARCH]["scaled_loss"] / means[FIXED]["scaled_loss"], rel=1e-5
    )
    assert report["standard_ratio_low"] <= report["standard_ratio"] <= report["standard_ratio_high"]
    assert report["standard_covered"] == pytest.approx(means[SEARCH_PEAK]["covered"], rel=1e-5)
    assert report["standard_covered_largest_step"] == pytest.approx(
        means[LARGEST_STEP]["covered"], rel=1e-5
    )
    assert {(row["tier"], row["method"]) for row in report["table_methods"]} == {
        (tier, method) for tier in TIERS for method in BLOCK_CONSTANTS
    }
    assert "currency" not in report, "the miniature fleet has no prices"


def test_the_files_are_the_table(mini_fleet: Fleet, table: pl.DataFrame) -> None:
    folder = mini_fleet.reports_dir
    stored = pl.read_parquet(folder / "recommendations.parquet")
    assert stored.equals(table.drop("tenant_number"))
    text = pl.read_csv(folder / "recommendations.csv")
    assert text.columns == stored.columns
    np.testing.assert_allclose(
        text["reservation"].to_numpy(), stored["reservation"].to_numpy(), rtol=1e-5
    )
    assert text["block_start"][0] == "2024-01-15T00:00:00Z"


def test_the_vpa_document_bounds_every_target_at_the_tenants_own_tier(
    mini_fleet: Fleet, table: pl.DataFrame
) -> None:
    document = json.loads((mini_fleet.reports_dir / "recommendations.vpa.json").read_text())
    assert len(document["items"]) == N_TENANTS
    own = table.filter("own_tier")
    for item in document["items"]:
        (container,) = item["status"]["recommendation"]["containerRecommendations"]
        rows = own.filter(pl.col("tenant_id") == item["metadata"]["name"])
        assert item["spec"]["tier"] == rows["tier"][0]
        assert item["status"]["conditions"] == [
            {"type": "RecommendationProvided", "status": "True"}
        ]
        for metric in mini_fleet.grid.metrics:
            low, target, high = (
                container[bound][metric] for bound in ("lowerBound", "target", "upperBound")
            )
            assert low <= target <= high
            assert target == pytest.approx(
                rows.filter(pl.col("metric") == metric)["reservation"][0], rel=1e-5
            )


def test_a_metric_without_a_recommendation_is_left_out_and_said(
    mini_fleet: Fleet, table: pl.DataFrame
) -> None:
    first = (pl.col("tenant_number") == 0) & (pl.col("metric") == "cpu_util")
    missing = table.with_columns(
        pl.col("made") & ~first,
        pl.when(first).then(pl.lit("no value")).otherwise("note").alias("note"),
    )
    item = vpa_document(mini_fleet, missing.drop("tenant_number"))["items"][0]
    assert item["status"]["conditions"][0] == {
        "type": "RecommendationProvided",
        "status": "True",
        "message": "cpu_util: no value",
    }
    (container,) = item["status"]["recommendation"]["containerRecommendations"]
    assert set(container["target"]) == set(mini_fleet.grid.metrics) - {"cpu_util"}


def test_prices_turn_units_into_money_and_touch_no_table(mini_fleet: Fleet) -> None:
    spec = mini_fleet.spec.model_copy(update={"prices": {"cpu_util": 0.5}, "currency": "EUR"})
    priced = Fleet(mini_fleet.settings, spec)
    assert priced.tables.expected == mini_fleet.tables.expected
    rows = [("cpu_util", "standard", 2.0, 0.25), ("mem_util", "premium", 1.0, 1.0)]
    frame = pl.DataFrame(rows, schema=["metric", "tier", "slack", "shortfall"], orient="row")
    money = with_money(frame, priced, slack="slack", shortfall="shortfall")
    assert money["slack_cost_per_day"].to_list() == [2.0 * 0.5 * 24, None]
    assert money["sla_cost_per_day"].to_list() == [pytest.approx(0.25 * 3 * 0.5 * 24), None]
    assert with_money(frame, mini_fleet, slack="slack", shortfall="shortfall").equals(frame)


def test_the_report_of_a_fleet_with_prices_is_in_money(mini_fleet: Fleet) -> None:
    from tsfm_pipeline.reports.recommendations.numbers import recommendation_report

    prices = {"cpu_util": 0.5, "mem_util": 0.1}
    report = recommendation_report(
        Fleet(
            mini_fleet.settings,
            mini_fleet.spec.model_copy(update={"prices": prices, "currency": "EUR"}),
        )
    )
    assert report.currency == "EUR"
    rows = {(row.tier, row.method): row for row in report.table_money}
    assert {method for _, method in rows} == set(BLOCK_CONSTANTS)
    for row in rows.values():
        assert row.cost_per_tenant_day == pytest.approx(
            row.slack_cost_per_tenant_day + row.sla_cost_per_tenant_day
        )
    weights = {tier: rows[tier, SEARCH].n_requests for tier in TIERS if (tier, SEARCH) in rows}
    saved = sum(
        (rows[tier, FIXED].cost_per_tenant_day - rows[tier, SEARCH].cost_per_tenant_day) * n
        for tier, n in weights.items()
    )
    assert report.saved_per_tenant_day_vs_fixed_quantile is not None
    assert report.saved_per_tenant_day_vs_fixed_quantile.figure == pytest.approx(
        saved / sum(weights.values()), rel=1e-6
    )


def test_the_page_about_recommendations_says_what_is_so(
    mini_fleet: Fleet, table: pl.DataFrame
) -> None:
    page = PROJECT_ROOT / "docs" / "recommendations.md"
    (code,) = (block.text for block in blocks(page, "python"))
    names: dict[str, pl.DataFrame] = {}
    exec(code.replace("data/reports/demo", str(mini_fleet.reports_dir)), names)
    assert names["mine"].height == N_TENANTS * len(mini_fleet.grid.metrics)
    reserved, fields = (block.text for block in blocks(page, "yaml"))
    table_fleet = parse_spec(
        f"kind: table\ntitle: T\nsource: made up\npath: t.csv\n{reserved}", Path("mine.yaml")
    )
    assert isinstance(table_fleet, TableFleet)
    assert set(table_fleet.reserved_columns) == {"cpu", "memory"}
    spec = parse_spec(
        f"kind: synthetic\ntitle: T\ntenants: 2\ndays: 3\n{fields}", Path("mine.yaml")
    )
    assert (spec.prices, spec.currency) == ({"cpu_util": 0.03, "mem_util": 0.004}, "EUR")
    files = re.findall(r"^\| (.+?) \|", page.read_text(encoding="utf-8"), re.MULTILINE)[2:]
    stems = [name for cell in files for name in re.findall(r"`([\w.]+)`", cell)]
    written = {path.name for path in mini_fleet.reports_dir.iterdir()}
    assert all(name in written or f"recommendation_review{name}" in written for name in stems), (
        stems
    )
