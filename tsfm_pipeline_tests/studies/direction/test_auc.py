"""Test the AUC within folds, its draws and its daily contributions."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from tsfm_pipeline.studies.direction.auc import auc, auc_draws, contributions
from tsfm_pipeline.studies.direction.bootstrap import (
    block_length,
    day_counts,
    interval,
    p_value,
)

N = 600
ONE = np.zeros(N, np.int64)
RNG = np.random.default_rng(0)
LABELS = (RNG.random(N) < 0.3).astype(float)
SCORES = (RNG.normal(size=N) + 0.4 * LABELS).round(1)  # many ties
FOLDS = np.repeat(np.arange(6), 100)


def test_without_folds_the_auc_is_that_of_sklearn_with_ties_and_weights() -> None:
    counts = day_counts(N, 7, 25, seed=3)
    expected = [roc_auc_score(LABELS, SCORES, sample_weight=counts[:, b]) for b in range(25)]
    np.testing.assert_allclose(auc_draws(SCORES, LABELS, ONE, counts), expected, atol=1e-12)
    assert auc(SCORES, LABELS, ONE) == pytest.approx(roc_auc_score(LABELS, SCORES), abs=1e-12)


def test_folds_weigh_by_their_pairs_and_their_levels_do_not_matter() -> None:
    by_fold = [fold == FOLDS for fold in range(6)]
    areas = [roc_auc_score(LABELS[days], SCORES[days]) for days in by_fold]
    pairs = [LABELS[days].sum() * (100 - LABELS[days].sum()) for days in by_fold]
    within = auc(SCORES, LABELS, FOLDS)
    assert within == pytest.approx(np.average(areas, weights=pairs), abs=1e-12)
    assert auc(SCORES + 100.0 * FOLDS, LABELS, FOLDS) == pytest.approx(within, abs=1e-12)
    shuffled = RNG.permutation(N)
    assert auc(SCORES[shuffled], LABELS[shuffled], FOLDS[shuffled]) == within


def test_constant_scores_have_an_auc_of_a_half_and_one_label_alone_has_none() -> None:
    assert auc(np.ones(N), LABELS, FOLDS) == 0.5
    assert np.isnan(auc(SCORES, np.zeros(N), FOLDS))
    assert np.isnan(contributions(SCORES, np.zeros(N), FOLDS)).all()


def test_contributions_are_what_each_day_adds_to_the_auc() -> None:
    influence = contributions(SCORES, LABELS, FOLDS)
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    counts = day_counts(N, 1, 1000, seed=0)
    linear = auc(SCORES, LABELS, FOLDS) + (counts * influence[:, None]).mean(axis=0)
    draws = auc_draws(SCORES, LABELS, FOLDS, counts)
    assert np.corrcoef(linear, draws)[0, 1] > 0.97
    assert draws.std() == pytest.approx(influence.std() / np.sqrt(N), rel=0.1)


def test_draws_are_the_same_for_a_seed_and_have_all_days_equally_often() -> None:
    counts = day_counts(200, 10, 500, seed=1)
    assert (counts.sum(axis=0) == 200).all()
    np.testing.assert_array_equal(counts, day_counts(200, 10, 500, seed=1))
    assert (counts != day_counts(200, 10, 500, seed=2)).any()
    assert counts.mean(axis=1) == pytest.approx(1.0, abs=0.25)
    # Neighbouring days are drawn together.
    assert np.corrcoef(counts[50], counts[51])[0, 1] > 0.8


def test_blocks_are_as_long_as_the_most_persistent_series_asks_for() -> None:
    noise = RNG.normal(size=(2000, 2))
    persistent = noise[:, 0].copy()
    for t in range(1, 2000):
        persistent[t] += 0.9 * persistent[t - 1]
    constant = np.zeros(2000)
    assert block_length(np.column_stack([noise[:, 1], constant]), horizon=5) == 10
    assert block_length(np.column_stack([noise[:, 1], persistent]), horizon=5) > 15
    assert block_length(constant[:, None], horizon=1) == 6


def test_intervals_and_p_values_of_draws_leave_out_what_is_not_finite() -> None:
    draws = np.append(np.linspace(0, 1, 1001), np.nan)
    assert interval(draws, 0.9) == pytest.approx((0.05, 0.95))
    assert np.isnan(interval(np.array([np.nan]), 0.9)).all()
    assert interval(draws, 0.9, estimate=0.7) == pytest.approx((0.25, 1.15))
    assert p_value(0.6, draws) == pytest.approx(1 / 1002)
    assert p_value(0.0, draws) == pytest.approx(0.5, abs=2e-3)
    assert p_value(0.95, draws, null=0.7) == pytest.approx(0.25, abs=2e-3)
    assert np.isnan(p_value(0.5, np.array([np.nan])))


def correlated_days(
    rng: np.random.Generator, n: int, distance: float, persistence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels whose AUC is Phi(distance / sqrt 2): both follow their own past."""

    def series() -> np.ndarray:
        shocks = rng.normal(size=n + 100) * np.sqrt(1 - persistence**2)
        values = np.zeros(n + 100)
        for t in range(1, n + 100):
            values[t] = persistence * values[t - 1] + shocks[t]
        return values[100:]

    labels = (series() > norm.ppf(0.7)).astype(float)
    return series() + distance * labels, labels


def coverage(n_markets: int, n_days: int, n_draws: int, persistence: float) -> float:
    """Return the share of simulated markets whose 95 % interval contains the true AUC."""
    distance = 0.5
    true = norm.cdf(distance / np.sqrt(2))
    hits = 0
    for market in range(n_markets):
        rng = np.random.default_rng((market, 5))
        scores, labels = correlated_days(rng, n_days, distance, persistence)
        strata = np.zeros(n_days, np.int64)
        block = block_length(contributions(scores, labels, strata)[:, None], horizon=1)
        counts = day_counts(n_days, block, n_draws, seed=market)
        low, high = interval(
            auc_draws(scores, labels, strata, counts), 0.95, auc(scores, labels, strata)
        )
        hits += low <= true <= high
    return hits / n_markets


@pytest.mark.heavy
def test_intervals_contain_the_true_auc_about_as_often_as_they_say() -> None:
    assert 0.88 <= coverage(60, 1500, 200, persistence=0.7) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("persistence", [0.0, 0.5, 0.8])
def test_intervals_contain_the_true_auc_in_93_to_97_percent(persistence: float) -> None:
    assert 0.93 <= coverage(600, 4000, 500, persistence) <= 0.97
