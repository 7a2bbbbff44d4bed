"""Tables of records that are not reports: the state of the telemetry, and any flat record.

What belongs here: which of their figures a reader sees. What does not: the reports' tables (each
report's `words`), the type of a table (`shared.table`), markup.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import NO_FIGURE, figure_of, percent, plain, whole

Record = Mapping[str, Any]


def telemetry(record: Record) -> Table:
    """Return how much was observed, what is missing, and what is left out because of it."""
    counts = {
        key: whole(figure_of(record, key)) for key in record if key.startswith(("n_", "longest"))
    }
    times = " to ".join(plain(record.get(key)) for key in ("first_time", "last_time"))
    cells = (
        (
            "tenants, metrics",
            f"{counts.get('n_tenants', NO_FIGURE)}, {counts.get('n_metrics', NO_FIGURE)}",
        ),
        (
            f"steps of {figure_of(record, 'step_minutes'):g} min",
            f"{counts.get('n_steps', NO_FIGURE)}, {times}",
        ),
        (
            "missing values",
            f"{counts.get('n_missing', NO_FIGURE)} ({percent(figure_of(record, 'missing_share'))})",
        ),
        (
            "gaps",
            f"{counts.get('n_gaps', NO_FIGURE)}, the longest "
            f"{counts.get('longest_gap_steps', NO_FIGURE)} steps",
        ),
        ("rows that repeat a time (the last counts)", counts.get("n_duplicates", NO_FIGURE)),
        ("series without a scale, not scored", counts.get("n_excluded_series", NO_FIGURE)),
        (
            "test requests, of them invalid",
            f"{counts.get('n_requests', NO_FIGURE)}, {counts.get('n_invalid_requests', NO_FIGURE)}",
        ),
    )
    return Table("Telemetry", ("what", "figure"), cells, frozenset({0, 1}))


def incomplete_tenants(record: Record) -> Table:
    """Return the tenants with the largest shares of missing telemetry."""
    cells = tuple(
        (
            str(row.get("tenant_id")),
            percent(figure_of(row, "missing_share")),
            *(whole(row.get(key)) for key in ("n_gaps", "longest_gap", "n_duplicates")),
        )
        for row in record.get("table_incomplete") or ()
    )
    return Table(
        "Tenants whose telemetry lacks most",
        ("tenant", "missing", "gaps", "longest gap, steps", "repeated rows"),
        cells,
    )


def pairs(
    caption: str, record: Record, columns: tuple[str, str], form: Callable[[Any], str] = plain
) -> Table:
    """Return a flat record as a table of two columns, in its own order."""
    cells = tuple((str(key).replace("_", " "), form(value)) for key, value in record.items())
    return Table(caption, columns, cells, frozenset({0, 1}))
