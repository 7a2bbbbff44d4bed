"""What the service answers where there is no forecast: codes, and the body of such an answer.

What belongs here: the closed list of codes and the two wire models that carry them. What does not:
turning what was wrong into a body (`errors`). Callers import these names from `contract`.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


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
    REQUEST_TIMEOUT = "request_timeout"
    INTERNAL = "internal"


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
