"""Test reliability and AUC by expected volatility on data whose truth is known.

What belongs here: the arithmetic. What does not: how it is shown (`test_shown`).
"""

import numpy as np
import pytest

from tsfm_pipeline.studies.direction.options import StatisticsOptions
from tsfm_pipeline.studies.direction.report.curves import (
    LEAST_OF_A_KIND,
    Sampling,
    auc_by_volatility,
    reliability,
)

N_DAYS = 4000


@pytest.fixture(scope="module")
def sampling() -> Sampling:
    return Sampling.of(N_DAYS, 10, StatisticsOptions(draws=100))


def test_true_probabilities_lie_in_their_intervals_and_wrong_ones_do_not(
    sampling: Sampling,
) -> None:
    rng = np.random.default_rng(0)
    chances = rng.uniform(0, 0.6, N_DAYS)
    labels = (rng.uniform(size=N_DAYS) < chances).astype(float)
    true = reliability(chances, labels, sampling)
    assert [tenth.n_days for tenth in true] == [N_DAYS // 10] * 10
    held = [each.estimate.low <= each.mean <= each.estimate.high for each in true]
    assert sum(held) >= 8
    doubled = reliability(np.minimum(2 * chances, 1), labels, sampling)
    assert doubled[-1].mean > doubled[-1].estimate.high


def test_one_probability_on_all_days_is_one_tenth(sampling: Sampling) -> None:
    (only,) = reliability(np.full(N_DAYS, 0.3), np.tile([1.0, 0.0], N_DAYS // 2), sampling)
    assert (only.n_days, only.mean, only.estimate.figure) == (N_DAYS, pytest.approx(0.3), 0.5)


def test_volatility_alone_scores_nothing_within_its_tenths(sampling: Sampling) -> None:
    rng = np.random.default_rng(1)
    folds = np.repeat(np.arange(8), N_DAYS // 8)
    volatility = rng.normal(size=N_DAYS) + folds  # the level of a fit
    drift = rng.normal(size=N_DAYS)
    chances = 1 / (1 + np.exp(1.5 - 1.5 * (volatility - folds) - drift))
    labels = (rng.uniform(size=N_DAYS) < chances).astype(float)
    again = volatility + 0.3 * rng.normal(size=N_DAYS)
    only, knows = auc_by_volatility([again, drift], volatility, labels, folds, sampling)
    assert only[0].mean < 0.1 < 0.5 < only[-1].mean, "base rates rise with volatility"
    assert np.mean([each.estimate.figure for each in only[1:-1]]) == pytest.approx(0.5, abs=0.04)
    assert all(each.estimate.low > 0.5 for each in knows[2:-1])


def test_an_auc_of_a_few_days_is_not_shown(sampling: Sampling) -> None:
    rng = np.random.default_rng(2)
    volatility, folds = rng.normal(size=N_DAYS), np.zeros(N_DAYS, np.int64)
    labels = (volatility > 1).astype(float)
    labels[np.argsort(volatility)[: LEAST_OF_A_KIND - 1]] = 1
    (tenths,) = auc_by_volatility([rng.normal(size=N_DAYS)], volatility, labels, folds, sampling)
    assert np.isnan(tenths[0].estimate.figure)
    assert tenths[0].mean == pytest.approx((LEAST_OF_A_KIND - 1) / tenths[0].n_days)
