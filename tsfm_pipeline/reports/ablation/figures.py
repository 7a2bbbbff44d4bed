"""Figures of the ablation report: steps, rivals, groups, selection, controls and floor.

What belongs here: what these figures show. What does not: shared marks (`marks`), colours and bytes (`style`), sentences (`ablation`).
Every function returns a matplotlib Figure and draws what there is.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.shared.answer import effect_of
from tsfm_pipeline.reports.shared.marks import (
    Series,
    dodged_rows,
    legend_above,
    method_style,
    note,
    ratio_limits,
    ratio_point,
    ratio_rows,
    short,
    sortable,
    tier_panels,
    tier_series,
)
from tsfm_pipeline.reports.shared.style import FIXED, FIXED_TEXT, INK, MUTED, SEARCH, house_style, new_figure
from tsfm_pipeline.reports.shared.wording import DIRECT_METHODS, figure_of, method_label, tiers_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = Mapping[str, Any]
Row = Mapping[str, Any]

LOWEST_RATIO = 0.7
FLOOR_CAP = 2.5
STEP_STYLES: dict[str, tuple[str, str]] = {
    "rule:argmin": ("#9A6700", "v"),
    "rule:shrunken_argmin": ("#009E73", "s"),
    "search_uncorrected": ("#CC79A7", "D"),
    "search": (SEARCH, "o"),
}
BEATEN_STYLES: dict[str, tuple[str, str, str]] = {
    "yes": ("beaten", SEARCH, "o"),
    "undecided": ("undecided", MUTED, "D"),
    "no": ("cheaper than the search", FIXED, "X"),
}


def steps_figure(report: Report) -> "Figure":
    """What does each step from the median to the whole search add?"""
    rows = [row for row in report.get("table_steps") or [] if row.get("scope") == "all"]
    if not rows:
        return note("no steps were scored", "cost ratio after each step of the search")
    tiers = tiers_in([str(row.get("tier")) for row in rows])
    methods = list(dict.fromkeys(str(row.get("method")) for row in rows))
    by_key = {(row.get("tier"), row.get("method")): row for row in rows}
    adds = [str(by_key[tiers[0], method].get("adds")) for method in methods]
    limits = ratio_limits(rows)
    with house_style():
        figure = new_figure(1.2 + 0.42 * len(methods), "Cost ratio to the fixed configuration after each step, per tier")
        for tier, axes in tier_panels(figure, tiers, adds, limits, "cost ratio to the fixed configuration"):
            for y, method in enumerate(methods):
                row = by_key.get((tier, method), {})
                colour, marker = (FIXED, "D") if method == "fixed_quantile" else STEP_STYLES.get(method, (INK, "o"))
                ratio_point(axes, y, row, limits, colour, marker, 6.5)
                _step_note(axes, limits[1], y - 0.5, row)
    return figure


def rivals_figure(report: Report) -> "Figure":
    """Does the headline survive its rivals? The search's cost over each of theirs."""
    rows = [row for row in report.get("table_rivals") or [] if row.get("method") != "search"]
    if not rows:
        return note("no rivals were scored", "cost ratio of the search to its rivals")
    tiers = tiers_in([str(row.get("tier")) for row in rows])
    lead = HEADLINE_TIER if HEADLINE_TIER in tiers else tiers[0]
    by_key = {(row.get("tier"), row.get("method")): row for row in rows}
    methods = sorted({str(r.get("method")) for r in rows}, key=lambda m: (-figure_of(by_key.get((lead, m), {}), "search_ratio"), m))
    limits = ratio_limits(rows, "search_ratio", LOWEST_RATIO)
    with house_style():
        figure = new_figure(1.25 + 0.22 * len(methods), "Cost ratio of the search to every rival, per tier")
        panels = tier_panels(figure, tiers, [method_label(method) for method in methods], limits, "cost of the search over the rival's")
        for tier, axes in panels:
            for y, method in enumerate(methods):
                row = by_key.get((tier, method), {})
                _, colour, marker = BEATEN_STYLES.get(str(row.get("beaten")), BEATEN_STYLES["undecided"])
                ratio_point(axes, y, row, limits, colour, marker, 5.0, "search_ratio")
        for tick, method in zip(panels[0][1].get_yticklabels(), methods, strict=True):
            tick.set_style("italic" if method in DIRECT_METHODS else "normal")
        for label, colour, marker in BEATEN_STYLES.values():
            panels[0][1].plot([], [], linestyle="", marker=marker, color=colour, label=label)
        figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def groups_figure(report: Report, tier: str = HEADLINE_TIER) -> "Figure":
    """For whom does each step pay? Cost after each step by archetype, tenant or metric; groups that are worse off in red."""
    rows = [row for row in report.get("table_steps") or [] if row.get("scope") != "all" and row.get("tier") == tier]
    by_method = {method: {str(row.get("scope_value")): row for row in rows if row.get("method") == method} for method in STEP_STYLES}
    if not by_method["search"]:
        return note(f"no groups were scored at the {tier} tier", "cost ratio after each step by group")
    values = sorted(by_method["search"], key=lambda value: (sortable(by_method["search"][value]), value))
    series = [Series(method_label(method), *style, by_method[method]) for method, style in STEP_STYLES.items()]
    limits = ratio_limits([row for own in by_method.values() for row in own.values()], lowest=LOWEST_RATIO)
    scope = report.get("group_scope", "group")
    with house_style():
        figure = new_figure(1.15 + 0.45 * len(values), f"Cost ratio to the fixed configuration after each step by {scope}, {tier} tier")
        axes = figure.subplots()
        dodged_rows(axes, values, series, limits, f"cost ratio to the fixed configuration, {tier} tier")
        for tick, value in zip(axes.get_yticklabels(), values, strict=True):
            if by_method["search"][value].get("harmed"):
                tick.set(color=FIXED_TEXT, fontweight="bold")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def selection_figure(report: Report, tier: str = HEADLINE_TIER) -> "Figure":
    """Which configurations does the search weigh, and for whom? Mean weights, in per cent."""
    rows = [row for row in report.get("table_selection") or [] if row.get("tier") == tier]
    if not rows:
        return note(f"nothing was selected at the {tier} tier", "mean weight of each configuration")
    configs = list(dict.fromkeys(str(row.get("config")) for row in rows))
    groups = list(dict.fromkeys((row.get("scope") != "all", str(row.get("scope_value"))) for row in rows))
    by_key = {(row.get("scope") != "all", row.get("scope_value"), row.get("config")): figure_of(row, "mean_weight") for row in rows}
    shares = [[100 * by_key[(*group, config)] for config in configs] for group in groups]
    names = [short(name) if own else "all" for own, name in groups]
    with house_style():
        figure = new_figure(1.2 + 0.27 * len(groups), f"Mean weight of each configuration by {report.get('group_scope')}, {tier} tier")
        axes = figure.subplots()
        highest = max(max(row) for row in shares)
        edges = ([i - 0.5 for i in range(len(names) + 1)] for names in (configs, groups))
        axes.pcolormesh(*edges, shares, cmap="Blues", vmin=0, vmax=highest)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                text = f"{share:.0f}" if share >= 0.5 else "·"
                axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color="white" if share > 0.6 * highest else INK)
        axes.set_xticks(range(len(configs)), configs, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.axhline(0.5, color=INK, linewidth=0.8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"mean weight, %, {tier} tier")
    return figure


def controls_figure(report: Report) -> "Figure":
    """Which dimension of the search space, and which prior, earns its place?"""
    dimensions = [
        {**row, "label": f"{row.get('dimension')}: {'search' if row.get('method') == 'search' else 'best fixed'}"}
        for row in report.get("table_dimensions") or []
    ]
    priors = [{**row, "label": f"neighbours' prior : {row.get('control')}"} for row in report.get("table_controls") or []]
    rows = [*dimensions, *priors]
    if not rows:
        return note("nothing was taken away", "cost ratio with and without each part of the search")
    tiers = tiers_in([str(row.get("tier")) for row in rows])
    labels = list(dict.fromkeys(str(row["label"]) for row in rows))
    with house_style():
        figure = new_figure(1.1 + 0.42 * len(labels), "Cost ratio with against without each dimension of the search space and each prior")
        axes = figure.subplots()
        title = "cost with it over cost without it (95 % interval); an interval that holds 1 shows no effect"
        dodged_rows(axes, labels, tier_series(rows, tiers, "label"), ratio_limits(rows, lowest=LOWEST_RATIO), title)
        legend_above(axes, len(tiers))
    return figure


def floor_figure(report: Report, tier: str = HEADLINE_TIER) -> "Figure":
    """How near is perfect? Multiples of the irreducible loss, by method and by archetype."""
    rows = [row for row in report.get("table_floor") or [] if row.get("tier") == tier]
    if not rows:
        return note("the irreducible loss is known for synthetic fleets only", "multiples of the irreducible loss")
    methods = [row for row in rows if row.get("scope") == "all"]
    groups = [row for row in rows if row.get("scope") != "all"]
    limits = ratio_limits(rows, "multiple", cap=FLOOR_CAP)
    with house_style():
        figure = new_figure(1.1 + 0.24 * len(methods), f"Loss of every method as a multiple of the irreducible loss, {tier} tier")
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        for y, row in enumerate(methods):
            ratio_point(left, y, row, limits, **method_style(str(row.get("method"))), key="multiple")
        ratio_rows(left, [method_label(str(row.get("method"))) for row in methods], limits, f"multiple of the irreducible loss, {tier}")
        left.set_title("all tenants")
        pair = [
            Series(
                method_label(method),
                method_style(method)["color"],
                method_style(method)["marker"],
                {str(row.get("scope_value")): row for row in groups if row.get("method") == method},
            )
            for method in ("search", "fixed_quantile")
        ]
        dodged_rows(right, sorted({value for own in pair for value in own.rows}), pair, limits, "", "multiple")
        right.set_title("by archetype")
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def _step_note(axes: "Axes", x: float, y: float, row: Row) -> None:
    """The step's own ratio, between the rows that it leads from and to; blue where it lowers the cost, red where it raises it."""
    ratio, low, high = (figure_of(row, f"step_ratio{limit}") for limit in ("", "_low", "_high"))
    if math.isfinite(ratio):
        colour = {"gain": SEARCH, "loss": FIXED_TEXT}.get(effect_of(ratio, low, high), MUTED)
        weight = "normal" if colour == MUTED else "bold"
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center"}
        axes.annotate(f"× {ratio:.3f}", (x, y), (-2, 0), color=colour, fontsize=7.5, fontweight=weight, **place)
