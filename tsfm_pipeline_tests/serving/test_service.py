"""Test how one request is answered: by the model, from the cache, or by what stands in for a model
that fails. Rows of the two earlier services carry their ids.

What belongs here: the service behind its routes, over HTTP. What does not: the parts by themselves
(their own tests), and the routes' own rules (`test_app`).
"""

import asyncio
import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.evaluation.rollout import RolloutDecision, Stage
from tsfm_pipeline.evaluation.served import INELIGIBLE
from tsfm_pipeline.serving.contract import ForecastRequest, ForecastResponse
from tsfm_pipeline.serving.runtimes import Answer, Failure, Query, RuntimeFailure
from tsfm_pipeline_tests.serving.live import AS_OF, Live, Model, live, random_walk, request, until

pytestmark = pytest.mark.heavy

STATES = ("runtime", "latency_ms", "fallback_used", "cache_hit", "cache_stale")
UNAVAILABLE = RuntimeFailure(Failure.UNAVAILABLE, "it is down", counts=True)
CACHE_NOTHING = {"cache": {"ttl_s": 0, "stale_s": 0}}


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def served(model: Model) -> Iterator[Live]:
    with live(model) as running:
        yield running


def answer(running: Live, **fields: Any) -> ForecastResponse:
    response = running.forecast(**fields)
    assert response.status_code == 200, response.text
    read = ForecastResponse.model_validate_json(response.content)
    assert_sane(read)
    return read


def assert_sane(read: ForecastResponse) -> None:
    """Row F13: finite, as long as the horizon, ordered, within [0, 1]."""
    levels = [read.yhat_q[f"{level:g}"] for level in read.quantiles]
    outer, inner = read.intervals["0.9"], read.intervals["0.8"]
    for values in (*levels, outer.low, inner.low, inner.high, outer.high):
        assert len(values) == read.horizon_steps
        assert all(math.isfinite(value) for value in values)
        if read.meta.transform == "logit":
            assert all(0 <= value <= 1 for value in values)
    for ordered in (levels, [outer.low, inner.low, inner.high, outer.high]):
        assert all(list(step) == sorted(step) for step in zip(*ordered, strict=True))


def test_f1_the_model_answers(served: Live) -> None:
    read = answer(served, market_id="tenant/cpu")
    assert read.market_id == "tenant/cpu"
    assert read.meta.runtime == "local"
    assert not read.meta.fallback_used
    assert read.meta.fallback_reason is None
    assert set(read.yhat_q) == {"0.1", "0.5", "0.9"}
    assert read.meta.configuration == "walk"
    assert read.meta.input_len == 64


def test_m2_meta_always_has_its_states(served: Live, model: Model) -> None:
    for fails in (None, UNAVAILABLE):
        model.fails = fails
        meta = served.forecast(market_id=str(fails)).json()["meta"]
        states = (*STATES, "circuit_breaker_state", "degradation_state", "warnings", "route")
        assert set(states) <= set(meta)


def test_f12_any_quantiles_are_answered(served: Live) -> None:
    read = answer(served, quantiles=[0.05, 0.25, 0.5, 0.77, 0.99])
    assert set(read.yhat_q) == {"0.05", "0.25", "0.5", "0.77", "0.99"}
    assert any(warning.startswith("tail_extrapolated") for warning in read.meta.warnings)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"liquidity_bucket": "low"}, "baseline_only_liquidity_bucket"),
        ({"volume_24h": 4_999.0}, "baseline_only_low_volume"),
        ({"y": [0.5] * 31}, "too_few_points"),
        ({"observed_ts": (AS_OF - timedelta(hours=3)).isoformat()}, "max_gap_exceeded"),
    ],
    ids=["f2", "volume", "f3", "f7"],
)
def test_what_the_series_rules_out_costs_no_call(
    served: Live, model: Model, fields: dict[str, Any], reason: str
) -> None:
    meta = answer(served, **fields).meta
    assert (meta.runtime, meta.fallback_used, meta.fallback_reason) == ("baseline", True, reason)
    assert model.asked == 0


