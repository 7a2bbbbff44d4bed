"""A stand-in for a tollama daemon, which is in no package registry.

It obeys what a real daemon was seen to do: strict validation, streaming by default on
/api/forecast, two kinds of 404, one call of a model family at a time, a breaker per family, and
runners that are killed when a request's `timeout` ends. The conformance suite holds both to the
same recorded cases, so this one cannot drift.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any
from uuid import uuid4

from fastapi import FastAPI, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)
from starlette.exceptions import HTTPException as StarletteHTTPException

from tsfm_pipeline_tests.serving.tollama import faults

Name = Annotated[StrictStr, Field(min_length=1)]
Values = list[StrictInt | StrictFloat]
HINTS = {
    400: "Fix request payload or parameters and retry.",
    503: "Retry after daemon dependencies are available.",
}
NO_MODEL_HINT = (
    "Run `tollama pull <model>` to install. Use `tollama info --json` to inspect available models."
)
NO_METRICS = 'prometheus-client is not installed. Install with: pip install "tollama[metrics]"'
ATTEMPTS = 3
OPEN_AFTER, WINDOW_S, RECOVERY_S = 3, 30.0, 15.0


class Wire(BaseModel):
    """What the daemon takes: strict types and no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="null")


class Series(Wire):
    """One series of a request."""

    id: Name
    freq: Name = "auto"
    timestamps: list[Name] = Field(min_length=1)
    target: Values = Field(min_length=1)
    actuals: Values | None = None
    past_covariates: dict[Name, Values] | None = None
    future_covariates: dict[Name, Values] | None = None
    static_covariates: dict[Name, JsonValue] | None = None

    @model_validator(mode="after")
    def _lengths(self) -> "Series":
        if len(self.target) != len(self.timestamps):
            raise ValueError("target length must match timestamps length")
        return self


class Parameters(Wire):
    """How covariates are treated."""

    covariates_mode: Annotated[StrictStr, Field(pattern="^(best_effort|strict)$")] = "best_effort"


class ForecastBody(Wire):
    """The body of /v1/forecast."""

    model: Name
    horizon: Annotated[StrictInt, Field(gt=0)]
    quantiles: list[Annotated[StrictFloat, Field(gt=0.0, lt=1.0)]] = []
    series: list[Series] = []
    options: dict[Name, JsonValue] = {}
    timeout: float | None = Field(None, gt=0.0)
    parameters: Parameters = Parameters()
    keep_alive: StrictStr | StrictInt | StrictFloat | None = None

    @field_validator("quantiles")
    @classmethod
    def _ascending(cls, levels: list[float]) -> list[float]:
        if levels != sorted(levels):
            raise ValueError("quantiles must be sorted in ascending order")
        if any(a == b for a, b in pairwise(levels)):
            raise ValueError("quantiles must be unique")
        return levels

    @model_validator(mode="after")
    def _consistent(self) -> "ForecastBody":
        if not self.series:
            raise ValueError("either series or data_url is required")
        for series in self.series:
            past, future = series.past_covariates or {}, series.future_covariates or {}
            for name, values in future.items():
                if len(values) != self.horizon:
                    raise ValueError(
                        f"future_covariates[{name!r}] length must match horizon ({self.horizon})"
                    )
                if name not in past:
                    raise ValueError(
                        "future_covariates must also exist in past_covariates; missing past "
                        f"values for covariate {name!r}"
                    )
        return self


class ApiForecastBody(ForecastBody):
    """The body of /api/forecast."""

    stream: StrictBool = True


class Named(BaseModel):
    """A body that names a model."""

    model: Name
    stream: bool = True


