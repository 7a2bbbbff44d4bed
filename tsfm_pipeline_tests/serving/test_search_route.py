"""Test POST /forecast's handler: the search's own answer, what it refuses, and that there is always
an answer without a NaN in it.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tsfm_pipeline.autoresearch.engine import resized
from tsfm_pipeline.evaluation.events import Event
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.protocol import DECILES, TIERS
from tsfm_pipeline.serving.contract import ErrorCode
from tsfm_pipeline.serving.deadline import Deadline
from tsfm_pipeline.serving.errors import problems
from tsfm_pipeline.serving.local import LocalRuntime
from tsfm_pipeline.serving.runtimes import Failure, RuntimeFailure
from tsfm_pipeline.serving.search_contract import SearchRequest, SearchResponse
from tsfm_pipeline.serving.search_route import SearchRoute
from tsfm_pipeline.serving.settings import FallbackSettings, LocalSettings
from tsfm_pipeline_tests.serving.bundles import HORIZON, METRICS, PORTFOLIO, small_bundle, telemetry

BUNDLE = small_bundle()
N_STEPS = 700


class Service:
    """A route over the bundled model, and the event loop that it lives in."""

    def __init__(self, queue: int = 512) -> None:
        self.runner = asyncio.Runner()
        self.runtime = LocalRuntime(LocalSettings(), BUNDLE)
        self.runner.run(self.runtime.start())
        self.route = SearchRoute(BUNDLE, self.runtime, queue, FallbackSettings())

    def answer(self, **fields: Any) -> SearchResponse:
        asked = self.route.read(body(**fields))
        return self.runner.run(self.route.answer(asked, Deadline.after(60.0)))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    started = Service()
    yield started
    started.runner.run(started.runtime.close())
    started.runner.close()


def body(values: np.ndarray | None = None, **fields: Any) -> bytes:
    """A request's body; values [D, T], NaN as null."""
    values = telemetry(N_STEPS) if values is None else values
    history = [[None if np.isnan(value) else value for value in step] for step in values.T.tolist()]
    given = {"tenant_id": "nobody's", "history": history, "sla_tier": "standard"} | fields
    return json.dumps(given).encode()


def refusal(**fields: Any) -> tuple[ErrorCode, str, str]:
    """Code, place and what is allowed of the first thing that is wrong."""
    with pytest.raises(ValidationError) as raised:
        SearchRequest.model_validate_json(body(**fields), context=BUNDLE.facts)
    first = problems(raised.value)[0]
    return first.code, first.where, first.allowed


@pytest.mark.heavy
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("tenant", ["nobody's", "a", "d"])
def test_the_answer_is_exactly_that_of_the_engine(service: Service, tenant: str, tier: str) -> None:
    """`a` tuned the search and `d` is tested with it; a's own experience is left out."""
    values = telemetry(N_STEPS)
    values[0, 100:104] = np.nan
    answer = service.answer(values=values, tenant_id=tenant, sla_tier=tier)
    engine = BUNDLE.engine(service.runtime.forecaster, tenant)
    expected = engine.forecast(BUNDLE.panel(values), tier, exclude_tenant=tenant)
    np.testing.assert_array_equal(answer.decision, expected.decision)
    np.testing.assert_array_equal(answer.quantiles, expected.quantiles)
    np.testing.assert_array_equal(answer.point_forecast, expected.quantiles[..., 4])
    assert list(answer.winning_config) == list(METRICS)
    assert list(answer.winning_config.values()) == [c and c.name for c in expected.chosen]
    assert [(c.name, c.weight, c.loss) for c in answer.candidates] == [
        (c.config.name, c.weight, c.relative_loss) for c in expected.candidates
    ]
    assert (answer.n_evaluated, answer.alpha) == (expected.n_evaluated, TIERS[tier])
    assert (answer.fallback_used, answer.basis, answer.levels) == (False, "full", list(DECILES))
    assert {"queue", "forecast", "decision", "total"} <= answer.timing_ms.keys()


