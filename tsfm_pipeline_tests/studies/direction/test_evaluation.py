"""Test the evaluation of scorers on a small simulated market whose direction is planted."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from tsfm_pipeline.studies.direction.alignment import align
from tsfm_pipeline.studies.direction.evaluation import evaluate
from tsfm_pipeline.studies.direction.evaluation_columns import EVALUATED, EVALUATION_SCHEMA
from tsfm_pipeline.studies.direction.options import (
    LabelOptions,
    SplitOptions,
    StatisticsOptions,
    StudyOptions,
)
from tsfm_pipeline.studies.direction.problem import (
    TEST,
    VALIDATION,
    Problem,
    Target,
    score_rows,
    together,
)
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.references import PATCHTST, UNTRAINED, VOLATILITY
from tsfm_pipeline.studies.direction.simulation import simulate
from tsfm_pipeline.studies.direction.spec import SyntheticMarket

SIGN, UP, DOWN = Target("sign", 1), Target("touch_up", 1), Target("touch_down", 1)
SIGNAL, NOISE, INVERTED = f"{UNTRAINED}signal", f"{UNTRAINED}noise", "inverted"
NETWORK = f"{PATCHTST}_small"


@pytest.fixture(scope="module")
def problem() -> Problem:
    spec = SyntheticMarket(
        name="planted", title="planted", kind="synthetic", days=2400, correlation=0.3, seed=1
    )
    options = StudyOptions(
        labels=LabelOptions(horizons=(1,)),
        splits=SplitOptions(training_years=4),
        statistics=StatisticsOptions(draws=200),
    )
    return build_problem(simulate(spec), options)


@pytest.fixture(scope="module")
def scores(problem: Problem) -> pl.DataFrame:
    noise = np.random.default_rng(0).normal(size=len(problem.bars))
    volatility = problem.sigma
    by_name = {
        VOLATILITY: volatility,
        SIGNAL: problem.feature("signal"),
        NOISE: noise,
        INVERTED: -volatility,
        NETWORK: volatility + 0.2 * np.nanmean(volatility) * noise,
    }
    return together(
        [
            score_rows(name, target, fold, values)
            for name, values in by_name.items()
            for target in (SIGN, UP, DOWN)
            for fold in problem.folds[1]
        ]
    )


@pytest.fixture(scope="module")
def evaluated(problem: Problem, scores: pl.DataFrame) -> pl.DataFrame:
    return evaluate(problem, scores)


def row(evaluated: pl.DataFrame, scorer: str, target: Target) -> dict:
    return evaluated.row(
        by_predicate=(pl.col("scorer") == scorer) & (pl.col("label") == target.label), named=True
    )


@pytest.mark.heavy
def test_a_planted_direction_is_found_and_volatility_is_none(evaluated: pl.DataFrame) -> None:
    signal = row(evaluated, SIGNAL, SIGN)
    assert signal["auc_low"] > 0.5
    assert signal["survives_stepm"]
    assert signal["survives_log_loss"]
    assert signal["auc_given_move_low"] > 0.5
    assert signal["pesaran_timmermann_p"] < 0.01
    assert signal["pesaran_timmermann_bootstrap_p"] < 0.01
    assert signal["spa_p_value"] < 0.01
    assert signal["minus_volatility_low"] > 0
    volatility = row(evaluated, VOLATILITY, SIGN)
    assert volatility["auc_low"] < 0.5 < volatility["auc_high"]
    assert not volatility["survives_stepm"]
    assert volatility["minus_volatility"] == volatility["minus_volatility_high"] == 0
    assert volatility["n_variants"] == 5


@pytest.mark.heavy
def test_a_touch_is_about_volatility_unless_it_is_matched(evaluated: pl.DataFrame) -> None:
    volatility, signal = row(evaluated, VOLATILITY, UP), row(evaluated, SIGNAL, UP)
    assert volatility["auc_low"] > 0.5
    assert volatility["brier_skill"] > 0
    assert volatility["volatility_matched_auc"] < volatility["auc"]
    assert signal["volatility_matched_auc_low"] > 0.5
    assert signal["up_minus_down_low"] > 0
    assert row(evaluated, SIGNAL, DOWN)["up_minus_down_high"] < 0
    assert volatility["up_minus_down"] == 0
    # A high score for a fall that goes with rises is wrong about the direction.
    assert row(evaluated, SIGNAL, DOWN)["auc_given_move_high"] < 0.5


@pytest.mark.heavy
def test_an_inverted_score_is_reported_and_never_turned_over(evaluated: pl.DataFrame) -> None:
    inverted, volatility = row(evaluated, INVERTED, UP), row(evaluated, VOLATILITY, UP)
    assert inverted["auc"] == pytest.approx(1 - volatility["auc"])
    assert inverted["auc_high"] < 0.5
    # Its probability is the base rate, which never beats the base rate by much.
    assert abs(inverted["brier_skill"]) < 0.02
    assert not inverted["survives_stepm"]


@pytest.mark.heavy
def test_references_are_chosen_on_validation_days(
    problem: Problem, scores: pl.DataFrame, evaluated: pl.DataFrame
) -> None:
    assert row(evaluated, NETWORK, SIGN)["untrained"] == SIGNAL
    assert row(evaluated, SIGNAL, SIGN)["minus_untrained"] == 0
    assert row(evaluated, SIGNAL, SIGN)["patchtst"] == NETWORK
    assert row(evaluated, NETWORK, SIGN)["minus_patchtst"] == 0
    # A scorer that knows the test days' labels and nothing before is not chosen.
    label = problem.labels[SIGN]
    cheat = pl.col("scorer") == NOISE
    knowing = scores.filter(label="sign").with_columns(
        pl.when(cheat & (pl.col("part") == TEST))
        .then(pl.lit(pl.Series(label)).gather(pl.col("day")))
        .otherwise("score")
        .alias("score")
    )
    changed = evaluate(problem, knowing)
    assert row(changed, NOISE, SIGN)["auc"] > 0.9
    assert row(changed, NOISE, SIGN)["untrained"] == SIGNAL


@pytest.mark.heavy
def test_rows_have_the_declared_columns_and_the_figures_of_their_days(
    problem: Problem, evaluated: pl.DataFrame
) -> None:
    assert evaluated.schema == EVALUATION_SCHEMA
    assert all(column.meaning for column in EVALUATED)
    assert evaluated.select("scorer", "label", "horizon").is_duplicated().sum() == 0
    days = np.concatenate([fold.test for fold in problem.folds[1]])
    labels = problem.labels[UP][days]
    volatility = row(evaluated, VOLATILITY, UP)
    assert volatility["n_days"] == len(days)
    assert volatility["n_positives"] == labels.sum()
    assert volatility["base_rate"] == pytest.approx(labels.mean())
    areas, pairs = [], []
    for fold in problem.folds[1]:
        y = problem.labels[UP][fold.test]
        areas.append(roc_auc_score(y, problem.sigma[fold.test]))
        pairs.append(y.sum() * (1 - y).sum())
    assert volatility["auc"] == pytest.approx(np.average(areas, weights=pairs))
    for name in ("auc", "auc_given_move", "volatility_matched_auc", "minus_untrained"):
        assert volatility[f"{name}_low"] <= volatility[name] <= volatility[f"{name}_high"]


@pytest.mark.heavy
def test_an_evaluation_is_the_same_twice_and_in_any_order(
    problem: Problem, scores: pl.DataFrame, evaluated: pl.DataFrame
) -> None:
    assert evaluate(problem, scores.sample(fraction=1, shuffle=True, seed=0)).equals(evaluated)


def test_a_scorer_without_some_days_is_dropped_from_or_named(
    problem: Problem, scores: pl.DataFrame
) -> None:
    test = problem.folds[1][0].test
    few = scores.filter(~((pl.col("scorer") == NOISE) & pl.col("day").is_in(test[:10].tolist())))
    aligned = align(problem, few, UP)
    assert aligned.test.n_dropped == 10
    assert not np.isin(test[:10], aligned.test.days).any()
    assert aligned.test.scores.shape == (5, len(aligned.test.days))
    lost = (pl.col("part") == TEST) & pl.col("day").is_in(test.tolist())
    many = scores.filter(~((pl.col("scorer") == NOISE) & lost))
    with pytest.raises(ValueError, match=rf"{NOISE} lacks the most \({len(test)}\)"):
        align(problem, many, UP)


def test_scores_of_wrong_days_are_refused(problem: Problem, scores: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="more than one score for day"):
        align(problem, pl.concat([scores, scores[:1]]), SIGN)
    train = int(problem.folds[1][0].train[0])
    strange = scores[:1].with_columns(day=pl.lit(train, pl.Int32))
    with pytest.raises(ValueError, match=f"day {train} on {VALIDATION} days of sign"):
        align(problem, pl.concat([scores, strange]), SIGN)
    with pytest.raises(ValueError, match="no scorer has a score for close_up"):
        align(problem, scores, Target("close_up", 1))
    with pytest.raises(ValueError, match=f"{VOLATILITY} has no score for touch_up"):
        evaluate(problem, scores.filter(pl.col("scorer") != VOLATILITY))
