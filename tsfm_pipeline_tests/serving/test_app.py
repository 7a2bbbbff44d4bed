"""Test the routes: who may ask, how much, what an error looks like, and that none is a 500."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tsfm_pipeline.evaluation.conformal import Bucket, Calibration
from tsfm_pipeline.evaluation.served import MeasuredCoverage
from tsfm_pipeline.serving.contract import BatchResponse, ErrorBody, ForecastResponse
from tsfm_pipeline.serving.guard import MAX_HEADER_BYTES, MAX_HEADERS, Gate
from tsfm_pipeline.serving.runtimes import Failure, RuntimeFailure
from tsfm_pipeline.serving.status import Health, Models, Ready
from tsfm_pipeline_tests.serving.live import AS_OF, TOKEN, Live, Model, live, request, until

UNLIMITED = {"rate_limit": {"enabled": False}}


@pytest.fixture(scope="module")
def served() -> Iterator[Live]:
    """One service for all tests that leave no trace in it."""
    with live(Model(), Model("tollama", "chronos2"), **UNLIMITED) as running:
        yield running


def refused(response: httpx.Response, status: int, code: str) -> ErrorBody:
    assert response.status_code == status, response.text
    body = ErrorBody.model_validate_json(response.content)
    assert body.code == code
    assert response.headers["content-type"] == "application/json"
    return body


# -- who may ask

FORECASTING = ("/tsfm/forecast", "/tsfm/forecast/batch", "/forecast")


@pytest.mark.parametrize("route", FORECASTING)
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}"])
def test_a1_every_forecasting_route_needs_the_token(
    served: Live, route: str, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = httpx.post(f"{served.url}{route}", json=request(), headers=headers)
    refused(response, 401, "unauthorised")
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_a1_a_token_beyond_ascii_is_refused_not_an_error(served: Live) -> None:
    raw = exchange(
        served,
        b"POST /tsfm/forecast HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\xc3\xb6k\xffn\r\n"
        b"Content-Length: 2\r\n\r\n{}",
    )
    assert raw.startswith(b"HTTP/1.1 401 ")


def test_the_list_of_models_needs_the_token_and_probes_do_not(served: Live) -> None:
    assert httpx.get(f"{served.url}/models").status_code == 401
    for route in ("/health", "/ready", "/metrics", "/", "/openapi.json"):
        assert httpx.get(f"{served.url}{route}").status_code == 200


def test_without_auth_no_token_is_needed() -> None:
    with live(Model(), no_auth=True, token=None) as running:
        running.client.headers.pop("Authorization")
        assert running.forecast().status_code == 200


# -- how much


def test_a2_a_burst_is_limited_per_caller_and_says_when_to_come_again() -> None:
    with live(Model(), rate_limit={"per_minute": 1, "burst": 6}) as running:
        responses = running.together([request()] * 8)
        limited = [response for response in responses if response.status_code == 429]
        assert len(limited) == 2
        for response in limited:
            refused(response, 429, "rate_limited")
            assert int(response.headers["retry-after"]) >= 1
        status = 'tsfm_request_total{rollout_stage="off",status="limited"}'
        assert running.metric(status) == 2


def test_a2_what_gets_no_forecast_costs_nothing() -> None:
    with live(Model(), rate_limit={"per_minute": 1, "burst": 2}) as running:
        for _ in range(5):
            assert running.forecast(freq="bad").status_code == 422
        assert [running.forecast().status_code for _ in range(3)] == [200, 200, 429]


def test_a2_a_batch_costs_its_items() -> None:
    with live(Model(), rate_limit={"per_minute": 1, "burst": 5}) as running:
        bad, good = request(freq="bad"), request()
        first = running.client.post("/tsfm/forecast/batch", json={"items": [good, bad, good]})
        assert first.status_code == 200
        second = running.client.post("/tsfm/forecast/batch", json={"items": [good] * 4})
        refused(second, 429, "rate_limited")
        third = running.client.post("/tsfm/forecast/batch", json={"items": [good] * 3})
        assert third.status_code == 200


# -- bad input


@pytest.mark.parametrize(
    ("fields", "code", "where", "text"),
    [
        ({"y": []}, "too_few_points", "y", "too_few_points"),
        ({"y": [0.5]}, "too_few_points", "y", "too_few_points"),
        ({"freq": ""}, "malformed_freq", "freq", "malformed input: freq"),
        ({"freq": "bad"}, "malformed_freq", "freq", "malformed input: freq"),
        ({"freq": "0m"}, "malformed_freq", "freq", "malformed input: freq"),
        ({"freq": "1d"}, "malformed_freq", "freq", "malformed input: freq"),
        ({"y": [0.5, "0.5"] * 20}, "malformed_input", "y[1]", "malformed input"),
        ({"y": [0.5, 1.5] * 20}, "malformed_input", "y[1]", "malformed input"),
        ({"y": [0.5] * 2_001}, "too_large", "y", "too large"),
        ({"y_ts": [AS_OF.isoformat()]}, "y_ts_length", "y_ts", "y_ts length must match"),
        ({"horizon_steps": 100_000}, "invalid_field", "horizon_steps", "horizon_steps"),
        ({"transform": {"eps": 0.6}}, "invalid_field", "transform.eps", "eps"),
        ({"surprise": 1}, "unknown_field", "surprise", "surprise"),
        ({"model": {"model_name": "none-such"}}, "unknown_model", "model.model_name", "bundled"),
    ],
)
def test_bad_input_is_422_with_code_and_place(
    served: Live, fields: dict[str, Any], code: str, where: str, text: str
) -> None:
    body = refused(served.forecast(**fields), 422, code)
    assert body.errors[0].where == where
    assert text in body.detail


def test_f6_times_that_do_not_rise_or_do_not_fit_the_step_are_refused(served: Live) -> None:
    times = [AS_OF - timedelta(minutes=5 * (63 - i)) for i in range(64)]
    swapped = [*times[:3], times[2], *times[4:]]
    refused(served.forecast(y_ts=[t.isoformat() for t in swapped]), 422, "y_ts_order")
    shifted = [*times[:-1], times[-1] + timedelta(minutes=1)]
    later = (AS_OF + timedelta(minutes=1)).isoformat()
    response = served.forecast(y_ts=[t.isoformat() for t in shifted], as_of_ts=later)
    assert "spacing must align with freq" in refused(response, 422, "y_ts_spacing").detail


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"y": [NaN, 1]}'])
@pytest.mark.parametrize("route", ["/tsfm/forecast", "/tsfm/forecast/batch"])
def test_what_is_no_json_object_is_422(served: Live, route: str, body: bytes) -> None:
    response = served.client.post(route, content=body)
    assert response.status_code == 422
    ErrorBody.model_validate_json(response.content)


def test_a_model_of_another_version_is_unknown(served: Live) -> None:
    body = refused(served.forecast(model={"model_version": "v9"}), 422, "unknown_model")
    assert body.errors[0].allowed == "auto or v1"
    assert served.forecast(model={"model_version": "v1"}).status_code == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    with live(Model(), max_body_mib=0.01) as running:
        large = json.dumps(request(y=[0.55] * 2_000)).encode()
        assert len(large) > 10_486
        refused(running.client.post("/tsfm/forecast", content=large), 413, "too_large")

        def chunks() -> Iterator[bytes]:
            for i in range(0, len(large), 1_000):
                yield large[i : i + 1_000]

        refused(running.client.post("/tsfm/forecast", content=chunks()), 413, "too_large")
        head = b"POST /tsfm/forecast HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n"
        auth = f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        assert exchange(running, head + auth).startswith(b"HTTP/1.1 413 ")
        assert running.metric('tsfm_request_total{rollout_stage="off",status="invalid"}') == 3


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "identity, gzip"])
def test_an_encoded_body_is_refused(served: Live, encoding: str) -> None:
    response = served.client.post(
        "/tsfm/forecast", content=b"x", headers={"Content-Encoding": encoding}
    )
    assert refused(response, 415, "unsupported_encoding").errors[0].allowed == "identity"


def test_headers_that_are_too_large_are_refused(served: Live) -> None:
    many = {f"x-{i}": "1" for i in range(MAX_HEADERS)}
    refused(served.client.get("/health", headers=many), 431, "too_large")
    raw = exchange(served, b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * MAX_HEADER_BYTES)
    assert raw.startswith(b"HTTP/1.1 431 ")


def test_one_header_without_end_is_cut_off(served: Live) -> None:
    """What the sockets of both sides buffer is a few MiB; a server that reads on takes everything."""
    with socket.create_connection(served.address, timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        with pytest.raises(OSError, match=r"(?i)reset|pipe"):
            connection.sendall(b"a" * 65_536_000)


@pytest.mark.parametrize(
    "path", ["/nope", "/tsfm/forecast/", "/..%2f..%2fetc/passwd", "/%7f%00%0a"]
)
def test_an_unknown_route_is_404_with_a_body(served: Live, path: str) -> None:
    body = refused(served.client.get(path), 404, "unknown_route")
    assert body.detail.isprintable()


def test_another_method_is_405_with_a_body(served: Live) -> None:
    response = served.client.get("/tsfm/forecast")
    refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_an_error_that_nobody_expected_is_no_500(served: Live) -> None:

    async def broken() -> None:
        raise ZeroDivisionError("a defect")

    served.service.app.get("/broken")(broken)
    response = served.client.get("/broken")
    body = refused(response, 503, "internal")
    assert "defect" not in response.text
    assert response.headers["x-request-id"] in body.detail
    assert served.metric('tsfm_request_total{rollout_stage="off",status="error"}') == 1


# -- batches


def test_a_batch_answers_every_item_in_its_order(served: Live) -> None:
    names = [f"m{i}" for i in range(20)]
    items = [request(market_id=name) for name in names]
    response = served.client.post("/tsfm/forecast/batch", json={"items": items})
    answers = BatchResponse.model_validate_json(response.content).items
    assert [item.status for item in answers] == [200] * 20
    assert [item.response and item.response.market_id for item in answers] == names


def test_a_bad_item_does_not_spoil_the_others(served: Live) -> None:
    items = [request(), request(freq="bad"), 7, None, {}, request(y=[2.0] * 40), request()]
    response = served.client.post("/tsfm/forecast/batch", json={"items": items})
    answers = BatchResponse.model_validate_json(response.content).items
    assert [item.status for item in answers] == [200, 422, 422, 422, 422, 422, 200]
    codes = [item.error and item.error.code for item in answers]
    assert codes[1] == "malformed_freq"
    assert codes[5] == "malformed_input"


@pytest.mark.parametrize("n", [0, 201])
def test_a_batch_has_between_1_and_200_items(served: Live, n: int) -> None:
    response = served.client.post("/tsfm/forecast/batch", json={"items": [request()] * n})
    assert response.status_code == 422


def test_a_full_batch_is_answered_and_its_time_observed() -> None:
    with live(Model(), **UNLIMITED) as running:
        items = [request(market_id=str(i)) for i in range(200)]
        response = running.client.post("/tsfm/forecast/batch", json={"items": items})
        assert {item["status"] for item in response.json()["items"]} == {200}
        assert running.metric("tsfm_cycle_time_seconds_count") == 1
        answered = 'tsfm_request_total{rollout_stage="off",status="answered"}'
        assert running.metric(answered) == 200


# -- licences


def test_l1_in_production_a_research_only_model_is_refused_per_request() -> None:
    research = Model("tollama", "moirai-2.0-R-small", licence="cc-by-nc-4.0")
    with live(Model(), research, environment="prod") as running:
        body = refused(running.forecast(model={"provider": "tollama"}), 403, "model_not_allowed")
        assert "cc-by-nc-4.0" in body.detail
        assert running.forecast().status_code == 200
        allowed = {m.model: m.allowed for m in models(running)}
        assert allowed == {"bundled": True, "moirai-2.0-R-small": False}


def test_l1_in_development_it_is_not() -> None:
    with live(Model(licence="cc-by-nc-4.0")) as running:
        assert running.forecast().status_code == 200


def test_the_licence_of_a_daemon_that_does_not_answer_is_that_of_its_registry() -> None:
    daemon = Model("tollama", "chronos2", licence="unknown")
    daemon.fails = RuntimeFailure(Failure.CONNECTION, "nobody listens", counts=True)
    with live(daemon, environment="prod") as running:
        assert running.forecast().json()["meta"]["fallback_reason"] == "tollama_error:connection"


# -- what the service says about itself


def models(running: Live) -> list[Any]:
    return Models.model_validate_json(running.client.get("/models").content).models


def test_the_models_are_listed_the_default_first(served: Live) -> None:
    names = [(m.provider, m.model, m.default) for m in models(served)]
    assert names == [("local", "bundled", True), ("tollama", "chronos2", False)]


def test_health_is_cheap_and_ready_tells_the_state(served: Live) -> None:
    assert Health.model_validate_json(served.client.get("/health").content).status == "ok"
    state = Ready.model_validate_json(served.client.get("/ready").content)
    assert state.ready
    assert (state.rollout.stage, state.rollout.percent) == ("off", 100)
    assert state.calibration.version is None


def test_health_answers_while_the_model_is_busy() -> None:
    model = Model()
    model.delay_s = 3_600.0
    with live(model, deadline_s=60.0) as running, ask_and_leave(running) as leave:
        until(lambda: model.waiting == 1)
        assert httpx.get(f"{running.url}/health", timeout=5).status_code == 200
        leave()
        until(lambda: model.cancelled == 1)


def test_m1_metrics_are_valid_exposition(served: Live) -> None:
    served.forecast()
    for path in ("/metrics", "/tsfm/metrics"):
        response = served.client.get(path)
        assert response.headers["content-type"].startswith("text/plain")
        names = {family.name for family in text_string_to_metric_families(response.text)}
        assert {"tsfm_request", "tsfm_request_latency_ms", "tsfm_fallback"} <= names


def test_recommendations_need_a_fleet(served: Live) -> None:
    response = served.client.get("/metrics", params={"recommended": "1"})
    refused(response, 404, "unknown_route")


def test_recommendations_are_sent_on_request(tmp_path: Path) -> None:
    file = tmp_path / "recommendations.parquet"
    rows = {"tenant_id": ["t"], "metric": ["cpu"], "tier": ["premium"], "reservation": [0.25]}
    pl.DataFrame(rows).write_parquet(file)
    with live(Model(), recommendations=file) as running:
        answer = running.client.get("/metrics", params={"recommended": "1"})
        expected = 'tsfm_recommended{metric="cpu",tenant="t",tier="premium"} 0.25'
        assert expected in answer.text
        assert "tsfm_recommended" not in running.client.get("/metrics").text
        refused(running.client.get("/metrics?recommended=2"), 422, "invalid_field")


def test_the_search_needs_a_bundle(served: Live) -> None:
    response = served.client.post("/forecast", json={})
    assert "--fleet" in refused(response, 404, "no_search").detail


def test_every_answer_has_the_request_id_that_was_sent_or_a_new_one(served: Live) -> None:
    sent = served.client.post(
        "/tsfm/forecast", json=request(), headers={"x-request-id": "a-1.b:2_c"}
    )
    assert sent.headers["x-request-id"] == "a-1.b:2_c"
    assert ForecastResponse.model_validate_json(sent.content).meta.request_id == "a-1.b:2_c"
    forged = served.client.get("/health", headers={"x-request-id": "a b\tlevel=error"})
    assert forged.headers["x-request-id"].isalnum()
    assert served.client.get("/health").headers["x-request-id"].isalnum()


def test_too_many_requests_at_once_are_refused_cheaply() -> None:
    model = Model()
    model.delay_s = 0.5
    with live(model, max_waiting=4, **UNLIMITED) as running:
        bodies = [request(market_id=str(i)) for i in range(12)]
        statuses = sorted(response.status_code for response in running.together(bodies))
        assert statuses[:4] == [200] * 4
        assert 503 in statuses
        assert set(statuses) == {200, 503}
        counted = running.metric('tsfm_request_total{rollout_stage="off",status="unavailable"}')
        assert counted == statuses.count(503)


def test_metrics_are_read_while_the_service_shuts_down() -> None:
    gate = Gate(max_waiting=1, draining=True)
    scopes = {
        path: {"path": path, "method": "GET", "headers": []}
        for path in ("/health", "/ready", "/metrics", "/tsfm/metrics", "/models")
    }
    assert [path for path, scope in scopes.items() if gate.refuses(scope)] == ["/models"]


# -- calibration


def published_calibration(folder: Path, **facts: Any) -> str:
    """Publish a calibration that widens every interval by half of its width, and return its
    version.
    """
    buckets = tuple(Bucket(first_step=step, n=900, score=1.0) for step in (1, 2, 4, 7))
    segments = {"global": {"0.8": buckets, "0.9": buckets}}
    given: dict[str, Any] = {
        "as_of": AS_OF,
        "source": "backtest",
        "runtime": "local",
        "model": "bundled",
        "model_version": "v1",
        "step_minutes": 5.0,
        "horizon": 12,
    }
    calibration = Calibration.of(segments, **given | facts)
    (folder / "calibration.json").write_text(calibration.model_dump_json())
    return calibration.version


def test_k1_intervals_are_calibrated_where_a_calibration_is_published(tmp_path: Path) -> None:
    with live(Model(), published_dir=tmp_path, reload_s=0.01) as running:
        raw = running.forecast().json()
        assert raw["conformal"] is None
        assert raw["conformal_last_step"] is None
        version = published_calibration(tmp_path)
        until(lambda: running.forecast().json()["conformal"] is not None)
        calibrated = running.forecast().json()
        assert calibrated["conformal"] == {
            "version": version,
            "as_of": "2026-01-31T12:00:00Z",
            "segment": "global",
            "n": 900,
        }
        assert calibrated["yhat_q"] == raw["yhat_q"], "quantiles are never calibrated"
        last = calibrated["conformal_last_step"]
        assert (last["step"], last["segment"]) == (12, "global")
        assert last["low"] == calibrated["intervals"]["0.9"]["low"][-1]
        assert last["low"] < raw["intervals"]["0.9"]["low"][-1]
        state = running.client.get("/ready").json()["calibration"]
        assert state["version"] == version
        assert state["age_s"] >= 0, "since it was published"


def test_m1_the_coverage_that_a_run_measured_is_a_metric(tmp_path: Path) -> None:
    measured = MeasuredCoverage(
        coverage={"0.8": 0.71, "0.9": 0.88}, judged_on="served", calibration_version="v"
    )
    (tmp_path / "coverage.json").write_text(measured.model_dump_json())
    with live(Model(), published_dir=tmp_path, reload_s=0.01) as running:
        until(lambda: "tsfm_target_coverage{" in running.client.get("/metrics").text)
        assert running.metric('tsfm_target_coverage{bucket="0.8"}') == 0.71
        assert running.metric('tsfm_target_coverage{bucket="0.9"}') == 0.88


def test_d14_a_calibration_of_another_model_or_of_a_baseline_is_not_used(tmp_path: Path) -> None:
    published_calibration(tmp_path, model_version="v0")
    with live(Model(), published_dir=tmp_path) as running:
        answer = running.forecast().json()
        assert answer["conformal"] is None
        assert "not_calibrated" in answer["meta"]["warnings"]
        baseline = running.forecast(liquidity_bucket="low").json()
        assert baseline["conformal"] is None
        assert "not_calibrated" not in baseline["meta"]["warnings"]


@contextmanager
def ask_and_leave(running: Live) -> Iterator[Callable[[], None]]:
    """Send a request and yield what closes its connection before the answer has come."""
    body = json.dumps(request()).encode()
    head = f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(b"POST /tsfm/forecast HTTP/1.1\r\nHost: x\r\n" + head.encode() + body)
        yield connection.close


def exchange(running: Live, sent: bytes) -> bytes:
    """Send bytes as they are, and return what comes back until the connection is closed."""
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
            if b"\r\n\r\n" in received:
                break
        return received
