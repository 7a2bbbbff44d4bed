"""Tables as text cells, one definition for markdown and HTML.

What belongs here: what a table is. What does not: which columns a report shows (its `words`),
markup (`markdown`, `reports.page.html`).
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    `text_columns` are aligned left, all others right, as figures are. `emphasised`: the rows to
    highlight.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int] = frozenset({0})
    emphasised: frozenset[int] = frozenset()


def positions_of(names: Iterable[str], wanted: str) -> frozenset[int]:
    return frozenset(i for i, name in enumerate(names) if name == wanted)
