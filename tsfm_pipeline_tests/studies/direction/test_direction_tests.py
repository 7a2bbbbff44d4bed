"""Test the tests of direction: their values, and how often they find what is not there."""

import numpy as np
import pytest
from scipy.stats import kstest

from tsfm_pipeline.studies.direction.auc import auc, auc_draws, contributions
from tsfm_pipeline.studies.direction.bootstrap import day_counts, p_value
from tsfm_pipeline.studies.direction.comparison import compare
from tsfm_pipeline.studies.direction.direction_tests import (
    comparable,
    delong_standard_error,
    excess_hits,
    moved,
    pesaran_timmermann,
    volatility_strata,
)

YEAR = 250


def test_pesaran_timmermann_is_about_the_test_of_a_two_by_two_table() -> None:
    rng = np.random.default_rng(0)
    actual = rng.random(2000) < 0.55
    predicted = np.where(rng.random(2000) < 0.1, actual, rng.random(2000) < 0.4)
    statistic, p = pesaran_timmermann(predicted, actual)
    # Asymptotically the square is the chi-squared statistic of the table.
    correlation = np.corrcoef(predicted, actual)[0, 1]
    assert statistic == pytest.approx(correlation * np.sqrt(2000), rel=0.02)
    assert p < 1e-3
    assert pesaran_timmermann(~predicted, actual)[0] == pytest.approx(-statistic)
    assert np.isnan(pesaran_timmermann(np.ones(2000, bool), actual)).all()


@pytest.mark.heavy
def test_the_bootstrap_form_allows_for_overlapping_labels() -> None:
    """Labels over 5 days and a slow prediction: the closed form finds a link where there is none."""
    closed, blocks = [], []
    for market in range(60):
        rng = np.random.default_rng((market, 1))
        actual = np.convolve(rng.normal(size=1004), np.ones(5), "valid") > 0
        predicted = np.convolve(rng.normal(size=1009), np.ones(10), "valid") > 0
        counts = day_counts(1000, 20, 200, seed=market)
        every_day = np.ones((1000, 1), np.uint16)
        excess = excess_hits(predicted, actual, every_day)[0]
        closed.append(pesaran_timmermann(predicted, actual)[1] < 0.05)
        blocks.append(p_value(excess, excess_hits(predicted, actual, counts)) < 0.05)
    assert np.mean(blocks) < np.mean(closed)
    assert np.mean(blocks) <= 0.15 < np.mean(closed)


