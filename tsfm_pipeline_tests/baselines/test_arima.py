"""Test that the filter and the forecasts of ARIMA(1,0,1) equal those of statsmodels, and that
failures are reported.
"""

import numpy as np
import numpy.typing as npt
import pytest

from tsfm_pipeline.baselines.arima import Arima101, ArmaFit, filter_arma, forecast_arma
from tsfm_pipeline.forecaster import Panel

pytestmark = pytest.mark.heavy

Values = npt.NDArray[np.float32]


def arma(phi: float, theta: float, sigma: float, seed: int = 0, n_steps: int = 3000) -> Values:
    """One series [1, T] of that process around 5."""
    shocks = np.random.default_rng(seed).normal(0, sigma, n_steps + 1)
    values = np.zeros(n_steps)
    for step in range(1, n_steps):
        values[step] = phi * values[step - 1] + shocks[step] + theta * shocks[step - 1]
    return (5 + values[None]).astype(np.float32)


def parameters(phi: float, theta: float, sigma: float) -> ArmaFit:
    one = np.ones(1)
    nothing = np.zeros(1, dtype=bool)
    return ArmaFit(
        phi * one, theta * one, sigma * one, 0 * one, one, np.zeros(1, np.int64), nothing, nothing
    )


@pytest.mark.parametrize(("phi", "theta"), [(0.9, -0.4), (0.98, 0.9), (-0.5, 0.3), (0.7, 0.0)])
@pytest.mark.parametrize("with_gap", [False, True])
def test_filter_and_forecast_equal_statsmodels(phi: float, theta: float, with_gap: bool) -> None:
    from statsmodels.tsa.arima.model import ARIMA

    values = arma(phi, theta, 0.5, n_steps=60)[:, :40] - 5
    if with_gap:
        values[0, [0, 5, 6, 7, 39]] = np.nan
    origins = np.array([[2, 6, 39]])
    fit = parameters(phi, theta, 0.5)
    mean, variance = forecast_arma(fit, *filter_arma(fit, values, origins), 12)
    for request, origin in enumerate(origins[0]):
        model = ARIMA(values[0, : origin + 1].astype(np.float64), order=(1, 0, 1), trend="n")
        forecast = model.filter([phi, theta, 0.25]).get_forecast(12)
        np.testing.assert_allclose(mean[0, request], forecast.predicted_mean, atol=1e-9)
        np.testing.assert_allclose(variance[0, request], forecast.se_mean**2, rtol=1e-9)


def test_the_fit_finds_the_process_and_does_so_on_any_scale() -> None:
    values = arma(0.9, -0.4, 0.5)
    fit = Arima101(fit_end=3000).fit(Panel(np.concatenate([values, values * 1e9, values * 1e-9])))
    np.testing.assert_allclose(fit.phi, 0.9, atol=0.03)
    np.testing.assert_allclose(fit.theta, -0.4, atol=0.06)
    np.testing.assert_allclose(fit.sigma * fit.scale / [1, 1e9, 1e-9], 0.5, atol=0.02)
    assert fit.n_fallbacks == 0


def test_each_decile_covers_its_share() -> None:
    values = arma(0.9, -0.4, 0.5, seed=3, n_steps=9000)
    origins = np.arange(3000, 8900, 40)[None]
    deciles = Arima101(fit_end=3000).forecast(Panel(values), origins, 20)
    actual = values[0, origins[0][:, None] + np.arange(1, 21)]
    coverage = (actual[..., None] <= deciles[0]).mean(axis=(0, 1))
    np.testing.assert_allclose(coverage, np.arange(1, 10) / 10, atol=0.06)


def test_only_the_last_4000_observed_points_before_fit_end_are_fitted() -> None:
    values = arma(0.9, -0.4, 0.5, n_steps=6000)
    earlier = values.copy()
    earlier[0, :1000] = 1e6
    earlier[0, 5000:] = -1e6
    origins = np.array([[4999]])
    forecasts = [
        Arima101(fit_end=5000).forecast(Panel(panel), origins, 5) for panel in (values, earlier)
    ]
    np.testing.assert_array_equal(*forecasts)


def test_a_series_that_the_optimiser_cannot_fit_falls_back_and_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = arma(0.5, 0.0, 1.0, n_steps=500)
    monkeypatch.setattr(
        "tsfm_pipeline.baselines.arima.MAX_WIDTH_RATIO", 0.1
    )  # no fit is that narrow
    baseline = Arima101(fit_end=400)
    deciles = baseline.forecast(Panel(values), np.array([[450]]), 9)
    assert baseline.n_fallbacks == 1
    np.testing.assert_allclose(deciles[0, 0, :, 4], values[0, 450], rtol=1e-6)
    width = np.sqrt(np.mean(np.diff(values[0, :400].astype(np.float64)) ** 2))
    np.testing.assert_allclose(
        deciles[0, 0, :, 8] - values[0, 450],
        1.2815516 * width * np.sqrt(np.arange(1, 10)),
        rtol=1e-4,
    )


def test_a_series_that_was_constant_is_forecast_at_its_last_value() -> None:
    values = np.full((1, 500), 2.0, dtype=np.float32)
    values[0, 450:] = 7.0
    deciles = Arima101(fit_end=400).forecast(Panel(values), np.array([[440, 460]]), 9)
    assert (deciles[0, 0] == 2.0).all()
    assert (deciles[0, 1] == 7.0).all()


@pytest.mark.parametrize(
    "series",
    [
        np.arange(500.0),
        np.eye(1, 500, 250)[0],
        np.repeat([0.0, 1.0], 250),
        (-1.0) ** np.arange(500),
        np.exp(np.arange(500) / 20),
        np.random.default_rng(0).standard_cauchy(500),
        1 + 1e-7 * np.arange(500),
    ],
    ids=["trend", "spike", "level shift", "alternating", "explosion", "cauchy", "nearly constant"],
)
def test_awkward_series_get_finite_forecasts(series: npt.NDArray[np.float64]) -> None:
    deciles = Arima101(fit_end=450).forecast(
        Panel(series.astype(np.float32)[None]), np.array([[449, 480]]), 60
    )
    assert np.isfinite(deciles).all()


def test_thirty_points_suffice_and_fewer_do_not() -> None:
    values = arma(0.5, 0.0, 1.0, n_steps=40)
    origins = np.array([[35]])
    assert np.isfinite(Arima101(fit_end=30).forecast(Panel(values), origins, 3)).all()
    assert np.isnan(Arima101(fit_end=29).forecast(Panel(values), origins, 3)).all()


def test_origins_within_the_fitted_history_are_refused() -> None:
    values = arma(0.5, 0.0, 1.0, n_steps=400)
    with pytest.raises(
        ValueError, match=r"origins begin at 298.*sees steps up to 299.*from fit_end - 1 on"
    ):
        Arima101(fit_end=300).forecast(Panel(values), np.array([[298, 350]]), 3)
    with pytest.raises(ValueError, match="fit_end is -1"):
        Arima101(fit_end=-1)
