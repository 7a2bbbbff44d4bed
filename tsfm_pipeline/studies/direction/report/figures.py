"""The figures of the study's report on one market.

What belongs here: what each figure shows. What does not: shared marks and style
(`reports.shared`), sentences (`words`).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tsfm_pipeline.reports.shared.marks import dodge, legend_above, note
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
from tsfm_pipeline.studies.direction.report.gates import (
    FINE_TUNE,
    INVESTIGATE,
    RSI_ON_THE_SAME_DAYS,
    STOP,
)
from tsfm_pipeline.studies.direction.report.model import (
    DecileRow,
    DirectionReport,
    ReliabilityRow,
    ScoreRow,
)
from tsfm_pipeline.studies.direction.report.names import (
    FAMILIES,
    OF_THE_MODEL,
    days_ahead,
    label_text,
    scorer_label,
)
from tsfm_pipeline.studies.direction.report.wording import gate_text, rate_text
from tsfm_pipeline.studies.direction.report.words import KIND_TEXTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES: tuple[tuple[str, str, str], ...] = (
    (FIXED_COLOUR, "D", "-"),
    (INK_COLOUR, "s", "--"),
    (SEARCH_COLOUR, "o", "-"),
    ("#009E73", "^", "-."),
)
"""Colour, marker and line of up to four curves in one panel."""
ROW_INCHES = 0.2
LIMITS = {"touch_up": (0.25, 0.9), "sign": (0.4, 0.6)}
"""Least extent of the axes; wider where a figure lies outside."""


def forest_figure(report: DirectionReport) -> "Figure":
    """Draw every scorer's AUC on touch up and on sign, side by side, by family."""
    touch, sign = report.scores("touch_up"), report.scores("sign")
    description = "AUC of every scorer on touch up and on sign"
    if not touch or not sign:
        return note("no scorer was evaluated", description)
    by_name = {row.scorer: row for row in sign}
    gaps = [i for i in range(1, len(touch)) if touch[i].family != touch[i - 1].family]
    with house_style():
        figure = new_figure(1.2 + ROW_INCHES * len(touch), description)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, label in zip(panels, ("touch_up", "sign"), strict=True):
            rows = touch if label == "touch_up" else [by_name.get(r.scorer) for r in touch]
            _forest(axes, rows, label)
            for gap in gaps:
                axes.axhline(gap - 0.5, color=FAINT_COLOUR, linewidth=0.6)
            axes.set_title(f"{label_text(label).capitalize()}, {days_ahead(report.horizon)}")
            axes.set_xlabel("AUC (95 % interval)")
        volatility = next((row for row in touch if row.family == "volatility"), None)
        if volatility is not None:
            panels[0].axvline(volatility.auc.figure, color=FIXED_COLOUR, linewidth=1.0, zorder=0.5)
        panels[0].set_yticks(range(len(touch)), [scorer_label(row.scorer) for row in touch])
        for tick, row in zip(panels[0].get_yticklabels(), touch, strict=True):
            tick.set_fontsize(7.5)
            tick.set_color(FIXED_TEXT_COLOUR if row.family == "volatility" else INK_COLOUR)
            tick.set_fontweight("bold" if row.chosen else "normal")
        panels[0].set_ylim(len(touch) - 0.4, -0.6)
    return figure


def _forest(axes: "Axes", rows: Sequence[ScoreRow | None], label: str) -> None:
    limits = _limits([row.auc for row in rows if row], *LIMITS[label])
    for y, row in enumerate(rows):
        if row is not None:
            _interval(axes, y, row.auc, _colour(row), "o" if row.chosen else ".")
    axes.axvline(0.5, color=INK_COLOUR, linewidth=0.8, zorder=0.5)
    axes.set_xlim(*limits)
    axes.xaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=6)
    _without_zero(axes, "x")


def _colour(row: ScoreRow) -> str:
    if row.family == "volatility":
        return FIXED_COLOUR
    return SEARCH_COLOUR if row.family in OF_THE_MODEL else MUTED_COLOUR


def reliability_figure(report: DirectionReport) -> "Figure":
    """Draw how often a label follows, against the probability that was given to it: a row of panels
    per label, a panel per scorer.
    """
    rows = report.table_reliability
    description = "Observed share of days with a label by tenth of the forecast probability"
    if not rows:
        return note("no scorer gave a probability", description)
    labels = list(dict.fromkeys(row.label for row in rows))
    scorers = list(dict.fromkeys(row.scorer for row in rows))
    with house_style():
        figure = new_figure(3.1 * len(labels), description)
        panels = figure.subplots(len(labels), len(scorers), squeeze=False)
        for label, line in zip(labels, panels, strict=True):
            own = [row for row in rows if row.label == label]
            top = max(max(row.forecast, row.observed.high, row.observed.figure) for row in own)
            shown = [scorer for scorer in scorers if any(row.scorer == scorer for row in own)]
            for axes, scorer in zip(line, shown, strict=False):
                given = [row for row in own if row.scorer == scorer]
                _reliability(axes, given, min(1.0, top * 1.05))
                axes.set_title(_wrapped(scorer_label(scorer)))
                axes.set_xlabel("given probability")
            line[0].set_ylabel(f"share with {label_text(label)}")
            for axes in line[len(shown) :]:
                axes.set_axis_off()
    return figure


