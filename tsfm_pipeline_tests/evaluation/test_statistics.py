"""Test that intervals have their nominal coverage, and that tests hold their level on clustered
data.
"""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest

from tsfm_pipeline.evaluation.statistics import (
    GeometricMeanRatio,
    geometric_mean_ratio,
    label_swap_pvalue,
    label_swap_rejection_rate,
    leave_one_out_ratios,
    mean_log_ratio,
    two_way_bootstrap,
    two_way_bootstrap_mean,
)

TRUE_RATIO = 0.95
Losses = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _clustered_losses(
    seed: int,
    n_tenants: int = 40,
    tenant_sd: float = 0.08,
    day_sd: float = 0.06,
    n_days: int = 7,
    ratio: float = TRUE_RATIO,
) -> Losses:
    """Paired losses whose ratio varies by tenant and by day around a known mean: a, b, tenant,
    day.
    """
    rng = np.random.default_rng(seed)
    tenant = np.repeat(np.arange(n_tenants), 12)
    day = rng.integers(0, n_days, len(tenant))
    level = np.exp(rng.normal(0, 0.4, n_tenants))[tenant] * np.exp(rng.normal(0, 0.2, n_days))[day]
    effect = rng.normal(0, tenant_sd, n_tenants)[tenant] + rng.normal(0, day_sd, n_days)[day]
    a, b = level * np.exp(rng.normal(0, 0.2, (2, len(tenant))))
    return a * ratio * (1 + effect), b, tenant, day


def test_ratio_and_win_rate_are_those_of_all_requests_with_ties_counting_half() -> None:
    result = two_way_bootstrap(
        [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 10.0], [0, 0, 1, 1], [0, 1, 0, 1], n_draws=50, seed=0
    )
    assert result.ratio == pytest.approx(10 / 16)
    assert result.win_rate == pytest.approx(2.5 / 4)
    assert (result.n_requests, result.n_tenants, result.n_days, result.n_dropped) == (4, 2, 2, 0)


def test_two_way_intervals_cover_near_95_percent_where_tenants_alone_cover_far_less() -> None:
    n_simulations = 200
    two_way, tenants_only = 0, 0
    for seed in range(n_simulations):
        a, b, tenant, day = _clustered_losses(seed)
        interval = two_way_bootstrap(a, b, tenant, day, n_draws=400, seed=seed)
        two_way += interval.low <= TRUE_RATIO <= interval.high
        weight = np.random.default_rng(seed).multinomial(40, np.full(40, 1 / 40), size=400)
        ratios = (weight @ np.bincount(tenant, a)) / (weight @ np.bincount(tenant, b))
        low, high = np.quantile(ratios, [0.025, 0.975])
        tenants_only += low <= TRUE_RATIO <= high
    assert 0.91 <= two_way / n_simulations <= 0.985
    assert tenants_only / n_simulations <= 0.80


def test_intervals_are_not_wider_than_needed_where_only_requests_are_noisy() -> None:
    widths, errors = [], []
    for seed in range(60):
        interval = two_way_bootstrap(
            *_clustered_losses(seed, tenant_sd=0, day_sd=0), n_draws=400, seed=seed
        )
        widths.append(interval.high - interval.low)
        errors.append(interval.ratio - TRUE_RATIO)
    assert np.mean(widths) <= 1.5 * 2 * 1.96 * np.std(errors)


@given(st.floats(0.1, 10.0), st.integers(0, 5))
@settings(max_examples=20)
def test_the_interval_scales_with_the_losses_of_a_and_ignores_row_order(
    factor: float, seed: int
) -> None:
    a, b, tenant, day = _clustered_losses(seed, n_tenants=8)
    plain = two_way_bootstrap(a, b, tenant, day, n_draws=100, seed=seed)
    order = np.random.default_rng(seed).permutation(len(a))
    scaled = two_way_bootstrap(
        factor * a[order], b[order], tenant[order], day[order], n_draws=100, seed=seed
    )
    np.testing.assert_allclose(
        [scaled.ratio, scaled.low, scaled.high],
        factor * np.array([plain.ratio, plain.low, plain.high]),
        rtol=1e-9,
    )


