"""Defaults of a fleet file that follow from how long its tenants are observed, and from what.

What belongs here: horizon, gaps, number of requests, calendar, bounds. What does not: facts about
the table (`fleets.inference`), seasons (`fleets.seasons`), the lines of the file
(`fleets.field_lines`), and the rules of the requests (`evaluation.requests`).
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.requests import test_period
from tsfm_pipeline.fleets.fields import FleetFields

LEAST_HORIZON, MOST_HORIZON = 12, 1024
SHORT_LIFE = 0.5
"""Tenants whose median life is a smaller share of the fleet's telemetry get calendars of their
own.
"""


def fitting_fields(
    length: timedelta,
    first_step: NDArray[np.int64],
    last_step: NDArray[np.int64],
    horizon: int | None = None,
) -> dict[str, Any]:
    """Return `horizon` (unless given) and `max_gap`, and where the usual ones do not fit
    `origins_per_tenant` and `calendar`; first_step, last_step [N].
    """
    horizon = horizon or fitting_horizon(length, first_step, last_step)
    usual = FleetFields.model_fields["origins_per_tenant"].default
    n_origins = fitting_origins(length, first_step, last_step, horizon, usual)
    fields: dict[str, Any] = {"horizon": horizon, "max_gap": max(1, horizon // 2)}
    if n_origins < usual:
        fields["origins_per_tenant"] = n_origins
    if fitting_calendar(first_step, last_step) == "own":
        fields["calendar"] = "own"
    return fields


def zero_bounds(lowest: Mapping[str, float]) -> dict[str, Any]:
    """Return zero as the lower bound of all metrics that never fall below it, given the lowest
    value of each.
    """
    positive = [metric for metric, low in lowest.items() if low >= 0]
    if len(positive) == len(lowest):
        return {"lower": 0}
    return {"bounds": {metric: {"lower": 0} for metric in positive}} if positive else {}


def fitting_horizon(
    length: timedelta, first_step: NDArray[np.int64], last_step: NDArray[np.int64]
) -> int:
    """Return the steps of one forecast: one hour, at least 12 and at most 1024 steps, and at most
    half of the test period of the tenant with the median history; first_step, last_step [N].
    """
    usual = min(max(timedelta(hours=1) // length, LEAST_HORIZON), MOST_HORIZON)
    return max(1, min(usual, _test_steps(length, first_step, last_step) // 2))


def fitting_origins(
    length: timedelta,
    first_step: NDArray[np.int64],
    last_step: NDArray[np.int64],
    horizon: int,
    usual: int,
) -> int:
    """Return the requests per tenant and role: the usual number, or as many as fit one step apart
    into the test period of the tenant with the median history; first_step, last_step [N].
    """
    return max(1, min(usual, _test_steps(length, first_step, last_step) - horizon + 1))


def fitting_calendar(
    first_step: NDArray[np.int64], last_step: NDArray[np.int64]
) -> Literal["shared", "own"]:
    """Return `own` for tenants that mostly live for less than half of the fleet's telemetry; first
    and last steps [N].
    """
    whole = int(last_step.max() - first_step.min() + 1)
    median = float(np.median(last_step - first_step + 1))
    return "own" if median < SHORT_LIFE * whole else "shared"


def _test_steps(
    length: timedelta, first_step: NDArray[np.int64], last_step: NDArray[np.int64]
) -> int:
    """Return the steps of the test period of the tenant with the median history."""
    median = int(np.median(last_step - first_step + 1))
    if median < 2:
        return 1
    day = max(1, timedelta(days=1) // length)
    return median - test_period(0, median - 1, day)
