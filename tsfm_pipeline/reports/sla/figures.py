"""The figures of the SLA report.

What belongs here: drawing. What does not: colours and bytes (`shared.style`), wording (`words`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.reports.shared.marks import note
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_COLOUR,
    FIXED_TEXT_COLOUR,
    house_style,
    new_figure,
    tier_styles,
)
from tsfm_pipeline.reports.shared.wording import number, tier_label
from tsfm_pipeline.reports.sla.model import SlaReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sla_figure(report: SlaReport) -> "Figure":
    """Draw the reservations of the tiers, and how often demand exceeds them beside the target."""
    rows = report.table_tiers
    if not rows:
        return note("no tiers were scored", "violation rate and reservation per tier")
    styles = tier_styles(report.alphas)
    at = range(len(rows))
    with house_style():
        figure = new_figure(
            2.9,
            "Violation rate against its target, mean reservation per tier, and its paired "
            "differences",
        )
        left, middle, right = figure.subplots(1, 3)
        for x, row in enumerate(rows):
            target = 100 * row.violation_rate_target
            left.hlines(
                target,
                x - 0.28,
                x + 0.28,
                color=FIXED_COLOUR,
                linewidth=2.0,
                label="target, 1 − alpha" if x == 0 else None,
            )
            left.annotate(number(target), (x + 0.3, target), va="center", color=FIXED_TEXT_COLOUR)
            _point(
                left, x, Estimate(*(100 * rate for rate in row.violation_rate)), styles[row.tier]
            )
            _point(middle, x, row.mean_scaled_decision, styles[row.tier])
        for axes in (left, middle):
            axes.set_xticks(
                at, [tier_label(row.tier, row.alpha).replace(" (", "\n(") for row in rows]
            )
            axes.set_xlim(-0.6, len(rows) - 0.4)
            axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        left.set_ylim(bottom=0)
        left.set_title("violations, % of steps")
        middle.set_title("mean reservation, scale units")
        right.set_title("paired difference, scale units")
        _steps(right, report)
        left.legend(loc="upper left")
    return figure


def _steps(axes: "Axes", report: SlaReport) -> None:
    """Draw how much more each tier reserves than the next lower one, with the line of no
    difference.
    """
    styles, steps = tier_styles(report.alphas), report.table_steps
    for x, step in enumerate(steps):
        _point(axes, x, step.difference, styles[step.higher_tier])
    axes.axhline(0.0, color=FIXED_COLOUR, linewidth=1.0)
    axes.set_xticks(
        range(len(steps)), [f"{step.higher_tier}\n− {step.lower_tier}" for step in steps]
    )
    axes.set_xlim(-0.6, max(len(steps), 1) - 0.4)
    axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)


def _point(axes: "Axes", x: float, estimate: Estimate, style: tuple[str, str]) -> None:
    """Draw an estimate in a tier's colour and marker."""
    colour, marker = style
    axes.vlines(x, estimate.low, estimate.high, color=colour, linewidth=1.6)
    axes.plot([x], [estimate.figure], marker=marker, color=colour, linestyle="", markersize=8)
