"""Test the twenty indicators: by hand, against their definitions written as loops, and their units.

What belongs here: formulas. What does not: which features a problem has (`test_features`).
"""

from dataclasses import replace
from itertools import pairwise
from statistics import fmean, pstdev

import numpy as np
import pytest

from tsfm_pipeline.studies.direction.features import INDICATORS
from tsfm_pipeline.studies.direction.indicators import (
    relative_strength,
    twenty,
    weekly_relative_strength,
)
from tsfm_pipeline_tests.studies.direction.prices import bars_of, walk

CHART_SCHOOL = np.array(
    [
        *(44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245),
        *(45.8433, 46.0826, 45.8931, 46.0328, 45.6140, 46.2820, 46.2820, 46.0028),
    ]
)
"""The closes of a published example of RSI (StockCharts, ChartSchool)."""
LINE = np.arange(300.0, 600.0)


def by_wilder(values: list[float], period: int) -> list[float]:
    """His average: a mean first, then (period - 1) parts of yesterday's and one of today's."""
    averages = [fmean(values[:period])]
    for value in values[period:]:
        averages.append(((period - 1) * averages[-1] + value) / period)
    return averages


def rsi_by_hand(closes: list[float], period: int = 14) -> float:
    changes = [later - earlier for earlier, later in pairwise(closes)]
    gain = by_wilder([max(change, 0) for change in changes], period)[-1]
    loss = by_wilder([max(-change, 0) for change in changes], period)[-1]
    return 100 - 100 / (1 + gain / loss)


def test_there_are_twenty_under_their_names() -> None:
    assert tuple(twenty(walk(60, seed=0))) == INDICATORS
    assert len(set(INDICATORS)) == 20


def test_rsi_is_that_of_the_published_example_and_of_its_definition() -> None:
    rsi = relative_strength(CHART_SCHOOL)
    assert np.isnan(rsi[:14]).all()
    np.testing.assert_allclose(rsi[14:], [70.53, 66.32], atol=0.006)
    closes = walk(120, seed=1).close
    assert relative_strength(closes)[-1] == pytest.approx(rsi_by_hand(list(closes)))


def test_averages_of_a_straight_line_lag_by_their_mean_age() -> None:
    found = twenty(bars_of(LINE))
    last = LINE[-1]
    for days in (12, 50, 100, 200):
        assert found[f"sma_{days}"][-1] == pytest.approx((days - 1) / 2 / last)
    for days in (9, 10, 20, 25, 90):  # the double average has no lag on a line
        assert found[f"dema_{days}"][-1] == pytest.approx(0, abs=1e-12)
    assert found["macd"][-1] == pytest.approx(((26 - 1) / 2 - (12 - 1) / 2) / last)
    assert np.flatnonzero(np.isfinite(found["dema_90"]))[0] == 2 * (90 - 1)


def test_the_double_average_is_twice_the_average_less_the_average_of_the_average() -> None:
    bars = walk(80, seed=2)

    def averaged(values: list[float]) -> list[float]:
        averages = [fmean(values[:9])]
        for value in values[9:]:
            averages.append(averages[-1] + 0.2 * (value - averages[-1]))
        return averages

    once = averaged(list(bars.close))
    dema = 2 * once[-1] - averaged(once)[-1]
    assert twenty(bars)["dema_9"][-1] == pytest.approx(1 - dema / bars.close[-1], rel=1e-9)


def test_the_directional_index_is_wilders_with_true_ranges() -> None:
    bars = walk(90, seed=3)
    rise, fall, ranges = [], [], []
    for t in range(1, len(bars)):
        up, down = bars.high[t] - bars.high[t - 1], bars.low[t - 1] - bars.low[t]
        rise.append(up if up > down and up > 0 else 0.0)
        fall.append(down if down > up and down > 0 else 0.0)
        before = bars.close[t - 1]
        day = bars.high[t] - bars.low[t]
        ranges.append(max(day, abs(bars.high[t] - before), abs(bars.low[t] - before)))
    average_range = by_wilder(ranges, 14)
    plus, minus = (
        [100 * a / b for a, b in zip(by_wilder(side, 14), average_range, strict=True)]
        for side in (rise, fall)
    )
    index = [100 * abs(p - m) / (p + m) for p, m in zip(plus, minus, strict=True)]
    found = twenty(bars)
    assert found["adx_14"][-1] == pytest.approx(by_wilder(index, 14)[-1])
    assert np.flatnonzero(np.isfinite(found["adx_14"]))[0] == 27
    assert found["atr_14"][-1] == pytest.approx(average_range[-1] / bars.close[-1])


def test_true_ranges_count_a_gap() -> None:
    close = np.array([100.0] * 15 + [110.0])
    bars = bars_of(close, high=close + 1, low=close - 1)
    # fourteen ranges of 2, then one from the close of 100 to the high of 111
    assert twenty(bars)["atr_14"][-2:] == pytest.approx([2 / 100, (13 * 2 + 11) / 14 / 110])


