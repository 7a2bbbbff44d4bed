"""Codecs: how the numbers of a window are written as words, and read back.

What belongs here: the grid of the own policy's number words, and numbers as people write them
for models of the hub. What does not: the units (`frames`), the words around the numbers
(`prompts`), and whether a completion has the right form (`answers`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from tsfm_pipeline.studies.time_r1.frames import Frames
from tsfm_pipeline.studies.time_r1.vocabulary import MISSING, N_NUMBERS
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints

MISSING_NUMBER = -1
"""Stands for a value that is not known among the numbers of `NumberCodec`."""
LARGEST = 10.0
"""In deviations: the last number word. None of 96 values lies further than 9.75 population
deviations from their mean, so a look-back of that length is never cut."""
BEND = 4.0
"""How much finer the grid is near 0 than at its ends: cosh(bend) times. Of the halves from 2 to 6,
4 has the smallest mean error (.0095) of look-backs and targets on ETTh1 rows 0 to 8639 and on the
synthetic corpus, and of corrections of simple drafts on ETTh1 (.0094). For those on the corpus 3.5
is 3 % better (.0111). `test_r1_number_grid` measures it."""
SIGNIFICANT_DIGITS = 3
"""Of the look-back's deviation, which the decimals of a text show."""
MOST_DECIMALS = 12

_NUMBER_WORD = re.compile(r"n(0|[1-9][0-9]*)")
_PLAIN_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Codec(Protocol):
    """Writes the numbers of windows as words.

    name: of the codec, as profiles give it. separator: stands between two words of an answer.
    """

    @property
    def name(self) -> str: ...

    @property
    def separator(self) -> str: ...

    def write(self, values: Floats, frames: Frames) -> list[list[str]]:
        """Return one list of words per window for values [N, M] in the units of the data, for
        example a look-back or a draft; `missing` where a value is NaN.
        """
        ...

    def write_answer(self, values: Floats, frames: Frames) -> list[list[str]]:
        """Return the answers that say values [N, H], in the units of the data; none may be NaN."""
        ...

    def read_answer(self, words: Sequence[str], frame: Frames) -> Floats | None:
        """Return the values that an answer says, float64 [H'] in the units of the data.

        words: H' of them, at most H. frame: of the one window that was asked about. None if there
        are no words or if one of them is not a number of this codec.
        """
        ...


def is_number_word(word: str) -> bool:
    """Return whether a word has the form of a number word (`n17`), of whatever grid."""
    return _NUMBER_WORD.fullmatch(word) is not None


def is_plain_number(word: str) -> bool:
    """Return whether a word is a number as people write it: 7, -7.5, .5 or 1e3, but no nan, no inf
    and no separators of thousands.
    """
    return _PLAIN_NUMBER.fullmatch(word) is not None


