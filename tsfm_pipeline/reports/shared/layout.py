"""The building blocks of the report's page: sections with an answer, figures, tables and parts that
start closed.

What belongs here: the blocks that the template knows. What does not: their contents (`sections`,
`background`), markup (`templates/`).
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup

from tsfm_pipeline.reports.shared.style import to_svg
from tsfm_pipeline.reports.shared.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn = tuple[Markup, str]
"""A figure and its caption."""


@dataclass(frozen=True)
class Fold:
    """Tables that stay closed until a reader opens them, and figures that show the same."""

    title: str
    tables: tuple[Table, ...]
    figures: tuple[Drawn, ...]


@dataclass
class Section:
    """One section of the page: a question, its answer, points (a word and a sentence each), figures
    and tables.

    `label` is the section's short name in the table of contents. `missing` says what must be
    materialised where there is nothing to show.
    """

    anchor: str
    label: str
    title: str
    missing: str = ""
    answer: str = ""
    points: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: list[Drawn] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[Fold] = field(default_factory=list)
    gallery: list[tuple[Markup, str, str]] = field(default_factory=list)
    commands: str = ""
    badges: bool = False

    def show(self, *tables: Table) -> None:
        """Add tables, except empty ones."""
        self.tables += [table for table in tables if table.rows]

    def draw(self, figure: "Figure", caption: str) -> None:
        """Add a figure."""
        self.figures.append((Markup(to_svg(figure)), caption))

    def fold(self, *tables: Table, figure: "Figure | None" = None, caption: str = "") -> None:
        """Add tables, except empty ones, that start closed under the first one's caption, with the
        figure that shows the same.
        """
        filled = tuple(table for table in tables if table.rows)
        if filled:
            drawn = ((Markup(to_svg(figure)), caption),) if figure is not None else ()
            self.folded.append(Fold(filled[0].caption, filled, drawn))