@given(arrays(np.float64, 24, elements=st.floats(0.0, 1e3)))
def test_a_method_ties_with_itself(losses: np.ndarray) -> None:
    tenant, day = np.divmod(np.arange(24), 6)
    result = two_way_bootstrap(losses, losses, tenant, day, n_draws=50, seed=0)
    assert result.win_rate == 0.5
    if losses.sum() == 0:
        assert np.isnan([result.ratio, result.low, result.high]).all()
    else:
        assert (result.ratio, result.win_low, result.win_high) == (1.0, 0.5, 0.5)
    assert label_swap_pvalue(losses, losses, tenant, day, n_permutations=20, seed=0) == 1.0


def test_names_of_tenants_and_days_do_not_matter() -> None:
    a, b, tenant, day = _clustered_losses(0)
    names = np.array([f"tenant-{t:03d}" for t in tenant])
    dates = np.datetime64("2025-01-06") + day
    assert two_way_bootstrap(a, b, names, dates, n_draws=100, seed=0) == two_way_bootstrap(
        a, b, tenant, day, n_draws=100, seed=0
    )


def test_requests_that_failed_for_one_method_are_dropped_and_counted() -> None:
    a, b, tenant, day = _clustered_losses(0)
    with_failures = a.copy()
    with_failures[:5] = np.nan
    result = two_way_bootstrap(with_failures, b, tenant, day, n_draws=100, seed=0)
    kept = two_way_bootstrap(a[5:], b[5:], tenant[5:], day[5:], n_draws=100, seed=0)
    assert result.n_dropped == 5
    assert (result.ratio, result.low, result.n_requests) == (kept.ratio, kept.low, kept.n_requests)


@pytest.mark.parametrize(
    ("tenants", "days"), [([0, 0, 0, 0], [0, 1, 2, 3]), ([0, 1, 2, 3], [0, 0, 0, 0])]
)
def test_one_tenant_or_one_day_gives_a_figure_without_an_interval(
    tenants: list[int], days: list[int]
) -> None:
    result = two_way_bootstrap([1.0] * 4, [2.0] * 4, tenants, days, n_draws=50, seed=0)
    assert result.ratio == 0.5
    assert np.isnan([result.low, result.high, result.win_low, result.win_high]).all()


def test_the_same_seed_draws_the_same_interval() -> None:
    losses = _clustered_losses(0)
    assert two_way_bootstrap(*losses, n_draws=300, seed=1) == two_way_bootstrap(
        *losses, n_draws=300, seed=1
    )
    assert two_way_bootstrap(*losses, n_draws=300, seed=1) != two_way_bootstrap(
        *losses, n_draws=300, seed=2
    )


def test_the_mean_has_the_same_kind_of_interval() -> None:
    a, b, tenant, day = _clustered_losses(0)
    difference = two_way_bootstrap_mean(
        np.append(b - a, np.nan), np.append(tenant, 0), np.append(day, 0), n_draws=500, seed=0
    )
    assert difference.mean == pytest.approx((b - a).mean())
    assert difference.low < difference.mean < difference.high
    assert difference.n_dropped == 1


def test_draws_of_a_large_fleet_are_draws_of_its_tenant_days_however_many_requests_they_hold() -> (
    None
):
    rng = np.random.default_rng(0)
    tenant, day = rng.integers(0, 500, 100_000), rng.integers(0, 7, 100_000)
    a, b = rng.exponential(size=(2, 100_000))
    whole = two_way_bootstrap(a, b, tenant, day, n_draws=10_000, seed=0)
    cells, cell = np.unique(np.stack([tenant, day]), axis=1, return_inverse=True)
    assert len(cells[0]) == 500 * 7
    sums = [np.bincount(cell.ravel(), weights=losses) for losses in (a, b)]
    summed = two_way_bootstrap(*sums, *cells, n_draws=10_000, seed=0)
    assert (summed.ratio, summed.low, summed.high) == pytest.approx(
        (whole.ratio, whole.low, whole.high), rel=1e-9
    )


