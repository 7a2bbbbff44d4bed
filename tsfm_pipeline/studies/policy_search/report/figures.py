"""The figures of the study's report.

What belongs here: what each figure shows. What does not: shared marks and style
(`reports.shared`), sentences (`words`).
"""

import math
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.reports.shared.marks import dodge, legend_above, note, short
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_COLOUR,
    FIXED_TEXT_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
)
from tsfm_pipeline.studies.policy_search.report.model import (
    End,
    ExperimentRow,
    GainRow,
    PolicySearchReport,
)
from tsfm_pipeline.studies.policy_search.report.words import MOST_REFUSED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROMOTED_COLOUR = "#009E73"
"""Bluish green of Okabe and Ito."""
MARKS: dict[End, dict[str, Any]] = {
    "keep": {"marker": "o", "color": SEARCH_COLOUR, "markersize": 6},
    "discard": {"marker": "o", "color": MUTED_COLOUR, "markerfacecolor": "white", "markersize": 4},
    "screened out": {"marker": "_", "color": MUTED_COLOUR, "markersize": 5},
    "crash": {"marker": "x", "color": FIXED_COLOUR, "markersize": 5},
    "timeout": {"marker": "+", "color": FIXED_COLOUR, "markersize": 7},
}
LABELS: dict[End, str] = {
    "keep": "kept",
    "discard": "discarded",
    "screened out": "screened out",
    "crash": "crashed",
    "timeout": "timed out",
}
WITHOUT_OBJECTIVE = ("crash", "timeout")
MOST_ROWS = 25
"""Fields that the figure of importance shows."""
ROW_INCHES, GAIN_INCHES = 0.24, 0.36
GAINS: tuple[tuple[str, str, str, str], ...] = (
    ("choosing", "choosing folds", MUTED_COLOUR, "s"),
    ("confirming", "confirming folds", SEARCH_COLOUR, "o"),
    ("test", "test requests", PROMOTED_COLOUR, "D"),
)
"""Field, label, colour and marker of each gain."""
LEAST_SPAN = 0.01
"""The axis of losses spans one per cent of the default's loss at least."""


def progress_figure(report: PolicySearchReport) -> "Figure":
    """Draw how every experiment ended, and the incumbent's loss from one to the next."""
    rows = report.table_experiments
    description = "Loss of every experiment to the default policy's, and that of the incumbent"
    if not rows:
        return note("no experiment yet", description)
    low, high = _limits(rows)
    with house_style():
        figure = new_figure(4.0, description)
        axes = figure.subplots()
        for end, style in MARKS.items():
            _marks(axes, [row for row in rows if row.end == end], LABELS[end], style, high)
        _incumbent(axes, rows)
        _promoted_marks(axes, report, low)
        axes.axhline(1.0, color=INK_COLOUR, linewidth=0.8, zorder=0.5)
        axes.set_ylim(low, high + 0.06 * (high - low))
        axes.set_xlim(0, len(rows) + 1)
        axes.set_xlabel("experiment")
        axes.set_ylabel("loss : loss of the default policy")
        legend_above(axes, 4)
    return figure


def _limits(rows: tuple[ExperimentRow, ...]) -> tuple[float, float]:
    """Return the limits of the losses' axis: every kept policy, the default, and most of the rest.

    The worst policies are marked at the upper edge; shown in full, they would leave no room for the
    differences that matter.
    """
    import numpy as np

    whole = [row.objective for row in rows if row.end != "screened out"]
    finite = np.array([objective for objective in whole if math.isfinite(objective)] or [1.0])
    kept = [row.objective for row in rows if row.end == "keep" and math.isfinite(row.objective)]
    low = min(*kept, float(finite.min()), 1.0) if kept else min(float(finite.min()), 1.0)
    high = max([float(np.quantile(finite, 0.75)), 1.0 + (1.0 - low), 1.0 + LEAST_SPAN, *kept])
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _marks(
    axes: "Axes", rows: list[ExperimentRow], label: str, style: dict[str, Any], top: float
) -> None:
    """Draw the experiments of one end; those without an objective on all requests, or above the
    axis, lie at its upper edge.
    """
    if not rows:
        return
    inside = [row for row in rows if row.objective <= top and row.end != "screened out"]
    above = [row for row in rows if row not in inside]
    x, y = [row.number for row in inside], [row.objective for row in inside]
    axes.plot(x, y, linestyle="", label=f"{label} ({len(rows)})", **style)
    failed = rows[0].end in WITHOUT_OBJECTIVE
    edge = style if failed else style | {"marker": "^", "markersize": 3.5}
    axes.plot([row.number for row in above], [top] * len(above), linestyle="", **edge)