@pytest.mark.parametrize("provider", ["local", "tollama"])
@pytest.mark.parametrize("failure", [Failure.TIMEOUT, Failure.UNAVAILABLE, Failure.CONNECTION])
def test_f8_a_runtime_that_fails_is_stood_in_for_by_a_baseline(
    provider: Any, failure: Failure
) -> None:
    model = Model(provider)
    model.fails = RuntimeFailure(failure, "broken", counts=True)
    with live(model, **CACHE_NOTHING) as running:
        reads = [answer(running) for _ in range(2)]
    reason = f"{'runtime' if provider == 'local' else 'tollama'}_error:{failure}"
    for read in reads:
        assert read.meta.runtime == "baseline"
        assert read.meta.fallback_reason == reason
        assert f"fallback_reason={reason}" in read.meta.warnings
    assert reads[0].yhat_q == reads[1].yhat_q


def test_f11_a_daemon_s_answer_that_its_adapter_refuses_is_named_and_counted() -> None:
    model = Model("tollama")
    model.fails = RuntimeFailure(
        Failure.INVALID_OUTPUT, "horizon_mismatch: 11 of 12 steps", counts=True
    )
    with live(model, **CACHE_NOTHING) as running:
        meta = answer(running).meta
        assert running.metric('tsfm_invalid_output_total{runtime="tollama"}') == 1
    assert meta.fallback_reason == "tollama_error:invalid_output"
    assert "horizon_mismatch" in meta.warnings


def test_f8_an_error_that_nobody_expected_is_answered_too(served: Live, model: Model) -> None:
    model.fails = ZeroDivisionError("a defect")
    assert answer(served).meta.fallback_reason == "runtime_error:internal"


def test_a_baseline_says_what_it_ignores(served: Live, model: Model) -> None:
    given = {"x_past": {"load": [1.0] * 64}, "model": {"params": {"temperature": 1}}}
    model.fails = UNAVAILABLE
    for reads in (answer(served, **given), answer(served, liquidity_bucket="low", **given)):
        assert {"covariates_ignored", "params_ignored"} <= set(reads.meta.warnings)


def test_f9_a_baseline_that_is_unknown_is_passed_over(model: Model) -> None:
    with live(model, fallback={"chain": ["no_such_method", "ewma"]}) as running:
        meta = answer(running, liquidity_bucket="low").meta
    assert meta.fallback_reason == "baseline_error:no_such_method"
    assert "fallback_reason=baseline_only_liquidity_bucket" in meta.warnings
    assert meta.model == "ewma"


@pytest.mark.parametrize(
    ("n", "method"),
    [(2, "last_value_and_spread"), (9, "rolling_quantile"), (10, "ewma"), (31, "ewma")],
)
def test_f3_few_points_are_answered_by_what_they_allow(served: Live, n: int, method: str) -> None:
    meta = answer(served, y=[0.4 + 0.01 * (i % 3) for i in range(n)]).meta
    assert meta.fallback_reason == "too_few_points"
    assert meta.model == method


def test_f10_crossing_quantiles_are_sorted(served: Live, model: Model) -> None:
    def crossing(query: Query) -> Answer:
        good = random_walk(query)
        return Answer(good.levels, good.values[:, ::-1].copy(), good.asked)

    model.answers = crossing
    meta = answer(served).meta
    assert "quantile_crossing_fixed x12" in meta.warnings
    assert not meta.fallback_used
    assert served.metric("tsfm_quantile_crossing_total") == 1


@pytest.mark.parametrize("fault", ["horizon_mismatch", "quantile_set_mismatch", "non_finite_value"])
def test_f11_output_that_cannot_be_used_is_refused(served: Live, model: Model, fault: str) -> None:
    def faulty(query: Query) -> Answer:
        good = random_walk(query)
        values, levels = good.values, good.levels
        if fault == "horizon_mismatch":
            values = values[:-1]
        elif fault == "quantile_set_mismatch":
            values, levels = values[:, 1:], levels[1:]
        else:
            values = np.where(np.arange(9) == 3, np.nan, values)
        return Answer(levels, values, good.asked)

    model.answers = faulty
    read = answer(served)
    assert read.meta.runtime == "baseline"
    assert read.meta.fallback_reason == f"invalid_output:{fault}"
    assert fault in read.meta.warnings
    assert served.metric('tsfm_invalid_output_total{runtime="local"}') == 1


def test_c1_an_identical_request_is_answered_from_the_cache(served: Live, model: Model) -> None:
    first = answer(served)
    assert not first.meta.cache_hit
    again = served.together([request()] * 16)
    assert all(response.json()["meta"]["cache_hit"] for response in again)
    assert not any(response.json()["meta"]["cache_stale"] for response in again)
    assert all(response.json()["yhat_q"] == first.yhat_q for response in again)
    assert model.asked == 1