@pytest.mark.heavy
def test_k_tries_the_most_promising_configurations(service: Service) -> None:
    answer = service.answer(k=2)
    priors = BUNDLE.live.priors.fleet_prior(None)
    order = BUNDLE.live.policy.prior_order({"fleet": priors, "retrieved": priors}, "standard")
    names = [PORTFOLIO[k] for k in order[:2]]
    assert sorted(tried.name for tried in answer.candidates) == sorted(names)
    engine = resized(BUNDLE.engine(service.runtime.forecaster), names)
    expected = engine.forecast(BUNDLE.panel(telemetry(N_STEPS)), "standard")
    np.testing.assert_array_equal(answer.decision, expected.decision)
    assert (answer.n_evaluated, service.answer(k=32).n_evaluated) == (2, len(PORTFOLIO))
    assert service.answer(budget_ms=1e-3).n_evaluated == 1, "one is always tried"


@pytest.mark.heavy
def test_the_time_of_the_last_step_tells_which_earlier_times_are_evidence(service: Service) -> None:
    """The hour before the history ends is an event; the request's own horizon is not."""
    facts, end = BUNDLE.facts, datetime(2024, 5, 1, 12, tzinfo=UTC)
    recent = Event(start=end - timedelta(hours=1), end=end)
    bundle = replace(BUNDLE, facts=facts.model_copy(update={"events": (recent,)}))
    route = SearchRoute(bundle, service.runtime, 512, FallbackSettings())

    def decided(**fields: Any) -> list[list[float]]:
        asked = route.read(body(**fields))
        return service.runner.run(route.answer(asked, Deadline.after(60.0))).decision

    plain, timed = decided(), decided(as_of=end.isoformat())
    assert plain == service.answer().decision, "without a time every origin counts"
    assert timed != plain
    assert decided(as_of=(end + timedelta(days=30)).isoformat()) == plain, "long after the event"
    engine = bundle.engine(service.runtime.forecaster)
    expected = engine.forecast(bundle.panel(telemetry(N_STEPS)), "standard", as_of=end)
    np.testing.assert_array_equal(timed, expected.decision)


@pytest.mark.heavy
def test_a_shorter_horizon_is_answered_by_its_first_steps(service: Service) -> None:
    whole, first = service.answer(), service.answer(horizon=5)
    assert (whole.horizon, first.horizon) == (HORIZON, 5)
    assert first.decision == whole.decision[:5]
    assert first.quantiles == whole.quantiles[:5]
    assert len(first.point_forecast) == 5


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("n_steps", "who"), [(1, "last_value_and_spread"), (20, "ewma"), (40, "ctx32"), (63, "ctx32")]
)
def test_a_history_too_short_for_the_search_is_answered_all_the_same(
    service: Service, n_steps: int, who: str
) -> None:
    """The shortest configuration needs 64 steps."""
    answer = service.answer(values=telemetry(n_steps))
    text = answer.model_dump_json()
    assert "NaN" not in text
    assert "null" not in text.split('"winning_config"')[0]
    assert answer.fallback_used
    assert answer.fallback_reason == "; ".join(f"history_too_short:{m}={who}" for m in METRICS)
    assert (answer.basis, set(answer.winning_config.values())) == ("cold", {None})
    quantiles, decision = np.array(answer.quantiles), np.array(answer.decision)
    assert quantiles.shape == (HORIZON, 2, 9)
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    assert (quantiles[:, 0] >= 0).all()
    assert (quantiles[:, 0] <= 1).all()
    expected = decision_quantile(quantiles, TIERS["standard"])
    np.testing.assert_allclose(decision, np.minimum(expected, [1, np.inf]), rtol=1e-6)


@pytest.mark.heavy
def test_a_metric_that_began_late_falls_back_alone(service: Service) -> None:
    values = telemetry(N_STEPS)
    values[1, :-50] = np.nan
    answer = service.answer(values=values)
    assert answer.fallback_reason == "history_too_short:net_bytes=ctx32"
    assert answer.winning_config["net_bytes"] is None
    assert answer.winning_config["cpu_util"] in PORTFOLIO
    whole = service.answer()
    alone, beside = (np.array(which.decision)[:, 0] for which in (whole, answer))
    np.testing.assert_allclose(beside, alone, rtol=1e-5)


