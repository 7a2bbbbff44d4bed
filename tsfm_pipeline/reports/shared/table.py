"""The reports' tables as text cells, one definition for markdown and HTML.

What belongs here: which columns a reader sees, in which order and precision. What does not: markup
(`markdown`, `html`).
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells as text; `text_columns` are set flush left, all others are figures; `emphasised` rows
    are the ones to look at.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int] = frozenset({0})
    emphasised: frozenset[int] = frozenset()


def positions_of(names: Iterable[str], wanted: str) -> frozenset[int]:
    return frozenset(i for i, name in enumerate(names) if name == wanted)