@pytest.mark.heavy
def test_scores_within_a_year_find_a_direction_in_noise_and_comparable_ones_do_not() -> None:
    """The distance below a year's high: a later day's score contains an earlier day's label."""
    within, across = [], []
    for market in range(40):
        returns = np.random.default_rng((market, 2)).normal(size=11 * YEAR)
        price = np.cumsum(returns)
        high = np.array([price[max(0, t - YEAR) : t + 1].max() for t in range(len(price))])
        distance, labels = high - price, np.append(returns[1:] > 0, False).astype(float)
        test = np.arange(2 * YEAR, 10 * YEAR)
        folds = test // YEAR
        validation = np.arange(YEAR, 9 * YEAR)
        scores = comparable(distance[test], folds, distance[validation], validation // YEAR + 1)
        within.append(auc(distance[test], labels[test], folds))
        across.append(auc(scores, labels[test], np.zeros_like(folds)))
    assert np.mean(within) > 0.52
    assert abs(np.mean(across) - 0.5) < 0.007


def test_a_level_of_a_folds_fit_does_not_matter_for_comparable_scores() -> None:
    rng = np.random.default_rng(0)
    folds, scores, before = np.repeat([1, 2], 50), rng.normal(size=100), rng.normal(size=100)
    as_they_are = comparable(scores, folds, before, folds)
    refitted = comparable(3 * scores + 7 * folds, folds, 3 * before + 7 * folds, folds)
    np.testing.assert_allclose(refitted, as_they_are)
    constant = comparable(scores, folds, np.ones(100), folds)
    np.testing.assert_allclose(constant, scores - 1)


def test_a_day_moved_if_its_return_is_beyond_the_threshold() -> None:
    assert moved(np.array([0.011, -0.011, 0.01, 0.0]), 0.01).tolist() == [True, True, False, False]


def test_strata_of_volatility_are_tenths_and_take_away_what_volatility_explains() -> None:
    rng = np.random.default_rng(0)
    volatility = rng.normal(size=4000)
    labels = (volatility + rng.normal(size=4000) > 1).astype(float)
    strata = volatility_strata(volatility)
    assert np.bincount(strata).tolist() == [400] * 10
    other = volatility + 0.5 * rng.normal(size=4000)
    assert auc(other, labels, np.zeros_like(strata)) > 0.75
    assert auc(other, labels, strata) < 0.56
    assert volatility_strata(np.ones(5)).tolist() == [0] * 5


def test_delongs_error_is_the_bootstraps_with_independent_days_only() -> None:
    rng = np.random.default_rng(0)
    labels, strata = (rng.random(1500) < 0.4).astype(float), np.zeros(1500, np.int64)
    scores = rng.normal(size=1500) + labels
    counts = day_counts(1500, 1, 400, seed=0)
    error = delong_standard_error(scores, labels, strata)
    assert error == pytest.approx(auc_draws(scores, labels, strata, counts).std(), rel=0.1)
    slow = np.repeat(scores[:75], 20)
    slow_labels = np.repeat(labels[:75], 20)
    counts = day_counts(1500, 40, 400, seed=0)
    error = delong_standard_error(slow, slow_labels, strata)
    assert auc_draws(slow, slow_labels, strata, counts).std() > 2 * error


@pytest.mark.heavy
def test_comparison_names_what_is_better_and_only_that() -> None:
    rng = np.random.default_rng(0)
    gains = rng.normal(size=(1000, 8))
    gains[:, 2] += 0.25
    gains[:, 5] = 0.0
    gains[:, 6] -= 1.0
    tested = compare(gains, 8, 0.05, 300, seed=0)
    assert tested.p_value < 0.02
    assert tested.survives == tuple(each == 2 for each in range(8))
    # A noisy series does not hide the better one.
    gains[:, 7] *= 50
    assert compare(gains, 8, 0.05, 300, seed=0).survives[2]
    assert compare(gains * 0, 8, 0.05, 300, seed=0) == (1.0, (False,) * 8)
    everything = compare(gains[:, [2, 2]] + 0.1 * gains[:, [0, 1]], 8, 0.05, 300, seed=0)
    assert everything.survives == (True, True)


@pytest.mark.slow
def test_p_values_over_all_variants_are_uniform_where_nothing_is_better() -> None:
    p_values, named = [], []
    for market in range(200):
        rng = np.random.default_rng((market, 3))
        common = rng.normal(size=(500, 1))
        tested = compare(common + rng.normal(size=(500, 10)), 3, 0.05, 400, seed=market)
        p_values.append(tested.p_value)
        named.append(any(tested.survives))
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(named) < 0.09


@pytest.mark.slow
def test_the_comparison_of_areas_names_a_useless_scorer_once_in_twenty() -> None:
    named = []
    for market in range(200):
        rng = np.random.default_rng((market, 4))
        labels, strata = (rng.random(1500) < 0.5).astype(float), np.zeros(1500, np.int64)
        scores = rng.normal(size=(1500, 1)) + rng.normal(size=(1500, 12))
        gains = np.column_stack(
            [auc(s, labels, strata) - 0.5 + contributions(s, labels, strata) for s in scores.T]
        )
        named.append(any(compare(gains, 6, 0.05, 300, seed=market).survives))
    assert 0.01 <= np.mean(named) <= 0.09
