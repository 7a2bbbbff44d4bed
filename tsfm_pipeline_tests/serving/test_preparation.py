"""Test which values of a request count, on which grid and scale, and when a baseline answers."""

import json
from collections import Counter
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.serving.contract import ErrorCode, Problem
from tsfm_pipeline.serving.errors import InvalidRequest
from tsfm_pipeline.serving.markets import Markets
from tsfm_pipeline.serving.preparation import Prepared, prepare
from tsfm_pipeline.serving.quotes import values_of
from tsfm_pipeline.serving.settings import InputSettings
from tsfm_pipeline_tests.serving.wire import AS_OF, body, quotes, request, stamp, stamps, wave

IDENTITY = {"space": "identity"}
CPU = Markets(frozenset({"web-1"}), {"cpu": (0.0, 8.0)}, 5.0)


def prepared(
    markets: Markets = CPU, settings: InputSettings | None = None, **changes: Any
) -> Prepared:
    return prepare(request(**changes), settings or InputSettings(), markets)


def refused(settings: InputSettings | None = None, **changes: Any) -> Problem:
    with pytest.raises(InvalidRequest) as caught:
        prepared(settings=settings, **changes)
    (problem,) = caught.value.problems
    return problem


def test_a_complete_series_is_passed_on_as_it_is() -> None:
    own = prepared(transform=IDENTITY)
    assert own.values.tolist() == wave(40)
    assert own.y_last == wave(40)[-1]
    assert (own.end, own.freq) == (AS_OF, 5.0)
    assert own.baseline_reason is None
    assert own.share_missing == 0.0
    assert own.warnings == Counter()


def test_preparing_is_deterministic() -> None:
    assert prepared().values.tobytes() == prepared().values.tobytes()


# -- how much is used


def test_only_the_last_values_are_used() -> None:
    assert prepared(y=wave(1_000), transform=IDENTITY).values.tolist() == wave(1_000)[-288:]


def test_a_configuration_that_looks_back_further_gets_more_on_its_own_step() -> None:
    markets = Markets(step_minutes=5.0, lookback=lambda horizon: 400 + horizon)
    assert len(prepared(markets, y=wave(1_000)).values) == 412
    assert len(prepared(markets, y=wave(1_000), freq="1h").values) == 288
    assert len(prepared(markets, y=wave(100)).values) == 100


def test_f5_more_values_than_the_setting_allows_are_too_large() -> None:
    assert len(prepared(y=wave(2_000)).values) == 288
    for problem in (
        refused(y=wave(2_001)),
        refused(InputSettings(max_points=39)),
        refused(InputSettings(max_points=2), y=..., quotes=quotes([0.5, 0.5, 0.5])),
    ):
        assert problem.code == ErrorCode.TOO_LARGE
        assert "too large" in problem.detail
        assert problem.where in ("y", "quotes")
    assert refused(y=wave(2_001)).allowed == "2 to 2000 values"


@pytest.mark.parametrize("n", [2, 31])
def test_f3_with_few_values_a_baseline_answers(n: int) -> None:
    own = prepared(y=wave(n))
    assert own.baseline_reason == "too_few_points"
    assert len(own.values) == n


def test_f3_with_enough_values_the_model_answers() -> None:
    assert prepared(y=wave(32)).baseline_reason is None


# -- gaps


def gappy(*left_out: int, n: int = 40) -> dict[str, Any]:
    """y and y_ts of n steps up to as_of without some of them."""
    y, times = wave(n), stamps(n)
    kept = [i for i in range(n) if i not in left_out]
    return {"y": [y[i] for i in kept], "y_ts": [times[i] for i in kept]}


def test_d12_a_gap_is_filled_with_the_value_before_it() -> None:
    own = prepared(**gappy(20, 21), transform=IDENTITY)
    expected = wave(40)
    expected[20] = expected[21] = expected[19]
    assert own.values.tolist() == expected
    assert own.share_missing == 2 / 40
    assert own.warnings == {"gaps_filled": 2}
    assert own.baseline_reason is None


def test_f7_behind_a_gap_of_three_hours_a_baseline_answers() -> None:
    own = prepared(**gappy(*range(40, 76), n=120), transform=IDENTITY)
    assert own.baseline_reason == "max_gap_exceeded"
    assert own.share_missing == 36 / 120
    assert own.values.tolist() == gappy(*range(40, 76), n=120)["y"]  # nothing is invented
    assert own.warnings == Counter()


