"""Defaults of a fleet file that follow from how long and how densely its tenants are observed.

What belongs here: horizon and calendar. What does not: facts about the table (`fleets.inference`),
seasons (`fleets.seasons`), and the rules of the requests (`evaluation.requests`).
"""

from datetime import timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.requests import test_period

LEAST_HORIZON, MOST_HORIZON = 12, 1024
SHORT_LIFE = 0.5
"""Tenants whose median life is a smaller share of the fleet's telemetry get calendars of their
own.
"""


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
