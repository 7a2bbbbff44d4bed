"""Answers: the one form that a completion may have, written and read.

What belongs here: the form `<think> REASON </think> <answer> NUMBERS </answer>` and a name for
each way to miss it. What does not: what a number means (`codecs`), and what a wrong form costs
(`rewards`).
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tsfm_pipeline.studies.time_r1.codecs import Codec, is_number_word, is_plain_number
from tsfm_pipeline.studies.time_r1.frames import Frames
from tsfm_pipeline.studies.time_r1.vocabulary import ANSWER, ANSWER_END, TAGS, THINK, THINK_END
from tsfm_pipeline.studies.time_r1.windows import Floats

MINUS = "\u2212"
"""The typographic minus sign, which language models write and `float` refuses."""

_TAG = re.compile("|".join(map(re.escape, TAGS)))
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}([,'_][0-9]{3})+(\.[0-9]*)?")


class Problem(StrEnum):
    """What is wrong with a completion. Only the last two leave numbers to read."""

    NO_THINK = "no_think"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    TAG_INSIDE_THINK = "tag_inside_think"
    TWO_THINKS = "two_thinks"
    TWO_ANSWERS = "two_answers"
    WRONG_ORDER = "wrong_order"
    TEXT_BEFORE = "text_before"
    TEXT_BETWEEN = "text_between"
    TEXT_AFTER = "text_after"
    EMPTY_THINK = "empty_think"
    EMPTY_ANSWER = "empty_answer"
    HEADER = "header"
    NOT_FINITE = "not_finite"
    THOUSANDS = "thousands"
    NOT_A_NUMBER = "not_a_number"
    OTHER_CODEC = "other_codec"
    TOO_FEW = "too_few"
    TOO_MANY = "too_many"


@dataclass(frozen=True)
class Parsed:
    """The parts of a completion.

    think: the reason, empty where it cannot be told apart. words: of the numbers, at most as many
    as the horizon; None where the form is broken. problem: None where all is well; `too_few` and
    `too_many` come with words.
    """

    think: str
    words: tuple[str, ...] | None
    problem: Problem | None


@dataclass(frozen=True)
class Answer:
    """What a completion says.

    think: the reason. values: float64 [H'] in the units of the data, H' at most the horizon; None
    where the form is broken. problem: as in `Parsed`.
    """

    think: str
    values: Floats | None
    problem: Problem | None


def completion(think: str, words: Iterable[str], codec: Codec) -> str:
    """Return the completion with a reason and the words of an answer: what `parse` reads.

    Raises ValueError for a reason without words or with a tag.
    """
    if not think.strip() or _TAG.search(think):
        raise ValueError(f"reason {think!r}; allowed is at least one word, and none of {TAGS}")
    gap = codec.separator
    return f"{THINK} {think} {THINK_END}{gap}{ANSWER}{gap}{gap.join(words)}{gap}{ANSWER_END}"


def head(think: str, codec: Codec) -> str:
    """Return the beginning of a completion with a reason, up to the tag of the answer."""
    return completion(think, (), codec).partition(ANSWER)[0] + ANSWER


def parse(text: str, horizon: int) -> Parsed:
    """Return the parts of a completion. It never raises, whatever the text.

    White space of any kind separates words, and there may be any amount of it, also around the
    tags. Nothing is dropped in silence: a first line that is not a number is a problem (`header`),
    and a line without one is read like any other. Numbers are number words (`n17`) or plain numbers
    as `codecs.is_plain_number` has them, with either minus sign. Of two answers none is taken. Of
    more numbers than the horizon the first are taken (`too_many`).
    """
    tags = list(_TAG.finditer(text))
    problem = _problem_of_tags(text, [tag.group() for tag in tags])
    if problem is not None:
        return Parsed("", None, problem)
    parts = _TAG.split(text)
    before, think, between, answer, after = (part.strip() for part in parts)
    outside = {
        Problem.TEXT_BEFORE: before,
        Problem.TEXT_BETWEEN: between,
        Problem.TEXT_AFTER: after,
    }
    for problem, extra in outside.items():
        if extra:
            return Parsed(think, None, problem)
    if not think:
        return Parsed(think, None, Problem.EMPTY_THINK)
    answer = answer.replace(MINUS, "-")
    problem = _problem_of_answer(answer)
    if problem is not None:
        return Parsed(think, None, problem)
    words = tuple(answer.split())
    if len(words) < horizon:
        return Parsed(think, words, Problem.TOO_FEW)
    if len(words) > horizon:
        return Parsed(think, words[:horizon], Problem.TOO_MANY)
    return Parsed(think, words, None)


def read(texts: Sequence[str], codec: Codec, frames: Frames) -> list[Answer]:
    """Return what completions say, one per window of the frames; it never raises for a text.

    A number that the codec does not have, for example a plain number for the number codec, is the
    problem `other_codec`.
    """
    if len(texts) != len(frames.base):
        raise ValueError(f"{len(texts)} completions for the frames of {len(frames.base)} windows")
    return [_read(text, codec, frames.at(slice(row, row + 1))) for row, text in enumerate(texts)]


def _read(text: str, codec: Codec, frame: Frames) -> Answer:
    parsed = parse(text, frame.base.shape[1])
    if parsed.words is None:
        return Answer(parsed.think, None, parsed.problem)
    values = codec.read_answer(parsed.words, frame)
    problem = Problem.OTHER_CODEC if values is None else parsed.problem
    return Answer(parsed.think, values, problem)


def _problem_of_tags(text: str, tags: list[str]) -> Problem | None:
    """Return what is wrong with the order of the tags, None if each stands once and in order."""
    if tags == list(TAGS):
        return None
    if THINK not in tags:
        return Problem.NO_THINK
    if tags == [THINK, THINK_END]:
        # Cut off right after the reason, or something else instead of an answer.
        return Problem.NO_ANSWER if text.split(THINK_END)[1].strip() else Problem.TRUNCATED
    if tags == list(TAGS[: len(tags)]):
        return Problem.TRUNCATED
    if tags[0] == THINK and tags[1] != THINK_END:
        return Problem.TAG_INSIDE_THINK
    if tags.count(ANSWER) > 1 or tags.count(ANSWER_END) > 1:
        return Problem.TWO_ANSWERS
    if tags.count(THINK) > 1 or tags.count(THINK_END) > 1:
        return Problem.TWO_THINKS
    return Problem.WRONG_ORDER


def _problem_of_answer(answer: str) -> Problem | None:
    """Return what is wrong with the first word that is not a finite number, None if all are."""
    words = answer.split()
    if not words:
        return Problem.EMPTY_ANSWER
    wrong = [word for word in words if not (is_number_word(word) or _is_finite(word))]
    if not wrong:
        return None
    if _NOT_FINITE.fullmatch(wrong[0]) or is_plain_number(wrong[0]):
        return Problem.NOT_FINITE
    if _THOUSANDS.fullmatch(wrong[0]):
        return Problem.THOUSANDS
    # Names of columns: a first line without a number, before lines of numbers alone.
    if wrong == answer.splitlines()[0].split() and len(wrong) < len(words):
        return Problem.HEADER
    return Problem.NOT_A_NUMBER


def _is_finite(word: str) -> bool:
    return is_plain_number(word) and math.isfinite(float(word))