def test_c1_a_request_that_differs_in_anything_is_another_one(served: Live, model: Model) -> None:
    later = (AS_OF + timedelta(minutes=5)).isoformat()
    different = [
        {},
        {"market_id": "other"},
        {"as_of_ts": later},
        {"horizon_steps": 13},
        {"quantiles": [0.1, 0.5]},
        {"y": [0.4] * 64},
        {"freq": "10m"},
        {"transform": {"space": "identity"}},
        {"segment": {"category": "politics"}},
        {"x_past": {"price": [1.0] * 64}},
        {"x_past": {"price": [1.0] * 64}, "horizon_steps": 64},
        {"x_future": {"price": [1.0] * 64}, "horizon_steps": 64},
        {"model": {"params": {"temperature": 1}}},
    ]
    for fields in different:
        assert not answer(served, **fields).meta.cache_hit
    assert model.asked == len(different)


def test_a_hundred_identical_misses_at_once_are_one_call(model: Model) -> None:
    model.delay_s = 0.3
    with live(model) as running:
        responses = running.together([request()] * 100)
    assert [response.status_code for response in responses] == [200] * 100
    assert len({response.text.partition('"meta"')[0] for response in responses}) == 1
    assert model.asked == 1


def test_c2_a_stale_answer_stands_in_for_a_model_that_fails(model: Model) -> None:
    with live(model, cache={"ttl_s": 0, "stale_s": 30}) as running:
        first = answer(running)
        model.fails = UNAVAILABLE
        second = answer(running)
    meta = second.meta
    assert (meta.fallback_used, meta.fallback_reason) == (True, "stale_if_error")
    assert (meta.cache_hit, meta.cache_stale) == (True, True)
    assert meta.runtime == "local"
    assert second.yhat_q == first.yhat_q


def test_d2_a_baselines_answer_is_never_cached(served: Live, model: Model) -> None:
    model.fails = UNAVAILABLE
    answer(served)
    model.fails = None
    meta = answer(served).meta
    assert not meta.cache_hit
    assert meta.runtime == "local"


def test_b1_the_breaker_opens_and_closes_again() -> None:
    model = Model("tollama", "chronos2")
    breaker = {"failures_in_a_row": 3, "probe_every_s": 0.05, "successes_to_close": 2}
    with live(model, breaker=breaker, **CACHE_NOTHING) as running:
        model.fails = UNAVAILABLE
        states = [answer(running).meta.circuit_breaker_state for _ in range(3)]
        assert states == ["closed", "closed", "open"]
        assert running.metric('tsfm_breaker_open_total{runtime="tollama"}') == 1
        model.fails = None
        until(lambda: answer(running).meta.runtime == "tollama")
        until(lambda: answer(running).meta.circuit_breaker_state == "closed")


def test_b2_an_open_breaker_costs_no_call(model: Model) -> None:
    breaker = {"failures_in_a_row": 2, "probe_every_s": 3_600}
    model.fails = UNAVAILABLE
    with live(model, breaker=breaker, **CACHE_NOTHING) as running:
        reasons = [answer(running).meta.fallback_reason for _ in range(3)]
        assert reasons[2] == "circuit_breaker_open"
        assert model.asked == 2
        many = running.together([request(market_id=str(i)) for i in range(32)])
        assert all(response.json()["meta"]["runtime"] == "baseline" for response in many)
        bad = running.together([request(y="no list")] * 30)
        assert [response.status_code for response in bad] == [422] * 30
    assert model.asked == 2


def test_an_open_breaker_is_seen_beside_another_model_of_the_runtime(model: Model) -> None:
    model.fails = UNAVAILABLE
    breaker = {"failures_in_a_row": 1, "probe_every_s": 3_600.0}
    with live(model, Model(model="tiny"), breaker=breaker) as running:
        answer(running)
        assert running.metric('tsfm_breaker_state{runtime="local",state="open"}') == 1


def test_d4_a_request_that_the_runtime_rejects_opens_no_breaker(model: Model) -> None:
    model.fails = RuntimeFailure(Failure.REJECTED, "such parameters are not known", counts=False)
    with live(model, breaker={"failures_in_a_row": 2}, **CACHE_NOTHING) as running:
        metas = [answer(running).meta for _ in range(5)]
    assert {meta.circuit_breaker_state for meta in metas} == {"closed"}
    assert {meta.degradation_state for meta in metas} == {"normal"}
    assert model.asked == 5


