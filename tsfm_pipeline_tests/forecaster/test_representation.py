"""Test the representations of telemetry: causal, invertible, and absent where they are meaningless."""

import numpy as np
import pytest

from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster

SEASON = 480


def wave(n_steps: int, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    day = np.sin(2 * np.pi * np.arange(n_steps) / SEASON) + 2.0
    return (day + noise * rng.normal(size=(2, n_steps))).astype(np.float32)


def represented(values: np.ndarray, name: str, **bounds: float):  # type: ignore[no-untyped-def]
    return Panel(values, seasons=(SEASON,), **bounds).representation(
        ForecastConfig.from_name(name), 60
    )


def test_a_pure_season_leaves_nothing_and_comes_back_whole() -> None:
    values = wave(4000)
    seen = represented(values, "ctx64-s1x5")
    first = seen.lead
    assert 5 * SEASON <= first <= 5 * SEASON + SEASON // 96
    np.testing.assert_allclose(seen.values[:, first:], 0, atol=2e-3)
    truth = wave(4100)
    ends = np.array([3999, 3000])
    restored = seen.restore(np.zeros((2, 60, 10)), np.array([0, 1]), ends, ends - 63)
    np.testing.assert_allclose(
        restored[:, :, 3], [truth[0, 4000:4060], truth[1, 3001:3061]], atol=2e-3
    )


def test_the_profile_ignores_one_odd_cycle() -> None:
    values = wave(4000)
    odd = values.copy()
    odd[:, 3000:3100] += 50
    plain, robust = represented(values, "ctx64-s1x5"), represented(odd, "ctx64-s1x5")
    np.testing.assert_allclose(plain.profile[:, 3200:], robust.profile[:, 3200:], atol=0.05)


def test_nothing_depends_on_later_steps() -> None:
    values = wave(4000, noise=0.3)
    changed = values.copy()
    changed[:, 3500:] = 9
    for name in ("ctx64-s1x5", "ctx64-s1x2", "ctx64-log", "ctx64-s1x3-log", "ctx64-logit"):
        before, after = (represented(v, name, lower=0.0, upper=10.0) for v in (values, changed))
        np.testing.assert_array_equal(before.values[:, :3500], after.values[:, :3500])
        if before.profile is not None:
            np.testing.assert_array_equal(before.profile[:, :3560], after.profile[:, :3560])


def test_what_has_no_such_season_or_bounds_is_unavailable(forecaster: FrozenForecaster) -> None:
    values = wave(2600)
    configs = [
        ForecastConfig.from_name(name)
        for name in ("ctx64", "ctx64-s1x5", "ctx64-s2x2", "ctx64-log", "ctx64-logit")
    ]
    grid = forecaster.forecast_grid(Panel(values, seasons=(SEASON,)), [2599], configs, 60)
    assert np.isfinite(grid[0, 0]).all(axis=(1, 2)).tolist() == [True, True, False, False, False]
    early = forecaster.forecast_grid(
        Panel(values, seasons=(SEASON,)), [5 * SEASON + 60], configs[:2], 60
    )
    assert np.isfinite(early[0, 0]).all(axis=(1, 2)).tolist() == [True, False]
    long = forecaster.forecast_grid(Panel(values, seasons=(SEASON,)), [2599], configs[:2], SEASON)
    assert np.isfinite(long[0, 0]).all(axis=(1, 2)).tolist() == [True, False]


@pytest.mark.parametrize("name", ["ctx128-log", "ctx128-logit", "ctx128-s1x3-log"])
def test_transformed_forecasts_are_in_units_within_bounds_and_ordered(
    forecaster: FrozenForecaster, name: str
) -> None:
    values = np.exp(wave(2600, noise=0.5) - 2)
    panel = Panel(values, seasons=(SEASON,), lower=0.0, upper=float(values.max()) + 1)
    grid = forecaster.forecast_grid(panel, [2599], [ForecastConfig.from_name(name)], 60)
    assert (np.diff(grid[..., 1:], axis=-1) >= 0).all()
    assert grid.min() >= 0
    assert grid.max() <= panel.upper


def test_the_logarithm_comes_back_exactly_up_to_the_largest_value_and_flattens_beyond() -> None:
    seen = represented(np.full((2, 100), 99.0, dtype=np.float32), "ctx64-log", lower=0.0)
    ends = np.array([99, 80])
    steps = np.log1p([0.0, 9.0, 99.0, 99.0]) + np.array([0.0, 0.0, 0.0, 2.0])
    restored = seen.restore(np.tile(steps[:, None], (2, 1, 10)), np.array([0, 1]), ends, ends - 63)
    # exp(log(100) + 2) - 1 would be 738.
    np.testing.assert_allclose(
        restored[0, :, 0], [0.0, 9.0, 99.0, 99.0 + 100.0 * np.log(3.0)], rtol=1e-5
    )
    np.testing.assert_array_equal(restored[0], restored[1])


def test_bursts_of_bytes_are_forecast_within_a_few_times_the_largest_one(
    forecaster: FrozenForecaster,
) -> None:
    rng = np.random.default_rng(5)
    bursts = np.where(rng.random((6, 1200)) < 0.3, 10 ** rng.uniform(5, 8, (6, 1200)), 0.0)
    panel = Panel(bursts.astype(np.float32), lower=0.0)
    origins = np.arange(700, 1200, 50)
    configs = [ForecastConfig.from_name(name) for name in ("ctx128-log", "ctx512-log")]
    grid = forecaster.forecast_grid(panel, origins, configs, 12)
    assert np.isfinite(grid).all()
    assert grid.max() < 6 * bursts.max(), "the exponential alone reaches 100,000 times as much"
