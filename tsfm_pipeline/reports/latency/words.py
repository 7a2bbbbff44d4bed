"""The latency report in words and tables.

What belongs here: sentences and tables from the report's figures. What does not: the figures
themselves (`numbers`), drawings (`figures`).
"""

import math

from tsfm_pipeline.reports.latency.model import LatencyReport, size_name
from tsfm_pipeline.reports.shared.answer import Answer
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    count,
    interval,
    milliseconds,
    number,
    ratio_interval,
)


def latency_answer(report: LatencyReport) -> Answer:
    """Say how many candidate configurations fit into the latency budget."""
    if not report.sizes:
        return Answer("unknown", f"Latency on {report.device} was not measured.")
    budget, largest = milliseconds(report.budget_ms), report.largest_k_within_budget
    if largest < 1:
        return Answer(
            "loss",
            f"On {report.device}, not even one configuration answers within {budget} at the 95th "
            "percentile.",
        )
    p95 = milliseconds(report.sizes[size_name(largest)].p95_latency_ms.figure)
    return Answer(
        "gain",
        f"On {report.device}, up to {count(largest, 'candidate configuration')} "
        f"{'fits' if largest == 1 else 'fit'} into {budget} at the "
        f"95th percentile (K = {largest}: {p95}).{_portfolio_sentence(report)}",
    )


def _portfolio_sentence(report: LatencyReport) -> str:
    """Say how long the portfolio's own number of configurations takes and what its answers cost; ""
    if not measured.
    """
    size = report.portfolio_size
    bought = next((row for row in report.table_pareto if row.k == size), None)
    if bought is None or not math.isfinite(bought.ratio.figure):
        return ""
    taken = interval(*report.sizes[size_name(size)].p95_latency_ms)
    return (
        f" The portfolio has K = {size} and takes {taken} ms; its answers cost "
        f"{ratio_interval(*bought.ratio)} times the fixed "
        f"configuration's on {count(bought.n_requests, 'timed request')}."
    )


def latency(report: LatencyReport) -> Table:
    """Return the latency of a whole request by the number of candidate configurations, with the
    stages' medians and the loss at each number.
    """
    bought = {row.k: row for row in report.table_pareto}
    stages = report.stages
    cells = tuple(
        (
            str(row.k),
            number(row.p50_ms),
            interval(*row.p95_ms),
            number(row.p99_ms),
            *(
                number(by_k[row.k].p50_ms) if row.k in by_k else NO_FIGURE
                for by_k in stages.values()
            ),
            *(
                (number(bought[row.k].floor_ms), ratio_interval(*bought[row.k].ratio))
                if row.k in bought
                else (NO_FIGURE, NO_FIGURE)
            ),
        )
        for row in report.whole_requests
    )
    columns = (
        "K",
        "p50, ms",
        "p95, ms",
        "p99, ms",
        *(f"{stage} p50, ms" for stage in stages),
        "floor, ms",
        "cost ratio",
    )
    return Table("Latency of one request", columns, cells)
