"""Test the labels of a market: by hand, at equality, and against a look at later days.

What belongs here: labels and forward returns. What does not: which days are used (`test_splits`).
"""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.studies.direction.features import sigma
from tsfm_pipeline.studies.direction.labels import forward_returns, labels
from tsfm_pipeline.studies.direction.options import LABELS, LabelOptions
from tsfm_pipeline.studies.direction.problem import Target
from tsfm_pipeline_tests.studies.direction.prices import bars_of, sp500, walk

NAN = np.nan


def test_labels_of_the_next_day_are_those_worked_out_by_hand() -> None:
    bars = bars_of(
        close=[100, 100.0, 100.5, 101.505, 101.505, 100.0, 100.2, 101.3],
        high=[100, 101.0, 100.99, 101.505, 102.00, 101.505, 100.9, 101.3],
        low=[100, 99.0, 99.01, 100.5, 101.00, 99.9, 99.5, 100.2],
    )
    found = labels(bars, LabelOptions(horizons=(1,)))
    by_hand = {
        "touch_up": [1, 0, 1, 0, 0, 0, 1, NAN],  # +1 % exactly on days 1 and 3
        "touch_down": [1, 0, 0, 0, 1, 0, 0, NAN],  # -1 % exactly on day 1
        "close_up": [0, 0, 1, 0, 0, 0, 1, NAN],
        "sign": [0, 1, 1, 0, 0, 1, 1, NAN],  # an equal close is no rise
    }
    for label, expected in by_hand.items():
        np.testing.assert_array_equal(found[Target(label, 1)], expected, err_msg=label)  # type: ignore[arg-type]


def test_a_touch_on_the_fifth_day_counts_and_one_on_the_sixth_does_not() -> None:
    flat = np.full(8, 100.0)
    high, low = flat.copy(), flat.copy()
    high[6], low[5] = 101, 99
    found = labels(bars_of(flat, high, low), LabelOptions(horizons=(5,)))
    np.testing.assert_array_equal(found[Target("touch_up", 5)], [0, 1, 1, *[NAN] * 5])
    np.testing.assert_array_equal(found[Target("touch_down", 5)], [1, 1, 1, *[NAN] * 5])
    np.testing.assert_array_equal(found[Target("close_up", 5)], [0, 0, 0, *[NAN] * 5])


@given(
    cents=st.integers(100, 1_000_000),
    percent=st.sampled_from(["0.5", "1", "2", "3.7"]),
    single=st.booleans(),
)
def test_equality_counts_at_any_price_and_a_cent_less_does_not(
    cents: int, percent: str, single: bool
) -> None:
    close = Decimal(cents) / 100
    bound = close * (1 + Decimal(percent) / 100)

    def touches(high: Decimal) -> float:
        pair = np.array([close, high], np.float32 if single else np.float64).astype(float)
        options = LabelOptions(threshold=float(Decimal(percent) / 100), horizons=(1,))
        bars = bars_of(pair[[0, 0]], high=pair, low=pair[[0, 0]])
        return float(labels(bars, options)[Target("touch_up", 1)][0])

    assert touches(bound) == 1
    assert touches(bound - Decimal("0.01")) == 0


def test_scaled_thresholds_are_in_units_of_the_volatility_known_at_the_close() -> None:
    bars = walk(200, seed=3)
    options = LabelOptions(scaled_threshold=0.8, horizons=(2,))
    found = labels(bars, options)
    known = sigma(bars)
    for day in range(22, 198):
        move = 0.8 * known[day] * 2**0.5  # of the return over two days
        up = max(bars.high[day + 1 : day + 3]) >= (1 + move) * bars.close[day]
        down = min(bars.low[day + 1 : day + 3]) <= (1 - move) * bars.close[day]
        assert found[Target("touch_up_scaled", 2)][day] == up
        assert found[Target("touch_down_scaled", 2)][day] == down
    assert np.isnan(found[Target("touch_up_scaled", 2)][:20]).all(), "sigma is not known yet"
    assert np.isnan(found[Target("touch_up_scaled", 2)][-2:]).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 9), day=st.integers(30, 190), horizon=st.integers(1, 9))
def test_a_label_is_known_after_its_horizon_and_not_before(
    seed: int, day: int, horizon: int
) -> None:
    bars, options = walk(200, seed), LabelOptions(horizons=(horizon,))
    full = labels(bars, options)
    known = labels(bars.until(day + horizon), options)
    unknown = labels(bars.until(day + horizon - 1), options)
    assert set(full) == {Target(label, horizon) for label in LABELS}
    for target, values in full.items():
        np.testing.assert_array_equal(known[target][: day + 1], values[: day + 1])
        assert np.isnan(unknown[target][day])


def test_bars_that_are_shorter_than_the_horizon_have_no_labels() -> None:
    found = labels(walk(5, seed=0), LabelOptions(horizons=(5, 7)))
    assert all(np.isnan(values).all() and len(values) == 5 for values in found.values())


def test_forward_returns_are_simple_and_agree_with_the_label_of_the_close() -> None:
    bars = sp500()
    for horizon in (1, 5):
        ahead = forward_returns(bars, horizon)
        assert ahead[10] == pytest.approx(bars.close[10 + horizon] / bars.close[10] - 1)
        assert np.isnan(ahead[-horizon:]).all()
        known = slice(0, -horizon)
        close_up = labels(bars, LabelOptions())[Target("close_up", horizon)]
        np.testing.assert_array_equal(close_up[known], ahead[known] >= 0.01)
