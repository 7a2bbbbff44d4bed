"""One figure per report, each answering its question at a glance.

What belongs here: what the figures show. What does not: colours and bytes (`style`), wording (`wording`). Every function
returns a matplotlib Figure and draws what there is: a missing table becomes a note, a missing interval a bare point.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reporting.marks import (
    dodge,
    dodged_rows,
    legend_above,
    method_style,
    note,
    ratio_limits,
    ratio_point,
    short,
    sortable,
    tier_panels,
    tier_series,
)
from tsfm_pipeline.reporting.style import (
    FAINT,
    FIXED,
    FIXED_TEXT,
    INK,
    MUTED,
    SEARCH,
    STRATEGY_STYLES,
    TIER_COLOURS,
    TIER_MARKERS,
    house_style,
    new_figure,
)
from tsfm_pipeline.reporting.wording import (
    CONFIG_PREFIX,
    STRATEGY_LABELS,
    figure_of,
    is_part_of_the_search,
    method_label,
    number,
    tier_label,
    tiers_in,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


def cold_start_figure(report: Report, tier: str = HEADLINE_TIER) -> "Figure":
    """What may a tenant with little history expect?"""
    rows = [row for row in report.get("table_cold_start") or [] if row.get("tier") == tier]
    minutes = sorted({float(row["minutes"]) for row in rows if row.get("minutes") is not None})
    if not minutes:
        return note(f"no cold start was measured at the {tier} tier", "loss by minutes of history")
    present = {str(row.get("strategy")) for row in rows} - {"full_history"}
    strategies = [name for name in STRATEGY_LABELS if name in present] + sorted(present - set(STRATEGY_LABELS))
    by_key = {(row.get("minutes"), row.get("strategy")): row for row in rows}
    with house_style():
        figure = new_figure(3.9, f"Loss by minutes of history relative to full history, {tier} tier, per strategy")
        axes = figure.subplots()
        axes.axhline(1.0, color=INK, linewidth=1.2, label=STRATEGY_LABELS["full_history"])
        for shift, name in zip(dodge(len(strategies), 0.09), strategies, strict=True):
            colour, marker, line = STRATEGY_STYLES.get(name, (INK, "*", "-"))
            own = [by_key.get((m, name), {}) for m in minutes]
            at = [i + shift for i in range(len(minutes))]
            axes.vlines(at, *([figure_of(r, k) for r in own] for k in ("ratio_low", "ratio_high")), color=colour, linewidth=1.1)
            label = STRATEGY_LABELS.get(name, name)
            axes.plot(at, [figure_of(r, "ratio") for r in own], color=colour, marker=marker, linestyle=line, label=label)
        axes.set_xticks(range(len(minutes)), [f"{m:g}" for m in minutes])
        axes.set_xlabel("minutes of history")
        axes.set_ylabel(f"loss relative to full history, {tier}")
        axes.yaxis.grid(True, color=FAINT, linewidth=0.5)
        legend_above(axes, 3)
    return figure


def retrieval_figure(report: Report) -> "Figure":
    """How often is the archetype of a new tenant found, by the history that it brings?"""
    rows = list(report.get("table_retrieval") or [])
    if not rows:
        return note("this fleet has no archetypes to retrieve", "archetype retrieval")
    with house_style():
        figure = new_figure(2.6, "Accuracy of archetype retrieval by history", width_inches=5.5)
        axes = figure.subplots()
        at = range(len(rows))
        for key, label, colour, marker in (
            ("top1_accuracy", "top-1 accuracy", SEARCH, "o"),
            ("balanced_accuracy", "balanced accuracy", MUTED, "s"),
        ):
            axes.plot(at, [100 * figure_of(row, key) for row in rows], linestyle="-", color=colour, marker=marker, label=label)
        axes.vlines(at, *([100 * figure_of(row, key) for row in rows] for key in ("top1_low", "top1_high")), color=SEARCH, linewidth=1.1)
        axes.set_xticks(at, [short(str(row.get("history"))) for row in rows])
        axes.set_xlabel("minutes of history")
        axes.set_ylabel("tenants, %")
        axes.set_ylim(0, 103)
        axes.yaxis.grid(True, color=FAINT, linewidth=0.5)
        axes.legend(loc="lower right")
    return figure


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


def _is_shown(method: str) -> bool:
    return not method.startswith(CONFIG_PREFIX) and not is_part_of_the_search(method)
