"""Asking: a policy's answers about windows, as arrays of forecasts.

What belongs here: how a policy is asked (prompt, reason, grammar), what its answers say, and what
takes the place of those that cannot be used. What does not: which draft is asked about, and whether
an answer is used (`slow_thinking`).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from transformers import PreTrainedTokenizerBase

from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.studies.time_r1.answers import read
from tsfm_pipeline.studies.time_r1.codecs import Codec
from tsfm_pipeline.studies.time_r1.frames import Frames
from tsfm_pipeline.studies.time_r1.grammar import Grammar, text_grammar, word_grammar
from tsfm_pipeline.studies.time_r1.options import ThinkingOptions
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy, Sampling
from tsfm_pipeline.studies.time_r1.prompts import About
from tsfm_pipeline.studies.time_r1.questions import ask
from tsfm_pipeline.studies.time_r1.tokenizer import number_ids
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints, Windows


@dataclass(frozen=True)
class Asker:
    """A policy, and how it is asked.

    template: name of a prompt's template. options: how answers are sampled; a grammar ends them
    whatever `max_new_tokens` is. seed: of all draws. about: what data set and channels are, for the
    prompts. constrained: whether a grammar gives answers the right form; without one they are read
    as they come. own_reasons: whether slow thinking lets the policy write the reason of each
    answer; otherwise the findings about the draft are given, as in all tables. A policy that was
    trained on answers of the teacher (`answer: candidate`) needs its own: its reason names a
    candidate, its answer is that candidate, and where the given reason names the draft in the
    prompt, all its corrections are 0. until: when its time is over, as `Sampling` has it.
    """

    policy: LanguagePolicy
    codec: Codec
    template: str
    options: ThinkingOptions
    seed: int = 0
    about: About | None = None
    constrained: bool = True
    own_reasons: bool = False
    until: float = math.inf


@dataclass(frozen=True)
class Answers:
    """n answers about each of N windows.

    values: float64 [N, n, H] in the units of the data; an answer that cannot be used is the draft,
    or the mean of the look-back without one. failures: int64 [N], how many could not be used.
    problems: how often each problem of `answers.Problem` occurred in all of them, by name. tokens:
    int64 [N], sampled for each window, what is forced not counted.
    """

    values: Floats
    failures: Ints
    problems: Mapping[str, int]
    tokens: Ints

    @property
    def median(self) -> Floats:
        """The median of the answers at each step [N, H]."""
        return np.median(self.values, axis=1)

    @property
    def deciles(self) -> Floats:
        """The empirical deciles at each step [N, H, 9], which never decrease."""
        found = np.quantile(self.values, QUANTILE_LEVELS, axis=1)
        # Interpolation rounds, so neighbouring deciles may cross in the last bit.
        return np.maximum.accumulate(np.moveaxis(found, 0, -1), axis=-1)


def answer(
    asker: Asker,
    windows: Windows,
    draft: Floats | None = None,
    thoughts: Sequence[str] | None = None,
    *,
    n: int = 1,
    greedy: bool = False,
) -> Answers:
    """Return n answers about each window, all sampled together.

    draft: float64 [N, H], which the answers correct; without one they are the values themselves.
    thoughts: the reason of each window, which every answer begins with; without them the policy
    writes its own. greedy: take the most likely word at every step instead of drawing one, and of
    numbers the middle one (`Sampling.numbers`); n is then 1. Nothing of `windows.truth` is read but
    its width, which is H.

    An answer can be used if it has a number for each of the H steps: one with more is cut, and one
    with fewer cannot be used, so that no window is dropped. Raises ValueError as
    `LanguagePolicy.sample` does, and `OutOfTime` too.
    """
    if greedy and n != 1:
        raise ValueError(f"{n} greedy answers would all be the same; allowed: n = 1")
    options = asker.options
    asked = ask(windows, draft, thoughts, asker.codec, asker.template, asker.about)
    frames, forced = asked.frames, asked.forced
    grammar = _grammar(asker, windows.horizon, forced is not None)
    sampling = Sampling(
        seed=asker.seed,
        max_new_tokens=_most_tokens(asker, grammar, "" if forced is None else forced[0]),
        temperature=0.0 if greedy else options.temperature,
        top_p=options.top_p,
        numbers=number_ids() if asker.codec.name == "number" else range(0),
        until=asker.until,
    )
    completions = asker.policy.sample(asked.prompts, n, sampling, grammar, forced)
    values, problems = _values(completions.texts, asker.codec, frames, n)
    unusable = np.asarray(np.isnan(values).any(axis=2))
    return Answers(
        values=np.where(unusable[..., None], frames.base[:, None], values),
        failures=unusable.sum(axis=1).astype(np.int64),
        problems=problems,
        tokens=completions.mask.sum(1).numpy().reshape(-1, n).sum(axis=1).astype(np.int64),
    )


def _grammar(asker: Asker, horizon: int, is_forced: bool) -> Grammar | None:
    """Return the grammar of the answers; None where there is none for what the policy writes."""
    if not asker.constrained:
        return None
    if asker.codec.name == "number":
        return _word_grammar(horizon)
    # A reason in plain text has no grammar, so only an answer behind a forced one can have it.
    return _text_grammar(asker.policy.tokenizer, horizon) if is_forced else None


def _most_tokens(asker: Asker, grammar: Grammar | None, head: str) -> int:
    """Return how long a completion may become: a grammar ends it in any case."""
    if grammar is None:
        return asker.options.max_new_tokens
    # All forced beginnings end with the same tag, and so lead to the same state.
    ids = asker.policy.tokenizer(head, add_special_tokens=False).input_ids
    return int(grammar.remaining[grammar.start(ids)])


@cache
def _word_grammar(horizon: int) -> Grammar:
    return word_grammar(horizon)


@cache
def _text_grammar(tokenizer: PreTrainedTokenizerBase, horizon: int) -> Grammar:
    return text_grammar(tokenizer, horizon)


def _values(
    texts: Sequence[str], codec: Codec, frames: Frames, n: int
) -> tuple[Floats, Mapping[str, int]]:
    """Return what completions [N n] say, float64 [N, n, H], NaN where they say too little, and how
    often each problem occurred.
    """
    n_windows, horizon = frames.base.shape
    values = np.full((len(texts), horizon), np.nan)
    found = read(texts, codec, frames.at(np.repeat(np.arange(n_windows), n)))
    for row, one in enumerate(found):
        if one.values is not None:
            values[row, : len(one.values)] = one.values
    problems = Counter(one.problem.value for one in found if one.problem is not None)
    return values.reshape(n_windows, n, horizon), dict(problems)
