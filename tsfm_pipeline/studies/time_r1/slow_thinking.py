"""Slow thinking: draft, reflect, refine, again while it helps, and a gate that may keep the draft.

What belongs here: the passes over windows, the backtest that decides about each of them, and what
came of it. What does not: the drafts (`drafts`), the findings (`findings`), asking the policy
(`asking`), and the forecaster of the pipeline (`forecaster`).

Each pass shows the policy a draft and the findings about it, and moves the draft by a `SHARE` of
the way to the answer that the policy gives without chance: the middle number at each step. A median
of sampled answers is worse, because each of them goes on from its own chances (`policy.Sampling`).
The same is done at earlier origins, `gate_origins` of them, a horizon apart, where the next steps
are known already. The refined forecast takes the draft's place unless its error there was higher by
`GATE_TOLERANCE`. A further pass starts from it, and counts only where its error was lower by
`GATE_MARGIN`. The spread of answers that are sampled about what the last kept pass was asked gives
the deciles. Everywhere else the draft stands, so that a policy that does not help costs no more
than the gate's mistakes. Nothing after a window's origin is read.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.evaluation.limits import UNLIMITED, Limits
from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.studies.time_r1.asking import Answers, Asker, answer
from tsfm_pipeline.studies.time_r1.drafts import (
    MEDIAN,
    Drafts,
    best_by_backtest,
    drafts_at_origins,
    mean_of_known,
)
from tsfm_pipeline.studies.time_r1.drafts import needed_past as past_of_drafts
from tsfm_pipeline.studies.time_r1.findings import find
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.output_filter import FOR_PEOPLE, shown
from tsfm_pipeline.studies.time_r1.policy import OutOfTime
from tsfm_pipeline.studies.time_r1.reasons import own_words, sentence
from tsfm_pipeline.studies.time_r1.samples import thoughts_of
from tsfm_pipeline.studies.time_r1.slow_thought import SlowThought, joined, verdicts
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints, Windows, padded, stacked

SHARE = 0.5
"""Share of a correction that is taken. MASE on 420 validation windows of ETTh1, of the policy after
supervised training on it, at shares of 0, .25, .5, .75 and 1: .8980, .8950, .8942, .8957, .8993.
"""
GATE_TOLERANCE = 0.05
"""How much higher, as a share, the refined forecast's error may be there.

