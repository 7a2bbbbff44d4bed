"""Test that zero-shot forecasts are the model's own, look at nothing later, and are read rightly."""

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.studies.direction.auc import auc
from tsfm_pipeline.studies.direction.leakage import with_noise_after
from tsfm_pipeline.studies.direction.options import StudyOptions
from tsfm_pipeline.studies.direction.problem import SCORE_SCHEMA, Problem, Target
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.readings import READINGS
from tsfm_pipeline.studies.direction.scorers.zero_shot import (
    DECILE_COLUMNS,
    FORECAST_SCHEMA,
    REPRESENTATIONS,
    market_paths,
    panel_of,
    zero_shot_forecasts,
    zero_shot_scores,
)
from tsfm_pipeline_tests.studies.direction.forecasters import SHORT, bundled, of_normal_moves
from tsfm_pipeline_tests.studies.direction.prices import sp500


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build_problem(sp500()[1000:1900], SHORT)


@pytest.fixture(scope="module")
def forecasts(problem: Problem) -> pl.DataFrame:
    return zero_shot_forecasts(problem, bundled())


def test_a_step_is_the_models_own_forecast(problem: Problem, forecasts: pl.DataFrame) -> None:
    day, bars = 500, problem.bars
    panels = {
        "returns": panel_of(bars.returns),
        "log_close": panel_of(np.log(bars.close)),
        "close": panel_of(bars.close),
    }
    for representation, panel in panels.items():
        own = bundled().forecast_grid(panel, [day], [ForecastConfig(context_len=80)], 1)[0, 0, 0, 0]
        expected = {
            "returns": own,
            "log_close": own - np.log(bars.close[day]),
            "close": np.log(own / bars.close[day]),
        }[representation]
        [row] = forecasts.filter(representation=representation, day=day, step=1).rows(named=True)
        found = [row["mean"], *(row[name] for name in DECILE_COLUMNS)]
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_every_day_with_a_whole_context_has_all_steps(
    problem: Problem, forecasts: pl.DataFrame
) -> None:
    assert forecasts.schema == FORECAST_SCHEMA
    counts = forecasts.group_by("representation").agg(pl.col("day").min(), pl.len())
    n_days = len(problem.bars)
    assert dict(counts.select("representation", "day").rows()) == {
        "returns": 80,  # the first day has no return
        "log_close": 79,
        "close": 79,
    }
    assert dict(counts.select("representation", "len").rows())["close"] == 3 * (n_days - 79)
    deciles = forecasts.select(DECILE_COLUMNS).to_numpy()
    assert (np.diff(deciles, axis=1) >= 0).all()


def test_no_forecast_knows_a_later_day() -> None:
    bars, day = sp500()[1000:1300], 200
    noisy = with_noise_after(bars, day, np.random.default_rng(0))
    for representation in REPRESENTATIONS:
        [expected], [found] = (
            market_paths(some, bundled(), representation, (80,), 3) for some in (bars, noisy)
        )
        np.testing.assert_array_equal(found.deciles[: day + 1], expected.deciles[: day + 1])
        assert np.abs(found.mean[day + 1] - expected.mean[day + 1]).max() > 0


def test_scores_are_arithmetic_on_the_table_of_any_forecaster(problem: Problem) -> None:
    forecasts = zero_shot_forecasts(problem, of_normal_moves())
    scores = zero_shot_scores(problem, forecasts)
    assert scores.schema == SCORE_SCHEMA
    assert scores["scorer"].unique().sort().to_list() == sorted(
        f"zero_shot_{representation}_80_{reading}"
        for representation in REPRESENTATIONS
        for reading in READINGS
    )
    [fold] = problem.folds[1]
    one = scores.filter(scorer="zero_shot_returns_80_mean", label="sign", horizon=1)
    assert one["day"].to_list() == [*fold.validation, *fold.test]
    day = int(fold.test[3])
    expected = problem.bars.returns[day - 79 : day + 1].mean()
    assert one.filter(day=day)["score"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.heavy
def test_the_mean_is_the_wrong_reading_of_a_touch_and_the_spread_the_right_one() -> None:
    """B5: over all test days, the mean scores below .45 and the spread above .70. Within years both
    are closer to .5, because the level of volatility differs mostly between years."""
    problem = build_problem(sp500(), StudyOptions())
    [paths] = market_paths(problem.bars, bundled(), "returns", (80,), 1)
    target = Target("touch_up", 1)
    days = np.concatenate([fold.test for fold in problem.folds[1]])
    labels, years = problem.labels[target][days], problem.bars.years[days]
    pooled, within = (
        {
            name: auc(READINGS[name](paths, problem, target)[days], labels, strata)
            for name in ("mean", "spread")
        }
        for strata in (np.zeros_like(years), years)
    )
    assert pooled["mean"] < 0.45
    assert pooled["spread"] > 0.70
    assert within["mean"] < 0.45
    assert within["spread"] > 0.60
