"""Pieces that several figures share: ratios with intervals in rows or in one panel per tier,
legends, and a note in place of an empty figure.

What belongs here: pieces that draw into given axes or a given figure. What does not: whole figures
(each report's `figures`), colours and bytes (`style`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tsfm_pipeline.evaluation.methods import method_of
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
    tier_styles,
)
from tsfm_pipeline.reports.shared.wording import tier_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATIO_CAP = 1.25
LONGEST_NAME = 40


def ratio_limits(
    ratios: Iterable[Estimate],
    lowest: float = 0.0,
    cap: float = RATIO_CAP,
) -> tuple[float, float]:
    """Return axis limits that hold 1 and every ratio between `lowest` and the cap.

    Ratios beyond these limits are marked at the edge with their number.
    """
    estimates = list(ratios)
    shown = [estimate for estimate in estimates if lowest <= estimate.figure <= cap]
    ends = [end for estimate in shown for end in estimate]
    finite = [max(min(end, cap), lowest) for end in ends if math.isfinite(end)] + [0.98, 1.02]
    finite += [cap] if any(estimate.figure > cap for estimate in estimates) else []
    finite += [lowest] if any(estimate.figure < lowest for estimate in estimates) else []
    margin = 0.04 * (max(finite) - min(finite))
    return min(finite) - margin, max(finite) + margin


def ratio_point(
    axes: "Axes",
    y: float,
    estimate: Estimate,
    limits: tuple[float, float],
    color: str,
    marker: str,
    size: float,
) -> None:
    """Draw a ratio with its interval; beyond a limit, an arrow with the number."""
    ratio, low, high = estimate
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7.5}
    if math.isnan(ratio):
        axes.annotate(
            "no figure", (limits[1], y), (-2, 0), ha="right", color=MUTED_COLOUR, **beside
        )
        return
    if not limits[0] <= ratio <= limits[1]:
        above = ratio > limits[1]
        edge = limits[1] if above else limits[0]
        axes.plot(
            [edge], [y], marker=">" if above else "<", color=color, markersize=5, clip_on=False
        )
        axes.annotate(
            f"{ratio:.2f}",
            (edge, y),
            (-6 if above else 6, 0),
            ha="right" if above else "left",
            color=color,
            **beside,
        )
        return
    axes.hlines(y, max(low, limits[0]), min(high, limits[1]), color=color, linewidth=size / 4)
    hollow = {"markerfacecolor": "white"} if marker == "s" and color == MUTED_COLOUR else {}
    axes.plot([ratio], [y], marker=marker, color=color, markersize=size, **hollow)


def ratio_axis(axes: "Axes", limits: tuple[float, float], label: str) -> None:
    axes.axvline(1.0, color=FIXED_COLOUR, linewidth=1.0, zorder=0.5)
    axes.set_xlim(*limits)
    axes.xaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)


class Series(NamedTuple):
    """One tier or method: its name, colour and marker, and its ratios by row label."""

    name: str
    colour: str
    marker: str
    ratios: Mapping[str, Estimate]


def tier_series(tiers: Iterable[str], ratios: Mapping[tuple[str, str], Estimate]) -> list[Series]:
    """Return one series per tier, from the ratios by tier and row label."""
    styles = tier_styles(tiers)
    by_tier: dict[str, dict[str, Estimate]] = {tier: {} for tier in styles}
    for (tier, label), ratio in ratios.items():
        by_tier[tier][label] = ratio
    return [Series(tier, *style, by_tier[tier]) for tier, style in styles.items()]


def dodged_rows(
    axes: "Axes",
    labels: Sequence[str],
    series: Sequence[Series],
    limits: tuple[float, float],
    axis_label: str,
) -> None:
    """Draw one row per label, with one ratio of each series that has the label, one above the
    other.
    """
    shifts = dodge(len(series), 0.6 / len(series))
    for shift, (name, colour, marker, ratios) in zip(shifts, series, strict=True):
        for y, label in enumerate(labels):
            if label in ratios:
                ratio_point(axes, y + shift, ratios[label], limits, colour, marker, 6.0)
        axes.plot([], [], linestyle="", marker=marker, color=colour, label=name)
    ratio_rows(axes, labels, limits, axis_label)


def ratio_rows(
    axes: "Axes", labels: Sequence[str], limits: tuple[float, float], axis_label: str
) -> None:
    """Dress the axes with one row per label, thin lines between the rows, and the ratio axis."""
    for y in range(1, len(labels)):
        axes.axhline(y - 0.5, color=FAINT_COLOUR, linewidth=0.5)
    ratio_axis(axes, limits, axis_label)
    axes.set_yticks(range(len(labels)), [short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)


def tier_panels(
    figure: "Figure",
    alphas: Mapping[str, float],
    labels: Sequence[str],
    limits: tuple[float, float],
    axis_label: str,
) -> "list[tuple[str, Axes]]":
    """Return one panel per tier, with its name and price ratio as title and the same rows in each.

    alphas: the alpha of each tier, in the order of the panels. Only the middle panel names its
    axis.
    """
    tiers = list(alphas)
    panels = figure.subplots(1, len(tiers), sharey=True, squeeze=False)[0]
    for axes, (tier, alpha) in zip(panels, alphas.items(), strict=True):
        axes.set_title(tier_label(tier, alpha))
        ratio_axis(axes, limits, axis_label if tier == tiers[len(tiers) // 2] else "")
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.6)
    return list(zip(tiers, panels, strict=True))


def method_style(method: str) -> dict[str, Any]:
    """Return how `ratio_point` draws a method.

    Search and fixed configuration stand out; direct baselines (no model) are hollow squares.
    """
    if method == "search":
        return {"color": SEARCH_COLOUR, "marker": "o", "size": 8.0}
    if method == "fixed_quantile":
        return {"color": FIXED_COLOUR, "marker": "D", "size": 7.0}
    is_direct = method_of(method).is_direct
    return {
        "color": MUTED_COLOUR if is_direct else INK_COLOUR,
        "marker": "s" if is_direct else "o",
        "size": 4.5,
    }


def note(text: str, description: str) -> "Figure":
    """Return a figure that says why it is empty."""
    with house_style():
        figure = new_figure(0.8, description)
        figure.text(0.5, 0.5, text, ha="center", va="center", color=MUTED_COLOUR, style="italic")
    return figure


def legend_above(axes: "Axes", columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2)


def sortable(ratio: Estimate | None) -> float:
    """Return a sort key for a ratio; missing ones come last."""
    return ratio.figure if ratio and math.isfinite(ratio.figure) else math.inf


def dodge(n: int, spacing: float) -> list[float]:
    """Return the offsets of n marks around a common position."""
    return [(i - (n - 1) / 2) * spacing for i in range(n)]


def short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
