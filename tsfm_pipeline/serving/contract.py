"""The contract of the forecast routes: what a client may send and what it gets back.

What belongs here: the wire models of `/tsfm/*`, the codes of errors, and the rules that one request
obeys by itself. What does not: rules that depend on settings or on the time (`preparation`), the
wire models of the search's route (`search_contract`), and answering.

The names are those of the services that this one replaces (market_id, liquidity_bucket, ...). They
are used on the wire only; everywhere else a market is a tenant's metric.

Requests are read with `ForecastRequest.model_validate_json`: strict types, no unknown fields,
closed ranges. Every rule that is broken raises an error whose type is an `ErrorCode` or one of
pydantic's own types; `errors.problems` turns them into the body of a 422.
"""

import math
import re
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_POINTS = 20_000
"""No request may have more points, whatever the setting `max_points` says."""
MAX_HORIZON = 288
MAX_QUANTILES = 19
MAX_ITEMS = 200
MAX_COVARIATES = 32
MAX_PARAMS = 16

_FREQ = re.compile(r"([1-9][0-9]{0,3})([mh])")


class ErrorCode(StrEnum):
    """The codes of all errors that the service answers with."""

    INVALID_JSON = "invalid_json"
    INVALID_FIELD = "invalid_field"
    UNKNOWN_FIELD = "unknown_field"
    MISSING_FIELD = "missing_field"
    MALFORMED_FREQ = "malformed_freq"
    MALFORMED_INPUT = "malformed_input"
    TOO_FEW_POINTS = "too_few_points"
    TOO_LARGE = "too_large"
    Y_TS_LENGTH = "y_ts_length"
    Y_TS_ORDER = "y_ts_order"
    Y_TS_SPACING = "y_ts_spacing"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    UNAUTHORISED = "unauthorised"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_ROUTE = "unknown_route"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    RATE_LIMITED = "rate_limited"
    QUEUE_FULL = "queue_full"
    NOT_READY = "not_ready"
    NO_SEARCH = "no_search"


class Problem(BaseModel):
    """One thing that is wrong with a request."""

    model_config = ConfigDict(extra="forbid")

    code: ErrorCode
    where: str = Field(description="path of the field, for example y[3]; empty: the whole body")
    value: str = Field("", description="the value that was given, shortened")
    allowed: str = Field("", description="what is allowed")
    detail: str


class ErrorBody(BaseModel):
    """The body of every answer that is not a forecast."""

    model_config = ConfigDict(extra="forbid")

    detail: str
    code: ErrorCode
    errors: list[Problem] = []


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def minutes_of(freq: str) -> int:
    """Return the minutes of a frequency such as `5m` or `1h`. Raises `PydanticCustomError`."""
    match = _FREQ.fullmatch(freq)
    if match is None:
        raise PydanticCustomError(
            ErrorCode.MALFORMED_FREQ.value,
            "malformed input: freq is {given}; allowed: <n>m or <n>h, as in 5m or 1h",
            {"given": repr(freq[:20]), "allowed": "<n>m or <n>h, n from 1 to 9999"},
        )
    return int(match[1]) * (60 if match[2] == "h" else 1)


def _checked_freq(freq: str) -> str:
    minutes_of(freq)
    return freq


Freq = Annotated[
    str,
    AfterValidator(_checked_freq),
    Field(json_schema_extra={"pattern": f"^{_FREQ.pattern}$"}),
]
Quantile = Annotated[float, Field(ge=0.01, le=0.99)]
Label = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+-]*$")
]
"""A value of a segment or a model's name; it may become part of a segment's key, never a label of a
metric."""
Provider = Literal["local", "tollama"]


class Transform(_Strict):
    """The scale on which the model forecasts.

    space: `logit` for values in [0, 1], such as probabilities and shares; `identity` for anything
    else. eps: distance that logit keeps from 0 and 1.
    """

    space: Literal["logit", "identity"] = "logit"
    eps: float = Field(1e-6, ge=1e-9, le=0.1)


class Model(_Strict):
    """The model that is to answer. What is left out is the server's default."""

    provider: Provider | None = None
    model_name: Label | None = None
    model_version: Label | None = None
    params: dict[Label, bool | int | float | str] = Field(default={}, max_length=MAX_PARAMS)


class Segment(_Strict):
    """What kind of series this is, for routing and calibration."""

    category: Label | None = None
    tte_bucket: Label | None = Field(None, description="time to expiry, for example 0_24h")


