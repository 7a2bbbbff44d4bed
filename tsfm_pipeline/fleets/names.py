"""Names of columns, whichever way they are written.

What belongs here: one spelling for names that mean the same. What does not: the names that stand
for a role (`fleets.columns`, `fleets.tenants`, `fleets.time_columns`).
"""

import re

_BETWEEN_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z0-9])[\s.-]+(?=[A-Za-z0-9])")


def usual_name(column: str) -> str:
    """Return a name in lower case with an underscore between words: `MetricName`, `Metric Name` and
    `metric-name` are `metric_name`.
    """
    return _BETWEEN_WORDS.sub("_", column).lower()
