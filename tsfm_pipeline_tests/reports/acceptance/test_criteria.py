"""Test that verdicts follow from figure, interval and target only."""

import json
import math

import pytest

from tsfm_pipeline.reports.acceptance.criteria import (
    CRITERIA,
    HARD_ARCHETYPES,
    judge,
    judge_cold_start,
    judge_hard_archetypes,
    judge_largest_k,
    judge_latency,
    judge_loss_cut,
    judge_retrieval,
    judge_tier_losses,
    judge_tier_order,
    judge_win_rate,
    not_applicable,
    with_tiers,
)
from tsfm_pipeline.reports.acceptance.model import Criterion
from tsfm_pipeline.reports.acceptance.numbers import _latency
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline_tests.reports.latency.factory import latency


def test_there_are_ten_criteria_and_each_says_its_target() -> None:
    assert list(CRITERIA) == [f"C{i}" for i in range(1, 11)]
    assert all(row.title and row.target for row in CRITERIA.values())


@pytest.mark.parametrize(
    ("win_rate", "verdict"),
    [
        (Estimate(0.58, 0.53, 0.63), "PASS"),
        (Estimate(0.55, 0.51, 0.59), "PASS"),
        (Estimate(0.54, 0.51, 0.57), "FAIL"),
        (Estimate(0.58, 0.49, 0.67), "NULL"),
        (Estimate(0.42, 0.38, 0.46), "FAIL"),
        (Estimate(0.58), "N/A"),
        (Estimate(0.40), "FAIL"),
        (Estimate(math.nan), "N/A"),
    ],
)
def test_c1_needs_the_target_and_an_interval_above_one_half(
    win_rate: Estimate, verdict: str
) -> None:
    assert judge_win_rate(win_rate).verdict == verdict


@pytest.mark.parametrize(
    ("cut", "verdict"),
    [
        (Estimate(0.07, 0.02, 0.12), "PASS"),
        (Estimate(0.07, -0.01, 0.15), "NULL"),
        (Estimate(0.02, 0.01, 0.03), "FAIL"),
        (Estimate(-0.05, -0.09, -0.01), "FAIL"),
    ],
)
def test_c2_judges_the_relative_cut(cut: Estimate, verdict: str) -> None:
    assert judge_loss_cut(cut).verdict == verdict


def test_c3_is_as_good_as_the_worst_archetype() -> None:
    good, bad, unsure = (
        Estimate(0.7, 0.6, 0.8),
        Estimate(0.55, 0.52, 0.58),
        Estimate(0.61, 0.45, 0.77),
    )
    cron, cache, idle = HARD_ARCHETYPES
    assert judge_hard_archetypes({cron: good, cache: good, idle: good}).verdict == "PASS"
    failed = judge_hard_archetypes({cron: good, cache: bad, idle: unsure})
    assert (failed.verdict, failed.reached.figure) == ("FAIL", 0.55)
    assert judge_hard_archetypes({cron: good, cache: good, idle: unsure}).verdict == "NULL"
    missing = judge_hard_archetypes({cron: good})
    assert missing.verdict == "N/A"
    assert "cache-driven, idle-ish" in missing.note


def test_c4_needs_five_hundred_requests_within_the_budget() -> None:
    assert judge_latency(Estimate(200.0), n_requests=500).verdict == "PASS"
    assert judge_latency(Estimate(201.0), n_requests=500).verdict == "FAIL"
    assert judge_latency(Estimate(20.0), n_requests=499).verdict == "N/A"


def test_c5_is_the_largest_k_within_the_budget() -> None:
    passed = judge_largest_k({1: 30.0, 4: 80.0, 8: 150.0, 16: 320.0})
    assert (passed.verdict, passed.reached.figure) == ("PASS", 8.0)
    assert judge_largest_k({1: 300.0, 4: 400.0}).reached.figure == 0.0
    assert judge_largest_k({}).verdict == "N/A"


def test_c6_and_c7_have_targets_of_their_own_and_must_beat_chance() -> None:
    accuracy = Estimate(0.8, 0.72, 0.86)
    assert judge_retrieval("C6", accuracy, balanced_accuracy=0.7, chance=0.25).verdict == "FAIL"
    assert judge_retrieval("C7", accuracy, balanced_accuracy=0.7, chance=0.25).verdict == "PASS"
    assert judge_retrieval("C7", accuracy, balanced_accuracy=0.7, chance=0.75).verdict == "NULL"