@pytest.mark.parametrize(("missing", "reason"), [(12, None), (13, "max_gap_exceeded")])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_f7_a_value_is_carried_for_an_hour_at_most(
    missing: int, reason: str | None, at_the_end: bool
) -> None:
    first = 100 - missing if at_the_end else 30
    own = prepared(**gappy(*range(first, first + missing), n=100))
    assert own.baseline_reason == reason
    assert own.share_missing == missing / 100


def test_f7_a_gap_that_the_model_does_not_see_does_not_matter() -> None:
    assert prepared(**gappy(*range(10, 50), n=500)).baseline_reason is None
    seen = prepared(**gappy(*range(205, 245), n=500))
    assert seen.baseline_reason == "max_gap_exceeded"


def test_a_value_from_before_the_part_that_is_used_is_carried_into_it() -> None:
    own = prepared(**gappy(*range(210, 215), n=500), transform=IDENTITY)
    assert own.values.tolist() == [wave(500)[209]] * 3 + wave(500)[215:]


def test_d10_a_client_may_only_tighten_the_tolerance() -> None:
    two_missing = gappy(20, 21)
    assert prepared(**two_missing, max_gap_minutes=10).baseline_reason is None
    assert prepared(**two_missing, max_gap_minutes=9.9).baseline_reason == "max_gap_exceeded"
    hours = gappy(*range(40, 60), n=120)
    assert prepared(**hours, max_gap_minutes=120).baseline_reason == "max_gap_exceeded"
    assert prepared(**gappy(), max_gap_minutes=0).baseline_reason is None


def test_an_hourly_series_has_no_gap_between_its_hours() -> None:
    own = prepared(y=wave(40), y_ts=stamps(40, step=60), freq="1h", max_gap_minutes=0)
    assert own.baseline_reason is None


def test_d10_observed_ts_says_since_when_nothing_was_observed() -> None:
    fresh = prepared(observed_ts=stamp(4))
    late = prepared(observed_ts=stamp(15))
    stale = prepared(observed_ts=stamp(61 + 4))
    assert fresh.share_missing == 0.0
    assert late.share_missing == 3 / 40
    assert (fresh.baseline_reason, late.baseline_reason) == (None, None)
    assert stale.baseline_reason == "max_gap_exceeded"


def test_d10_the_earlier_of_observed_ts_and_the_last_value_counts() -> None:
    times = stamps(40, last=15)
    for observed, missing in ((15, 3), (5, 3), (30, 6)):
        own = prepared(y_ts=times, observed_ts=stamp(observed))
        assert round(own.share_missing * 43) == missing


def test_a_last_value_older_than_as_of_is_carried_forward_to_it() -> None:
    own = prepared(y_ts=stamps(40, last=10), transform=IDENTITY)
    assert own.values.tolist() == wave(40) + [wave(40)[-1]] * 2
    assert own.end == AS_OF


def test_a_last_value_from_within_the_last_step_is_no_gap() -> None:
    own = prepared(y_ts=stamps(40, last=4.9), transform=IDENTITY)
    assert own.values.tolist() == wave(40)
    assert own.share_missing == 0.0


def test_f7_a_series_that_ended_long_ago_is_answered_from_its_own_values() -> None:
    own = prepared(y_ts=stamps(40, last=5 * 10**6), transform=IDENTITY)
    assert own.baseline_reason == "max_gap_exceeded"
    assert own.values.tolist() == wave(40)
    assert own.share_missing == 1.0


def test_few_values_far_apart_are_too_few() -> None:
    """Forty values at a tolerable distance of an hour: the model would see twenty-five of them."""
    own = prepared(y=wave(40), y_ts=stamps(40, step=60))
    assert own.baseline_reason == "too_few_points"
    assert len(own.values) == 288


# -- liquidity and volume


def test_f2_no_liquidity_bucket_is_no_reason() -> None:
    assert prepared(liquidity_bucket=None).baseline_reason is None
    assert prepared(liquidity_bucket="high").baseline_reason is None


