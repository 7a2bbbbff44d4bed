"""The figure of the recommendation report.

What belongs here: drawing. What does not: colours and bytes (`shared.style`), wording (`words`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.recommendations.words import METHOD_LABELS, Report, sortable_figure
from tsfm_pipeline.reports.shared.marks import note, ratio_limits, ratio_point, ratio_rows
from tsfm_pipeline.reports.shared.wording import figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def recommendation_figure(report: Report) -> "Figure":
    """What do constants cost beside the fixed configuration's, and how often do those for the maximum hold, at the headline tier?"""
    from tsfm_pipeline.reports.shared.style import FIXED, INK, MUTED, SEARCH, house_style, new_figure

    rows = [row for row in report.get("table_methods") or [] if row.get("tier") == HEADLINE_TIER]
    steps = [row for row in rows if not row.get("for_maximum")]
    peaks = [row for row in rows if row.get("for_maximum")]
    description = f"Cost ratio and coverage of one constant per block, {HEADLINE_TIER} tier"
    if not rows:
        return note("no constants were scored", description)
    steps.sort(key=lambda row: sortable_figure(figure_of(row, "ratio")))
    with house_style():
        figure = new_figure(1.1 + 0.3 * max(len(steps), len(peaks)), description)
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1.0))
        limits = ratio_limits(steps)
        for y, row in enumerate(steps):
            colour = {"search": SEARCH, "fixed_quantile": FIXED}.get(str(row.get("method")), MUTED)
            ratio_point(left, y, row, limits, colour, "o", 6.5)
        ratio_rows(left, [METHOD_LABELS[str(row["method"])] for row in steps], limits, "cost ratio to the fixed configuration")
        target = figure_of(report, f"{HEADLINE_TIER}_covered_target")
        right.axvline(target, color=FIXED, linewidth=1.0)
        for y, row in enumerate(peaks):
            colour = SEARCH if row.get("method") == "search_peak" else INK
            covered, low, high = (figure_of(row, f"covered{limit}") for limit in ("", "_low", "_high"))
            right.hlines(y, low, high, color=colour, linewidth=1.6)
            right.plot([covered], [y], marker="o", color=colour, markersize=6.5)
        right.set_yticks(range(len(peaks)), [METHOD_LABELS[str(row["method"])] for row in peaks])
        right.set_ylim(len(peaks) - 0.5, -0.5)
        right.set_xlim(0, 1)
        right.set_xlabel("share of blocks held; line: target")
    return figure
