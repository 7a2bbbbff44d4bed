"""The figure of the forecast quality report.

What belongs here: drawing. What does not: colours and bytes (`shared.style`), wording (`words`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.reports.quality.words import SKILL_LABELS, Report, method_rows, ratio_of
from tsfm_pipeline.reports.shared.marks import method_style, note, ratio_limits, ratio_point, ratio_rows
from tsfm_pipeline.reports.shared.wording import method_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def quality_figure(report: Report) -> "Figure":
    """How much better than seasonal naive is each method?"""
    from tsfm_pipeline.reports.shared.style import house_style, new_figure

    rows = method_rows(report)
    if not rows:
        return note("no forecast was scored", "WQL and MASE of every method relative to seasonal naive")
    labels = [method_label(str(row.get("method"))) for row in rows]
    with house_style():
        figure = new_figure(1.25 + 0.26 * len(rows), "WQL and MASE of every method, relative to seasonal naive")
        panels = figure.subplots(1, len(SKILL_LABELS), sharey=True, squeeze=False)[0]
        for axes, (score, label) in zip(panels, SKILL_LABELS.items(), strict=True):
            ratios = [ratio_of(row, score) for row in rows]
            limits = ratio_limits(ratios)
            for y, (row, ratio) in enumerate(zip(rows, ratios, strict=True)):
                ratio_point(axes, y, ratio, limits, **method_style(str(row.get("method"))))
            ratio_rows(axes, labels, limits, label)
    return figure
