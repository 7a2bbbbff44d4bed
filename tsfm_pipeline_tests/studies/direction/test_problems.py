"""Test the problem of a market, on real prices.

What belongs here: usable days, and the figures that the protocol was measured with. What does not:
single labels, features or folds.
"""

from dataclasses import replace

import numpy as np
import pytest

from tsfm_pipeline.studies.direction.options import LABELS, LabelOptions, SplitOptions, StudyOptions
from tsfm_pipeline.studies.direction.problem import Problem, Target, targets
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline_tests.studies.direction.prices import sp500, walk


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build_problem(sp500(), StudyOptions())


@pytest.mark.parametrize(
    ("label", "horizon", "rate"),
    [
        ("touch_up", 1, 0.193),
        ("touch_down", 1, 0.208),
        ("touch_up", 5, 0.547),
        ("touch_down", 5, 0.485),
    ],
)
def test_base_rates_are_those_of_the_protocol(
    problem: Problem, label: str, horizon: int, rate: float
) -> None:
    days = np.concatenate([fold.test for fold in problem.folds[horizon]])
    assert len(days) == 3523 - horizon
    known = problem.labels[Target(label, horizon)]  # type: ignore[arg-type]
    assert known[days].mean() == pytest.approx(rate, abs=0.0006)


def test_days_of_folds_have_every_feature_and_label(problem: Problem) -> None:
    assert problem.features.shape == (len(problem.bars), len(problem.feature_names))
    assert set(problem.labels) == set(targets(problem.options))
    for horizon, folds in problem.folds.items():
        assert [fold.year for fold in folds] == list(range(2005, 2019))
        for fold in folds:
            for part in (fold.train, fold.validation, fold.test):
                assert np.isfinite(problem.features[part]).all()
                assert np.isfinite(problem.sigma[part]).all()
                for label in LABELS:
                    assert np.isin(problem.labels[Target(label, horizon)][part], (0, 1)).all()
        assert folds[0].train[0] == 251, "the first day with a year of highs"


def test_days_without_a_covariate_are_in_no_fold() -> None:
    bars = walk(1600, seed=0)
    vix = np.linspace(10, 30, 1600)
    missing = np.array([700, 1300])
    vix[missing] = np.nan
    options = StudyOptions(
        labels=LabelOptions(horizons=(1,)), splits=SplitOptions(training_years=3)
    )
    made = build_problem(replace(bars, covariates={"vix": vix}), options)
    assert made.feature("vix") is not vix
    np.testing.assert_array_equal(made.feature("vix"), vix)
    used = np.concatenate([np.concatenate(fold[1:]) for fold in made.folds[1]])
    assert not np.isin(missing, used).any()
    assert np.isin(missing + 1, used).all()


def test_a_feature_that_is_never_known_is_named() -> None:
    bars = walk(1600, seed=0)
    with pytest.raises(ValueError, match="no day has a value of vix"):
        build_problem(replace(bars, covariates={"vix": np.full(1600, np.nan)}), StudyOptions())
    with pytest.raises(ValueError, match=r"no day has a value of .*drawdown.* the market has 251"):
        build_problem(walk(251, seed=0), StudyOptions())