@pytest.mark.heavy
def test_a_tenant_without_a_past_to_validate_is_answered_by_others_experience(
    service: Service,
) -> None:
    answer = service.answer(values=telemetry(70))
    assert (answer.basis, answer.fallback_used) == ("cold", False)
    assert set(answer.winning_config.values()) == {"ctx64"}
    assert "NaN" not in answer.model_dump_json()


def test_a_history_with_other_metrics_is_refused_at_its_step() -> None:
    history = [[0.1, 2.0]] * 5 + [[0.1, 2.0, 3.0]]
    assert refusal(history=history) == (
        ErrorCode.MALFORMED_INPUT,
        "history[5]",
        "2 values: cpu_util, net_bytes",
    )
    assert refusal(history=[[0.1]] * 5)[1] == "history[0]"


def test_a_metric_without_any_value_is_refused_by_name() -> None:
    code, where, _ = refusal(history=[[0.1, None]] * 5)
    assert (code, where) == (ErrorCode.MALFORMED_INPUT, "history")
    with pytest.raises(ValidationError, match="no value of net_bytes"):
        SearchRequest.model_validate_json(body(history=[[0.1, None]] * 5), context=BUNDLE.facts)


@pytest.mark.parametrize(
    ("fields", "code", "where"),
    [
        ({"sla_tier": "gold"}, ErrorCode.MALFORMED_INPUT, "sla_tier"),
        ({"horizon": HORIZON + 1}, ErrorCode.MALFORMED_INPUT, "horizon"),
        ({"horizon": 0}, ErrorCode.INVALID_FIELD, "horizon"),
        ({"k": 0}, ErrorCode.INVALID_FIELD, "k"),
        ({"k": 33}, ErrorCode.INVALID_FIELD, "k"),
        ({"k": "8"}, ErrorCode.INVALID_FIELD, "k"),
        ({"budget_ms": 0}, ErrorCode.INVALID_FIELD, "budget_ms"),
        ({"as_of": "noon"}, ErrorCode.INVALID_FIELD, "as_of"),
        ({"as_of": "2024-05-01T12:00:00"}, ErrorCode.INVALID_FIELD, "as_of"),
        ({"tenant_id": ""}, ErrorCode.INVALID_FIELD, "tenant_id"),
        ({"history": []}, ErrorCode.INVALID_FIELD, "history"),
        ({"history": [[]]}, ErrorCode.INVALID_FIELD, "history[0]"),
        ({"history": [["1", 2.0]]}, ErrorCode.INVALID_FIELD, "history[0][0]"),
        ({"history": [[1e34, 2.0]]}, ErrorCode.INVALID_FIELD, "history[0][0]"),
        ({"history": [[float("nan"), 2.0]]}, ErrorCode.INVALID_FIELD, "history[0][0]"),
        ({"colour": "red"}, ErrorCode.UNKNOWN_FIELD, "colour"),
    ],
)
def test_what_is_not_allowed_is_refused_at_its_place(
    fields: dict[str, Any], code: ErrorCode, where: str
) -> None:
    assert refusal(**fields)[:2] == (code, where)


@pytest.mark.heavy
def test_a_full_queue_refuses_and_a_late_turn_costs_nothing() -> None:
    """Eight series, two metrics by four configurations, are one request."""
    service = Service(queue=8)

    async def check() -> None:
        release = threading.Event()
        blocker = asyncio.create_task(
            service.runtime.alone(lambda: release.wait(60), Deadline.after(60.0))
        )
        asked = service.route.read(body())
        await asyncio.sleep(0)
        first = asyncio.create_task(service.route.answer(asked, Deadline.after(60.0)))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeFailure) as full:
            await service.route.answer(asked, Deadline.after(60.0))
        assert (full.value.failure, full.value.counts) == (Failure.QUEUE_FULL, False)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        with pytest.raises(RuntimeFailure) as late:
            await service.route.answer(asked, Deadline.after(0.01))
        assert (late.value.failure, late.value.counts) == (Failure.TIMEOUT, False)
        release.set()
        await blocker
        assert (await service.route.answer(asked, Deadline.after(60.0))).n_evaluated == 4

    service.runner.run(check())
    service.runner.run(service.runtime.close())
    service.runner.close()
