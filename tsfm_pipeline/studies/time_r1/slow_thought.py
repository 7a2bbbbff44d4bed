"""Slow thoughts: what slow thinking came to for some windows, as arrays and as sentences.

What belongs here: the result, results of several groups of windows as one, and the gate's verdict
in words. What does not: how it is come to (`slow_thinking`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.studies.time_r1.windows import Floats, Ints

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class SlowThought:
    """What slow thinking came to for N windows, in the units of the data.

    forecast: float64 [N, H]. deciles: float64 [N, H, 9], never decreasing: where a refined forecast
    is kept, those of sampled answers, moved so that their median is the forecast; else those of the
    draft. draft: float64 [N, H], what was started from; started_from: its name. refined: float64
    [I, N, H], the draft after the correction of each of `max_iterations` passes, whether or not it
    was kept; NaN where a window was not asked about.
    kept: bool [I, N], where it took the draft's place. errors: float64 [1 + I, N], mean absolute
    errors of the draft and of each pass at the earlier origins; NaN where there is no backtest.

    failures: int64 [N], answers that could not be used, in all passes and backtests; answers: int64
    [N], all of them; tokens: int64 [N], sampled for them. problems: how often each of
    `answers.Problem` occurred, by name.
    own_words, reasons: the findings about the draft of the last kept pass (of the first pass where
    none was kept), in the words of the own policy, and as sentences with the gate's verdict.
    late: whether time was over before the policy had given all of its answers; the drafts stand.
    seconds: elapsed.
    """

    forecast: Floats
    deciles: Floats
    draft: Floats
    started_from: tuple[str, ...]
    refined: Floats
    kept: Bools
    errors: Floats
    failures: Ints
    answers: Ints
    tokens: Ints
    problems: Mapping[str, int]
    own_words: tuple[str, ...]
    reasons: tuple[str, ...]
    late: bool
    seconds: float

    @property
    def last_refined(self) -> Floats:
        """The answer of the last pass that each window was asked in [N, H], without the gate; the
        draft where there was none.
        """
        last = self.draft
        for refined in self.refined:
            last = np.where(np.isfinite(refined), refined, last)
        return last

    @property
    def gate(self) -> Bools:
        """Where a refined forecast is used, bool [N]."""
        return self.kept[0]

    @property
    def iterations(self) -> Ints:
        """How many passes were kept, int64 [N]."""
        return self.kept.sum(axis=0).astype(np.int64)

    def after(self, passes: int) -> Floats:
        """Return the forecast [N, H] after so many passes: 0 is the draft. The difference of two is
        the gain of the passes between them.
        """
        forecast = self.draft
        for refined, kept in zip(self.refined[:passes], self.kept[:passes], strict=True):
            forecast = np.where(kept[:, None], refined, forecast)
        return forecast


def joined(parts: Sequence[SlowThought]) -> SlowThought:
    """Return the results of several groups of windows as one."""

    def rows(name: str, axis: int = 0) -> Any:
        return np.concatenate([getattr(part, name) for part in parts], axis=axis)

    problems = sum((Counter(part.problems) for part in parts), Counter())
    return SlowThought(
        forecast=rows("forecast"),
        deciles=rows("deciles"),
        draft=rows("draft"),
        started_from=tuple(name for part in parts for name in part.started_from),
        refined=rows("refined", axis=1),
        kept=rows("kept", axis=1),
        errors=rows("errors", axis=1),
        failures=rows("failures"),
        answers=rows("answers"),
        tokens=rows("tokens"),
        problems=dict(problems),
        own_words=tuple(words for part in parts for words in part.own_words),
        reasons=tuple(reason for part in parts for reason in part.reasons),
        late=any(part.late for part in parts),
        seconds=0.0,
    )


def verdicts(thought: SlowThought, deviation: Floats, steps: int, tolerance: float) -> list[str]:
    """Return a sentence per window [N] about whether the policy's answers are used, and why.

    deviation: float64 [N], of the look-backs, in which differences and errors are told. steps: of
    the backtest. tolerance: how much higher than the draft's, as a share, the error of an answer
    that is used may be there.
    """
    change = (thought.forecast - thought.draft).mean(axis=1) / deviation
    errors = thought.errors / deviation
    # Of the pass that was kept last; of the first where none was.
    last = errors[np.maximum(thought.iterations, 1), np.arange(len(deviation))]
    same = (thought.refined[0] == thought.draft).all(axis=1)
    allowed = f"{100 * tolerance:g} %"
    told = []
    for gate, moved, equal, own, error in zip(
        thought.gate, change, same, errors[0], last, strict=True
    ):
        known = f"over the last {steps} known steps"
        off = f"were off by {error:.2f} standard deviations, and drafts by {own:.2f}"
        answer = (
            f"The policy's answer lies {abs(moved):.2f} standard deviations "
            f"{'above' if moved > 0 else 'below'} the draft on average; {known} such answers {off}"
        )
        if thought.late and not gate:
            told.append("There was no time for the policy's answers, so the draft stands.")
        elif equal:
            told.append("The policy's answer is the draft itself, so the draft stands.")
        elif np.isnan(own) or np.isnan(error):
            told.append("The policy's answer has no backtest, so the draft stands.")
        elif gate and error <= own:
            told.append(f"{answer}, so it is used.")
        elif gate:
            told.append(f"{answer}: more, but by less than {allowed}, so it is used.")
        else:
            lost = f"more by {allowed} or above" if error > own else "no less"
            told.append(
                f"{known[0].upper()}{known[1:]} the policy's answers {off}: {lost}, so the draft "
                "stands."
            )
    return told
