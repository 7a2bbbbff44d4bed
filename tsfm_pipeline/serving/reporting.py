"""The service's state for people, probes and Prometheus.

What belongs here: filling the models of `status`, and the metrics that are read off the state when
they are asked for. What does not: metrics of events, which are counted where they happen.
"""

import time
from typing import Any

from tsfm_pipeline.serving.batching import Batching
from tsfm_pipeline.serving.contract import BreakerState
from tsfm_pipeline.serving.lanes import Lane
from tsfm_pipeline.serving.licences import LicenceTag, tag_of
from tsfm_pipeline.serving.metrics import RUNTIMES
from tsfm_pipeline.serving.published import Published
from tsfm_pipeline.serving.runtimes import Trained
from tsfm_pipeline.serving.service import ForecastService
from tsfm_pipeline.serving.status import CalibrationStatus, ModelStatus, Ready, RolloutStatus

_BEGAN = time.monotonic()
_BY_SEVERITY: tuple[BreakerState, ...] = ("closed", "half-open", "open")


def readiness(service: ForecastService, *, draining: bool) -> Ready:
    """Return whether requests should be sent to this process, and the state of its parts.

    A model that fails makes it no less ready: baselines answer, and the next process would fare no
    better.
    """
    models = model_statuses(service)
    return Ready(
        ready=models[0].ready and not draining,
        draining=draining,
        problem=None if models[0].ready else f"the model {models[0].model!r} is being loaded",
        fleet=service.settings.fleet,
        models=models,
        degradation_state=service.degradation.state,
        calibration=_calibration(service),
        rollout=_rollout(service),
        uptime_s=round(time.monotonic() - _BEGAN, 1),
    )


def model_statuses(service: ForecastService) -> list[ModelStatus]:
    """Return the models that may be asked, the default first."""
    return [_model(service, lane, i == 0) for i, lane in enumerate(service.lanes)]


def observe(service: ForecastService) -> None:
    """Set the metrics that describe a state."""
    metrics = service.metrics
    for name in RUNTIMES:  # several models may share one
        lanes = [lane for lane in service.lanes if lane.runtime.name == name]
        if lanes:
            worst = max((lane.breaker.state for lane in lanes), key=_BY_SEVERITY.index)
            metrics.breaker(name, worst)
        joining = [lane.runtime.batcher for lane in lanes if isinstance(lane.runtime, Batching)]
        for batcher in joining:
            metrics.batches(name, batcher.take_sizes())
        if joining:
            metrics.waiting(name, sum(batcher.n_waiting for batcher in joining))
    for lane in service.lanes:
        if isinstance(lane.runtime, Trained):
            metrics.reasoning.policy(lane.runtime.measures)
    metrics.degradation(service.degradation.state)
    metrics.rollout(service.stage)
    calibration = _calibration(service)
    measured = service.coverage
    metrics.calibration(
        float("nan") if calibration.age_s is None else calibration.age_s,
        {} if measured is None else {str(k): v for k, v in measured.coverage.items()},
    )


def _model(service: ForecastService, lane: Lane, is_default: bool) -> ModelStatus:
    runtime = lane.runtime
    return ModelStatus(
        provider=runtime.name,
        model=runtime.model,
        version=runtime.version if lane.started else "",
        licence=lane.licence,
        allowed=service.settings.environment == "dev"
        or tag_of(lane.licence) is LicenceTag.COMMERCIAL_OK,
        default=is_default,
        ready=lane.started,
        circuit_breaker_state=lane.breaker.state,
    )


def _calibration(service: ForecastService) -> CalibrationStatus:
    current, problem = service.calibration, _problem(service.published_calibration)
    if current is None:
        return CalibrationStatus(problem=problem)
    return CalibrationStatus(
        version=current.version,
        as_of=current.as_of,
        age_s=round(service.calibration_age_s or 0.0, 1),
        problem=problem,
    )


def _rollout(service: ForecastService) -> RolloutStatus:
    stage, decision = service.stage, service.decision
    percent = 100.0 if stage == "off" else 0.0 if decision is None else decision.percent
    return RolloutStatus(
        stage=stage,
        percent=percent,
        reason=None if decision is None else decision.reason,
        problem=_problem(service.published_rollout),
    )


def _problem(published: Published[Any] | None) -> str | None:
    return None if published is None else published.problem or None
