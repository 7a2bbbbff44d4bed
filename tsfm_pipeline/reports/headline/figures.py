"""One figure per report, each answering its question at a glance.

What belongs here: what the figures show. What does not: colours and bytes (`style`), wording (`wording`). Every function
returns a matplotlib Figure and draws what there is: a missing table becomes a note, a missing interval a bare point.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
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
from tsfm_pipeline.reports.shared.style import (
    FIXED_TEXT,
    SEARCH,
    house_style,
    new_figure,
)
from tsfm_pipeline.reports.shared.wording import (
    CONFIG_PREFIX,
    figure_of,
    is_part_of_the_search,
    method_label,
    tiers_in,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = Mapping[str, Any]
Row = Mapping[str, Any]


def headline_figure(report: Report) -> "Figure":
    """Which methods cost less than the fixed configuration, and by how much, at each tier? The search's own rules are left out."""
    rows = [row for row in report.get("table_methods") or [] if _is_shown(str(row.get("method")))]
    tiers = tiers_in([str(row.get("tier")) for row in rows])
    if not rows:
        return note("no methods were scored", "cost ratio of every method")
    by_key = {(row.get("tier"), row.get("method")): row for row in rows}
    lead = HEADLINE_TIER if HEADLINE_TIER in tiers else tiers[0]
    methods = sorted({str(row.get("method")) for row in rows}, key=lambda m: (sortable(by_key.get((lead, m), {})), m))
    limits = ratio_limits(rows)
    with house_style():
        figure = new_figure(1.25 + 0.235 * len(methods), "Cost ratio of every method to the fixed configuration, per tier")
        panels = tier_panels(figure, tiers, [method_label(method) for method in methods], limits, "cost ratio to the fixed configuration")
        for tier, axes in panels:
            for y, method in enumerate(methods):
                if method == "search":
                    axes.axhspan(y - 0.45, y + 0.45, color=SEARCH, alpha=0.1, linewidth=0)
                ratio_point(axes, y, by_key.get((tier, method), {}), limits, **method_style(method))
        for tick, method in zip(panels[0][1].get_yticklabels(), methods, strict=True):
            if method in ("search", "fixed_quantile"):
                tick.set_color(SEARCH if method == "search" else FIXED_TEXT)
                tick.set_fontweight("bold")
    return figure


def archetype_figure(report: Report, scope: str | None = None) -> "Figure":
    """For whom does the search pay? By archetype, or by metric where the fleet has no archetypes."""
    scope = scope or ("archetype" if report.get("table_archetypes") else "metric")
    rows = [row for row in report.get(f"table_{scope}s") or [] if math.isfinite(figure_of(row, "ratio"))]
    if not rows:
        return note(f"no scores per {scope}", f"cost ratio of the search per {scope}")
    tiers = tiers_in([str(row.get("tier")) for row in rows])
    series = tier_series(rows, tiers, "scope_value")
    lead = next(own.rows for own in series if own.name == (HEADLINE_TIER if HEADLINE_TIER in tiers else tiers[0]))
    values = sorted({str(row.get("scope_value")) for row in rows}, key=lambda value: (sortable(lead.get(value, {})), value))
    with house_style():
        figure = new_figure(1.0 + 0.4 * len(values), f"Cost ratio of the search to the fixed configuration per {scope}")
        axes = figure.subplots()
        dodged_rows(axes, values, series, ratio_limits(rows), "cost ratio, search to fixed configuration (95 % interval)")
        legend_above(axes, len(tiers))
    return figure


def _is_shown(method: str) -> bool:
    return not method.startswith(CONFIG_PREFIX) and not is_part_of_the_search(method)