def test_f2_low_liquidity_is_answered_by_a_baseline() -> None:
    assert prepared(liquidity_bucket="low").baseline_reason == "baseline_only_liquidity_bucket"


def test_low_volume_is_answered_by_a_baseline() -> None:
    assert prepared(volume_24h=4_999.9).baseline_reason == "baseline_only_low_volume"
    assert prepared(volume_24h=5_000).baseline_reason is None


def test_the_first_reason_counts() -> None:
    low = {"liquidity_bucket": "low", "volume_24h": 0}
    assert prepared(**low, y=wave(5)).baseline_reason == "too_few_points"
    assert prepared(**low, observed_ts=stamp(90)).baseline_reason == "max_gap_exceeded"
    assert prepared(**low).baseline_reason == "baseline_only_liquidity_bucket"


# -- scale


@pytest.mark.parametrize("eps", [1e-9, 1e-6, 0.1])
def test_w1_logit_with_0_and_1_stays_in_bounds(eps: float) -> None:
    own = prepared(y=[0.0, 1.0] * 20, transform={"space": "logit", "eps": eps})
    assert np.isfinite(own.values).all()
    back = own.to_client(own.values)
    assert back == pytest.approx([eps, 1 - eps] * 20, rel=1e-6)
    assert own.limits == (0.0, 1.0)


@pytest.mark.filterwarnings("error")
def test_d9_the_way_back_never_overflows() -> None:
    own = prepared()
    back = own.to_client(np.array([-1e308, -1_000.0, -710.0, 0.0, 710.0, 1e308]))
    assert back.tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert ((back >= 0) & (back <= 1)).all()


@pytest.mark.parametrize(("index", "value"), [(0, -0.01), (39, 1.000001), (7, 1e100)])
def test_a_value_outside_of_logits_range_is_named(index: int, value: float) -> None:
    y = wave(40)
    y[index] = value
    problem = refused(y=y)
    assert (problem.code, problem.where) == (ErrorCode.MALFORMED_INPUT, f"y[{index}]")
    assert problem.value == repr(value)
    assert "0 to 1" in problem.allowed
    assert prepared(y=y, transform=IDENTITY).values[index] == value


def test_a_value_outside_of_logits_range_is_named_although_it_would_not_be_used() -> None:
    assert refused(y=[2.0, *wave(1_000)]).where == "y[0]"


def test_limits_on_the_identity_scale_are_those_of_the_fleets_metric() -> None:
    assert prepared(transform=IDENTITY).limits == (0.0, 8.0)
    assert prepared(transform=IDENTITY, market_id="web-1/mem").limits == (None, None)
    assert prepared(transform=IDENTITY, market_id="other/cpu").limits == (None, None)


# -- covariates


def test_d12_covariates_are_cut_and_filled_like_the_values() -> None:
    series = gappy(20, 21, 300, n=400)
    load = [float(i) for i in range(len(series["y"]))]
    own = prepared(
        **series, x_past={"load": load}, x_future={"load": [1.0] * 12}, transform=IDENTITY
    )
    position = {value: i for i, value in enumerate(series["y"])}
    expected = [load[position[value]] for value in own.values.tolist()]
    assert own.covariates.past["load"].tolist() == expected
    assert own.covariates.future["load"].tolist() == [1.0] * 12
    assert own.warnings == {"gaps_filled": 1}


# -- segments


def test_segments_are_what_the_client_and_the_fleet_say() -> None:
    own = prepared(liquidity_bucket="high", segment={"category": "web", "tte_bucket": "0_24h"})
    assert own.segments == {
        "category": "web",
        "liquidity_bucket": "high",
        "tte_bucket": "0_24h",
        "metric": "cpu",
    }
    assert own.matched


def test_a_market_outside_of_the_fleet_is_unmatched() -> None:
    own = prepared(Markets())
    assert own.segments == {}
    assert not own.matched


# -- quotes


def test_quotes_give_their_mids() -> None:
    own = prepared(y=..., quotes=quotes(wave(40)), transform=IDENTITY)
    assert own.values == pytest.approx(wave(40))
    assert own.share_missing == 0.0


