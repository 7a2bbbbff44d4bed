"""Figures of the ablation report: steps, rivals, groups, selection, controls and floor.

What belongs here: what these figures show. What does not: shared marks (`shared.marks`), colours
and bytes (`shared.style`), sentences (`words`). Every function returns a matplotlib Figure and
draws whatever figures the report has.
"""

import math
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.evaluation import methods as method_names
from tsfm_pipeline.evaluation.methods import ARGMIN, SEARCH_UNCORRECTED, SHRUNKEN_ARGMIN, method_of
from tsfm_pipeline.reports.ablation.model import AblationReport
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
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import (
    FIXED_COLOUR,
    FIXED_TEXT_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
)
from tsfm_pipeline.reports.shared.wording import method_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOWEST_RATIO = 0.7
FLOOR_CAP = 2.5
STEP_STYLES: dict[str, tuple[str, str]] = {
    ARGMIN: ("#9A6700", "v"),
    SHRUNKEN_ARGMIN: ("#009E73", "s"),
    SEARCH_UNCORRECTED: ("#CC79A7", "D"),
    "search": (SEARCH_COLOUR, "o"),
}
BEATEN_STYLES: dict[str, tuple[str, str, str]] = {
    "yes": ("beaten", SEARCH_COLOUR, "o"),
    "undecided": ("undecided", MUTED_COLOUR, "D"),
    "no": ("cheaper than the search", FIXED_COLOUR, "X"),
}


def steps_figure(report: AblationReport) -> "Figure":
    """Draw what each step from the median to the whole search adds."""
    rows = [row for row in report.table_steps if row.scope == "all"]
    if not rows:
        return note("no steps were scored", "cost ratio after each step of the search")
    by_key = {(row.tier, row.method): row for row in rows}
    adds = {row.method: row.adds for row in rows}
    limits = ratio_limits(row.ratio for row in rows)
    with house_style():
        figure = new_figure(
            1.2 + 0.42 * len(adds),
            "Cost ratio to the fixed configuration after each step, per tier",
        )
        panels = tier_panels(
            figure,
            report.alphas,
            list(adds.values()),
            limits,
            "cost ratio to the fixed configuration",
        )
        for tier, axes in panels:
            for y, method in enumerate(adds):
                row = by_key.get((tier, method))
                colour, marker = (
                    (FIXED_COLOUR, "D")
                    if method == method_names.FIXED
                    else STEP_STYLES.get(method, (INK_COLOUR, "o"))
                )
                ratio_point(axes, y, row.ratio if row else Estimate(), limits, colour, marker, 6.5)
                _step_note(axes, limits[1], y - 0.5, row.step_ratio if row else Estimate())
    return figure


