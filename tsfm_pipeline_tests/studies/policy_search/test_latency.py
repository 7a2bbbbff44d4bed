"""Test the count of a request's tokens, and the line of latency over tokens, with planted times.

What belongs here: arithmetic, and that every timed size is answered. What does not: how fast
anything is.
"""

from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.forecaster import ForecastConfig, Panel, load_forecaster
from tsfm_pipeline.forecaster.plan import plan_grid
from tsfm_pipeline.studies.policy_search.latency import (
    WARM_UP,
    LatencyLine,
    Line,
    fit_line,
    measure_line,
    measured_ms,
    request_tokens,
)

NAMES = ("ctx256", "ctx1024", "ctx1280-r5", "ctx128-s1x5")
OFFSETS = (160, 320, 480, 1440)
SIZES = ((1, 2), (2, 3), (3, 4))


def planted(engine: AutoresearchEngine, history: Panel, tier: str) -> float:
    """5 ms and a tenth per token; a request at the lowest tier takes 100 ms more."""
    tokens = request_tokens(engine.policy.portfolio, engine.policy.offsets, history.n_series)
    return 5 + 0.1 * tokens + 100 * (tier == list(engine.policy.alphas)[-1])


def test_the_tokens_of_a_request_are_those_that_go_through_the_model() -> None:
    panel = Panel(np.ones((3, 20_000), dtype=np.float32), seasons=(1440, 10_080))
    origins = np.full((3, 1), panel.n_steps - 1)
    configs = [ForecastConfig.from_name(name) for name in NAMES]
    plan = plan_grid(panel, origins, configs, 60, 100_000, (0, *OFFSETS))
    assert request_tokens(NAMES, OFFSETS, 3) == plan.n_tokens
    assert request_tokens(NAMES, OFFSETS, 6) == 2 * request_tokens(NAMES, OFFSETS, 3)
    assert request_tokens(NAMES[:2], OFFSETS, 3) < request_tokens(NAMES, OFFSETS, 3)
    assert request_tokens(NAMES, OFFSETS[:2], 3) < request_tokens(NAMES, OFFSETS, 3)


def test_the_line_is_that_of_least_squares() -> None:
    tokens = np.array([100, 250, 400, 900])
    exact = fit_line(tokens, 3 + 0.02 * tokens)
    assert (exact.fixed_ms, exact.ms_per_token) == pytest.approx((3, 0.02))
    noisy = np.array([4.0, 9.0, 11.0, 20.0])
    slope, fixed = np.polyfit(tokens, noisy, 1)
    line = fit_line(tokens, noisy)
    assert (line.fixed_ms, line.ms_per_token) == pytest.approx((fixed, slope))


def test_no_line_is_fitted_to_requests_of_one_size_or_to_a_time_that_does_not_grow() -> None:
    with pytest.raises(ValueError, match="all have 100 tokens"):
        fit_line([100, 100], [3, 4])
    with pytest.raises(ValueError, match="too busy"):
        fit_line([100, 200], [4, 3])


def test_a_latency_is_predicted_by_both_lines() -> None:
    p50, p95 = Line(fixed_ms=1, ms_per_token=0.1), Line(fixed_ms=2, ms_per_token=0.2)
    assert LatencyLine(p50=p50, p95=p95, machine="").predict(100.0) == (11, 22)


@pytest.mark.heavy
def test_every_size_is_answered_by_the_engine_and_the_planted_line_is_found(
    tmp_path: Path,
) -> None:
    from tsfm_pipeline_tests.forecaster.conftest import random_module, save_checkpoint

    forecaster = load_forecaster(save_checkpoint(tmp_path / "model", random_module()), device="cpu")
    answered = []

    def answer(engine: AutoresearchEngine, history: Panel, tier: str) -> float:
        assert measured_ms(engine, history, tier) > 0
        answered.append((history.n_series, len(engine.configs)))
        return planted(engine, history, tier)

    line = measure_line(forecaster, "a test", sizes=SIZES, n_requests=6, answer=answer)
    assert answered == list(SIZES) * (WARM_UP + 6)
    assert (line.p50.fixed_ms, line.p50.ms_per_token) == pytest.approx((5, 0.1))
    assert line.p95.ms_per_token == pytest.approx(0.1)
    assert line.p95.fixed_ms > 50
    assert line.machine == "a test"