@pytest.mark.parametrize(("loss_b", "tenant"), [([1.0, 2.0], [0]), ([1.0], [0, 1])])
def test_unpaired_losses_are_refused(loss_b: list[float], tenant: list[int]) -> None:
    with pytest.raises(ValueError, match="of one length"):
        two_way_bootstrap([1.0], loss_b, tenant, [0], n_draws=50, seed=0)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of the 1 requests"):
        two_way_bootstrap([np.nan], [1.0], [0], [0], n_draws=50, seed=0)


def test_label_swaps_hold_their_level_where_a_binomial_test_over_requests_does_not() -> None:
    n_simulations = 200
    swaps, binomial = 0, 0
    for seed in range(n_simulations):
        a, b, tenant, day = _clustered_losses(seed, tenant_sd=0.25, day_sd=0, ratio=1.0)
        swaps += label_swap_pvalue(a, b, tenant, day, n_permutations=199, seed=seed) <= 0.05
        binomial += binomtest(int((a < b).sum()), len(a)).pvalue <= 0.05
    assert 0.02 <= swaps / n_simulations <= 0.08
    assert binomial / n_simulations >= 0.15


def test_label_swaps_are_not_fooled_by_the_luck_of_a_day() -> None:
    p_values = [
        label_swap_pvalue(
            *_clustered_losses(seed, tenant_sd=0.1, day_sd=0.05, ratio=1.0),
            n_permutations=199,
            seed=seed,
        )
        for seed in range(200)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.11


def test_label_swaps_find_an_effect_and_do_not_care_who_is_called_a() -> None:
    a, b, tenant, day = _clustered_losses(0, ratio=0.8)
    p_value = label_swap_pvalue(a, b, tenant, day, n_permutations=199, seed=0)
    assert p_value == 1 / 200
    assert label_swap_pvalue(b, a, tenant, day, n_permutations=199, seed=0) == p_value


def test_one_tenant_proves_nothing() -> None:
    assert (
        label_swap_pvalue([1.0, 1.0], [9.0, 9.0], [0, 0], [0, 1], n_permutations=20, seed=0) == 1.0
    )


def test_the_label_swap_control_rejects_about_five_percent_in_spite_of_a_strong_effect() -> None:
    losses = _clustered_losses(1, n_tenants=60, ratio=0.8)
    assert label_swap_rejection_rate(*losses, n_permutations=200, n_draws=300, seed=0) <= 0.09
    assert two_way_bootstrap(*losses, n_draws=300, seed=0).high < 1.0


def test_leaving_out_the_series_that_carries_the_sum_shows_what_it_hides() -> None:
    a, b = np.array([10.0, 1.0, 1.0]), np.array([100.0, 1.0, 1.0])
    result = leave_one_out_ratios(a, b, ["heavy", "light", "other"])
    assert astuple(result) == (pytest.approx(11 / 101), pytest.approx(1.0), "heavy")


def test_one_series_cannot_be_left_out() -> None:
    result = leave_one_out_ratios([1.0, 2.0], [2.0, 2.0], ["s", "s"])
    assert np.isnan([result.lowest, result.highest]).all()


def test_mean_log_ratio_counts_every_series_once_whatever_its_size() -> None:
    result = mean_log_ratio(
        [50.0, 50.0, 2.0, 0.0], [100.0, 100.0, 1.0, 1.0], ["heavy", "heavy", "light", "idle"]
    )
    assert result.ratio == pytest.approx(1.0)
    assert dict(zip(result.series, result.log_ratios, strict=True)) == pytest.approx(
        {"heavy": np.log(0.5), "light": np.log(2.0)}
    )
    assert result.n_excluded == 1


def test_in_a_geometric_mean_every_tenant_counts_alike() -> None:
    """By hand: the ratios of sums are 2/8 and 6/6, whose geometric mean is 1/2."""
    result = geometric_mean_ratio(
        [1.0, 1.0, 3.0, 3.0, 0.0],
        [4.0, 4.0, 1.0, 5.0, 0.0],
        [0, 0, 1, 1, 2],
        [0, 1, 0, 1, 0],
        50,
        0,
    )
    assert result.ratio == pytest.approx(0.5)
    assert (result.n_tenants, result.n_excluded) == (2, 1)
    assert result.low < 0.5 < result.high


def test_a_tenant_at_rest_under_both_methods_has_no_ratio_and_one_that_is_not_has() -> None:
    a, b, tenant, day = _clustered_losses(0)
    plain = geometric_mean_ratio(a, b, tenant, day, 200, 0)
    newcomer = np.full(4, tenant.max() + 1)
    added = [np.concatenate([tenant, newcomer]), np.concatenate([day, [0, 1, 2, 3]]), 200, 0]

    def beside(own_a: float, own_b: float) -> GeometricMeanRatio:
        losses = (np.concatenate([x, np.full(4, y)]) for x, y in ((a, own_a), (b, own_b)))
        return geometric_mean_ratio(*losses, *added)

    resting = beside(1e-15, 2e-12)
    assert resting.ratio == pytest.approx(plain.ratio)
    assert (resting.n_tenants, resting.n_excluded) == (plain.n_tenants, 1)
    harmed = beside(10 * b.mean(), 2e-12)
    assert (harmed.n_tenants, harmed.n_excluded) == (plain.n_tenants + 1, 0)
    assert harmed.ratio > 1.2 * plain.ratio


def test_the_scale_of_a_tenant_does_not_move_the_geometric_mean_or_its_interval() -> None:
    a, b, tenant, day = _clustered_losses(0)
    plain = geometric_mean_ratio(a, b, tenant, day, 200, 0)
    burst = np.where(tenant == 3, 1e4, 1.0)
    scaled = geometric_mean_ratio(a * burst, b * burst, tenant, day, 200, 0)
    np.testing.assert_allclose(astuple(scaled), astuple(plain))
    assert two_way_bootstrap(a * burst, b * burst, tenant, day, 200, 0).ratio != pytest.approx(
        plain.ratio, rel=1e-3
    )


def test_the_interval_of_the_geometric_mean_covers_near_95_percent() -> None:
    n_simulations, spread = 200, 0.08
    expected = TRUE_RATIO * np.exp(-(spread**2) / 2)  # the mean log of 1 + N(0, spread)
    covered, widths, errors = 0, [], []
    for seed in range(n_simulations):
        losses = _clustered_losses(seed, tenant_sd=spread)
        interval = geometric_mean_ratio(*losses, n_draws=400, seed=seed)
        covered += interval.low <= expected <= interval.high
        widths.append(interval.high - interval.low)
        errors.append(interval.ratio - expected)
    assert 0.91 <= covered / n_simulations <= 0.985
    assert np.mean(widths) <= 1.5 * 2 * 1.96 * np.std(errors)


@pytest.mark.parametrize(("tenant", "day"), [([0, 0], [0, 1]), ([0, 1], [0, 0])])
def test_a_geometric_mean_over_one_tenant_or_one_day_has_no_interval(
    tenant: list[int], day: list[int]
) -> None:
    result = geometric_mean_ratio([1.0, 2.0], [2.0, 2.0], tenant, day, 50, 0)
    assert np.isfinite(result.ratio)
    assert np.isnan([result.low, result.high]).all()


def test_without_a_tenant_that_has_both_losses_there_is_no_geometric_mean() -> None:
    result = geometric_mean_ratio([0.0, 1.0], [1.0, 0.0], [0, 1], [0, 1], 50, 0)
    assert np.isnan(result.ratio)
    assert (result.n_tenants, result.n_excluded) == (0, 2)
