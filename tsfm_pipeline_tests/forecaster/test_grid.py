"""Test the guarantees of a grid: what it reads, what it leaves unchanged, and what its columns
mean.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tsfm_pipeline.forecaster import ForecastConfig, Panel, load_forecaster
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.plan import plan_grid
from tsfm_pipeline_tests.forecaster.conftest import random_module, save_checkpoint

CTX64 = ForecastConfig(context_len=64)
CTX70 = ForecastConfig(context_len=70)
CTX512 = ForecastConfig(context_len=512)
COARSE = ForecastConfig(context_len=1500, resolution=15)
CONFIGS = (CTX64, CTX70, CTX512, COARSE)


def test_shape_type_and_order(forecaster: FrozenForecaster, telemetry: np.ndarray) -> None:
    grid = forecaster.forecast_grid(telemetry, [1600, 1900, 2199], CONFIGS, 60)
    assert grid.shape == (4, 3, 4, 60, 10)
    assert grid.dtype == np.float32
    assert np.isfinite(grid).all()
    assert (np.diff(grid[..., 1:], axis=-1) >= 0).all()


def test_the_mean_comes_first_and_then_the_deciles(tmp_path: Path, telemetry: np.ndarray) -> None:
    """A head that multiplies one projection of the embedding by -4..4 for the deciles and by 100
    for the mean.
    """
    module = random_module()
    head = module.output_projection_point
    with torch.no_grad():
        head.hidden_layer.weight.zero_()
        direction = head.residual_layer.weight[0].clone()
        factors = torch.tensor([100.0, -4, -3, -2, -1, 0, 1, 2, 3, 4]).repeat(128)
        head.residual_layer.weight.copy_(factors[:, None] * direction)
    forecaster = load_forecaster(save_checkpoint(tmp_path / "columns", module), device="cpu")
    level = telemetry[0, -64:].mean()
    columns = forecaster.forecast_grid(telemetry[:1], [2199], [CTX64], 1)[0, 0, 0, 0] - level
    if (
        columns[0] < 0
    ):  # the projection is negative: the deciles cross, and all collapse to the median
        with torch.no_grad():
            head.residual_layer.weight.neg_()
        forecaster = load_forecaster(save_checkpoint(tmp_path / "columns", module), device="cpu")
        columns = forecaster.forecast_grid(telemetry[:1], [2199], [CTX64], 1)[0, 0, 0, 0] - level
    np.testing.assert_allclose(
        columns / columns[9] * 4, [100, -4, -3, -2, -1, 0, 1, 2, 3, 4], atol=1e-3
    )


def test_a_forecast_does_not_depend_on_its_batch(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    together = forecaster.forecast_grid(telemetry, [1600, 1900], CONFIGS, 200)
    for s, o, k in [(0, 0, 0), (3, 1, 1), (2, 0, 2), (1, 1, 3)]:
        alone = forecaster.forecast_grid(telemetry[[s]], [[1600, 1900][o]], [CONFIGS[k]], 200)[
            0, 0, 0
        ]
        np.testing.assert_allclose(
            alone, together[s, o, k], rtol=1e-5, atol=1e-5 * telemetry[s].std()
        )


def test_the_token_budget_changes_batches_and_not_results(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    one_by_one = FrozenForecaster(forecaster.checkpoint, forecaster.decoder, token_budget=1)
    grids = [
        model.forecast_grid(telemetry, [1600, 1900], CONFIGS, 60)
        for model in (forecaster, one_by_one)
    ]
    np.testing.assert_allclose(*grids, rtol=1e-5, atol=1e-5 * telemetry.std())


def test_two_runs_agree_to_the_bit(forecaster: FrozenForecaster, telemetry: np.ndarray) -> None:
    first, second = (
        forecaster.forecast_grid(telemetry, [1600, 1900], CONFIGS, 130).tobytes() for _ in range(2)
    )
    assert first == second


def test_the_number_of_threads_changes_nothing(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    models = [
        FrozenForecaster(forecaster.checkpoint, forecaster.decoder, token_budget=64, n_threads=n)
        for n in (1, 4)
    ]
    alone, together = (
        model.forecast_grid(telemetry, [1600, 1900], CONFIGS, 130).tobytes() for model in models
    )
    assert alone == together


def test_fewer_than_one_thread_is_refused(forecaster: FrozenForecaster) -> None:
    with pytest.raises(ValueError, match="n_threads is 0; allowed: 1 or more"):
        FrozenForecaster(forecaster.checkpoint, forecaster.decoder, n_threads=0)


@pytest.mark.parametrize("horizon", [60, 200])
def test_nothing_after_the_origin_matters(
    forecaster: FrozenForecaster, telemetry: np.ndarray, horizon: int
) -> None:
    origins = np.array([[1600, 1700], [1650, 1800], [1600, 1999], [1777, 1778]])
    panel = telemetry.copy()
    panel[:, 1500:1510] = np.nan
    before = forecaster.forecast_grid(panel, origins, CONFIGS, horizon)
    for o in range(2):
        noise = panel.copy()
        for s in range(4):
            noise[s, origins[s, o] + 1 :] = (
                np.random.default_rng(s).normal(size=2199 - origins[s, o]) * 1e6
            )
        after = forecaster.forecast_grid(noise, origins, CONFIGS, horizon)
        np.testing.assert_array_equal(before[:, o], after[:, o])


def test_the_context_is_all_that_matters(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    changed = telemetry.copy()
    changed[:, :1600] += 1
    before, after = (
        forecaster.forecast_grid(values, [2111], CONFIGS, 60) for values in (telemetry, changed)
    )
    np.testing.assert_array_equal(before[:, :, :3], after[:, :, :3])
    assert (before[:, :, 3] != after[:, :, 3]).any()
    changed[:, 1600] += 1  # the first step of the window of 512
    assert (
        forecaster.forecast_grid(changed, [2111], CONFIGS, 60)[:, :, 2] != before[:, :, 2]
    ).any()


def test_origins_may_differ_by_series(forecaster: FrozenForecaster, telemetry: np.ndarray) -> None:
    origins = np.array([[1600], [1700], [1800], [1900]])
    grid = forecaster.forecast_grid(telemetry, origins, [CTX512], 60)
    same = forecaster.forecast_grid(telemetry, origins[:, 0], [CTX512], 60)
    np.testing.assert_allclose(grid[:, 0], same[np.arange(4), np.arange(4)], rtol=1e-5)


def test_no_input_is_modified(forecaster: FrozenForecaster, telemetry: np.ndarray) -> None:
    values = telemetry.copy()
    values[0, 1000:1100] = np.nan
    values[1, :300] = np.nan
    values.setflags(write=False)
    origins = np.array([1600, 1900])
    origins.setflags(write=False)
    kept = values.tobytes()
    forecaster.forecast_grid(Panel(values, lower=0.0), origins, CONFIGS, 60)
    assert values.tobytes() == kept


def test_a_window_that_is_not_full_is_unavailable_and_never_another_one(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    values = telemetry.copy()
    values[1, :1000] = np.nan
    values[2] = np.nan
    available = np.isfinite(
        forecaster.forecast_grid(values, [63, 62, 511, 1511, 1510], CONFIGS, 60)
    ).all(axis=(3, 4))
    for s, first in ((0, 0), (1, 1000), (2, 2200), (3, 0)):
        for o, origin in enumerate([63, 62, 511, 1511, 1510]):
            assert list(available[s, o]) == [
                origin - config.context_len + 1 >= first for config in CONFIGS
            ]
    unavailable = forecaster.forecast_grid(values, [62], CONFIGS, 60)
    assert np.isnan(unavailable).all()


def test_gaps_are_filled_from_the_past(forecaster: FrozenForecaster, telemetry: np.ndarray) -> None:
    gap, filled = telemetry.copy(), telemetry.copy()
    gap[:, 1990:2001] = np.nan
    filled[:, 1990:2001] = filled[:, 1989:1990]
    grids = [
        forecaster.forecast_grid(values, [2000, 2100], CONFIGS, 60) for values in (gap, filled)
    ]
    np.testing.assert_array_equal(*grids)


def test_equal_configurations_are_run_once(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    configs = [CTX64, CTX512, ForecastConfig(context_len=64)]
    plan = plan_grid(Panel(telemetry), np.full((4, 2), 2000), configs, 60, 1024)
    assert (plan.n_windows, plan.n_tokens) == (4 * 2 * 2, 4 * 2 * (2 + 16))
    grid = forecaster.forecast_grid(telemetry, [2000, 2001], configs, 60)
    np.testing.assert_array_equal(grid[:, :, 0], grid[:, :, 2])
    assert (grid[:, :, 0] != grid[:, :, 1]).any()


def test_a_plan_keeps_to_its_budget_whatever_the_lengths(telemetry: np.ndarray) -> None:
    same_tokens = ForecastConfig(context_len=512 * 4, resolution=4)
    configs = [CTX64, CTX70, CTX512, same_tokens]
    plan = plan_grid(Panel(telemetry), np.tile(np.arange(2050, 2060), (4, 1)), configs, 60, 100)
    for batch in plan.batches:
        tokens = batch.tokens
        assert tokens.sum() <= 100
        assert (np.diff(tokens) >= 0).all()
    assert plan.n_windows == 4 * 10 * 4
    assert plan.n_tokens == 4 * 10 * (2 + 3 + 16 + 16)
    assert any(len(set(batch.config_index)) == 2 for batch in plan.batches)


@pytest.mark.parametrize(("n_origins", "n_batches"), [(1, 1), (6, 2), (23, 2), (36, 4), (60, 6)])
def test_batches_are_equal_and_even_in_number(
    telemetry: np.ndarray, n_origins: int, n_batches: int
) -> None:
    """Two threads end together; 84 tokens of one origin are not worth two batches, 504 of a budget
    of 1,000 are.
    """
    configs = [CTX64, CTX70, CTX512]
    plan = plan_grid(
        Panel(telemetry), np.tile(np.arange(2000, 2000 + n_origins), (4, 1)), configs, 60, 1000
    )
    tokens = [int(batch.tokens.sum()) for batch in plan.batches]
    assert (len(tokens), sum(tokens)) == (n_batches, 84 * n_origins)
    assert max(tokens) - min(tokens) <= 2 * 16  # half of the longest window at either end


def test_forecasts_keep_to_the_bounds(forecaster: FrozenForecaster, telemetry: np.ndarray) -> None:
    free = forecaster.forecast_grid(telemetry[:1], [2000], CONFIGS, 60)
    bound = forecaster.forecast_grid(
        Panel(telemetry[:1], lower=0.2, upper=0.4), [2000], CONFIGS, 60
    )
    assert free.min() < 0.2 < 0.4 < free.max()
    np.testing.assert_array_equal(bound, np.clip(free, np.float32(0.2), np.float32(0.4)))


def odd_series() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    base = np.sin(np.arange(1600) / 20) + 0.1 * rng.normal(size=1600).cumsum()
    return {
        "ordinary": base,
        "tiny": base * 1e-9,
        "huge": base * 1e12,
        "enormous": base * 1e30,
        "subnormal": base * 1e-41,
        "zero": np.zeros(1600),
        "constant": np.full(1600, 7.3),
        "large constant": np.full(1600, 1.1e12),
        "nearly constant": 1e6 + 1e-3 * rng.normal(size=1600),
        "small noise on a level": 1e4 + 1e-2 * rng.normal(size=1600),
        "late step": np.concatenate([np.zeros(1500), np.full(100, 1e30)]),
        "last value": np.concatenate([np.zeros(1599), [1e30]]),
        "first value": np.concatenate([[1e30], np.zeros(1599)]),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("horizon", [60, 300])
def test_no_series_makes_it_fail(forecaster: FrozenForecaster, horizon: int) -> None:
    series = odd_series()
    configs = [ForecastConfig(context_len=5), *CONFIGS]
    grid = forecaster.forecast_grid(
        np.array(list(series.values()), dtype=np.float32), [1599], configs, horizon
    )
    finite = dict(zip(series, np.isfinite(grid).all(axis=(1, 2, 3, 4)), strict=True))
    assert all(finite.values()), finite
    named = dict(zip(series, grid[:, 0], strict=True))
    for name, value in (
        ("zero", 0.0),
        ("constant", np.float32(7.3)),
        ("large constant", np.float32(1.1e12)),
    ):
        assert (named[name] == value).all()


@pytest.mark.parametrize(("name", "scale"), [("tiny", 1e-9), ("huge", 1e12), ("enormous", 1e30)])
def test_the_unit_of_a_series_does_not_matter(
    forecaster: FrozenForecaster, name: str, scale: float
) -> None:
    series = odd_series()
    values = np.array([series["ordinary"], series[name]], dtype=np.float32)
    grid = forecaster.forecast_grid(values, [1599], CONFIGS, 200)
    spread = values[0].std()
    assert np.abs(grid[0] - grid[1].astype(np.float64) / scale).max() < 1e-4 * spread


def test_a_high_level_costs_no_accuracy(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    low = (np.round(telemetry[:1] * 1024) / 1024).astype(np.float32)
    high = low + np.float32(4096)
    assert ((high - np.float32(4096)) == low).all()
    grids = [
        forecaster.forecast_grid(values, [2000], [CTX64, CTX512], 60).astype(np.float64)
        for values in (low, high)
    ]
    np.testing.assert_allclose(grids[1] - 4096, grids[0], atol=1e-3)


@pytest.mark.parametrize(
    ("origins", "error", "message"),
    [
        ([2200], ValueError, r"origins lie in 2200..2200; allowed: 0..2199"),
        ([-1], ValueError, r"-1..-1; allowed"),
        ([1.5], TypeError, "float64; allowed: integers"),
        (np.zeros((3, 2), dtype=int), ValueError, r"shape \(3, 2\); allowed: .* S = 4"),
    ],
)
def test_wrong_origins_are_refused(
    forecaster: FrozenForecaster,
    telemetry: np.ndarray,
    origins: object,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        forecaster.forecast_grid(telemetry, origins, [CTX64], 60)  # type: ignore[arg-type]


def test_horizons_out_of_range_are_refused(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="horizon is 0; allowed"):
        forecaster.forecast_grid(telemetry, [2000], [CTX64], 0)
    with pytest.raises(
        ValueError, match=r"ctx16384 with horizon 60 takes 16512 points.* allows 16384"
    ):
        forecaster.forecast_grid(telemetry, [2000], [ForecastConfig(context_len=16_384)], 60)


def test_empty_questions_have_empty_answers(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    assert forecaster.forecast_grid(telemetry, np.empty(0, dtype=int), CONFIGS, 60).shape == (
        4,
        0,
        4,
        60,
        10,
    )
    assert forecaster.forecast_grid(telemetry, [2000], [], 60).shape == (4, 1, 0, 60, 10)
