"""Test simulated markets against their description: distribution, volatility, signal.

What belongs here: prices and truth. What does not: whether a study of them finds it.
"""

from dataclasses import fields
from typing import Literal

import numpy as np
import pytest
from scipy import stats

from tsfm_pipeline.studies.direction.bars import Bars, Floats
from tsfm_pipeline.studies.direction.simulation import (
    DEGREES_OF_FREEDOM,
    DYNAMICS,
    oracle,
    simulate,
)
from tsfm_pipeline.studies.direction.spec import SIGNAL, SyntheticMarket

LONG = 20_000


def spec(**changes: object) -> SyntheticMarket:
    document = {"kind": "synthetic", "name": "x", "title": "x", "intraday_steps": 16, "seed": 3}
    return SyntheticMarket.model_validate(document | changes)


def auc(scores: Floats, holds: np.ndarray) -> float:
    """Area under the ROC curve, from ranks."""
    ranks = stats.rankdata(scores)
    n = int(holds.sum())
    return float((ranks[holds].sum() - n * (n + 1) / 2) / (n * (len(holds) - n)))


def next_z(market: SyntheticMarket) -> tuple[Floats, Floats]:
    """The next day's return in units of its volatility, and the signal before it."""
    bars, truth = simulate(market), oracle(market)
    return bars.returns[1:] / truth.sigma[:-1], bars.covariates[SIGNAL][:-1]


def same(one: Bars, other: Bars) -> bool:
    names = [field.name for field in fields(Bars) if field.name not in ("covariates", "given")]
    return (
        all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in names)
        and one.covariates[SIGNAL].tobytes() == other.covariates[SIGNAL].tobytes()
    )


def test_one_seed_gives_the_same_bytes_and_another_seed_another_market() -> None:
    bars = simulate(spec(days=500))
    assert same(bars, simulate(spec(days=500)))
    assert not same(bars, simulate(spec(days=500, seed=4)))
    assert len(bars) == 500


def test_a_day_has_a_range_around_its_open_and_its_close() -> None:
    bars = simulate(spec(days=2000))
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    outside = (bars.high > np.maximum(bars.open, bars.close)).mean()
    assert outside > 0.5, "on most days the highest price is neither the open nor the close"
    assert np.is_busday(bars.dates).all()


@pytest.mark.parametrize("correlation", [0.0, 0.10])
def test_a_return_is_students_t_times_the_volatility_that_the_oracle_knows(
    correlation: float,
) -> None:
    z, _ = next_z(spec(days=LONG, correlation=correlation))
    scale = np.sqrt((DEGREES_OF_FREEDOM - 2) / DEGREES_OF_FREEDOM)
    assert stats.kstest(z, stats.t(DEGREES_OF_FREEDOM, scale=scale).cdf).pvalue > 0.01
    assert abs(np.corrcoef(z[1:], z[:-1])[0, 1]) < 3.5 / np.sqrt(LONG)


def test_the_volatility_is_that_of_the_model_and_needs_no_later_day() -> None:
    market = spec(days=3000)
    returns, variance = simulate(market).returns, oracle(market).sigma ** 2
    alpha, gamma, beta = DYNAMICS["gjr"]
    weight = alpha + gamma * (returns[1:] < 0)
    expected = DYNAMICS["gjr"].omega + weight * returns[1:] ** 2 + beta * variance[:-1]
    np.testing.assert_allclose(variance[1:], expected, rtol=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.05, 0.10])
def test_the_signal_announces_the_next_return_as_strongly_as_is_said_and_no_other(
    correlation: float,
) -> None:
    market = spec(days=LONG, correlation=correlation)
    z, signal = next_z(market)
    error = 3.5 / np.sqrt(LONG)
    assert abs(np.corrcoef(z, signal)[0, 1] - correlation) < error
    assert abs(np.corrcoef(z[:-1], signal[1:])[0, 1]) < error, "nothing about its own day"
    assert abs(np.corrcoef(z[1:], signal[:-1])[0, 1]) < error, "nothing about the day after next"
    truth = oracle(market)
    np.testing.assert_allclose(
        truth.mean, correlation * truth.sigma * simulate(market).covariates[SIGNAL]
    )


@pytest.mark.parametrize(
    ("model", "touch_auc"),
    [
        pytest.param("garch", 0.654, id="volatility moves little"),
        pytest.param("gjr", 0.738, id="volatility moves as that of an index"),
    ],
)
def test_in_a_world_without_direction_volatility_alone_foresees_touches(
    model: Literal["garch", "gjr"], touch_auc: float
) -> None:
    """The oracle's AUC of section 4.4 of the study's facts, within two standard deviations of the
    mean of eight markets; the share of touches is about a fifth to a quarter.
    """
    rows = []
    for seed in range(8):
        market = spec(model=model, days=5000, seed=seed)
        bars, sigma = simulate(market), oracle(market).sigma[:-1]
        up = bars.high[1:] >= 1.01 * bars.close[:-1]
        down = bars.low[1:] <= 0.99 * bars.close[:-1]
        sign = bars.close[1:] > bars.close[:-1]
        rows.append((up.mean(), auc(sigma, up), auc(sigma, down), auc(sigma, sign)))
    base_rate, of_up, of_down, of_sign = np.mean(rows, axis=0)
    assert 0.17 < base_rate < 0.28
    assert of_up == pytest.approx(touch_auc, abs=0.025)
    assert of_down == pytest.approx(touch_auc, abs=0.025)
    assert of_sign == pytest.approx(0.5, abs=0.01)


def test_a_planted_direction_shows_in_the_sign() -> None:
    market = spec(days=LONG, correlation=0.10)
    bars = simulate(market)
    of_sign = auc(bars.covariates[SIGNAL][:-1], bars.returns[1:] > 0)
    assert of_sign == pytest.approx(0.55, abs=0.015)


@pytest.mark.heavy  # importing arch takes two seconds
def test_arch_finds_the_coefficients_again() -> None:
    from arch import arch_model

    returns = 100 * simulate(spec(days=12_000)).returns[1:]
    fit = arch_model(returns, mean="Zero", p=1, o=1, q=1, dist="t").fit(disp="off")
    alpha, gamma, beta = DYNAMICS["gjr"]
    assert fit.params["alpha[1]"] == pytest.approx(alpha, abs=0.02)
    assert fit.params["gamma[1]"] == pytest.approx(gamma, abs=0.03)
    assert fit.params["beta[1]"] == pytest.approx(beta, abs=0.02)
    assert fit.params["nu"] == pytest.approx(DEGREES_OF_FREEDOM, abs=0.8)
