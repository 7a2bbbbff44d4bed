"""The figures of the study's report about trainings.

What belongs here: curves of SFT, GRIP and GRPO, and the terms of the reward. What does not: figures
of methods (`figures`), shared marks and style (`reports.shared`).
"""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from tsfm_pipeline.reports.shared.marks import note
from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
)
from tsfm_pipeline.studies.time_r1.report.bars import KL_NATS
from tsfm_pipeline.studies.time_r1.report.model import RewardRow, SlowThinkingReport, WarmUpRow
from tsfm_pipeline.studies.time_r1.report.names import (
    PART_TEXTS,
    TERM_TEXTS,
    run_text,
    term_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = str | tuple[int, tuple[int, int]]
STYLES: tuple[tuple[str, Line, str], ...] = (
    (SEARCH_COLOUR, "-", "o"),
    (FIXED_COLOUR, "--", "D"),
    (INK_COLOUR, "-.", "s"),
    ("#009E73", ":", "^"),
    ("#CC79A7", (0, (5, 1)), "v"),
    (MUTED_COLOUR, (0, (1, 1)), "P"),
)
"""Colour, line and marker of up to six curves in one panel."""


def warm_up_figure(report: SlowThinkingReport) -> "Figure":
    """Draw the losses of supervised trainings by part of the completion."""
    description = "Loss of supervised trainings by part of the completion"
    if not report.table_warm_ups:
        return note("no supervised training was logged", description)
    return _losses(report.table_warm_ups, description)


def base_figure(report: SlowThinkingReport) -> "Figure":
    """Draw the losses of the base's training on held-out windows, by part of the completion."""
    description = "Loss of the base on held-out windows by part of the completion"
    if not report.table_base:
        return note("no training of the base is stored beside its weights", description)
    return _losses(report.table_base, description)


def _losses(rows: Sequence[WarmUpRow], description: str) -> "Figure":
    """Draw one panel per part; training as lines, validation as marks, which a line joins where
    there is nothing else.
    """
    runs = list(dict.fromkeys(row.run for row in rows))
    with house_style():
        figure = new_figure(2.9, description)
        panels = figure.subplots(1, len(PART_TEXTS), squeeze=False)[0]
        for axes, part in zip(panels, PART_TEXTS, strict=True):
            for run, (colour, line, marker) in zip(runs, cycle(STYLES), strict=False):
                own = [row for row in rows if row.run == run]
                trained = [row for row in own if row.part == "training"]
                held = [row for row in own if row.part == "validation"]
                if trained:
                    axes.plot(
                        [row.step for row in trained],
                        [getattr(row, part) for row in trained],
                        color=colour,
                        linestyle=line,
                        linewidth=1.1,
                        label=run_text(run),
                    )
                axes.plot(
                    [row.step for row in held],
                    [getattr(row, part) for row in held],
                    marker,
                    color=colour,
                    markersize=4,
                    linestyle="" if trained else line,
                    linewidth=1.1,
                    label=None if trained else run_text(run),
                )
            _dress(axes, PART_TEXTS[part], "update")
            values = [getattr(row, part) for row in rows]
            highest = max((v for v in values if math.isfinite(v)), default=1.0)
            axes.set_ylim(0, 1.06 * highest)
        panels[0].set_ylabel("loss (nats per token)")
        _legend(figure, panels[0], len(runs))
    return figure


def reward_figure(report: SlowThinkingReport) -> "Figure":
    """Draw rewards while training, on validation windows, and the KL divergence."""
    rows = report.table_rewards
    description = "Rewards and KL divergence during GRIP and GRPO"
    if not rows:
        return note("no reinforced training was logged", description)
    runs = list(dict.fromkeys(row.run for row in rows))
    with house_style():
        figure = new_figure(3.0, description)
        rewards, validation, divergence = figure.subplots(1, 3)
        for run, (colour, _, marker) in zip(runs, STYLES, strict=False):
            own = [row for row in rows if row.run == run]
            name = run_text(run)
            _curve(rewards, own, "reward_all", colour, "-", f"{name}, all completions")
            _curve(rewards, own, "reward_kept", colour, ":", f"{name}, kept")
            _curve(divergence, own, "exact_kl", colour, "-", f"{name}, exact")
            _curve(divergence, own, "k3", colour, ":", f"{name}, k3")
            held = [row for row in report.table_validations if row.run == run]
            steps = [row.step for row in held]
            base = [row.reward - row.gain.figure for row in held]
            validation.vlines(
                steps,
                [start + row.gain.low for start, row in zip(base, held, strict=True)],
                [start + row.gain.high for start, row in zip(base, held, strict=True)],
                color=colour,
                linewidth=0.8,
            )
            validation.plot(
                steps, [row.reward for row in held], color=colour, marker=marker, label=name
            )
        divergence.axhline(KL_NATS, color=INK_COLOUR, linewidth=0.8, zorder=0.5)
        _dress(rewards, "Reward while training", "update")
        _dress(validation, "Reward on validation windows", "update")
        _dress(divergence, "KL to the reference", "update")
        divergence.set_ylim(bottom=0)
        divergence.set_ylabel("nats per token")
        for axes in (rewards, validation, divergence):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), fontsize=7.5)
    return figure


def terms_figure(report: SlowThinkingReport) -> "Figure":
    """Draw what each term contributes to the reward during GRIP, and its share of the variance."""
    rows = [row for row in report.table_terms if row.run == "grip"]
    description = "Terms of the reward during GRIP: contribution, and share of the variance"
    if not rows:
        return note("no term of the reward was logged", description)
    with house_style():
        figure = new_figure(3.0, description)
        left, right = figure.subplots(1, 2)
        for term, (colour, line, _) in zip(TERM_TEXTS, STYLES, strict=True):
            own = [row for row in rows if row.term == term]
            steps = [row.step for row in own]
            style = {"color": colour, "linestyle": line, "linewidth": 1.4}
            left.plot(steps, [row.contribution for row in own], label=term_text(term), **style)
            right.plot(steps, [100 * row.variance_share for row in own], **style)
        _dress(left, "Contribution to the reward", "update")
        _dress(right, "Share of the variance within groups (%)", "update")
        right.axhline(0, color=INK_COLOUR, linewidth=0.8, zorder=0.5)
        _legend(figure, left, len(TERM_TEXTS))
    return figure


def _curve(
    axes: "Axes", rows: Sequence[RewardRow], name: str, colour: str, line: str, label: str
) -> None:
    points = [(row.step, getattr(row, name)) for row in rows]
    known = [(step, value) for step, value in points if math.isfinite(value)]
    if known:
        axes.plot(*zip(*known, strict=True), color=colour, linestyle=line, label=label)


def _dress(axes: "Axes", title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.locator_params(axis="y", nbins=6)


def _legend(figure: "Figure", axes: "Axes", columns: int) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper left", ncols=columns, fontsize=8.0
    )
