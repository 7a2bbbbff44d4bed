"""Test the two orders of covariates: closed form, no look-ahead, and covariates that matter."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from tsfm_pipeline.studies.direction.auc import auc
from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.leakage import with_noise_after
from tsfm_pipeline.studies.direction.problem import Problem, Target
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.readings import Paths
from tsfm_pipeline.studies.direction.scorers.covariates import (
    ORDERS,
    PENALTY,
    _ridge,
    covariate_paths,
    covariate_scores,
)
from tsfm_pipeline.studies.direction.scorers.zero_shot import market_paths, zero_shot_forecasts
from tsfm_pipeline_tests.studies.direction.forecasters import (
    SHORT,
    of_normal_moves,
    with_signal,
)
from tsfm_pipeline_tests.studies.direction.prices import sp500


def problem_of(bars: Bars) -> Problem:
    return build_problem(bars, SHORT)


@pytest.mark.parametrize("lag", [1, 3])
def test_the_ridge_is_that_of_scikit_learn_in_every_window(lag: int) -> None:
    rng = np.random.default_rng(0)
    series, columns = rng.normal(size=200), rng.normal(5, [1, 3, 1e-3], size=(200, 3))
    columns = np.hstack([columns, np.full((200, 1), 7.0)])  # a constant column is left out
    days = np.array([60, 150, 199])
    rest, ahead = _ridge(series, columns, days, 40, lag)
    for row, day in enumerate(days):
        inside = np.arange(day - 39, day + 1)
        scaler = StandardScaler().fit(columns[inside - lag])
        model = Ridge(alpha=PENALTY * 40).fit(
            scaler.transform(columns[inside - lag]), series[inside]
        )
        fitted = model.predict(scaler.transform(columns[inside - lag]))
        np.testing.assert_allclose(rest[row], series[inside] - fitted, atol=1e-9)
        new = columns[day + 1 - lag : day + 1]
        np.testing.assert_allclose(ahead[row], model.predict(scaler.transform(new)), atol=1e-9)


def corrected(problem: Problem, horizon: int) -> dict[str, Paths]:
    [zero_shot] = market_paths(problem.bars, of_normal_moves(), "returns", (80,), 3)
    return covariate_paths(problem, of_normal_moves(), zero_shot, 80, horizon)


@pytest.mark.parametrize("horizon", [1, 3])
def test_no_corrected_forecast_knows_a_later_day(horizon: int) -> None:
    bars = with_signal(sp500()[1000:1900], 0.5, seed=1)
    problem = problem_of(bars)
    day = int(problem.folds[horizon][0].test[100])
    noisy = replace(
        problem_of(with_noise_after(bars, day, np.random.default_rng(0))), folds=problem.folds
    )
    for expected, found in zip(
        corrected(problem, horizon).values(), corrected(noisy, horizon).values(), strict=True
    ):
        assert np.isfinite(expected.mean[day]).all()
        np.testing.assert_array_equal(found.deciles[: day + 1], expected.deciles[: day + 1])
        assert np.nanmax(np.abs(found.mean[day + 1 :] - expected.mean[day + 1 :])) > 0


def test_a_planted_covariate_is_used_by_both_orders() -> None:
    problem = problem_of(with_signal(sp500()[1000:1900], 0.4, seed=2))
    scores = covariate_scores(
        problem, zero_shot_forecasts(problem, of_normal_moves()), of_normal_moves()
    )
    label = problem.labels[Target("sign", 1)]
    for order in ORDERS:
        rows = scores.filter(
            scorer=f"covariates_{order}_80_mean", label="sign", horizon=1, part="test"
        )
        days = rows["day"].to_numpy()
        found = auc(rows["score"].to_numpy(), label[days], np.zeros(len(days), np.int64))
        assert found > 0.58


def test_an_order_that_cannot_change_the_spread_has_no_score_of_it() -> None:
    problem = problem_of(sp500()[1000:1900])
    forecasts = zero_shot_forecasts(problem, of_normal_moves())
    scores = covariate_scores(problem, forecasts, of_normal_moves())
    assert scores["scorer"].unique().sort().to_list() == [
        "covariates_model_first_80_mean",
        "covariates_model_first_80_probability",
        "covariates_ridge_first_80_mean",
        "covariates_ridge_first_80_probability",
        "covariates_ridge_first_80_spread",
    ]
