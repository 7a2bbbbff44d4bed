"""Output filters: which texts of a policy may reach a person.

What belongs here: the filters, the rate of texts that they object to, and what is shown instead.
What does not: reading numbers from a text (`answers`), and where texts are shown.

What people read are the reasons of `slow_thinking`, which every one of them passes through `shown`
there: the service's answer, the column `reason`, the report and the section of a fleet take them
from it. They are told from findings. What a policy writes itself is read for its numbers alone, and
`objection_rate` of it is measured while GRIP learns.
"""

import re
from collections.abc import Collection, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Protocol

from tsfm_pipeline.studies.time_r1.vocabulary import WORDS

WITHHELD = "The reason is withheld: the output filter objected to its wording."


class OutputFilter(Protocol):
    """Anything that finds unwanted words in a text."""

    @property
    def name(self) -> str:
        """The filter's name in logs and metrics."""
        ...

    def objections(self, text: str) -> tuple[str, ...]:
        """Return the words of the text that it objects to, in their order."""
        ...


class ClosedVocabulary:
    """Object to every word outside of a vocabulary, which has been read by a person.

    A policy whose tokens are these words cannot be objected to by construction; the check finds a
    tokenizer that does not belong to the vocabulary.
    """

    name = "closed vocabulary"

    def __init__(self, words: Collection[str]) -> None:
        """Take the words, which are separated by white space in texts; case matters."""
        self.words = frozenset(words)

    def objections(self, text: str) -> tuple[str, ...]:
        """Return the words that are not in the vocabulary."""
        return tuple(word for word in text.split() if word not in self.words)


class WordList:
    """Object to listed words where they stand as whole words, in any case. Words that only contain
    a listed one pass ("Scunthorpe").

    It does not recognise deliberate misspellings or a tone. It is the least that a language model
    with an open vocabulary needs.
    """

    name = "word list"

    def __init__(self, words: Collection[str] | None = None) -> None:
        """Take the words, by default those of `blocked_words.txt`. Raises ValueError if none."""
        self.words = _blocked_words() if words is None else tuple(words)
        if not self.words:
            raise ValueError("the word list is empty; it needs at least one word")

    def objections(self, text: str) -> tuple[str, ...]:
        """Return the listed words that stand in the text."""
        return tuple(match.group(0) for match in self._pattern.finditer(text))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        listed = "|".join(sorted(map(re.escape, self.words), key=len, reverse=True))
        return re.compile(rf"(?<!\w)(?:{listed})(?!\w)", re.IGNORECASE)


def _blocked_words() -> tuple[str, ...]:
    text = files("tsfm_pipeline.studies.time_r1").joinpath("blocked_words.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


FOR_PEOPLE = WordList()
"""For the sentences that slow thinking tells people, which are plain English whatever the codec."""


def output_filter_of(codec: str) -> OutputFilter:
    """Return the filter of a policy by the name of its codec: the own policy has a closed
    vocabulary, a language model an open one.
    """
    return ClosedVocabulary(WORDS) if codec == "number" else WordList()


def objection_rate(texts: Sequence[str], output_filter: OutputFilter) -> float:
    """Return the share of texts with at least one objection; 0 for no texts."""
    return sum(bool(output_filter.objections(text)) for text in texts) / max(len(texts), 1)


def shown(text: str, output_filter: OutputFilter) -> str:
    """Return the text if the filter has no objection, and `WITHHELD` otherwise."""
    return WITHHELD if output_filter.objections(text) else text
