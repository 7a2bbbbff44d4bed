"""Test that a policy is asked as its codec and grammar need it, with and without a draft."""

from dataclasses import replace

import numpy as np
import pytest

from tsfm_pipeline.studies.time_r1.asking import answer
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline_tests.studies.time_r1.thinking_setting import random_asker, wave_windows


def test_without_a_draft_the_policy_writes_its_own_reason_and_values() -> None:
    windows = wave_windows(3)
    answers = answer(random_asker(), windows, n=4)
    assert answers.values.shape == (3, 4, windows.horizon)
    assert answers.failures.tolist() == [0, 0, 0]
    assert answers.problems == {}
    # At least the four tags, a word and the numbers of each answer.
    assert (answers.tokens >= 4 * (5 + windows.horizon)).all()
    assert len(np.unique(answers.values[0], axis=0)) == 4
    assert answers.median.shape == windows.truth.shape
    assert (np.diff(answers.deciles, axis=-1) >= 0).all()


def test_a_greedy_answer_does_not_depend_on_the_seed() -> None:
    windows = wave_windows(2)
    one = answer(random_asker(), windows, greedy=True)
    other = answer(replace(random_asker(), seed=1), windows, greedy=True)
    np.testing.assert_array_equal(one.values, other.values)
    assert one.values.shape[1] == 1
    with pytest.raises(ValueError, match="2 greedy answers would all be the same"):
        answer(random_asker(), windows, n=2, greedy=True)


def test_a_forced_reason_costs_no_tokens() -> None:
    windows = wave_windows(2)
    draft = np.repeat(windows.past[:, -1:], windows.horizon, axis=1)
    answers = answer(random_asker(), windows, draft, ["level up 3"] * 2, n=2)
    assert answers.tokens.tolist() == [2 * (windows.horizon + 1)] * 2


def test_unreadable_answers_are_the_draft_or_the_mean() -> None:
    windows = wave_windows(2)
    draft = np.repeat(windows.past[:, -1:], windows.horizon, axis=1)
    free = random_asker(constrained=False)
    answers = answer(free, windows, draft, ["level up 3"] * 2, n=3)
    assert answers.failures.tolist() == [3, 3]
    assert sum(answers.problems.values()) == 6
    np.testing.assert_array_equal(answers.median, draft)
    undrafted = answer(free, windows, n=3)
    np.testing.assert_array_equal(undrafted.median, frames_of(windows).base)
