"""From quantiles to what a client gets and what is recorded.

What belongs here: one finished forecast (the part of an answer that can be cached), the response
made of it, its record and its line in the log. What does not: how the forecast came about
(`service`), and its safety (`postprocess`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tsfm_pipeline import __version__
from tsfm_pipeline.evaluation.conformal import segment_key
from tsfm_pipeline.serving.contract import (
    BreakerState,
    Conformal,
    DegradationState,
    ForecastRequest,
    ForecastResponse,
    Interval,
    LastStep,
    Meta,
    Route,
)
from tsfm_pipeline.serving.fallback import FallbackAnswer
from tsfm_pipeline.serving.postprocess import Finished
from tsfm_pipeline.serving.preparation import Prepared, ignored
from tsfm_pipeline.serving.reasoning import Reasoning
from tsfm_pipeline.serving.runtimes import Answer, Floats, Runtime, Thought

Floats32 = npt.NDArray[np.float32]
Target = Literal["0.8", "0.9"]
TEXT: dict[float, Target] = {0.8: "0.8", 0.9: "0.9"}
"""The targets of intervals as they are written in an answer."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """A finished forecast: the part of an answer that does not depend on who asked when.

    yhat: by the level's text, a value per step. low, high: of the intervals by their target's text.
    deciles: as the model gave them, float32 [H * 9] in the client's unit, not writeable. asked:
    values that it is made from. warnings: code and count. reasoning: of a model that reasons.
    """

    yhat: dict[str, tuple[float, ...]]
    low: dict[Target, tuple[float, ...]]
    high: dict[Target, tuple[float, ...]]
    conformal: Conformal | None
    deciles: Floats32
    runtime: Literal["local", "tollama", "baseline"]
    model: str
    version: str
    configuration: str | None
    asked: int
    warnings: tuple[tuple[str, int], ...]
    reasoning: Reasoning | None = None


def model_forecast(
    finished: Finished,
    answer: Answer,
    prepared: Prepared,
    runtime: Runtime,
    codes: Sequence[str] = (),
) -> Forecast:
    """Return the forecast of a model's answer. codes: further warnings."""
    return _forecast(
        finished,
        runtime=runtime.name,
        model=runtime.model,
        version=runtime.version,
        configuration=answer.configuration,
        asked=answer.asked,
        warnings=prepared.warnings + finished.warnings + Counter((*answer.warnings, *codes)),
        reasoning=None if answer.thought is None else reasoning_of(answer.thought, prepared),
    )


def reasoning_of(thought: Thought, prepared: Prepared) -> Reasoning:
    """Return a model's reasoning with its numbers in the client's unit."""

    def told(values: Floats) -> list[float]:
        return [float(value) for value in prepared.to_client(values)]

    return Reasoning(
        verdict=thought.verdict,
        text=thought.text,
        draft=told(thought.draft),
        refined=None if thought.refined is None else told(thought.refined),
        answers=thought.answers,
        unreadable=thought.unreadable,
        thinking_ms=round(1e3 * thought.seconds, 3),
    )


def baseline_forecast(finished: Finished, answer: FallbackAnswer, prepared: Prepared) -> Forecast:
    """Return the forecast of a baseline's answer."""
    model = prepared.request.model
    unused = ignored(covariates=bool(prepared.covariates), params=bool(model.params))
    return _forecast(
        finished,
        runtime="baseline",
        model=answer.method,
        version=__version__,
        configuration=None,
        asked=len(prepared.values),
        warnings=prepared.warnings + finished.warnings + Counter((*answer.reasons, *unused)),
    )


def _forecast(finished: Finished, *, warnings: Counter[str], **facts: Any) -> Forecast:
    stored = np.clip(finished.deciles, *_FLOAT32).astype(np.float32).ravel()
    stored.flags.writeable = False
    return Forecast(
        yhat={f"{level:g}": tuple(v.tolist()) for level, v in finished.quantiles.items()},
        low={TEXT[target]: tuple(v.low.tolist()) for target, v in finished.intervals.items()},
        high={TEXT[target]: tuple(v.high.tolist()) for target, v in finished.intervals.items()},
        conformal=finished.conformal,
        deciles=stored,
        warnings=tuple(sorted(warnings.items())),
        **facts,
    )


_FLOAT32 = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))


