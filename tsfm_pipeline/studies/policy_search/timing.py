"""The true latency of a policy's requests, before it is promoted.

What belongs here: an engine under the policy, real histories, and the quantile of its times. What
does not: the prediction that every experiment is judged by (`latency`).
"""

from collections.abc import Iterator
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.autoresearch.evidence import GridForecaster
from tsfm_pipeline.catalogue.shards import model_of
from tsfm_pipeline.evaluation.requests import tested_folds
from tsfm_pipeline.forecaster.panel import Panel
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.archetypes import request_window
from tsfm_pipeline.studies.policy_search.final_look import tuning_rows
from tsfm_pipeline.studies.policy_search.fitting import View, fit_fold
from tsfm_pipeline.studies.policy_search.latency import (
    N_REQUESTS,
    WARM_UP,
    Answer,
    measured_ms,
)
from tsfm_pipeline.studies.policy_search.policy import Policy
from tsfm_pipeline.studies.policy_search.scope import SCOPE, StudyFleet

if TYPE_CHECKING:
    from tsfm_pipeline.studies.policy_search.yardstick import Yardstick

N_HISTORIES = 11
"""Not a multiple of the tiers, so that every history meets every tier."""
QUANTILE = 0.95


def measured_p95(
    settings: Settings,
    yardstick: "Yardstick",
    policy: Policy,
    forecaster: GridForecaster | None = None,
    answer: Answer = measured_ms,
) -> float:
    """Return the 95th percentile of one request's time under a policy, in ms, on the fleet of the
    yardstick where it is highest.

    The engine is fitted on the fleet's tuning tenants, as the service's is, and answers
    `N_REQUESTS` tuning requests with their full histories, at every tier in turn; warm-up is
    excluded. No test request is read. forecaster: that of the settings by default.
    """
    forecaster = model_of(settings) if forecaster is None else forecaster
    slowest = 0.0
    for fleet in yardstick.fleets:
        study = SCOPE.open(settings, fleet)
        engine = _engine(study, policy, forecaster)
        turns = zip(cycle(_histories(study)), cycle(engine.policy.alphas), strict=False)
        ms = [answer(engine, *next(turns)) for _ in range(WARM_UP + N_REQUESTS)]
        slowest = max(slowest, float(np.quantile(ms[WARM_UP:], QUANTILE)))
    return slowest


def _engine(study: StudyFleet, policy: Policy, forecaster: GridForecaster) -> AutoresearchEngine:
    """Return an engine that is fitted for the fleet's first test fold."""
    search = policy.settings
    [fold, *_] = tested_folds(study.fleet.manifest["fold"].to_numpy().astype(np.int64))
    fitted = fit_fold(View(tuning_rows(study, (search,)), search), fold)
    index = WindowIndex(fitted.index, request_window(study.fleet))
    return AutoresearchEngine(
        forecaster, fitted.policy, fitted.experience, index, n_neighbours=search.neighbours
    )


def _histories(study: StudyFleet) -> Iterator[Panel]:
    """Yield the telemetry up to some valid tuning requests, spread evenly over them."""
    requests, arrays = study.requests, study.fleet.arrays
    valid = np.argwhere(requests.valid)  # [R, 2], by tenant
    chosen = valid[np.linspace(0, len(valid) - 1, min(N_HISTORIES, len(valid))).astype(np.int64)]
    for in_shard, values in arrays.values_by_shard(requests.tenant_numbers):
        rows = np.flatnonzero(in_shard)
        for tenant, origin in chosen[np.isin(chosen[:, 0], rows)]:
            own = values[np.searchsorted(rows, tenant)]
            yield arrays.panel(own[None, :, : requests.origins[tenant, origin] + 1])
