"""The rules of a request that no type can state: frequencies, numbers of values, and times.

What belongs here: checks that `contract` calls while it reads a request; each raises
`PydanticCustomError` with an `ErrorCode` as its type, and in its context what is `allowed` and,
where the field alone does not say it, `where`. What does not: the fields and their types
(`contract`), and rules that depend on settings (`preparation`).
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import GetPydanticSchema, WithJsonSchema
from pydantic_core import PydanticCustomError, core_schema

from tsfm_pipeline.serving.error_codes import ErrorCode

Floats = NDArray[np.float64]

FREQ_PATTERN = r"^([1-9][0-9]{0,3}m|[1-9][0-9]{0,2}h)$"
"""Up to 9,999 minutes or 999 hours: the times of a whole series stay within the calendar."""
FREQ_ALLOWED = "<n>m with n from 1 to 9999, or <n>h with n from 1 to 999"
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
TIME_TOLERANCE_S = 1e-3
"""Times that differ by less are the same; they are read as seconds in float64."""

TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]"

_FREQ = re.compile(FREQ_PATTERN)
_AWARE = core_schema.datetime_schema(tz_constraint="aware")
_DATED = core_schema.chain_schema(
    [
        core_schema.str_schema(pattern=TIME_PATTERN),
        core_schema.datetime_schema(tz_constraint="aware", strict=False),
    ]
)
Time = Annotated[
    datetime,
    GetPydanticSchema(
        lambda source, handler: core_schema.json_or_python_schema(
            json_schema=_DATED, python_schema=_AWARE
        )
    ),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time with an offset. In JSON it begins with a date: by itself, pydantic would also read a
number in a text, as seconds or milliseconds. Limits of a field (`ge`, `le`) do not apply in JSON.
"""


def minutes_of(freq: str) -> int:
    """Return the minutes of a frequency such as `5m` or `1h`. Raises `PydanticCustomError`."""
    if _FREQ.fullmatch(freq) is None:
        raise PydanticCustomError(
            ErrorCode.MALFORMED_FREQ.value,
            "malformed input: freq; allowed: <n>m or <n>h, as in 5m or 1h",
            {"allowed": FREQ_ALLOWED},
        )
    return int(freq[:-1]) * (60 if freq[-1] == "h" else 1)


def checked_freq(freq: str) -> str:
    """Return the frequency. Raises the error of `minutes_of`."""
    minutes_of(freq)
    return freq


def within_calendar(as_of: datetime) -> datetime:
    """Return a time, or raise `PydanticCustomError` if times that are reckoned from it might not
    exist.
    """
    if not EARLIEST <= as_of <= LATEST:
        raise PydanticCustomError(
            ErrorCode.INVALID_FIELD.value,
            "as_of_ts must lie from {earliest} to {latest}",
            {
                "earliest": f"{EARLIEST:%Y-%m-%d}",
                "latest": f"{LATEST:%Y-%m-%d}",
                "allowed": f"{EARLIEST:%Y-%m-%d} to {LATEST:%Y-%m-%d}",
            },
        )
    return as_of


def seconds_of(times: Sequence[datetime]) -> Floats:
    """Return times with an offset as seconds since 1970, float64 [T]."""
    return np.fromiter(map(datetime.timestamp, times), dtype=np.float64, count=len(times))


def check_count(n: int, most: int) -> None:
    """Raise `PydanticCustomError` unless y has between 2 and `most` values."""
    if n < 2:
        raise PydanticCustomError(
            ErrorCode.TOO_FEW_POINTS.value,
            "too_few_points: y has {n} values",
            {"n": n, "allowed": f"2 to {most} values"},
        )
    if n > most:
        raise PydanticCustomError(
            ErrorCode.TOO_LARGE.value,
            "y is too large: it has {n} values",
            {"n": n, "allowed": f"2 to {most} values"},
        )


def check_quantiles(levels: Sequence[float]) -> None:
    """Raise `PydanticCustomError` unless the levels ascend, each with a text of its own: an answer
    names them by six digits.
    """
    if any(b <= a or f"{a:g}" == f"{b:g}" for a, b in pairwise(levels)):
        raise PydanticCustomError(
            ErrorCode.MALFORMED_INPUT.value,
            "malformed input: quantiles must ascend, each once",
            {"allowed": "ascending levels in [.01, .99] that differ in six digits"},
        )


def check_order(field: str, seconds: Floats) -> None:
    """Raise `PydanticCustomError` unless times, float64 [T], are strictly increasing."""
    early = np.flatnonzero(np.diff(seconds) <= 0)
    if len(early):
        i = int(early[0]) + 1
        raise PydanticCustomError(
            ErrorCode.Y_TS_ORDER.value,
            "{field} must be strictly increasing; {where} is not after the one before",
            {"field": field, "where": _at(field, i), "allowed": "strictly increasing times"},
        )


def check_spacing(seconds: Floats, freq: str) -> None:
    """Raise `PydanticCustomError` unless neighbours of y_ts are whole steps apart."""
    step, gaps = 60 * minutes_of(freq), np.diff(seconds)
    off = np.flatnonzero(np.abs(gaps - np.round(gaps / step) * step) > TIME_TOLERANCE_S)
    if len(off):
        i = int(off[0])
        raise PydanticCustomError(
            ErrorCode.Y_TS_SPACING.value,
            "y_ts spacing must align with freq: {where} is {seconds} s after the one before",
            {
                "where": _at("y_ts", i + 1),
                "seconds": round(float(gaps[i]), 3),
                "allowed": f"multiples of {freq}",
            },
        )


def check_not_after(where: str, seconds: float, as_of: datetime) -> None:
    """Raise `PydanticCustomError` if a time of an observation is later than as_of_ts."""
    if seconds > as_of.timestamp() + TIME_TOLERANCE_S:
        raise PydanticCustomError(
            ErrorCode.MALFORMED_INPUT.value,
            "malformed input: {where} is later than as_of_ts",
            {"where": where, "allowed": "times up to as_of_ts"},
        )


def check_columns(field: str, columns: Mapping[str, Sequence[float]], length: int) -> None:
    """Raise `PydanticCustomError` unless every covariate has `length` values."""
    for name, column in columns.items():
        if len(column) != length:
            raise PydanticCustomError(
                ErrorCode.MALFORMED_INPUT.value,
                "malformed input: {where} has {given} values",
                {
                    "where": f"{field}.{name}",
                    "given": len(column),
                    "allowed": f"{length} values",
                },
            )


def last(field: str, n: int) -> str:
    """Return the name of the last of n elements of a field."""
    return _at(field, n - 1)


def _at(field: str, index: int) -> str:
    return f"{field}[{index}]"
