"""The figures of the cold-start report.

What belongs here: drawing. What does not: colours and bytes (`shared.style`), wording (`words`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.reports.cold_start.model import ColdStartReport
from tsfm_pipeline.reports.cold_start.words import FULL_HISTORY, STRATEGY_LABELS, in_order
from tsfm_pipeline.reports.shared.marks import dodge, legend_above, note, short
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRATEGY_STYLES: dict[str, tuple[str, str, str]] = {
    "no_prior": (MUTED_COLOUR, "v", ":"),
    "fleet_prior": ("#009E73", "s", "--"),
    "retrieved_prior": (SEARCH_COLOUR, "o", "-"),
    "true_label_prior": ("#CC79A7", "D", "-."),
    "fixed_config": (FIXED_COLOUR, "X", "--"),
}
"""Colour, marker and line of each strategy; full history is a line at 1."""


def cold_start_figure(report: ColdStartReport) -> "Figure":
    """Draw the cost that a tenant with little history may expect."""
    tier = report.headline_tier
    ratios = {key: row.ratio for key, row in report.strategies_at(tier).items()}
    minutes = sorted({at for at, _ in ratios})
    if not minutes:
        return note(f"no cold start was measured at the {tier} tier", "loss by minutes of history")
    strategies = in_order(name for _, name in ratios if name != FULL_HISTORY)
    with house_style():
        figure = new_figure(
            3.9, f"Loss by minutes of history relative to full history, {tier} tier, per strategy"
        )
        axes = figure.subplots()
        axes.axhline(1.0, color=INK_COLOUR, linewidth=1.2, label=STRATEGY_LABELS[FULL_HISTORY])
        for shift, name in zip(dodge(len(strategies), 0.09), strategies, strict=True):
            colour, marker, line = STRATEGY_STYLES.get(name, (INK_COLOUR, "*", "-"))
            own = [ratios.get((m, name), Estimate()) for m in minutes]
            at = [i + shift for i in range(len(minutes))]
            axes.vlines(
                at,
                [ratio.low for ratio in own],
                [ratio.high for ratio in own],
                color=colour,
                linewidth=1.1,
            )
            label = STRATEGY_LABELS.get(name, name)
            axes.plot(
                at,
                [ratio.figure for ratio in own],
                color=colour,
                marker=marker,
                linestyle=line,
                label=label,
            )
        axes.set_xticks(range(len(minutes)), [str(m) for m in minutes])
        axes.set_xlabel("minutes of history")
        axes.set_ylabel(f"loss relative to full history, {tier}")
        axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        legend_above(axes, 3)
    return figure


def retrieval_figure(report: ColdStartReport) -> "Figure":
    """Draw how often the archetype of a new tenant is found, by the length of its history."""
    rows = report.table_retrieval
    if not rows:
        return note("this fleet has no archetypes to retrieve", "archetype retrieval")
    with house_style():
        figure = new_figure(2.6, "Accuracy of archetype retrieval by history", width_inches=5.5)
        axes = figure.subplots()
        at = range(len(rows))
        top1 = [row.top1_accuracy for row in rows]
        balanced = [100 * row.balanced_accuracy for row in rows]
        axes.plot(
            at,
            [100 * each.figure for each in top1],
            linestyle="-",
            color=SEARCH_COLOUR,
            marker="o",
            label="top-1 accuracy",
        )
        axes.plot(
            at, balanced, linestyle="-", color=MUTED_COLOUR, marker="s", label="balanced accuracy"
        )
        axes.vlines(
            at,
            [100 * each.low for each in top1],
            [100 * each.high for each in top1],
            color=SEARCH_COLOUR,
            linewidth=1.1,
        )
        axes.set_xticks(at, [short(row.history) for row in rows])
        axes.set_xlabel("minutes of history")
        axes.set_ylabel("tenants, %")
        axes.set_ylim(0, 103)
        axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        axes.legend(loc="lower right")
    return figure
