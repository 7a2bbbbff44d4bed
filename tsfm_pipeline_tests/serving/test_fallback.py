"""Test that there is an answer for any series, and that it is finite, ordered and never narrower
further ahead.
"""

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tsfm_pipeline.baselines import DIRECT_BASELINES
from tsfm_pipeline.baselines.protocol import DirectBaseline
from tsfm_pipeline.baselines.smoothing import Ewma, LocalLevelKalman, RollingQuantile
from tsfm_pipeline.forecaster import QUANTILE_LEVELS, Panel
from tsfm_pipeline.serving.fallback import LAST_RESORT, FallbackAnswer, fallback
from tsfm_pipeline.serving.settings import FallbackSettings

Floats = npt.NDArray[np.float64]

CHAIN = FallbackSettings().chain
METHODS = (*CHAIN, None)
HORIZON = 12
NORMAL_90 = 1.2815515655446004


def wave(n_values: int, seed: int = 0) -> Floats:
    """A wandering series of log odds [T]."""
    return np.cumsum(np.random.default_rng(seed).normal(0, 0.1, n_values))


def require_sound(answer: FallbackAnswer, horizon: int) -> None:
    deciles = answer.deciles
    assert deciles.shape == (horizon, len(QUANTILE_LEVELS))
    assert deciles.dtype == np.float64
    assert np.isfinite(deciles).all()
    assert (np.diff(deciles, axis=1) >= 0).all()
    assert (np.diff(deciles[:, 5:] - deciles[:, 3::-1], axis=0) >= 0).all()


def broken(error: Exception | None) -> Callable[[object], DirectBaseline]:
    """The factory of a baseline that raises, or that has no forecast."""

    class Broken(Ewma):
        def _deciles(
            self, panel: Panel, origins: npt.NDArray[np.int64], horizon: int
        ) -> npt.NDArray[np.float32]:
            if error is not None:
                raise error
            return np.full((1, 1, horizon, len(QUANTILE_LEVELS)), np.nan, dtype=np.float32)

    return lambda fit_end: Broken()


anything = st.lists(
    st.floats(-1e300, 1e300, allow_nan=False) | st.floats(-1, 1) | st.just(0.5),
    min_size=1,
    max_size=200,
)


@pytest.mark.heavy
@settings(max_examples=300, deadline=None)
@given(values=anything, horizon=st.integers(1, 64), method=st.sampled_from(METHODS))
@example(values=[0.3], horizon=12, method=None)
@example(values=[0.5] * 288, horizon=12, method=None)
@example(values=[-1e300, 1e300] * 100, horizon=64, method=None)
@example(values=[1e300] * 9 + [1e-300], horizon=64, method="rolling_quantile")
@example(values=[5e-324] * 20 + [0.0], horizon=12, method=None)
@example(values=wave(2000).tolist(), horizon=12, method=None)
def test_f13_any_finite_series_has_a_sound_answer(
    values: list[float], horizon: int, method: str | None
) -> None:
    require_sound(fallback(np.array(values), horizon, FallbackSettings(), method), horizon)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(-1e300, 1e300, allow_nan=False), min_size=1, max_size=60))
