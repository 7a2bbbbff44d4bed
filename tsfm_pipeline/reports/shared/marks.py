"""What several figures share: ratios with intervals in rows or in a panel per tier, a legend, a note in place of an empty figure.

What belongs here: pieces that draw into given axes or a given figure. What does not: whole figures (`figures`, `ablation_figures`,
`evidence_figures`), colours and bytes (`style`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tsfm_pipeline.reports.shared.style import FAINT, FIXED, INK, MUTED, SEARCH, TIER_COLOURS, TIER_MARKERS, house_style, new_figure
from tsfm_pipeline.reports.shared.wording import DIRECT_METHODS, figure_of, ratio_texts, tier_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

RATIO_CAP = 1.25
LONGEST_NAME = 40


def ratio_limits(rows: Sequence[Row], key: str = "ratio", lowest: float = 0.0, cap: float = RATIO_CAP) -> tuple[float, float]:
    """Limits that hold 1 and every ratio between `lowest` and the cap; what lies beyond is named at the edge."""
    shown = [row for row in rows if lowest <= figure_of(row, key) <= cap]
    ends = [figure_of(row, end) for row in shown for end in (key, f"{key}_low", f"{key}_high")]
    finite = [max(min(end, cap), lowest) for end in ends if math.isfinite(end)] + [0.98, 1.02]
    finite += [cap] if any(figure_of(row, key) > cap for row in rows) else []
    finite += [lowest] if any(figure_of(row, key) < lowest for row in rows) else []
    margin = 0.04 * (max(finite) - min(finite))
    return min(finite) - margin, max(finite) + margin


def ratio_point(
    axes: "Axes", y: float, row: Row, limits: tuple[float, float], color: str, marker: str, size: float, key: str = "ratio"
) -> None:
    """A ratio with its interval; beyond a limit an arrow with the number."""
    ratio, low, high = (figure_of(row, end) for end in (key, f"{key}_low", f"{key}_high"))
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7.5}
    if math.isnan(ratio):
        axes.annotate("no figure", (limits[1], y), (-2, 0), ha="right", color=MUTED, **beside)
        return
    if not limits[0] <= ratio <= limits[1]:
        above = ratio > limits[1]
        edge = limits[1] if above else limits[0]
        axes.plot([edge], [y], marker=">" if above else "<", color=color, markersize=5, clip_on=False)
        axes.annotate(
            ratio_texts(ratio)[0][:-1], (edge, y), (-6 if above else 6, 0), ha="right" if above else "left", color=color, **beside
        )
        return
    axes.hlines(y, max(low, limits[0]), min(high, limits[1]), color=color, linewidth=size / 4)
    hollow = {"markerfacecolor": "white"} if marker == "s" and color == MUTED else {}
    axes.plot([ratio], [y], marker=marker, color=color, markersize=size, **hollow)


def ratio_axis(axes: "Axes", limits: tuple[float, float], label: str) -> None:
    axes.axvline(1.0, color=FIXED, linewidth=1.0, zorder=0.5)
    axes.set_xlim(*limits)
    axes.xaxis.grid(True, color=FAINT, linewidth=0.5)
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)


class Series(NamedTuple):
    """Ratios of one tier or method: what it is called and how it is drawn, and its record by row label."""

    name: str
    colour: str
    marker: str
    rows: Mapping[str, Row]


def tier_series(rows: Sequence[Row], tiers: Sequence[str], label: str) -> list[Series]:
    """One series per tier, its records by their value under `label`."""
    by_tier = [{str(row.get(label)): row for row in rows if row.get("tier") == tier} for tier in tiers]
    return [Series(tier, TIER_COLOURS.get(tier, INK), TIER_MARKERS.get(tier, "D"), own) for tier, own in zip(tiers, by_tier, strict=True)]


def dodged_rows(
    axes: "Axes", labels: Sequence[str], series: Sequence[Series], limits: tuple[float, float], axis_label: str, key: str = "ratio"
) -> None:
    """One row per label, in it one ratio of each series that has one, above each other."""
    for shift, (name, colour, marker, rows) in zip(dodge(len(series), 0.6 / len(series)), series, strict=True):
        for y, label in enumerate(labels):
            if label in rows:
                ratio_point(axes, y + shift, rows[label], limits, colour, marker, 6.0, key)
        axes.plot([], [], linestyle="", marker=marker, color=colour, label=name)
    ratio_rows(axes, labels, limits, axis_label)


def ratio_rows(axes: "Axes", labels: Sequence[str], limits: tuple[float, float], axis_label: str) -> None:
    """One row per label, thin lines between them, the ratio on the other axis."""
    for y in range(1, len(labels)):
        axes.axhline(y - 0.5, color=FAINT, linewidth=0.5)
    ratio_axis(axes, limits, axis_label)
    axes.set_yticks(range(len(labels)), [short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)


def tier_panels(
    figure: "Figure", tiers: Sequence[str], labels: Sequence[str], limits: tuple[float, float], axis_label: str
) -> "list[tuple[str, Axes]]":
    """A panel per tier with its name and prices above, the same rows in each, the axis named once."""
    panels = figure.subplots(1, len(tiers), sharey=True, squeeze=False)[0]
    for axes, tier in zip(panels, tiers, strict=True):
        axes.set_title(tier_label(tier))
        ratio_axis(axes, limits, axis_label if tier == tiers[len(tiers) // 2] else "")
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.6)
    return list(zip(tiers, panels, strict=True))


def method_style(method: str) -> dict[str, Any]:
    """How `ratio_point` draws a method: search and fixed stand out, direct baselines (no model) are hollow squares."""
    if method == "search":
        return {"color": SEARCH, "marker": "o", "size": 8.0}
    if method == "fixed_quantile":
        return {"color": FIXED, "marker": "D", "size": 7.0}
    is_direct = method in DIRECT_METHODS
    return {"color": MUTED if is_direct else INK, "marker": "s" if is_direct else "o", "size": 4.5}


def note(text: str, description: str) -> "Figure":
    """A figure that says why it is empty."""
    with house_style():
        figure = new_figure(0.8, description)
        figure.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, style="italic")
    return figure


def legend_above(axes: "Axes", columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2)


def sortable(row: Row) -> float:
    ratio = figure_of(row, "ratio")
    return ratio if math.isfinite(ratio) else math.inf


def dodge(n: int, spacing: float) -> list[float]:
    """Offsets of n marks around a common position."""
    return [(i - (n - 1) / 2) * spacing for i in range(n)]


def short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
