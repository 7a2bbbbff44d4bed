"""Queries that the tests of the adapter share."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from tsfm_pipeline.serving.runtimes import Query

END = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def query(last: float = 0.5, n: int = 40, **changes: Any) -> Query:
    """Return a query whose last value is `last`."""
    values = np.linspace(0.1, last, n)
    fields = {
        "market": "acme/cpu",
        "values": values,
        "freq": 5.0,
        "end": END,
        "horizon": 3,
        "levels": (0.05, 0.5, 0.95),
    }
    return Query(**fields | changes)