class Quote(_Strict):
    """One quote of a market. The value at `ts` is the mid of bid and ask, else a recent trade."""

    ts: AwareDatetime
    bid: float | None = None
    ask: float | None = None
    last_trade: float | None = None
    last_trade_ts: AwareDatetime | None = None

    @model_validator(mode="after")
    def _uncrossed(self) -> Self:
        if self.bid is not None and self.ask is not None and self.bid > self.ask:
            raise PydanticCustomError(
                ErrorCode.MALFORMED_INPUT.value,
                "malformed input: bid {bid} is above ask {ask}",
                {"bid": self.bid, "ask": self.ask, "allowed": "bid <= ask"},
            )
        return self


Values = Annotated[list[float], Field(json_schema_extra={"minItems": 2, "maxItems": MAX_POINTS})]


class ForecastRequest(_Strict):
    """One series to forecast. Exactly one of `y` and `quotes` is given, oldest value first."""

    market_id: str = Field(
        min_length=1, max_length=200, description="`tenant/metric` of the served fleet, or any name"
    )
    as_of_ts: AwareDatetime = Field(description="the forecast starts one step after this time")
    freq: Freq = "5m"
    horizon_steps: int = Field(12, ge=1, le=MAX_HORIZON)
    quantiles: list[Quantile] = Field([0.1, 0.5, 0.9], min_length=1, max_length=MAX_QUANTILES)
    y: Values | None = None
    quotes: list[Quote] | None = Field(None, min_length=2, max_length=MAX_POINTS)
    y_ts: list[AwareDatetime] | None = Field(None, max_length=MAX_POINTS)
    observed_ts: AwareDatetime | None = Field(None, description="time of the last real observation")
    max_gap_minutes: float | None = Field(
        None, ge=0, le=1e6, description="a gap up to this is filled; may only lower the server's"
    )
    x_past: dict[Label, list[float]] = Field(
        default={}, max_length=MAX_COVARIATES, description="one value per value of y"
    )
    x_future: dict[Label, list[float]] = Field(
        default={}, max_length=MAX_COVARIATES, description="one value per step of the horizon"
    )
    transform: Transform = Transform()
    model: Model = Model()
    liquidity_bucket: Label | None = None
    volume_24h: float | None = Field(None, ge=0)
    open_interest: float | None = Field(None, ge=0)
    segment: Segment = Segment()

    @field_validator("quantiles")
    @classmethod
    def _ascending(cls, levels: list[float]) -> list[float]:
        if any(b <= a for a, b in pairwise(levels)):
            raise PydanticCustomError(
                ErrorCode.MALFORMED_INPUT.value,
                "malformed input: quantiles must ascend, each once",
                {"allowed": "ascending levels in [.01, .99]"},
            )
        return levels

    @field_validator("y")
    @classmethod
    def _enough_points(cls, y: list[float] | None) -> list[float] | None:
        if y is not None:
            _check_length(len(y))
        return y

    @field_validator("y_ts")
    @classmethod
    def _increasing(cls, times: list[datetime] | None) -> list[datetime] | None:
        for i, (a, b) in enumerate(pairwise(times or [])):
            if b <= a:
                raise PydanticCustomError(
                    ErrorCode.Y_TS_ORDER.value,
                    "y_ts must be strictly increasing; y_ts[{index}] is not after the one before",
                    {"index": i + 1, "allowed": "strictly increasing times"},
                )
        return times

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.y is None) == (self.quotes is None):
            raise PydanticCustomError(
                ErrorCode.MALFORMED_INPUT.value,
                "malformed input: give exactly one of y and quotes",
                {"allowed": "y or quotes"},
            )
        if self.quotes is not None and self.y_ts is not None:
            raise PydanticCustomError(
                ErrorCode.MALFORMED_INPUT.value,
                "malformed input: quotes bring their own times; y_ts goes with y only",
                {"allowed": "y_ts only beside y"},
            )
        n = len(self.quotes if self.y is None else self.y)  # type: ignore[arg-type]
        if self.y_ts is not None and len(self.y_ts) != n:
            raise PydanticCustomError(
                ErrorCode.Y_TS_LENGTH.value,
                "y_ts length must match y: y_ts has {given} times, y has {n} values",
                {"given": len(self.y_ts), "n": n, "allowed": f"{n} times"},
            )
        if self.y_ts is not None:
            self._check_spacing(self.y_ts)
        for field, columns, length in (
            ("x_past", self.x_past, n),
            ("x_future", self.x_future, self.horizon_steps),
        ):
            for name, column in columns.items():
                if len(column) != length:
                    raise PydanticCustomError(
                        ErrorCode.MALFORMED_INPUT.value,
                        "malformed input: {field}.{name} has {given} values",
                        {
                            "field": field,
                            "name": name,
                            "given": len(column),
                            "allowed": f"{length} values",
                        },
                    )
        return self

    def _check_spacing(self, times: list[datetime]) -> None:
        step = 60 * minutes_of(self.freq)
        for i, (a, b) in enumerate(pairwise(times)):
            if not math.isclose((b - a).total_seconds() % step, 0.0, abs_tol=1e-6):
                raise PydanticCustomError(
                    ErrorCode.Y_TS_SPACING.value,
                    "y_ts spacing must align with freq: y_ts[{index}] is {seconds} s after the "
                    "one before",
                    {
                        "index": i + 1,
                        "seconds": (b - a).total_seconds(),
                        "allowed": f"multiples of {self.freq}",
                    },
                )