def test_g1_the_service_stops_asking_a_model_that_fails_often(model: Model) -> None:
    degradation = {"min_requests": 4, "probe_every_s": 0.05, "successes_to_recover": 1}
    breaker = {"failures_in_a_row": 1_000, "min_calls": 1_000}
    model.fails = UNAVAILABLE
    with live(model, degradation=degradation, breaker=breaker, **CACHE_NOTHING) as running:
        states = [answer(running).meta.degradation_state for _ in range(4)]
        assert states == ["normal", "normal", "normal", "baseline-only"]
        model.fails = None
        seen: list[str] = []

        def recovered() -> bool:
            seen.append(answer(running).meta.degradation_state)
            return seen[-1] == "normal"

        until(recovered)
    assert "degraded" in seen


def test_g1_without_a_probe_that_is_due_a_baseline_answers_at_once(model: Model) -> None:
    degradation = {"min_requests": 2, "probe_every_s": 3_600}
    model.fails = UNAVAILABLE
    with live(model, degradation=degradation, **CACHE_NOTHING) as running:
        for _ in range(2):
            answer(running)
        assert answer(running).meta.fallback_reason == "degradation_baseline_only"
    assert model.asked == 2


def test_a_model_that_hangs_is_given_up_at_the_deadline(model: Model) -> None:
    model.delay_s = 3_600.0
    with live(model, deadline_s=1.0, **CACHE_NOTHING) as running:
        meta = answer(running).meta
        assert meta.fallback_reason == "runtime_error:timeout"
        until(lambda: model.cancelled == 1)


def test_a_request_that_has_waited_for_most_of_its_deadline_asks_no_model(model: Model) -> None:
    """It would only say that this process is busy, and open the breaker for everybody."""
    with live(model) as running:
        service = running.service.forecasts
        wanted = ForecastRequest.model_validate_json(json.dumps(request()))
        came = time.monotonic() - 0.8 * service.settings.deadline_s
        read = asyncio.run(service.answer(wanted, "late", came))
    assert read.meta.fallback_reason == "deadline"
    assert (read.meta.circuit_breaker_state, read.meta.degradation_state) == ("closed", "normal")
    assert model.asked == 0


def test_calls_that_hang_open_the_breaker(model: Model) -> None:
    model.delay_s = 3_600.0
    with live(model, deadline_s=1.0, breaker={"failures_in_a_row": 2}, **CACHE_NOTHING) as running:
        states = [answer(running).meta.circuit_breaker_state for _ in range(2)]
    assert states == ["closed", "open"]


def test_an_outage_that_the_breaker_bridges_does_not_degrade_the_service(model: Model) -> None:
    model.delay_s = 3_600.0
    options = {"breaker": {"probe_every_s": 0.05, "successes_to_close": 1}, **CACHE_NOTHING}
    with live(model, deadline_s=1.0, **options) as running:
        hung = running.together([request(market_id=str(i)) for i in range(40)])
        assert {response.status_code for response in hung} == {200}
        model.delay_s = 0.0
        until(lambda: answer(running).meta.runtime == "local")
        assert answer(running).meta.degradation_state == "normal"


def test_a_model_that_is_not_loaded_yet_is_stood_in_for(model: Model) -> None:
    loading = Model("tollama", "chronos2")
    with live(model, loading) as running:
        wanted = {"provider": "tollama"}
        assert answer(running, model=wanted).meta.fallback_reason == "tollama_error:unavailable"
        until(lambda: answer(running, model=wanted).meta.runtime == "tollama")


# -- routes


def test_r1_by_policy_a_baseline_answers_unless_a_segment_is_enabled(model: Model) -> None:
    segment = "category=politics|liquidity_bucket=high"
    with live(model, route={"default": "baseline", "model_segments": [segment]}) as running:
        meta = answer(running).meta
        assert meta.fallback_reason == "route_policy_baseline"
        assert (meta.route.selected, meta.route.reason) == ("baseline", "policy_default_baseline")
        assert model.asked == 0
        enabled = {"segment": {"category": "politics"}, "liquidity_bucket": "high"}
        meta = answer(running, **enabled).meta
    assert (meta.runtime, meta.route.selected) == ("local", "model")
    assert (meta.route.reason, meta.route.segment) == ("policy_segment_enabled", segment)


