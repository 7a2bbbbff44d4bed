"""The figures of the study's report about methods, the gate and single windows.

What belongs here: what each of them shows. What does not: figures of trainings
(`training_figures`), shared marks and style (`reports.shared`), sentences (`words`).
"""

import math
from typing import TYPE_CHECKING

from tsfm_pipeline.reports.shared.marks import (
    Series,
    dodged_rows,
    legend_above,
    note,
    ratio_limits,
    ratio_point,
    ratio_rows,
)
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
from tsfm_pipeline.reports.shared.wording import percent
from tsfm_pipeline.studies.time_r1.methods import (
    DRAFT,
    GRIP_MEDIAN,
    METHODS,
    REFERENCES,
    SEASONS_MEAN,
    SLOW_THINKING,
    title_of,
)
from tsfm_pipeline.studies.time_r1.report.model import ExampleRow, SlowThinkingReport
from tsfm_pipeline.studies.time_r1.report.names import OUTCOME_TEXTS
from tsfm_pipeline.studies.time_r1.report.words import short_question

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS = {"baseline": MUTED_COLOUR, "policy": INK_COLOUR, "slow thinking": SEARCH_COLOUR}
GALLERY_WIDTH = 4.7
SHOWN_HORIZONS = 3
"""Of the look-back in the gallery, so that the answers are wide enough to be told apart."""
ROW_INCHES = 0.3
RULES = {
    "gate": "with the gate",
    "always refined": "always the refined answer",
    "oracle": "oracle: the lower error",
}
RATIO_AXIS = "ratio of MASE (95 % interval); left of 1: lower error"


def forest_figure(report: SlowThinkingReport) -> "Figure":
    """Draw every method's MASE on the headline, and its ratio to the draft's."""
    rows = report.methods()
    description = "MASE of every method, and its ratio to the draft's"
    if not rows:
        return note("no method was evaluated", description)
    with house_style():
        figure = new_figure(1.3 + ROW_INCHES * len(rows), description)
        left, right = figure.subplots(1, 2, sharey=True)
        ratios = [report.over(DRAFT, row.method) for row in rows]
        limits = ratio_limits([ratio for ratio in ratios if math.isfinite(ratio.figure)])
        for y, (row, ratio) in enumerate(zip(rows, ratios, strict=True)):
            colour = _colour(row.method)
            _interval(left, y, row.mase, colour)
            if row.method != DRAFT:
                ratio_point(right, y, ratio, limits, colour, "o", 5.0)
        draft = report.method(DRAFT)
        if draft is not None:
            left.axvline(draft.mase.figure, color=FIXED_COLOUR, linewidth=1.0, zorder=0.5)
        ratio_rows(right, [title_of(row.method) for row in rows], limits, RATIO_AXIS)
        left.set_title("MASE")
        left.set_xlabel("MASE (95 % interval)")
        left.xaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        left.locator_params(axis="x", nbins=6)
        right.set_title("Over the draft's")
        for tick, row in zip(left.get_yticklabels(), rows, strict=True):
            tick.set_color(FIXED_TEXT_COLOUR if row.method == DRAFT else INK_COLOUR)
            tick.set_fontweight("bold" if row.method in (DRAFT, SLOW_THINKING) else "normal")
    return figure


def share_figure(report: SlowThinkingReport) -> "Figure":
    """Draw the MASE of slow thinking, and of GRIP alone, over each reference's."""
    description = "MASE of slow thinking and of GRIP alone over that of each reference"
    series = [
        Series(
            title_of(method),
            colour,
            marker,
            {
                title_of(row.reference): row.ratio
                for row in report.comparisons(method)
                if row.reference != method
            },
        )
        for method, colour, marker in (
            (SLOW_THINKING, SEARCH_COLOUR, "o"),
            (GRIP_MEDIAN, INK_COLOUR, "^"),
        )
    ]
    shown = {label for each in series for label in each.ratios}
    labels = [title_of(name) for name in REFERENCES if title_of(name) in shown]
    return _ratio_figure(labels, [each for each in series if each.ratios], description)


def across_figure(report: SlowThinkingReport) -> "Figure":
    """Draw slow thinking over its draft and over the four-day mean, on every question."""
    description = "MASE of slow thinking over its draft's and the four-day mean's, by data set"
    questions = {short_question(question): question for question in report.questions}
    series = [
        Series(
            f"over {title_of(reference)}",
            colour,
            marker,
            {
                label: report.over(reference, question=question)
                for label, question in questions.items()
                if math.isfinite(report.over(reference, question=question).figure)
            },
        )
        for reference, colour, marker in (
            (DRAFT, FIXED_COLOUR, "D"),
            (SEASONS_MEAN, MUTED_COLOUR, "o"),
        )
    ]
    shown = {label for each in series for label in each.ratios}
    labels = [label for label in questions if label in shown]
    return _ratio_figure(labels, [each for each in series if each.ratios], description)


