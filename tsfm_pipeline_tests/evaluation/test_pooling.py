"""Test that pooling weighs fleets by their precision, gives wide intervals for few or differing
fleets, and claims nothing from one.
"""

import numpy as np
import pytest
from statsmodels.stats.meta_analysis import combine_effects

from tsfm_pipeline.evaluation.pooling import pooled_ratio

Z = 1.959964


def _intervals(ratios: list[float], errors: list[float]) -> tuple[list[float], list[float]]:
    return [r * np.exp(-Z * e) for r, e in zip(ratios, errors, strict=True)], [
        r * np.exp(Z * e) for r, e in zip(ratios, errors, strict=True)
    ]


def test_mean_weights_and_normal_interval_are_those_of_dersimonian_and_laird() -> None:
    ratios, errors = [0.7, 0.95, 0.9, 1.05], [0.05, 0.03, 0.1, 0.04]
    pooled = pooled_ratio(ratios, *_intervals(ratios, errors))
    reference = combine_effects(np.log(ratios), np.square(errors), method_re="dl")
    assert np.log(pooled.ratio) == pytest.approx(reference.mean_effect_re, rel=1e-5)
    assert pooled.tau**2 == pytest.approx(reference.tau2, rel=1e-5)
    assert pooled.weights == pytest.approx(tuple(reference.weights_rel_re), rel=1e-5)
    assert np.log([pooled.normal_low, pooled.normal_high]) == pytest.approx(
        reference.conf_int()[1], rel=1e-5
    )


def test_the_interval_covers_the_mean_effect_of_few_fleets_that_differ() -> None:
    """The normal interval does not: that is why it is not the one that is shown."""
    rng = np.random.default_rng(0)
    covered = {"t": 0, "normal": 0}
    n_draws = 400
    for _ in range(n_draws):
        errors = rng.uniform(0.02, 0.06, 4)
        ratios = np.exp(rng.normal(-0.1, 0.08, 4) + rng.normal(0, errors)).tolist()
        pooled = pooled_ratio(ratios, *_intervals(ratios, errors.tolist()))
        covered["t"] += pooled.low <= np.exp(-0.1) <= pooled.high
        covered["normal"] += pooled.normal_low <= np.exp(-0.1) <= pooled.normal_high
    assert covered["t"] / n_draws > 0.93
    assert covered["normal"] / n_draws < 0.93


def test_fleets_that_agree_are_not_pooled_to_a_narrower_interval_than_their_errors_allow() -> None:
    pooled = pooled_ratio([0.9, 0.9, 0.9], *_intervals([0.9] * 3, [0.03] * 3))
    assert pooled.tau == 0
    assert np.log(pooled.high / pooled.low) == pytest.approx(2 * 4.302653 * 0.03 / 3**0.5, rel=1e-5)


def test_one_fleet_is_its_own_pool_and_two_say_little_about_a_third() -> None:
    alone = pooled_ratio([0.9], [0.85], [0.95])
    assert (alone.ratio, alone.low, alone.high) == (0.9, 0.85, 0.95)
    two = pooled_ratio([0.9, 0.8], [0.85, 0.75], [0.95, 0.85])
    assert two.low < 0.5
    assert two.high > 1


def test_a_fleet_without_an_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be pooled"):
        pooled_ratio([0.9, 0.8], [0.85, float("nan")], [0.95, 0.85])