def test_r1_without_a_policy_the_model_answers_by_default(served: Live) -> None:
    assert answer(served).meta.route.reason == "default"


def published_rollout(folder: Path, stage: Stage, percent: int) -> None:
    now = datetime.now(UTC)
    decision = RolloutDecision(
        stage=stage, percent=percent, since=now, reason="a test", by="automatic", as_of=now
    )
    (folder / "rollout.json").write_text(decision.model_dump_json())


def test_in_shadow_a_baseline_answers_and_the_models_answer_is_recorded(
    tmp_path: Path, model: Model
) -> None:
    options = {"published_dir": tmp_path, "records_dir": tmp_path / "records"}
    with live(model, route={"rollout": "published"}, **options) as running:
        meta = answer(running).meta
        assert (meta.runtime, meta.fallback_reason) == ("baseline", "rollout_shadow")
        assert (meta.route.selected, meta.route.stage) == ("shadow", "shadow")
        until(lambda: model.asked == 1)
    (row,) = rows(tmp_path / "records")
    assert (row["route"], row["stage"], row["fallback_reason"]) == ("shadow", "shadow", "")
    assert (row["runtime"], row["version"]) == ("local", "v1")
    assert len(row["deciles"]) == len(row["baseline"]) == 12 * 9
    assert row["deciles"] != row["baseline"]


def test_an_error_in_the_shadow_is_recorded(tmp_path: Path) -> None:
    options = {"route": {"rollout": "published"}, "records_dir": tmp_path}
    with live(Model("tollama"), Unversioned(), **options) as running:
        wanted = {"provider": "local"}
        answer(running, model=wanted)
        until(lambda: running.service.forecasts.lanes.local.started)
        answer(running, model=wanted)
    assert [row["fallback_reason"] for row in rows(tmp_path)][-1] == "internal_error"


def test_an_error_that_no_baseline_answers_is_recorded_for_the_rollout(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*args: object) -> None:
        raise ZeroDivisionError("a defect in the baselines")

    with live(model, records_dir=tmp_path) as running:
        answer(running)
        monkeypatch.setattr("tsfm_pipeline.serving.service.fallback", defect)
        assert running.forecast(y=[0.5] * 4).status_code == 503
    given, lost = rows(tmp_path)
    assert (given["status"], lost["status"]) == (200, 503)
    assert (lost["route"], lost["fallback_reason"]) == ("model", "internal_error")
    assert lost["deciles"] == lost["low_80"] == lost["high_90"] == []


def test_at_ten_percent_the_same_tenth_of_the_markets_goes_to_the_model(
    tmp_path: Path, model: Model
) -> None:
    published_rollout(tmp_path, "10", 10)
    options = {"published_dir": tmp_path, "rate_limit": {"enabled": False}}
    with live(model, route={"rollout": "published"}, **options) as running:
        bodies = [request(market_id=f"m{i}") for i in range(100)]
        twice = [running.together(bodies) for _ in range(2)]
    by_model = [
        [response.json()["meta"]["route"]["selected"] == "model" for response in responses]
        for responses in twice
    ]
    assert by_model[0] == by_model[1]
    assert 2 <= sum(by_model[0]) <= 20


# -- records


def rows(folder: Path) -> list[dict[str, Any]]:
    return pl.concat(pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))).to_dicts()


def test_what_was_answered_is_recorded(tmp_path: Path, model: Model) -> None:
    with live(model, records_dir=tmp_path, **CACHE_NOTHING) as running:
        sent = answer(running, segment={"category": "politics"}, volume_24h=6_000.0)
        model.fails = UNAVAILABLE
        answer(running, market_id="other")
    first, second = rows(tmp_path)
    assert first["market_id"] == "m"
    assert first["as_of"] == AS_OF
    assert first["request_id"] == sent.meta.request_id
    assert (first["runtime"], first["model"], first["version"]) == ("local", "bundled", "v1")
    assert (first["segment"], first["volume_24h"]) == ("category=politics", 6_000.0)
    deciles = np.array(first["deciles"]).reshape(12, 9)
    assert deciles[:, 4].tolist() == pytest.approx(sent.yhat_q["0.5"], rel=1e-6)
    assert first["low_90"] == pytest.approx(sent.intervals["0.9"].low, rel=1e-6)
    assert second["fallback_reason"] == "runtime_error:unavailable"
    assert second["runtime"] == "baseline"
    assert len(second["deciles"]) == 12 * 9


