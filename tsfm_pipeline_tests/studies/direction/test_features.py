"""Test the features of a market: volatilities, columns of the user, and nothing of later days.

What belongs here: groups, names, volatilities and prefix invariance. What does not: indicators
(`test_indicators`).
"""

from dataclasses import replace
from itertools import pairwise
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.studies.direction.features import (
    INDICATORS,
    OTHERS,
    VOLATILITIES,
    features,
    indicator_names,
    sigma,
)
from tsfm_pipeline_tests.studies.direction.prices import bars_of, walk


def test_every_feature_is_of_a_group_and_twice_only_the_average_true_range() -> None:
    bars = walk(40, seed=0)
    bars = replace(bars, covariates={"vix": np.full(40, 20.0)})
    assert set(features(bars)) == {*INDICATORS, *VOLATILITIES, *OTHERS, "vix"}
    assert set(INDICATORS) & set(VOLATILITIES) == {"atr_14"}
    assert indicator_names(bars) == INDICATORS
    assert (features(bars)["vix"] == 20).all(), "a covariate is taken as it is"


def test_given_columns_replace_the_twenty_indicators() -> None:
    bars = replace(walk(40, seed=0), given={"rsi_daily": np.arange(40.0), "mine": np.ones(40)})
    found = features(bars)
    assert set(found) == {"rsi_daily", "mine", *VOLATILITIES, *OTHERS}
    assert indicator_names(bars) == ("rsi_daily", "mine")
    np.testing.assert_array_equal(found["rsi_daily"], np.arange(40.0))


def test_columns_with_the_name_of_another_feature_are_refused() -> None:
    bars = walk(40, seed=0)
    column = {"atr_14": np.ones(40)}
    mine = {"mine": np.ones(40)}
    for name, clash in (
        ("atr_14", replace(bars, covariates=column)),
        ("atr_14", replace(bars, given=column)),
        ("mine", replace(bars, given=mine, covariates=mine)),
        ("sigma", replace(bars, given=mine, covariates={"sigma": np.ones(40)})),
    ):
        with pytest.raises(ValueError, match=f"^{name}: .*rename the columns"):
            features(clash)


def test_sigma_is_an_average_that_forgets_six_percent_a_day() -> None:
    bars = walk(60, seed=1)
    squares = [log(b / a) ** 2 for a, b in pairwise(bars.close)]
    variance = sum(squares[:22]) / 22
    for square in squares[22:]:
        variance = 0.94 * variance + 0.06 * square
    known = sigma(bars)
    assert known[-1] == pytest.approx(sqrt(variance))
    assert np.flatnonzero(np.isfinite(known))[0] == 22
    np.testing.assert_array_equal(features(bars)["ewma"], known)


def test_volatilities_drawdown_return_and_volume_by_hand() -> None:
    close = np.array([100.0] * 252 + [102.0, 99.0])
    high, low = np.maximum(close, 100) + 1, close - 2
    high[3] = 110  # within the year of day 252 (days 1 to 252) and 253 (days 2 to 253)
    found = features(bars_of(close, high, low, volume=np.array([1.0] * 253 + [4.0])))
    squares = [log(102 / 100) ** 2, log(99 / 102) ** 2]
    assert found["realised_1"][-1] == pytest.approx(sqrt(squares[1]))
    assert found["realised_5"][-1] == pytest.approx(sqrt(sum(squares) / 5))
    assert found["realised_66"][-1] == pytest.approx(sqrt(sum(squares) / 66))
    assert found["parkinson_1"][-1] == pytest.approx(log(101 / 97) / sqrt(4 * log(2)))
    ranges = [log(101 / 98)] * 3 + [log(103 / 100), log(101 / 97)]
    assert found["parkinson_5"][-1] == pytest.approx(
        sqrt(sum(r**2 for r in ranges) / 5 / 4 / log(2))
    )
    assert found["drawdown"][-1] == pytest.approx(1 - 99 / 110)
    assert found["last_return"][-1] == pytest.approx(log(99 / 102))
    assert found["volume_ratio"][-1] == pytest.approx(4 / (23 / 20))


def test_ranges_and_returns_estimate_one_volatility() -> None:
    rng = np.random.default_rng(2)
    path = 100 * np.exp(np.cumsum(rng.normal(0, 0.01 / 20, (2500, 400)).ravel())).reshape(2500, 400)
    days = bars_of(path[:, -1], path.max(axis=1), path.min(axis=1))
    found = features(days)
    for name in ("realised_22", "parkinson_22", "ewma"):
        assert np.nanmean(found[name]) == pytest.approx(0.01, rel=0.06), name


@settings(max_examples=15)
@given(seed=st.integers(0, 99), day=st.integers(5, 398))
def test_a_feature_is_the_same_when_the_bars_end_with_its_day(seed: int, day: int) -> None:
    bars = walk(400, seed)
    cut = features(bars.until(day))
    for name, values in features(bars).items():
        np.testing.assert_array_equal(cut[name], values[: day + 1], err_msg=name)
    np.testing.assert_array_equal(sigma(bars.until(day)), sigma(bars)[: day + 1])
