"""Grammars: which tokens a completion may continue with, so that it has the right form.

What belongs here: automata over tokens, of the own policy's words and of a hub model's text. What
does not: sampling (`policy`), and reading what was written (`answers`).

Every grammar is a table of states, in which each token leads to a later state. A completion
therefore ends after at most `remaining` tokens, and what it wrote by then is an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tsfm_pipeline.studies.time_r1.tokenizer import number_ids
from tsfm_pipeline.studies.time_r1.vocabulary import (
    ANSWER,
    ANSWER_END,
    END,
    PADDING,
    TAGS,
    THINK,
    THINK_END,
    WORDS,
)

FORBIDDEN = -1
MOST_THINK_WORDS = 96
"""Of a reason that the own policy writes itself."""
MOST_WHOLE_DIGITS, MOST_DECIMALS = 9, 12
"""Of a number that is written as text."""
_TEXT_CHARACTERS = frozenset("-.0123456789\n" + ANSWER_END)


@dataclass(frozen=True)
class Grammar:
    """An automaton over tokens; state 0 is the first and the last state the end.

    columns: int64 [C], the tokens that are allowed anywhere. table: int64 [S, C], the state after a
    token in a state, larger than the state itself; `FORBIDDEN` where it may not stand.
    reads_forced: whether forced text is read by the automaton too, or comes before its beginning.
    """

    columns: Tensor
    table: Tensor
    reads_forced: bool

    def start(self, forced: Sequence[int]) -> int:
        """Return the state after forced tokens. Raises ValueError for one that may not stand."""
        state = 0
        for place, token in enumerate(forced if self.reads_forced else ()):
            column = self._column(token)
            state = FORBIDDEN if column < 0 else int(self.table[state, column])
            if state == FORBIDDEN:
                raise ValueError(
                    f"forced token {place} (id {token}) may not stand there by the grammar; "
                    f"allowed is the beginning of {THINK} WORDS {THINK_END} {ANSWER} NUMBERS "
                    f"{ANSWER_END}"
                )
        return state

    def to(self, device: torch.device) -> "Grammar":
        """Return the grammar with its tensors on a device."""
        if self.table.device == device:
            return self
        return replace(self, columns=self.columns.to(device), table=self.table.to(device))

    def allowed(self, states: Tensor, n_tokens: int) -> Tensor:
        """Return which tokens may come next, bool [R, n_tokens], for states int64 [R]."""
        if self._has_all(n_tokens):
            return self._may[states]
        found = torch.zeros(len(states), n_tokens, dtype=torch.bool, device=states.device)
        found[:, self.columns] = self._may[states]
        return found

    def after(self, states: Tensor, ids: Tensor) -> Tensor:
        """Return the states after tokens int64 [R], which must be allowed; the last state stays,
        whatever its token.
        """
        columns = self._column_of[ids.clamp(max=len(self._column_of) - 1)]
        following = self.table[states, columns]
        return torch.where(states == self.last, states, following)

    @property
    def last(self) -> int:
        """The state in which nothing may follow."""
        return len(self.table) - 1

    @cached_property
    def remaining(self) -> Tensor:
        """The most tokens that can follow each state, int64 [S]."""
        most = torch.zeros(len(self.table), dtype=torch.int64)
        for state in reversed(range(self.last)):
            row = self.table[state]
            most[state] = 1 + most[row[row != FORBIDDEN]].max()
        return most

    @cached_property
    def _may(self) -> Tensor:
        """Whether each column may come next, bool [S, C]."""
        return self.table != FORBIDDEN

    def _has_all(self, n_tokens: int) -> bool:
        """Return whether the columns are all tokens of the model, in their order."""
        return len(self.columns) == n_tokens and int(self.columns[-1]) == n_tokens - 1

    @cached_property
    def _column_of(self) -> Tensor:
        device = self.columns.device
        index = torch.full((int(self.columns.max()) + 1,), -1, dtype=torch.int64, device=device)
        index[self.columns] = torch.arange(len(self.columns), device=device)
        return index

    def _column(self, token: int) -> int:
        return int(self._column_of[token]) if token < len(self._column_of) else -1


def word_grammar(horizon: int, most_think_words: int = MOST_THINK_WORDS) -> Grammar:
    """Return the grammar of the own policy's completions: a reason of at least one word, then
    exactly `horizon` number words, each within its tags.
    """
    ids = {word: index for index, word in enumerate(WORDS)}
    reason = torch.tensor([ids[word] for word in WORDS if word not in (PADDING, END, *TAGS)])
    numbers = torch.tensor(number_ids())
    # The states: <think>; 0 to most_think_words words so far; <answer>; the numbers; </answer>.
    answer = most_think_words + 2
    closing = answer + 1 + horizon
    table = torch.full((closing + 2, len(WORDS)), FORBIDDEN, dtype=torch.int64)
    table[0, ids[THINK]] = 1
    for n_words in range(most_think_words):
        table[1 + n_words, reason] = 2 + n_words
    table[2:answer, ids[THINK_END]] = answer
    table[answer, ids[ANSWER]] = answer + 1
    for n_numbers in range(horizon):
        table[answer + 1 + n_numbers, numbers] = answer + 2 + n_numbers
    table[closing, ids[ANSWER_END]] = closing + 1
    return Grammar(torch.arange(len(WORDS)), table, reads_forced=True)


def text_grammar(tokenizer: PreTrainedTokenizerBase, horizon: int) -> Grammar:
    """Return the grammar of a hub model's answer, from behind the tag `<answer>`: `horizon` plain
    numbers, one per line, then the closing tag.

    The reason is forced text, for example one that the same model has sampled freely. tokenizer:
    one whose tokens are bytes of text (Qwen, SmolLM2), so that a token says the same everywhere.
    """
    walks = _Characters(horizon)
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    tokens = [i for i, text in enumerate(texts) if text and _TEXT_CHARACTERS.issuperset(text)]
    rows = [[walks.after(state, texts[token]) for token in tokens] for state in walks.states]
    return Grammar(torch.tensor(tokens), torch.tensor(rows), reads_forced=False)


class _Characters:
    """The automaton of an answer's characters: state 0 expects the first line break, then come the
    states of each number, then those of the closing tag.
    """

    _SIGNED, _WHOLE, _POINT = 1, 2, 2 + MOST_WHOLE_DIGITS
    _SIZE = _POINT + 1 + MOST_DECIMALS

    def __init__(self, horizon: int) -> None:
        self._closing = 1 + horizon * self._SIZE
        self.states = range(self._closing + len(ANSWER_END) + 1)

    def after(self, state: int, text: str) -> int:
        """Return the state after a text."""
        for character in text:
            state = self._after(state, character)
            if state == FORBIDDEN:
                break
        return state

    def _after(self, state: int, character: str) -> int:
        if state == 0:
            return 1 if character == "\n" else FORBIDDEN
        if state >= self._closing:
            place = state - self._closing
            expected = ANSWER_END[place : place + 1]
            return state + 1 if character == expected else FORBIDDEN
        number, phase = divmod(state - 1, self._SIZE)
        following = self._in_number(phase, character)
        if following == self._SIZE:
            return 1 + (number + 1) * self._SIZE
        return FORBIDDEN if following == FORBIDDEN else 1 + number * self._SIZE + following

    def _in_number(self, phase: int, character: str) -> int:
        """Return the phase after a character: 0 begins, then a sign, whole digits, the point and
        decimals; the size stands for the next number.
        """
        digit = character.isdigit()
        if phase < self._WHOLE:
            if character == "-" and phase == 0:
                return self._SIGNED
            return self._WHOLE if digit else FORBIDDEN
        if character == "\n" and phase != self._POINT:
            return self._SIZE
        if phase < self._POINT:
            if character == ".":
                return self._POINT
            return phase + 1 if digit and phase + 1 < self._POINT else FORBIDDEN
        return phase + 1 if digit and phase + 1 < self._SIZE else FORBIDDEN
