"""What the rollout is judged by: how the service worked, and whether its alerts meant something.

What belongs here: windows of requests, days of breaches, and making windows from requests. What
does not: judging them (`rollout`), and reading records (`steps`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ServiceWindow:
    """The requests of one window that the model was to answer, or was asked for in shadow.

    start: UTC. stage: of the rollout, as the service had it. Rates are shares of n_requests: errors
    (status 5xx), invalid outputs of the model, fallbacks because the model failed, and requests
    that met an open breaker.
    """

    start: datetime
    stage: str
    n_requests: int
    p95_latency_ms: float
    error_rate: float
    invalid_rate: float
    fallback_rate: float
    breaker_rate: float


@dataclass(frozen=True)
class PrecisionDay:
    """The breaches of one complete day (UTC), and how many of them were followed by a move.

    The reference counts are those of the markets that a baseline answered.
    """

    day: date
    breaches: int
    followed: int
    reference_breaches: int = 0
    reference_followed: int = 0


def service_windows(
    received: npt.NDArray[np.datetime64],
    stage: Sequence[str],
    latency_ms: npt.NDArray[np.floating],
    *,
    error: npt.NDArray[np.bool_],
    invalid: npt.NDArray[np.bool_],
    fallback: npt.NDArray[np.bool_],
    breaker_open: npt.NDArray[np.bool_],
    minutes: int,
) -> list[ServiceWindow]:
    """Return the windows of N requests, in the order of time; one per stage where it changed.

    Pass only requests that the model was to answer, or was asked for in shadow. received:
    datetime64 [N], UTC. All other arrays: [N]. fallback: because the model failed; a series that is
    too short is no failure. minutes: length of a window.
    """
    number = received.astype("datetime64[m]").astype(np.int64) // minutes
    stages, stage_number = np.unique(np.asarray(stage, dtype=str), return_inverse=True)
    order = np.lexsort((stage_number, number))
    if not len(order):
        return []
    keys = np.stack([number[order], stage_number[order]])
    starts = 1 + np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0))
    return [
        ServiceWindow(
            start=datetime.fromtimestamp(60 * minutes * int(number[rows[0]]), UTC),
            stage=str(stages[stage_number[rows[0]]]),
            n_requests=len(rows),
            p95_latency_ms=float(np.quantile(latency_ms[rows], 0.95)),
            error_rate=float(error[rows].mean()),
            invalid_rate=float(invalid[rows].mean()),
            fallback_rate=float(fallback[rows].mean()),
            breaker_rate=float(breaker_open[rows].mean()),
        )
        for rows in np.split(order, starts)
    ]
