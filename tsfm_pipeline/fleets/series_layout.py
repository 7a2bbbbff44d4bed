"""Wide exports with one column per series, as Grafana, a pivot table or a pandas frame write them.

What belongs here: recognising such a table, and naming its series. What does not: reading them as
rows (`fleets.table_rows`), the roles of columns in other layouts (`fleets.columns`).
"""

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from tsfm_pipeline.fleets.dialects import first_rows

ROW_NUMBERS = re.compile(r"|Unnamed: \d+|index", re.IGNORECASE)
"""Names that pandas and R give to a column that counts rows."""
METRIC_WORDS = re.compile(
    r"(?:^|[^a-z0-9])(?:"
    r"cpu|mem|memory|ram|disk|io|iops|net|network|rx|tx|in|out|load|"
    r"util|utilization|usage|used|free|total|bytes|requests|rps|qps|latency|"
    r"errors|rate|temperature|temp|humidity|pressure|power|energy|value|"
    r"count|sum|min|max|mean|avg|p50|p90|p95|p99|duration|size|users|"
    r"sessions|connections|open|high|low|close|volume"
    r")(?:[^a-z0-9]|$)"
)
"""Words that name a metric. Columns named by them are metrics of one tenant, not tenants."""
SERIES_NOTE = (
    "each column beside the times is one tenant; where they are metrics of one tenant, pass "
    "--layout wide"
)
_NUMBER_LIKE = re.compile(
    r"[-+]?[\d.,' ]*\d[.,]?(?:[eE][-+]?\d+)?\s*[%\u00b0\u00b5A-Za-z/]{0,8}"
    r"|[-+]?(?:nan|null|none|undefined|n/?a|inf)|[-]|\\N",
    re.IGNORECASE,
)
_LEAST_NUMBERS = 0.9
_SAMPLE_ROWS = 1_000


def series_of(names: Sequence[str], times: Sequence[str]) -> list[str]:
    """Return the columns that are series: every column but the times and a count of rows."""
    return [name for name in names if name not in times and not ROW_NUMBERS.fullmatch(name)]


def are_series(path: Path, times: Sequence[str]) -> bool:
    """Return whether each column beside the times is a series of its own.

    There must be at least two of them, nearly all of their cells must look like numbers (with words
    for missing and units), no time may repeat, and their names must not be those of metrics.
    """
    first = first_rows(path, _SAMPLE_ROWS)
    series = series_of(first.columns, times)
    if len(series) < 2 or first.select(times).is_duplicated().any():
        return False
    labelled = all("{" in name for name in series)  # as Prometheus writes the labels of a series
    if not labelled and any(METRIC_WORDS.search(name.lower()) for name in series):
        return False
    return all(_reads_as_numbers(first[name]) for name in series)


def _reads_as_numbers(column: pl.Series) -> bool:
    if column.dtype.is_numeric():
        return True
    if column.dtype != pl.String:
        return False
    cells = column.drop_nulls()
    n_numbers = sum(_NUMBER_LIKE.fullmatch(cell.strip()) is not None for cell in cells)
    return n_numbers >= _LEAST_NUMBERS * len(cells)
