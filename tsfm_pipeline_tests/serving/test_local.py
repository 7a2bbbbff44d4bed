"""Test the model in this process: which configuration answers, in which units, and that nothing
disturbs anyone else.
"""

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.serving.contract import MAX_HORIZON
from tsfm_pipeline.serving.deadline import Deadline
from tsfm_pipeline.serving.local import LocalRuntime
from tsfm_pipeline.serving.runtimes import Answer, Failure, Query, RuntimeFailure
from tsfm_pipeline.serving.settings import LocalSettings
from tsfm_pipeline_tests.serving.bundles import SEASON, STEP, small_bundle, telemetry

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

H = 12
pytestmark = pytest.mark.heavy


class Started:
    """A started runtime, and the event loop that it lives in."""

    def __init__(self, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.runtime = self.runner.run(self._start(options))

    @staticmethod
    async def _start(options: dict[str, Any]) -> LocalRuntime:
        runtime = LocalRuntime(LocalSettings(), **options)
        await runtime.start()
        return runtime

    def forecast(self, *queries: Query) -> list[Answer]:
        """The answers to queries that come at the same time."""

        async def ask() -> list[Answer]:
            deadline = Deadline.after(60.0)
            return await asyncio.gather(*(self.runtime.forecast(q, deadline) for q in queries))

        return self.runner.run(ask())

    def close(self) -> None:
        self.runner.run(self.runtime.close())
        self.runner.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Started]:
    started = Started()
    yield started
    started.close()


@pytest.fixture(scope="module")
def searched() -> Iterator[Started]:
    """A runtime with a bundle whose fixed configuration needs two seasons and its context."""
    started = Started(bundle=small_bundle())
    yield started
    started.close()


def query(values: np.ndarray, horizon: int = H, freq: float = 5.0, **options: Any) -> Query:
    end = datetime(2026, 11, 28, tzinfo=UTC)
    return Query("any", np.asarray(values, dtype=np.float64), freq, end, horizon, (0.5,), **options)


def walk(n_steps: int = 288, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n_steps).cumsum()


def directly(
    forecaster: "FrozenForecaster", panel: Panel, config: str, horizon: int = H
) -> np.ndarray:
    origin = np.array([panel.n_steps - 1])
    grid = forecaster.forecast_grid(panel, origin, [ForecastConfig.from_name(config)], horizon)
    return grid[:, 0, 0, :, 1:]


def test_it_says_what_answers(plain: Started, mini_forecaster: "FrozenForecaster") -> None:
    runtime = plain.runtime
    assert (runtime.name, runtime.model, runtime.licence) == ("local", "bundled", "MIT")
    assert runtime.version == mini_forecaster.checkpoint.sha256[:12]
    assert plain.runner.run(runtime.ready())


def test_the_answer_is_that_of_the_model(
    plain: Started, mini_forecaster: "FrozenForecaster"
) -> None:
    values = walk().astype(np.float32)
    (answer,) = plain.forecast(query(values))
    assert (answer.levels, answer.configuration, answer.asked) == (DECILES, "ctx288", 288)
    np.testing.assert_allclose(
        answer.values, directly(mini_forecaster, Panel(values[None]), "ctx288")[0], atol=1e-4
    )
    assert answer.values.dtype == np.float64
    assert answer.warnings == ()


def test_each_of_many_concurrent_calls_gets_its_own_answer(plain: Started) -> None:
    """Lengths, horizons and units differ, so that several batches are formed."""
    queries = [
        query(walk(96 + n % 5, seed=n) * 10.0 ** (n % 7), horizon=H + n % 2) for n in range(150)
    ]
    for one, together in zip(queries[::10], plain.forecast(*queries)[::10], strict=True):
        (alone,) = plain.forecast(one)
        scale = np.ptp(one.values)
        np.testing.assert_allclose(together.values / scale, alone.values / scale, atol=1e-5)
        assert together.values.shape == (one.horizon, 9)


