"""Test passes that serve many origins: the contexts that their members see, their cost, and that
each equals a call on the prefix.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.plan import plan_grid, shared_passes

HOURS = tuple(160 * i for i in range(13))


@given(
    context_len=st.sampled_from([32, 64, 96, 256, 512, 1440, 2048, 4096]),
    resolution=st.sampled_from([1, 5, 15]),
    offsets=st.sets(st.integers(1, 200).map(lambda i: 32 * i), max_size=16),
    odd=st.sets(st.integers(1, 6000), max_size=3),
)
def test_every_offset_is_served_once_with_about_its_own_context(
    context_len: int, resolution: int, offsets: set[int], odd: set[int]
) -> None:
    config = ForecastConfig(
        context_len=context_len // resolution * resolution or resolution, resolution=resolution
    )
    ordered = (0, *sorted(offsets | odd))
    served = {}
    for part in shared_passes(config, ordered):
        for j, back in zip(part.offset_index, part.patches_back, strict=True):
            assert j not in served
            assert part.end_offset + 32 * resolution * back == ordered[j]
            served[j] = (part.n_points - 32 * back) * resolution
    assert set(served) == set(range(len(ordered)))
    assert served[0] == config.context_len
    assert all(
        config.context_len / 2 <= context <= 1.5 * config.context_len for context in served.values()
    )


def test_sixteen_validation_origins_cost_at_most_twice_the_plain_forecasts() -> None:
    configs = [ForecastConfig(context_len=length) for length in (512, 1024, 2048, 4096)]
    panel = Panel(np.zeros((1, 9000), np.float32))
    origins = np.array([[8999]])
    offsets = tuple(160 * i for i in range(17))
    plain = plan_grid(panel, origins, configs, 60, 10**9).n_tokens
    validated = plan_grid(panel, origins, configs, 60, 10**9, offsets).n_tokens
    assert validated - plain <= 2 * plain


@pytest.mark.parametrize(
    "config",
    [ForecastConfig(context_len=512), ForecastConfig(context_len=1300, resolution=5)],
    ids=lambda c: c.name,
)
def test_a_member_of_a_pass_equals_a_call_on_the_prefix(
    forecaster: FrozenForecaster, telemetry: np.ndarray, config: ForecastConfig
) -> None:
    offsets = tuple(o for o in HOURS if o <= 640)
    shared = forecaster.forecast_offsets(telemetry, [2199], offsets, [config], 60)
    for part in shared_passes(config, offsets):
        for j, back in zip(part.offset_index, part.patches_back, strict=True):
            context = (part.n_points - 32 * back) * config.resolution
            prefix = ForecastConfig(context_len=context, resolution=config.resolution)
            alone = forecaster.forecast_grid(
                telemetry[:, : 2200 - offsets[j]], [2199 - offsets[j]], [prefix], 60
            )[:, 0]
            np.testing.assert_allclose(shared[:, j], alone, rtol=1e-5, atol=1e-5 * telemetry.std())
    assert any(len(part.offset_index) > 1 for part in shared_passes(config, offsets))


def test_the_offset_zero_is_the_plain_forecast_and_nothing_after_an_offset_is_used(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    configs = [
        ForecastConfig.from_name(name)
        for name in ("ctx64", "ctx512", "ctx960-r15", "ctx96-s1x3", "ctx128-log")
    ]
    panel = Panel(telemetry, seasons=(320,), lower=float(telemetry.min()))
    offsets = (0, 160, 320, 480)
    grid = forecaster.forecast_offsets(panel, [2100], offsets, configs, 60)
    np.testing.assert_allclose(
        grid[:, :1],
        forecaster.forecast_grid(panel, [2100], configs, 60),
        rtol=1e-5,
        atol=1e-5 * telemetry.std(),
    )
    assert np.isfinite(grid).all()
    changed = telemetry.copy()
    changed[:, 2100 - 320 + 1 :] = 0.5 * (telemetry.min() + telemetry.max())
    after = forecaster.forecast_offsets(
        Panel(changed, seasons=(320,), lower=panel.lower), [2100], offsets, configs, 60
    )
    np.testing.assert_allclose(grid[:, 2:], after[:, 2:], rtol=1e-5, atol=1e-5 * telemetry.std())
    assert not np.allclose(grid[:, :2], after[:, :2], rtol=1e-3)


def test_only_what_is_wanted_is_returned(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    configs = [ForecastConfig(context_len=64), ForecastConfig(context_len=512)]
    everything = forecaster.forecast_offsets(telemetry, [1900, 2100], (0, 160, 320), configs, 60)
    wanted = forecaster.forecast_offsets(
        telemetry, [1900, 2100], (0, 160, 320), configs, 60, wanted=(1, 2)
    )
    np.testing.assert_allclose(
        wanted, everything[:, [1, 2, 4, 5]], rtol=1e-5, atol=1e-5 * telemetry.std()
    )


def test_offsets_that_are_no_steps_back_are_refused(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    for offsets in ((0, -60), (160, 0), (0, 0)):
        with pytest.raises(ValueError, match="offsets are"):
            forecaster.forecast_offsets(
                telemetry, [2000], offsets, [ForecastConfig(context_len=64)], 60
            )


def test_after_a_long_gap_every_forecast_is_that_of_the_telemetry_since_then(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    configs = [ForecastConfig.from_name(name) for name in ("ctx64", "ctx512", "ctx640-r5")]
    offsets, origin, resumed = (0, 160, 320, 480, 640), 2199, 1500
    gappy = telemetry.copy()
    gappy[:, 900:resumed] = np.nan
    panel = Panel(gappy, max_gap=30)
    own = forecaster.forecast_offsets(panel, [origin], offsets, configs, 60)
    alone = forecaster.forecast_offsets(
        telemetry[:, resumed:], [origin - resumed], offsets, configs, 60
    )
    np.testing.assert_array_equal(own, alone)
    assert np.isfinite(own[:, 0]).all()
    available = np.isfinite(own).all(axis=(0, 3, 4))
    assert available[:, 1].tolist() == [True, True, False, False, False], "512 of 700 steps"
    across = forecaster.forecast_offsets(Panel(gappy), [origin], offsets, configs, 60)
    assert np.isfinite(across).all()


def test_before_a_long_gap_and_at_its_end_the_earlier_telemetry_is_used(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    config = [ForecastConfig(context_len=512)]
    gappy = telemetry.copy()
    gappy[:, 900:1500] = np.nan
    origins = [899, 1499, 1530]
    own = forecaster.forecast_grid(Panel(gappy, max_gap=30), origins, config, 60)
    filled = forecaster.forecast_grid(Panel(gappy), origins, config, 60)
    np.testing.assert_array_equal(own, filled)
    assert np.isfinite(own).all()


def test_a_forecast_has_a_window_of_its_own_where_the_shared_one_begins_too_early() -> None:
    config = [ForecastConfig(context_len=256)]
    panel = Panel(np.zeros((1, 480), np.float32))
    offsets = (0, 160, 320)
    plan = plan_grid(panel, np.array([[479]]), config, 60, 10**9, offsets)
    served = [column for batch in plan.batches for column in batch.origin_index.tolist()]
    assert sorted(served) == [0, 1]
