"""Figures of single requests: the history, what happened, and what the fixed configuration and the
search would have reserved.

What belongs here: drawing one gallery record. What does not: choosing which requests to show
(`reports.page.story`).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.reports.shared.style import (
    FAINT_COLOUR,
    FIXED_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    SEARCH_COLOUR,
    house_style,
    new_figure,
)
from tsfm_pipeline.reports.shared.wording import figure_of, moment, number, percent, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 4.7


def gallery_figure(record: Mapping[str, Any]) -> "Figure":
    """Draw one request: history on the left, the horizon on a wider time scale on the right, one
    value axis.

    `record`: tenant_id, metric, tier, title, origin, times (history, then horizon), history,
    actual, decision_search, decision_fixed, loss_search, loss_fixed. Raises ValueError where their
    lengths do not fit together.
    """
    history, actual = (_floats(record[key]) for key in ("history", "actual"))
    search, fixed = (_floats(record[key]) for key in ("decision_search", "decision_fixed"))
    if not len(actual) == len(search) == len(fixed) > 0:
        raise ValueError(
            f"gallery record of tenant {record.get('tenant_id')!r}: actual, decision_search and "
            "decision_fixed have "
            f"{len(actual)}, {len(search)} and {len(fixed)} steps; they must cover the same "
            "horizon of at least one step"
        )
    times = [moment(value) for value in record["times"]]
    if len(times) != len(history) + len(actual):
        raise ValueError(
            f"gallery record of tenant {record.get('tenant_id')!r}: {len(times)} times for "
            f"{len(history)} steps of "
            f"history and {len(actual)} of horizon"
        )
    label = (
        f"{record.get('title', 'request')}: tenant {record.get('tenant_id')}, "
        f"{record.get('metric')}, {record.get('tier')} tier"
    )
    with house_style():
        figure = new_figure(2.6, label, width_inches=WIDTH_INCHES)
        left, right = figure.subplots(
            1, 2, sharey=True, width_ratios=(1, 1.35), gridspec_kw={"wspace": 0.02}
        )
        origin = times[len(history) - 1] if history else times[0]
        steps = [(time - origin).total_seconds() / 60 for time in times]
        left.plot(
            [s / 60 for s in steps[: len(history)]], history, color=MUTED_COLOUR, linewidth=0.8
        )
        ahead = steps[len(history) :]
        shortfall = [a > s for a, s in zip(actual, search, strict=True)]
        right.fill_between(
            ahead,
            actual,
            search,
            where=shortfall,
            color=SEARCH_COLOUR,
            alpha=0.22,
            linewidth=0,
            step="mid",
            label="short",
        )
        right.plot(
            ahead, actual, color=INK_COLOUR, linewidth=1.0, drawstyle="steps-mid", label="happened"
        )
        right.plot(
            ahead, fixed, color=FIXED_COLOUR, linewidth=1.6, linestyle=(0, (4, 2)), label="fixed"
        )
        right.plot(ahead, search, color=SEARCH_COLOUR, linewidth=1.8, label="search")
        right.tick_params(axis="y", length=0, labelleft=False)
        right.spines["left"].set_visible(False)
        for axes in (left, right):
            axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
        right.axvline(_first_boundary(steps, len(history)), color=MUTED_COLOUR, linewidth=0.8)
        left.set_xlabel("hours before")
        right.set_xlabel("minutes after the origin")
        left.set_ylabel(str(record.get("metric")))
        _sparse_ticks(left)
        _sparse_ticks(right)
        handles, labels = right.get_legend_handles_labels()
        figure.legend(
            handles[1:] + handles[:1],
            labels[1:] + labels[:1],
            loc="outside upper left",
            ncols=4,
            fontsize=8.0,
            handlelength=1.8,
            columnspacing=1.2,
        )
    return figure


def gallery_caption(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the title and the details of a record in words."""
    losses = [number(figure_of(record, f"loss_{name}")) for name in ("search", "fixed")]
    short = [percent(_share_short(record, name)) for name in ("search", "fixed")]
    origin = record.get("origin")
    parts = [
        f"{record.get('tenant_id')}, {record.get('metric')}, {record.get('tier')} tier",
        f"after {plain(moment(origin))}" if origin else "",
        f"short in {short[0]} of the steps, fixed {short[1]}",
        f"scaled cost {losses[0]}, fixed {losses[1]}",
    ]
    return str(record.get("title", "")), " · ".join(part for part in parts if part)


def _share_short(record: Mapping[str, Any], name: str) -> float:
    """Return the share of observed steps in which demand exceeded the reservation; NaN if no step
    was observed.
    """
    pairs = [
        (actual, decision)
        for actual, decision in zip(
            *map(_floats, (record["actual"], record[f"decision_{name}"])), strict=True
        )
    ]
    observed = [actual > decision for actual, decision in pairs if not math.isnan(actual)]
    return sum(observed) / len(observed) if observed else math.nan


def _floats(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def _first_boundary(steps: Sequence[float], n_history: int) -> float:
    """Return the time half a step before the first step of the horizon."""
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    return steps[n_history] - (gaps[n_history - 1] / 2 if n_history else 0.0)


def _sparse_ticks(axes: "Axes") -> None:
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=5)
