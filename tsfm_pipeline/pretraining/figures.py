"""Draw the figures of a checkpoint's report: bars, reliability, context lengths, and one hundred
forecasts.

What belongs here: the content of the figures. What does not: the house's colours and file format
(`reports.shared.style`) and the numbers (`yardsticks`, `bars`).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.evaluation.losses import DECILE_LEVELS
from tsfm_pipeline.evaluation.methods import SEASONAL_NAIVE
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

FLEET_STYLES = {
    "smd": ("#0072B2", "o", "-"),
    "asd": ("#D55E00", "s", "--"),
    "nab": ("#009E73", "^", "-."),
}
LENGTH_STYLES = {"ETT_1H": (INK_COLOUR, "D", ":"), **FLEET_STYLES}
PAGE_COLUMNS, PAGE_ROWS = 5, 5


def bars_figure(bars: Sequence[dict[str, Any]]) -> "Figure":
    """Draw each bar's figure relative to `must_reach`, together with its aim and the seasonal naive
    figure.
    """
    with house_style():
        figure = new_figure(
            1.2 + 0.32 * len(bars), "Figures of the checkpoint relative to what they must reach"
        )
        axes = figure.subplots()
        limit = 1.6
        for y, bar in enumerate(bars):
            must = bar["must_reach"]
            axes.plot(
                [bar["aim_for"] / must, 1.0],
                [y, y],
                color=FAINT_COLOUR,
                linewidth=7,
                solid_capstyle="butt",
                zorder=1,
            )
            naive = bar.get(SEASONAL_NAIVE)
            if naive is not None:
                off = naive / must > limit
                axes.plot(
                    min(naive / must, limit),
                    y,
                    ">" if off else "x",
                    color=MUTED_COLOUR,
                    clip_on=False,
                    zorder=2,
                )
            missed = bar["verdict"] == "missed"
            axes.plot(
                min(bar["figure"] / must, limit),
                y,
                "X" if missed else "o",
                color=FIXED_COLOUR if missed else SEARCH_COLOUR,
                zorder=3,
            )
        axes.axvline(1.0, color=INK_COLOUR, linewidth=1.0)
        for marker, colour, label in (
            ("o", SEARCH_COLOUR, "reached"),
            ("X", FIXED_COLOUR, "missed"),
            ("x", MUTED_COLOUR, "seasonal naive (arrow: further right)"),
        ):
            axes.plot([], [], marker, color=colour, label=label)
        axes.plot([], [], color=FAINT_COLOUR, linewidth=7, label="from aim to must")
        axes.set_yticks(range(len(bars)), [bar["title"] for bar in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlim(right=limit)
        axes.set_xlabel("relative to what must be reached (1)")
        figure.legend(loc="outside upper left", ncols=4)
    return figure


def reliability_figure(measured: dict[str, Any]) -> "Figure":
    """Draw the share of actuals at or below each decile for each real fleet at its chosen context.
    The band covers the shares that ties allow.
    """
    with house_style():
        figure = new_figure(3.3, "Reliability: coverage of every decile on the real fleets")
        panels = figure.subplots(1, len(measured["fleets"]), sharey=True)
        levels = DECILE_LEVELS.tolist()
        for axes, (name, fleet) in zip(panels, measured["fleets"].items(), strict=True):
            colour, marker, _ = FLEET_STYLES[name]
            context = measured["chosen_context"][name]
            axes.plot([0, 1], [0, 1], color=MUTED_COLOUR, linewidth=0.8)
            covered = fleet["coverage"][context]
            axes.fill_between(
                levels,
                covered["below"],
                covered["at_or_below"],
                color=colour,
                alpha=0.2,
                linewidth=0,
            )
            axes.plot(levels, covered["at_or_below"], marker=marker, color=colour)
            axes.set_title(f"{name}, {context}")
            axes.set_xlabel("decile")
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_aspect("equal")
        panels[0].set_ylabel("share of actuals at or below")
    return figure


def context_figure(measured: dict[str, Any]) -> "Figure":
    """Draw the loss by context length, relative to the best length of each data set."""
    lengths = measured["context_length"]
    with house_style():
        figure = new_figure(3.0, "Loss by context length, relative to the best length")
        axes = figure.subplots()
        for name, losses in lengths["losses"].items():
            colour, marker, line = LENGTH_STYLES[name]
            axes.plot(
                lengths["contexts"],
                [loss / min(losses) for loss in losses],
                marker=marker,
                linestyle=line,
                color=colour,
                label=name,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths["contexts"], [str(context) for context in lengths["contexts"]])
        highest = max(max(losses) / min(losses) for losses in lengths["losses"].values())
        ticks = [
            tick for tick in (1.0, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0) if tick <= highest * 1.1
        ]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("context, points")
        axes.set_ylabel("loss relative to the best length")
        axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        axes.legend(ncols=4)
    return figure


def gallery_pages(samples: Sequence[dict[str, Any]]) -> list["Figure"]:
    """Draw contact sheets of 25 forecasts each: history, actuals, median, and the band from decile
    .1 to .9.
    """
    size = PAGE_COLUMNS * PAGE_ROWS
    pages = []
    for start in range(0, len(samples), size):
        with house_style():
            figure = new_figure(
                9.0,
                f"Forecasts {start + 1} to {min(start + size, len(samples))}",
                width_inches=12.0,
            )
            for axes, sample in zip(
                figure.subplots(PAGE_ROWS, PAGE_COLUMNS).flat,
                samples[start : start + size],
                strict=False,
            ):
                history, actual = (_floats(sample[key]) for key in ("history", "actual"))
                before, ahead = range(-len(history) + 1, 1), range(1, len(actual) + 1)
                axes.plot(before, history, color=MUTED_COLOUR, linewidth=0.7)
                axes.fill_between(
                    ahead,
                    sample["low"],
                    sample["high"],
                    color=SEARCH_COLOUR,
                    alpha=0.25,
                    linewidth=0,
                )
                axes.plot(ahead, actual, color=INK_COLOUR, linewidth=0.7)
                axes.plot(ahead, sample["median"], color=SEARCH_COLOUR, linewidth=1.1)
                axes.axvline(0.5, color=FAINT_COLOUR, linewidth=0.8)
                axes.set_title(sample["label"], fontsize=7)
                axes.tick_params(labelsize=6, length=2)
                axes.locator_params(nbins=4)
            lines, labels = (
                figure.axes[0].lines[:3],
                ["history", "happened", "median, with the band from decile .1 to .9"],
            )
            figure.legend(lines, labels, loc="outside upper left", ncols=3)
            for axes in figure.axes[len(samples[start : start + size]) :]:
                axes.set_visible(False)
        pages.append(figure)
    return pages


def _floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
