"""The wire format of a tollama daemon: requests for many series, and the checks of its answers.

What belongs here: the body of a request, reading an answer, and what each way of failing means;
pure functions of bytes and queries. What does not: connections, deadlines and retries (`tollama`).

The daemon checks little of what its runners answer: series may be lost, repeated or in another
order, quantiles may be absent, and the horizon may be shorter than asked, all with status 200.
Series are therefore matched by ids that are unique within the call, and a series whose part of an
answer is wrong fails alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json, to_json

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.serving.postprocess import OutputFault
from tsfm_pipeline.serving.preparation import COVARIATES_IGNORED
from tsfm_pipeline.serving.runtimes import Answer, Failure, Query, RuntimeFailure

NDJSON = "application/x-ndjson"
LEVEL_TOLERANCE = 1e-6
"""Quantile keys are Python's format `g`, which has six digits, and may come from a float32."""
RUNTIME_WARNING = "runtime_warning"
LEVEL_DIGITS = 6
"""Digits of the levels that are asked for: levels that agree in these have one key."""
BUSY_WAIT_S = 0.2
"""Wait after a 429 that names no time; the daemon's own never does."""

_BYTES_PER_VALUE = 32
_BYTES_PER_SERIES = 8_192
_BYTES_PER_ANSWER = 65_536
_MOST_DETAIL = 200


class CallFailed(RuntimeFailure):
    """A call of the daemon failed as a whole.

    again: whether a further attempt may succeed. after_s: seconds to wait before it; None: the
    adapter's own backoff.
    """

    def __init__(
        self,
        failure: Failure,
        detail: str,
        *,
        counts: bool,
        again: bool = False,
        after_s: float | None = None,
    ) -> None:
        super().__init__(failure, detail, counts=counts)
        self.again, self.after_s = again, after_s


@dataclass(frozen=True)
class Kind:
    """What all series of one call have in common.

    levels: what the client wants and the deciles, ascending. params: as JSON. past, future: names
    of the covariates, sorted. retry: whether a failed attempt may be repeated.
    """

    horizon: int
    levels: tuple[float, ...]
    params: str
    past: tuple[str, ...]
    future: tuple[str, ...]
    retry: bool

    @classmethod
    def of(cls, query: Query, *, retry: bool) -> "Kind":
        """Return the kind of call that a query can be part of."""
        levels = sorted({round(float(level), LEVEL_DIGITS) for level in (*query.levels, *DECILES)})
        return cls(
            query.horizon,
            tuple(levels),
            json.dumps(dict(query.params), sort_keys=True),
            tuple(sorted(query.past)),
            tuple(sorted(query.future)),
            retry,
        )


def request_body(
    model: str, queries: Sequence[Query], kind: Kind, *, timeout_s: float, stream: bool | None
) -> bytes:
    """Return the body of one call for queries of one kind; the id of each is its place.

    timeout_s: after which the daemon kills its runner; never the client's deadline. stream: None
    leaves the field out, as /v1/forecast demands.
    """
    body: dict[str, Any] = {
        "model": model,
        "horizon": kind.horizon,
        "quantiles": kind.levels,
        "series": [_series(i, query) for i, query in enumerate(queries)],
        "options": json.loads(kind.params),
        "timeout": timeout_s,
        "parameters": {"covariates_mode": "best_effort"},
    }
    if stream is not None:
        body["stream"] = stream
    return to_json(body)


def _series(i: int, query: Query) -> dict[str, Any]:
    # The daemon refuses a covariate of which only the future is known.
    future = {name: column.tolist() for name, column in query.future.items() if name in query.past}
    covariates = {
        "past_covariates": {name: column.tolist() for name, column in query.past.items()},
        "future_covariates": future,
    }
    return {
        "id": str(i),
        # pandas reads `5m` as five months.
        "freq": f"{query.freq:g}min",
        "timestamps": _timestamps(query.end, query.freq, len(query.values)),
        "target": query.values.tolist(),
        **{name: columns for name, columns in covariates.items() if columns},
    }


@lru_cache(maxsize=64)
def _timestamps(end: datetime, freq: float, n: int) -> tuple[str, ...]:
    """Return the times of n values up to `end`, in whole seconds. The series of one cycle share
    them.
    """
    last = np.datetime64(end.astimezone(UTC).replace(tzinfo=None), "s")
    seconds = np.rint(np.arange(1 - n, 1) * freq * 60).astype("timedelta64[s]")
    return tuple(f"{stamp}Z" for stamp in np.datetime_as_string(last + seconds))


def most_bytes(kind: Kind, n_series: int) -> int:
    """Return the size above which an answer for so many series cannot be right."""
    values = kind.horizon * (len(kind.levels) + 1)
    return _BYTES_PER_ANSWER + n_series * (_BYTES_PER_SERIES + values * _BYTES_PER_VALUE)


class _Forecast(BaseModel):
    """One series of an answer; `start_timestamp` is ignored, because runners disagree on it."""

    model_config = ConfigDict(strict=True)

    quantiles: dict[str, list[float | None]] | None = None


def read_answers(
    content: bytes, media_type: str, queries: Sequence[Query], kind: Kind
) -> list[Answer | RuntimeFailure]:
    """Return what a body with status 200 says about each query.

    Raises `CallFailed` if it says nothing about any of them.
    """
    body = _response(content, media_type)
    entries: dict[str, list[Any]] = {}
    for entry in body["forecasts"]:
        if isinstance(entry, dict):
            entries.setdefault(str(entry.get("id")), []).append(entry)
    warnings = _warnings(body.get("warnings"))
    return [
        _answer(entries.get(str(i), []), query, kind, warnings) for i, query in enumerate(queries)
    ]