On the same windows, with two origins: a tolerance of 0 has .8985, .05 .8942, .2 .8942. Of a harmful
policy, whose answers lie one mean deviation of the draft off at random: .913, .919, .958, and 1.024
without a gate. Errors over two days hardly tell which correction of a good policy is good, but they
do tell a policy that harms.
"""
GATE_MARGIN = 0.05
"""How much lower, as a share, the error of a further pass must be than that of the pass before."""
LEAST_SAMPLES = 16
"""Answers that the deciles of a refined forecast need."""
MOST_WINDOWS = 256
"""Windows that are thought about together; more are taken in turns, so that memory is bounded."""
REFINED = "the_refined_forecast"
"""Name of the draft of a second pass."""


def needed_past(
    contexts: Sequence[int], season: int, horizon: int, look_back: int, gate_origins: int
) -> int:
    """Return P, the past values that a window needs so that every draft and its backtest are whole
    at all origins.
    """
    whole = past_of_drafts([*contexts, look_back], season, horizon)
    return whole + gate_origins * horizon


def drafts_at_gate(
    windows: Windows,
    forecaster: GridForecaster | None,
    contexts: Sequence[int],
    gate_origins: int,
) -> tuple[Drafts, ...]:
    """Return the drafts of all windows at their origin and at the earlier origins of the gate."""
    return drafts_at_origins(padded(windows, gate_origins), forecaster, contexts, gate_origins)


def think(
    asker: Asker,
    windows: Windows,
    forecaster: GridForecaster | None,
    contexts: Sequence[int],
    limits: Limits = UNLIMITED,
    drafts: Sequence[Drafts] | None = None,
) -> SlowThought:
    """Return what slow thinking comes to for each window.

    forecaster, contexts: of the drafts, as in `make_drafts`. limits: of each window [N]; neither
    drafts nor answers lie outside. drafts: what `drafts_at_gate` returns for the same windows,
    forecaster, contexts and number of origins; without them they are computed. The result does not
    depend on `windows.truth`, and on the clock only where the asker's time is over before the
    policy has answered (`SlowThought.late`).

    Raises ValueError for a look-back with unknown values (fill gaps, and leave out windows whose
    look-back begins before the series), for fewer than `LEAST_SAMPLES` samples, and as the
    forecaster and the policy do.
    """
    begin = time.perf_counter()
    if asker.options.samples < LEAST_SAMPLES:
        raise ValueError(
            f"{asker.options.samples} samples; allowed: at least {LEAST_SAMPLES}, of which the "
            "deciles are made"
        )
    gaps = np.flatnonzero(~np.isfinite(windows.history).all(axis=1))
    if len(gaps):
        raise ValueError(
            f"{windows.data_set}: {len(gaps)} of {len(windows)} look-backs have unknown values, "
            f"the first is window {gaps[0]}; fill their gaps, or leave them out"
        )
    parts = []
    for first in range(0, len(windows), MOST_WINDOWS):
        rows = np.arange(first, min(first + MOST_WINDOWS, len(windows)))
        part = windows.at(rows)
        if drafts is None:
            n_earlier = asker.options.gate_origins
            of_part = drafts_at_gate(part, forecaster, contexts, n_earlier)
        else:
            of_part = tuple(made.at(rows) for made in drafts)
        parts.append(_Thinking(asker, part, of_part, limits.take(rows)).result())
    return replace(joined(parts), seconds=time.perf_counter() - begin)


@dataclass(frozen=True)
class _Origin:
    """The windows at one origin: that of the request, or an earlier one.

    number: how many horizons it lies back. rows: int64 [M], which windows have a whole look-back
    there. windows, drafts: of those rows alone. chosen: the draft that each starts from.
    """

    number: int
    rows: Ints
    windows: Windows
    drafts: Drafts
    chosen: tuple[str, ...]


@dataclass(frozen=True)
class _Kept:
    """What a pass asked about and was told, of all windows at the request's origin: the origin as
    it was asked, the draft [N, H], and the refined forecast [N, H].
    """

    origin: _Origin
    draft: Floats
    refined: Floats


class _Thinking:
    """The passes over N windows."""

    def __init__(
        self,
        asker: Asker,
        windows: Windows,
        drafts: Sequence[Drafts],
        limits: Limits,
    ) -> None:
        self.asker, self.windows, self.limits = asker, windows, limits
        n_earlier = asker.options.gate_origins
        at_origins = [padded(windows, n_earlier)]
        for _ in range(n_earlier):
            at_origins.append(at_origins[-1].earlier())
        self.truth = np.stack([earlier.truth for earlier in at_origins[1:]])  # [J, N, H]
        self.origins = [
            _at_origin(number, some, rows, made)
            for number, (some, made) in enumerate(zip(at_origins, drafts, strict=True))
            if len(rows := np.flatnonzero(np.isfinite(some.history).all(axis=1)))
        ]
        self.drafts = self._unknown()
        for origin in self.origins:
            draft = self._within(origin.drafts.taken(origin.chosen), origin.rows)
            self.drafts[origin.number, origin.rows] = draft
        self.failures, self.answers, self.tokens = np.zeros((3, len(windows)), np.int64)
        self.problems: Counter[str] = Counter()

    def result(self) -> SlowThought:
        """Return what comes of all passes."""
        n_passes, n_windows = self.asker.options.max_iterations, len(self.windows)
        now = self.origins[0]
        draft = self.drafts[0].copy()
        deciles = now.drafts.taken_deciles(now.chosen)
        refined = np.full((n_passes, *draft.shape), np.nan)
        kept = np.zeros((n_passes, n_windows), dtype=bool)
        errors = np.full((1 + n_passes, n_windows), np.nan)
        errors[0] = self._errors(self.drafts)
        findings = find(now.windows, now.drafts, now.chosen)
        rows = np.arange(n_windows)
        kept_answers: list[_Kept] = []
        late = False
        try:
            for i in range(n_passes):
                points = self._refined(rows)
                refined[i], errors[1 + i] = points[0], self._errors(points)
                # Unknown errors compare as false: without a backtest the draft stands.
                allowed = 1 - GATE_MARGIN if i else 1 + GATE_TOLERANCE
                moved = (points[0] != self.drafts[0]).any(axis=1)
                kept[i] = moved & (errors[1 + i] < allowed * errors[i])
                rows = np.flatnonzero(kept[i])
                if not len(rows):
                    break
                kept_answers.append(_Kept(self.origins[0], self.drafts[0].copy(), points[0]))
                self._start_from(points, rows)
            rows, spread = self._spread(kept_answers, kept.sum(axis=0))
            deciles[rows] = spread
        except OutOfTime:
            late = True
            refined[:], errors[1:], kept[:] = np.nan, np.nan, False
            kept_answers = []
        for i, answer_of_pass in enumerate(kept_answers[1:], start=1):
            rows = np.flatnonzero(kept[i])
            asked = _some(answer_of_pass.origin, rows)
            found = find(asked.windows, asked.drafts, asked.chosen)
            for row, of_row in zip(rows, found, strict=True):
                findings[row] = of_row
        deciles = self._within(deciles, np.arange(n_windows))
        thought = SlowThought(
            forecast=draft,
            deciles=np.maximum.accumulate(deciles, axis=-1),
            draft=draft,
            started_from=now.chosen,
            refined=refined,
            kept=kept,
            errors=errors,
            failures=self.failures,
            answers=self.answers,
            tokens=self.tokens,
            problems=dict(self.problems),
            own_words=tuple(map(own_words, findings)),
            reasons=tuple(map(sentence, findings)),
            late=late,
            seconds=0.0,
        )
        thought = replace(thought, forecast=thought.after(n_passes))
        deviation = frames_of(self.windows).deviation
        steps = self.asker.options.gate_origins * self.windows.horizon
        told = verdicts(thought, deviation, steps, GATE_TOLERANCE)
        pairs = zip(thought.reasons, told, strict=True)
        reasons = (shown(" ".join(pair), FOR_PEOPLE) for pair in pairs)
        return replace(thought, reasons=tuple(reasons))

    def _refined(self, rows: Ints) -> Floats:
        """Ask about some windows at all origins, and return the drafts, moved by `SHARE` towards
        the answers that are given without chance [1 + J, N, H]; NaN where nothing was asked.
        """
        at_origins = [_some(origin, rows) for origin in self.origins]
        asked = np.concatenate([origin.rows for origin in at_origins])
        numbers = np.repeat(
            [origin.number for origin in at_origins], [len(origin.rows) for origin in at_origins]
        )
        points = self._unknown()
        draft = self.drafts[numbers, asked]
        answers = self._answers(at_origins, draft, asked, n=1, greedy=True)
        moved = draft + SHARE * (answers.median - draft)
        points[numbers, asked] = self._within(moved, asked)
        return points

    def _spread(self, answers: Sequence[_Kept], iterations: Ints) -> tuple[Ints, Floats]:
        """Return the windows whose answers were kept, int64 [M], with the deciles of answers
        sampled about what their last kept pass was asked [M, H, 9], moved so that their medians are
        its refined forecasts.

        answers: of each pass that was kept for any window. iterations: int64 [N], how many passes
        were kept. Only the last pass of a window is sampled, because nothing reads the spread of
        those before.
        """
        of_pass = [np.flatnonzero(iterations == i) for i in range(1, 1 + len(answers))]
        pairs = [(kept, some) for kept, some in zip(answers, of_pass, strict=True) if len(some)]
        if not pairs:
            return np.empty(0, np.int64), np.empty((0, self.windows.horizon, len(QUANTILE_LEVELS)))
        rows = np.concatenate([some for _, some in pairs])
        deciles = self._answers(
            [_some(kept.origin, some) for kept, some in pairs],
            np.concatenate([kept.draft[some] for kept, some in pairs]),
            rows,
            n=self.asker.options.samples,
            greedy=False,
        ).deciles
        points = np.concatenate([kept.refined[some] for kept, some in pairs])
        return rows, deciles - deciles[..., MEDIAN, None] + points[..., None]

    def _answers(
        self, at_origins: Sequence[_Origin], draft: Floats, rows: Ints, *, n: int, greedy: bool
    ) -> Answers:
        """Return n answers about each window of some origins, and count them."""
        thoughts = None
        if not self.asker.own_reasons:
            thoughts = [thought for origin in at_origins for thought in self._thoughts(origin)]
        windows = stacked([origin.windows for origin in at_origins])
        answers = answer(self.asker, windows, draft, thoughts, n=n, greedy=greedy)
        self._count(answers, rows)
        return answers

    def _thoughts(self, origin: _Origin) -> list[str]:
        return thoughts_of(origin.windows, origin.drafts, origin.chosen, self.asker.codec)

    def _start_from(self, points: Floats, rows: Ints) -> None:
        """Let refined forecasts [1 + J, N, H] be the drafts of some windows from now on."""
        self.drafts[:, rows] = points[:, rows]
        refined = set(rows.tolist())
        self.origins = [
            replace(
                origin,
                drafts=_with_refined(origin, points),
                chosen=tuple(
                    REFINED if row in refined else name
                    for row, name in zip(origin.rows.tolist(), origin.chosen, strict=True)
                ),
            )
            for origin in self.origins
        ]

    def _errors(self, forecasts: Floats) -> Floats:
        """Return the mean absolute error [N] of forecasts [1 + J, N, H] at the earlier origins; NaN
        where no step is known at all.
        """
        errors = np.abs(forecasts[1:] - self.truth)
        return mean_of_known(np.concatenate(list(errors), axis=1))

    def _within(self, values: Floats, rows: Ints) -> Floats:
        """Return values [M, ...] of some windows within their limits."""
        return np.asarray(self.limits.take(rows).clip(values), dtype=np.float64)

    def _unknown(self) -> Floats:
        """Return unknown forecasts at all origins [1 + J, N, H]."""
        n_origins = 1 + self.asker.options.gate_origins
        return np.full((n_origins, len(self.windows), self.windows.horizon), np.nan)

    def _count(self, answers: Answers, rows: Ints) -> None:
        np.add.at(self.failures, rows, answers.failures)
        np.add.at(self.answers, rows, answers.values.shape[1])
        np.add.at(self.tokens, rows, answers.tokens)
        self.problems.update(answers.problems)


def _at_origin(number: int, windows: Windows, rows: Ints, drafts: Drafts) -> _Origin:
    windows, drafts = windows.at(rows), drafts.at(rows)
    return _Origin(number, rows, windows, drafts, best_by_backtest(windows, drafts))


def _some(origin: _Origin, rows: Ints) -> _Origin:
    """Return those of an origin's windows that are among these rows."""
    index = np.flatnonzero(np.isin(origin.rows, rows))
    return _Origin(
        origin.number,
        origin.rows[index],
        origin.windows.at(index),
        origin.drafts.at(index),
        tuple(origin.chosen[i] for i in index),
    )


def _with_refined(origin: _Origin, points: Floats) -> Drafts:
    """Return an origin's drafts with the refined forecasts [1 + J, N, H] as a further one, whose
    backtest is what was refined at the origins before this one.
    """
    width = next(iter(origin.drafts.backtests.values())).shape[1]
    backtest = np.full((len(origin.rows), width), np.nan)
    # Oldest first, as `Drafts` has them.
    known = [made[origin.rows] for made in points[: origin.number : -1]]
    if known:
        joined = np.concatenate(known, axis=1)[:, -width:]
        backtest[:, width - joined.shape[1] :] = joined
    return Drafts(
        origin.drafts.values | {REFINED: points[origin.number, origin.rows]},
        origin.drafts.deciles,
        origin.drafts.backtests | {REFINED: backtest},
    )