def _incumbent(axes: "Axes", rows: tuple[ExperimentRow, ...]) -> None:
    kept = [row for row in rows if row.end == "keep"]
    if kept:
        numbers = [*(row.number for row in kept), len(rows)]
        losses = [*(row.objective for row in kept), kept[-1].objective]
        axes.step(numbers, losses, where="post", color=SEARCH_COLOUR, label="incumbent", zorder=1)


def _promoted_marks(axes: "Axes", report: PolicySearchReport, low: float) -> None:
    """Mark the experiments whose policy was promoted."""
    policies = {row.challenger for row in report.table_promotions if row.promoted}
    promoted = [
        row for row in report.table_experiments if row.policy in policies and row.end == "keep"
    ]
    if promoted:
        axes.plot(
            [row.number for row in promoted],
            [row.objective for row in promoted],
            linestyle="",
            marker="*",
            markersize=14,
            color=PROMOTED_COLOUR,
            markeredgecolor="white",
            label=f"promoted ({len(promoted)})",
            zorder=3,
        )


def front_figure(report: PolicySearchReport) -> "Figure":
    """Draw loss against latency: every finished policy, the front, and the budget."""
    rows = [
        row
        for row in report.table_experiments
        if row.end in ("keep", "discard")
        and math.isfinite(row.objective)
        and math.isfinite(row.p95_ms)
    ]
    description = "Loss and predicted p95 latency of every policy that ran on all requests"
    if not rows:
        return note("no policy has run on all requests yet", description)
    low, high = _limits(tuple(rows))
    with house_style():
        figure = new_figure(4.0, description)
        axes = figure.subplots()
        for end in ("discard", "keep"):
            shown = [row for row in rows if row.end == end and row.objective <= high]
            axes.plot(
                [row.p95_ms for row in shown],
                [row.objective for row in shown],
                linestyle="",
                label=LABELS[end],
                **MARKS[end],
            )
        front = sorted((row for row in rows if row.on_front), key=lambda row: row.p95_ms)
        axes.step(
            [row.p95_ms for row in front],
            [row.objective for row in front],
            where="post",
            color=SEARCH_COLOUR,
            linewidth=1.2,
            label="front",
        )
        default = [row for row in rows if not row.n_changes][:1]
        axes.plot(
            [row.p95_ms for row in default],
            [row.objective for row in default],
            linestyle="",
            marker="D",
            markersize=7,
            color=FIXED_COLOUR,
            label="default policy",
        )
        slowest = max(row.p95_ms for row in rows)
        if report.budget_ms <= 1.5 * slowest:
            axes.axvline(report.budget_ms, color=FIXED_COLOUR, linewidth=1.0, linestyle="--")
            axes.annotate(
                "budget",
                (report.budget_ms, high),
                (4, -2),
                textcoords="offset points",
                va="top",
                color=FIXED_TEXT_COLOUR,
            )
        axes.axhline(1.0, color=INK_COLOUR, linewidth=0.8, zorder=0.5)
        axes.set_ylim(low, high)
        axes.set_xlabel("p95 latency of one request, predicted (ms)")
        axes.set_ylabel("loss : loss of the default policy")
        hidden = sum(row.objective > high for row in rows)
        if hidden:
            axes.annotate(
                f"{hidden} above",
                (1.0, 1.0),
                (0, -4),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                va="top",
                color=MUTED_COLOUR,
            )
        legend_above(axes, 4)
    return figure