def _response(content: bytes, media_type: str) -> dict[str, Any]:
    """Return the answer in a body of JSON, or in the last line of a stream."""
    is_stream = media_type.partition(";")[0].strip().lower() == NDJSON
    try:
        if is_stream:
            lines = [from_json(line) for line in content.splitlines() if line.strip()]
            body = next(
                line["response"]
                for line in lines
                if isinstance(line, dict) and line.get("done") and "response" in line
            )
        else:
            body = from_json(content)
    except (ValueError, StopIteration) as error:
        what = "no line says done" if isinstance(error, StopIteration) else f"not JSON: {error}"
        raise _invalid(what) from error
    if not isinstance(body, dict) or not isinstance(body.get("forecasts"), list):
        raise _invalid("there is no list of forecasts")
    return body


def _invalid(what: str) -> CallFailed:
    return CallFailed(Failure.INVALID_OUTPUT, shortened(what), counts=True)


def _answer(
    entries: Sequence[Any], query: Query, kind: Kind, warnings: tuple[str, ...]
) -> Answer | RuntimeFailure:
    """Return one series' answer, or why it is refused."""
    if len(entries) != 1:
        lost = "the series is lost" if not entries else f"the series comes {len(entries)} times"
        return RuntimeFailure(Failure.INVALID_OUTPUT, lost, counts=True)
    try:
        columns = _Forecast.model_validate(entries[0]).quantiles or {}
        given = {float(key): column for key, column in columns.items()}
    except ValueError as error:  # pydantic's ValidationError is one
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        return RuntimeFailure(Failure.INVALID_OUTPUT, shortened(what), counts=True)
    nearest = [
        min(given, key=lambda key: abs(key - level), default=np.inf) for level in kind.levels
    ]
    absent = [
        f"{level:g}"
        for level, key in zip(kind.levels, nearest, strict=True)
        if not abs(key - level) < LEVEL_TOLERANCE
    ]
    if absent:
        return _refused(OutputFault.QUANTILES, f"no quantile {', '.join(absent)}")
    lengths = {len(given[key]) for key in nearest}
    if lengths != {kind.horizon}:
        counted = ", ".join(map(str, sorted(lengths)))
        return _refused(OutputFault.HORIZON, f"{counted} steps; asked: {kind.horizon}")
    values = np.array([given[key] for key in nearest], dtype=np.float64).T
    if not np.isfinite(values).all():
        return _refused(OutputFault.NON_FINITE, "a value is not a finite number")
    dropped = set(query.future) - set(query.past)
    own = (*warnings, COVARIATES_IGNORED) if dropped else warnings
    return Answer(kind.levels, values, len(query.values), warnings=tuple(dict.fromkeys(own)))


def _refused(code: OutputFault, what: str) -> RuntimeFailure:
    return RuntimeFailure(Failure.INVALID_OUTPUT, f"{code}: {what}", counts=True)


def _warnings(given: object) -> tuple[str, ...]:
    """Return codes for the daemon's warnings, whose texts a client never sees."""
    texts = given if isinstance(given, list) else []
    codes = (
        COVARIATES_IGNORED if "unsupported covariate" in str(text) else RUNTIME_WARNING
        for text in texts
    )
    return tuple(dict.fromkeys(codes))


def is_unknown_route(status: int, content: bytes) -> bool:
    """Return whether a 404 means that there is no such route; otherwise it is about the model."""
    return status == 404 and detail_of(content) in ("", "Not Found")


def failure_of(status: int, headers: Mapping[str, str], content: bytes) -> CallFailed:
    """Return what a status other than 200 means. headers: with names in lower case."""
    detail = detail_of(content)
    text = f"status {status}: {detail or 'no detail'}"
    match status:
        case 400 | 413 | 422:
            return CallFailed(Failure.REJECTED, text, counts=False)
        case 408 | 504:
            return CallFailed(Failure.TIMEOUT, text, counts=True)
        case 429:
            wait = _retry_after(headers.get("retry-after"))
            return CallFailed(
                Failure.BUSY, text, counts=False, again=wait is not None, after_s=wait
            )
        case 502 if "invalid forecast response" in detail:
            return CallFailed(Failure.INVALID_OUTPUT, text, counts=True)
        case 502:
            return CallFailed(Failure.INTERNAL, text, counts=True)
        case 503:
            # The daemon has tried three times; a 503 without its detail is a proxy's.
            return CallFailed(Failure.UNAVAILABLE, text, counts=True, again=not detail)
        case _ if status >= 500:
            return CallFailed(Failure.UNAVAILABLE, text, counts=True)
        case _:
            return CallFailed(Failure.MISCONFIGURED, text, counts=False)


def _retry_after(header: str | None) -> float | None:
    """Return seconds to wait; None where the header gives a date, which is never soon enough."""
    if header is None:
        return BUSY_WAIT_S
    return float(header) if header.strip().isdecimal() else None


def detail_of(content: bytes) -> str:
    """Return the daemon's detail as one short line; empty if the body has none."""
    try:
        body = from_json(content)
    except ValueError:
        return ""
    detail = body.get("detail") if isinstance(body, dict) else None
    if detail is None:
        return ""
    return shortened(detail if isinstance(detail, str) else to_json(detail).decode())


def shortened(text: str) -> str:
    """Return a peer's text as one line of at most 200 printable characters, for logs."""
    return "".join(c if c.isprintable() else " " for c in text[:_MOST_DETAIL])
