"""Test that the double answers like a real tollama daemon, or that a real one still does.

The cases are recorded answers of tollama 0.1.0; they lie beside the checkout. With
`TSFM_TOLLAMA_URL` the same suite runs against that daemon, which must have the built-in model
`mock`. What else it was started with is said in `TSFM_TOLLAMA_HAS`, separated by commas: `faults`
(`faults.py` as the runner of a model `faulty`), `auth` (keys), `rate_limit`
(TOLLAMA_RATE_LIMIT_PER_MINUTE=1, TOLLAMA_RATE_LIMIT_BURST=2), `small_bodies`
(TOLLAMA_MAX_REQUEST_BODY_MB=1). Cases that need what is missing are skipped.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import pytest

from tsfm_pipeline_tests.baselines.conftest import SHARED, shared_file
from tsfm_pipeline_tests.serving.tollama.double import Double, app_of
from tsfm_pipeline_tests.serving.tollama.recorded import (
    REQUEST_ID,
    alike,
    content_of,
    forecast_body,
)
from tsfm_pipeline_tests.serving.tollama.servers import serving

RECORDED = "service/tollama_contract.json"
NEEDS = {
    "auth_missing_401": "auth",
    "auth_wrong_401": "auth",
    "rate_limited_429": "rate_limit",
    "body_too_large_413": "small_bodies",
}
SET_UP = {
    "auth": Double(keys=frozenset({"right-key"})),
    "rate_limit": Double(rate_limit=2),
    "small_bodies": Double(max_body_mb=1.0),
    "": Double(),
}
FREE = {
    "health_ready": (
        "latency_ms",
        "configured_runners",
        "running_runners",
        "restart_total",
        "path",
        "free_bytes",
    ),
    "tags": ("modified_at",),
    "show_ok": ("accepted_at", "snapshot_path"),
}
"""Values that differ between any two daemons."""


def cases() -> list[dict[str, Any]]:
    path = SHARED / RECORDED
    return json.loads(path.read_text())["cases"] if path.is_file() else []


def needed(name: str) -> str:
    """What a daemon must have been started with to answer a case."""
    return NEEDS.get(name, "faults" if name.startswith(("runner_", "breaker_")) else "")


@dataclass
class Daemon:
    """Where the cases are sent."""

    url: str
    real: bool


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    need = needed(request.param)
    if url := os.environ.get("TSFM_TOLLAMA_URL"):
        has = os.environ.get("TSFM_TOLLAMA_HAS", "").split(",")
        if (need and need not in has) or (need != "auth" and "auth" in has):
            pytest.skip(f"the daemon was started without {need or 'open doors'}")
        yield Daemon(url, True)
        return
    double = SET_UP.get(need, SET_UP[""])
    double.families.clear()
    with serving(app_of(double)) as url:
        yield Daemon(url, False)


@cache
def names() -> list[str]:
    return [case["name"] for case in cases()]


@pytest.mark.heavy
@pytest.mark.parametrize(("daemon", "name"), [(n, n) for n in names()], indirect=["daemon"])
def test_a_recorded_request_is_answered_as_it_was(daemon: Daemon, name: str) -> None:
    shared_file(RECORDED)
    (case,) = [case for case in cases() if case["name"] == name]
    asked = case.get("request", {"method": "POST", "path": "/v1/forecast"})
    content = content_of(case) or json.dumps(forecast_body(40)).encode()
    headers = {"x-request-id": REQUEST_ID, "content-type": "application/json"}
    if name == "auth_wrong_401":
        headers["authorization"] = "Bearer wrong"
    if needed(name) == "faults":
        content = content.replace(b'"mock"', b'"faulty"')
    with httpx.Client(base_url=daemon.url, headers=headers, timeout=60) as client:
        if daemon.real and needed(name) == "faults":
            wait_for_closed_breaker(client)
        if name == "breaker_open_503":
            crash = json.loads(content) | {"options": {"crash": True}}
            client.post(asked["path"], json=crash)
        if name == "rate_limited_429":
            client.post(asked["path"], content=content)
            client.post(asked["path"], content=content)
        if asked["method"] == "GET":
            answer = client.get(asked["path"])
        else:
            answer = client.post(asked["path"], content=content)
    assert answer.status_code == case["status"], answer.text
    for header, value in case.get("headers", {}).items():
        expected = REQUEST_ID if header == "x-request-id" else value
        assert answer.headers[header] == expected, header
    recorded = case["response"]
    if "text" in recorded:
        given = [json.loads(line) for line in answer.text.splitlines()]
        expected_lines = [json.loads(line) for line in recorded["text"].splitlines()]
        assert given[:-1] == expected_lines[:-1]
        assert given[-1]["done"] is True
        body, recorded = given[-1]["response"], expected_lines[-1]["response"]
    else:
        body = answer.json()
    if needed(name) == "faults":
        # A real daemon may notice the end of its runner before it learns the exit code.
        text = json.dumps(body).replace('"faulty"', '"mock"').replace("code None", "code 3")
        body = json.loads(text)
    if name in ("tags", "ps"):  # what is installed and loaded differs between any two daemons
        wanted = {model["name"] for model in recorded["models"]}
        body["models"] = [model for model in body["models"] if model["name"] in wanted]
    if name == "body_too_large_413":
        body["detail"] = body["detail"].partition(":")[0]
        recorded = {"detail": recorded["detail"].partition(":")[0]}
    body, recorded = (without(part, FREE.get(name, ())) for part in (body, recorded))
    assert alike(name, body, recorded) == []


def wait_for_closed_breaker(client: httpx.Client) -> None:
    """Wait for what cases before this one have opened; a real daemon takes 15 s."""
    until = time.monotonic() + 60
    body = forecast_body(40) | {"model": "faulty"}
    while client.post("/v1/forecast", json=body).status_code != 200:
        assert time.monotonic() < until, "the daemon's breaker stays open"
        time.sleep(0.5)


def without(value: Any, free: tuple[str, ...]) -> Any:
    """Return an answer with some of its values blanked."""
    if isinstance(value, dict):
        return {k: "" if k in free else without(part, free) for k, part in value.items()}
    return [without(part, free) for part in value] if isinstance(value, list) else value
