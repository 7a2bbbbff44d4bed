"""Test the three baselines of recent values against statsmodels, closed forms and worked examples."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from tsfm_pipeline.baselines import DIRECT_BASELINES
from tsfm_pipeline.baselines.smoothing import (
    N_ROLLING,
    N_SMOOTHED,
    SMOOTHING,
    VARIANCE_RATIOS,
    Ewma,
    LocalLevelKalman,
    RollingQuantile,
    filter_local_level,
    recent_values,
)
from tsfm_pipeline.forecaster import QUANTILE_LEVELS, Panel

HORIZON = 12
NORMAL_90 = 1.2815515655446004
SMOOTHED = ("ewma", "local_level_kalman", "rolling_quantile")

Values = npt.NDArray[np.float32]


def local_level(ratio: float, seed: int = 0, n_steps: int = 300, n_series: int = 1) -> Values:
    """Series [S, T] around 5: a random walk of variance `ratio` plus noise of variance 1."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, ratio**0.5, (n_series, n_steps)), axis=1)
    return (5 + walk + rng.normal(size=(n_series, n_steps))).astype(np.float32)


def last(values: Values) -> npt.NDArray[np.int64]:
    return np.full((len(values), 1), values.shape[1] - 1)


def forecast(name: str, values: Values, horizon: int = HORIZON) -> Values:
    """Deciles [H, 9] of the first series after its last step."""
    return DIRECT_BASELINES[name](0).forecast(Panel(values), last(values), horizon)[0, 0]


def with_gaps(values: Values) -> Values:
    gappy = values.copy()
    gappy[:, [0, 7, 20, 21, 22, 57, 58]] = np.nan
    return gappy


