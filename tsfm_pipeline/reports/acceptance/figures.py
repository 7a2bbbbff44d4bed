"""Two small figures on whole runs: the verdicts on the criteria, and the headline over time.

What belongs here: drawing verdicts and history. What does not: judging (`criteria`), recording
(`ledger`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.reports.acceptance.model import CriteriaReport, LedgerReport, Verdict
from tsfm_pipeline.reports.acceptance.words import criterion_figure
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERDICTS: dict[Verdict, tuple[str, str]] = {
    "PASS": (SEARCH_COLOUR, "o"),
    "FAIL": (FIXED_COLOUR, "X"),
    "NULL": (MUTED_COLOUR, "D"),
    "N/A": (FAINT_COLOUR, "s"),
}
"""Colour and marker of each verdict; the word stands beside them."""


def criteria_figure(report: CriteriaReport) -> "Figure":
    """Draw which criteria are met, missed, undecided or not answerable, and their figures."""
    rows = report.table_criteria
    with house_style():
        figure = new_figure(
            0.7 + 0.42 * max(len(rows), 1), "Verdict and figure of every acceptance criterion"
        )
        axes = figure.subplots()
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
        axes.axis("off")
        for y, row in enumerate(rows):
            colour, marker = VERDICTS[row.verdict]
            axes.axhline(y + 0.5, color=FAINT_COLOUR, linewidth=0.6)
            axes.plot(
                [0.012],
                [y],
                marker=marker,
                color=colour,
                markersize=9,
                markeredgecolor=INK_COLOUR,
                markeredgewidth=0.4,
            )
            axes.text(0.03, y, row.verdict, va="center", color=INK_COLOUR, fontweight="bold")
            axes.text(0.085, y, row.id, va="center", color=INK_COLOUR)
            axes.text(0.125, y - 0.17, row.title, va="center", color=INK_COLOUR, fontsize=7.8)
            axes.text(0.125, y + 0.22, row.target, va="center", color=MUTED_COLOUR, fontsize=6.8)
            axes.text(0.99, y, criterion_figure(row), va="center", ha="right", color=INK_COLOUR)
    return figure


def ledger_figure(report: LedgerReport) -> "Figure":
    """Draw the headline tier's cost ratio from one materialisation to the next."""
    rows, tier = report.table_ledger, report.headline_tier
    with house_style():
        figure = new_figure(2.6, f"Cost ratio of the search at the {tier} tier, by materialisation")
        axes = figure.subplots()
        for x, row in enumerate(rows):
            ratio, low, high = row.tiers[tier].ratio if tier in row.tiers else Estimate()
            axes.vlines(x, low, high, color=SEARCH_COLOUR, linewidth=1.6)
            axes.plot([x], [ratio], "o", color=SEARCH_COLOUR)
        axes.axhline(1.0, color=FIXED_COLOUR, linewidth=1.0)
        labels = [f"{str(row.time)[:16]}\n{(row.git_commit or 'no commit')[:8]}" for row in rows]
        axes.set_xticks(range(len(rows)), labels, fontsize=7)
        axes.set_xlim(-0.5, max(len(rows), 1) - 0.5)
        axes.set_ylabel("cost ratio to fixed")
    return figure