def _reliability(axes: "Axes", rows: Sequence[ReliabilityRow], top: float) -> None:
    axes.plot([0, top], [0, top], color=INK_COLOUR, linewidth=0.8)
    for row in rows:
        axes.vlines(
            row.forecast, row.observed.low, row.observed.high, color=SEARCH_COLOUR, linewidth=1.4
        )
    axes.plot(
        [row.forecast for row in rows],
        [row.observed.figure for row in rows],
        "o",
        color=SEARCH_COLOUR,
        markersize=4.5,
    )
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_aspect("equal")
    axes.grid(True, color=FAINT_COLOUR, linewidth=0.5)
    axes.locator_params(nbins=5)


def decile_figure(report: DirectionReport) -> "Figure":
    """Draw base rate and AUC by tenth of expected volatility, for touch up and for sign."""
    description = "Base rates, and AUC by tenth of expected volatility"
    if not report.table_deciles:
        return note("no scorer was compared within volatility", description)
    labels = list(dict.fromkeys(row.label for row in report.table_deciles))
    with house_style():
        figure = new_figure(4.2, description)
        base, *panels = figure.subplots(1, 1 + len(labels))
        for label, (colour, marker, line) in zip(labels, SERIES, strict=False):
            rows = _first_scorer([row for row in report.table_deciles if row.label == label])
            base.plot(
                [row.decile for row in rows],
                [100 * row.base_rate for row in rows],
                color=colour,
                marker=marker,
                linestyle=line,
                label=label_text(label),
            )
        base.set_title("How often")
        base.set_ylabel("days with the label (%)")
        base.set_ylim(0, 100)
        base.legend(loc="upper left")
        for axes, label in zip(panels, labels, strict=True):
            _deciles(axes, [row for row in report.table_deciles if row.label == label])
            axes.set_title(f"AUC on {label_text(label)}")
        for axes in (base, *panels):
            axes.set_xlabel("tenth of expected volatility")
            axes.set_xticks([1, 4, 7, 10])
            axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
    return figure


