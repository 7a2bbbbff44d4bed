"""Test MASE, CRPS and MAE against values worked out by hand and against gluonts."""

import math

import numpy as np
import pytest

from tsfm_pipeline.evaluation.benchmark_scores import Scores, seasonal_error

NAN = math.nan


def flat(level: float, n_windows: int = 1, n_steps: int = 2) -> np.ndarray:
    """Deciles [W, H, 9] that all equal one level."""
    return np.full((n_windows, n_steps, 9), level)


def scored(actual: list[list[float]], deciles: np.ndarray, errors: list[float]) -> Scores:
    scores = Scores()
    scores.add(np.array(actual), deciles, np.array(errors))
    return scores


def test_the_seasonal_error_by_hand() -> None:
    history = np.array([1.0, 2.0, 4.0, 3.0, 7.0], dtype=np.float32)
    assert seasonal_error(history, 1) == pytest.approx((1 + 2 + 1 + 4) / 4)
    assert seasonal_error(history, 2) == pytest.approx((3 + 1 + 3) / 3)


def test_the_seasonal_error_counts_pairs_of_known_values() -> None:
    history = np.array([1.0, NAN, 4.0, 3.0, 7.0, NAN])
    assert seasonal_error(history, 2) == pytest.approx((3 + 3) / 2)


def test_a_season_longer_than_the_history_counts_as_one_step() -> None:
    history = np.array([1.0, 2.0, 4.0])
    assert seasonal_error(history, 24) == pytest.approx(1.5)
    assert math.isnan(seasonal_error(history, 3)), "as long as the history: no pair"


def test_mase_mae_and_crps_by_hand() -> None:
    # Errors of 1 and 3 against a flat forecast of 4; all quantile losses sum to 2 * mean(levels) * 4
    # over sum |actual| = 12, and the mean of the levels is one half.
    scores = scored([[5.0, 7.0]], flat(4.0), [2.0])
    assert scores.mase == pytest.approx((1 / 2 + 3 / 2) / 2)
    assert scores.mae == pytest.approx(2.0)
    assert scores.crps == pytest.approx(4 / 12)


def test_crps_weighs_over_and_under_by_the_level_of_the_decile() -> None:
    deciles = np.array([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]]])
    scores = scored([[5.0]], deciles, [1.0])
    loss = 2 * (0.1 * 4 + 0.2 * 3 + 0.3 * 2 + 0.4 * 1) * 2  # the two sides are alike
    assert scores.crps == pytest.approx(loss / 9 / 5)
    assert scores.mae == 0.0


def test_missing_values_are_not_scored() -> None:
    scores = scored([[5.0, NAN]], flat(4.0), [2.0])
    assert (scores.n_points, scores.mae, scores.mase) == (1, 1.0, 0.5)
    assert scores.crps == pytest.approx(1 / 5)


def test_windows_without_a_scale_count_for_crps_and_not_for_mase() -> None:
    actual = [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]
    scores = scored(actual, flat(4.0, n_windows=3), [2.0, 0.0, NAN])
    assert scores.mase == 0.5, "of the first window alone"
    assert scores.mae == 1.0
    assert math.isnan(scored([[5.0, 5.0]], flat(4.0), [0.0]).mase)


def test_a_series_of_zeros_has_no_crps() -> None:
    assert math.isinf(scored([[0.0, 0.0]], flat(1.0), [1.0]).crps)
    assert math.isnan(scored([[0.0, 0.0]], flat(0.0), [1.0]).crps)
    assert math.isnan(scored([[NAN, NAN]], flat(0.0), [1.0]).mae)


def test_a_forecast_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="a forecast is not finite"):
        scored([[1.0, 2.0]], flat(NAN), [1.0])


def test_the_scores_equal_those_of_gluonts() -> None:
    """Two series, two windows of two steps each, season 3.

    Reference: gluonts 0.15.1, evaluate_forecasts(..., metrics=[MASE(), MAE(),
    MeanWeightedSumQuantileLoss(deciles)], axis=None, mask_invalid_label=True, seasonality=3).
    """
    series = [
        np.array([1, 2, 4, 3, 5, NAN, 6, 8, 7, 9, 12, 10], dtype=np.float32),
        np.array([0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 1, 0], dtype=np.float32),
    ]
    spans = [[(6, 10), (8, 12)], [(0, 2), (-1, 1)]]
    scores = Scores()
    for values, limits in zip(series, spans, strict=True):
        deciles = np.stack([np.tile(np.linspace(*own, 9), (2, 1)) for own in limits])
        errors = np.array([seasonal_error(values[:end], 3) for end in (8, 10)])
        scores.add(values[8:].reshape(2, 2), deciles, errors)
    assert scores.mase == pytest.approx(2.4926948051948052, rel=1e-6)
    assert scores.mae == pytest.approx(1.0, rel=1e-6)
    assert scores.crps == pytest.approx(0.15079365079365079, rel=1e-6)
