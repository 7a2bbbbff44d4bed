"""Test that a model given as a function of windows gets the same result for every configuration as
the engine does with that model.
"""

import numpy as np
import pytest

from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.forecaster.other_models import WindowForecaster

CONFIGS = [
    ForecastConfig.from_name(name)
    for name in ("ctx64", "ctx320-r5", "ctx64-s1x3", "ctx64-log", "ctx70", "ctx64-s2x2")
]
HORIZON = 40


@pytest.fixture
def as_a_function(forecaster: FrozenForecaster) -> WindowForecaster:
    def predict(windows: np.ndarray, n_points: int) -> np.ndarray:
        whole = ForecastConfig(context_len=windows.shape[1])
        return forecaster.forecast_grid(windows, [windows.shape[1] - 1], [whole], n_points)[:, 0, 0]

    return WindowForecaster(predict)


def test_it_is_the_engine_for_the_same_model(
    as_a_function: WindowForecaster, forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    values = np.abs(telemetry)
    values[2, :600] = np.nan
    panel, origins = Panel(values, seasons=(288,), lower=0.0), np.tile([63, 700, 1500], (4, 1))
    expected = forecaster.forecast_grid(panel, origins, CONFIGS, HORIZON)
    found = as_a_function.forecast_grid(panel, origins, CONFIGS, HORIZON)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    scale = np.nanmean(np.abs(np.diff(values)), axis=1)[:, None, None, None, None]
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-3)
    assert np.isfinite(found).any(axis=(0, 1, 3, 4)).tolist() == [
        True,
        True,
        True,
        True,
        True,
        False,
    ]


def test_offsets_are_origins_of_their_own(
    as_a_function: WindowForecaster, telemetry: np.ndarray
) -> None:
    panel, origins, offsets = Panel(telemetry), np.full((4, 1), 1500), (0, 50, 96)
    at_each = as_a_function.forecast_grid(panel, origins - offsets, CONFIGS[:2], HORIZON)
    np.testing.assert_array_equal(
        as_a_function.forecast_offsets(panel, origins, offsets, CONFIGS[:2], HORIZON), at_each
    )
    np.testing.assert_array_equal(
        as_a_function.forecast_offsets(panel, origins, offsets, CONFIGS[:2], HORIZON, wanted=[2]),
        at_each[:, 2:],
    )


def test_an_answer_of_another_shape_is_refused(telemetry: np.ndarray) -> None:
    quantiles_only = WindowForecaster(
        lambda windows, n_points: np.zeros((len(windows), n_points, 9))
    )
    with pytest.raises(
        ValueError, match=r"returned \(4, 40, 9\) for 4 windows; expected \(4, 40, 10\)"
    ):
        quantiles_only.forecast_grid(telemetry, np.array([700]), CONFIGS[:1], HORIZON)
