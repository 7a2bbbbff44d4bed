"""The cold-start report in words and tables.

What belongs here: sentences and tables from the report's figures. What does not: the figures themselves (`numbers`), drawings (`figures`).
"""

import math

from tsfm_pipeline.evaluation.protocol import HEADLINE_TIER
from tsfm_pipeline.reports.shared.answer import Answer, Report, row_effect
from tsfm_pipeline.reports.shared.table import Table, percent_row, rows_of
from tsfm_pipeline.reports.shared.wording import (
    STRATEGY_LABELS,
    duration,
    figure_of,
    percent,
    percent_interval,
    row_ratio,
    whole,
)

COLD_START_MINUTES = 120


def cold_start_answer(report: Report, minutes: int = COLD_START_MINUTES, tier: str = HEADLINE_TIER) -> Answer:
    """What may a tenant with two hours of history expect, compared with one whose whole history is known?"""
    rows = [r for r in report.get("table_cold_start") or [] if r.get("minutes") == minutes and r.get("tier") == tier]
    by_strategy = {row.get("strategy"): row for row in rows if math.isfinite(figure_of(row, "ratio"))}
    retrieved = by_strategy.get("retrieved_prior")
    if retrieved is None:
        return Answer("unknown", f"Cold start at {duration(minutes)} of history was not measured.")
    others = [
        f"{words} {row_ratio(by_strategy[name])}"
        for name, words in (("no_prior", "without a prior"), ("fixed_config", "with the fixed configuration"))
        if name in by_strategy
    ]
    sentence = (
        f"With {duration(minutes)} of history and a retrieved prior, a tenant's forecasts at the {tier} tier cost "
        f"{row_ratio(retrieved)} times what they cost with full history" + ("; " + ", ".join(others) if others else "")
    )
    gaps = [r for r in report.get("table_gap") or [] if r.get("minutes") == minutes and r.get("tier") == tier]
    low, high = (figure_of(gaps[0], key) if gaps else math.nan for key in ("gap_low", "gap_high"))
    if low <= 0 <= high:
        return Answer("null", f"{sentence}. Whether more history helps at all is not decided: the gap's interval holds 0.")
    return Answer(row_effect(retrieved), f"{sentence}.")


def cold_start(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Cost relative to full history by minutes of history, one column per strategy."""
    rows = [row for row in rows_of(report, "table_cold_start") if row.get("tier") == tier]
    present = {str(row.get("strategy")) for row in rows}
    strategies = [name for name in STRATEGY_LABELS if name in present]
    strategies += sorted(present - set(strategies))
    by_key = {(row.get("minutes"), row.get("strategy")): row for row in rows}
    cells = tuple(
        (number_of_minutes(minutes), *(row_ratio(by_key.get((minutes, name), {})) for name in strategies))
        for minutes in sorted({row["minutes"] for row in rows if row.get("minutes") is not None})
    )
    columns = ("minutes", *(STRATEGY_LABELS.get(name, name) for name in strategies))
    return Table(f"Cost relative to full history, {tier} tier", columns, cells)


def number_of_minutes(minutes: float) -> str:
    """Minutes as a plain count."""
    return f"{minutes:g}"


def gap(report: Report, tier: str = HEADLINE_TIER) -> Table:
    """Which share of the gap between no prior and full history each prior closes."""
    rows = [row for row in rows_of(report, "table_gap") if row.get("tier") == tier]
    priors = [name for name in STRATEGY_LABELS if any(row.get("prior") == name for row in rows)]
    by_key = {(row.get("minutes"), row.get("prior")): row for row in rows}
    cells = []
    for minutes in sorted({row["minutes"] for row in rows if row.get("minutes") is not None}):
        own = [by_key[minutes, prior] for prior in priors if (minutes, prior) in by_key]
        cells.append(
            (
                number_of_minutes(minutes),
                percent_row(own[0] if own else {}, "gap"),
                *(percent_row(by_key.get((minutes, prior), {}), "gap_closed") for prior in priors),
            )
        )
    columns = (
        "minutes",
        "gap: no prior above full history",
        *(f"closed, {STRATEGY_LABELS[p].split(', ')[-1]}" for p in priors),
    )
    return Table(f"How much of the cold-start gap a prior closes, {tier} tier", columns, tuple(cells))


def retrieval(report: Report) -> Table:
    """How often the archetype of a held-out tenant is found, by the history that it brings."""
    cells = tuple(
        (
            str(row.get("history")),
            percent_interval(*(figure_of(row, key) for key in ("top1_accuracy", "top1_low", "top1_high"))),
            percent(figure_of(row, "balanced_accuracy")),
            whole(row.get("n_queries")),
        )
        for row in rows_of(report, "table_retrieval")
    )
    return Table("Archetype retrieval", ("history, minutes", "top-1 accuracy", "balanced accuracy", "queries"), cells)
