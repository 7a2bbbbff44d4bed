"""The figure of the recommendation report.

What belongs here: drawing. What does not: colours and bytes (`shared.style`), wording (`words`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.evaluation.methods import FIXED, SEARCH
from tsfm_pipeline.reports.recommendations.model import RecommendationReport
from tsfm_pipeline.reports.recommendations.words import METHOD_LABELS
from tsfm_pipeline.reports.shared.marks import note, ratio_limits, ratio_point, ratio_rows, sortable
from tsfm_pipeline.reports.shared.style import (
    FIXED_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def recommendation_figure(report: RecommendationReport) -> "Figure":
    """Draw the cost of constants relative to the fixed configuration's, and how often constants for
    the maximum hold, at the headline tier.
    """
    tier = report.headline_tier
    rows = report.methods_at(tier)
    steps = sorted(
        (row for row in rows if not row.for_maximum), key=lambda row: sortable(row.ratio)
    )
    peaks = [row for row in rows if row.for_maximum]
    description = f"Cost ratio and coverage of one constant per block, {tier} tier"
    if not rows:
        return note("no constants were scored", description)
    with house_style():
        figure = new_figure(1.1 + 0.3 * max(len(steps), len(peaks)), description)
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1.0))
        limits = ratio_limits([row.ratio for row in steps])
        for y, row in enumerate(steps):
            colour = {SEARCH: SEARCH_COLOUR, FIXED: FIXED_COLOUR}.get(row.method, MUTED_COLOUR)
            ratio_point(left, y, row.ratio, limits, colour, "o", 6.5)
        ratio_rows(
            left,
            [METHOD_LABELS[row.method] for row in steps],
            limits,
            "cost ratio to the fixed configuration",
        )
        right.axvline(report.tiers[tier].covered_target, color=FIXED_COLOUR, linewidth=1.0)
        for y, row in enumerate(peaks):
            colour = SEARCH_COLOUR if row.method == "search_peak" else INK_COLOUR
            right.hlines(y, row.covered.low, row.covered.high, color=colour, linewidth=1.6)
            right.plot([row.covered.figure], [y], marker="o", color=colour, markersize=6.5)
        right.set_yticks(range(len(peaks)), [METHOD_LABELS[row.method] for row in peaks])
        right.set_ylim(len(peaks) - 0.5, -0.5)
        right.set_xlim(0, 1)
        right.set_xlabel("share of blocks held; line: target")
    return figure
