"""Test the tests against look-ahead: quiet on what is honest, red on built offenders.

What belongs here: noise after a day, and scores that are a day late or early. What does not: the
prefix invariance of labels and features in themselves (`test_labels`, `test_features`).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tsfm_pipeline.studies.direction import leakage
from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.features import features, sigma
from tsfm_pipeline.studies.direction.leakage import feature_leakage, shift_test, with_noise_after
from tsfm_pipeline.studies.direction.options import StudyOptions
from tsfm_pipeline.studies.direction.problem import Problem, Target
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline_tests.studies.direction.prices import sp500, walk

OPTIONS = StudyOptions()
Named = dict[str, Floats]


def test_nothing_looks_ahead_on_real_prices() -> None:
    bars = sp500().until(1500)
    bars = replace(bars, covariates={"vix": np.where(np.arange(1501) < 9, np.nan, bars.close)})
    assert feature_leakage(bars, OPTIONS, seed=0) == 0


def centred(bars: Bars) -> Named:
    """A mean of five days about its day."""
    mean = np.convolve(bars.close, np.ones(5) / 5, mode="same")
    return {"centred": mean}


def scaled_by_all(bars: Bars) -> Named:
    """A return by the standard deviation of all days."""
    return {"scaled": bars.returns / np.nanstd(bars.returns)}


def lagging(bars: Bars) -> Named:
    """A value that disappears when tomorrow is extreme."""
    tomorrow = np.concatenate([np.abs(bars.returns[1:]), [0.0]])
    return {"lagging": np.where(tomorrow > 0.3, np.nan, 1.0)}


@pytest.mark.parametrize("offender", [centred, scaled_by_all, lagging])
def test_a_feature_that_looks_ahead_is_found(
    offender: Callable[[Bars], Named], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leakage, "features", lambda bars: {**features(bars), **offender(bars)})
    assert feature_leakage(walk(400, seed=0), OPTIONS, seed=0) > 0.01


def test_a_volatility_that_looks_ahead_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "sigma", lambda bars: np.roll(sigma(bars), -1))
    assert feature_leakage(walk(400, seed=0), OPTIONS, seed=0) > 0.01


def test_the_noise_is_valid_bars_and_leaves_the_past_alone() -> None:
    bars = replace(walk(100, seed=0), covariates={"vix": np.full(100, np.nan)})
    noisy = with_noise_after(bars, 60, np.random.default_rng(0))
    for name in ("open", "high", "low", "close", "volume"):
        before, after = getattr(bars, name), getattr(noisy, name)
        np.testing.assert_array_equal(after[:61], before[:61])
        assert (after[61:] != before[61:]).all()
    assert (noisy.low > 0).all()
    assert (noisy.low <= np.minimum(noisy.open, noisy.close)).all()
    assert (noisy.high >= np.maximum(noisy.open, noisy.close)).all()
    assert np.isfinite(noisy.covariates["vix"][61:]).all()


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build_problem(sp500(), OPTIONS)


@pytest.mark.parametrize(
    "name",
    [
        *("atr_14", "realised_1", "realised_22", "parkinson_5", "ewma", "drawdown"),
        *("rsi_daily", "rsi_weekly", "sma_200", "last_return", "obv"),
    ],
)
def test_a_score_that_is_a_day_late_or_early_is_told_from_an_honest_one(
    problem: Problem, name: str
) -> None:
    label, folds = problem.labels[Target("touch_up", 1)], problem.folds[1]
    scores = problem.feature(name)
    honest, late, early = (
        shift_test(np.roll(scores, days), label, problem.bars, folds) for days in (0, 1, -1)
    )
    assert (honest.is_late, honest.is_early) == (False, False)
    assert (late.is_late, late.is_early) == (True, False)
    assert (early.is_late, early.is_early) == (False, True)
    assert late.auc == pytest.approx(honest.older_auc, abs=0.001)
    assert honest.n_days == 3522 - len(folds), "the first day of a fold has no older score"


def test_scores_that_react_to_nothing_are_neither_late_nor_early(problem: Problem) -> None:
    label, folds = problem.labels[Target("touch_up", 1)], problem.folds[1]
    n_days = len(problem.bars)
    constant = shift_test(np.ones(n_days), label, problem.bars, folds)
    assert constant[:5] == (0.5, 0.5, 0, 0, 0)
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(size=n_days)
        shift = shift_test(noise, label, problem.bars, folds)
        assert not shift.is_late
        assert not shift.is_early


def test_too_few_scores_are_refused(problem: Problem) -> None:
    scores = np.full(len(problem.bars), np.nan)
    with pytest.raises(ValueError, match="only 0 test days"):
        shift_test(scores, scores, problem.bars, problem.folds[1])
