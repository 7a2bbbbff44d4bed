"""The state of the telemetry in a sentence.

Only the answer belongs here; its tables are in `records`.
"""

from collections.abc import Mapping
from typing import Any

from tsfm_pipeline.reports.shared.answer import Answer
from tsfm_pipeline.reports.shared.wording import count, figure_of, percent, whole


def data_answer(record: Mapping[str, Any]) -> Answer:
    """Say how complete the data are, and what was left out because of gaps."""
    invalid, excluded = (
        figure_of(record, key) for key in ("n_invalid_requests", "n_excluded_series")
    )
    missing = figure_of(record, "missing_share")
    requests = count(figure_of(record, "n_requests"), "test request")
    left_out = len(record.get("left_out") or {})
    if invalid == excluded == missing == left_out == 0:
        return Answer(
            "gain",
            f"No value is missing: all {requests} could be forecast and scored, and every series "
            "has a scale.",
        )
    return Answer(
        "null",
        f"{percent(missing)} of the values of {count(figure_of(record, 'n_tenants'), 'tenant')} "
        "are missing. Left out of every figure: "
        f"{whole(invalid)} of {requests} that could not be forecast or scored, "
        f"{whole(excluded)} series without a scale, and "
        f"{count(left_out, 'tenant')}. Imputed values are never scored.",
    )
