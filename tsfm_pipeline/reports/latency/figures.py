"""Latency in one figure: what each number of candidate configurations costs, stage by stage, and what loss it buys.

What belongs here: `latency_figure`. What does not: timing and scoring (`reports.latency.numbers`), colours and bytes (`style`). What is
missing in the report is left out: without losses there are two panels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.evaluation.protocol import LATENCY_BUDGET_MS
from tsfm_pipeline.reports.shared.marks import note
from tsfm_pipeline.reports.shared.style import FAINT, FIXED, FIXED_TEXT, INK, MUTED, SEARCH, STAGE_STYLES, house_style, new_figure
from tsfm_pipeline.reports.shared.wording import figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = Mapping[str, Any]
Row = Mapping[str, Any]


def latency_figure(report: Report) -> "Figure":
    """What does each extra candidate configuration cost, how many fit into the budget, and what loss does each number buy?"""
    rows = [row for row in report.get("table_latency") or [] if row.get("k") is not None]
    totals = sorted((row for row in rows if row.get("stage") == "total"), key=lambda row: int(row["k"]))
    if not totals:
        return note("no latency was measured", "latency by number of configurations")
    sizes = [int(row["k"]) for row in totals]
    scored = [row for row in report.get("table_pareto") or [] if math.isfinite(figure_of(row, "ratio"))]
    bought = sorted(scored, key=lambda row: int(row["k"]))
    with house_style():
        description = f"Latency of one request for K = {sizes[0]} to {sizes[-1]} configurations with the budget line, its stages"
        figure = new_figure(3.5, description + (", and the loss ratio that each K buys" if bought else ""))
        widths = (1.2, 0.9, 1.1) if bought else (1.25, 1)
        panels = figure.subplots(1, len(widths), width_ratios=widths)
        _whole_request(panels[0], report, totals, sizes)
        _stage_bars(panels[1], rows, sizes)
        if bought:
            _loss_by_size(panels[2], report, bought)
        figure.suptitle(_device_line(report), x=0.01, ha="left", fontsize=8.5, color=MUTED)
    return figure


def _whole_request(axes: "Axes", report: Report, totals: Sequence[Row], sizes: Sequence[int]) -> None:
    """Quantiles of the whole request with the interval of p95, and the budget."""
    budget = figure_of(report, "budget_ms")
    budget = budget if math.isfinite(budget) else LATENCY_BUDGET_MS
    band = ([figure_of(row, key) for row in totals] for key in ("p95_low_ms", "p95_high_ms"))
    axes.fill_between(sizes, *band, color=SEARCH, alpha=0.2, linewidth=0)
    for key, colour, marker, line in (("p50", MUTED, "s", "--"), ("p95", SEARCH, "o", "-"), ("p99", INK, "^", ":")):
        values = [figure_of(row, f"{key}_ms") for row in totals]
        axes.plot(sizes, values, color=colour, marker=marker, linestyle=line, label=key)
    axes.axhline(budget, color=FIXED, linewidth=1.2, linestyle=(0, (6, 3)))
    axes.annotate(f"{budget:g} ms", (sizes[0], budget), (2, 3), textcoords="offset points", color=FIXED_TEXT, fontweight="bold")
    _size_axis(axes, sizes)
    _log_latency(axes, [figure_of(row, f"{p}_ms") for row in totals for p in ("p50", "p99")] + [budget])
    axes.set_title("whole request")
    axes.set_ylabel("latency, ms (logarithmic)")
    axes.legend(loc="lower right", ncols=3, columnspacing=1.0, handlelength=1.6)


def _stage_bars(axes: "Axes", rows: Sequence[Row], sizes: Sequence[int]) -> None:
    """Medians of the stages, stacked per K."""
    stages = list(dict.fromkeys(str(row.get("stage")) for row in rows if row.get("stage") != "total"))
    by_key = {(int(row["k"]), row.get("stage")): figure_of(row, "p50_ms") for row in rows}
    base = [0.0] * len(sizes)
    for i, stage in enumerate(stages):
        colour, hatch = STAGE_STYLES[i % len(STAGE_STYLES)]
        heights = [by_key.get((k, stage), math.nan) for k in sizes]
        heights = [height if math.isfinite(height) else 0.0 for height in heights]
        axes.bar(range(len(sizes)), heights, 0.7, base, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4, label=stage)
        base = [b + h for b, h in zip(base, heights, strict=True)]
    axes.set_xticks(range(len(sizes)), [str(k) for k in sizes])
    axes.set_xlabel("candidate configurations K")
    axes.set_ylabel("ms")
    axes.set_title("stages (sum of medians)")
    if stages:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="upper left")


def _loss_by_size(axes: "Axes", report: Report, bought: Sequence[Row]) -> None:
    """The search's loss relative to the fixed configuration on requests that were timed, with intervals; the portfolio's K is filled."""
    sizes = [int(row["k"]) for row in bought]
    ratios, lows, highs = ([figure_of(row, key) for row in bought] for key in ("ratio", "ratio_low", "ratio_high"))
    axes.axhline(1.0, color=FIXED, linewidth=1.2)
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    axes.annotate("fixed", (1.0, 1.0), (3, 0), color=FIXED_TEXT, **beside)
    axes.vlines(sizes, lows, highs, color=SEARCH, linewidth=1.4)
    axes.plot(sizes, ratios, color=SEARCH, linewidth=1.0, marker="o", markersize=6, markerfacecolor="white")
    axes.plot(
        [k for k in sizes if k == report.get("portfolio_size")],
        [ratio for k, ratio in zip(sizes, ratios, strict=True) if k == report.get("portfolio_size")],
        color=SEARCH,
        marker="o",
        markersize=8,
        linestyle="",
    )
    _size_axis(axes, sizes)
    axes.yaxis.grid(True, color=FAINT, linewidth=0.5)
    axes.margins(y=0.12)
    axes.set_title("loss it buys")
    n_scored = figure_of(report, "n_scored_requests")
    counted = f", {n_scored:,.0f} requests" if math.isfinite(n_scored) else ""
    axes.set_ylabel(f"cost ratio, {report.get('scored_tier') or 'one'} tier{counted}")


def _size_axis(axes: "Axes", sizes: Sequence[int]) -> None:
    """Numbers of configurations on a logarithmic axis, each one named."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(k) for k in sizes])
    axes.set_xlabel("candidate configurations K")


