"""The reports' tables as text cells, one definition for markdown and HTML.

What belongs here: which columns a reader sees, in which order and precision. What does not: markup (`markdown`, `html`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsfm_pipeline.reports.shared.wording import figure_of, percent_interval

Report = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells as text; `text_columns` are set flush left, all others are figures; `emphasised` rows are the ones to look at."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int] = frozenset({0})
    emphasised: frozenset[int] = frozenset()


def rows_of(report: Report, key: str) -> Sequence[Row]:
    return report.get(key) or ()


def percent_row(row: Row, key: str) -> str:
    return percent_interval(figure_of(row, key), figure_of(row, f"{key}_low"), figure_of(row, f"{key}_high"))


def positions_of(names: Iterable[str], wanted: str) -> frozenset[int]:
    return frozenset(i for i, name in enumerate(names) if name == wanted)
