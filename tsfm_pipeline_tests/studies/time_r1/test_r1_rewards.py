"""Test the rewards: the truth is best, tricks do not pay, and no reward leaves [-1, 1]."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tsfm_pipeline.studies.time_r1.options import RewardOptions
from tsfm_pipeline.studies.time_r1.rewards import FAILED, Rewards, rewards, variance_shares
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows
from tsfm_pipeline_tests.studies.time_r1.r1_windows import DAY, drawn_windows, ett_windows

OPTIONS = RewardOptions()


def score(answers: Floats, windows: Windows) -> Floats:
    return rewards(list(answers), windows, OPTIONS).total


def seasonal_naive(windows: Windows) -> Floats:
    days = -(-windows.horizon // DAY)
    return np.tile(windows.history[:, -DAY:], days)[:, : windows.horizon]


def smooth_mean(windows: Windows) -> Floats:
    """The four-day mean after a moving average of nine steps."""
    mean = windows.history.reshape(len(windows), -1, DAY).mean(1)
    padded = np.concatenate([mean[:, -4:], mean, mean[:, :4]], axis=1)
    return np.lib.stride_tricks.sliding_window_view(padded, 9, axis=1).mean(-1)


def zigzag(windows: Windows) -> Floats:
    """Plus and minus one deviation of the look-back, in turn."""
    return windows.history.std(1, keepdims=True) * (-1.0) ** np.arange(windows.horizon)


def test_the_truth_has_the_reward_1_and_every_other_answer_less() -> None:
    windows = ett_windows(50)
    turning = rewards(list(windows.truth), windows, OPTIONS).terms["change_points"] > 0
    assert turning.mean() > 0.7
    assert score(windows.truth, windows) == pytest.approx(np.where(turning, 1.0, 0.8))
    rng = np.random.default_rng(1)
    near = windows.truth + 1e-3 * rng.normal(size=windows.truth.shape)
    assert (score(near, windows) < score(windows.truth, windows)).all()
    longer = np.concatenate([windows.truth, windows.truth[:, -1:]], axis=1)
    assert (score(longer, windows) < 0.1).all()


@pytest.mark.parametrize("horizon", [24, 96])
def test_tricks_score_below_seasonal_naive(horizon: int) -> None:
    windows = ett_windows(150, horizon)
    naive = score(seasonal_naive(windows), windows).mean()
    flat = np.repeat(windows.history.mean(1, keepdims=True), horizon, axis=1)
    spike = seasonal_naive(windows)
    spike[:, 3] = 1e6
    first_rows = windows.history[:, :horizon]
    tricks = {
        "flat": flat,
        "last": np.repeat(windows.history[:, -1:], horizon, axis=1),
        "zigzag": flat + zigzag(windows),
        "small zigzag": flat + 1e-3 * zigzag(windows),
        "copy": first_rows,
    }
    assert {
        name: score(a, windows).mean()
        for name, a in tricks.items()
        if score(a, windows).mean() >= naive
    } == {}
    assert (score(spike, windows) == FAILED).all()


@pytest.mark.parametrize("size", [0.05, 0.1, 0.2, 0.4, 0.8])
def test_a_zigzag_on_top_of_a_smooth_forecast_does_not_pay(size: float) -> None:
    windows = ett_windows(400)
    smooth = smooth_mean(windows)
    with_zigzag = score(smooth + size * zigzag(windows), windows)
    # It gains .05 where every strict extremum counts as a turning point.
    assert with_zigzag.mean() < score(smooth, windows).mean() + 0.005


def test_a_spike_of_ten_ranges_costs_more_than_it_gains() -> None:
    windows = ett_windows(50)
    naive, spiked = seasonal_naive(windows), seasonal_naive(windows)
    spiked[:, 3] += 9 * np.ptp(windows.history, axis=1)
    assert score(spiked, windows).mean() < score(naive, windows).mean() - 0.2


@pytest.mark.parametrize("sharpness", [0.3, 2.0])
def test_more_noise_scores_less(sharpness: float) -> None:
    windows = ett_windows(100)
    noise = np.random.default_rng(2).normal(size=windows.truth.shape)
    noise *= windows.history.std(1, keepdims=True)
    options = RewardOptions(sharpness=sharpness)
    sizes = (0, 0.1, 0.3, 1, 2)
    got = [rewards(list(windows.truth + size * noise), windows, options) for size in sizes]
    assert np.diff([each.total.mean() for each in got]).max() < -0.02
    for name in ("error", "season", "trend"):
        assert np.diff([each.terms[name].mean() for each in got]).max() < 0, name


def test_an_offset_costs_the_trend_and_a_wave_of_the_season_costs_the_season() -> None:
    windows = ett_windows(20)
    size = windows.history.std(1, keepdims=True)
    wave = size * np.sin(2 * np.pi * np.arange(24) / 6)
    exact, offset, waving = (
        rewards(list(windows.truth + error), windows, OPTIONS).terms for error in (0.0, size, wave)
    )
    assert offset["season"] == pytest.approx(exact["season"])
    assert (offset["trend"] < 0.5 * exact["trend"]).all()
    assert (waving["season"] < 0.8 * exact["season"]).all()
    assert (waving["trend"] > 0.95 * exact["trend"]).all()


@settings(max_examples=25)
@given(shift=st.floats(-1e3, 1e3), scale=st.floats(1e-2, 1e2), seed=st.integers(0, 9))
def test_units_do_not_matter(shift: float, scale: float, seed: int) -> None:
    windows = drawn_windows(3, seed=seed)
    answers = windows.truth + np.random.default_rng(seed).normal(size=(3, 8))
    moved = replace(windows, past=windows.past * scale + shift, truth=windows.truth * scale + shift)
    assert score(answers * scale + shift, moved) == pytest.approx(score(answers, windows), abs=1e-6)


number = st.one_of(st.floats(), st.floats(0, 10))
anything = st.lists(number, max_size=12).map(np.array)


@settings(max_examples=60)
@given(answers=st.lists(st.one_of(st.none(), anything), min_size=6, max_size=6), data=st.data())
def test_no_reward_leaves_its_bounds_and_terms_add_up(
    answers: list[Floats | None], data: st.DataObject
) -> None:
    windows = drawn_windows(2, seed=data.draw(st.integers(0, 3)))
    got = rewards(answers, windows, OPTIONS)
    assert np.isfinite(got.total).all()
    assert (got.total >= -1).all()
    assert (got.total <= 1 + 1e-12).all()
    assert sum(got.terms.values()) == pytest.approx(got.total)
    assert all((np.abs(term) <= 1).all() for term in got.terms.values())


def test_ten_thousand_drawn_answers_stay_within_the_bounds() -> None:
    windows = drawn_windows(10)
    rng = np.random.default_rng(3)
    sizes = 10.0 ** rng.uniform(-3, 3, size=(10_000, 1))
    got = score(5 + sizes * rng.normal(size=(10_000, 8)), windows)
    assert got.min() == FAILED
    assert FAILED < np.median(got) < got.max() <= 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, -1.0),
        (np.array([]), -1.0),
        (np.full(8, np.nan), -1.0),
        (np.append(np.zeros(7), np.inf), -1.0),
        (np.append(np.zeros(7), 1e6), -1.0),
        (np.full(4, 5.0), 0.05),
        (np.full(16, 5.0), 0.05),
    ],
)
def test_answers_of_other_forms_have_a_fixed_reward(answer: Floats | None, expected: float) -> None:
    assert rewards([answer], drawn_windows(1), OPTIONS).total == pytest.approx([expected])


def test_a_flat_answer_has_no_turning_points_and_a_shifted_one_matches_within_the_tolerance() -> (
    None
):
    steps = np.arange(24)
    wave = np.sin(2 * np.pi * steps / 6)
    windows = Windows(
        "wave", "1 hour", 6, ("a",), np.array([23]), wave[None], wave[None].copy(), 24
    )

    def turning(answer: Floats, tolerance: int) -> float:
        options = RewardOptions(tolerance=tolerance)
        return float(rewards([answer], windows, options).terms["change_points"][0])

    assert turning(np.zeros(24), 1) == 0
    assert turning(wave, 0) == pytest.approx(0.2)
    shifted = np.sin(2 * np.pi * (steps - 1) / 6)
    assert turning(shifted, 0) < 0.05
    assert turning(shifted, 1) > 0.18


def test_a_constant_look_back_gives_finite_rewards_and_the_truth_the_best() -> None:
    for level in (0.0, 7.0):
        past, truth = np.full((1, 32), level), level + np.arange(8.0)[None]
        windows = Windows("flat", "1 hour", 8, ("a",), np.array([31]), past, truth, 32)
        best, other = rewards([truth[0], truth[0] + 1], windows, OPTIONS).total
        assert best == pytest.approx(0.8)
        assert 0.1 < other < 0.4


def test_each_answer_is_judged_by_its_own_window() -> None:
    windows = drawn_windows(4)
    rng = np.random.default_rng(0)
    answers = np.repeat(windows.truth, 3, axis=0) + 0.5 * rng.normal(size=(12, 8))
    together = score(answers, windows)
    alone = [score(answers[i : i + 1], windows.at([i // 3]))[0] for i in range(12)]
    assert together == pytest.approx(alone)


def test_gaps_in_the_truth_and_numbers_that_do_not_fit_are_refused() -> None:
    windows = drawn_windows(2)
    windows.truth[1, 3] = np.nan
    with pytest.raises(ValueError, match=r"windows \[1\] have gaps"):
        rewards([None, None], windows, OPTIONS)
    with pytest.raises(ValueError, match="3 answers to 2 windows"):
        rewards([None] * 3, drawn_windows(2), OPTIONS)
    with pytest.raises(ValidationError, match=r"add up to 1.5"):
        RewardOptions(error=1.0)


def test_shares_of_the_variance_add_up_and_name_the_term_that_varies() -> None:
    varying = np.array([0.0, 1.0, 2.0, 3.0])
    got = variance_shares(Rewards(varying + 1, {"error": varying, "length": np.ones(4)}), group=2)
    assert got == {"error": pytest.approx(1.0), "length": pytest.approx(0.0)}
    # All of the spread lies between the groups.
    between = Rewards(np.array([0.0, 0, 1, 1]), {"error": np.array([0.0, 0, 1, 1])})
    assert variance_shares(between, group=2) == {"error": 0.0}
    windows = drawn_windows(3)
    answers = np.repeat(windows.truth, 4, axis=0) + np.random.default_rng(0).normal(size=(12, 8))
    shares = variance_shares(rewards(list(answers), windows, OPTIONS), group=4)
    assert sum(shares.values()) == pytest.approx(1.0)