def test_volume_indicators_by_hand() -> None:
    up = bars_of(LINE, high=LINE, low=LINE - 1, volume=np.full(300, 7.0))
    found = twenty(up)
    assert found["obv"][-1] == 1
    # the close is the high: the line grows by a day's volume, and averages lag by their mean age
    assert found["adosc"][-1] == pytest.approx((10 - 1) / 2 - (3 - 1) / 2)
    close = np.array([100.0] * 20 + [101, 100])
    volume = np.array([1.0] * 20 + [5, 2])
    found = twenty(bars_of(close, close + 3, close - 6, volume))
    assert found["obv"][-1] == pytest.approx((5 - 2) / (18 + 5 + 2))
    typical = (18 * 99 + 5 * 100 + 2 * 99) / 25
    assert found["vwap_20"][-1] == pytest.approx(1 - typical / 100)


def test_the_accumulation_line_weighs_volume_by_where_the_close_is() -> None:
    bars = walk(40, seed=4)
    line = [0.0]
    for h, low, c, v in zip(bars.high, bars.low, bars.close, bars.volume, strict=True):
        line.append(line[-1] + ((c - low) - (h - c)) / (h - low) * v)

    def average(days: int) -> float:
        value = fmean(line[1 : days + 1])
        for level in line[days + 1 :]:
            value += 2 / (days + 1) * (level - value)
        return value

    by_hand = (average(3) - average(10)) / fmean(bars.volume[-20:])
    assert twenty(bars)["adosc"][-1] == pytest.approx(by_hand)


def test_percent_b_is_the_place_between_bands_of_two_deviations() -> None:
    bars = walk(50, seed=5)
    month = list(bars.close[-20:])
    lower, upper = (fmean(month) + side * 2 * pstdev(month) for side in (-1, 1))
    place = (bars.close[-1] - lower) / (upper - lower)
    assert twenty(bars)["percent_b"][-1] == pytest.approx(place)


def test_stochastic_rsi_is_the_place_of_rsi_among_its_last_fourteen() -> None:
    for seed in range(8):
        bars = walk(60, seed)
        last = [rsi_by_hand(list(bars.close[:end])) for end in range(47, 61)]
        place = (last[-1] - min(last)) / (max(last) - min(last))
        assert twenty(bars)["stochrsi_daily"][-1] == pytest.approx(place)


@pytest.mark.parametrize("days_left", range(5))  # Friday, Thursday, ... Monday
def test_weekly_rsi_closes_the_running_week_with_the_day_itself(days_left: int) -> None:
    for seed in range(8):
        bars = walk(5 * 60 - days_left, seed)
        fridays = list(bars.close[4::5])
        closes = fridays if days_left == 0 else [*fridays, bars.close[-1]]
        rsi, stochastic = weekly_relative_strength(bars)
        assert rsi[-1] == pytest.approx(rsi_by_hand(closes))
        last = [rsi_by_hand(closes[:end]) for end in range(len(closes) - 13, len(closes) + 1)]
        assert stochastic[-1] == pytest.approx((last[-1] - min(last)) / (max(last) - min(last)))


def test_weekly_rsi_knows_nothing_of_the_rest_of_the_week() -> None:
    bars = walk(300, seed=8)
    monday = 295
    crash = bars.close.copy()
    crash[monday + 1 :] *= 0.5
    for before, after in zip(
        weekly_relative_strength(bars),
        weekly_relative_strength(replace(bars, close=crash)),
        strict=True,
    ):
        np.testing.assert_array_equal(before[: monday + 1], after[: monday + 1])
        assert before[-1] != after[-1]


def test_a_week_may_miss_its_friday() -> None:
    bars = walk(300, seed=9)
    kept = np.flatnonzero(np.arange(300) != 294)  # a Friday
    holiday = replace(
        bars,
        **{
            name: getattr(bars, name)[kept]
            for name in ("dates", "open", "high", "low", "close", "volume")
        },
    )
    closes = [*bars.close[4:294:5], bars.close[293], bars.close[299]]
    assert weekly_relative_strength(holiday)[0][-1] == pytest.approx(rsi_by_hand(closes))


def test_no_indicator_has_a_unit_of_price_or_volume() -> None:
    bars = walk(400, seed=10)
    dearer = bars_of(bars.close * 16, bars.high * 16, bars.low * 16, bars.volume * 1000)
    for name, values in twenty(bars).items():
        np.testing.assert_allclose(twenty(dearer)[name], values, rtol=1e-9, atol=1e-9, err_msg=name)


def test_a_market_that_stands_still_without_volume_has_finite_indicators() -> None:
    still = twenty(bars_of(np.full(400, 100.0), volume=np.zeros(400)))
    last = {name: values[-1] for name, values in still.items()}
    assert all(np.isfinite(value) for value in last.values()), last
    assert last["rsi_daily"] == last["rsi_weekly"] == 50
    assert last["obv"] == last["adosc"] == last["adx_14"] == last["vwap_20"] == 0
