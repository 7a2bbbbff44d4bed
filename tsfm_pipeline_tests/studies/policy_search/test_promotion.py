"""Test the rules of promotion: what is refused, what is promoted, and how often chance is."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tsfm_pipeline.studies.policy_search.promotion import judge_promotion
from tsfm_pipeline.studies.policy_search.results import FleetResult
from tsfm_pipeline.studies.policy_search.verdict import mean_limits, paired_gain

TIERS = ("premium", "standard", "basic")
BUDGET_MS = 200.0
Losses = NDArray[np.float64]


def result(
    fleet: str, losses: Losses | dict[str, Losses], groups: tuple[str, ...] | None = None
) -> FleetResult:
    """The result of a policy with these tenant losses, the same at every tier unless given."""
    by_tier = losses if isinstance(losses, dict) else dict.fromkeys(TIERS, losses)
    n_tenants = len(next(iter(by_tier.values())))
    values = {tier: tuple(map(float, own)) for tier, own in by_tier.items()}
    return FleetResult(
        fleet=fleet,
        folds=(3, 4),
        share=1.0,
        tenants=tuple(range(n_tenants)),
        groups=groups or ("",) * n_tenants,
        losses=values,
        fixed=values,
        mae=1.0,
        tokens=500.0,
        p50_ms=50.0,
        p95_ms=80.0,
    )


def tenants(n: int, seed: int = 0) -> Losses:
    """Mean losses of tenants, as unequal as those of a real fleet."""
    return np.random.default_rng(seed).lognormal(0.0, 0.6, n)


def cheaper(losses: Losses, by: float, seed: int = 1, noise: float = 0.03) -> Losses:
    """The losses with a relative gain, and as much noise per tenant as real policies show."""
    return losses * (1 - by + np.random.default_rng(seed).normal(0.0, noise, len(losses)))


LOSSES = {"first": tenants(80), "second": tenants(60, seed=5)}
BEFORE = [result(fleet, losses) for fleet, losses in LOSSES.items()]


def test_a_gain_on_two_fleets_is_promoted_with_its_figures() -> None:
    better = [result(fleet, cheaper(losses, 0.05)) for fleet, losses in LOSSES.items()]
    verdict = judge_promotion(better, BEFORE, 40, BUDGET_MS, 80.0)
    assert verdict.promoted
    assert verdict.confidence == pytest.approx(1 - 0.05 / 40)
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["first", "second"]
    for fleet in verdict.fleets:
        assert 0 < fleet.corrected.low < 0.05 < fleet.corrected.high
        assert set(fleet.tiers) == set(TIERS)


def test_one_fleet_alone_never_promotes() -> None:
    mixed = [result("first", cheaper(LOSSES["first"], 0.2)), BEFORE[1]]
    verdict = judge_promotion(mixed, BEFORE, 1, BUDGET_MS, 80.0)
    assert not verdict.promoted
    assert verdict.reasons[0].startswith(
        "1 of 2 fleets show a gain whose interval excludes 0, and 2 must"
    )

    alone = judge_promotion(mixed[:1], BEFORE[:1], 1, BUDGET_MS, 80.0)
    assert not alone.promoted
    assert alone.reasons[0].startswith("1 of 1 fleets")


def test_the_more_experiments_the_more_it_takes() -> None:
    better = [result(fleet, cheaper(losses, 0.018, noise=0.04)) for fleet, losses in LOSSES.items()]
    assert judge_promotion(better, BEFORE, 1, BUDGET_MS, 80.0).promoted
    assert not judge_promotion(better, BEFORE, 1000, BUDGET_MS, 80.0).promoted


def test_harm_in_one_tier_of_one_fleet_refuses() -> None:
    own = cheaper(LOSSES["first"], 0.05)
    harmed = {"premium": cheaper(LOSSES["first"], -0.02), "standard": own, "basic": own}
    better = [result("first", harmed), result("second", cheaper(LOSSES["second"], 0.05))]
    verdict = judge_promotion(better, BEFORE, 1, BUDGET_MS, 80.0)
    assert not verdict.promoted
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["first, tier premium is harmed"]


def test_a_tier_worse_by_more_than_a_percent_refuses_however_uncertain() -> None:
    losses = LOSSES["first"]
    uncertain = {tier: cheaper(losses, 0.05) for tier in TIERS}
    uncertain["basic"] = losses.copy()
    uncertain["basic"][3] += 0.015 * losses.sum()
    better = [result("first", uncertain), result("second", cheaper(LOSSES["second"], 0.05))]
    verdict = judge_promotion(better, BEFORE, 1, BUDGET_MS, 80.0)
    assert not verdict.promoted
    assert verdict.reasons[0].startswith("first, tier basic is worse by more than 1 %")


@pytest.mark.parametrize(("size", "refused"), [(5, True), (4, False)])
def test_harm_of_a_group_of_five_tenants_refuses(size: int, refused: bool) -> None:
    losses, names = LOSSES["first"], ("idle-ish",) * size + ("blog",) * (80 - size)
    own = cheaper(losses, 0.06)
    own[:size] = losses[:size] * 1.03
    before = [result("first", losses, names), BEFORE[1]]
    better = [result("first", own, names), result("second", cheaper(LOSSES["second"], 0.05))]
    verdict = judge_promotion(better, before, 1, BUDGET_MS, 80.0)
    assert verdict.promoted is not refused
    assert any("group idle-ish is harmed" in reason for reason in verdict.reasons) is refused


@pytest.mark.parametrize("p95_ms", [200.1, float("nan")])
def test_a_slow_policy_is_refused(p95_ms: float) -> None:
    better = [result(fleet, cheaper(losses, 0.05)) for fleet, losses in LOSSES.items()]
    verdict = judge_promotion(better, BEFORE, 1, BUDGET_MS, p95_ms, p95_measured=True)
    assert not verdict.promoted
    assert "(measured); allowed: 200 ms" in verdict.reasons[0]


def test_a_tenant_that_loses_its_forecast_is_not_dropped_silently() -> None:
    own = cheaper(LOSSES["first"], 0.05)
    own[7] = np.nan
    better = [result("first", own), result("second", cheaper(LOSSES["second"], 0.05))]
    verdict = judge_promotion(better, BEFORE, 1, BUDGET_MS, 80.0)
    assert not verdict.promoted
    assert "first, tier standard: 1 tenants lose their forecast" in verdict.reasons


def test_results_of_other_tenants_or_fleets_are_not_compared() -> None:
    with pytest.raises(ValueError, match="on the same fleets"):
        judge_promotion(BEFORE[:1], BEFORE, 1, BUDGET_MS, 80.0)
    shorter = [result("first", LOSSES["first"][:-1]), BEFORE[1]]
    with pytest.raises(ValueError, match=r"on 79 tenants .* on 80"):
        judge_promotion(shorter, BEFORE, 1, BUDGET_MS, 80.0)
    with pytest.raises(ValueError, match="n_experiments is 0"):
        judge_promotion(BEFORE, BEFORE, 0, BUDGET_MS, 80.0)


def test_the_interval_of_symmetric_differences_is_student_s() -> None:
    before = tenants(12)
    saved = np.repeat([0.01, 0.02, 0.03], 4)
    effect = paired_gain(before - saved, before, 0.99)
    margin = 3.105807 * saved.std(ddof=1) / np.sqrt(12)  # t at .995, 11 degrees of freedom
    assert effect.low == pytest.approx((0.02 - margin) / before.mean())
    assert effect.high == pytest.approx((0.02 + margin) / before.mean())


def test_a_gain_of_most_that_harms_few_is_doubted_more_than_student_would() -> None:
    saved = np.array([0.02, 0.03, 0.01, 0.02, 0.04, 0.02, 0.03, -0.06])
    margin = 2.364624 * saved.std(ddof=1) / np.sqrt(8)  # t at .975, 7 degrees of freedom
    low, high = mean_limits(saved, 0.95)
    assert low < saved.mean() - margin - 0.002
    assert high == pytest.approx(saved.mean() + margin)


def test_a_single_tenant_has_no_interval_and_proves_nothing() -> None:
    effect = paired_gain(np.array([0.5]), np.array([1.0]), 0.95)
    assert effect.gain == 0.5
    assert np.isnan(effect.low)
    assert not effect.is_gain
