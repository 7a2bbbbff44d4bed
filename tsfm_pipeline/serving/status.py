"""What the service says about itself: the wire models of /health, /ready and /models.

What belongs here: these models. What does not: filling them (`service`), and metrics.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tsfm_pipeline.serving.contract import BreakerState, DegradationState, RolloutStage


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Health(_Said):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ModelStatus(_Said):
    """One model that may be asked."""

    provider: Literal["local", "tollama"]
    model: str
    version: str
    licence: str
    allowed: bool = Field(description="whether its licence allows it in this environment")
    default: bool = Field(description="answers where a request names no model")
    ready: bool
    circuit_breaker_state: BreakerState


class Models(_Said):
    """The models that a request may name."""

    models: list[ModelStatus]


class CalibrationStatus(_Said):
    """The calibration that intervals are made with."""

    version: str | None = Field(None, description="none: no calibration is loaded")
    as_of: datetime | None = None
    age_s: float | None = Field(None, description="seconds since it was published")
    problem: str | None = Field(None, description="why the published file is not in use")


class RolloutStatus(_Said):
    """The rollout of the model."""

    stage: RolloutStage
    percent: float = Field(description="of the markets that the model answers")
    reason: str | None = None
    problem: str | None = Field(None, description="why the published file is not in use")


class Ready(_Said):
    """Whether requests should be sent to this process, and the state of its parts."""

    ready: bool
    draining: bool
    problem: str | None = None
    fleet: str | None
    models: list[ModelStatus]
    degradation_state: DegradationState
    calibration: CalibrationStatus
    rollout: RolloutStatus
    uptime_s: float