def _ratio_figure(labels: list[str], series: list[Series], description: str) -> "Figure":
    if not labels:
        return note("no two methods were compared", description)
    limits = ratio_limits([ratio for each in series for ratio in each.ratios.values()], 0.5)
    with house_style():
        figure = new_figure(1.2 + 0.38 * len(labels), description)
        axes = figure.subplots()
        dodged_rows(axes, labels, series, limits, RATIO_AXIS)
        axes.tick_params(axis="y", pad=8)  # room for the arrows of ratios beyond the axis
        legend_above(axes, len(series))
    return figure


def gate_figure(report: SlowThinkingReport) -> "Figure":
    """Draw what the gate decided, and what other rules would score."""
    description = "Decisions of the gate by kind, and MASE over the draft's by rule"
    rows = report.table_gate
    if not rows or not report.table_rules:
        return note("there is no gate to judge", description)
    with house_style():
        figure = new_figure(2.6, description)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        colours = (SEARCH_COLOUR, "#9ecae1", FIXED_COLOUR, "#fdbe85", FAINT_COLOUR)
        left.barh(range(len(rows)), [100 * row.share for row in rows], color=colours, height=0.65)
        for y, row in enumerate(rows):
            left.annotate(
                f"{percent(row.share)} ({row.n})",
                (100 * row.share, y),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        left.set_yticks(
            range(len(rows)), [_wrapped(OUTCOME_TEXTS[row.outcome], 26) for row in rows]
        )
        left.set_ylim(len(rows) - 0.5, -0.5)
        left.set_xlim(0, 100 * max(row.share for row in rows) * 1.35)
        left.set_xlabel("share of the windows (%)")
        left.set_title("What it decided")
        left.tick_params(axis="y", length=0, labelsize=8)
        labels = list(RULES.values())
        ratios = [report.rule(rule) for rule in RULES]
        limits = ratio_limits(ratios, 0.5)
        for y, (rule, ratio) in enumerate(zip(RULES, ratios, strict=True)):
            colour = SEARCH_COLOUR if rule == "gate" else MUTED_COLOUR
            ratio_point(right, y, ratio, limits, colour, "o", 6.0)
        ratio_rows(right, labels, limits, "MASE over the draft's (95 % interval)")
        right.set_title("What it is worth")
    return figure


def example_figure(row: ExampleRow) -> "Figure":
    """Draw one window: the end of the look-back, then draft, refined answer and truth."""
    description = f"{row.channel}, row {row.origin}: look-back, draft, refined answer, truth"
    history = row.history[-SHOWN_HORIZONS * len(row.truth) :]
    past, ahead = range(1 - len(history), 1), range(1, len(row.truth) + 1)
    with house_style():
        figure = new_figure(2.7, description, width_inches=GALLERY_WIDTH)
        axes = figure.subplots()
        axes.plot(past, history, color=MUTED_COLOUR, linewidth=0.9)
        axes.plot(ahead, row.truth, color=INK_COLOUR, linewidth=1.2, label="truth")
        axes.plot(
            ahead,
            row.draft,
            color=FIXED_COLOUR,
            linewidth=1.6,
            linestyle=(0, (4, 2)),
            label="draft",
        )
        axes.plot(ahead, row.refined, color=SEARCH_COLOUR, linewidth=1.8, label="refined")
        axes.axvline(0.5, color=MUTED_COLOUR, linewidth=0.8)
        axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        axes.locator_params(axis="both", nbins=6)
        axes.set_xlabel("steps from the origin")
        axes.set_ylabel(row.channel)
        legend_above(axes, 3)
    return figure


def _interval(axes: "Axes", y: float, estimate: Estimate, colour: str) -> None:
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        axes.hlines(y, estimate.low, estimate.high, color=colour, linewidth=1.4)
    axes.plot([estimate.figure], [y], "o", color=colour, markersize=5)


def _colour(method: str) -> str:
    return FIXED_COLOUR if method == DRAFT else KIND_COLOURS[METHODS[method].kind]


def _wrapped(text: str, width: int) -> str:
    from textwrap import fill

    return fill(text, width)
