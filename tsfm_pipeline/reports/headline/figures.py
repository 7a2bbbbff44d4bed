"""The headline's figures.

What belongs here: what the figures show. What does not: colours and bytes (`shared.style`), wording
(`shared.wording`). Every function returns a matplotlib Figure. A missing table becomes a note, a
missing interval a bare point.
"""

import math
from typing import TYPE_CHECKING

from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED, SEARCH
from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.shared import style
from tsfm_pipeline.reports.shared.marks import (
    dodged_rows,
    legend_above,
    method_style,
    note,
    ratio_limits,
    ratio_point,
    sortable,
    tier_panels,
    tier_series,
)
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.wording import is_part_of_the_search, method_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def headline_figure(report: HeadlineReport) -> "Figure":
    """Draw which methods cost less than the fixed configuration, and by how much, at each tier.

    The search's own rules are left out.
    """
    ratios = {
        (row.tier, row.method): row.ratio for row in report.table_methods if _is_shown(row.method)
    }
    if not ratios:
        return note("no methods were scored", "cost ratio of every method")
    lead = report.headline_tier
    methods = sorted(
        {method for _, method in ratios}, key=lambda m: (sortable(ratios.get((lead, m))), m)
    )
    labels = [method_label(method) for method in methods]
    limits = ratio_limits(ratios.values())
    with style.house_style():
        figure = style.new_figure(
            1.25 + 0.235 * len(methods),
            "Cost ratio of every method to the fixed configuration, per tier",
        )
        panels = tier_panels(
            figure, report.alphas, labels, limits, "cost ratio to the fixed configuration"
        )
        for tier, axes in panels:
            for y, method in enumerate(methods):
                if method == SEARCH:
                    axes.axhspan(
                        y - 0.45, y + 0.45, color=style.SEARCH_COLOUR, alpha=0.1, linewidth=0
                    )
                ratio_point(
                    axes, y, ratios.get((tier, method), Estimate()), limits, **method_style(method)
                )
        for tick, method in zip(panels[0][1].get_yticklabels(), methods, strict=True):
            if method in (SEARCH, FIXED):
                tick.set_color(style.SEARCH_COLOUR if method == SEARCH else style.FIXED_TEXT_COLOUR)
                tick.set_fontweight("bold")
    return figure


def archetype_figure(report: HeadlineReport, scope: str | None = None) -> "Figure":
    """Draw for whom the search pays: by archetype, or by metric where there are no archetypes."""
    scope = scope or report.group_scopes[0]
    rows = [row for row in report.groups(scope) if math.isfinite(row.ratio.figure)]
    if not rows:
        return note(f"no scores per {scope}", f"cost ratio of the search per {scope}")
    ratios = {(row.tier, row.scope_value): row.ratio for row in rows}
    series = tier_series(report.tiers, ratios)
    lead = report.headline_tier
    values = sorted(
        {value for _, value in ratios},
        key=lambda value: (sortable(ratios.get((lead, value))), value),
    )
    with style.house_style():
        figure = style.new_figure(
            1.0 + 0.4 * len(values),
            f"Cost ratio of the search to the fixed configuration per {scope}",
        )
        axes = figure.subplots()
        dodged_rows(
            axes,
            values,
            series,
            ratio_limits(ratios.values()),
            "cost ratio, search to fixed configuration (95 % interval)",
        )
        legend_above(axes, len(series))
    return figure


def _is_shown(method: str) -> bool:
    return not method.startswith(CONFIG_PREFIX) and not is_part_of_the_search(method)