def _log_latency(axes: "Axes", latencies: Sequence[float]) -> None:
    """A logarithmic axis with milliseconds as people write them."""
    from matplotlib.ticker import FixedLocator, NullLocator

    finite = [value for value in latencies if math.isfinite(value) and value > 0]
    low, high = min(finite) / 1.3, max(finite) * 1.5
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = [step * 10.0**power for power in range(-3, 7) for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.set_yticklabels([f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.grid(True, color=FAINT, linewidth=0.5)


def _device_line(report: Report) -> str:
    """Device, threads, precision and checkpoint with its size: latency means nothing without them."""
    figures = {key: figure_of(report, key) for key in ("n_parameters", "checkpoint_size_mib", "threads", "n_requests", "portfolio_size")}
    known = {key: value for key, value in figures.items() if math.isfinite(value)}
    size = ", ".join(
        text
        for key, text in (
            ("n_parameters", f"{figures['n_parameters'] / 1e6:.3g} M parameters"),
            ("checkpoint_size_mib", f"{figures['checkpoint_size_mib']:.3g} MiB"),
        )
        if key in known
    )
    name = report.get("checkpoint") or "unnamed checkpoint"
    timed = f"{figures['n_requests']:,.0f} requests" if "n_requests" in known else ""
    at = f" at K = {figures['portfolio_size']:.0f}" if timed and "portfolio_size" in known else ""
    parts = [
        report.get("device"),
        f"{figures['threads']:.0f} thread{'s' if figures['threads'] > 1 else ''}" if "threads" in known else "",
        report.get("dtype"),
        f"{name} ({size})" if size else name,
        timed + at,
    ]
    return " · ".join(str(part) for part in parts if part)