@dataclass(frozen=True, eq=False)
class Outcome:
    """How one request is answered. reason: why a baseline, or a stale entry, answers. cause: why
    the model did not, which is the same unless the first baseline failed too. invalid: whether the
    model's output was refused. in_shadow: the model is being asked too, and its answer recorded.
    """

    forecast: Forecast
    route: Route
    reason: str | None = None
    cause: str | None = None
    warnings: tuple[str, ...] = ()
    cache_hit: bool = False
    cache_stale: bool = False
    breaker: BreakerState = "closed"
    degradation: DegradationState = "normal"
    invalid: bool = False
    in_shadow: bool = False


def unanswered(route: Route, cause: str) -> Outcome:
    """Return the outcome of a request that ended in an error of the service."""
    nothing: dict[Target, tuple[float, ...]] = dict.fromkeys(TEXT.values(), ())
    forecast = Forecast(
        yhat={},
        low=nothing,
        high=nothing,
        conformal=None,
        deciles=_NOTHING,
        runtime="baseline",
        model="",
        version="",
        configuration=None,
        asked=0,
        warnings=(),
    )
    return Outcome(forecast, route, cause, cause)


def response(
    request: ForecastRequest, request_id: str, outcome: Outcome, latency_ms: float
) -> ForecastResponse:
    """Return the answer. It is not validated again: it was made from finite numbers."""
    forecast = outcome.forecast
    last = None
    if forecast.conformal is not None:
        last = LastStep.model_construct(
            step=request.horizon_steps,
            low=forecast.low["0.9"][-1],
            high=forecast.high["0.9"][-1],
            target_coverage=0.9,
            segment=forecast.conformal.segment,
        )
    meta = Meta.model_construct(
        request_id=request_id,
        runtime=forecast.runtime,
        model=forecast.model,
        version=forecast.version,
        configuration=forecast.configuration,
        latency_ms=round(latency_ms, 3),
        input_len=forecast.asked,
        transform=request.transform.space,
        fallback_used=outcome.reason is not None,
        fallback_reason=outcome.reason,
        warnings=[
            *outcome.warnings,
            *(code if n == 1 else f"{code} x{n}" for code, n in forecast.warnings),
        ],
        cache_hit=outcome.cache_hit,
        cache_stale=outcome.cache_stale,
        circuit_breaker_state=outcome.breaker,
        degradation_state=outcome.degradation,
        route=outcome.route,
    )
    return ForecastResponse.model_construct(
        market_id=request.market_id,
        as_of_ts=request.as_of_ts,
        freq=request.freq,
        horizon_steps=request.horizon_steps,
        quantiles=request.quantiles,
        yhat_q={level: list(values) for level, values in forecast.yhat.items()},
        intervals={
            target: Interval.model_construct(low=list(low), high=list(forecast.high[target]))
            for target, low in forecast.low.items()
        },
        meta=meta,
        conformal=forecast.conformal,
        conformal_last_step=last,
        reasoning=forecast.reasoning,
    )


def record(
    prepared: Prepared,
    request_id: str,
    outcome: Outcome,
    latency_ms: float,
    received: datetime,
    sent: Forecast | None = None,
    status: int = 200,
) -> dict[str, Any]:
    """Return the row of `evaluation.served` for an answer.

    sent: the baseline's forecast that the client got, where the model was asked in its shadow.
    status: of the answer; 503 for one that was not given (`unanswered`).
    """
    request, forecast = prepared.request, outcome.forecast
    visible = forecast if sent is None else sent
    return {
        "request_id": request_id,
        "received": received,
        "market_id": request.market_id,
        "as_of": prepared.end.astimezone(UTC),
        "freq_minutes": prepared.freq,
        "horizon": request.horizon_steps,
        "deciles": forecast.deciles,
        "baseline": _NOTHING if sent is None else sent.deciles,
        "low_80": visible.low["0.8"],
        "high_80": visible.high["0.8"],
        "low_90": visible.low["0.9"],
        "high_90": visible.high["0.9"],
        "segment": segment_key(sorted(prepared.segments.items())),
        "runtime": forecast.runtime,
        "model": forecast.model,
        "version": forecast.version,
        "calibration": forecast.conformal.version if forecast.conformal else "",
        "route": outcome.route.selected,
        "stage": outcome.route.stage,
        "fallback_reason": outcome.cause or "",
        "invalid_output": outcome.invalid,
        "breaker": outcome.breaker,
        "cache_hit": outcome.cache_hit,
        "volume_24h": request.volume_24h,
        "open_interest": request.open_interest,
        "status": status,
        "latency_ms": latency_ms,
    }


_NOTHING = np.empty(0, dtype=np.float32)