def test_a_quote_without_a_mid_takes_a_recent_trade() -> None:
    bare = {"ts": stamp(0)}
    cases = [
        ({"bid": 0.4, "ask": 0.6, "last_trade": 0.9, "last_trade_ts": stamp(0)}, 0.5),
        ({"last_trade": 0.7, "last_trade_ts": stamp(15)}, 0.7),
        ({"bid": 0.4, "last_trade": 0.7, "last_trade_ts": stamp(0)}, 0.7),
        ({"last_trade": 0.7, "last_trade_ts": stamp(15.1)}, None),
        ({"last_trade": 0.7, "last_trade_ts": stamp(-1)}, None),  # from after the quote
        ({"last_trade": 0.7}, None),  # of unknown age
        ({"ask": 0.6}, None),
    ]
    for fields, value in cases:
        parsed = request(y=..., quotes=[{"ts": stamp(5)}, bare | fields]).quotes
        assert parsed is not None
        (_, got) = values_of(parsed, 15.0).tolist()
        assert got == value or (value is None and np.isnan(got)), fields


def test_a_quote_without_a_value_is_a_gap() -> None:
    mids: list[float | None] = [*wave(40)]
    mids[20] = mids[39] = None
    own = prepared(y=..., quotes=quotes(mids), transform=IDENTITY)
    expected = wave(40)
    expected[20], expected[39] = expected[19], expected[38]
    assert own.values == pytest.approx(expected)
    assert own.share_missing == 2 / 40
    assert own.y_last == pytest.approx(wave(40)[38])


def test_quotes_without_values_are_too_few() -> None:
    problem = refused(y=..., quotes=quotes([None] * 39 + [0.5]))
    assert (problem.code, problem.where) == (ErrorCode.TOO_FEW_POINTS, "quotes")
    assert "1 of 40" in problem.detail


def test_quotes_at_any_time_are_laid_onto_the_grid() -> None:
    """The value at a step is that of the last quote up to it, never one from after it."""
    times = (62.0, 57.5, 56.0, 49.0, 44.0, 31.0)
    given_quotes = [
        {"ts": stamp(t), "bid": v, "ask": v} for t, v in zip(times, (1, 2, 3, 4, 5, 6), strict=True)
    ]
    own = prepared(y=..., quotes=given_quotes, transform=IDENTITY)
    # steps at 60, 55, ... 0 minutes before as_of; nothing is known after 31 minutes before
    assert own.values.tolist() == [1, 3, 3, 4, 5, 5, *[6] * 7]
    assert own.share_missing == 8 / 13


def test_a_quote_outside_of_logits_range_is_named_by_its_place_in_the_request() -> None:
    assert refused(y=..., quotes=quotes([None, 0.5, 0.5, 1.5])).where == "quotes[3]"


# -- against the plainest statement of the rule


@given(
    st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda kept: sum(kept) >= 2),
    st.integers(0, 25),
    st.integers(1, 40),
)
def test_filling_equals_a_walk_along_the_grid(
    kept: list[bool], behind: int, input_len: int
) -> None:
    n = len(kept)
    y = [v for v, keep in zip(wave(n), kept, strict=True) if keep]
    times = [t for t, keep in zip(stamps(n, last=5 * behind), kept, strict=True) if keep]
    walked: list[float] = []
    ages: list[int] = []
    for i in range(n + behind):
        if i < n and kept[i]:
            walked.append(wave(n)[i])
            ages.append(0)
        elif walked:
            walked.append(walked[-1])
            ages.append(ages[-1] + 1)
    walked, ages = walked[-input_len:], ages[-input_len:]
    own = prepared(
        settings=InputSettings(input_len=max(2, input_len), min_points=2),
        y=y,
        y_ts=times,
        transform=IDENTITY,
    )
    if input_len < 2:
        return
    if max(ages) <= 12:
        assert own.values.tolist() == walked
    else:
        assert own.values.tolist() == y[-input_len:]
    assert own.share_missing == pytest.approx(np.mean(np.array(ages) > 0))
    assert (own.baseline_reason == "max_gap_exceeded") == (max(ages) > 12)


def test_a_request_can_be_prepared_from_its_own_text() -> None:
    """as_of in another offset is the same time."""
    berlin = body(as_of_ts=(AS_OF + timedelta(hours=1)).isoformat().replace("+00:00", "+01:00"))
    assert prepared(**json.loads(json.dumps(berlin))).end == AS_OF
