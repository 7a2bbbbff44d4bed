"""Test that probes read the right states, are fitted on training days alone, and refuse models
without states.
"""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.studies.direction.auc import auc
from tsfm_pipeline.studies.direction.problem import SCORE_SCHEMA, Problem
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.scorers.probes import probe_scores, window_states
from tsfm_pipeline.studies.direction.scorers.zero_shot import panel_of
from tsfm_pipeline_tests.studies.direction.forecasters import SHORT, bundled, of_normal_moves
from tsfm_pipeline_tests.studies.direction.prices import sp500


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build_problem(sp500()[1000:1900], SHORT)


@pytest.fixture(scope="module")
def scores(problem: Problem) -> pl.DataFrame:
    return probe_scores(problem, bundled())


def test_states_are_those_of_the_model_by_day(problem: Problem) -> None:
    bars = problem.bars[:300]
    states = window_states(bars, bundled(), "returns", 80)
    assert {name: values.shape for name, values in states.items()} == {
        "encoder_mean": (300, 256),
        "encoder_last": (300, 256),
        "all_hidden": (300, 7 * 256),
    }
    own = bundled().hidden_states(panel_of(bars.returns), [200], ForecastConfig(context_len=80))[
        0, 0
    ]
    np.testing.assert_array_equal(states["encoder_last"][200], own[-1, -1])
    np.testing.assert_array_equal(states["all_hidden"][200], own[:, -1].ravel())
    np.testing.assert_allclose(states["encoder_mean"][200], own[-1].mean(axis=0), atol=1e-5)
    assert np.isnan(states["all_hidden"][:80]).all()
    assert np.isfinite(states["all_hidden"][80:]).all()


@pytest.mark.heavy
def test_every_reading_has_a_score_with_and_without_volatility(
    problem: Problem, scores: pl.DataFrame
) -> None:
    assert scores.schema == SCORE_SCHEMA
    assert scores["scorer"].unique().sort().to_list() == sorted(
        f"probe_{representation}_80_{reading}{end}"
        for representation in ("returns", "log_close")
        for reading in ("encoder_mean", "encoder_last", "all_hidden")
        for end in ("", "_sigma")
    )
    [fold] = problem.folds[3]
    days = scores.filter(scorer="probe_returns_80_all_hidden", label="sign", horizon=3)["day"]
    assert days.to_list() == [*fold.validation, *fold.test]
    assert scores["probability"].is_between(0, 1).all()


@pytest.mark.heavy
def test_labels_of_validation_and_test_days_are_not_read(
    problem: Problem, scores: pl.DataFrame
) -> None:
    labels = {target: values.copy() for target, values in problem.labels.items()}
    for target, values in labels.items():
        for fold in problem.folds[target.horizon]:
            values[fold.train[-1] + 1 :] = 1 - values[fold.train[-1] + 1 :]
    assert probe_scores(replace(problem, labels=labels), bundled()).equals(scores)


@pytest.mark.heavy
def test_a_probe_that_is_given_sigma_sees_the_scale(problem: Problem, scores: pl.DataFrame) -> None:
    """A label of scale alone: whether volatility is above its median of the training days."""
    [fold] = problem.folds[1]
    loud = (problem.sigma > np.median(problem.sigma[fold.train])).astype(float)
    of_scale = replace(problem, labels=dict.fromkeys(problem.labels, loud))
    rows = probe_scores(of_scale, bundled()).filter(label="sign", horizon=1, part="test")
    found = {}
    for (name,), frame in rows.group_by("scorer"):
        days = frame["day"].to_numpy()
        found[name] = auc(frame["score"].to_numpy(), loud[days], np.zeros(len(days), np.int64))
    assert found["probe_returns_80_encoder_last_sigma"] > 0.95
    assert found["probe_returns_80_encoder_last"] < 0.9


def test_a_model_without_states_is_refused(problem: Problem) -> None:
    with pytest.raises(TypeError, match=r"a WindowForecaster shows no hidden states.*`probes` out"):
        probe_scores(problem, of_normal_moves())
