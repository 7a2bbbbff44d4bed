"""Test constants for blocks: pooled quantiles, the allowance for a maximum and its calibration,
scores.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, stats

from tsfm_pipeline.evaluation.blocks import (
    MIN_PAST_BLOCKS,
    block_before,
    expected_excess,
    n_past_blocks,
    observed_quantiles,
    peak_allowances,
    peak_factor,
    pooled_quantiles,
    score_constants,
)
from tsfm_pipeline.evaluation.losses import DECILE_LEVELS, decision_quantile, pinball_loss

ALPHAS = (0.9, 0.75, 0.65)
LEVELS = np.linspace(-2, 3, 12)
STEPS = stats.norm(loc=LEVELS[:, None], scale=0.5 + 0.1 * np.arange(12)[:, None])
DECILES = STEPS.ppf(DECILE_LEVELS)  # [12, 9]: a block of twelve normal steps


def test_a_block_of_equal_steps_has_the_quantiles_of_a_step() -> None:
    step = np.sort(np.random.default_rng(0).normal(size=(5, 9)), axis=-1)
    block = np.repeat(step[:, None], 7, axis=1)
    spread = step[:, 8] - step[:, 0]
    for alpha in (0.1, 0.5, *ALPHAS):
        difference = pooled_quantiles(block, (alpha,))[:, 0] - decision_quantile(step, alpha)
        assert (np.abs(difference) / spread).max() < 0.02, "forty points per step say that much"


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_pooled_quantile_is_that_of_the_mixture_of_the_steps(alpha: float) -> None:
    exact = optimize.brentq(lambda x: STEPS.cdf(x).mean() - alpha, -10, 10)
    assert pooled_quantiles(DECILES, (alpha,))[0] == pytest.approx(exact, abs=0.03)
    mean_of_quantiles = decision_quantile(DECILES, alpha).mean()
    assert abs(mean_of_quantiles - exact) > 0.2, (
        "steps differ, so averaging their quantiles is something else"
    )


@pytest.mark.parametrize("alpha", ALPHAS)
def test_no_other_constant_costs_less_on_what_the_steps_may_be(alpha: float) -> None:
    sample = STEPS.rvs(size=(12, 20_000), random_state=1)
    best = pooled_quantiles(DECILES, (alpha,))[0]

    def cost(constant: float) -> float:
        return float(pinball_loss(sample, constant, alpha).mean())

    assert cost(best) < min(
        cost(best - 0.3), cost(best + 0.3), cost(float(decision_quantile(DECILES, alpha).max()))
    )


def test_expected_slack_and_shortfall_are_those_of_the_mixture() -> None:
    sample = STEPS.rvs(size=(12, 100_000), random_state=2)
    for constant in (-1.0, 1.0, 3.5):
        found = expected_excess(DECILES, np.array(constant))
        assert found.slack == pytest.approx(np.maximum(constant - sample, 0).mean(), abs=0.03)
        assert found.shortfall == pytest.approx(np.maximum(sample - constant, 0).mean(), abs=0.03)


def test_a_block_with_an_unknown_step_has_no_quantile() -> None:
    block = np.stack([DECILES, DECILES])
    block[1, 3] = np.nan
    assert np.isnan(pooled_quantiles(block, ALPHAS)).tolist() == [[False] * 3, [True] * 3]
    assert pooled_quantiles(np.empty((0, 12, 9)), ALPHAS).shape == (0, 3)


def test_the_allowance_is_what_past_maxima_needed_beyond_their_own_block() -> None:
    horizon, n_blocks = 10, 20
    values = np.ones((1, 400), dtype=np.float32)
    ends = 399 - horizon * np.arange(n_blocks)
    values[0, ends] = 1 + np.arange(
        n_blocks
    )  # the latest block rises by 0, the one before by 1, ...
    origins = np.array([[399]])
    found = peak_allowances(values, origins, horizon, n_blocks, (0.75,))
    assert found[0, 0, 0] == pytest.approx(np.quantile(np.arange(n_blocks), 0.75), rel=1e-6)
    later = values.copy()
    later[0, 300:] = 1000.0
    np.testing.assert_array_equal(
        peak_allowances(later, np.array([[299]]), horizon, n_blocks, ALPHAS),
        peak_allowances(values, np.array([[299]]), horizon, n_blocks, ALPHAS),
    )


def test_too_short_a_past_gives_no_allowance_and_gaps_do_not_count() -> None:
    values = np.random.default_rng(0).normal(size=(1, 200)).astype(np.float32)
    known = 10 * (MIN_PAST_BLOCKS - 1)
    assert np.isnan(peak_allowances(values, np.array([[known - 1]]), 10, 15, ALPHAS)).all()
    assert np.isfinite(peak_allowances(values, np.array([[known + 9]]), 10, 15, ALPHAS)).all()
    values[0, 50:100] = np.nan
    assert np.isfinite(peak_allowances(values, np.array([[199]]), 10, 15, ALPHAS)).all()
    values[0, 100:106] = np.nan
    assert np.isnan(peak_allowances(values, np.array([[199]]), 10, 15, ALPHAS)).all(), (
        "less than half of that block is left"
    )


def test_a_week_of_blocks_and_ten_at_least() -> None:
    assert n_past_blocks(60, 1440) == 168
    assert n_past_blocks(7 * 24, 24) == MIN_PAST_BLOCKS


def test_the_factor_covers_a_share_alpha_of_new_blocks_whatever_the_constants_are() -> None:
    rng = np.random.default_rng(3)
    for alpha in ALPHAS:
        held = []
        for _ in range(300):
            constant, allowance = rng.normal(size=60), rng.gamma(2, size=60) + 0.1
            peak = constant + allowance * rng.gamma(2, size=60)
            factor = peak_factor(peak[:40], constant[:40], allowance[:40], alpha)
            held.append((peak[40:] <= constant[40:] + factor * allowance[40:]).mean())
        assert np.mean(held) == pytest.approx(alpha + 1 / 82, abs=0.025)


def test_a_factor_is_never_negative_never_infinite_and_unknown_without_blocks() -> None:
    one = np.ones(20)
    assert peak_factor(-one, one, one, 0.9) == 0
    assert peak_factor(2 * one, one, 0 * one, 0.9) == 0
    unknown = np.full(20, np.nan)
    assert np.isnan(peak_factor(unknown, one, one, 0.9))
    rising = np.arange(1.0, 10.0)
    assert peak_factor(rising, 0 * rising, np.ones(9), 0.9) == 9, "rank ceil(10 * 0.9)"
    assert peak_factor(rising, 0 * rising, np.ones(9), 0.65) == 7


def test_scores_are_those_of_every_single_step_that_was_observed() -> None:
    rng = np.random.default_rng(4)
    actual = rng.normal(size=(6, 2, 12))
    actual[0, 0, :5] = np.nan
    actual[1, 1] = np.nan
    constant = rng.normal(size=(6, 2, 3)) + 1
    constant[2, 0] = np.nan
    scores = score_constants(actual, constant, ALPHAS)
    for r, d, a in np.ndindex(6, 2, 3):
        seen = actual[r, d][~np.isnan(actual[r, d])]
        own, row = constant[r, d, a], {name: values[r, d, a] for name, values in scores.items()}
        if np.isnan(own) or not len(seen):
            assert all(np.isnan(value) for value in row.values())
            continue
        assert row["loss"] == pytest.approx(pinball_loss(seen, own, ALPHAS[a]).mean(), rel=1e-5)
        assert row["violation_rate"] == pytest.approx((seen > own).mean())
        assert row["slack"] == pytest.approx(np.maximum(own - seen, 0).mean(), rel=1e-5, abs=1e-6)
        assert row["shortfall"] == pytest.approx(
            np.maximum(seen - own, 0).mean(), rel=1e-5, abs=1e-6
        )
        assert row["covered"] == (seen <= own).all()


def test_earlier_blocks_end_with_the_origin_or_before() -> None:
    values = np.arange(100, dtype=float)[None]
    origins = np.array([[49, 2]])
    np.testing.assert_array_equal(block_before(values, origins, 4, 4)[0, 0], [46, 47, 48, 49])
    np.testing.assert_array_equal(block_before(values, origins, 4, 24)[0, 0], [26, 27, 28, 29])
    np.testing.assert_array_equal(block_before(values, origins, 4, 4)[0, 1], [np.nan, 0, 1, 2])
    with pytest.raises(ValueError, match="would reach beyond the origin"):
        block_before(values, origins, 4, 3)


@given(arrays(np.float64, (3, 8), elements=st.floats(-1e6, 1e6)), st.integers(0, 7))
def test_quantiles_of_what_was_observed_are_numpys(samples: np.ndarray, n_missing: int) -> None:
    samples[:, :n_missing] = np.nan
    np.testing.assert_allclose(
        observed_quantiles(samples, ALPHAS),
        np.nanquantile(samples, ALPHAS, axis=-1).T,
        rtol=1e-9,
        atol=1e-9,
    )
    assert np.isnan(observed_quantiles(samples, ALPHAS, min_samples=9 - n_missing)).all()