GAP, SHARE, ADVANTAGE = Estimate(0.2, 0.1, 0.3), Estimate(0.6, 0.4, 0.8), Estimate(0.05, 0.01, 0.09)


@pytest.mark.parametrize(
    ("share", "gap", "advantage", "verdict"),
    [
        (SHARE, GAP, ADVANTAGE, "PASS"),
        (SHARE, Estimate(0.2, -0.1, 0.5), ADVANTAGE, "NULL"),
        (Estimate(0.1, 0.05, 0.2), Estimate(0.2, -0.1, 0.5), ADVANTAGE, "NULL"),
        (Estimate(0.4, 0.3, 0.5), GAP, ADVANTAGE, "FAIL"),
        (SHARE, GAP, Estimate(0.0, -0.05, 0.05), "NULL"),
        (SHARE, GAP, Estimate(-0.05, -0.09, -0.01), "FAIL"),
        (SHARE, Estimate(-0.2, -0.3, -0.1), ADVANTAGE, "FAIL"),
    ],
)
def test_c8_needs_a_gap_half_of_it_closed_and_more_than_the_fleet_wide_prior(
    share: Estimate, gap: Estimate, advantage: Estimate, verdict: str
) -> None:
    assert judge_cold_start(share, gap, advantage).verdict == verdict


def test_c9_needs_every_pair_of_tiers_apart() -> None:
    apart, touching = Estimate(0.3, 0.1, 0.5), Estimate(0.1, -0.1, 0.3)
    assert (
        judge_tier_order({"premium - standard": apart, "standard - basic": apart}).verdict == "PASS"
    )
    result = judge_tier_order({"premium - standard": apart, "standard - basic": touching})
    assert (result.verdict, result.reached.figure) == ("NULL", 0.1)


def test_c10_takes_low_ratios_for_good_ones() -> None:
    better, worse = Estimate(0.9, 0.85, 0.95), Estimate(1.1, 1.05, 1.15)
    assert judge_tier_losses({"premium/basic": better, "basic/premium": better}).verdict == "PASS"
    result = judge_tier_losses({"premium/basic": better, "basic/premium": worse})
    assert (result.verdict, result.reached.figure) == ("FAIL", 1.1)


def test_a_strict_target_is_not_met_by_the_threshold_itself() -> None:
    assert judge(Estimate(0.0), 0.0) == "PASS"
    assert judge(Estimate(0.0), 0.0, strict=True) == "FAIL"


def test_what_cannot_be_answered_says_why() -> None:
    criterion = not_applicable("C7", "the fleet has no archetype labels")
    assert (criterion.verdict, criterion.note) == ("N/A", "the fleet has no archetype labels")
    assert math.isnan(criterion.reached.figure)


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(ValueError, match="the criteria are C1, C2"):
        not_applicable("C11", "")


def test_criteria_survive_json() -> None:
    criterion = judge_win_rate(Estimate(0.58, 0.5, 0.6))
    assert list(criterion.flat()) == [
        "id",
        "title",
        "target",
        "figure",
        "low",
        "high",
        "verdict",
        "note",
    ]
    assert Criterion.from_flat(json.loads(json.dumps(criterion.flat()))) == criterion


def test_titles_name_a_fleets_own_tiers() -> None:
    tiers = ("gold", "silver", "iron")
    assert (
        with_tiers(judge_win_rate(Estimate(0.58)), tiers).title
        == "paired win rate of the search, silver tier"
    )
    assert "gold > silver > iron: smallest" in with_tiers(judge_tier_order({}), tiers).title


def test_the_latency_that_is_judged_is_that_of_eight_configurations_where_they_were_timed() -> None:
    report = latency()
    assert report.portfolio_size == 8
    smaller = report.model_copy(update={"portfolio_size": 4})
    assert _latency(smaller)[0].reached == _latency(report)[0].reached
    untimed = {name: size for name, size in smaller.sizes.items() if name != "k8"}
    own = smaller.sizes["k4"].p95_latency_ms
    assert _latency(smaller.model_copy(update={"sizes": untimed}))[0].reached == own