def _deciles(axes: "Axes", rows: Sequence[DecileRow]) -> None:
    scorers = list(dict.fromkeys(row.scorer for row in rows))
    shifts = dodge(len(scorers), 0.18)
    for scorer, shift, (colour, marker, line) in zip(scorers, shifts, SERIES, strict=False):
        own = [r for r in rows if r.scorer == scorer and math.isfinite(r.auc.figure)]
        at = [row.decile + shift for row in own]
        axes.vlines(
            at,
            [r.auc.low for r in own],
            [r.auc.high for r in own],
            color=colour,
            linewidth=0.7,
            alpha=0.6,
        )
        axes.plot(
            at,
            [row.auc.figure for row in own],
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=0.9,
            linestyle=line,
            label=scorer_label(scorer),
        )
    axes.axhline(0.5, color=INK_COLOUR, linewidth=0.8, zorder=0.5)
    axes.set_ylim(*_limits([row.auc for row in rows], 0.35, 0.75))
    _without_zero(axes, "y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=7.5)


def gate_figure(report: DirectionReport) -> "Figure":
    """Draw the earlier work's gates on AUC, and each family's chosen variant among them."""
    rows = sorted(report.table_gates, key=lambda row: -row.auc.figure)
    description = "AUC on touch up of one variant per family, among the gates .60, .65 and .718"
    if not rows:
        return note("no scorer was evaluated on touch up", description)
    low, high = _limits([row.auc for row in rows], 0.45, 0.85)
    edges = [low, STOP, FINE_TUNE, INVESTIGATE, high]
    names = ("stop if collapsed", "undecided", "fine-tune", "investigate")
    with house_style():
        figure = new_figure(1.5 + 0.3 * len(rows), description)
        axes = figure.subplots()
        for start, end, name, shade in zip(edges, edges[1:], names, (0, 1, 0, 1), strict=False):
            axes.axvspan(start, end, color=SEARCH_COLOUR, alpha=0.03 + 0.06 * shade, linewidth=0)
            axes.annotate(
                name,
                ((start + end) / 2, 1.0),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=MUTED_COLOUR,
            )
        for y, row in enumerate(rows):
            is_volatility = row.family == "volatility"
            of_model = row.family in OF_THE_MODEL
            colour = SEARCH_COLOUR if of_model else MUTED_COLOUR
            _interval(axes, y, row.auc, FIXED_COLOUR if is_volatility else colour, "o")
        for gate in (STOP, FINE_TUNE, INVESTIGATE):
            axes.axvline(gate, color=INK_COLOUR, linewidth=0.8, linestyle="--", zorder=0.5)
        last = len(rows)
        axes.axhline(last - 0.5, color=MUTED_COLOUR, linewidth=0.6)
        for auc, marker, text in (
            (INVESTIGATE, "s", "PatchTST"),
            (RSI_ON_THE_SAME_DAYS, "D", "−RSI"),
        ):
            axes.plot([auc], [last], marker, color=INK_COLOUR, markerfacecolor="white")
            side = -1 if text == "PatchTST" else 1
            axes.annotate(
                f"{text} {gate_text(auc)}",
                (auc, last),
                (8 * side, 0),
                textcoords="offset points",
                ha="right" if side < 0 else "left",
                va="center",
                fontsize=8,
            )
        names_of_rows = [*(FAMILIES[row.family] for row in rows), "earlier work: SPY 2023-24"]
        axes.set_yticks(range(last + 1), names_of_rows)
        for tick, row in zip(axes.get_yticklabels(), rows, strict=False):
            if row.family == "volatility":
                tick.set_color(FIXED_TEXT_COLOUR)
                tick.set_fontweight("bold")
        axes.set_ylim(last + 0.6, -0.6)
        axes.set_xlim(low, high)
        axes.set_xticks([0.5, STOP, FINE_TUNE, INVESTIGATE, 0.8])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("AUC on touch up (95 % interval)")
        _without_zero(axes, "x")
    return figure


def learning_rate_figure(report: DirectionReport) -> "Figure":
    """Draw the validation loss of every learning rate over that before training."""
    rows = report.table_learning_rates
    description = "Validation loss after fine-tuning over that before, by learning rate"
    if not rows:
        return note("nothing was fine-tuned", description)
    with house_style():
        figure = new_figure(3.2, description)
        axes = figure.subplots()
        for (kind, text), (colour, marker, line) in zip(
            KIND_TEXTS.items(), SERIES[1:], strict=False
        ):
            own = [row for row in rows if row.kind == kind]
            if own:
                axes.plot(
                    [row.learning_rate for row in own],
                    [row.best_loss / row.loss_before for row in own],
                    color=colour,
                    marker=marker,
                    linestyle=line,
                    label=text,
                )
            for row in own:
                if row.n_chosen:
                    axes.annotate(
                        f"chosen {row.n_chosen} of {row.n_trainings}",
                        (row.learning_rate, row.best_loss / row.loss_before),
                        (0, -12),
                        textcoords="offset points",
                        ha="center",
                        fontsize=7.5,
                        color=colour,
                    )
        axes.axhline(1.0, color=INK_COLOUR, linewidth=0.8, zorder=0.5)
        axes.set_xscale("log")
        rates = sorted({row.learning_rate for row in rows})
        axes.set_xticks(rates, [rate_text(rate) for rate in rates])
        axes.minorticks_off()
        axes.margins(x=0.12, y=0.2)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("lowest validation loss : before")
        axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        legend_above(axes, 2)
    return figure


def _interval(axes: "Axes", y: float, auc: Estimate, colour: str, marker: str) -> None:
    if math.isfinite(auc.low) and math.isfinite(auc.high):
        axes.hlines(y, auc.low, auc.high, color=colour, linewidth=1.4)
    axes.plot([auc.figure], [y], marker=marker, color=colour, markersize=5)


def _limits(aucs: Sequence[Estimate], low: float, high: float) -> tuple[float, float]:
    """Return limits that hold all intervals, and at least those given."""
    ends = [end for auc in aucs for end in auc if math.isfinite(end)]
    return min([low, *(end - 0.01 for end in ends)]), max([high, *(end + 0.01 for end in ends)])


def _first_scorer(rows: Sequence[DecileRow]) -> list[DecileRow]:
    """Days and base rates are the same for every scorer."""
    return [row for row in rows if row.scorer == rows[0].scorer]


def _without_zero(axes: "Axes", which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(lambda value, _: f"{value:.3g}".replace("0.", ".", 1))


def _wrapped(text: str, width: int = 26) -> str:
    from textwrap import fill

    return fill(text, width)


FIGURES = (forest_figure, decile_figure, reliability_figure, gate_figure, learning_rate_figure)
