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

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tsfm_pipeline.serving.error_codes import ErrorBody as ErrorBody
from tsfm_pipeline.serving.error_codes import ErrorCode as ErrorCode
from tsfm_pipeline.serving.error_codes import Problem as Problem
from tsfm_pipeline.serving.reasoning import Reasoning
from tsfm_pipeline.serving.request_checks import (
    FREQ_PATTERN,
    Floats,
    Time,
    check_columns,
    check_count,
    check_not_after,
    check_order,
    check_quantiles,
    check_spacing,
    checked_freq,
    last,
    seconds_of,
    within_calendar,
)
from tsfm_pipeline.serving.request_checks import minutes_of as minutes_of

MAX_POINTS = 20_000
"""No request may have more points, whatever the setting `max_points` says."""
MAX_HORIZON = 288
MAX_QUANTILES = 19
MAX_ITEMS = 200
MAX_COVARIATES = 32
MAX_PARAMS = 16
MAX_MAGNITUDE = 1e100
"""No number of a series is larger, so that no sum of squares overflows."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


Freq = Annotated[
    str,
    AfterValidator(checked_freq),
    Field(json_schema_extra={"pattern": FREQ_PATTERN}),
]
Quantile = Annotated[float, Field(ge=0.01, le=0.99)]
Number = Annotated[float, Field(ge=-MAX_MAGNITUDE, le=MAX_MAGNITUDE)]
Column = Annotated[list[Number], Field(fail_fast=True)]
"""The numbers of a series. Of many that are wrong, the first is reported."""
Parameter = (
    bool
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | float
    | Annotated[str, Field(max_length=200)]
)
Label = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+-]*$")
]
"""A value of a segment or a model's name; it may become part of a segment's key, never a label of a
metric."""
Provider = Literal["local", "tollama"]
_NO_OTHER_NAMES: dict[str, JsonValue] = {"additionalProperties": False}
"""The schema of a dictionary by labels; pydantic leaves this out."""


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
    params: dict[Label, Parameter] = Field(
        default={}, max_length=MAX_PARAMS, json_schema_extra=_NO_OTHER_NAMES
    )


class Segment(_Strict):
    """What kind of series this is, for routing and calibration."""

    category: Label | None = None
    tte_bucket: Label | None = Field(None, description="time to expiry, for example 0_24h")


class Quote(_Strict):
    """One quote of a market. The value at `ts` is the mid of bid and ask, else a recent trade."""

    ts: Time
    bid: Number | None = None
    ask: Number | None = None
    last_trade: Number | None = None
    last_trade_ts: Time | None = None

    @model_validator(mode="after")
    def _uncrossed(self) -> Self:
        if self.bid is not None and self.ask is not None and self.bid > self.ask:
            raise PydanticCustomError(
                ErrorCode.MALFORMED_INPUT.value,
                "malformed input: bid {bid} is above ask {ask}",
                {"bid": self.bid, "ask": self.ask, "allowed": "bid <= ask"},
            )
        return self


Values = Annotated[Column, Field(json_schema_extra={"minItems": 2, "maxItems": MAX_POINTS})]


class ForecastRequest(_Strict):
    """One series to forecast. Exactly one of `y` and `quotes` is given, oldest value first."""

    market_id: str = Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="`tenant/metric` of the served fleet, or any name without control characters",
    )
    as_of_ts: Annotated[Time, AfterValidator(within_calendar)] = Field(
        description="the forecast starts one step after this time"
    )
    freq: Freq = "5m"
    horizon_steps: int = Field(12, ge=1, le=MAX_HORIZON)
    quantiles: list[Quantile] = Field([0.1, 0.5, 0.9], min_length=1, max_length=MAX_QUANTILES)
    y: Values | None = None
    quotes: Annotated[list[Quote], Field(fail_fast=True)] | None = Field(
        None, min_length=2, max_length=MAX_POINTS
    )
    y_ts: Annotated[list[Time], Field(fail_fast=True)] | None = Field(None, max_length=MAX_POINTS)
    observed_ts: Time | None = Field(None, description="time of the last real observation")
    max_gap_minutes: float | None = Field(
        None, ge=0, le=1e6, description="a gap up to this is filled; may only lower the server's"
    )
    x_past: dict[Label, Column] = Field(
        default={},
        max_length=MAX_COVARIATES,
        description="one value per value of y",
        json_schema_extra=_NO_OTHER_NAMES,
    )
    x_future: dict[Label, Column] = Field(
        default={},
        max_length=MAX_COVARIATES,
        description="one value per step of the horizon",
        json_schema_extra=_NO_OTHER_NAMES,
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
        check_quantiles(levels)
        return levels

    @field_validator("y")
    @classmethod
    def _enough_points(cls, y: list[float] | None) -> list[float] | None:
        if y is not None:
            check_count(len(y), MAX_POINTS)
        return y

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
                {"where": "y_ts", "allowed": "y_ts only beside y"},
            )
        if self.y_ts is not None and len(self.y_ts) != self.n_given:
            raise PydanticCustomError(
                ErrorCode.Y_TS_LENGTH.value,
                "y_ts length must match y: y_ts has {given} times, y has {n} values",
                {
                    "where": "y_ts",
                    "given": len(self.y_ts),
                    "n": self.n_given,
                    "allowed": f"{self.n_given} times",
                },
            )
        self._check_times()
        check_columns("x_past", self.x_past, self.n_given)
        check_columns("x_future", self.x_future, self.horizon_steps)
        return self

    def _check_times(self) -> None:
        if self.seconds is not None:
            field = "y_ts" if self.quotes is None else "quotes"
            check_order(field, self.seconds)
            if self.quotes is None:
                check_spacing(self.seconds, self.freq)
            check_not_after(last(field, self.n_given), float(self.seconds[-1]), self.as_of_ts)
        if self.observed_ts is not None:
            check_not_after("observed_ts", self.observed_ts.timestamp(), self.as_of_ts)

    @property
    def n_given(self) -> int:
        """How many values or quotes the client gave."""
        return len(self.y if self.y is not None else self.quotes or ())

    @property
    def seconds(self) -> Floats | None:
        """The times of the values as seconds since 1970, float64 [T]; None: none are given."""
        return self._times.seconds

    @cached_property
    def _times(self) -> "_Times":
        if self.quotes is not None:
            return _Times(seconds_of([quote.ts for quote in self.quotes]))
        return _Times(None if self.y_ts is None else seconds_of(self.y_ts))


@dataclass(frozen=True, eq=False)
class _Times:
    """Times that were converted once. It equals only itself, so that requests are compared by
    their fields.
    """

    seconds: Floats | None


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
    reasoning: of a model that reasons.
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
    reasoning: Reasoning | None = None


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
