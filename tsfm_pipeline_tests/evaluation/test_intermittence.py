"""Test which series are intermittent: those that are idle at most steps of the very blocks in which
they are busy.
"""

import numpy as np
import pytest

from tsfm_pipeline.evaluation.intermittence import CUT_OFF, MIN_BUSY_STEPS, demand_intervals

HORIZON, N_STEPS = 12, 12 * 200
STEPS = np.arange(N_STEPS)
RNG = np.random.default_rng(0)
CRON = np.where(STEPS % 12 == 0, 600.0, 0.0)


def interval(series: np.ndarray, end: int = N_STEPS) -> float:
    (found,) = demand_intervals(series[None].astype(np.float32), np.array([end]), HORIZON)
    return float(found)


@pytest.mark.parametrize(("every", "idle"), [(12, 0.0), (6, 0.0), (4, 50.0), (2, -3.0)])
def test_a_job_that_runs_one_step_in_so_many_has_that_interval(every: int, idle: float) -> None:
    assert interval(np.where(STEPS % every == 0, 600.0, idle)) == pytest.approx(every)


def test_a_job_that_runs_once_a_day_is_as_intermittent_as_its_busy_blocks() -> None:
    assert interval(np.where(STEPS % 180 == 7, 600.0, 0.0)) == pytest.approx(12)


def test_noise_and_sizes_that_differ_change_little() -> None:
    noisy = CRON * RNG.lognormal(sigma=0.5, size=N_STEPS) + RNG.exponential(1.0, N_STEPS)
    assert interval(noisy) == pytest.approx(12, rel=0.2)


@pytest.mark.parametrize(
    "series",
    {
        "a daily cycle": 1 + np.sin(2 * np.pi * STEPS / 288),
        "office hours": np.where(STEPS % 288 < 100, 5.0, 0.0) + RNG.exponential(0.1, N_STEPS),
        "on and off for hours": np.where(STEPS // 48 % 2, 80.0, 0.0),
        "heavy tails": RNG.lognormal(sigma=1.0, size=N_STEPS),
        "noise": 50 + RNG.normal(size=N_STEPS),
        "constant": np.full(N_STEPS, 3.0),
        "zeros": np.zeros(N_STEPS),
        "growth": STEPS.astype(float),
        "one spike": np.where(STEPS == 77, 1e6, 1 + RNG.random(N_STEPS)),
        "nothing": np.full(N_STEPS, np.nan),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_busy_for_whole_blocks_or_always_is_not(series: tuple[str, np.ndarray]) -> None:
    assert np.isnan(interval(series[1]))


def test_only_what_came_before_the_end_counts() -> None:
    later = np.where(STEPS < 1200, CRON, 600.0)
    assert interval(later, 1200) == pytest.approx(12)
    assert np.isnan(interval(np.where(STEPS < 1200, 0.0, CRON), 1200))
    assert np.isnan(interval(CRON, HORIZON - 1)), "less than a block says nothing"


def test_missing_steps_count_neither_as_busy_nor_as_idle() -> None:
    holed = CRON.copy()
    holed[STEPS % 3 == 1] = np.nan
    assert interval(holed) == pytest.approx(8)


def test_single_busy_steps_make_no_interval() -> None:
    few = np.zeros(N_STEPS)
    few[:: N_STEPS // (MIN_BUSY_STEPS - 1) + 1] = 600.0
    assert np.isnan(interval(few))
    many = np.zeros(N_STEPS)
    many[:: N_STEPS // (MIN_BUSY_STEPS + 1)] = 600.0
    assert interval(many) > CUT_OFF
