"""Samples: prompts with the completions that supervised training shows a policy.

What belongs here: which draft a prompt shows, what its reason is a function of, and what its answer
is. What does not: training on samples (`warm_up`), and how candidates are made and chosen
(`teacher`).

Three things must not be confused. The prompt shows the draft that the backtest chose, as it will at
inference: a prompt with the candidate nearest to the truth would tell the truth. The reason is a
function of the history and of the teacher's choice alone. Only the choice, and the answer, depend
on the truth.

The answer is the truth in every shipped profile, or the chosen candidate. The candidate is what the
seed's teacher says, and a function of the history but for the choice: a short training can learn
it, a greedy answer is a whole forecast instead of a walk through noise, and wherever the choice
agrees with the backtest the correction is exactly 0. Its price: the spread of sampled answers is
that of the candidates, not that of what may come, and a given reason that names the shown draft
always means an answer of 0. The truth as answer is a proper target of the whole distribution, at
the cost of numbers that nothing predicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tsfm_pipeline.studies.time_r1.answers import completion
from tsfm_pipeline.studies.time_r1.codecs import Codec
from tsfm_pipeline.studies.time_r1.drafts import Drafts, best_by_backtest
from tsfm_pipeline.studies.time_r1.findings import find
from tsfm_pipeline.studies.time_r1.frames import Frames, frames_of
from tsfm_pipeline.studies.time_r1.prompts import About, render
from tsfm_pipeline.studies.time_r1.reasons import filled, own_words, sentence
from tsfm_pipeline.studies.time_r1.teacher import Choice, Teacher, teach
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints, Windows


@dataclass(frozen=True)
class Samples:
    """N' rows for supervised training.

    rows: int64 [N'], which windows they are; those without a known truth or draft are left out.
    prompts, completions: what is read and what is to be written. thoughts: the text between the
    tags of each reason. shown: the draft in each prompt by name, None without drafts. choice: the
    teacher's. answers: float64 [N', H] in the units of the data. frames: of the prompts.
    """

    rows: Ints
    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    thoughts: tuple[str, ...]
    shown: tuple[str, ...] | None
    choice: Choice
    answers: Floats
    frames: Frames

    def __len__(self) -> int:
        return len(self.prompts)


def make_samples(
    windows: Windows,
    drafts: Drafts,
    teacher: Teacher,
    codec: Codec,
    template: str,
    *,
    with_draft: bool,
    answer: Literal["candidate", "truth"],
    about: About | None = None,
) -> Samples:
    """Return a prompt and a completion for each window whose truth and at least one draft are
    known.

    template: name of a prompt's template. with_draft: whether prompts show a draft, which answers
    then correct. answer: what the completion answers with, the teacher's candidate or the truth.
    about: what data set and channels are, for the prompts. Raises ValueError where no window is
    left.
    """
    rows = usable_rows(windows, drafts)
    windows, drafts = windows.at(rows), drafts.at(rows)
    joined, choice = teach(teacher, windows, drafts)
    shown = best_by_backtest(windows, drafts) if with_draft else None
    draft = None if shown is None else drafts.taken(shown)
    frames = frames_of(windows, draft)
    answers = windows.truth if answer == "truth" else joined.taken(choice.names)
    thoughts = thoughts_of(windows, joined, choice.names, codec)
    words = codec.write_answer(answers, frames)
    return Samples(
        rows=rows,
        prompts=tuple(render(windows, frames, codec, template, draft, about)),
        completions=tuple(
            completion(thought, numbers, codec)
            for thought, numbers in zip(thoughts, words, strict=True)
        ),
        thoughts=tuple(thoughts),
        shown=shown,
        choice=choice,
        answers=answers,
        frames=frames,
    )


def thoughts_of(windows: Windows, drafts: Drafts, chosen: Sequence[str], codec: Codec) -> list[str]:
    """Return the reason of each window, in training as at inference: own words where numbers are
    words of their own (`reasons.filled`), sentences where they are text.

    chosen: the candidate of each window by name. The truth is not read.
    """
    found = find(windows, drafts, chosen)
    if codec.name == "number":
        return [filled(own_words(findings)) for findings in found]
    return [sentence(findings) for findings in found]


def usable_rows(windows: Windows, drafts: Drafts) -> Ints:
    """Return which windows have a truth and at least one draft without gaps, int64 [N']. Raises
    ValueError if none has.
    """
    known = np.any([np.isfinite(made).all(axis=1) for made in drafts.values.values()], axis=0)
    rows = np.flatnonzero(known & np.isfinite(windows.truth).all(axis=1))
    if not len(rows):
        raise ValueError(
            f"{windows.data_set}: of {len(windows)} windows none has a truth and a draft without "
            "gaps; allowed: at least one"
        )
    return rows
