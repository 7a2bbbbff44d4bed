"""What was wrong with a request, as the body of a 422 says it.

What belongs here: turning pydantic's errors into `Problem`s (code, place, value, what is allowed),
and problems into the body. What does not: the rules themselves (`contract`, `preparation`), and
HTTP.

Nothing that a client sent is repeated in full: at most `MOST_ECHOED` characters of a place or a
value, none of them a control character, so that neither a log line nor a terminal can be forged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from tsfm_pipeline.serving.contract import (
    ErrorBody,
    ErrorCode,
    ForecastRequest,
    Model,
    Problem,
    Quote,
    Segment,
    Transform,
)
from tsfm_pipeline.serving.request_checks import FREQ_ALLOWED, TIME_PATTERN

MOST_ECHOED = 80
MOST_PROBLEMS = 20
"""Problems that one body names; of further ones it gives the number."""
MOST_READ = 1_000
"""With more errors than this, only their number is reported: listing them would take seconds."""
_LONGEST_DETAIL = 300
NOTHING = object()
"""Stands for no value, since null is one."""

_DATA = ("y", "y_ts", "quotes", "x_past", "x_future")
"""Fields whose errors are `malformed input`, as the services before this one called them."""
_PARTS: Mapping[str, type[BaseModel]] = {
    "": ForecastRequest,
    "quotes": Quote,
    "transform": Transform,
    "model": Model,
    "segment": Segment,
}
_PREFIXES = {
    ErrorCode.TOO_FEW_POINTS: "too_few_points: ",
    ErrorCode.MALFORMED_INPUT: "malformed input: ",
    ErrorCode.MALFORMED_FREQ: "malformed input: ",
}
_CODES = {
    "json_invalid": ErrorCode.INVALID_JSON,
    "json_type": ErrorCode.INVALID_JSON,
    "missing": ErrorCode.MISSING_FIELD,
    "extra_forbidden": ErrorCode.UNKNOWN_FIELD,
    **{code.value: code for code in ErrorCode},
}
_LIMITS = {
    "ge": ">= {}",
    "gt": "> {}",
    "le": "<= {}",
    "lt": "< {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
    "pattern": "{}",
    "expected": "{}",
    "multiple_of": "multiples of {}",
    "tz_expected": "offset {}",
}
_KINDS = {
    "string": "text",
    "int": "a whole number",
    "float": "a finite number",
    "finite": "a finite number",
    "bool": "true or false",
    "list": "a list",
    "dict": "an object",
    "model": "an object",
    "datetime": "a time with an offset, as in 2026-01-31T12:00:00Z",
    "timezone": "a time with an offset, as in 2026-01-31T12:00:00Z",
}
"""By the first word of an error's type: what is allowed where no limit says it."""


