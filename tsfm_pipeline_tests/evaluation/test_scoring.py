"""Test that the scores of a method equal those computed by hand from its decisions and deciles."""

import numpy as np
import pytest

from tsfm_pipeline.evaluation.arrays import tier_losses
from tsfm_pipeline.evaluation.losses import crps_from_deciles, series_scale
from tsfm_pipeline.evaluation.protocol import ALPHAS
from tsfm_pipeline.evaluation.scoring import SCORE_COLUMNS, MethodForecast, score

NAN = np.nan
DECILES = np.tile(np.arange(1.0, 10.0), (1, 1, 4, 1))  # [R, D, H, 9]
ACTUAL = np.array([[[10.0, 5.0, 0.0, NAN]]])


def test_a_method_decides_at_the_quantile_of_each_tier() -> None:
    forecast = MethodForecast.from_deciles(DECILES, ALPHAS)
    np.testing.assert_allclose(forecast.decision[0, 0, :, 0], [9.0, 7.5, 6.5])
    assert forecast.decision.shape == (1, 1, 3, 4)


def test_scores_by_hand() -> None:
    scores = score(ACTUAL, MethodForecast.from_deciles(DECILES, ALPHAS), ALPHAS)
    assert set(scores) == set(SCORE_COLUMNS)
    premium = {
        name: float(values[0, 0, 0]) for name, values in scores.items()
    }  # decision 9 against 10, 5, 0
    assert premium["loss"] == pytest.approx((0.9 * 1 + 0.1 * 4 + 0.1 * 9) / 3)
    assert premium["violation_rate"] == pytest.approx(1 / 3)
    assert premium["slack"] == pytest.approx((4 + 9) / 3)
    assert premium["shortfall"] == pytest.approx(1 / 3)
    basic = {name: float(values[0, 0, 2]) for name, values in scores.items()}  # decision 6.5
    assert basic["slack"] == pytest.approx((1.5 + 6.5) / 3)
    assert basic["shortfall"] == pytest.approx(3.5 / 3)
    assert basic["loss"] == pytest.approx((0.65 * 3.5 + 0.35 * 8) / 3)
    assert (
        basic["crps"]
        == premium["crps"]
        == pytest.approx(float(crps_from_deciles(ACTUAL, DECILES)[0, 0]))
    )


def test_the_loss_is_priced_slack_and_shortfall() -> None:
    rng = np.random.default_rng(0)
    actual, deciles = rng.normal(size=(5, 2, 8)), np.sort(rng.normal(size=(5, 2, 8, 9)), axis=-1)
    scores = score(actual, MethodForecast.from_deciles(deciles, ALPHAS), ALPHAS)
    expected = np.array(ALPHAS) * scores["shortfall"] + (1 - np.array(ALPHAS)) * scores["slack"]
    np.testing.assert_allclose(scores["loss"], expected, rtol=1e-5)
    losses, violations = tier_losses(actual, deciles, ALPHAS)
    np.testing.assert_allclose(scores["loss"], losses, rtol=1e-6)
    np.testing.assert_array_equal(scores["violation_rate"], violations)


def test_decisions_are_scored_as_they_were_emitted_and_not_read_from_the_deciles_again() -> None:
    """Row 2 of docs/evidence-protocol.md#mistakes-made-impossible: what is emitted is what is
    scored. A median emitted at every tier is scored as the median.
    """
    median = MethodForecast(np.full((1, 1, 3, 4), 5.0), DECILES[:, :, None])
    scores = score(ACTUAL, median, ALPHAS)
    np.testing.assert_allclose(
        scores["loss"][0, 0], [(alpha * 5 + (1 - alpha) * 5) / 3 for alpha in ALPHAS]
    )
    np.testing.assert_allclose(scores["violation_rate"], 1 / 3)


def test_tiers_may_have_deciles_of_their_own() -> None:
    deciles = np.stack([DECILES, DECILES + 1, DECILES + 2], axis=2)
    scores = score(ACTUAL, MethodForecast(np.zeros((1, 1, 3, 4)), deciles), ALPHAS)
    for a in range(3):
        assert scores["crps"][0, 0, a] == pytest.approx(
            float(crps_from_deciles(ACTUAL, DECILES + a)[0, 0])
        )


def test_a_failed_forecast_and_an_unobserved_outcome_have_no_score_at_all() -> None:
    deciles = np.tile(np.arange(1.0, 10.0), (3, 1, 4, 1))
    deciles[0, 0, 1] = NAN
    actual = np.tile(ACTUAL, (3, 1, 1))
    actual[1] = NAN
    scores = score(actual, MethodForecast.from_deciles(deciles, ALPHAS), ALPHAS)
    for values in scores.values():
        assert np.isnan(values[:2]).all()
        assert np.isfinite(values[2]).all()


@pytest.mark.parametrize("unit", [1e-6, 1e9])
def test_scaled_losses_do_not_depend_on_the_unit_of_a_metric(unit: float) -> None:
    """Row 5 of docs/evidence-protocol.md#mistakes-made-impossible: losses in raw units were
    summed over metrics, so bytes per second decided everything.
    """
    rng = np.random.default_rng(1)
    history, actual, deciles = (
        rng.normal(size=(2, 200)),
        rng.normal(size=(1, 2, 8)),
        np.sort(rng.normal(size=(1, 2, 8, 9)), axis=-1),
    )
    units = np.array([1.0, unit])
    plain, other = (
        score(
            actual * u[:, None],
            MethodForecast.from_deciles(deciles * u[:, None, None], ALPHAS),
            ALPHAS,
        )["loss"]
        / series_scale(history * u[:, None], 200)[:, None]
        for u in (np.ones(2), units)
    )
    np.testing.assert_allclose(plain, other, rtol=1e-5)
    raw = score(
        actual * units[:, None],
        MethodForecast.from_deciles(deciles * units[:, None, None], ALPHAS),
        ALPHAS,
    )["loss"]
    assert raw[0, 0].max() / raw[0, 1].min() > 1e4 or raw[0, 1].max() / raw[0, 0].min() > 1e4
