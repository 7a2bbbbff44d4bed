"""Latency in one figure: the time that each number of configurations takes, and its loss.

What belongs here: `latency_figure`. What does not: timing and scoring (`numbers`), colours and
bytes (`shared.style`). If the report has no losses, the figure has two panels.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.reports.latency.model import LatencyReport, SizeRow
from tsfm_pipeline.reports.shared.marks import note
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
from tsfm_pipeline.reports.shared.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGE_STYLES: tuple[tuple[str, str], ...] = (
    ("#E69F00", ""),
    ("#0072B2", "//"),
    ("#009E73", ".."),
    ("#CC79A7", "xx"),
    ("#56B4E9", "\\\\"),
    ("#999999", "--"),
)
"""Colour and hatch of the stages, by position."""


def latency_figure(report: LatencyReport) -> "Figure":
    """Draw the time of each number of candidate configurations, the budget, and the loss at each
    number.
    """
    sizes = [row.k for row in report.whole_requests]
    if not sizes:
        return note("no latency was measured", "latency by number of configurations")
    bought = sorted(
        (row for row in report.table_pareto if math.isfinite(row.ratio.figure)),
        key=lambda row: row.k,
    )
    with house_style():
        description = (
            f"Latency of one request for K = {sizes[0]} to {sizes[-1]} configurations "
            "with the budget line, its stages"
        )
        figure = new_figure(
            3.5, description + (", and the loss ratio that each K buys" if bought else "")
        )
        widths = (1.2, 0.9, 1.1) if bought else (1.25, 1)
        panels = figure.subplots(1, len(widths), width_ratios=widths)
        _whole_request(panels[0], report)
        _stage_bars(panels[1], report)
        if bought:
            _loss_by_size(panels[2], report, bought)
        figure.suptitle(_device_line(report), x=0.01, ha="left", fontsize=8.5, color=MUTED_COLOUR)
    return figure


def _whole_request(axes: "Axes", report: LatencyReport) -> None:
    """Draw quantiles of the whole request with the interval of p95, and the budget."""
    rows, budget = report.whole_requests, report.budget_ms
    sizes = [row.k for row in rows]
    p50, p95, p99 = (
        [row.p50_ms for row in rows],
        [row.p95_ms for row in rows],
        [row.p99_ms for row in rows],
    )
    axes.fill_between(
        sizes,
        [each.low for each in p95],
        [each.high for each in p95],
        color=SEARCH_COLOUR,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(sizes, p50, color=MUTED_COLOUR, marker="s", linestyle="--", label="p50")
    axes.plot(
        sizes,
        [each.figure for each in p95],
        color=SEARCH_COLOUR,
        marker="o",
        linestyle="-",
        label="p95",
    )
    axes.plot(sizes, p99, color=INK_COLOUR, marker="^", linestyle=":", label="p99")
    axes.axhline(budget, color=FIXED_COLOUR, linewidth=1.2, linestyle=(0, (6, 3)))
    axes.annotate(
        f"{budget:g} ms",
        (sizes[0], budget),
        (2, 3),
        textcoords="offset points",
        color=FIXED_TEXT_COLOUR,
        fontweight="bold",
    )
    _size_axis(axes, sizes)
    _log_latency(axes, [*p50, *p99, budget])
    axes.set_title("whole request")
    axes.set_ylabel("latency, ms (logarithmic)")
    axes.legend(loc="lower right", ncols=3, columnspacing=1.0, handlelength=1.6)


def _stage_bars(axes: "Axes", report: LatencyReport) -> None:
    """Draw the medians of the stages, stacked per K."""
    sizes, stages = [row.k for row in report.whole_requests], report.stages
    base = [0.0] * len(sizes)
    for i, (stage, by_k) in enumerate(stages.items()):
        colour, hatch = STAGE_STYLES[i % len(STAGE_STYLES)]
        medians = [by_k[k].p50_ms if k in by_k else math.nan for k in sizes]
        heights = [median if math.isfinite(median) else 0.0 for median in medians]
        axes.bar(
            range(len(sizes)),
            heights,
            0.7,
            base,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4,
            label=stage,
        )
        base = [b + h for b, h in zip(base, heights, strict=True)]
    axes.set_xticks(range(len(sizes)), [str(k) for k in sizes])
    axes.set_xlabel("candidate configurations K")
    axes.set_ylabel("ms")
    axes.set_title("stages (sum of medians)")
    if stages:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="upper left")


def _loss_by_size(axes: "Axes", report: LatencyReport, bought: Sequence[SizeRow]) -> None:
    """Draw the search's loss relative to the fixed configuration on timed requests, with intervals;
    the portfolio's K is filled.
    """
    sizes, ratios = [row.k for row in bought], [row.ratio for row in bought]
    axes.axhline(1.0, color=FIXED_COLOUR, linewidth=1.2)
    beside: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
    }
    axes.annotate("fixed", (1.0, 1.0), (3, 0), color=FIXED_TEXT_COLOUR, **beside)
    axes.vlines(
        sizes,
        [ratio.low for ratio in ratios],
        [ratio.high for ratio in ratios],
        color=SEARCH_COLOUR,
        linewidth=1.4,
    )
    figures = [ratio.figure for ratio in ratios]
    axes.plot(
        sizes,
        figures,
        color=SEARCH_COLOUR,
        linewidth=1.0,
        marker="o",
        markersize=6,
        markerfacecolor="white",
    )
    own = [row for row in bought if row.k == report.portfolio_size]
    axes.plot(
        [row.k for row in own],
        [row.ratio.figure for row in own],
        color=SEARCH_COLOUR,
        marker="o",
        markersize=8,
        linestyle="",
    )
    _size_axis(axes, sizes)
    axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)
    axes.margins(y=0.12)
    axes.set_title("loss it buys")
    axes.set_ylabel(f"cost ratio, {report.scored_tier} tier, {report.n_scored_requests:,} requests")


def _size_axis(axes: "Axes", sizes: Sequence[int]) -> None:
    """Set a logarithmic axis with a label at each number of configurations."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(k) for k in sizes])
    axes.set_xlabel("candidate configurations K")


def _log_latency(axes: "Axes", latencies: Sequence[float]) -> None:
    """Set a logarithmic axis with milliseconds as people write them."""
    from matplotlib.ticker import FixedLocator, NullLocator

    finite = [value for value in latencies if math.isfinite(value) and value > 0]
    low, high = min(finite) / 1.3, max(finite) * 1.5
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = [
        step * 10.0**power
        for power in range(-3, 7)
        for step in (1, 2, 5)
        if low <= step * 10.0**power <= high
    ]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.set_yticklabels([f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.grid(True, color=FAINT_COLOUR, linewidth=0.5)


def _device_line(report: LatencyReport) -> str:
    """Return device, threads, precision and checkpoint with its size: a latency has no meaning
    without them.
    """
    size = f"{report.n_parameters / 1e6:.3g} M parameters, {report.checkpoint_size_mib:.3g} MiB"
    parts = [
        report.device,
        count(report.threads, "thread"),
        report.dtype,
        f"{report.checkpoint} ({size})",
        f"{count(report.n_requests, 'request')} at K = {report.portfolio_size}",
    ]
    return " · ".join(parts)
