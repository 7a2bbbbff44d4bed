import math

import pytest

from tsfm_pipeline.reports.acceptance.words import criteria_answer
from tsfm_pipeline.reports.headline.words import (
    for_whom_answer,
    groups_by_effect,
    headline_answer,
    rivals_answer,
    worth_answer,
    worth_points,
)
from tsfm_pipeline.reports.page.data import data_answer
from tsfm_pipeline.reports.shared.answer import effect_of
from tsfm_pipeline_tests.reports import factory
from tsfm_pipeline_tests.reports.factory import changed, without_rows


def test_a_gain_is_stated_with_ratio_interval_and_sample():
    assert headline_answer(factory.headline()).sentence == (
        "On demo, choosing the configuration per request cost 3.1 % less than the best fixed "
        "configuration at the standard "
        "tier (ratio 0.969, 95 % interval 0.941 to 0.998, 288 requests of 24 tenants). Every "
        "tenant counted alike, the ratio is 0.965 (0.937 to 0.994); with a floor under the scales of "
        "series at rest, 0.967 (0.939 to 0.996)."
    )


def test_where_tenants_counted_alike_say_otherwise_the_dearest_request_is_told():
    report = changed(
        factory.headline(1.042, 1.011, 1.08),
        standard_tenant_ratio=0.96,
        standard_tenant_ratio_low=0.94,
        standard_tenant_ratio_high=0.98,
        standard_largest_request_share=0.42,
        standard_floored_largest_request_share=0.11,
    )
    effect, sentence = headline_answer(report)
    assert effect == "loss", "the ratio of sums decides"
    assert sentence.endswith(
        "Every tenant counted alike, the ratio is 0.960 (0.940 to 0.980); with a floor under the "
        "scales of series at rest, 1.040 (1.009 to 1.078). The three do not agree; the dearest "
        "request alone is 42.0 % of the fixed configuration's cost, and 11.0 % with the floor."
    )


def test_a_loss_is_stated_as_a_loss():
    effect, sentence = headline_answer(factory.headline(1.042, 1.011, 1.08))
    assert effect == "loss"
    assert "cost 4.2 % more than the best fixed configuration" in sentence


def test_an_interval_that_holds_one_claims_no_difference():
    effect, sentence = headline_answer(factory.headline(0.985, 0.96, 1.013))
    assert effect == "null"
    assert "neither demonstrably less nor more" in sentence
    assert "the interval holds 1 (ratio 0.985, 95 % interval 0.960 to 1.013" in sentence
    assert " % less" not in sentence


def test_an_interval_that_just_misses_one_is_not_printed_as_one():
    assert "0.99996" in headline_answer(factory.headline(0.97, 0.95, 0.99996)).sentence


@pytest.mark.parametrize("missing", [None, math.nan])
def test_without_an_interval_nothing_is_generalised(missing):
    report = changed(
        factory.headline(),
        standard_ratio_low=missing,
        standard_ratio_high=missing,
        standard_n_tenants_scored=1,
    )
    effect, sentence = headline_answer(report)
    assert effect == "unknown"
    assert "288 requests of 1 tenant)" in sentence
    assert "nothing beyond these requests" in sentence


def test_without_a_ratio_the_question_is_not_answered():
    effect, sentence = headline_answer(changed(factory.headline(), standard_ratio=None))
    assert effect == "unknown"
    assert "not answered" in sentence


def test_the_limits_of_an_interval_decide_the_effect():
    assert effect_of(0.9, 0.8, 0.99) == "gain"
    assert effect_of(1.1, 1.01, 1.2) == "loss"
    assert effect_of(0.9, 0.8, 1.0) == "null"
    assert effect_of(0.9, math.nan, math.nan) == "unknown"


def test_groups_are_sorted_into_those_for_whom_it_pays_and_those_for_whom_not():
    groups = groups_by_effect(factory.headline(), "archetype")
    assert [row.scope_value for row in groups["gain"]] == ["b2b-saas", "low-traffic-blog"]
    assert [row.scope_value for row in groups["loss"]] == ["cache-driven"]
    assert len(groups["null"]) == 5


def test_the_worth_sorts_the_tiers_by_what_their_intervals_show():
    report = changed(
        factory.headline(),
        basic_ratio=1.05,
        basic_ratio_low=1.01,
        basic_ratio_high=1.09,
        premium_ratio_high=1.02,
    )
    effect, sentence = worth_answer(report)
    assert effect == "null"
    assert (
        "less at standard 0.969 (0.941 to 0.998); more at basic 1.050 (1.010 to 1.090); no "
        "demonstrable" in sentence
    )
    assert worth_answer(factory.headline()).effect == "null", "basic reaches above 1"


def test_the_worth_is_cost_violations_and_slack_per_tier_with_intervals_where_they_were_measured():
    words, text = worth_points(factory.headline(), factory.ablation().violation_rates)[1]
    assert words == "standard (3 : 1)"
    assert "Cost 0.969 (0.941 to 0.998) times the fixed configuration's (ctx2048)" in text
    assert "24.0 % (22.0 to 26.0) of the steps, fixed 24.0 % (22.0 to 26.0), target 25.0 %" in text
    assert "Mean slack 2.31 scale units, fixed 2.31" in text
    assert (
        "in 25.8 % of the steps, fixed 27.1 %, target 25.0 %"
        in worth_points(factory.headline(), {})[1][1]
    )


def test_for_whom_names_those_that_gain_and_lose_and_counts_tenants():
    effect, sentence = for_whom_answer(factory.headline())
    assert effect == "loss"
    assert (
        "of 8 archetypes it pays (interval below 1) for 2 (b2b-saas, low-traffic-blog)" in sentence
    )
    assert (
        "costs more (above 1) for 1 (cache-driven), and 5 are not decided; 15 of 24 tenants cost "
        "less" in sentence
    )
    assert "of 4 metrics" in for_whom_answer(factory.headline(archetypes=())).sentence
    assert for_whom_answer(without_rows(factory.headline())).effect == "unknown"


def test_data_without_a_flaw_are_said_to_be_so_in_one_sentence():
    flawed = factory.data_quality()
    assert data_answer(flawed).sentence.startswith(
        "0.2 % of the values of 48 tenants are missing. Left out of every figure: 3 of 288 test "
        "requests"
    )
    whole = flawed | {
        "missing_share": 0.0,
        "n_invalid_requests": 0,
        "n_excluded_series": 0,
        "left_out": {},
    }
    assert data_answer(whole).sentence.startswith("No value is missing: all 288 test requests")


def test_a_rival_that_is_cheaper_than_the_search_is_named():
    report = factory.headline()
    effect, sentence = rivals_answer(report)
    assert effect == "gain"
    assert "No rival of 21 costs less" in sentence
    assert "the nearest is static ensemble with 0.978" in sentence
    cheap = [
        row.flat() | ({"ratio": 0.96} if row.method in ("static_ensemble", "config:ctx512") else {})
        for row in report.table_methods
    ]
    effect, sentence = rivals_answer(changed(report, table_methods=cheap))
    assert effect == "loss"
    assert (
        "1 of 21 rivals costs less than the search at the standard tier, 0.969 (0.941 to 0.998) "
        "times the fixed" in sentence
    )
    assert "static ensemble 0.960" in sentence
    assert "ctx512" not in sentence
    assert rivals_answer(without_rows(report)).effect == "unknown"


def test_criteria_are_counted_by_verdict():
    assert criteria_answer(factory.criteria()).sentence == (
        "Of 5 criteria: 2 met (C1, C4); 1 missed (C2); 1 without a demonstrable effect (C8); 1 "
        "not answerable here (C6)."
    )
