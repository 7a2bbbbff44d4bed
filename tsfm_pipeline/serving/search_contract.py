"""The contract of POST /forecast: one tenant's history in, the search's decision out.

What belongs here: the wire models of the route, and the rules that a request obeys, those that
follow from the fleet behind the bundle included. What does not: answering (`search_route`), and the
contract of `/tsfm/*` (`contract`).

A request is read with `SearchRequest.model_validate_json(body, context=bundle.facts)`. Without the
context, the rules that follow from a bundle are left out, as in the published schema.
"""

from functools import cached_property
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from tsfm_pipeline.autoresearch.bundle import BundleFacts
from tsfm_pipeline.evaluation.requests import Basis
from tsfm_pipeline.serving.contract import ErrorCode
from tsfm_pipeline.serving.request_checks import Time

MAX_STEPS = 50_000
"""A search on a fleet of minutes looks back on up to 41,600 steps, its validation included."""
MAX_METRICS = 64
MAX_CONFIGURATIONS = 32
MAX_SEARCH_HORIZON = 1_024
LARGEST = 1e33
"""Largest size of a value; the search computes in float32 (`forecaster.transforms`)."""

Value = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Step = Annotated[
    list[Value | None], Field(min_length=1, max_length=MAX_METRICS, description="by metric")
]


class SearchRequest(BaseModel):
    """One tenant whose metrics are to be forecast after the end of `history`."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    tenant_id: str = Field(
        min_length=1,
        max_length=200,
        description="a tenant of the fleet is answered by a search that it did not tune",
    )
    history: list[Step] = Field(
        min_length=1,
        max_length=MAX_STEPS,
        description="[T, D], oldest step first, on the fleet's time step and with its metrics in "
        "their order; null: not observed",
    )
    horizon: int | None = Field(
        None,
        ge=1,
        le=MAX_SEARCH_HORIZON,
        description="steps to forecast, at most those that the search was fitted for, which is the "
        "default",
    )
    sla_tier: str = Field(min_length=1, max_length=64, description="a tier of the fleet")
    k: int | None = Field(
        None,
        ge=1,
        le=MAX_CONFIGURATIONS,
        description="configurations that are tried, the most promising ones first; default: all",
    )
    budget_ms: float | None = Field(
        None, gt=0, le=10_000, description="time for trying configurations; default: no limit"
    )
    as_of: Time | None = Field(
        None,
        description="time of the last step. Where the fleet's file names known events, it tells "
        "which earlier times are evidence for this request; default: all are",
    )

    @cached_property
    def values(self) -> npt.NDArray[np.float32]:
        """The history as float32 [D, T], NaN where a value is missing."""
        return np.ascontiguousarray(np.array(self.history, dtype=np.float32).T)

    @model_validator(mode="after")
    def _fits(self, info: ValidationInfo) -> Self:
        facts = info.context if isinstance(info.context, BundleFacts) else None
        n_metrics = len(self.history[0]) if facts is None else len(facts.metrics)
        names = [f"metric {d}" for d in range(n_metrics)] if facts is None else facts.metrics
        for t, step in enumerate(self.history):
            if len(step) != n_metrics:
                raise _malformed(
                    f"history[{t}]",
                    f"history[{t}] has {len(step)} values",
                    f"{n_metrics} values" + ("" if facts is None else f": {', '.join(names)}"),
                )
        for name, column in zip(names, self.values, strict=True):
            if np.isnan(column).all():
                raise _malformed(
                    "history", f"history has no value of {name}", "at least one value per metric"
                )
        if facts is not None:
            self._check_against(facts)
        return self

    def _check_against(self, facts: BundleFacts) -> None:
        tiers = facts.protocol.tiers
        if self.sla_tier not in tiers:
            raise _malformed(
                "sla_tier", f"the fleet has no tier {self.sla_tier!r}", ", ".join(tiers)
            )
        if self.horizon is not None and self.horizon > facts.horizon:
            raise _malformed(
                "horizon",
                f"horizon is {self.horizon}, the search was fitted for {facts.horizon} steps",
                f"1 to {facts.horizon}",
            )


def _malformed(where: str, detail: str, allowed: str) -> PydanticCustomError:
    return PydanticCustomError(
        ErrorCode.MALFORMED_INPUT.value,
        "malformed input: {detail}; allowed: {allowed}",
        {"where": where, "detail": detail, "allowed": allowed},
    )


class Tried(BaseModel):
    """One configuration that was tried, weight and loss averaged over the metrics.

    loss: its posterior loss relative to the portfolio's mean; null where nothing is known of it.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    weight: float
    loss: float | None


class SearchResponse(BaseModel):
    """The answer to a `SearchRequest`; H steps, D metrics in the order of `metrics`.

    decision: what to reserve, an estimate of the `alpha`-quantile. basis: what the answer rests on:
    the tenant's `full` history, a `shortened` one, or other tenants' experience alone (`cold`).
    fallback_used: the history of a metric is too short for every configuration of the search;
    fallback_reason: `history_too_short:<metric>=<who answered>`, for each such metric.
    """

    model_config = ConfigDict(extra="forbid")

    tenant_id: str
    fleet: str
    sla_tier: str
    alpha: float
    metrics: list[str]
    horizon: int
    step_minutes: float
    levels: list[float]
    point_forecast: list[list[float]] = Field(description="the median [H, D]")
    decision: list[list[float]] = Field(description="[H, D]")
    quantiles: list[list[list[float]]] = Field(description="[H, D, 9], at `levels`")
    winning_config: dict[str, str | None] = Field(
        description="by metric: the configuration with the largest weight; null: none fits"
    )
    candidates: list[Tried] = Field(description="the configurations that were tried, best first")
    n_evaluated: int
    basis: Basis
    fallback_used: bool
    fallback_reason: str | None = None
    model: str
    version: str
    bundle: str = Field(description="first 12 hex digits of the bundle's SHA-256")
    timing_ms: dict[str, float] = Field(
        description="of the stages queue, prepare, retrieval, forecast and decision, and total"
    )
