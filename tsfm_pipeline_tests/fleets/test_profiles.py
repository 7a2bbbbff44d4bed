"""Test that archetypes and tiers are assigned in exact counts for every size of fleet."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.evaluation.protocol import TIER_SHARES
from tsfm_pipeline.fleets.profiles import (
    ARCHETYPES,
    PROFILES,
    archetype_counts,
    archetype_of,
    deal,
    synthetic_tier_of,
    tenants_needed,
)


def test_every_hundred_tenants_have_exactly_the_shares_of_the_evidence_page():
    shares = {
        "low-traffic-blog": 25,
        "ecommerce-retail": 12,
        "news-publisher": 8,
        "b2b-saas": 15,
        "wp-cron-heavy": 15,
    }
    shares |= {"cache-driven": 10, "compute-heavy": 5, "idle-ish": 10}
    assert archetype_counts(100) == shares
    assert archetype_counts(1000) == {name: 10 * count for name, count in shares.items()}


def test_the_demo_fleet_has_at_least_three_of_each_and_nobody_is_further_than_one_from_its_share():
    counts = archetype_counts(48)
    assert min(counts.values()) == 3
    for profile in PROFILES:
        assert abs(counts[profile.name] - 48 * profile.share) <= 1


def test_eight_tenants_already_show_every_archetype():
    assert archetype_counts(8) == dict.fromkeys(ARCHETYPES, 1)


@pytest.mark.parametrize("minimum", [1, 3, 5, 7, 50])
def test_the_number_of_tenants_that_a_minimum_needs_is_the_smallest(minimum):
    n_tenants = tenants_needed(minimum)
    assert min(archetype_counts(n_tenants).values()) == minimum
    assert min(archetype_counts(n_tenants - 1).values()) < minimum


@given(st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_counts_are_those_of_the_tenants_and_stay_within_one_of_the_shares(n_tenants):
    counts = archetype_counts(n_tenants)
    assert counts == {
        name: sum(archetype_of(i).name == name for i in range(n_tenants)) for name in ARCHETYPES
    }
    for profile in PROFILES:
        assert abs(counts[profile.name] - profile.share * n_tenants) < 2


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_a_deal_is_exact_whenever_the_shares_are_whole_and_begins_every_longer_deal(
    weights, rounds
):
    total = sum(weights)
    shares = {str(i): weight / total for i, weight in enumerate(weights)}
    dealt = deal(shares, rounds * total)
    assert Counter(dealt) == {str(i): rounds * weight for i, weight in enumerate(weights)}
    assert deal(shares, total)[: total // 2] == dealt[: total // 2]


def test_a_tier_without_a_share_is_dealt_to_nobody():
    assert set(deal({"premium": 0.0, "standard": 0.5, "basic": 0.5}, 20)) == {"standard", "basic"}


def test_tiers_are_crossed_with_archetypes():
    dealt = Counter((archetype_of(i).name, synthetic_tier_of(i, TIER_SHARES)) for i in range(1000))
    for profile in PROFILES:
        for tier, share in TIER_SHARES.items():
            assert dealt[profile.name, tier] == round(1000 * profile.share * share)


def test_tiers_have_about_their_shares_in_the_demo_fleet_and_every_archetype_has_two_of_them():
    tiers = Counter(synthetic_tier_of(i, TIER_SHARES) for i in range(48))
    assert tiers == {"premium": 9, "standard": 24, "basic": 15}
    for name in ARCHETYPES:
        assert (
            len(
                {
                    synthetic_tier_of(i, TIER_SHARES)
                    for i in range(48)
                    if archetype_of(i).name == name
                }
            )
            >= 2
        )