@pytest.mark.heavy
@pytest.mark.parametrize("ratio", [0.0, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("gaps", [False, True])
def test_filter_and_forecast_equal_statsmodels_for_given_variances(
    ratio: float, gaps: bool
) -> None:
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    values = local_level(max(ratio, 0.01), n_steps=60)
    values = with_gaps(values) if gaps else values
    recent = recent_values(values, last(values), N_SMOOTHED)
    filtered = filter_local_level(recent, np.array([0.5, ratio]))
    noise = filtered.noise[1, 0]
    model = UnobservedComponents(
        values[0].astype(np.float64), "llevel", use_exact_diffuse=True
    ).filter([noise, noise * ratio])
    expected = model.get_forecast(HORIZON)
    np.testing.assert_allclose(filtered.level[1, 0], expected.predicted_mean, rtol=1e-9)
    ahead = recent.steps_ahead(HORIZON)[0]
    variance = noise * (1 + filtered.variance[1, 0] + ratio * ahead)
    np.testing.assert_allclose(variance, expected.var_pred_mean, rtol=1e-9)


@pytest.mark.heavy
def test_the_likelihood_is_that_of_statsmodels_but_for_a_constant() -> None:
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    values = with_gaps(local_level(0.1, n_steps=80))
    filtered = filter_local_level(
        recent_values(values, last(values), N_SMOOTHED), np.array(VARIANCE_RATIOS)
    )
    model = UnobservedComponents(values[0].astype(np.float64), "llevel", use_exact_diffuse=True)
    expected = [
        model.loglike([noise, noise * ratio])
        for noise, ratio in zip(filtered.noise[:, 0], VARIANCE_RATIOS, strict=True)
    ]
    ours = filtered.likelihood[:, 0]
    np.testing.assert_allclose(ours - ours[0], np.array(expected) - expected[0], atol=1e-8)


@pytest.mark.parametrize("ratio", [0.01, 1.0])
def test_the_fit_finds_the_ratio_of_the_variances(ratio: float) -> None:
    values = local_level(ratio, n_steps=N_SMOOTHED, n_series=200)
    recent = recent_values(values, last(values), N_SMOOTHED)
    best = filter_local_level(recent, np.array(VARIANCE_RATIOS)).likelihood.argmax(axis=0)
    assert ratio / 4 < np.median(np.array(VARIANCE_RATIOS)[best]) < ratio * 4


@pytest.mark.parametrize("ratio", [0.01, 0.3])
def test_each_decile_of_a_local_level_covers_its_share(ratio: float) -> None:
    values = local_level(ratio, seed=4, n_steps=200, n_series=800)
    deciles = LocalLevelKalman().forecast(
        Panel(values), np.full((len(values), 1), 200 - HORIZON - 1), HORIZON
    )
    share = (values[:, -HORIZON:, None] <= deciles[:, 0]).mean(axis=(0, 1))
    np.testing.assert_allclose(share, QUANTILE_LEVELS, atol=0.04)


@pytest.mark.parametrize("gaps", [False, True])
def test_the_average_is_the_recursion_and_widens_as_its_variance_does(gaps: bool) -> None:
    values = local_level(0.1, n_steps=N_SMOOTHED)
    values = with_gaps(values) if gaps else values
    steps = np.flatnonzero(np.isfinite(values[0]))
    level, squares = float(values[0, steps[0]]), 0.0
    for before, step in pairwise(steps):
        surprise = float(values[0, step]) - level
        squares += surprise**2 / (1 + (step - before - 1) * SMOOTHING**2)
        level += SMOOTHING * surprise
    deciles = forecast("ewma", values)
    np.testing.assert_allclose(deciles[:, 4], level, rtol=1e-6)
    variance = squares / (len(steps) - 1) * (1 + np.arange(HORIZON) * SMOOTHING**2)
    expected = level + NORMAL_90 * np.sqrt(variance)
    np.testing.assert_allclose(deciles[:, 8], expected, rtol=1e-6)


@pytest.mark.heavy
def test_the_average_and_its_errors_equal_those_of_statsmodels() -> None:
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    values = local_level(0.1, n_steps=100)
    observed = values[0].astype(np.float64)
    model = ETSModel(observed, initialization_method="known", initial_level=observed[0])
    fitted = model.smooth([SMOOTHING])
    deciles = forecast("ewma", values)
    np.testing.assert_allclose(deciles[:, 4], fitted.forecast(HORIZON), rtol=1e-6)
    # The error of the first value is 0 by definition, so it is not counted.
    one_step = (deciles[0, 8] - deciles[0, 4]) / NORMAL_90
    np.testing.assert_allclose(one_step**2, fitted.sse / 99, rtol=1e-5)


def test_the_average_is_the_filter_in_its_steady_state() -> None:
    """A gain a is that of a ratio a^2 / (1 - a); the variances then grow alike, also in gaps."""
    values = local_level(0.05, n_steps=400)
    values[0, -5:] = np.nan
    recent = recent_values(values, last(values), N_SMOOTHED)
    ratio = SMOOTHING**2 / (1 - SMOOTHING)
    filtered = filter_local_level(recent, np.array([ratio]))
    deciles = forecast("ewma", values)
    np.testing.assert_allclose(deciles[:, 4], filtered.level[0, 0], rtol=1e-6)
    ours = (deciles[:, 8] - deciles[:, 4]) ** 2
    theirs = 1 + filtered.variance[0, 0] + ratio * recent.steps_ahead(HORIZON)[0]
    np.testing.assert_allclose(ours / ours[0], theirs / theirs[0], rtol=1e-4)


def test_w1_rolling_quantiles_of_five_values() -> None:
    values = np.array([[0.1, 0.2, 0.3, 0.4, 0.5]], dtype=np.float32)
    deciles = forecast("rolling_quantile", values)
    np.testing.assert_allclose(deciles[0, [0, 4, 8]], [0.14, 0.30, 0.46], rtol=1e-6)
    for step in (2, 6, 12):
        widened = 0.3 + 0.16 * (1 + (step - 1) / 5) ** 0.5
        np.testing.assert_allclose(deciles[step - 1, [4, 8]], [0.3, widened], rtol=1e-6)


@pytest.mark.parametrize("name", SMOOTHED)
def test_w1_bands_are_ordered_and_widen_with_every_step(name: str) -> None:
    deciles = forecast(name, with_gaps(local_level(0.1)))
    assert (np.diff(deciles, axis=1) > 0).all()
    assert (np.diff(np.ptp(deciles, axis=1)) > 0).all()


@pytest.mark.parametrize("name", SMOOTHED)
def test_a_gap_before_the_origin_widens_the_forecast_and_moves_nothing(name: str) -> None:
    values = local_level(0.1)
    gappy = np.concatenate([values, np.full((1, 4), np.nan, dtype=np.float32)], axis=1)
    np.testing.assert_array_equal(forecast(name, gappy)[:8], forecast(name, values)[4:])


@pytest.mark.parametrize(
    ("name", "n_values"), [("ewma", N_SMOOTHED), ("local_level_kalman", N_SMOOTHED)]
)
def test_only_the_last_observed_values_count_however_long_ago(name: str, n_values: int) -> None:
    values = with_gaps(local_level(0.1))
    values[0, -150:-20] = np.nan
    n_before = np.count_nonzero(np.isfinite(values[0]))
    earlier = values.copy()
    earlier[0, np.flatnonzero(np.isfinite(values[0]))[: n_before - n_values]] = 1e6
    np.testing.assert_array_equal(forecast(name, values), forecast(name, earlier))
    one_more = values.copy()
    one_more[0, np.flatnonzero(np.isfinite(values[0]))[n_before - n_values]] = 1e6
    assert (forecast(name, values) != forecast(name, one_more)).any()


def test_rolling_quantiles_are_those_of_the_last_thirty_observed_values() -> None:
    values = with_gaps(local_level(0.1, n_steps=70))
    observed = values[0, np.isfinite(values[0])]
    expected = np.quantile(observed[-N_ROLLING:], QUANTILE_LEVELS)
    np.testing.assert_allclose(forecast("rolling_quantile", values)[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("baseline", "fewest"), [(Ewma, 10), (LocalLevelKalman, 10), (RollingQuantile, 5)]
)
def test_so_many_observed_values_suffice_and_fewer_do_not(
    baseline: type[Ewma | LocalLevelKalman | RollingQuantile], fewest: int
) -> None:
    values = local_level(0.1, n_steps=40)
    values[0, 3:9] = np.nan
    steps = np.flatnonzero(np.isfinite(values[0]))
    origins = np.array([[steps[fewest - 2], steps[fewest - 1]]])
    deciles = baseline().forecast(Panel(values), origins, HORIZON)
    assert np.isnan(deciles[0, 0]).all()
    assert np.isfinite(deciles[0, 1]).all()


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize(
    "series",
    [
        np.arange(500.0),
        np.eye(1, 500, 490)[0],
        np.repeat([0.0, 1.0], 250),
        (-1.0) ** np.arange(500),
        np.random.default_rng(0).standard_cauchy(500),
        1e33 * (-1.0) ** np.arange(500),
        1e-38 * np.arange(500),
    ],
    ids=["trend", "spike", "level shift", "alternating", "cauchy", "largest", "smallest"],
)
def test_awkward_series_get_finite_forecasts(name: str, series: npt.NDArray[np.float64]) -> None:
    assert np.isfinite(forecast(name, series.astype(np.float32)[None], 60)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SMOOTHED)
def test_nothing_observed_and_nothing_asked_are_no_errors(name: str) -> None:
    values = local_level(0.1, n_steps=60, n_series=2)
    values[0, :50] = values[1] = np.nan
    deciles = DIRECT_BASELINES[name](0).forecast(
        Panel(values), np.array([[10, 59], [10, 59]]), HORIZON
    )
    assert np.isnan(deciles).all(axis=(2, 3)).tolist() == [[True, False], [True, True]]
    none = DIRECT_BASELINES[name](0).forecast(
        Panel(values), np.empty((2, 0), dtype=np.int64), HORIZON
    )
    assert none.shape == (2, 0, HORIZON, len(QUANTILE_LEVELS))


@pytest.mark.heavy
def test_forecasting_imports_neither_statsmodels_nor_scipy_nor_numba() -> None:
    code = (
        "import sys, numpy as np\n"
        "from tsfm_pipeline.baselines import DIRECT_BASELINES\n"
        "from tsfm_pipeline.forecaster.panel import Panel\n"
        "panel = Panel(np.arange(50, dtype=np.float32)[None])\n"
        f"for name in {SMOOTHED}:\n"
        "    DIRECT_BASELINES[name](0).forecast(panel, np.array([[49]]), 12)\n"
        "sys.exit(str({'statsmodels', 'scipy', 'numba', 'torch'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
