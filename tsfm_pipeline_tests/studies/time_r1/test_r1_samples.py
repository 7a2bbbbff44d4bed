"""Test the samples of supervised training: what a prompt, a reason and an answer depend on.

What belongs here: the trap that a reason or a prompt tells the truth, and the two kinds of answers.
What does not: candidates and their choice (`test_r1_teacher`), prompts by themselves.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest

from tsfm_pipeline.studies.time_r1.answers import parse, read
from tsfm_pipeline.studies.time_r1.codecs import Codec, NumberCodec, TextCodec
from tsfm_pipeline.studies.time_r1.drafts import (
    SEASONAL_NAIVE,
    SEASONS_MEAN,
    Drafts,
    best_by_backtest,
    make_drafts,
)
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.own_policy import DISTANCES
from tsfm_pipeline.studies.time_r1.samples import Samples, make_samples
from tsfm_pipeline.studies.time_r1.teacher import GridTeacher
from tsfm_pipeline.studies.time_r1.vocabulary import WORDS
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows
from tsfm_pipeline_tests.studies.time_r1.reflect_windows import daily, with_other_truth

CODECS: dict[str, Codec] = {"own": NumberCodec(), "hub": TextCodec()}


def made(
    windows: Windows,
    template: str = "own",
    *,
    with_draft: bool = True,
    answer: Literal["candidate", "truth"] = "candidate",
) -> Samples:
    drafts, codec = make_drafts(windows, None, ()), CODECS[template]
    return make_samples(
        windows, drafts, GridTeacher(), codec, template, with_draft=with_draft, answer=answer
    )


@dataclass(frozen=True)
class OneCandidate:
    """A teacher with one candidate, so that its choice does not depend on the truth."""

    values: Floats
    name: str = "one"

    def candidates(self, windows: Windows, drafts: Drafts) -> dict[str, Floats]:
        return {"answer_1": self.values}


@pytest.mark.parametrize("template", CODECS)
@pytest.mark.parametrize("with_draft", [True, False])
def test_the_same_choice_and_another_truth_give_the_same_reason_and_prompt(
    template: str, with_draft: bool
) -> None:
    windows = daily(n=12)
    first = made(windows, template, with_draft=with_draft)
    # The truth moves halfway to the chosen candidate, so that the choice stays.
    nearer = replace(windows, truth=(windows.truth + first.answers) / 2)
    second = made(nearer, template, with_draft=with_draft)
    assert first.choice.names == second.choice.names
    assert len(set(first.choice.names)) > 1
    assert first.thoughts == second.thoughts
    assert first.prompts == second.prompts
    assert first.completions == second.completions
    told = made(nearer, template, with_draft=with_draft, answer="truth")
    assert told.thoughts == first.thoughts
    other = made(windows, template, with_draft=with_draft, answer="truth")
    assert told.completions != other.completions


@pytest.mark.parametrize("template", CODECS)
def test_a_prompt_never_depends_on_the_choice(template: str) -> None:
    windows = daily(n=12)
    first, second = made(windows, template), made(with_other_truth(windows), template)
    assert first.choice.names != second.choice.names
    assert first.prompts == second.prompts
    assert first.shown == second.shown == best_by_backtest(windows, make_drafts(windows, None, ()))


def test_no_number_of_a_reason_occurs_in_the_truth_alone() -> None:
    windows = daily(n=30)
    for thought, truth, history in zip(
        made(windows, "hub").thoughts, windows.truth, windows.history, strict=True
    ):
        numbers = set(re.findall(r"\d+\.\d+", thought))
        assert numbers
        assert [n for n in numbers if n in {f"{y:.2f}" for y in truth}] == []
        assert "standard deviations" in thought
        # Nor as the mean, the least or the largest of the truth, or in deviations of it.
        scaled = (truth - history.mean()) / history.std()
        hidden = {f"{abs(v):.4f}" for v in (*scaled, truth.mean(), truth.max(), truth.min())}
        assert not numbers & hidden


def test_the_answer_is_the_candidate_or_the_truth() -> None:
    windows = daily(n=8)
    drafts = make_drafts(windows, None, ())
    candidate, truth = made(windows, "hub"), made(windows, "hub", answer="truth")
    assert np.array_equal(candidate.answers, drafts.taken(candidate.choice.names))
    assert np.array_equal(truth.answers, windows.truth)
    for samples in (candidate, truth):
        answers = read(samples.completions, TextCodec(), samples.frames)
        for answer, values, thought in zip(answers, samples.answers, samples.thoughts, strict=True):
            assert answer.problem is None
            assert answer.think == thought
            assert answer.values is not None
            np.testing.assert_allclose(answer.values, values, atol=0.006)


def test_where_choice_and_backtest_agree_the_answer_is_no_correction() -> None:
    samples = made(daily(n=30))
    assert samples.shown is not None
    middle = f"n{NumberCodec().middle}"
    agree = [a == b for a, b in zip(samples.shown, samples.choice.names, strict=True)]
    assert any(agree)
    assert not all(agree)
    for same, text in zip(agree, samples.completions, strict=True):
        assert (set(parse(text, 24).words or ()) == {middle}) == same


def test_without_a_draft_the_prompt_shows_none_and_answers_are_values() -> None:
    windows = daily(n=3)
    samples = made(windows, with_draft=False)
    assert samples.shown is None
    assert all(" draft " not in prompt for prompt in samples.prompts)
    assert all(" draft " in prompt for prompt in made(windows).prompts)
    assert np.array_equal(samples.frames.base, frames_of(windows).base)


def test_the_own_samples_are_words_of_the_closed_vocabulary() -> None:
    samples = made(daily(n=6))
    for text in (*samples.prompts, *samples.completions):
        assert set(text.split()) <= set(WORDS)


@pytest.mark.parametrize("with_draft", [True, False])
def test_a_step_of_an_own_answer_is_always_as_far_from_what_it_repeats(with_draft: bool) -> None:
    samples = made(daily(n=12), with_draft=with_draft)
    assert len({len(set(thought.split())) for thought in samples.thoughts}) > 1
    for prompt, text in zip(samples.prompts, samples.completions, strict=True):
        words = f"{prompt} {text}".split()
        first = words.index("<answer>") + 1
        last_value = words.index("format") - 1
        assert first - last_value == 47
        # What a head sees is the token before the one that it helps to write.
        day_before, two_days_before = last_value - 23, last_value - 47
        assert first - 1 - day_before in DISTANCES
        assert first - 1 - two_days_before in DISTANCES
        if with_draft:
            assert first - 1 - (words.index("draft") + 1) in DISTANCES


def test_a_teachers_own_candidate_is_told_without_a_backtest() -> None:
    windows = daily(n=2)
    drafts = make_drafts(windows, None, ())
    teacher = OneCandidate(windows.history[:, -24:] + 0.5)
    samples = make_samples(
        windows, drafts, teacher, NumberCodec(), "own", with_draft=True, answer="candidate"
    )
    assert samples.choice.names == ("answer_1",) * 2
    assert all(thought.startswith("draft answer 1 error unknown") for thought in samples.thoughts)


def test_windows_without_a_whole_truth_or_a_draft_are_left_out() -> None:
    windows = daily(n=4)
    truth, past = windows.truth.copy(), windows.past.copy()
    truth[1, 5] = np.nan
    samples = made(replace(windows, truth=truth))
    assert samples.rows.tolist() == [0, 2, 3]
    whole = made(windows)
    assert samples.prompts == tuple(whole.prompts[row] for row in (0, 2, 3))
    past[:, -24:] = np.nan
    past[:, :-24] = np.nan
    truth[:] = np.nan
    with pytest.raises(ValueError, match="fleet-of-acme: of 4 windows none has a truth"):
        made(replace(windows, truth=truth))
    drafts = make_drafts(replace(windows, past=past), None, ())
    assert {SEASONAL_NAIVE, SEASONS_MEAN} <= set(drafts.names)
    with pytest.raises(ValueError, match="none has a truth and a draft"):
        made(replace(windows, past=past))


def test_two_runs_give_equal_samples() -> None:
    windows = daily(n=5)
    assert made(windows).completions == made(windows).completions
    assert made(windows).prompts == made(windows).prompts
