"""Test what is sent to a tollama daemon, and how its answers are judged."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.serving.postprocess import OutputFault
from tsfm_pipeline.serving.preparation import COVARIATES_IGNORED
from tsfm_pipeline.serving.runtimes import Answer, Failure, RuntimeFailure
from tsfm_pipeline.serving.tollama_wire import (
    NDJSON,
    RUNTIME_WARNING,
    CallFailed,
    Kind,
    failure_of,
    is_unknown_route,
    most_bytes,
    read_answers,
    request_body,
)
from tsfm_pipeline_tests.serving.tollama.double import ApiForecastBody, ForecastBody
from tsfm_pipeline_tests.serving.tollama.peer import answer_to
from tsfm_pipeline_tests.serving.tollama.queries import END, query

QUERIES = [query(0.2), query(0.4)]
KIND = Kind.of(QUERIES[0], retry=True)


def asked(*queries: Any, stream: bool | None = False) -> dict[str, Any]:
    kind = Kind.of(queries[0], retry=True)
    return json.loads(request_body("m", queries, kind, timeout_s=16.0, stream=stream))


def answers(change: Callable[[dict[str, Any]], object] = lambda answer: None) -> Any:
    answer = answer_to(asked(*QUERIES))
    change(answer)
    return read_answers(json.dumps(answer).encode(), "application/json", QUERIES, KIND)


def test_a_request_passes_the_daemons_strict_validation_on_both_routes() -> None:
    ApiForecastBody.model_validate(asked(*QUERIES))
    ForecastBody.model_validate(asked(*QUERIES, stream=None))
    with pytest.raises(ValidationError, match="stream"):
        ForecastBody.model_validate(asked(*QUERIES))


def test_a_request_asks_for_what_the_client_wants_and_for_the_deciles() -> None:
    assert asked(query(levels=(0.05, 0.30000000000000004)))["quantiles"] == sorted([*DECILES, 0.05])
    # `finish` takes these two for one, and would refuse an answer with both.
    assert asked(query(levels=(0.05, 0.3000001)))["quantiles"] == sorted([*DECILES, 0.05])


def test_times_end_at_the_last_value_and_a_step_is_given_in_words_of_pandas() -> None:
    (series,) = asked(query(end=END + timedelta(microseconds=7), n=3))["series"]
    assert series["timestamps"] == [
        "2026-11-28T11:50:00Z",
        "2026-11-28T11:55:00Z",
        "2026-11-28T12:00:00Z",
    ]
    assert series["freq"] == "5min"


def test_ids_are_unique_although_markets_are_not() -> None:
    assert [series["id"] for series in asked(query(), query())["series"]] == ["0", "1"]


def test_a_covariate_of_which_only_the_future_is_known_is_left_out_with_a_warning() -> None:
    one = query(past={"a": np.zeros(40)}, future={"a": np.zeros(3), "b": np.zeros(3)})
    body = asked(one)
    ApiForecastBody.model_validate(body)
    (series,) = body["series"]
    assert list(series["past_covariates"]) == list(series["future_covariates"]) == ["a"]
    kind = Kind.of(one, retry=True)
    content = json.dumps(answer_to(body)).encode()
    (answer,) = read_answers(content, "application/json", [one], kind)
    assert isinstance(answer, Answer)
    assert answer.warnings == (COVARIATES_IGNORED,)


@pytest.mark.parametrize(
    "changes",
    [
        {"horizon": 4},
        {"levels": (0.01,)},
        {"params": {"a": True}},
        {"past": {"a": np.zeros(40)}},
        {"future": {"a": np.zeros(3)}},
    ],
)
def test_only_queries_of_one_kind_share_a_call(changes: dict[str, Any]) -> None:
    assert Kind.of(query(**changes), retry=True) != KIND
    assert Kind.of(query(0.9, n=7, market="other"), retry=True) == KIND
    assert Kind.of(query(), retry=False) != KIND


def test_true_and_one_are_different_params() -> None:
    kinds = {Kind.of(query(params={"a": value}), retry=True) for value in (True, 1, 1.0, "1")}
    assert len(kinds) == 4


def test_answers_are_matched_by_id_whatever_their_order() -> None:
    def reverse(answer: dict[str, Any]) -> None:
        answer["forecasts"][1]["quantiles"]["0.5"] = [7.0] * 3
        answer["forecasts"].reverse()

    first, second = answers(reverse)
    median = KIND.levels.index(0.5)
    assert first.values[:, median].tolist() == [0.5] * 3
    assert second.values[:, median].tolist() == [7.0] * 3
    assert first.levels == KIND.levels
    assert first.asked == 40


def test_crossing_quantiles_are_passed_on() -> None:
    def cross(answer: dict[str, Any]) -> None:
        answer["forecasts"][0]["quantiles"]["0.1"] = [9.0] * 3

    first, _ = answers(cross)
    assert first.values[0, KIND.levels.index(0.1)] == 9.0


def test_a_key_may_come_from_a_float32() -> None:
    def widen(answer: dict[str, Any]) -> None:
        columns = answer["forecasts"][0]["quantiles"]
        columns["0.10000000149011612"] = columns.pop("0.1")

    assert isinstance(answers(widen)[0], Answer)


def _quantiles(answer: dict[str, Any]) -> dict[str, list[Any]]:
    return answer["forecasts"][0]["quantiles"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a["forecasts"].pop(0), "lost"),
        (lambda a: a["forecasts"].append(a["forecasts"][0]), "2 times"),
        (lambda a: a["forecasts"][0].update(id="x"), "lost"),
        (lambda a: _quantiles(a).pop("0.5"), f"{OutputFault.QUANTILES}: no quantile 0.5"),
        (lambda a: a["forecasts"][0].update(quantiles=None), OutputFault.QUANTILES),
        (lambda a: _quantiles(a).update({"0.5": [1.0] * 2}), f"{OutputFault.HORIZON}: 2, 3 steps"),
        (
            lambda a: _quantiles(a).update({q: v[:2] for q, v in _quantiles(a).items()}),
            f"{OutputFault.HORIZON}: 2 steps",
        ),
        (lambda a: _quantiles(a).update({"0.5": [1.0, float("nan"), 1.0]}), OutputFault.NON_FINITE),
        (lambda a: _quantiles(a).update({"0.5": [1.0, None, 1.0]}), OutputFault.NON_FINITE),
        (lambda a: _quantiles(a).update({"0.5": [1.0, 1e999, 1.0]}), OutputFault.NON_FINITE),
        (lambda a: _quantiles(a).update({"0.5": ["1", "1", "1"]}), "valid number"),
        (lambda a: _quantiles(a).update({"half": [1.0] * 3}), "half"),
    ],
)
def test_a_series_with_a_wrong_answer_fails_alone(
    change: Callable[[dict[str, Any]], object], told: str
) -> None:
    first, second = answers(change)
    assert isinstance(first, RuntimeFailure)
    assert first.failure is Failure.INVALID_OUTPUT
    assert first.counts
    assert told in first.detail
    assert isinstance(second, Answer)


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"", "application/json"),
        (b"<html>", "text/html"),
        (b"[]", "application/json"),
        (b'{"forecasts": {}}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"status": "loading model"}\n{"status": "running forecast"}\n', NDJSON),
        (b'{"status": "loading model"}\n{"done": tr', NDJSON),
    ],
)
def test_a_body_that_is_no_answer_fails_all_series(content: bytes, media_type: str) -> None:
    with pytest.raises(CallFailed) as caught:
        read_answers(content, media_type, QUERIES, KIND)
    assert (caught.value.failure, caught.value.counts) == (Failure.INVALID_OUTPUT, True)
    assert not caught.value.again


def test_a_stream_is_read_to_its_last_line() -> None:
    lines = [{"status": "loading model"}, {"done": True, "response": answer_to(asked(*QUERIES))}]
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    first, second = read_answers(content, f"{NDJSON}; charset=utf-8", QUERIES, KIND)
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)


def test_the_daemons_warnings_become_codes() -> None:
    texts = ["ignoring unsupported covariate: model 'm' ...", "something\nelse", "and more"]
    for answer in answers(lambda a: a.update(warnings=texts)):
        assert answer.warnings == (COVARIATES_IGNORED, RUNTIME_WARNING)


def test_the_largest_right_answer_is_within_the_limit() -> None:
    queries = [query(horizon=288, levels=tuple(i / 20 for i in range(1, 20)))] * 4
    kind = Kind.of(queries[0], retry=True)
    answer = answer_to(json.loads(request_body("m", queries, kind, timeout_s=1, stream=None)))
    for forecast in answer["forecasts"]:
        for column in (*forecast["quantiles"].values(), forecast["mean"]):
            column[:] = [-1.2345678901234567e-100] * 288
    assert len(json.dumps(answer).encode()) < most_bytes(kind, 4) < 1.2e6


def body(detail: object) -> bytes:
    return json.dumps({"detail": detail}).encode()


def test_a_404_is_about_the_route_or_about_the_model() -> None:
    assert is_unknown_route(404, body("Not Found"))
    assert is_unknown_route(404, b"<html>nothing here</html>")
    assert not is_unknown_route(404, body("model 'x' is not installed"))
    assert not is_unknown_route(405, body("Not Found"))


@pytest.mark.parametrize(
    ("status", "headers", "content", "failure", "counts", "again", "after_s"),
    [
        (400, {}, body([{"msg": "Field required"}]), Failure.REJECTED, False, False, None),
        (400, {}, body({"code": "BAD_REQUEST"}), Failure.REJECTED, False, False, None),
        (413, {}, body("request body too large"), Failure.REJECTED, False, False, None),
        (401, {}, body("invalid api key"), Failure.MISCONFIGURED, False, False, None),
        (403, {}, body("no"), Failure.MISCONFIGURED, False, False, None),
        (404, {}, body("model 'x' is not installed"), Failure.MISCONFIGURED, False, False, None),
        (405, {}, b"", Failure.MISCONFIGURED, False, False, None),
        (302, {"location": "/x"}, b"", Failure.MISCONFIGURED, False, False, None),
        (429, {}, body("rate limit exceeded"), Failure.BUSY, False, True, 0.2),
        (429, {"retry-after": "7"}, b"", Failure.BUSY, False, True, 7.0),
        (
            429,
            {"retry-after": "Sat, 28 Nov 2026 12:00:00 GMT"},
            b"",
            Failure.BUSY,
            False,
            False,
            None,
        ),
        (500, {}, body("oops"), Failure.UNAVAILABLE, True, False, None),
        (502, {}, body({"code": "OOM"}), Failure.INTERNAL, True, False, None),
        (
            502,
            {},
            body("runner returned invalid forecast response: 1 error"),
            Failure.INVALID_OUTPUT,
            True,
            False,
            None,
        ),
        (503, {}, body("circuit breaker is open"), Failure.UNAVAILABLE, True, False, None),
        (
            503,
            {},
            body("runner call timed out after 0.10s"),
            Failure.UNAVAILABLE,
            True,
            False,
            None,
        ),
        (503, {}, b"<html>no healthy upstream</html>", Failure.UNAVAILABLE, True, True, None),
        (504, {}, b"", Failure.TIMEOUT, True, False, None),
    ],
)
def test_every_status_says_what_failed_and_whether_it_counts(
    status: int,
    headers: dict[str, str],
    content: bytes,
    failure: Failure,
    counts: bool,
    again: bool,
    after_s: float | None,
) -> None:
    given = failure_of(status, headers, content)
    assert (given.failure, given.counts, given.again, given.after_s) == (
        failure,
        counts,
        again,
        after_s,
    )


def test_a_peers_text_cannot_write_lines_into_a_log() -> None:
    detail = failure_of(500, {}, body("a\n\x1b[31mERROR b" + "x" * 1_000)).detail
    assert detail.isprintable()
    assert len(detail) < 300
