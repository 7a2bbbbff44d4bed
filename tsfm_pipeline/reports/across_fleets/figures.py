"""The figure of the across-fleets report: a forest plot over fleets and tiers.

What belongs here: what the figure shows. What does not: shared marks (`shared.marks`), colours and
bytes (`shared.style`), sentences (`words`).
"""

import math
from typing import TYPE_CHECKING

from tsfm_pipeline.reports.across_fleets.model import EffectRow, EvidenceReport, PooledRow
from tsfm_pipeline.reports.across_fleets.words import GROUP_LABELS
from tsfm_pipeline.reports.shared.marks import note, ratio_axis, ratio_limits, ratio_point, short
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_TEXT_COLOUR,
    MUTED_COLOUR,
    house_style,
    new_figure,
    tier_styles,
)
from tsfm_pipeline.reports.shared.wording import ratio_interval, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Limits = tuple[float, float]
LOWEST_RATIO = 0.5
ROW_INCHES = 0.185


def forest_figure(report: EvidenceReport) -> "Figure":
    """Draw on which fleets and tiers the search pays, and the pooled effects."""
    blocks = _blocks(report)
    if not blocks:
        return note("no fleet has current scores", "effect of the search on every fleet and tier")
    limits = ratio_limits((row.ratio for row in report.table_effects), lowest=LOWEST_RATIO)
    styles = tier_styles(report.tiers)
    with house_style():
        n_lines = sum(len(members) + 0.6 for _, _, members in blocks)
        figure = new_figure(
            1.1 + ROW_INCHES * n_lines,
            "Cost ratio of the search to the fixed configuration per fleet and tier, and pooled",
        )
        axes, texts = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
        y, ticks = 0.0, []
        for label, is_pool, members in blocks:
            ticks.append((y + (len(members) - 1) / 2, label, is_pool))
            if is_pool:
                for part in (axes, texts):
                    part.axhspan(
                        y - 0.7, y + len(members) - 0.3, color=FAINT_COLOUR, alpha=0.35, linewidth=0
                    )
            for row in members:
                _line(axes, texts, y, row, limits, styles[row.tier])
                y += 1
            y += 0.6
            axes.axhline(y - 0.8, color=FAINT_COLOUR, linewidth=0.5)
        _dress(axes, texts, ticks, y, limits)
    return figure


def _blocks(report: EvidenceReport) -> list[tuple[str, bool, list[EffectRow] | list[PooledRow]]]:
    """Return (label, whether it is a pool, rows by tier) from top to bottom.

    The fleets of each group, the group's pool, and the pool of all fleets.
    """
    order = report.tiers
    blocks: list[tuple[str, bool, list[EffectRow] | list[PooledRow]]] = []
    for group, name in GROUP_LABELS.items():
        own = [row for row in report.table_effects if row.group == group]
        for fleet in dict.fromkeys(row.fleet for row in own):
            members = [row for row in own if row.fleet == fleet]
            starred = " *" if members[0].contained_in else ""
            blocks.append(
                (
                    f"{short(fleet)}{starred}",
                    False,
                    sorted(members, key=lambda row: order.index(row.tier)),
                )
            )
        pooled = [row for row in report.table_pooled if row.group == group]
        if pooled and pooled[0].n_fleets > 1:
            blocks.append(
                (f"{name}, pooled", True, sorted(pooled, key=lambda row: order.index(row.tier)))
            )
    return blocks


def _line(
    axes: "Axes",
    texts: "Axes",
    y: float,
    row: EffectRow | PooledRow,
    limits: Limits,
    style: tuple[str, str],
) -> None:
    """Draw one fleet or pool at one tier: the mark, and its figures beside it."""
    colour, marker = style
    if isinstance(row, PooledRow):
        _diamond(axes, y, row.ratio, limits, colour)
        n = f"{whole(row.n_fleets)} fleets"
    else:
        ratio_point(axes, y, row.ratio, limits, colour, marker, 5.5)
        n = whole(row.n_tenants)
    texts.text(0.0, y, row.tier, va="center", fontsize=7.5)
    texts.text(0.24, y, ratio_interval(*row.ratio), va="center", fontsize=7.5)
    texts.text(1.0, y, n, va="center", ha="right", fontsize=7.5, color=MUTED_COLOUR)


def _diamond(axes: "Axes", y: float, estimate: Estimate, limits: Limits, colour: str) -> None:
    """Draw a pooled effect: a diamond as wide as its interval, or a line with arrows if that is too
    wide for the axis.
    """
    ratio, low, high = estimate
    if not (math.isfinite(low) and math.isfinite(high)):
        ratio_point(axes, y, estimate, limits, colour, "D", 6.5)
        return
    if limits[0] <= low and high <= limits[1]:
        axes.fill([low, ratio, high, ratio], [y, y - 0.38, y, y + 0.38], color=colour, linewidth=0)
        return
    ratio_point(axes, y, estimate, limits, colour, "D", 6.5)
    for edge, is_cut, marker in (
        (limits[0], low < limits[0], "<"),
        (limits[1], high > limits[1], ">"),
    ):
        if is_cut:
            axes.plot([edge], [y], marker=marker, color=colour, markersize=4.5, clip_on=False)


def _dress(
    axes: "Axes", texts: "Axes", ticks: list[tuple[float, str, bool]], end: float, limits: Limits
) -> None:
    """Draw labels, the line of no effect, and the heads of the columns."""
    ratio_axis(axes, limits, "cost ratio, search to fixed configuration (95 % interval)")
    axes.set_yticks([y for y, _, _ in ticks], [label for _, label, _ in ticks])
    for tick, (_, _, is_pool) in zip(axes.get_yticklabels(), ticks, strict=True):
        tick.set_fontweight("bold" if is_pool else "normal")
    axes.set_ylim(end - 0.6, -0.9)
    axes.annotate(
        "search costs less",
        (1.0, 1.0),
        (-5, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        color=MUTED_COLOUR,
    )
    axes.annotate(
        "costs more",
        (1.0, 1.0),
        (5, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=FIXED_TEXT_COLOUR,
    )
    texts.set_xlim(0, 1)
    texts.axis("off")
    for x, text, align in (
        (0.0, "tier", "left"),
        (0.24, "ratio", "left"),
        (1.0, "test tenants", "right"),
    ):
        texts.annotate(
            text,
            (x, 1.0),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=align,
            color=MUTED_COLOUR,
        )
    if any(label.endswith(" *") for _, label, _ in ticks):
        texts.annotate(
            "* tenants contained in a larger fleet of\nthe same seed: shown, not pooled",
            (1.0, 0.0),
            (0, -8),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="top",
            color=MUTED_COLOUR,
            fontsize=7.5,
        )
