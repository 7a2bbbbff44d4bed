"""Test the scorers that are no network, on real prices.

What belongs here: which days are scored, that nothing looks ahead, agreement of the GARCH models
with arch's own forecasts, and the figures the protocol expects. What does not: networks.
"""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from arch.univariate import GARCH, ConstantMean, StudentsT
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.leakage import with_noise_after
from tsfm_pipeline.studies.direction.options import SplitOptions, StudyOptions
from tsfm_pipeline.studies.direction.problem import (
    SCORE_SCHEMA,
    Fold,
    Problem,
    Scorer,
    Target,
    targets,
)
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.references import UNTRAINED, VOLATILITY
from tsfm_pipeline.studies.direction.scorers.base import base_scores
from tsfm_pipeline.studies.direction.scorers.indicators import indicators
from tsfm_pipeline.studies.direction.scorers.logistic import fitted_logits, probabilities_of
from tsfm_pipeline.studies.direction.scorers.untrained import untrained
from tsfm_pipeline.studies.direction.scorers.volatility import (
    MODELS,
    filtered_variance,
    total_variance,
    volatility,
)
from tsfm_pipeline_tests.studies.direction.prices import sp500

TOUCH, SIGN = Target("touch_up", 1), Target("sign", 1)
SHORT = StudyOptions(splits=SplitOptions(training_years=2, last_years=1))


@pytest.fixture(scope="module")
def short() -> Problem:
    """One test year after four years of real prices, with a covariate."""
    return build_problem(_with_covariate(sp500()[:1260]), SHORT)


def _with_covariate(bars: Bars) -> Bars:
    return replace(bars, covariates={"vix": np.abs(bars.high - bars.low)})


def _all_scorers(problem: Problem) -> list[Scorer]:
    return [*untrained(problem), *volatility(problem), *indicators(problem)]


def _auc(scores: pl.DataFrame, problem: Problem, target: Target, folds: list[int]) -> float:
    """The AUC of the test days of all `folds` together."""
    test = scores.filter(pl.col("part") == "test", pl.col("fold").is_in(folds))
    labels = problem.labels[target][test["day"].to_numpy()]
    return float(roc_auc_score(labels, test["score"].to_numpy()))


@pytest.mark.heavy
def test_every_scorer_scores_every_validation_and_test_day_once(short: Problem) -> None:
    scores = base_scores(short)
    assert scores.schema == SCORE_SCHEMA
    names = scores["scorer"].unique(maintain_order=True).to_list()
    assert names == [
        *("untrained_rsi", "untrained_last_return", "untrained_drawdown", "untrained_ewma"),
        *("untrained_atr", "untrained_volume", "untrained_vix", VOLATILITY, "garch", "egarch"),
        *("indicator_logit", "all_logit", "boosted"),
    ]
    wanted = [
        (name, target.label, target.horizon, fold.year, part, int(day))
        for name in names
        for target in targets(short.options)
        for fold in short.folds[target.horizon]
        for part, days in (("validation", fold.validation), ("test", fold.test))
        for day in days
    ]
    assert scores.select(pl.exclude("score", "probability")).rows() == wanted
    assert scores["score"].is_finite().all()
    without = scores["scorer"].str.starts_with(UNTRAINED)
    assert scores.filter(without)["probability"].is_null().all()
    assert scores.filter(~without)["probability"].is_between(0, 1, closed="none").all()


@pytest.mark.heavy
def test_no_score_depends_on_later_days(short: Problem) -> None:
    """Neither on prices after a day nor on the labels of days that are scored."""
    fold = short.folds[1][0]
    day = int(fold.test[60])
    noisy = with_noise_after(short.bars, day, np.random.default_rng(0))
    # The noise's own usable days do not matter: the folds are those of the true prices.
    other = replace(build_problem(noisy, SHORT), folds=short.folds)
    true, changed = (
        pl.concat([scorer.score(problem, TOUCH) for scorer in _all_scorers(problem)])
        for problem in (short, other)
    )
    early = pl.col("day") <= day
    assert true.filter(early).equals(changed.filter(early))
    assert not true.filter(~early).equals(changed.filter(~early))


@pytest.mark.heavy
def test_the_variance_of_five_days_is_what_arch_forecasts(short: Problem) -> None:
    returns = short.bars.returns
    last = len(returns) - 1
    parameters, variance = filtered_variance(returns, last, GARCH(p=1, o=1, q=1))
    fit = ConstantMean(
        100 * returns[1:], volatility=GARCH(p=1, o=1, q=1), distribution=StudentsT()
    ).fit(disp="off")
    # The first variance is that of residuals from the plain mean there, from the fitted mean here.
    settled = slice(200, None)
    theirs = fit.conditional_volatility**2
    np.testing.assert_allclose(variance[:-1][settled], theirs[settled], rtol=1e-6)
    expected = fit.forecast(horizon=5).variance.to_numpy()[-1]
    assert variance[-1] == pytest.approx(expected[0])
    five = total_variance(parameters[1:-1], variance, 5, MODELS[0])
    assert five[-1] == pytest.approx(expected.sum())


def test_training_days_of_one_class_give_one_probability() -> None:
    train, asked = np.arange(8.0)[:, None], np.arange(3.0)[:, None]
    logits = fitted_logits(train, np.zeros(8), asked)
    np.testing.assert_allclose(probabilities_of(logits), 0.1)


def test_a_covariate_may_not_take_the_name_of_a_scorer(short: Problem) -> None:
    bars = replace(short.bars, covariates={"rsi": short.bars.close})
    with pytest.raises(ValueError, match="untrained_rsi, as another one"):
        untrained(replace(short, bars=bars))


def test_a_fold_without_days_has_no_rows(short: Problem) -> None:
    nothing: NDArray[np.int64] = np.array([], dtype=np.int64)
    empty = replace(short, folds={1: (Fold(2003, nothing, nothing, nothing),)})
    assert untrained(empty)[0].score(empty, TOUCH).is_empty()


@pytest.mark.heavy
def test_the_s_and_p_500_scores_as_the_protocol_expects() -> None:
    """B4, over all test days together as the bar was measured: within a year, volatility differs
    less, and the AUC of everything that reads it is lower.
    """
    options = StudyOptions()
    problem = build_problem(
        sp500(),
        options.model_copy(update={"labels": options.labels.model_copy(update={"horizons": (1,)})}),
    )
    folds = [fold.year for fold in problem.folds[1]]
    assert folds[0] == 2005
    logit = next(s for s in volatility(problem) if s.name == VOLATILITY)
    reversal = next(s for s in untrained(problem) if s.name == "untrained_last_return")
    boosted = next(s for s in indicators(problem) if s.name == "boosted")
    plain = _auc(logit.score(problem, TOUCH), problem, TOUCH, folds)
    assert 0.76 <= plain <= 0.81
    assert 0.52 <= _auc(reversal.score(problem, SIGN), problem, SIGN, folds) <= 0.55
    assert -0.01 <= _auc(boosted.score(problem, TOUCH), problem, TOUCH, folds) - plain <= 0.03