class InvalidRequest(ValueError):
    """A request that `contract` accepts breaks a rule that depends on settings."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.detail for problem in problems))
        self.problems = list(problems)


def problem(code: ErrorCode, detail: str, where: str, value: Any, allowed: str) -> Problem:
    """Return a problem with everything that the client sent shortened and escaped."""
    return Problem(
        code=code,
        where=plain(where),
        value=shown(value),
        allowed=allowed,
        detail=plain(detail, _LONGEST_DETAIL),
    )


def problems(error: ValidationError | InvalidRequest) -> list[Problem]:
    """Return what is wrong, in the order in which it was found: at least one problem, and at most
    `MOST_PROBLEMS`, of which the last says how many more there are.
    """
    if isinstance(error, InvalidRequest):
        return error.problems
    n = error.error_count()
    if n > MOST_READ:
        detail = f"{n} things are wrong; see the schema of the request"
        return [
            Problem(code=ErrorCode.INVALID_FIELD, where="", allowed="the schema", detail=detail)
        ]
    found: dict[str, Problem] = {}
    names = _PARTS if error.title in ("ForecastRequest", "BatchRequest") else {}
    for entry in error.errors(include_url=False):
        one = _problem(entry, names)
        found.setdefault(one.where, one)  # the branches of a union fail together
    first = list(found.values())[:MOST_PROBLEMS]
    if len(found) > MOST_PROBLEMS:
        detail = f"{len(found) - MOST_PROBLEMS + 1} further things are wrong"
        first[-1] = Problem(code=first[0].code, where="", detail=detail)
    return first


def body(problems: Sequence[Problem]) -> ErrorBody:
    """Return the body of a 422; its code and detail are those of the first problem."""
    first, more = problems[0], len(problems) - 1
    detail = first.detail + (f" (and {more} more)" if more else "")
    return ErrorBody(detail=detail, code=first.code, errors=list(problems))


def plain(text: str, most: int = MOST_ECHOED) -> str:
    """Return text on one line without control characters, of at most `most` characters."""
    cut = text if len(text) <= most else text[: most - 3] + "..."
    if cut.isprintable():
        return cut
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)
    return escaped if len(escaped) <= most else escaped[: most - 3] + "..."


def shown(value: Any) -> str:
    """Return a value as a person would recognise it: numbers and text shortened, of lists and
    objects only their size.
    """
    if value is NOTHING:
        return ""
    if isinstance(value, str):
        inside = plain(value, MOST_ECHOED - 2)
        return f"'{inside}'"
    if isinstance(value, Mapping):
        return f"an object of {len(value)}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"  # repr of a long one raises
    return plain("null" if value is None else repr(value))


def _problem(entry: Mapping[str, Any], parts: Mapping[str, type[BaseModel]]) -> Problem:
    kind, context = str(entry["type"]), entry.get("ctx", {})
    loc = tuple(entry["loc"])
    own = loc[2:] if loc[:1] == ("items",) else loc  # within one request of a batch
    where = _place(loc, context)
    code = _code(kind, str(own[0]) if own else "")
    allowed = _allowed(kind, code, context)
    detail = str(entry["msg"])
    if code is ErrorCode.UNKNOWN_FIELD:
        part = parts.get(str(own[0]) if len(own) > 1 else "")
        allowed = "" if part is None else ", ".join(part.model_fields)
    if kind != code.value:  # pydantic's own words
        limited = context.keys() & {"ge", "gt", "le", "lt", "pattern"}
        says = f"must be {allowed}" if limited else detail
        detail = f"{where}: {says}" if where else says
        detail = f"{_PREFIXES.get(code, '')}{detail}"
    return problem(code, detail, where, _given(kind, entry, context), allowed)


def _given(kind: str, entry: Mapping[str, Any], context: Mapping[str, Any]) -> Any:
    """Return the value to show; a rule between fields names its own, or none."""
    if "where" in context or kind in ("json_invalid", "json_type", "missing"):
        return context.get("given", NOTHING)
    return entry.get("input", NOTHING) if entry["loc"] else NOTHING


def _code(kind: str, field: str) -> ErrorCode:
    known = _CODES.get(kind)
    if known is not None:
        return known
    if field in ("y", "quotes") and kind == "too_short":
        return ErrorCode.TOO_FEW_POINTS
    if field in _DATA:
        return ErrorCode.TOO_LARGE if kind == "too_long" else ErrorCode.MALFORMED_INPUT
    return ErrorCode.MALFORMED_FREQ if field == "freq" else ErrorCode.INVALID_FIELD


def _place(loc: tuple[str | int, ...], context: Mapping[str, Any]) -> str:
    """Return a path such as `quotes[3].bid`; each name of a client's is shortened."""
    if "where" in context:
        loc = (*loc, *str(context["where"]).split("."))
    if "params" in loc:
        loc = loc[: loc.index("params") + 2]  # what follows names a branch of the union of types
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += ("." if path else "") + plain(part, MOST_ECHOED // 2)
    return plain(path)


def _allowed(kind: str, code: ErrorCode, context: Mapping[str, Any]) -> str:
    """Return what is allowed in words, from the limits in the error's context or its type."""
    if "allowed" in context:
        return str(context["allowed"])
    if code in (ErrorCode.MALFORMED_FREQ, ErrorCode.INVALID_JSON):
        return FREQ_ALLOWED if code is ErrorCode.MALFORMED_FREQ else "one JSON object"
    if context.get("pattern") == TIME_PATTERN:
        return _KINDS["datetime"]
    limits = [text.format(context[name]) for name, text in _LIMITS.items() if name in context]
    if limits:
        return plain(", ".join(limits), _LONGEST_DETAIL)
    return "the field" if kind == "missing" else _KINDS.get(kind.split("_")[0], "")
