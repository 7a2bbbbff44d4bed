"""Test readings of forecasts against normal distributions, whose answers are known."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.studies.direction.options import LabelName, StudyOptions
from tsfm_pipeline.studies.direction.problem import Problem, Target
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.readings import (
    Paths,
    barrier,
    mean,
    probability,
    probability_above,
    reading_scores,
    spread,
)
from tsfm_pipeline_tests.studies.direction.prices import sp500

LEVELS = np.array(DECILES)


@pytest.fixture(scope="module")
def problem() -> Problem:
    bars = sp500().until(2200)
    return build_problem(bars, StudyOptions())


def normal_paths(problem: Problem, drift: float, sigma: float) -> Paths:
    """Moves of a walk with independent normal steps, as a model of daily returns states them."""
    step = np.concatenate([[drift], norm.ppf(LEVELS, drift, sigma)])
    return Paths.of_daily_returns(np.tile(step, (len(problem.bars), 5, 1)))


def test_the_probability_is_that_of_the_normal_distribution_between_and_beyond_deciles() -> None:
    moves = np.linspace(-0.08, 0.08, 41)
    deciles = np.tile(norm.ppf(LEVELS, 0.001, 0.012), (41, 1))
    np.testing.assert_allclose(probability_above(deciles, moves), norm.sf(moves, 0.001, 0.012))


def test_the_probability_falls_with_the_move_whatever_the_deciles() -> None:
    rng = np.random.default_rng(0)
    deciles = np.sort(rng.normal(size=(200, 9)).round(1), axis=1)  # with ties
    moves = np.sort(rng.normal(scale=2, size=(50, 200)), axis=0)
    found = probability_above(np.broadcast_to(deciles, (50, 200, 9)), moves)
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=0) <= 0).all()
    constant = np.zeros((2, 9))
    np.testing.assert_array_equal(probability_above(constant, np.array([0.01, -0.01])), [0, 1])


def test_a_path_of_independent_normal_days_is_the_walk_of_their_sum(problem: Problem) -> None:
    paths = normal_paths(problem, 0.001, 0.01)
    for h in (1, 5):
        np.testing.assert_allclose(paths.mean[:, h - 1], 0.001 * h)
        expected = norm.ppf(LEVELS, 0.001 * h, 0.01 * np.sqrt(h))
        np.testing.assert_allclose(paths.deciles[0, h - 1], expected)


def test_barriers_are_the_labels_thresholds_as_log_returns(problem: Problem) -> None:
    day, sigma = 1000, problem.sigma[1000]
    expected: dict[LabelName, float] = {
        "touch_up": np.log(1.01),
        "touch_down": -np.log(0.99),
        "touch_up_scaled": np.log(1 + sigma / 2),
        "touch_down_scaled": -np.log(1 - sigma / 2),
        "close_up": np.log(1.01),
        "sign": 0.0,
    }
    for label, distance in expected.items():
        assert barrier(problem, Target(label, 1))[day] == pytest.approx(distance)
    assert barrier(problem, Target("touch_up_scaled", 5))[day] == pytest.approx(
        np.log(1 + sigma / 2 * np.sqrt(5))
    )


def test_each_label_has_its_own_probability(problem: Problem) -> None:
    paths, day = normal_paths(problem, 0.001, 0.01), 1000

    def of(label: LabelName, horizon: int) -> float:
        return float(probability(paths, problem, Target(label, horizon))[day])

    assert of("sign", 1) == pytest.approx(norm.sf(0, 0.001, 0.01))
    assert of("close_up", 5) == pytest.approx(norm.sf(np.log(1.01), 0.005, 0.01 * np.sqrt(5)))
    assert of("touch_up", 1) == pytest.approx(norm.sf(np.log(1.01), 0.001, 0.01))
    assert of("touch_down", 1) == pytest.approx(norm.cdf(np.log(0.99), 0.001, 0.01))
    falling = normal_paths(problem, -0.03, 0.001)  # beyond the barrier at once, and for good
    rising_first = Paths(falling.mean[:, ::-1], falling.deciles[:, ::-1])
    of_both = [probability(p, problem, Target("touch_down", 5)) for p in (falling, rising_first)]
    np.testing.assert_allclose(of_both[0], of_both[1])


@pytest.mark.parametrize("read", [mean, spread, probability])
def test_a_mirrored_forecast_says_of_falls_what_the_forecast_says_of_rises(
    problem: Problem, read: Callable[..., np.ndarray]
) -> None:
    paths = normal_paths(problem, 0.002, 0.01)
    mirrored = Paths(-paths.mean, -paths.deciles[..., ::-1])
    up = read(paths, problem, Target("touch_up", 5))
    down = read(mirrored, problem, Target("touch_down", 5))
    np.testing.assert_allclose(up, down, rtol=0.05)  # log(1.01) is not quite -log(0.99)


def test_a_probability_is_stated_only_of_labels_that_ask_for_a_close(problem: Problem) -> None:
    paths = normal_paths(problem, 0.0, 0.01)
    rows = [reading_scores("x", paths, problem, Target(label, 1)) for label in ("sign", "touch_up")]
    stated, not_stated = (frame.filter(scorer="x_probability") for frame in rows)
    assert stated["probability"].equals(stated["score"].alias("probability"))
    assert not_stated["probability"].is_null().all()
    assert rows[0].filter(scorer="x_mean")["probability"].is_null().all()
