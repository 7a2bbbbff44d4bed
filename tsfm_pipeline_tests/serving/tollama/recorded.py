"""Recorded requests to a tollama daemon: how they are made again, and what is alike in two answers.

What belongs here: reading the cases and judging an answer. What does not: whom they are sent to.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

SHORTENED = re.compile(r"\.\.\. ([0-9]+) in all")
REQUEST_ID = "sample-0001"
MEASURED = ("inference_ms", "total_ms", "model_load_ms")
ECHOED = {"input", "ctx"}
"""Parts of a validation error that repeat the input."""


def filled(value: Any, name: str = "") -> Any:
    """Return a request in full: the file shortens `timestamps` and every list of values."""
    if isinstance(value, dict):
        return {key: filled(part, key) for key, part in value.items()}
    if isinstance(value, list) and value and (match := SHORTENED.match(str(value[-1]))):
        n = int(match[1])
        return times(n) if name == "timestamps" else values(n)
    if isinstance(value, list):
        return [filled(part, name) for part in value]
    return value


def times(n: int) -> list[str]:
    """Return the file's times: every five minutes."""
    minutes = (5 * i for i in range(n))
    return [f"2026-02-{20 + m // 1440:02d}T{m // 60 % 24:02d}:{m % 60:02d}:00Z" for m in minutes]


def values(n: int) -> list[float]:
    """Return the file's values."""
    return [round(0.45 + 0.002 * ((7 * i) % 11), 4) for i in range(n)]


def content_of(case: Mapping[str, Any]) -> bytes | None:
    """Return the body of a case's request. Two are given in words or cut off."""
    request = case.get("request", {"path": "/v1/forecast"})
    if case["name"] == "nan_literal":
        body = forecast_body(40)
        body["series"][0]["target"][0] = float("nan")
        return json.dumps(body).encode()
    if case["name"] == "body_too_large_413":
        return json.dumps(forecast_body(40_000)).encode()
    if "raw" in request:
        return str(request["raw"]).encode()
    body = request.get("body")
    return None if body is None else json.dumps(filled(body)).encode()


def forecast_body(n: int) -> dict[str, Any]:
    """Return the body of a plain request for one series of n values."""
    return {
        "model": "mock",
        "horizon": 3,
        "quantiles": [0.1, 0.5, 0.9],
        "series": [{"id": "series-0", "freq": "5m", "timestamps": times(n), "target": values(n)}],
    }


def alike(name: str, given: Any, recorded: Any, path: str = "") -> list[str]:
    """Return where an answer differs from the recorded one in anything that a client may rely on.

    Free of choice are measured times, echoed input, texts that explain, and, of the runner with
    chosen faults, the values of its forecasts.
    """
    if path.endswith(("/explanation", "/usage")) or path.rpartition("/")[2] in MEASURED:
        return []
    if isinstance(recorded, dict):
        if not isinstance(given, dict):
            return [f"{path}: {given!r} is not an object"]
        ignored = ECHOED if path.startswith("/detail") else set()
        if given.keys() - ignored != recorded.keys() - ignored:
            return [f"{path}: keys {sorted(given)}, recorded {sorted(recorded)}"]
        return [
            problem
            for key in recorded.keys() - ignored
            for problem in alike(name, given[key], recorded[key], f"{path}/{key}")
        ]
    if isinstance(recorded, list):
        if not isinstance(given, list) or len(given) != len(recorded):
            return [f"{path}: {given!r} is not a list of {len(recorded)}"]
        return [
            problem
            for i, (one, other) in enumerate(zip(given, recorded, strict=True))
            for problem in alike(name, one, other, f"{path}/{i}")
        ]
    free = name.startswith(("runner_", "breaker_")) and "/forecasts/" in path
    if free and isinstance(recorded, float):
        return [] if isinstance(given, float) else [f"{path}: {given!r} is not a number"]
    return [] if given == recorded else [f"{path}: {given!r}, recorded {recorded!r}"]
