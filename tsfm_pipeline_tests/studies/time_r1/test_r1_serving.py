"""Test slow thinking as a model of the service: over HTTP, with the bundled model as the drafter and
a small policy of random weights.
"""

import asyncio
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.forecaster.registry import CheckpointError
from tsfm_pipeline.plugins import SERVING_MODELS
from tsfm_pipeline.serving.contract import ForecastResponse
from tsfm_pipeline.serving.deadline import Deadline
from tsfm_pipeline.serving.runtimes import Answer, Query, RuntimeFailure, Verdict
from tsfm_pipeline.serving.settings import ServingSettings
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline.studies.time_r1 import serving_plugin
from tsfm_pipeline.studies.time_r1.asking import Asker
from tsfm_pipeline.studies.time_r1.checkpoints import POLICY_VARIABLE, SHIPPED_ASKED_WITH
from tsfm_pipeline.studies.time_r1.codecs import NumberCodec
from tsfm_pipeline.studies.time_r1.options import ThinkingOptions
from tsfm_pipeline.studies.time_r1.own_policy import load_policy, save_policy
from tsfm_pipeline.studies.time_r1.serving_plugin import (
    LATE,
    NAME,
    ONE_PASS,
    SlowThinkingRuntime,
    answered,
    make,
)
from tsfm_pipeline_tests.packages import Site
from tsfm_pipeline_tests.serving.live import Live, live, until
from tsfm_pipeline_tests.studies.time_r1.thinking_setting import random_asker, random_policy

PLUGIN = "from tsfm_pipeline.studies.time_r1.serving_plugin import make\n"
AS_OF = "2026-01-31T12:00:00+00:00"
HORIZON = 4
WANTED = {"model_name": NAME}
FACTS = {"licence": "Apache-2.0", "validation_reward": 0.25, "kl_nats_per_token": 0.04}


def wave(n: int = 400) -> list[float]:
    """An hourly daily wave with noise."""
    rng = np.random.default_rng(0)
    values = 5 + 2 * np.sin(2 * np.pi * np.arange(n) / 24) + 0.3 * rng.normal(size=n)
    return [round(float(value), 4) for value in values]