def test_f13_the_last_resort_is_sound_and_its_median_is_the_last_value(
    values: list[float],
) -> None:
    answer = fallback(np.array(values), 24, FallbackSettings(chain=("no_such",)))
    assert answer.method == LAST_RESORT
    require_sound(answer, 24)
    assert (answer.deciles[:, 4] == values[-1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_f8_the_same_series_has_the_same_answer(method: str | None) -> None:
    first, second = (fallback(wave(300), HORIZON, FallbackSettings(), method) for _ in range(2))
    np.testing.assert_array_equal(first.deciles, second.deciles)
    assert (first.method, first.reasons) == (second.method, second.reasons)


@pytest.mark.parametrize("name", CHAIN)
def test_f8_the_answer_is_that_of_the_baseline_as_it_is_scored(name: str) -> None:
    values = wave(300)
    answer = fallback(values, HORIZON, FallbackSettings(), name)
    scored = DIRECT_BASELINES[name](0).forecast(
        Panel(values[None].astype(np.float32)), np.array([[299]]), HORIZON
    )[0, 0]
    assert (answer.method, answer.reasons) == (name, ())
    np.testing.assert_allclose(answer.deciles, scored, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shift", "unit"), [(0.0, 1e-200), (1e9, 1.0), (-7.0, 1e250)])
def test_the_level_and_the_unit_of_a_series_cost_the_answer_no_digits(
    shift: float, unit: float
) -> None:
    values = wave(300)
    plain, moved = (
        fallback(series, HORIZON, FallbackSettings()).deciles
        for series in (values, (values + shift) * unit)
    )
    np.testing.assert_allclose(moved / unit - shift, plain, atol=1e-5)


@pytest.mark.parametrize("error", [None, RuntimeError("broken"), MemoryError()])
def test_f9_a_baseline_without_a_forecast_is_passed_over_with_its_reason(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = CHAIN
    monkeypatch.setitem(DIRECT_BASELINES, first, broken(error))  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        answer = fallback(wave(300), HORIZON, FallbackSettings())
    assert (answer.method, answer.reasons) == (second, (f"baseline_error:{first}",))
    assert bool(caplog.records) == (error is not None)
    monkeypatch.setitem(DIRECT_BASELINES, second, broken(error))  # type: ignore[arg-type]
    answer = fallback(wave(300), HORIZON, FallbackSettings())
    reasons = (f"baseline_error:{first}", f"baseline_error:{second}")
    assert (answer.method, answer.reasons) == (third, reasons)
    require_sound(answer, HORIZON)


def test_f9_an_unknown_baseline_is_passed_over_and_the_answer_stays_near_the_values() -> None:
    values = wave(300) + 2
    answer = fallback(values, HORIZON, FallbackSettings(), "no_such")
    assert (answer.method, answer.reasons) == (CHAIN[0], ("baseline_error:no_such",))
    require_sound(answer, HORIZON)
    only = fallback(values, HORIZON, FallbackSettings(chain=("no_such",)))
    assert (only.method, only.reasons) == (LAST_RESORT, ("baseline_error:no_such",))
    assert (only.deciles[:, 4] == values[-1]).all()


def test_a_method_that_is_asked_for_comes_before_the_chain() -> None:
    answer = fallback(wave(300), HORIZON, FallbackSettings(), CHAIN[1])
    assert answer.method == CHAIN[1]
    fifth = fallback(wave(5), HORIZON, FallbackSettings(), CHAIN[1])
    reasons = (f"baseline_error:{CHAIN[1]}", f"baseline_error:{CHAIN[0]}")
    assert (fifth.method, fifth.reasons) == (CHAIN[2], reasons)


@pytest.mark.parametrize("n_values", range(1, 10))
def test_from_one_to_nine_values_the_answer_is_around_the_values(n_values: int) -> None:
    values = wave(n_values, seed=1) - 3
    answer = fallback(values, HORIZON, FallbackSettings())
    assert answer.method == (CHAIN[2] if n_values >= 5 else LAST_RESORT)
    require_sound(answer, HORIZON)
    assert values.min() <= answer.deciles[0, 4] <= values.max()
    assert (np.diff(answer.deciles[:, 8] - answer.deciles[:, 0]) > 0).all()


def test_the_last_resort_spreads_like_a_random_walk_of_the_changes() -> None:
    values = np.array([0.1, 0.4, 0.2])
    answer = fallback(values, HORIZON, FallbackSettings())
    step = np.sqrt((0.3**2 + 0.2**2) / 2)
    expected = 0.2 + NORMAL_90 * step * np.sqrt(np.arange(1, HORIZON + 1))
    np.testing.assert_allclose(answer.deciles[:, 8], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "spread"), [([3.0], 0.15), ([-3.0, -3.0], 0.15), ([0.0, 0.0], 0.05)]
)
def test_without_a_change_the_last_resort_spreads_by_a_share_of_the_value(
    values: list[float], spread: float
) -> None:
    deciles = fallback(np.array(values), 4, FallbackSettings()).deciles
    assert (deciles[:, 4] == values[-1]).all()
    np.testing.assert_allclose(
        deciles[:, 8] - values[-1], NORMAL_90 * spread * np.sqrt([1, 2, 3, 4]), rtol=1e-12
    )


def test_a_constant_series_is_forecast_at_its_level() -> None:
    answer = fallback(np.full(288, 0.7), HORIZON, FallbackSettings())
    assert (answer.method, answer.reasons) == (CHAIN[0], ())
    assert (answer.deciles == 0.7).all()


@pytest.mark.parametrize(
    ("values", "horizon", "message"),
    [
        ([], 12, r"shape \(0,\).*1 or more finite"),
        ([1.0, np.nan], 12, "1 of them are finite"),
        ([1.0, np.inf], 12, "1 of them are finite"),
        ([[1.0]], 12, r"shape \(1, 1\)"),
        ([1.0], 0, "horizon is 0; allowed: 1 step or more"),
    ],
)
def test_what_cannot_be_answered_is_named(values: list[float], horizon: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fallback(np.array(values), horizon, FallbackSettings())


def test_the_chain_is_the_three_baselines_of_recent_values() -> None:
    names = [DIRECT_BASELINES[name](0).name for name in CHAIN]
    assert names == [Ewma.name, LocalLevelKalman.name, RollingQuantile.name]
