"""Teachers: where the candidates of supervised answers come from, and which one is taken.

What belongs here: the `Teacher` protocol and its kinds, and the choice among candidates,
which is the only place besides the answer itself where the truth of a training window is read. What
does not: how a chosen candidate becomes a sample (`samples`), and the choice at inference, which
knows no truth (`drafts.best_by_backtest`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic_settings import SettingsConfigDict

from tsfm_pipeline.studies.chat import ChatEndpoint, ChatSettings, message
from tsfm_pipeline.studies.time_r1.answers import read
from tsfm_pipeline.studies.time_r1.codecs import Codec, TextCodec
from tsfm_pipeline.studies.time_r1.drafts import Drafts
from tsfm_pipeline.studies.time_r1.frames import frames_of
from tsfm_pipeline.studies.time_r1.prompts import render
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows

if TYPE_CHECKING:  # torch, which only a teacher of this machine needs
    from tsfm_pipeline.studies.time_r1.grammar import Grammar
    from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy, Sampling

Bools = NDArray[np.bool_]

FLOOR_SHARE = 0.1
"""Of the look-back's mean absolute value: the least denominator of a percentage error. ETT's loads
cross 0, where a plain percentage is decided by whichever value happens to be nearest to it."""
ANSWER = "answer_"
"""Begins the names of candidates that a teacher was asked for; those of drafts do not."""
UNNAMED = "series"
"""Stands for the names of data set and channel in what leaves the machine: a channel of a fleet is
named after its tenant."""


class Teacher(Protocol):
    """Gives candidates for the answers to training windows.

    name: as in the tables.
    """

    @property
    def name(self) -> str: ...

    def candidates(self, windows: Windows, drafts: Drafts) -> dict[str, Floats]:
        """Return candidates by name, float64 [N, H] in the units of the data; NaN throughout where
        the teacher has none. They are functions of the past alone.
        """
        ...


@dataclass(frozen=True)
class Choice:
    """The candidate of each window that a teacher's choice fell on.

    names: of the candidates [N]. errors: float64 [N], the chosen one's error, a share. floored:
    bool [N], the choice would be another one without the floor of the denominator. symmetric: bool
    [N], no value of the truth exceeds the floor, and the symmetric error decided. fell_back:
    bool [N], the teacher had no candidate, and the best draft was taken.
    """

    names: tuple[str, ...]
    errors: Floats
    floored: Bools
    symmetric: Bools
    fell_back: Bools


@dataclass(frozen=True)
class GridTeacher:
    """The drafts themselves: the frozen model's configurations and the simple methods."""

    name: str = "grid"

    def candidates(self, windows: Windows, drafts: Drafts) -> dict[str, Floats]:
        """Return the drafts."""
        return drafts.values


@dataclass(frozen=True)
class RecordedTeacher:
    """What a teacher gave before.

    given: its candidates by name, float64 [N, H], for the N windows that they are asked for again.
    """

    given: Mapping[str, Floats]
    name: str = "recorded"

    def candidates(self, windows: Windows, drafts: Drafts) -> dict[str, Floats]:
        """Return what was given."""
        return dict(self.given)


class _AnsweringTeacher(ABC):
    """A language model that is asked for several forecasts of each window.

    Names of data set and channel are not shown to it. What cannot be read as a whole forecast is no
    candidate.
    """

    def __init__(self, codec: Codec, template: str, n_answers: int) -> None:
        if n_answers < 1:
            raise ValueError(f"n_answers is {n_answers}; allowed: 1 or more answers per window")
        self._codec, self._template, self._n = codec, template, n_answers

    def candidates(self, windows: Windows, drafts: Drafts) -> dict[str, Floats]:
        """Return the readable answers, as `answer_1`, `answer_2` and so on."""
        frames = frames_of(windows)
        prompts = render(_unnamed(windows), frames, self._codec, self._template)
        texts = self._complete(prompts, self._n)
        found = {}
        for k in range(self._n):
            values = np.full((len(windows), windows.horizon), np.nan)
            for row, answer in enumerate(read(texts[k :: self._n], self._codec, frames)):
                if answer.values is not None and len(answer.values) == windows.horizon:
                    values[row] = answer.values
            found[f"{ANSWER}{k + 1}"] = values
        return found

    @abstractmethod
    def _complete(self, prompts: Sequence[str], n: int) -> Sequence[str]:
        """Return n completions of each prompt, those of one prompt side by side."""


class TeacherSettings(ChatSettings):
    """The teacher's chat endpoint; each value may be given, or set as TSFM_TEACHER_*."""

    model_config = SettingsConfigDict(env_prefix="TSFM_TEACHER_")


class EndpointTeacher(_AnsweringTeacher):
    """A model behind an OpenAI-compatible chat endpoint, such as DeepSeek-R1 in the paper.

    It is sent what a hub model is shown: times and values of the look-back, step and horizon, and
    neither the truth nor any name. `ChatError` is raised where it does not answer.
    """

    name = "endpoint"

    def __init__(self, endpoint: ChatEndpoint, n_answers: int = 3) -> None:
        super().__init__(TextCodec(), "hub", n_answers)
        self._endpoint = endpoint

    def _complete(self, prompts: Sequence[str], n: int) -> list[str]:
        return [
            self._endpoint.ask([message("user", prompt)]) for prompt in prompts for _ in range(n)
        ]


