"""The figures of the cold-start report.

What belongs here: drawing. What does not: colours and bytes (`shared.style`), wording (`words`).
"""

from typing import TYPE_CHECKING

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.headline.figures import Report
from tsfm_pipeline.reports.shared.marks import dodge, legend_above, note, short
from tsfm_pipeline.reports.shared.style import FAINT, INK, MUTED, SEARCH, STRATEGY_STYLES, house_style, new_figure
from tsfm_pipeline.reports.shared.wording import STRATEGY_LABELS, figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cold_start_figure(report: Report, tier: str = HEADLINE_TIER) -> "Figure":
    """What may a tenant with little history expect?"""
    rows = [row for row in report.get("table_cold_start") or [] if row.get("tier") == tier]
    minutes = sorted({float(row["minutes"]) for row in rows if row.get("minutes") is not None})
    if not minutes:
        return note(f"no cold start was measured at the {tier} tier", "loss by minutes of history")
    present = {str(row.get("strategy")) for row in rows} - {"full_history"}
    strategies = [name for name in STRATEGY_LABELS if name in present] + sorted(present - set(STRATEGY_LABELS))
    by_key = {(row.get("minutes"), row.get("strategy")): row for row in rows}
    with house_style():
        figure = new_figure(3.9, f"Loss by minutes of history relative to full history, {tier} tier, per strategy")
        axes = figure.subplots()
        axes.axhline(1.0, color=INK, linewidth=1.2, label=STRATEGY_LABELS["full_history"])
        for shift, name in zip(dodge(len(strategies), 0.09), strategies, strict=True):
            colour, marker, line = STRATEGY_STYLES.get(name, (INK, "*", "-"))
            own = [by_key.get((m, name), {}) for m in minutes]
            at = [i + shift for i in range(len(minutes))]
            axes.vlines(at, *([figure_of(r, k) for r in own] for k in ("ratio_low", "ratio_high")), color=colour, linewidth=1.1)
            label = STRATEGY_LABELS.get(name, name)
            axes.plot(at, [figure_of(r, "ratio") for r in own], color=colour, marker=marker, linestyle=line, label=label)
        axes.set_xticks(range(len(minutes)), [f"{m:g}" for m in minutes])
        axes.set_xlabel("minutes of history")
        axes.set_ylabel(f"loss relative to full history, {tier}")
        axes.yaxis.grid(True, color=FAINT, linewidth=0.5)
        legend_above(axes, 3)
    return figure


def retrieval_figure(report: Report) -> "Figure":
    """How often is the archetype of a new tenant found, by the history that it brings?"""
    rows = list(report.get("table_retrieval") or [])
    if not rows:
        return note("this fleet has no archetypes to retrieve", "archetype retrieval")
    with house_style():
        figure = new_figure(2.6, "Accuracy of archetype retrieval by history", width_inches=5.5)
        axes = figure.subplots()
        at = range(len(rows))
        for key, label, colour, marker in (
            ("top1_accuracy", "top-1 accuracy", SEARCH, "o"),
            ("balanced_accuracy", "balanced accuracy", MUTED, "s"),
        ):
            axes.plot(at, [100 * figure_of(row, key) for row in rows], linestyle="-", color=colour, marker=marker, label=label)
        axes.vlines(at, *([100 * figure_of(row, key) for row in rows] for key in ("top1_low", "top1_high")), color=SEARCH, linewidth=1.1)
        axes.set_xticks(at, [short(str(row.get("history"))) for row in rows])
        axes.set_xlabel("minutes of history")
        axes.set_ylabel("tenants, %")
        axes.set_ylim(0, 103)
        axes.yaxis.grid(True, color=FAINT, linewidth=0.5)
        axes.legend(loc="lower right")
    return figure