def asked(**fields: Any) -> dict[str, Any]:
    """The fields of a request to slow thinking."""
    given = {"y": wave(), "as_of_ts": AS_OF, "freq": "1h", "horizon_steps": HORIZON}
    return given | {"transform": {"space": "identity"}, "model": WANTED} | fields


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a policy that knows nothing, which the variable names."""
    save_policy(random_policy(), tmp_path / "policy" / "base", FACTS)
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path / "policy"))
    return tmp_path / "policy"


@pytest.fixture
def running(site: Site, policy: Path) -> Iterator[Live]:
    """A service that listens, with slow thinking beside the bundled model. It is installed by
    another name here, because that of this distribution takes part only where it is asked for.
    """
    site.install("slow-model", PLUGIN, {SERVING_MODELS: {NAME: "make"}})
    with live() as service:
        # A model that is not the default one is started when it is first asked for.
        service.forecast(**asked())
        until(lambda: all(one["ready"] for one in models(service) if one["model"] == NAME))
        yield service


def models(service: Live) -> list[dict[str, Any]]:
    return list(service.client.get("/models").json()["models"])


def test_the_entry_point_names_the_factory() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    value = project["project"]["entry-points"][SERVING_MODELS][NAME]
    assert EntryPoint(NAME, value, SERVING_MODELS).load() is make


@pytest.mark.heavy
def test_an_answer_has_deciles_and_its_reasoning_and_is_counted(running: Live) -> None:
    answer = running.forecast(**asked()).json()
    ForecastResponse.model_validate(answer)
    meta, reasoning = answer["meta"], answer["reasoning"]
    assert (meta["runtime"], meta["model"], meta["fallback_used"]) == ("local", NAME, False)
    assert reasoning["text"].startswith("The draft is ")
    assert reasoning["verdict"] in ("refined", "draft")
    n_answers = 2 + ThinkingOptions().samples * (reasoning["verdict"] == "refined")
    assert (reasoning["answers"], reasoning["unreadable"]) == (n_answers, 0)
    assert len(reasoning["draft"]) == len(reasoning["refined"]) == HORIZON
    used = reasoning["refined" if reasoning["verdict"] == "refined" else "draft"]
    np.testing.assert_allclose(answer["yhat_q"]["0.5"], used, rtol=1e-6)

    again = running.forecast(**asked()).json()
    assert again["meta"]["cache_hit"]
    assert again["reasoning"] == reasoning
    verdict = reasoning["verdict"]
    assert running.metric(f'tsfm_reasoning_forecasts_total{{verdict="{verdict}"}}') == 1
    assert running.metric('tsfm_reasoning_answers_total{result="read"}') == n_answers
    assert running.metric('tsfm_reasoning_answers_total{result="unreadable"}') == 0
    assert running.metric("tsfm_reasoning_latency_ms_count") == 1
    assert running.metric("tsfm_policy_validation_reward") == FACTS["validation_reward"]
    assert running.metric("tsfm_policy_kl_nats_per_token") == FACTS["kl_nats_per_token"]

    default = running.forecast(**asked(model={})).json()
    assert (default["meta"]["model"], default["reasoning"]) == ("bundled", None)
    (own,) = [one for one in models(running) if one["model"] == NAME]
    assert (own["licence"], own["default"]) == ("Apache-2.0", False)


@pytest.mark.heavy
def test_without_time_the_draft_answers_and_says_so(
    running: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_plugin, "MARGIN_S", 1e6)
    answer = running.forecast(**asked()).json()
    meta, reasoning = answer["meta"], answer["reasoning"]
    assert (meta["model"], meta["fallback_used"]) == (NAME, False)
    assert LATE in meta["warnings"]
    assert (reasoning["verdict"], reasoning["refined"]) == ("late", None)
    assert "There was no time" in reasoning["text"]
    np.testing.assert_allclose(answer["yhat_q"]["0.5"], reasoning["draft"], rtol=1e-6)
    assert running.metric('tsfm_reasoning_forecasts_total{verdict="late"}') == 1


@pytest.mark.heavy
def test_a_series_shorter_than_the_look_back_is_answered_by_a_baseline(running: Live) -> None:
    answer = running.forecast(**asked(y=wave(90))).json()
    assert answer["meta"]["fallback_reason"] == "runtime_error:runtime_rejected"
    assert answer["meta"]["circuit_breaker_state"] == "closed"
    assert answer["reasoning"] is None


def test_a_policy_that_cannot_be_used_ends_the_start(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = policy / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="the file was altered or is another version"):
        make(ServingSettings(), None)
    monkeypatch.setenv(POLICY_VARIABLE, str(policy / "nothing"))
    with pytest.raises(CheckpointError, match=r"nothing/base/config\.json does not exist"):
        make(ServingSettings(), None)


def test_a_policy_is_asked_with_the_look_back_and_contexts_of_its_training() -> None:
    settings = ServingSettings().local
    trained = replace(SHIPPED_ASKED_WITH, look_back=100, contexts=(2048,))
    shipped, other = (
        SlowThinkingRuntime(random_asker(), asked_with, "digest", FACTS, settings)
        for asked_with in (SHIPPED_ASKED_WITH, trained)
    )
    assert other.lookback(60.0, 24) - shipped.lookback(60.0, 24) == 2048 - 512
    short = Query("", np.arange(99.0), 60.0, datetime(2026, 1, 31, tzinfo=UTC), 1, DECILES)
    with pytest.raises(RuntimeFailure, match="99 values; time-r1 is shown 100"):
        asyncio.run(other.forecast(short, Deadline.after(1.0)))


@pytest.mark.heavy
def test_level_and_scale_change_nothing_but_the_units_and_limits_hold(policy: Path) -> None:
    forecaster = load_forecaster("bundled", device="cpu")
    options = ThinkingOptions().model_copy(update=ONE_PASS)
    asker = Asker(load_policy(policy / "base"), NumberCodec(), "own", options)
    end = datetime(2026, 1, 31, 12, tzinfo=UTC)
    values = np.array(wave())

    def asked_with(values: np.ndarray, upper: float | None = None) -> Answer:
        query = Query("", values, 60.0, end, HORIZON, DECILES, upper=upper)
        return answered(asker, SHIPPED_ASKED_WITH, forecaster, query)

    first, again, moved = (asked_with(each) for each in (values, values, 1e9 + 1024 * values))
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_allclose((moved.values - 1e9) / 1024, first.values, atol=1e-3)
    assert first.thought is not None
    assert moved.thought is not None
    assert moved.thought.text == first.thought.text
    assert " h " in first.thought.text or "peak" not in first.thought.text, "times have a clock"
    limited = asked_with(values, upper=5.0)
    assert limited.values.max() <= 5.0
    query = Query("", values, 60.0, end, HORIZON, DECILES)
    late = answered(replace(asker, until=0.0), SHIPPED_ASKED_WITH, forecaster, query)
    assert late.thought is not None
    assert late.thought.verdict is Verdict.LATE
    np.testing.assert_array_equal(late.thought.draft, first.thought.draft)