class PolicyTeacher(_AnsweringTeacher):
    """A language policy of this machine.

    codec and template: as in the policy's profile. sampling: how answers are drawn, with its seed.
    grammar: of their form, so that every answer can be read; None for any text.
    """

    name = "policy"

    def __init__(
        self,
        policy: "LanguagePolicy",
        sampling: "Sampling",
        codec: Codec,
        template: str,
        n_answers: int = 3,
        grammar: "Grammar | None" = None,
    ) -> None:
        super().__init__(codec, template, n_answers)
        self._policy, self._sampling, self._grammar = policy, sampling, grammar

    def _complete(self, prompts: Sequence[str], n: int) -> Sequence[str]:
        return self._policy.sample(prompts, n, self._sampling, self._grammar).texts


def teach(teacher: Teacher, windows: Windows, drafts: Drafts) -> tuple[Drafts, Choice]:
    """Return the drafts joined by the teacher's candidates, and the candidate of each window that
    is nearest to the truth.

    A window of which the teacher has no candidate gets the best draft. Raises ValueError as
    `choose` does.
    """
    candidates = teacher.candidates(windows, drafts)
    none = np.asarray(~_known(candidates).any(axis=0))
    joined = drafts.joined({n: c for n, c in candidates.items() if n not in drafts.values})
    offered = {
        name: np.where(_offered(name, candidates, none)[:, None], values, np.nan)
        for name, values in joined.values.items()
    }
    return joined, replace(choose(windows, offered), fell_back=none)


def choose(windows: Windows, candidates: Mapping[str, Floats]) -> Choice:
    """Return the candidate [N, H] of each window with the lowest mean absolute percentage error
    against the truth.

    The denominator is at least `FLOOR_SHARE` of the look-back's mean absolute value. Where none of
    the truth exceeds that, the symmetric error decides: 2 |y - c| / (|y| + |c|), 0 where both are
    0. Steps of the truth that are not known are left out, and candidates with unknown steps do not
    take part. Of equal errors the first name by the alphabet wins. Raises ValueError for a window
    with no known truth, or with no known candidate.
    """
    names = sorted(candidates)
    table = np.stack([candidates[name] for name in names])  # [K, N, H]
    known = _known(candidates, names)
    truth = windows.truth
    for missing, what in (
        (~np.isfinite(truth).any(axis=1), "no known value of the truth"),
        (~known.any(axis=0), "no known candidate"),
    ):
        if missing.any():
            row = int(np.flatnonzero(missing)[0])
            raise ValueError(
                f"{windows.data_set}, channel {windows.channels[row]}, origin "
                f"{windows.origins[row]}: {what}; leave such windows out"
            )
    distance, size = np.abs(table - truth), np.abs(truth)
    floor = FLOOR_SHARE * np.nanmean(np.abs(windows.history), axis=1)[:, None]
    floored = _mean_errors(distance, np.maximum(size, floor), known)
    plain = _mean_errors(distance, size, known)
    doubled = _mean_errors(2 * distance, np.abs(table) + size, known)
    symmetric = np.asarray(np.where(np.isfinite(size), size <= floor, True).all(axis=1))
    errors = np.where(symmetric, doubled, floored)
    best = errors.argmin(axis=0)
    return Choice(
        names=tuple(names[k] for k in best),
        errors=errors[best, np.arange(len(best))],
        floored=~symmetric & (best != plain.argmin(axis=0)),
        symmetric=symmetric,
        fell_back=np.zeros(len(best), dtype=np.bool_),
    )


def _known(candidates: Mapping[str, Floats], names: Sequence[str] | None = None) -> Bools:
    """Return which candidates are known throughout [K, N]."""
    return np.stack([np.isfinite(candidates[n]).all(axis=1) for n in names or candidates])


def _offered(name: str, candidates: Mapping[str, Floats], none: Bools) -> Bools:
    """Return for which windows [N] a candidate may be chosen: drafts only where the teacher has
    none, unless they are what it offers.
    """
    return np.full_like(none, True) if name in candidates else none


def _mean_errors(distance: Floats, size: Floats, known: Bools) -> Floats:
    """Return the mean over the known steps [K, N] of distance over size [K, N, H], 0 where both are
    0; infinity for candidates that do not take part, and where only the size is 0.
    """
    shares = np.where(np.isfinite(distance), np.where(distance > 0, np.inf, 0.0), np.nan)
    size = np.broadcast_to(size, distance.shape)
    np.divide(distance, size, out=shares, where=size > 0)
    counts = np.isfinite(distance).sum(axis=-1)
    means = np.nansum(shares, axis=-1) / np.maximum(counts, 1)
    return np.where(known, means, np.inf)


def _unnamed(windows: Windows) -> Windows:
    return replace(windows, data_set=UNNAMED, channels=(UNNAMED,) * len(windows))
