"""The figure of the forecast quality report.

What belongs here: drawing. What does not: colours and bytes (`shared.style`), wording (`words`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.reports.quality.model import QualityReport
from tsfm_pipeline.reports.shared.marks import (
    method_style,
    note,
    ratio_limits,
    ratio_point,
    ratio_rows,
)
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import house_style, new_figure
from tsfm_pipeline.reports.shared.wording import method_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def quality_figure(report: QualityReport) -> "Figure":
    """Draw how much better than seasonal naive each method is."""
    rows = report.headline_methods
    if not rows:
        return note(
            "no forecast was scored", "WQL and MASE of every method relative to seasonal naive"
        )
    labels = [method_label(row.method) for row in rows]
    skills = {"WQL": [row.wql_skill for row in rows], "MASE": [row.mase_skill for row in rows]}
    with house_style():
        figure = new_figure(
            1.25 + 0.26 * len(rows), "WQL and MASE of every method, relative to seasonal naive"
        )
        panels = figure.subplots(1, len(skills), sharey=True, squeeze=False)[0]
        for axes, (score, of_rows) in zip(panels, skills.items(), strict=True):
            ratios = [_ratio_of(skill) for skill in of_rows]
            limits = ratio_limits(ratios)
            for y, (row, ratio) in enumerate(zip(rows, ratios, strict=True)):
                ratio_point(axes, y, ratio, limits, **method_style(row.method))
            ratio_rows(axes, labels, limits, f"{score}, relative to seasonal naive")
    return figure


def _ratio_of(skill: Estimate) -> Estimate:
    """Return the ratio that a skill was computed from."""
    return Estimate(1.0 - skill.figure, 1.0 - skill.high, 1.0 - skill.low)