def rivals_figure(report: AblationReport) -> "Figure":
    """Draw the search's cost over each rival's: does the headline survive its rivals?"""
    by_key = {
        (row.tier, row.method): row
        for row in report.table_rivals
        if row.method != method_names.SEARCH
    }
    if not by_key:
        return note("no rivals were scored", "cost ratio of the search to its rivals")
    lead = report.headline_tier

    def order(method: str) -> tuple[float, str]:
        row = by_key.get((lead, method))
        return (-row.search_ratio.figure if row else math.nan), method

    methods = sorted({method for _, method in by_key}, key=order)
    labels = [method_label(method) for method in methods]
    limits = ratio_limits((row.search_ratio for row in by_key.values()), lowest=LOWEST_RATIO)
    with house_style():
        figure = new_figure(
            1.25 + 0.22 * len(methods), "Cost ratio of the search to every rival, per tier"
        )
        panels = tier_panels(
            figure, report.alphas, labels, limits, "cost of the search over the rival's"
        )
        for tier, axes in panels:
            for y, method in enumerate(methods):
                row = by_key.get((tier, method))
                _, colour, marker = BEATEN_STYLES[row.beaten if row else "undecided"]
                ratio_point(
                    axes, y, row.search_ratio if row else Estimate(), limits, colour, marker, 5.0
                )
        for tick, method in zip(panels[0][1].get_yticklabels(), methods, strict=True):
            tick.set_style("italic" if method_of(method).is_direct else "normal")
        for label, colour, marker in BEATEN_STYLES.values():
            panels[0][1].plot([], [], linestyle="", marker=marker, color=colour, label=label)
        figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def groups_figure(report: AblationReport) -> "Figure":
    """Draw for whom each step pays: cost after each step by archetype, tenant or metric.

    Groups that are worse off are in red.
    """
    tier = report.headline_tier
    rows = [
        row
        for row in report.table_steps
        if row.scope != "all" and row.tier == tier and row.method in STEP_STYLES
    ]
    by_method: dict[str, dict[str, Estimate]] = {method: {} for method in STEP_STYLES}
    for row in rows:
        by_method[row.method][row.scope_value] = row.ratio
    search = by_method[method_names.SEARCH]
    if not search:
        return note(
            f"no groups were scored at the {tier} tier", "cost ratio after each step by group"
        )
    harmed = {row.scope_value for row in rows if row.method == method_names.SEARCH and row.harmed}
    values = sorted(search, key=lambda value: (sortable(search[value]), value))
    series = [
        Series(method_label(method), *style, by_method[method])
        for method, style in STEP_STYLES.items()
    ]
    limits = ratio_limits((row.ratio for row in rows), lowest=LOWEST_RATIO)
    scope = report.group_scope
    with house_style():
        figure = new_figure(
            1.15 + 0.45 * len(values),
            f"Cost ratio to the fixed configuration after each step by {scope}, {tier} tier",
        )
        axes = figure.subplots()
        dodged_rows(
            axes, values, series, limits, f"cost ratio to the fixed configuration, {tier} tier"
        )
        for tick, value in zip(axes.get_yticklabels(), values, strict=True):
            if value in harmed:
                tick.set(color=FIXED_TEXT_COLOUR, fontweight="bold")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def selection_figure(report: AblationReport) -> "Figure":
    """Draw which configurations the search weighs, and for whom: mean weights, in per cent."""
    tier = report.headline_tier
    rows = [row for row in report.table_selection if row.tier == tier]
    if not rows:
        return note(f"nothing was selected at the {tier} tier", "mean weight of each configuration")
    configs = list(dict.fromkeys(row.config for row in rows))
    groups = list(dict.fromkeys((row.scope != "all", row.scope_value) for row in rows))
    by_key = {(row.scope != "all", row.scope_value, row.config): row.mean_weight for row in rows}
    shares = [[100 * by_key[*group, config] for config in configs] for group in groups]
    names = [short(name) if own else "all" for own, name in groups]
    with house_style():
        figure = new_figure(
            1.2 + 0.27 * len(groups),
            f"Mean weight of each configuration by {report.group_scope}, {tier} tier",
        )
        axes = figure.subplots()
        highest = max(max(row) for row in shares)
        edges = ([i - 0.5 for i in range(len(names) + 1)] for names in (configs, groups))
        axes.pcolormesh(*edges, shares, cmap="Blues", vmin=0, vmax=highest)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                text = f"{share:.0f}" if share >= 0.5 else "·"
                axes.text(
                    x,
                    y,
                    text,
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="white" if share > 0.6 * highest else INK_COLOUR,
                )
        axes.set_xticks(
            range(len(configs)), configs, rotation=35, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(range(len(names)), names)
        axes.axhline(0.5, color=INK_COLOUR, linewidth=0.8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"mean weight, %, {tier} tier")
    return figure


def controls_figure(report: AblationReport) -> "Figure":
    """Draw which dimension of the search space, and which prior, earns its place."""
    ratios = {
        (
            row.tier,
            f"{row.dimension}: {'search' if row.method == method_names.SEARCH else 'best fixed'}",
        ): row.ratio
        for row in report.table_dimensions
    }
    ratios |= {
        (row.tier, f"neighbours' prior : {row.control}"): row.ratio for row in report.table_controls
    }
    if not ratios:
        return note("nothing was taken away", "cost ratio with and without each part of the search")
    series = tier_series(report.tiers, ratios)
    labels = list(dict.fromkeys(label for _, label in ratios))
    with house_style():
        figure = new_figure(
            1.1 + 0.42 * len(labels),
            "Cost ratio with against without each dimension of the search space and each prior",
        )
        axes = figure.subplots()
        title = (
            "cost with it over cost without it (95 % interval); an interval that holds 1 "
            "shows no effect"
        )
        dodged_rows(axes, labels, series, ratio_limits(ratios.values(), lowest=LOWEST_RATIO), title)
        legend_above(axes, len(series))
    return figure


def floor_figure(report: AblationReport) -> "Figure":
    """Draw multiples of the irreducible loss, by method and by archetype."""
    tier = report.headline_tier
    rows = [row for row in report.table_floor if row.tier == tier]
    if not rows:
        return note(
            "the irreducible loss is known for synthetic fleets only",
            "multiples of the irreducible loss",
        )
    methods = [row for row in rows if row.scope == "all"]
    groups = [row for row in rows if row.scope != "all"]
    limits = ratio_limits((row.multiple for row in rows), cap=FLOOR_CAP)
    with house_style():
        figure = new_figure(
            1.1 + 0.24 * len(methods),
            f"Loss of every method as a multiple of the irreducible loss, {tier} tier",
        )
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        for y, row in enumerate(methods):
            ratio_point(left, y, row.multiple, limits, **method_style(row.method))
        ratio_rows(
            left,
            [method_label(row.method) for row in methods],
            limits,
            f"multiple of the irreducible loss, {tier}",
        )
        left.set_title("all tenants")
        pair = [
            Series(
                method_label(method),
                method_style(method)["color"],
                method_style(method)["marker"],
                {row.scope_value: row.multiple for row in groups if row.method == method},
            )
            for method in (method_names.SEARCH, method_names.FIXED)
        ]
        dodged_rows(
            right, sorted({value for own in pair for value in own.ratios}), pair, limits, ""
        )
        right.set_title("by archetype")
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def _step_note(axes: "Axes", x: float, y: float, step: Estimate) -> None:
    """Write the step's own ratio between the rows of this step and the one before.

    Blue where the step lowers the cost, red where it raises it.
    """
    if math.isfinite(step.figure):
        colour = {"gain": SEARCH_COLOUR, "loss": FIXED_TEXT_COLOUR}.get(
            effect_of(*step), MUTED_COLOUR
        )
        weight = "normal" if colour == MUTED_COLOUR else "bold"
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center"}
        axes.annotate(
            f"× {step.figure:.3f}",
            (x, y),
            (-2, 0),
            color=colour,
            fontsize=7.5,
            fontweight=weight,
            **place,
        )
