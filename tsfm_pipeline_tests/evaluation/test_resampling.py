"""Test that the wild bootstrap does what its formula says, and that its intervals are honest on
clustered losses of which a few are very large.
"""

import numpy as np
import pytest

from tsfm_pipeline.evaluation.resampling import (
    LEAST_TENANTS,
    TwoWaySums,
    WildBootstrap,
    random_signs,
    wild_bootstraps,
)


def _cells(
    rng: np.random.Generator, n_tenants: int, day_sd: float, n_days: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """Cell sums [N, D] of two methods that cost the same on average, on a fleet of which a few
    tenants carry most of the cost.
    """
    b = np.exp(rng.normal(0, 1.5, (n_tenants, 1)) + rng.normal(0, 0.7, (n_tenants, n_days)))
    effect = (
        rng.normal(0, 0.08, (n_tenants, 1))
        + rng.normal(0, day_sd, (1, n_days))
        + rng.normal(0, 0.1, (n_tenants, n_days))
    )
    return b * np.exp(effect - (0.08**2 + day_sd**2 + 0.1**2) / 2), b


def _studentised(cells: np.ndarray) -> float:
    return float(TwoWaySums.of(cells).studentised(*cells.shape))


def test_the_p_value_counts_the_draws_whose_studentised_sum_is_as_large() -> None:
    """Every draw is made cell by cell here, from the same signs."""
    rng = np.random.default_rng(0)
    above, below = _cells(rng, 9, day_sd=0.1)
    tenants, days = random_signs(rng, 300, 9), random_signs(rng, 300, 7)
    flipped = np.stack([tenants @ above, tenants @ below], axis=1)
    bootstrap = WildBootstrap(above, below, flipped, days, tenants.sum(axis=1))
    for ratio in (0.9, 1.0, 1.02):
        cells = above - ratio * below
        _, day, cell = TwoWaySums.of(cells).variances(9, 7)
        shared = np.sqrt(max(0.0, 1 - cell / day)) * cells.mean(axis=0)
        drawn = [
            _studentised(tenants[p][:, None] * (cells - shared) + days[p] * shared)
            for p in range(300)
        ]
        as_large = np.sum(np.array(drawn) >= _studentised(cells) * (1 - 1e-9))
        assert bootstrap.p_value(ratio) == pytest.approx((1 + as_large) / 301)


def test_the_two_way_error_of_a_mean_of_two_tenants_on_two_days_by_hand() -> None:
    """Cells 1, 3 / 5, 7 sum to 16. Tenants' sums 4 and 12 vary by 64, days' 6 and 10 by 16, cells
    by 20. Days vary less than their cells would by chance, so 20 + 44 + 0 = 64 remain.
    """
    sums = TwoWaySums.of(np.array([[1.0, 3.0], [5.0, 7.0]]))
    assert sums.variances(2, 2) == (64.0, 16.0, 20.0)
    assert sums.studentised(2, 2) == pytest.approx(16 / 8)


@pytest.mark.parametrize("n_tenants", [12, 17, 60])
def test_swapped_labels_are_rejected_five_percent_of_the_time_where_few_tenants_decide(
    n_tenants: int,
) -> None:
    rejected = []
    for seed in range(600):
        rng = np.random.default_rng(seed)
        a, b = _cells(rng, n_tenants, day_sd=0.1)
        swapped = rng.random((n_tenants, 1)) < 0.5
        pair = np.where(swapped, b, a), np.where(swapped, a, b)
        rejected.append(wild_bootstraps([pair], 300, seed)[0].p_value(1.0) <= 0.05)
    assert 0.03 <= np.mean(rejected) <= 0.07


@pytest.mark.parametrize("day_sd", [0.0, 0.05, 0.2])
def test_the_true_ratio_is_rejected_about_five_percent_of_the_time_also_where_days_decide(
    day_sd: float,
) -> None:
    rejected = [
        wild_bootstraps([_cells(np.random.default_rng(seed), 17, day_sd)], 300, seed)[0].p_value(
            1.0
        )
        <= 0.05
        for seed in range(600)
    ]
    assert 0.03 <= np.mean(rejected) <= 0.09


@pytest.mark.parametrize("n_tenants", [LEAST_TENANTS, 20])
def test_the_interval_holds_what_is_not_rejected(n_tenants: int) -> None:
    rng = np.random.default_rng(n_tenants)
    b = rng.uniform(1.0, 2.0, (n_tenants, 7))
    a = b * rng.uniform(0.8, 1.1, (n_tenants, 7))
    [bootstrap] = wild_bootstraps([(a, b)], 2000, 0)
    low, high = bootstrap.interval()
    assert low < a.sum() / b.sum() < high
    for limit, outwards in ((low, -1), (high, 1)):
        assert bootstrap.p_value(limit) <= 0.05
        assert bootstrap.p_value(limit - outwards * 0.05 * (high - low)) > 0.05


def test_fewer_tenants_have_students_interval_of_a_mean() -> None:
    """Days without any effect: of three tenants with sums 9, 10 and 11 of 10, the mean's standard
    error is 1 / sqrt(3) of a tenant's, and 2 degrees of freedom give 4.303 of them.
    """
    a = np.repeat([[9.0], [10.0], [11.0]], 10, axis=1)
    [bootstrap] = wild_bootstraps([(a, np.full((3, 10), 10.0))], 200, 0)
    reach = 4.303 * 0.1 / np.sqrt(3)
    assert bootstrap.interval() == pytest.approx((1 - reach, 1 + reach), rel=1e-3)
    assert bootstrap.p_value(1 + reach) == pytest.approx(0.05, abs=1e-3)


def test_where_one_tenant_has_all_of_the_cost_there_are_no_limits() -> None:
    b = np.zeros((8, 4))
    b[0] = [1.0, 2.0, 3.0, 4.0]
    [bootstrap] = wild_bootstraps([(b * np.array([0.9, 1.0, 1.1, 1.2]), b)], 200, 0)
    assert np.isnan(bootstrap.interval()).all()


def test_a_ratio_of_losses_is_never_negative_and_a_share_never_above_one() -> None:
    wins = np.ones((8, 7))
    wins[0, :3] = 0.0
    [bootstrap] = wild_bootstraps([(wins, np.ones((8, 7)))], 500, 0)
    low, high = bootstrap.interval()
    assert 0.0 < low < 53 / 56 < high <= 1.0
    rare = np.zeros((8, 7))
    rare[0, 0] = 1.0
    [bootstrap] = wild_bootstraps([(rare, np.ones((8, 7)))], 500, 0)
    assert bootstrap.interval()[0] == 0.0


def test_a_share_that_no_value_is_rejected_of_may_be_any() -> None:
    requests = np.zeros((8, 4))
    requests[0] = 4.0
    [bootstrap] = wild_bootstraps([(requests * [0.5, 0.75, 0.25, 0.5], requests)], 200, 0)
    assert bootstrap.p_value(0.0) > 0.05
    assert bootstrap.p_value(1.0) > 0.05
    assert bootstrap.interval() == (0.0, 1.0)
