"""Test that the double has the habits of a tollama daemon on which the adapter depends.

The recorded cases say the same in full (`test_conformance`), where they are at hand.
"""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tsfm_pipeline_tests.serving.tollama.double import RECOVERY_S, Double, app_of
from tsfm_pipeline_tests.serving.tollama.recorded import alike, filled, forecast_body


def ask(double: Double, path: str, *bodies: Any, **headers: str) -> list[httpx.Response]:
    """Return the responses to requests that are sent at once."""

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app_of(double))
        async with httpx.AsyncClient(transport=transport, base_url="http://tollama") as client:
            return await asyncio.gather(
                *(client.post(path, json=body, headers=headers) for body in bodies)
            )

    return asyncio.run(run())


def one(path: str, **changes: Any) -> httpx.Response:
    (response,) = ask(Double(), path, forecast_body(40) | changes)
    return response


def test_api_streams_unless_told_not_to() -> None:
    stream = one("/api/forecast")
    assert stream.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in stream.text.splitlines()]
    assert [list(line) for line in lines] == [["status"], ["status"], ["done", "response"]]
    assert one("/api/forecast", stream=False).json()["forecasts"]


def test_v1_refuses_the_field_stream() -> None:
    response = one("/v1/forecast", stream=False)
    assert response.status_code == 400
    (problem,) = response.json()["detail"]
    assert (problem["type"], problem["loc"]) == ("extra_forbidden", ["body", "stream"])


@pytest.mark.parametrize(
    ("changes", "kind", "place"),
    [
        ({"horizon": "3"}, "int_type", ["body", "horizon"]),
        ({"horizon": 0}, "greater_than", ["body", "horizon"]),
        ({"quantiles": [0.5, 0.5]}, "value_error", ["body", "quantiles"]),
        ({"quantiles": [0.9, 0.1]}, "value_error", ["body", "quantiles"]),
        ({"quantiles": [0.5, 1.0]}, "less_than", ["body", "quantiles", 1]),
        ({"timeout": 0}, "greater_than", ["body", "timeout"]),
        ({"series": []}, "value_error", ["body"]),
        ({"market_id": "m"}, "extra_forbidden", ["body", "market_id"]),
    ],
)
def test_requests_are_validated_strictly(changes: Any, kind: str, place: list[Any]) -> None:
    response = one("/v1/forecast", **changes)
    assert response.status_code == 400
    first = response.json()["detail"][0]
    assert (first["type"], first["loc"]) == (kind, place)


def test_there_are_two_kinds_of_404() -> None:
    assert one("/v1/timeseries/forecast").json() == {"detail": "Not Found"}
    absent = one("/v1/forecast", model="chronos2")
    assert absent.status_code == 404
    assert absent.json()["detail"] == "model 'chronos2' is not installed"


def test_what_a_runner_leaves_out_is_passed_on_as_an_answer() -> None:
    body = forecast_body(40) | {"model": "faulty"}
    body["series"] = [body["series"][0] | {"id": name} for name in "ab"]
    for options in ({"lose": True}, {"drop": "0.5"}, {"short": 2}, {"reverse": True}):
        (response,) = ask(Double(), "/v1/forecast", body | {"options": options})
        assert response.status_code == 200


def test_a_request_id_is_given_back() -> None:
    (response,) = ask(Double(), "/v1/forecast", forecast_body(40), **{"x-request-id": "r1"})
    assert response.headers["x-request-id"] == "r1"


def test_calls_of_one_family_wait_for_each_other() -> None:
    running, most = 0, 0

    async def watch() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    ask(Double(before_answer=watch), "/v1/forecast", *[forecast_body(40)] * 5)
    assert most == 1


def test_three_failures_open_the_breaker_of_a_family_for_everybody_else() -> None:
    now = [0.0]
    double = Double(clock=lambda: now[0])
    faulty = forecast_body(40) | {"model": "faulty"}

    def status(body: Any) -> tuple[int, str]:
        (response,) = ask(double, "/v1/forecast", body)
        return response.status_code, str(response.json().get("detail", ""))

    assert status(faulty | {"options": {"crash": True}})[0] == 503
    assert "circuit breaker is open" in status(faulty)[1]
    assert status(forecast_body(40))[0] == 200
    now[0] += RECOVERY_S
    assert status(faulty)[0] == 200


def test_a_timeout_kills_the_runner_three_times() -> None:
    double = Double()
    body = forecast_body(40) | {"model": "faulty", "options": {"sleep": 1}, "timeout": 0.01}
    (response,) = ask(double, "/v1/forecast", body)
    assert (response.status_code, response.json()["detail"]) == (
        503,
        "runner call timed out after 0.01s",
    )
    assert double.families["faults"].restarts == 3


def test_a_shortened_recording_is_filled_by_its_rule() -> None:
    given = {"timestamps": ["x", "... 300 in all"], "target": [0.45, "... 3 in all"]}
    full = filled(given)
    assert full["timestamps"][:2] == ["2026-02-20T00:00:00Z", "2026-02-20T00:05:00Z"]
    assert full["timestamps"][299] == "2026-02-21T00:55:00Z"
    assert full["target"] == [0.45, 0.464, 0.456]


def test_likeness_is_strict_about_what_clients_read() -> None:
    recorded = {"detail": [{"type": "a", "input": "x"}], "forecasts": [{"mean": [0.5]}]}
    assert alike("bad", recorded, recorded) == []
    assert alike("bad", {**recorded, "detail": [{"type": "a", "input": "y"}]}, recorded) == []
    for other in (
        {**recorded, "detail": [{"type": "b", "input": "x"}]},
        {**recorded, "forecasts": [{"mean": [0.6]}]},
        {**recorded, "more": 1},
        {"detail": recorded["detail"]},
    ):
        assert len(alike("bad", other, recorded)) == 1
    assert alike("runner_ok", {**recorded, "forecasts": [{"mean": [0.6]}]}, recorded) == []
