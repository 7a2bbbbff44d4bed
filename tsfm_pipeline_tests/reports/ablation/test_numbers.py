"""Test that the ablation report of a fleet follows from its scores and hides no unfavourable
result.
"""

from datetime import date
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED, SEARCH
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.ablation import replays
from tsfm_pipeline.reports.ablation.losses import Grouping, by_group, every_request
from tsfm_pipeline.reports.ablation.numbers import LADDER, _step_rows
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.settings import EvaluationSettings
from tsfm_pipeline.steps.evidence import SearchBatch, prior_arrays

N_REQUESTS, N_DAYS = 240, 6


@pytest.fixture(scope="module")
def report(mini_fleet: Fleet) -> dict[str, Any]:
    return read_report(mini_fleet, "ablation_report")


def _frame(seed: int, worse_by: float, noise: float) -> pl.DataFrame:
    """Losses of 40 tenants over six days, as a factor of losses that all methods share."""
    shared = np.random.default_rng(0).exponential(size=N_REQUESTS)
    factor = (
        np.exp(np.random.default_rng(seed).normal(-(noise**2) / 2, noise, N_REQUESTS)) * worse_by
    )
    requests = np.arange(N_REQUESTS)
    days = [date(2025, 1, 1 + int(r) % N_DAYS) for r in requests]
    columns = {
        "tier": ["standard"] * N_REQUESTS,
        "request_id": requests,
        "tenant_number": (requests // N_DAYS).astype(np.int32),
    }
    return pl.DataFrame({**columns, "day": days, "scaled_loss": shared * factor})


@pytest.mark.parametrize(
    ("worse_by", "noise", "scope", "harmed"),
    [
        (1.10, 0.05, "archetype", True),
        (1.015, 0.001, "archetype", False),  # certain, and small
        (1.05, 1.0, "archetype", False),  # large, and uncertain
        (0.90, 0.05, "archetype", False),
        (1.10, 0.05, "all", False),  # that is the headline, not a group
    ],
)
def test_a_group_is_harmed_where_it_is_worse_by_more_than_two_percent_beyond_doubt(
    worse_by: float, noise: float, scope: str, harmed: bool
) -> None:
    methods = {method: _frame(1, 1.0, 0.0) for method in LADDER} | {
        SEARCH: _frame(2, worse_by, noise)
    }
    fleet: Any = SimpleNamespace(
        settings=SimpleNamespace(evaluation=EvaluationSettings(bootstrap_draws=500))
    )
    rows = _step_rows(Grouping(scope, {("standard", "idle-ish"): methods}), fleet)
    assert [row.harmed for row in rows if row.method == SEARCH] == [harmed]
    assert not any(row.harmed for row in rows if row.method != SEARCH)


def test_steps_chain_from_the_median_to_the_search_of_the_headline(
    mini_fleet: Fleet, report: dict[str, Any]
) -> None:
    headline = read_report(mini_fleet, "headline_report")
    for tier in TIERS:
        rows = [
            row for row in report["table_steps"] if row["tier"] == tier and row["scope"] == "all"
        ]
        assert [row["method"] for row in rows] == list(LADDER)
        assert rows[0]["step_ratio"] is None
        assert rows[0]["ratio"] * np.prod([row["step_ratio"] for row in rows[1:]]) == pytest.approx(
            rows[-1]["ratio"], rel=1e-5
        )
        assert rows[-1]["ratio"] == pytest.approx(headline[f"{tier}_ratio"])
        assert rows[-1]["ratio_low"] == pytest.approx(headline[f"{tier}_ratio_low"])
        assert (rows[1]["method"], rows[1]["ratio"]) == (FIXED, 1.0)


def test_every_archetype_is_listed_at_every_tier(mini_fleet: Fleet, report: dict[str, Any]) -> None:
    tested = mini_fleet.manifest.filter(pl.col("fold") >= 0)["archetype"].unique().to_list()
    assert report["group_scope"] == "archetype"
    listed = {
        (row["tier"], row["scope_value"])
        for row in report["table_steps"]
        if row["scope"] == "archetype"
    }
    assert listed == {(tier, archetype) for tier in TIERS for archetype in tested}
    assert (
        report["n_harmed_groups"]
        == len(report["harmed_groups"])
        == sum(row["harmed"] for row in report["table_steps"])
    )


def test_every_method_stands_in_the_table_of_rivals_with_the_searchs_ratio_to_it(
    mini_fleet: Fleet, report: dict[str, Any]
) -> None:
    methods = {
        m
        for m in mini_fleet.tables.read("scored_forecasts")["method"].unique()
        if not m.startswith(CONFIG_PREFIX)
    }
    for tier in TIERS:
        rows = {row["method"]: row for row in report["table_rivals"] if row["tier"] == tier}
        assert set(rows) == methods
        for row in rows.values():
            assert row["search_ratio"] == pytest.approx(
                rows[SEARCH]["ratio"] / row["ratio"], rel=1e-5
            )
            decided = {"yes": row["search_ratio_high"] < 1, "no": row["search_ratio_low"] > 1}
            assert decided.get(row["beaten"], not any(decided.values()))


def test_weights_of_the_configurations_add_up_and_overall_is_the_mean_of_groups(
    report: dict[str, Any],
) -> None:
    table = pl.DataFrame(report["table_selection"])
    sums = table.group_by("tier", "scope", "scope_value").agg(
        pl.col("mean_weight", "share_chosen").sum()
    )
    assert sums["mean_weight"].to_numpy() == pytest.approx(1, abs=1e-4)
    assert sums["share_chosen"].to_numpy() == pytest.approx(1)
    weighted = table.filter(pl.col("scope") != "all").with_columns(
        pl.col("mean_weight") * pl.col("n_series_requests")
    )
    mean = weighted.group_by("tier", "config").agg(
        pl.col("mean_weight").sum() / pl.col("n_series_requests").sum()
    )
    joined = mean.join(table.filter(pl.col("scope") == "all"), on=["tier", "config"])
    assert joined["mean_weight"].to_numpy() == pytest.approx(
        joined["mean_weight_right"].to_numpy(), abs=1e-5
    )


def test_headroom_is_the_headlines_and_what_is_captured_and_left_add_up_to_it(
    mini_fleet: Fleet, report: dict[str, Any]
) -> None:
    headline = read_report(mini_fleet, "headline_report")
    for tier in TIERS:
        headroom = report[f"{tier}_headroom_cross_fitted"]
        assert headroom == headline[f"{tier}_headroom_cross_fitted"]
        gain = 1 - headline[f"{tier}_ratio"]
        assert report[f"{tier}_regret"] == pytest.approx(headroom - gain, abs=1e-6)
        if headroom > 0:
            assert report[f"{tier}_headroom_captured"] == pytest.approx(gain / headroom, rel=1e-4)
        assert 0 <= report[f"{tier}_label_swap_rejection_rate"] <= 0.15
        assert report[f"{tier}_default_rule"]


def test_violations_are_measured_against_the_tiers_target(report: dict[str, Any]) -> None:
    for row in report["table_violations"]:
        assert row["target"] == pytest.approx(1 - TIERS[row["tier"]])
        assert row["excess"] == pytest.approx(row["violation_rate"] - row["target"])


def test_a_replay_that_changes_nothing_decides_as_the_search_did(mini_fleet: Fleet) -> None:
    shard = mini_fleet.shards[0]
    batch = SearchBatch(mini_fleet, mini_fleet.arrays.requests("test", shard))
    again = batch.decide(deciles=batch.deciles, priors=batch.priors).decision
    np.testing.assert_array_equal(again, batch.decide().decision)


def test_without_a_dimension_no_configuration_that_uses_it_answers(mini_fleet: Fleet) -> None:
    masks = replays.dimension_masks(mini_fleet)
    batch = SearchBatch(mini_fleet, mini_fleet.arrays.requests("test", mini_fleet.shards[0]))
    for name, hidden in masks.items():
        assert [
            replays.DIMENSIONS[name](config) for config in mini_fleet.configs
        ] == hidden.tolist()
        deciles = np.where(hidden[:, None, None], np.nan, batch.deciles)
        decided = batch.decide(deciles=deciles)
        assert not decided.weights[..., hidden].any()
        assert np.isfinite(decided.decision).all()
        names = {replays.restricted_fixed(mini_fleet, hidden)[0, tier] for tier in TIERS}
        assert not any(
            replays.DIMENSIONS[name](config)
            for config in mini_fleet.configs
            if config.name in names
        )


def test_shuffled_priors_are_everybodys_but_nobodys_own(mini_fleet: Fleet) -> None:
    requests = mini_fleet.arrays.requests("test")
    own = prior_arrays(mini_fleet, requests)[0]["retrieved"]
    own = own.reshape(*requests.ids.shape, *own.shape[1:])
    dealt = replays.shuffled_priors(mini_fleet)["retrieved"]
    digests, dealt_digests = ([tenant.tobytes() for tenant in priors] for priors in (own, dealt))
    assert sorted(digests) == sorted(dealt_digests)
    assert not any(
        a == b for a, b in zip(digests, dealt_digests, strict=True) if digests.count(a) == 1
    )


def test_controls_and_dimensions_have_a_verdict_each(
    mini_fleet: Fleet, report: dict[str, Any]
) -> None:
    assert {(row["tier"], row["control"]) for row in report["table_controls"]} == {
        (tier, control) for tier in TIERS for control in (replays.SHUFFLED, replays.FLEET_WIDE)
    }
    for row in report["table_dimensions"]:
        shown = {
            "earns its place": row["ratio_high"] < 1,
            "harms": row["ratio_low"] > 1,
            "no effect shown": row["ratio_low"] <= 1 <= row["ratio_high"],
        }
        assert shown[row["verdict"]]
    assert {row["dimension"] for row in report["table_dimensions"]} == set(
        replays.dimension_masks(mini_fleet)
    )


def test_without_archetypes_few_tenants_are_listed_and_many_are_not(
    mini_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    overall = every_request(mini_fleet).with_columns(pl.lit("").alias("archetype"))
    few = by_group(mini_fleet, overall)
    tested = mini_fleet.manifest.filter(pl.col("fold") >= 0)["tenant_id"].to_list()
    assert few.scope == "tenant"
    assert {group for _, group in few.frames} == set(tested)
    one = few.frames["standard", tested[0]][SEARCH]
    assert one["tenant_number"].n_unique() == len(mini_fleet.grid.metrics), (
        "a tenant's series stand in for tenants"
    )
    monkeypatch.setattr("tsfm_pipeline.reports.ablation.losses.MOST_TENANTS_LISTED", 3)
    many = by_group(mini_fleet, overall)
    assert many.scope == "metric"
    assert {group for _, group in many.frames} == set(mini_fleet.grid.metrics)
