"""Test the own policy as a teacher of the slow-thinking study.

What belongs here: its answers as candidates. What does not: other teachers and the choice among
candidates (`test_r1_teacher`), and sampling itself (`test_r1_policy`).
"""

import numpy as np
import pytest

from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.drafts import make_drafts
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.grammar import word_grammar
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, new_policy
from tsfm_pipeline.studies.time_r1.policy import Sampling
from tsfm_pipeline.studies.time_r1.teacher import PolicyTeacher, teach
from tsfm_pipeline_tests.studies.time_r1.reflect_windows import daily


@pytest.mark.heavy
def test_a_policy_of_this_machine_answers_in_its_own_codec() -> None:
    windows = daily(n=2, past=200)
    drafts, codec = make_drafts(windows, None, ()), NumberCodec()
    policy = new_policy(1, OwnShape(hidden=32, layers=1, heads=2, key_value_heads=1))
    sampling = Sampling(seed=3, max_new_tokens=128)
    teacher = PolicyTeacher(policy, sampling, codec, "own", 2, word_grammar(24))
    joined, choice = teach(teacher, windows, drafts)
    assert set(choice.names) <= {"answer_1", "answer_2"}
    assert not choice.fell_back.any()
    assert np.isfinite(joined.values["answer_2"]).all()
    assert not np.array_equal(joined.values["answer_1"], joined.values["answer_2"])
    # Each number is one of the codec's grid, in deviations from the mean.
    frames = frames_of(windows)
    numbers = frames.scaled(joined.values["answer_1"])
    assert np.abs(numbers[..., None] - codec.values).min(axis=-1).max() < 1e-9
    again = teacher.candidates(windows, drafts)
    assert np.array_equal(again["answer_1"], joined.values["answer_1"])
    with pytest.raises(ValueError, match="n_answers is 0"):
        PolicyTeacher(policy, sampling, codec, "own", n_answers=0)


def test_what_a_policy_does_not_say_in_the_right_form_is_no_candidate() -> None:
    windows = daily(n=1, past=200)
    policy = new_policy(1, OwnShape(hidden=32, layers=1, heads=2, key_value_heads=1))
    teacher = PolicyTeacher(policy, Sampling(seed=3, max_new_tokens=4), NumberCodec(), "own", 1)
    candidates = teacher.candidates(windows, make_drafts(windows, None, ()))
    assert np.isnan(candidates["answer_1"]).all()