@pytest.mark.parametrize("runtime", ["local", "tollama"])
@pytest.mark.parametrize("stale_s", [0, 60])
def test_refused_output_is_recorded_whoever_gave_it_and_whatever_stands_in(
    tmp_path: Path, runtime: Literal["local", "tollama"], stale_s: int
) -> None:
    """A rollout ends at the first refused output, so that none may be hidden."""
    model = Model(runtime)
    cache = {"ttl_s": 0, "stale_s": stale_s}
    with live(model, records_dir=tmp_path, cache=cache) as running:
        answer(running)
        model.fails = RuntimeFailure(Failure.INVALID_OUTPUT, "not JSON", counts=True)
        answer(running)
    good, refused = rows(tmp_path)
    assert not good["invalid_output"]
    assert refused["invalid_output"]


def test_what_the_series_rules_out_is_recorded_as_such(tmp_path: Path, model: Model) -> None:
    """Else a baseline that fails would make it a failure of the model."""
    options = {"fallback": {"chain": ["no_such_method", "ewma"]}, "records_dir": tmp_path}
    with live(model, **options) as running:
        answer(running, liquidity_bucket="low")
    (row,) = rows(tmp_path)
    assert row["fallback_reason"] == "baseline_only_liquidity_bucket"


def test_in_shadow_every_answer_is_recorded_once(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"published_dir": tmp_path, "records_dir": tmp_path / "records"}
    with live(model, route={"rollout": "published"}, **options) as running:
        answer(running, liquidity_bucket="low")
        monkeypatch.setattr("tsfm_pipeline.serving.service.MAX_SHADOWS", 0)
        answer(running)
    low, many = rows(tmp_path / "records")
    assert model.asked == 0
    for row, reason in ((low, "baseline_only_liquidity_bucket"), (many, "rollout_shadow")):
        assert (row["route"], row["runtime"]) == ("shadow", "baseline")
        assert row["fallback_reason"] == reason
        assert reason in INELIGIBLE


# -- leaving early


def test_a_client_that_leaves_costs_no_further_work(served: Live, model: Model) -> None:
    model.delay_s = 3_600.0

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=served.url, headers=served.headers) as client:
            post = asyncio.create_task(client.post("/tsfm/forecast", json=request()))
            while not model.waiting:
                await asyncio.sleep(0.01)
            post.cancel()

    asyncio.run(leave())
    until(lambda: model.cancelled == 1)
    model.delay_s = 0.0
    assert answer(served).meta.runtime == "local"
    assert served.metric('tsfm_request_total{rollout_stage="off",status="gone"}') == 1


def test_a_client_that_leaves_a_batch_costs_no_further_work(served: Live, model: Model) -> None:
    model.delay_s = 3_600.0
    items = [request(market_id=str(number)) for number in range(5)]

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=served.url, headers=served.headers) as client:
            post = asyncio.create_task(client.post("/tsfm/forecast/batch", json={"items": items}))
            while model.waiting < 5:
                await asyncio.sleep(0.01)
            post.cancel()

    asyncio.run(leave())
    until(lambda: model.cancelled == 5)


def test_a_client_that_leaves_does_not_take_the_answer_from_others(
    served: Live, model: Model
) -> None:
    model.delay_s = 0.5

    async def one_leaves() -> int:
        async with httpx.AsyncClient(base_url=served.url, headers=served.headers) as client:
            posts = [
                asyncio.create_task(client.post("/tsfm/forecast", json=request())) for _ in range(3)
            ]
            while not model.waiting:
                await asyncio.sleep(0.01)
            posts[0].cancel()
            answers = await asyncio.gather(*posts[1:])
            return sum(response.json()["meta"]["runtime"] == "local" for response in answers)

    assert asyncio.run(one_leaves()) == 2
    assert model.asked == 1


class Unversioned(Model):
    """A model whose version cannot be told once it is loaded."""

    version = property(lambda self: {}["a defect"], lambda self, value: None)  # type: ignore[assignment]


def test_an_error_that_nobody_expected_is_answered_by_a_baseline() -> None:
    with live(Model("tollama"), Unversioned()) as running:
        wanted = {"provider": "local"}
        answer(running, model=wanted)
        until(lambda: answer(running, model=wanted).meta.fallback_reason == "internal_error")
