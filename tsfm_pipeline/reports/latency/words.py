"""The latency report in words and tables.

What belongs here: sentences and tables from the report's figures. What does not: the figures themselves (`numbers`), drawings (`figures`).
"""

import math

from tsfm_pipeline.evaluation.protocol import LATENCY_BUDGET_MS
from tsfm_pipeline.reports.shared.answer import Answer, Report
from tsfm_pipeline.reports.shared.table import Row, Table, rows_of
from tsfm_pipeline.reports.shared.wording import (
    count,
    figure_of,
    interval,
    milliseconds,
    number,
    row_ratio,
)


def latency_answer(report: Report) -> Answer:
    """How many candidate configurations fit into the latency budget?"""
    budget = figure_of(report, "budget_ms")
    budget_text = milliseconds(budget if math.isfinite(budget) else LATENCY_BUDGET_MS)
    device = report.get("device") or "an unnamed device"
    largest = figure_of(report, "largest_k_within_budget")
    if math.isnan(largest):
        return Answer("unknown", f"Latency on {device} was not measured.")
    if largest < 1:
        return Answer("loss", f"On {device}, not even one configuration answers within {budget_text} at the 95th percentile.")
    p95 = figure_of(report, f"k{int(largest)}_p95_latency_ms")
    measured = f" (K = {int(largest)}: {milliseconds(p95)})" if math.isfinite(p95) else ""
    return Answer(
        "gain",
        f"On {device}, up to {count(largest, 'candidate configuration')} {'fits' if largest == 1 else 'fit'} into {budget_text} at the "
        f"95th percentile{measured}." + _portfolio_sentence(report),
    )


def _portfolio_sentence(report: Report) -> str:
    """What the portfolio's own number of configurations takes and what its answers cost, where both were measured."""
    size = figure_of(report, "portfolio_size")
    bought: Report = next((row for row in report.get("table_pareto") or [] if row.get("k") == size), {})
    if not math.isfinite(figure_of(bought, "ratio")):
        return ""
    totals = [row for row in report.get("table_latency") or [] if row.get("k") == size and row.get("stage") == "total"]
    taken = interval(*(figure_of(totals[0], key) for key in ("p95_ms", "p95_low_ms", "p95_high_ms"))) if totals else ""
    sample = f" on {count(n, 'timed request')}" if math.isfinite(n := figure_of(bought, "n_requests")) else ""
    portfolio = f"K = {int(size)} and takes {taken} ms" if taken else f"K = {int(size)}"
    return f" The portfolio has {portfolio}; its answers cost {row_ratio(bought)} times the fixed configuration's{sample}."


def latency(report: Report) -> Table:
    """Latency of a whole request by the number of candidate configurations, with the stages' medians and what each number buys."""
    rows = rows_of(report, "table_latency")
    bought = {row.get("k"): row for row in rows_of(report, "table_pareto")}
    stages = list(dict.fromkeys(str(row.get("stage")) for row in rows if row.get("stage") != "total"))
    by_key = {(row.get("k"), row.get("stage")): row for row in rows}
    sizes = sorted({int(row["k"]) for row in rows if row.get("k") is not None})
    cells = tuple(
        (
            str(k),
            number(figure_of(by_key.get((k, "total"), {}), "p50_ms")),
            row_interval_ms(by_key.get((k, "total"), {})),
            number(figure_of(by_key.get((k, "total"), {}), "p99_ms")),
            *(number(figure_of(by_key.get((k, stage), {}), "p50_ms")) for stage in stages),
            number(figure_of(bought.get(k, {}), "floor_ms")),
            row_ratio(bought.get(k, {})),
        )
        for k in sizes
    )
    columns = ("K", "p50, ms", "p95, ms", "p99, ms", *(f"{stage} p50, ms" for stage in stages), "floor, ms", "cost ratio")
    return Table("Latency of one request", columns, cells)


def row_interval_ms(row: Row) -> str:
    """The 95th percentile of a latency record with its interval, in milliseconds."""
    return interval(figure_of(row, "p95_ms"), figure_of(row, "p95_low_ms"), figure_of(row, "p95_high_ms"))
