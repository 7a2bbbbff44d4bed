"""The cold-start report in words and tables.

What belongs here: sentences and tables from the report's figures. What does not: the figures
themselves (`numbers`), drawings (`figures`).
"""

import math
from collections.abc import Iterable

from tsfm_pipeline.reports.cold_start.model import ColdStartReport
from tsfm_pipeline.reports.shared.answer import Answer, effect_of
from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    duration,
    percent,
    percent_interval,
    ratio_interval,
    whole,
)

COLD_START_MINUTES = 120
FULL_HISTORY = "full_history"
STRATEGY_LABELS: dict[str, str] = {
    "no_prior": "search, no prior",
    "fleet_prior": "search, fleet-wide prior",
    "retrieved_prior": "search, retrieved prior",
    "true_label_prior": "search, prior of the true archetype",
    "fixed_config": "fixed configuration",
    FULL_HISTORY: "search, full history",
}


def cold_start_answer(report: ColdStartReport, minutes: int = COLD_START_MINUTES) -> Answer:
    """Say what a tenant with two hours of history may expect, compared with full history."""
    tier = report.headline_tier
    rows = report.strategies_at(tier)
    ratios = {
        name: row.ratio
        for (at, name), row in rows.items()
        if at == minutes and math.isfinite(row.ratio.figure)
    }
    retrieved = ratios.get("retrieved_prior")
    if retrieved is None:
        return Answer("unknown", f"Cold start at {duration(minutes)} of history was not measured.")
    rivals = [
        f"{words} {ratio_interval(*ratios[name])}"
        for name, words in (
            ("no_prior", "without a prior"),
            ("fixed_config", "with the fixed configuration"),
        )
        if name in ratios
    ]
    sentence = (
        f"With {duration(minutes)} of history and a retrieved prior, a tenant's forecasts at the "
        f"{tier} tier cost "
        f"{ratio_interval(*retrieved)} times what they cost with full history"
        + ("; " + ", ".join(rivals) if rivals else "")
    )
    gap = next(
        (row.gap for (at, _), row in report.gaps_at(tier).items() if at == minutes), Estimate()
    )
    if gap.low <= 0 <= gap.high:
        return Answer(
            "null",
            f"{sentence}. Whether more history helps at all is not decided: the gap's interval "
            "holds 0.",
        )
    return Answer(effect_of(*retrieved), f"{sentence}.")


def cold_start(report: ColdStartReport) -> Table:
    """Return cost relative to full history by minutes of history, one column per strategy."""
    tier = report.headline_tier
    rows = report.strategies_at(tier)
    strategies = in_order(name for _, name in rows)

    def ratio(minutes: int, strategy: str) -> str:
        row = rows.get((minutes, strategy))
        return ratio_interval(*row.ratio) if row else NO_FIGURE

    lengths = sorted({minutes for minutes, _ in rows})
    cells = tuple(
        (str(minutes), *(ratio(minutes, name) for name in strategies)) for minutes in lengths
    )
    columns = ("minutes", *(STRATEGY_LABELS.get(name, name) for name in strategies))
    return Table(f"Cost relative to full history, {tier} tier", columns, cells)


def in_order(strategies: Iterable[str]) -> list[str]:
    """Return distinct strategies in the order of their labels, unknown ones after them."""
    present = set(strategies)
    known = [name for name in STRATEGY_LABELS if name in present]
    return known + sorted(present - set(known))


def gap(report: ColdStartReport) -> Table:
    """Return the share of the gap between no prior and full history that each prior closes."""
    tier = report.headline_tier
    rows = report.gaps_at(tier)
    priors = in_order(prior for _, prior in rows)

    def closed(minutes: int, prior: str) -> str:
        row = rows.get((minutes, prior))
        return percent_interval(*row.gap_closed) if row else NO_FIGURE

    gaps = {minutes: row.gap for (minutes, _), row in rows.items()}
    cells = tuple(
        (
            str(minutes),
            percent_interval(*gaps[minutes]),
            *(closed(minutes, prior) for prior in priors),
        )
        for minutes in sorted(gaps)
    )
    columns = (
        "minutes",
        "gap: no prior above full history",
        *(f"closed, {STRATEGY_LABELS.get(prior, prior).split(', ')[-1]}" for prior in priors),
    )
    return Table(f"How much of the cold-start gap a prior closes, {tier} tier", columns, cells)


def retrieval(report: ColdStartReport) -> Table:
    """Return how often a held-out tenant's archetype is found, by the length of its history."""
    cells = tuple(
        (
            row.history,
            percent_interval(*row.top1_accuracy),
            percent(row.balanced_accuracy),
            whole(row.n_queries),
        )
        for row in report.table_retrieval
    )
    return Table(
        "Archetype retrieval",
        ("history, minutes", "top-1 accuracy", "balanced accuracy", "queries"),
        cells,
    )