@pytest.mark.parametrize(
    ("n_steps", "configuration"),
    [
        (1, "ctx1"),
        (31, "ctx31"),
        (32, "ctx32"),
        (33, "ctx32"),
        (95, "ctx64"),
        (300, "ctx288"),
        (9_000, "ctx4096"),
    ],
)
def test_without_a_bundle_the_longest_context_in_whole_patches_answers(
    plain: Started, n_steps: int, configuration: str
) -> None:
    (answer,) = plain.forecast(query(walk(n_steps)))
    assert answer.configuration == configuration
    assert np.isfinite(answer.values).all()


def test_the_longest_horizon_is_answered_whole(plain: Started) -> None:
    (answer,) = plain.forecast(query(walk(), horizon=MAX_HORIZON))
    assert answer.values.shape == (MAX_HORIZON, 9)
    assert np.isfinite(answer.values).all()
    assert (np.diff(answer.values, axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("scale", "offset"), [(1.0, 1e9), (1.0, -1e12), (1e-200, 0.0), (1e200, 0.0), (2.0**40, 3e15)]
)
def test_neither_a_large_level_nor_an_odd_unit_costs_precision(
    plain: Started, scale: float, offset: float
) -> None:
    values = np.round(walk() * 1024) / 1024  # exact at every level below
    plainly, moved = plain.forecast(query(values), query(values * scale + offset))
    back = (moved.values - offset) / scale
    np.testing.assert_allclose(back, plainly.values, atol=1e-3)


def test_a_series_that_does_not_change_is_forecast_at_its_value(plain: Started) -> None:
    for value in (0.0, 0.1, -7e8):
        (answer,) = plain.forecast(query(np.full(64, value)))
        np.testing.assert_array_equal(answer.values, value)


def test_no_quantile_lies_outside_of_the_bounds(plain: Started) -> None:
    values = np.clip(walk() * 0.1, -0.1, 0.3)
    free, bound = plain.forecast(query(values), query(values, lower=-0.1, upper=0.3))
    assert free.values.max() > 0.3 or free.values.min() < -0.1
    np.testing.assert_array_equal(bound.values, np.clip(bound.values, -0.1, 0.3))
    np.testing.assert_allclose(bound.values, np.clip(free.values, -0.1, 0.3), atol=1e-5)
    uppers = [float(values[-1]) + 1e-3 * (n + 1) / 7 for n in range(20)]
    answers = plain.forecast(*(query(values, upper=upper) for upper in uppers))
    for upper, answer in zip(uppers, answers, strict=True):
        assert upper - 1e-6 < answer.values.max() <= upper, "float32 would round half of them up"


def test_what_the_model_cannot_use_is_said(plain: Started) -> None:
    values = walk()
    (answer,) = plain.forecast(query(values, past={"price": values}, params={"samples": 20}))
    assert answer.warnings == ("covariates_ignored", "params_ignored")


def test_on_the_bundle_s_step_its_fixed_configuration_answers_with_its_seasons(
    searched: Started, mini_forecaster: "FrozenForecaster"
) -> None:
    values = telemetry(500)[0]
    on_step, elsewhere = searched.forecast(query(values, freq=STEP), query(values, freq=5.0))
    assert (on_step.configuration, elsewhere.configuration) == ("ctx96-s1x2", "ctx480")
    panel = Panel(values[None], seasons=(SEASON,))
    expected = directly(mini_forecaster, panel, "ctx96-s1x2")[0]
    np.testing.assert_allclose(on_step.values, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("n_steps", "configuration"),
    [(289, "ctx96-s1x2"), (288, "ctx128"), (128, "ctx128"), (127, "ctx96")],
)
def test_a_history_that_is_too_short_is_answered_by_the_stand_in_or_a_plain_context(
    searched: Started, n_steps: int, configuration: str
) -> None:
    """The seasonal configuration needs its 96 steps, two seasons of 96, and a step of smoothing."""
    (answer,) = searched.forecast(query(telemetry(n_steps)[0], freq=STEP))
    assert answer.configuration == configuration
    assert np.isfinite(answer.values).all()
    assert searched.runtime.configurations.lookback(H) == 289


def test_a_scale_that_needs_bounds_is_used_only_where_they_are_known(
    mini_forecaster: "FrozenForecaster",
) -> None:
    started = Started(bundle=small_bundle(("ctx64-log", "ctx64"), "ctx64-log", "ctx64"))
    values = telemetry(200)[1]
    with_bounds, other_bounds, without, beyond = started.forecast(
        query(values, freq=STEP, lower=0.0),
        query(values, freq=STEP, lower=1e6),
        query(values, freq=STEP),
        query(values.astype(np.float64) * 1e40, freq=STEP, lower=0.0),
    )
    names = [a.configuration for a in (with_bounds, other_bounds, without, beyond)]
    assert names == ["ctx64-log", "ctx64-log", "ctx64", "ctx64"]
    for answer, lower in ((with_bounds, 0.0), (other_bounds, 1e6)):
        expected = directly(mini_forecaster, Panel(values[None], lower=lower), "ctx64-log")[0]
        np.testing.assert_allclose(answer.values, expected, rtol=1e-5)
    assert np.isfinite(beyond.values).all()
    started.close()


def test_a_bundle_for_another_checkpoint_is_refused_with_both_names() -> None:
    with pytest.raises(ValueError, match=r"sha256 000000000000.*the model is 'bundled'"):
        Started(bundle=small_bundle(sha256="0" * 64))


def test_an_error_in_the_model_fails_only_its_batch_and_counts(
    plain: Started, caplog: pytest.LogCaptureFixture
) -> None:
    """A horizon that the contract refuses does not fit into the model."""

    async def ask() -> list[Answer | BaseException]:
        deadline = Deadline.after(60.0)
        queries = [query(walk(), horizon=horizon) for horizon in (H, 20_000, 20_000)]
        calls = (plain.runtime.forecast(q, deadline) for q in queries)
        return await asyncio.gather(*calls, return_exceptions=True)

    with caplog.at_level(logging.ERROR):
        good, *bad = plain.runner.run(ask())
    assert isinstance(good, Answer)
    for failure in bad:
        assert isinstance(failure, RuntimeFailure)
        assert (failure.failure, failure.counts) == (Failure.INTERNAL, True)
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_d19_the_event_loop_goes_on_while_the_model_works_and_calls_gather_meanwhile(
    plain: Started,
) -> None:
    async def check() -> None:
        runtime, release = plain.runtime, threading.Event()
        working = asyncio.create_task(runtime.alone(lambda: release.wait(60), Deadline.after(60.0)))
        calls = [
            asyncio.create_task(runtime.forecast(query(walk(64, n)), Deadline.after(60.0)))
            for n in range(5)
        ]
        for _ in range(20):
            await asyncio.sleep(0)
        assert runtime.n_waiting == 5, "the loop turns, and no batch is formed yet"
        late = asyncio.create_task(runtime.alone(lambda: True, Deadline.after(0.01)))
        with pytest.raises(RuntimeFailure, match="before its turn"):
            await late
        release.set()
        assert await working
        assert len(await asyncio.gather(*calls)) == 5
        assert runtime.n_waiting == 0

    plain.runner.run(check())


def test_a_batch_waits_for_one_search_not_for_all_that_wait(plain: Started) -> None:
    async def check() -> None:
        runtime, release, order = plain.runtime, threading.Event(), []

        async def search(name: str) -> None:
            await runtime.alone(lambda: release.wait(60), Deadline.after(60.0))
            order.append(name)

        async def forecast() -> None:
            await runtime.forecast(query(walk(64)), Deadline.after(60.0))
            order.append("batch")

        calls = [asyncio.create_task(search(name)) for name in ("first", "second", "third")]
        await asyncio.sleep(0)
        calls.append(asyncio.create_task(forecast()))
        for _ in range(20):
            await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*calls)
        assert order == ["first", "batch", "second", "third"]

    plain.runner.run(check())


def test_a_closed_runtime_refuses() -> None:
    started = Started()
    started.runner.run(started.runtime.close())
    assert not started.runner.run(started.runtime.ready())
    with pytest.raises(RuntimeFailure, match="unavailable"):
        started.forecast(query(walk()))
    with pytest.raises(RuntimeFailure, match="unavailable"):
        started.runner.run(started.runtime.alone(lambda: True, Deadline.after(60.0)))
    started.runner.close()
