"""The figures of the SLA report.

What belongs here: drawing. What does not: colours and bytes (`shared.style`), wording (`words`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tsfm_pipeline.reports.headline.figures import Report, Row
from tsfm_pipeline.reports.shared.marks import note
from tsfm_pipeline.reports.shared.style import FAINT, FIXED, FIXED_TEXT, INK, TIER_COLOURS, TIER_MARKERS, house_style, new_figure
from tsfm_pipeline.reports.shared.wording import figure_of, number, tier_label, tiers_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sla_figure(report: Report) -> "Figure":
    """Do the tiers get different reservations, and are they exceeded as often as their price says?"""
    rows = {str(row.get("tier")): row for row in report.get("table_tiers") or []}
    tiers = tiers_in(list(rows))
    if not tiers:
        return note("no tiers were scored", "violation rate and reservation per tier")
    at = range(len(tiers))
    with house_style():
        figure = new_figure(2.9, "Violation rate against its target, mean reservation per tier, and its paired differences")
        left, middle, right = figure.subplots(1, 3)
        for x, tier in zip(at, tiers, strict=True):
            target = 100 * figure_of(rows[tier], "violation_rate_target")
            left.hlines(target, x - 0.28, x + 0.28, color=FIXED, linewidth=2.0, label="target, 1 − alpha" if x == 0 else None)
            left.annotate(number(target), (x + 0.3, target), va="center", color=FIXED_TEXT)
            rate = [100 * figure_of(rows[tier], f"violation_rate{limit}") for limit in ("", "_low", "_high")]
            _tier_point(left, x, tier, *rate)
            _tier_point(middle, x, tier, *(figure_of(rows[tier], key) for key in ("mean_scaled_decision", "low", "high")))
        for axes in (left, middle):
            axes.set_xticks(at, [tier_label(tier).replace(" (", "\n(") for tier in tiers])
            axes.set_xlim(-0.6, len(tiers) - 0.4)
            axes.yaxis.grid(True, color=FAINT, linewidth=0.5)
        left.set_ylim(bottom=0)
        left.set_title("violations, % of steps")
        middle.set_title("mean reservation, scale units")
        right.set_title("paired difference, scale units")
        _tier_steps(right, report.get("table_steps") or [])
        left.legend(loc="upper left")
    return figure


def _tier_steps(axes: "Axes", steps: Sequence[Row]) -> None:
    """How much more each tier reserves than the next lower one, with the line of no difference."""
    for x, step in enumerate(steps):
        _tier_point(axes, x, str(step.get("higher_tier")), *(figure_of(step, key) for key in ("difference", "low", "high")))
    axes.axhline(0.0, color=FIXED, linewidth=1.0)
    axes.set_xticks(range(len(steps)), [f"{step.get('higher_tier')}\n− {step.get('lower_tier')}" for step in steps])
    axes.set_xlim(-0.6, max(len(steps), 1) - 0.4)
    axes.yaxis.grid(True, color=FAINT, linewidth=0.5)


def _tier_point(axes: "Axes", x: float, tier: str, value: float, low: float, high: float) -> None:
    colour = TIER_COLOURS.get(tier, INK)
    axes.vlines(x, low, high, color=colour, linewidth=1.6)
    axes.plot([x], [value], marker=TIER_MARKERS.get(tier, "D"), color=colour, linestyle="", markersize=8)