@dataclass(frozen=True)
class NumberCodec:
    """One word per number, `n0` to `n{n_numbers - 1}`, for the own policy.

    A number stands for deviations of the look-back: from its mean for the numbers of a prompt, from
    the base of the frames for those of an answer. The grid is symmetric, finest near 0, and its
    middle is exactly 0: an answer of middle words alone is the draft to the bit. What lies beyond
    the grid becomes its last number.
    """

    n_numbers: int = N_NUMBERS

    def __post_init__(self) -> None:
        if self.n_numbers < 3 or self.n_numbers % 2 == 0:
            raise ValueError(
                f"{self.n_numbers} number words; allowed is an odd number of at least 3, so that "
                "the middle one can mean 0"
            )

    @property
    def name(self) -> str:
        return "number"

    @property
    def separator(self) -> str:
        return " "

    @property
    def middle(self) -> int:
        """The number that means 0."""
        return self.n_numbers // 2

    @cached_property
    def values(self) -> Floats:
        """What the numbers stand for, float64 [n_numbers], increasing, in deviations."""
        return sinh_grid(self.n_numbers, LARGEST, BEND)

    def numbers(self, deviations: Floats) -> Ints:
        """Return the nearest numbers of values [...] in deviations, int64 [...]; `MISSING_NUMBER`
        for NaN.
        """
        borders = (self.values[1:] + self.values[:-1]) / 2
        nearest = np.searchsorted(borders, deviations)
        return np.where(np.isnan(deviations), MISSING_NUMBER, nearest).astype(np.int64)

    def past_numbers(self, values: Floats, frames: Frames) -> Ints:
        """Return what `write` writes as numbers, int64 [N, M], for values in the data's units."""
        return self.numbers(frames.scaled(values))

    def answer_numbers(self, values: Floats, frames: Frames) -> Ints:
        """Return what `write_answer` writes as numbers, int64 [N, H], for values in the data's
        units.
        """
        return self.numbers(frames.correction(values))

    def answered(self, numbers: Ints, frames: Frames) -> Floats:
        """Return the values that answers say, float64 [N, H] in the data's units, for numbers
        [N, H] from 0 to n_numbers - 1.
        """
        return frames.corrected(self.values[numbers])

    def write(self, values: Floats, frames: Frames) -> list[list[str]]:
        """Return words of values [N, M], in deviations from the mean."""
        return self._words(self.past_numbers(values, frames))

    def write_answer(self, values: Floats, frames: Frames) -> list[list[str]]:
        """Return words of answers [N, H], in deviations from the base."""
        _refuse_unknown(values)
        return self._words(self.answer_numbers(values, frames))

    def read_answer(self, words: Sequence[str], frame: Frames) -> Floats | None:
        """Return the values of one answer, float64 [H']."""
        _refuse_longer(words, frame)
        numbers = [self._numbers_of_words.get(word) for word in words]
        known = [number for number in numbers if number is not None]
        if not known or len(known) < len(numbers):
            return None
        shorter = replace(frame, base=frame.base[:, : len(known)])
        return self.answered(np.array([known], dtype=np.int64), shorter)[0]

    @cached_property
    def _numbers_of_words(self) -> dict[str, int]:
        return {f"n{number}": number for number in range(self.n_numbers)}

    def _words(self, numbers: Ints) -> list[list[str]]:
        # MISSING comes last, so that the index MISSING_NUMBER finds it.
        words = np.array([*self._numbers_of_words, MISSING], dtype=object)
        return words[numbers].tolist()


def sinh_grid(n: int, largest: float, bend: float) -> Floats:
    """Return n increasing values (n odd) from -largest to largest, symmetric, the middle exactly 0.
    Their distance grows from the middle to the ends by a factor of cosh(bend).
    """
    half = n // 2
    return largest * np.sinh(bend * np.arange(-half, half + 1) / half) / np.sinh(bend)


@dataclass(frozen=True)
class TextCodec:
    """Plain numbers in the units of the data, one per line of an answer, for models of the hub.

    All numbers of a window have equally many decimals: three significant digits of the look-back's
    deviation, so that rounding costs at most 1/200 of it (below 12 decimals).
    """

    @property
    def name(self) -> str:
        return "text"

    @property
    def separator(self) -> str:
        return "\n"

    def write(self, values: Floats, frames: Frames) -> list[list[str]]:
        """Return texts of values [N, M]."""
        return [
            [MISSING if np.isnan(value) else _plain(value, decimals) for value in row]
            for row, decimals in zip(values, _decimals(frames.deviation), strict=True)
        ]

    def write_answer(self, values: Floats, frames: Frames) -> list[list[str]]:
        """Return texts of answers [N, H], whether or not they correct a draft."""
        _refuse_unknown(values)
        return self.write(values, frames)

    def read_answer(self, words: Sequence[str], frame: Frames) -> Floats | None:
        """Return the values of one answer, float64 [H']; None also where one is not finite."""
        _refuse_longer(words, frame)
        if not words or not all(is_plain_number(word) for word in words):
            return None
        values = np.array([float(word) for word in words])
        return values if np.isfinite(values).all() else None


def _decimals(deviations: Floats) -> list[int]:
    places = SIGNIFICANT_DIGITS - 1 - np.floor(np.log10(deviations))
    return [int(place) for place in np.clip(places, 0, MOST_DECIMALS)]


def _plain(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    # A small negative value would be written as -0.00.
    return text.removeprefix("-") if float(text) == 0 else text


def _refuse_unknown(values: Floats) -> None:
    if np.isnan(values).any():
        windows = np.unique(np.nonzero(np.isnan(values))[0])
        raise ValueError(
            f"answers of {len(windows)} windows have unknown values (NaN), the first is window "
            f"{windows[0]}; leave such windows out"
        )


def _refuse_longer(words: Sequence[str], frame: Frames) -> None:
    if len(frame.base) != 1 or len(words) > frame.base.shape[1]:
        raise ValueError(
            f"{len(words)} words for the frames of {len(frame.base)} windows with a horizon of "
            f"{frame.base.shape[1]}; allowed are the words of one window, at most its horizon"
        )