@dataclass
class Family:
    """One model family: its lock, its breaker, its runner's restarts."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    failures: list[float] = field(default_factory=list)
    opened_at: float | None = None
    restarts: int = 0


@dataclass
class Double:
    """The state of the stand-in, and what it was asked.

    models: families by name; `mock` repeats the last value, `faults` obeys a request's options.
    keys: bearer tokens, if any. rate_limit: forecasts that are allowed. routes: of forecasts.
    seen: bodies of all forecasts that were asked for, with path and headers.
    """

    models: dict[str, str] = field(default_factory=lambda: {"mock": "mock", "faulty": "faults"})
    digest: str = "local"
    licence: str = "mit"
    keys: frozenset[str] = frozenset()
    rate_limit: int | None = None
    retry_after: str | None = None
    max_body_mb: float = 10.0
    routes: tuple[str, ...] = ("/api/forecast", "/v1/forecast")
    clock: Callable[[], float] = time.monotonic
    families: dict[str, Family] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    before_answer: Callable[[], Any] | None = None

    async def forecast(self, body: ForecastBody) -> dict[str, Any]:
        """Return the body of a 200, or raise HTTPException."""
        if self.rate_limit is not None:
            if self.rate_limit <= 0:
                headers = {"retry-after": self.retry_after} if self.retry_after else None
                raise HTTPException(429, "rate limit exceeded", headers)
            self.rate_limit -= 1
        kind = self.models.get(body.model)
        if kind is None:
            raise HTTPException(404, f"model {body.model!r} is not installed")
        warnings = self._covariate_warnings(body, kind)
        params = body.model_dump(mode="json", exclude_none=True, exclude={"keep_alive"})
        result = await self._run(self.families.setdefault(kind, Family()), kind, params)
        if any(
            len(column) != len(answer["mean"])
            for answer in result["forecasts"]
            for column in (answer["quantiles"] or {}).values()
        ):
            raise HTTPException(502, "runner returned invalid forecast response: lengths differ")
        return {
            "model": body.model,
            "forecasts": result["forecasts"],
            "metrics": None,
            "timing": {"model_load_ms": 0.0, "inference_ms": 1.0, "total_ms": 2.0},
            "explanation": {"series": [{"id": series.id} for series in body.series]},
            "narrative": None,
            "preprocessing": None,
            "usage": result["usage"] | {"device": "unknown"},
            "warnings": warnings or None,
        }

    def _covariate_warnings(self, body: ForecastBody, kind: str) -> list[str]:
        texts = [
            f"unsupported covariate: model {body.model!r} (family={kind}) does not support "
            f"past-only numeric covariates; series={series.id!r} covariate={name!r}"
            for series in body.series
            for name in series.past_covariates or {}
        ]
        if texts and body.parameters.covariates_mode == "strict":
            raise HTTPException(400, texts[0])
        for series in body.series:
            series.past_covariates = series.future_covariates = None
        return [f"ignoring {text}" for text in texts]

    async def _run(self, family: Family, kind: str, params: dict[str, Any]) -> dict[str, Any]:
        """Call the runner as the daemon does: up to three times, unless the breaker is open."""
        reason = ""
        for attempt in range(ATTEMPTS):
            self._check_breaker(family)
            await asyncio.sleep(0.1 * attempt)
            async with family.lock:
                try:
                    result = await self._call_once(kind, params)
                except faults.RunnerError as error:
                    status = {"BAD_REQUEST": 400, "DEPENDENCY_MISSING": 503}.get(error.code, 502)
                    detail = {"code": error.code, "message": error.message}
                    raise HTTPException(status, detail) from error
                except ConnectionError as error:
                    reason = str(error)
                    family.restarts += 1
                    self._count_failure(family)
                else:
                    family.failures.clear()
                    family.opened_at = None
                    return result
        raise HTTPException(503, reason)

    async def _call_once(self, kind: str, params: dict[str, Any]) -> dict[str, Any]:
        options, timeout = params["options"], params.get("timeout", 300.0)
        sleep = options.get("sleep", 0) if kind == "faults" else 0
        await asyncio.sleep(min(sleep, timeout))
        if sleep > timeout:
            raise ConnectionError(f"runner call timed out after {timeout:.2f}s")
        if self.before_answer is not None:
            await self.before_answer()
        if kind == "mock":
            return _mock(params)
        if options.get("crash"):
            raise ConnectionError(f"runner exited with code {faults.EXIT_CODE}")
        return faults.forecast(params)

    def _check_breaker(self, family: Family) -> None:
        if family.opened_at is not None and self.clock() - family.opened_at < RECOVERY_S:
            raise HTTPException(
                503,
                "circuit breaker is open — runner has failed repeatedly; will retry after "
                f"{RECOVERY_S:.0f}s recovery period",
            )

    def _count_failure(self, family: Family) -> None:
        now = self.clock()
        family.failures = [at for at in family.failures if at > now - WINDOW_S] + [now]
        if len(family.failures) >= OPEN_AFTER or family.opened_at is not None:
            family.opened_at = now


def _mock(params: dict[str, Any]) -> dict[str, Any]:
    """Return the last value of every series for all steps and quantiles."""
    answers = [
        {
            "id": series["id"],
            "freq": series["freq"],
            "start_timestamp": series["timestamps"][-1],
            "mean": (steps := [series["target"][-1]] * params["horizon"]),
            "quantiles": {format(q, "g"): steps for q in params["quantiles"]} or None,
        }
        for series in params["series"]
    ]
    usage = {
        "runner": "tollama-mock",
        "series_count": len(answers),
        "horizon": params["horizon"],
        "peak_memory_mb": 1.0,
    }
    return {"forecasts": answers, "usage": usage}


def _error(status: int, detail: Any, headers: Any = None) -> JSONResponse:
    body = {"detail": detail}
    if status == 404 and "not installed" in str(detail):
        body["hint"] = NO_MODEL_HINT
    elif status in HINTS:
        body["hint"] = HINTS[status]
    return JSONResponse(body, status, headers)


def app_of(double: Double) -> FastAPI:
    """Return the application that answers as `double` is set up to."""
    app = FastAPI()

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return _error(400, jsonable_encoder(error.errors(), custom_encoder={ValueError: str}))

    @app.exception_handler(StarletteHTTPException)
    async def _refused(request: Request, error: StarletteHTTPException) -> Response:
        return _error(error.status_code, error.detail, error.headers)

    @app.middleware("http")
    async def _guarded(request: Request, call_next: Any) -> Response:
        length = int(request.headers.get("content-length", 0))
        if length > double.max_body_mb * 2**20:
            limit = f"{double.max_body_mb:.0f} MB limit"
            return _error(413, f"request body too large: {length} bytes exceeds {limit}")
        given = request.headers.get("authorization", "")
        response: Response
        if double.keys and given.removeprefix("Bearer ") not in double.keys:
            text = "invalid api key" if given else "missing bearer token"
            response = _error(401, text, {"www-authenticate": "Bearer"})
        else:
            response = await call_next(request)
        response.headers["x-request-id"] = request.headers.get("x-request-id", uuid4().hex[:16])
        return response

    def noted(request: Request, body: ForecastBody) -> None:
        double.seen.append(
            (request.url.path, dict(request.headers), body.model_dump(exclude_unset=True))
        )

    if "/v1/forecast" in double.routes:

        @app.post("/v1/forecast")
        async def _v1(request: Request, body: ForecastBody) -> Any:
            noted(request, body)
            return await double.forecast(body)

    if "/api/forecast" in double.routes:

        @app.post("/api/forecast", response_model=None)
        async def _api(request: Request, body: ApiForecastBody) -> Any:
            noted(request, body)
            answer = await double.forecast(body)
            if not body.stream:
                return answer
            stripped = {name: value for name, value in answer.items() if value is not None}
            lines = (
                {"status": "loading model"},
                {"status": "running forecast"},
                {"done": True, "response": stripped},
            )
            text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
            return Response(text, media_type="application/x-ndjson")

    _add_questions(app, double)
    return app


def _add_questions(app: FastAPI, double: Double) -> None:
    """Add the routes that forecast nothing."""

    def entry(name: str) -> dict[str, Any]:
        return {"name": name, "model": name, "digest": double.digest, "size": 0}

    def known(name: str) -> None:
        if name not in double.models:
            raise HTTPException(404, f"model {name!r} is not installed")

    @app.get("/v1/health")
    async def _health() -> Any:
        return {"status": "ok"}

    @app.get("/health/ready")
    async def _ready() -> Any:
        restarts = sum(family.restarts for family in double.families.values())
        runners = {
            "healthy": True,
            "latency_ms": 0.1,
            "error": None,
            "configured_runners": len(double.models),
            "running_runners": len(double.families),
            "restart_total": restarts,
        }
        disk = {"healthy": True, "latency_ms": 0.1, "error": None, "path": "", "free_bytes": 0}
        return {
            "status": "ok",
            "healthy": True,
            "runner_manager": runners,
            "disk": disk,
            "connectors": None,
        }

    @app.get("/metrics")
    async def _metrics() -> Any:
        raise HTTPException(503, NO_METRICS)

    @app.get("/api/version")
    async def _version() -> Any:
        return {"version": "0.1.0"}

    @app.get("/api/ps")
    async def _ps() -> Any:
        return {"models": []}

    @app.get("/api/tags")
    async def _tags() -> Any:
        details = {
            "format": "tollama",
            "family": "mock",
            "families": ["mock"],
            "parameter_size": "",
            "quantization_level": "",
        }
        return {
            "models": [
                entry(name) | {"modified_at": "2026-11-28T00:00:00Z", "details": details}
                for name in double.models
            ]
        }

    @app.post("/api/pull")
    async def _pull(body: Named) -> Any:
        known(body.model)
        return {"status": "success", "model": body.model, "digest": double.digest, "size": 0}

    @app.post("/api/show")
    async def _show(body: Named) -> Any:
        known(body.model)
        return entry(body.model) | {
            "family": double.models[body.model],
            "source": {"repo_id": "tollama/mock-runner", "revision": "main", "type": "local"},
            "resolved": {"commit_sha": double.digest, "snapshot_path": ""},
            "snapshot_path": "",
            "license": {
                "type": double.licence,
                "accepted": True,
                "accepted_at": "2026-11-28T00:00:00Z",
                "needs_acceptance": False,
            },
            "modelfile": "",
            "parameters": "",
        }

    @app.post("/api/validate")
    async def _validate(body: dict[str, Any]) -> Any:
        errors = []
        try:
            ForecastBody.model_validate(body)
        except ValidationError as error:
            errors = [
                f"field {'.'.join(map(str, e['loc']))!r}: {e['msg']} (got: {e['input']!r})"
                for e in error.errors()
            ]
        return {"valid": not errors, "errors": errors, "warnings": [], "suggestions": []}