def importance_figure(report: PolicySearchReport) -> "Figure":
    """Draw how much the order of experiments depends on each field, with its uncertainty."""
    rows = report.table_importance[:MOST_ROWS]
    description = "Importance of each field for the order of the experiments"
    if not rows:
        return note("too few experiments to say which fields matter", description)
    tried = {row.field: row.n_tried for row in report.table_fields}
    with house_style():
        figure = new_figure(0.9 + ROW_INCHES * len(rows), description)
        axes = figure.subplots()
        for y, row in enumerate(rows):
            value, low, high = row.importance
            color = SEARCH_COLOUR if low > 0 else MUTED_COLOUR
            axes.hlines(y, low, high, color=color, linewidth=1.6)
            axes.plot([value], [y], "o", color=color)
        labels = [f"{short(row.field)} ({tried.get(row.field, 0)})" for row in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.axvline(0.0, color=INK_COLOUR, linewidth=0.8, zorder=0.5)
        axes.xaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        axes.set_xlabel("drop of the held-out R2 when the field is shuffled (95 % of the draws)")
        axes.set_title("field (experiments that moved it)")
    return figure


def optimism_figure(report: PolicySearchReport) -> "Figure":
    """Draw the gain of each compared policy on choosing folds, confirming folds and test requests:
    all promoted policies, and the last refused ones.
    """
    rows = _shown_gains(report.table_gains)
    description = "Gain of each compared policy on three sets of requests"
    if not rows:
        return note("no policy was compared on the confirming folds yet", description)
    limits = _gain_limits(rows)
    with house_style():
        figure = new_figure(1.1 + GAIN_INCHES * len(rows), description)
        axes = figure.subplots()
        for shift, (name, label, color, marker) in zip(dodge(3, 0.27), GAINS, strict=True):
            for y, row in enumerate(rows):
                _gain(axes, y + shift, getattr(row, name), color, marker, limits)
            axes.plot([], [], linestyle="", marker=marker, color=color, label=label)
        for y in range(1, len(rows)):
            edge = rows[y].promotion != rows[y - 1].promotion
            axes.axhline(y - 0.5, color=MUTED_COLOUR if edge else FAINT_COLOUR, linewidth=0.6)
        axes.set_yticks(range(len(rows)), [_gain_label(row) for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if row.promoted else "normal")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(*limits)
        axes.tick_params(axis="y", length=0)
        axes.axvline(0.0, color=INK_COLOUR, linewidth=0.8, zorder=0.5)
        axes.xaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        axes.set_xlabel("gain over the policy before (%); right of 0 is better")
        legend_above(axes, 3)
    return figure


def _shown_gains(rows: tuple[GainRow, ...]) -> tuple[GainRow, ...]:
    refused = {row.promotion for row in rows if not row.promoted}
    shown = set(sorted(refused)[-MOST_REFUSED:])
    return tuple(row for row in rows if row.promoted or row.promotion in shown)


def _gain_label(row: GainRow) -> str:
    return f"{row.promotion} {'promoted' if row.promoted else 'refused'}: {short(row.fleet)}"


def _gain_limits(rows: tuple[GainRow, ...]) -> tuple[float, float]:
    """Return limits in percent that hold every gain, and intervals to three times their range."""
    gains = [gain for row in rows for gain in (row.choosing, row.confirming, row.test)]
    points = [100 * gain.figure for gain in gains if math.isfinite(gain.figure)] or [0.0]
    span = max(max(points, default=0.0), 0.0) - min(min(points, default=0.0), 0.0) or 1.0
    ends = [100 * end for gain in gains for end in gain if math.isfinite(end)] or [0.0]
    low = max(min(*ends, 0.0), min(*points, 0.0) - 3 * span) if len(ends) > 1 else -span
    high = min(max(*ends, 0.0), max(*points, 0.0) + 3 * span) if len(ends) > 1 else span
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def _gain(
    axes: "Axes", y: float, gain: Estimate, color: str, marker: str, limits: tuple[float, float]
) -> None:
    value, low, high = (100 * each for each in gain)
    if math.isnan(value):
        return
    if math.isfinite(low) and math.isfinite(high):
        axes.hlines(y, max(low, limits[0]), min(high, limits[1]), color=color, linewidth=1.4)
        for is_cut, end, arrow in ((low < limits[0], 0, "<"), (high > limits[1], 1, ">")):
            if is_cut:
                axes.plot([limits[end]], [y], marker=arrow, color=color, clip_on=False)
    axes.plot([value], [y], marker=marker, color=color, markersize=5)


FIGURES = (progress_figure, front_figure, importance_figure, optimism_figure)