def _check_length(n: int) -> None:
    if n < 2:
        raise PydanticCustomError(
            ErrorCode.TOO_FEW_POINTS.value,
            "too_few_points: y has {n} values",
            {"n": n, "allowed": f"2 to {MAX_POINTS} values"},
        )
    if n > MAX_POINTS:
        raise PydanticCustomError(
            ErrorCode.TOO_LARGE.value,
            "y is too large: it has {n} values",
            {"n": n, "allowed": f"2 to {MAX_POINTS} values"},
        )


class BatchRequest(_Strict):
    """Up to 200 series, each answered by itself."""

    items: list[ForecastRequest] = Field(min_length=1, max_length=MAX_ITEMS)


BreakerState = Literal["closed", "open", "half-open"]
DegradationState = Literal["normal", "degraded", "baseline-only"]
RolloutStage = Literal["off", "shadow", "10", "50", "100", "rolled-back", "pinned"]


class Route(BaseModel):
    """Why the model or a baseline was asked.

    selected: `model`; `baseline`; or `shadow`, where the model is asked too but the baseline's
    forecast is the answer.
    """

    model_config = ConfigDict(extra="forbid")

    selected: Literal["model", "baseline", "shadow"]
    reason: str
    stage: RolloutStage = "off"
    segment: str | None = Field(None, description="key of the segment that decided, if one did")


class Meta(BaseModel):
    """How an answer came about."""

    model_config = ConfigDict(extra="forbid")

    request_id: str
    runtime: Literal["local", "tollama", "baseline"]
    model: str = Field(description="name of the model, or of the baseline that answered")
    version: str
    configuration: str | None = Field(None, description="of the local model, for example ctx288")
    latency_ms: float
    input_len: int = Field(description="values that the forecast is made from, after filling gaps")
    transform: Literal["logit", "identity"]
    fallback_used: bool
    fallback_reason: str | None = None
    warnings: list[str] = Field(description="each once; ` x12` says how often, if more than once")
    cache_hit: bool = False
    cache_stale: bool = False
    circuit_breaker_state: BreakerState
    degradation_state: DegradationState
    route: Route


class Interval(BaseModel):
    """A central prediction interval, one lower and one upper value per step."""

    model_config = ConfigDict(extra="forbid")

    low: list[float]
    high: list[float]


class Conformal(BaseModel):
    """The calibration behind `intervals`."""

    model_config = ConfigDict(extra="forbid")

    version: str
    as_of: datetime
    segment: str = Field(description="names=values, sorted by name, joined by |; `global` for all")
    n: int = Field(description="scores behind the narrowest of the steps' buckets")


class LastStep(BaseModel):
    """The calibrated 90 % interval of the last step."""

    model_config = ConfigDict(extra="forbid")

    step: int
    low: float
    high: float
    target_coverage: float = 0.9
    segment: str


class ForecastResponse(BaseModel):
    """The forecast of one series.

    yhat_q: by the quantile's level as text, one value per step. intervals: central 80 % and 90 %
    intervals, calibrated where `conformal` is given, else read off the forecast's quantiles.
    """

    model_config = ConfigDict(extra="forbid")

    market_id: str
    as_of_ts: datetime
    freq: str
    horizon_steps: int
    quantiles: list[float]
    yhat_q: dict[str, list[float]]
    intervals: dict[Literal["0.8", "0.9"], Interval]
    meta: Meta
    conformal: Conformal | None = None
    conformal_last_step: LastStep | None = None


class BatchItem(BaseModel):
    """The answer to one item: `response` if status is 200, else `error`."""

    model_config = ConfigDict(extra="forbid")

    status: int
    response: ForecastResponse | None = None
    error: ErrorBody | None = None


class BatchResponse(BaseModel):
    """One answer per item, in the order of the items."""

    model_config = ConfigDict(extra="forbid")

    items: list[BatchItem]
