"""Questions: windows as a policy is asked about them, and what its completions are worth.

What belongs here: windows together with their prompts, and completions read and rewarded. What does
not: how prompts are written (`prompts`), the reward itself (`rewards`), and who asks (`grip_loop`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tsfm_pipeline.studies.time_r1.answers import Answer, Problem, head, read
from tsfm_pipeline.studies.time_r1.codecs import Codec
from tsfm_pipeline.studies.time_r1.drafts import Drafts, best_by_backtest
from tsfm_pipeline.studies.time_r1.frames import Frames, frames_of
from tsfm_pipeline.studies.time_r1.options import RewardOptions
from tsfm_pipeline.studies.time_r1.prompts import About, render
from tsfm_pipeline.studies.time_r1.rewards import Rewards, rewards
from tsfm_pipeline.studies.time_r1.samples import thoughts_of
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints, Windows


@dataclass(frozen=True)
class Judged:
    """R completions as they were read: rewards, and what is wrong with the form of each [R], None
    where nothing is.
    """

    rewards: Rewards
    problems: tuple[Problem | None, ...]


@dataclass(frozen=True)
class Questions:
    """N windows as they are asked.

    frames: units of the numbers. prompts: N texts. codec: reads the answers. forced: N texts that
    the completions begin with, for example a given reason; None where completions begin freely.
    """

    windows: Windows
    frames: Frames
    prompts: tuple[str, ...]
    codec: Codec
    forced: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.windows)
        forced = n if self.forced is None else len(self.forced)
        if not n == len(self.prompts) == len(self.frames.mean) == forced:
            raise ValueError(
                f"{len(self.prompts)} prompts, {len(self.frames.mean)} frames and {forced} forced "
                f"texts for {n} windows; all must be equally many"
            )

    def __len__(self) -> int:
        return len(self.windows)

    def at(self, rows: Ints) -> "Questions":
        """Return some of the questions, rows int64 [N']."""
        return replace(
            self,
            windows=self.windows.at(rows),
            frames=self.frames.at(rows),
            prompts=tuple(self.prompts[row] for row in rows),
            forced=None if self.forced is None else tuple(self.forced[row] for row in rows),
        )

    def judged(self, texts: Sequence[str], options: RewardOptions) -> Judged:
        """Read and reward R = N n completions, the n of one question in a row."""
        of = np.repeat(np.arange(len(self)), len(texts) // len(self))
        answers = read(texts, self.codec, self.frames.at(of))
        values = [_written(answer) for answer in answers]
        return Judged(
            rewards(values, self.windows, options), tuple(answer.problem for answer in answers)
        )

    def digest(self) -> str:
        """Return the SHA-256 of everything that a reward depends on."""
        digest = hashlib.sha256()
        for text in (self.codec.name, *self.prompts, *(self.forced or ())):
            digest.update(text.encode() + b"\0")
        for array in (self.windows.history, self.windows.truth, self.frames.base):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def ask(
    windows: Windows,
    draft: Floats | None,
    thoughts: Sequence[str] | None,
    codec: Codec,
    template: str,
    about: About | None = None,
) -> Questions:
    """Return windows as a policy is asked about them.

    draft: float64 [N, H], which answers correct; None: they are the values themselves. thoughts:
    the reason of each window, which completions begin with; None: the policy writes its own.
    """
    frames = frames_of(windows, draft)
    prompts = tuple(render(windows, frames, codec, template, draft, about))
    forced = None if thoughts is None else tuple(head(thought, codec) for thought in thoughts)
    return Questions(windows, frames, prompts, codec, forced)


def questions_of(
    windows: Windows, drafts: Drafts, codec: Codec, template: str, about: About | None = None
) -> Questions:
    """Return windows as slow thinking asks about them: with the draft that the backtest chose, and
    the reason of it given, so that the policy writes the answer.
    """
    chosen = best_by_backtest(windows, drafts)
    thoughts = thoughts_of(windows, drafts, chosen, codec)
    return ask(windows, drafts.taken(chosen), thoughts, codec, template, about)


def _written(answer: Answer) -> Floats | None:
    """Return the numbers that an answer wrote. One with more numbers than the horizon was cut to
    it; one number more stands for the rest, so that it has the reward of another length.
    """
    if answer.values is None or answer.problem is not Problem.TOO_MANY:
        return answer.values
    return np.append(answer.values, answer.values[-1])
