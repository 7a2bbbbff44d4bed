"""The rows that every experiment is judged on: all candidates at the tuning requests of one fleet.

What belongs here: the arrays, and reading them from the study's tables. What does not: making the
tables (`prepare`), and what a policy costs on them (`evaluation`).
Axes: N tuning tenants, R requests, D metrics, C candidates, J validation origins of the widest
schedule, A tiers, H horizon.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.limits import Limits

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class FleetRows:
    """Everything that an experiment may know of a fleet's tuning requests.

    candidates [C]: names of configurations. offsets [J]: validation origins in steps before a
    request, ascending. season: length of a day in steps, None without one. alphas {tier: alpha}, in
    the order of the axis A.
    tenant_ids [N], folds int [N] and groups [N] (archetypes, "" where unknown) of the tuning
    tenants. tenants int [R]: the row of each request's tenant, ascending. origins int [R]: the
    number of the request among its tenant's. valid bool [R].
    actual [R, D, H] in units of the values (NaN: not observed); scale [R, D].
    decisions [R, D, C, A + 1, H] in units of the values: quantile forecasts at each alpha, then the
    median; spread [R, D, C, H]: q.9 - q.5; NaN where a candidate is unavailable.
    losses [R, D, C, A + 1] at each alpha and at .5, and violations [R, D, C, A], of the requests
    themselves; evidence and evidence_violations [R, D, C, J, A], of the same candidates at the
    validation origins. Losses are in units of the values.
    features [R, F]: of the window before each request; tenant_features [N, F]: of the window before
    the test period, which the index of tenants holds.
    tokens(candidates, offsets): see `latency.request_tokens`.
    """

    fleet: str
    candidates: tuple[str, ...]
    offsets: tuple[int, ...]
    horizon: int
    season: int | None
    alphas: dict[str, float]
    limits: Limits
    tenant_ids: tuple[str, ...]
    folds: NDArray[np.int64]
    groups: tuple[str, ...]
    tenants: NDArray[np.int64]
    origins: NDArray[np.int64]
    valid: NDArray[np.bool_]
    actual: Floats
    scale: Floats
    decisions: Floats
    spread: Floats
    losses: Floats
    violations: Floats
    evidence: Floats
    evidence_violations: Floats
    features: Floats
    tenant_features: Floats

    @property
    def n_metrics(self) -> int:
        """D, the metrics of a request."""
        return int(self.actual.shape[1])
