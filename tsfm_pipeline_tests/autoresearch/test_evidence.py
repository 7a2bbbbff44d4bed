"""Test that evidence is the loss of each configuration at earlier origins, and uses nothing that
was unknown at the request's origin.
"""

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.evidence import forecast_with_evidence, validation_losses
from tsfm_pipeline.evaluation.losses import decision_quantile, mean_pinball
from tsfm_pipeline.evaluation.protocol import ALPHAS
from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster

CONFIGS = tuple(ForecastConfig.from_name(name) for name in ("ctx32", "ctx96", "ctx240-r15"))
HORIZON = 20
OFFSETS = (20, 40, 96)


def test_it_is_what_a_loop_over_single_forecasts_finds(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    origins = np.array([[400, 650], [500, 679], [450, 600]])
    losses, violations = validation_losses(
        forecaster, Panel(telemetry), origins, CONFIGS, HORIZON, OFFSETS, ALPHAS
    )
    assert losses.shape == violations.shape == (3, 2, len(CONFIGS), len(OFFSETS), len(ALPHAS))
    for s, o, k, j in np.ndindex(losses.shape[:4]):
        earlier = int(origins[s, o]) - OFFSETS[j]
        columns = forecaster.forecast_grid(telemetry[[s]], [earlier], [CONFIGS[k]], HORIZON)[
            0, 0, 0
        ]  # [H, 10]
        actual = telemetry[s, earlier + 1 : earlier + 1 + HORIZON]
        for a, alpha in enumerate(ALPHAS):
            decision = decision_quantile(columns[:, 1:], alpha)
            assert losses[s, o, k, j, a] == pytest.approx(
                mean_pinball(actual, decision, alpha), rel=1e-3
            )
            assert violations[s, o, k, j, a] == pytest.approx((actual > decision).mean(), abs=0.051)


def test_a_window_has_the_real_horizon_and_ends_before_the_origin(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    with pytest.raises(
        ValueError, match=r"offsets \(19, 40\) must all be at least the horizon, 20 steps"
    ):
        validation_losses(
            forecaster, Panel(telemetry), np.full((3, 1), 500), CONFIGS, HORIZON, (19, 40), ALPHAS
        )


def test_noise_after_the_origin_changes_nothing(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    origin = 500
    noise = telemetry.copy()
    noise[:, origin + 1 :] = np.random.default_rng(0).exponential(
        1e7, (3, telemetry.shape[1] - origin - 1)
    )
    asked = (CONFIGS, HORIZON, OFFSETS, ALPHAS)
    before, after = (
        validation_losses(forecaster, Panel(v), np.full((3, 1), origin), *asked)
        for v in (telemetry, noise)
    )
    np.testing.assert_array_equal(before, after)
    live, shuffled = (
        forecast_with_evidence(forecaster, Panel(v), np.full((3, 1), origin), *asked)
        for v in (telemetry, noise)
    )
    for part, other in zip(live, shuffled, strict=True):
        np.testing.assert_array_equal(part, other)


def test_the_last_step_before_the_origin_is_heard(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    raised = telemetry.copy()
    raised[:, 500] *= 10
    before, after = (
        validation_losses(
            forecaster, Panel(v), np.full((3, 1), 500), CONFIGS, HORIZON, OFFSETS, ALPHAS
        )[0]
        for v in (telemetry, raised)
    )
    assert (before[:, :, :, 0] != after[:, :, :, 0]).all()
    np.testing.assert_array_equal(before[:, :, :, 1:], after[:, :, :, 1:])


def test_what_the_history_does_not_reach_is_unavailable(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    losses, violations = validation_losses(
        forecaster, Panel(telemetry), np.full((3, 1), 80), CONFIGS, HORIZON, OFFSETS, ALPHAS
    )
    reached = [[80 - offset >= config.context_len - 1 for offset in OFFSETS] for config in CONFIGS]
    assert np.any(reached)
    assert not np.all(reached)
    for scores in (losses, violations):
        np.testing.assert_array_equal(
            np.isfinite(scores), np.broadcast_to(np.array(reached)[:, :, None], scores.shape)
        )


def test_a_validation_origin_before_the_first_step_is_no_other_origin(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    """A context of one step could answer at step 0, which is not where the validation origin would
    lie.
    """
    shortest = (ForecastConfig(context_len=1),)
    losses, _ = validation_losses(
        forecaster, Panel(telemetry), np.full((3, 1), 50), shortest, HORIZON, OFFSETS, ALPHAS
    )
    np.testing.assert_array_equal(np.isfinite(losses[0, 0, 0, :, 0]), [True, True, False])


def test_imputed_values_are_never_scored(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    """The outcome of the nearest window is missing in part, that of the second one entirely."""
    gaps = telemetry.copy()
    origin = 500
    gaps[:, 485:501] = np.nan
    gaps[:, 461:481] = np.nan
    losses, _ = validation_losses(
        forecaster, Panel(gaps), np.full((3, 1), origin), CONFIGS[:1], HORIZON, OFFSETS, ALPHAS
    )
    assert np.isnan(losses[:, 0, 0, 1]).all()
    columns = forecaster.forecast_grid(gaps, [480], CONFIGS[:1], HORIZON)[:, 0, 0]
    expected = mean_pinball(gaps[:, 481:485], decision_quantile(columns[:, :4, 1:], 0.9), 0.9)
    np.testing.assert_allclose(losses[:, 0, 0, 0, 0], expected, rtol=1e-3)


def test_a_request_and_a_batch_of_requests_have_the_same_evidence(
    forecaster: FrozenForecaster, telemetry: np.ndarray
) -> None:
    panel = Panel(telemetry)
    asked = (CONFIGS, HORIZON, OFFSETS, ALPHAS)
    batch = validation_losses(forecaster, panel, np.tile([300, 500, 650], (3, 1)), *asked)
    deciles, losses, violations = (
        part[:, 0]
        for part in forecast_with_evidence(forecaster, panel, np.full((3, 1), 500), *asked)
    )
    np.testing.assert_allclose(losses, batch[0][:, 1], rtol=1e-3)
    np.testing.assert_allclose(violations, batch[1][:, 1], atol=0.051)
    grid = forecaster.forecast_grid(panel, [500], CONFIGS, HORIZON)
    np.testing.assert_allclose(deciles, grid[:, 0, ..., 1:], rtol=1e-4)
