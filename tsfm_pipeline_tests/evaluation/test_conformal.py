"""Test conformal calibration: its guarantee, its order statistic, segments, resting series, and the
file that is published.

K1, K2, K3 and D-14 are rows of the reference service's behaviour. It moved and scaled a band by two
constants that were fitted, and whose coverage was reported, on the same rows, for the last step
only. Here one order statistic per segment and bucket of steps moves the interval, and coverage is
judged on later rows.
"""

import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from tsfm_pipeline.evaluation.conformal import (
    GLOBAL,
    MIN_GLOBAL,
    MIN_SEGMENT,
    Bucket,
    Calibration,
    bucket_of,
    fit,
    half_widths,
    interval_scores,
    order_statistic,
    segment_keys,
    segments_of,
)

AS_OF = datetime(2026, 11, 28, tzinfo=UTC)
MODEL: dict[str, Any] = {
    "as_of": AS_OF,
    "source": "backtest",
    "runtime": "local",
    "model": "bundled",
    "model_version": "29d05658f685",
    "step_minutes": 5.0,
}


def normal(n: int, horizon: int = 12, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, horizon))


def bands(actual: NDArray[np.float64], half: float) -> tuple[Any, Any]:
    return np.full(actual.shape, -half), np.full(actual.shape, half)


def calibration(horizon: int = 12, **segments: str) -> Calibration:
    actual = normal(1_000, horizon)
    fitted = fit(
        {0.8: bands(actual, 0.5), 0.9: bands(actual, 1.0)}, actual, [segments] * len(actual)
    )
    return Calibration.of(fitted, horizon=horizon, **MODEL)


def test_buckets_are_fine_at_first_and_then_double() -> None:
    firsts = bucket_of(np.arange(1, 50)).tolist()
    lengths = {first: firsts.count(first) for first in dict.fromkeys(firsts)}
    assert lengths == {1: 1, 2: 2, 4: 3, 7: 6, 13: 12, 25: 24, 49: 1}
    with pytest.raises(ValueError, match="the first step after an origin is 1"):
        bucket_of([0])


@pytest.mark.parametrize(
    ("n", "coverage", "k"),
    [(9, 0.9, 9), (8, 0.9, None), (4, 0.8, 4), (3, 0.8, None), (999, 0.9, 900), (50, 0.9, 46)],
)
def test_the_order_statistic_is_the_kth_smallest_and_infinite_beyond_n(
    n: int, coverage: float, k: int | None
) -> None:
    scores = np.random.default_rng(1).permutation(n) + 1.0
    assert order_statistic([*scores, np.nan], coverage) == (math.inf if k is None else k)


def test_k2_of_three_scores_the_second_decides_half_of_the_coverage() -> None:
    """Theirs scales these bands by 4/3: the plain quantile of absolute errors at level 2/3."""
    scores = interval_scores(-1.0, 1.0, [0.0, 1.0, -2.0])
    assert scores.tolist() == [-1.0, 0.0, 1.0]
    assert order_statistic(scores, 0.5) == 0.0


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, 90])
def test_k2_a_coverage_that_is_none_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        order_statistic([1.0], coverage)


@pytest.mark.heavy
@given(st.integers(20, 400), st.floats(0.5, 0.94))
@settings(max_examples=60, deadline=None)
def test_the_order_statistic_equals_that_of_crepes(n: int, coverage: float) -> None:
    base = pytest.importorskip("crepes.base")
    at = (1 - coverage) * (n + 1)
    if abs(at - round(at)) < 1e-6:
        return  # crepes does not guard against rounding here
    scores = np.random.default_rng(n).exponential(size=n)
    regressor = base.ConformalRegressor()
    regressor.fit(scores)
    (_, high) = regressor.predict_int(np.zeros(1), confidence=coverage)[0]
    assert order_statistic(scores, coverage) == pytest.approx(float(high), rel=1e-12)


@pytest.mark.parametrize("target", [0.8, 0.9])
@pytest.mark.parametrize("half", [0.2, 1.0, 5.0])
def test_new_exchangeable_values_are_covered_as_promised(target: float, half: float) -> None:
    """Over many small samples, in which plugging in the plain quantile would miss."""
    n, n_samples, rng = 30, 4_000, np.random.default_rng(2)
    actual = rng.standard_t(3, size=(n_samples, n + 1))
    scores = interval_scores(-half, half, actual)
    moved = np.array([order_statistic(row[:n], target) for row in scores])
    covered = float((scores[:, n] <= moved).mean())
    promised = math.ceil((n + 1) * target) / (n + 1)
    assert promised >= target
    assert abs(covered - promised) < 3 * math.sqrt(promised * (1 - promised) / n_samples)


@given(
    st.floats(-1e6, 1e6),
    st.floats(0, 1e6),
    st.floats(-1e6, 1e6),
    st.floats(0.1, 1e4),
    st.floats(-1e3, 1e3),
)
def test_a_score_is_the_move_that_just_holds_the_value(
    low: float, width: float, actual: float, factor: float, shift: float
) -> None:
    high = low + width
    score = float(interval_scores(low, high, actual))
    half = float(half_widths(low, high))
    if half > 1e-6:
        by = score * half
        near = 1e-9 * (abs(low) + abs(high) + abs(actual) + 1)
        assert low - by <= actual + near
        assert actual <= high + by + near
        scaled = float(interval_scores(factor * low, factor * high, factor * actual))
        assert scaled == pytest.approx(score, rel=1e-6, abs=1e-6), "the unit does not matter"


def test_resting_series_have_a_score_without_dividing_by_zero() -> None:
    with np.errstate(all="raise"):
        scores = interval_scores([0.0, 0.0, 5.0, 5.0], [0.0, 0.0, 5.0, 5.0], [0.0, 1.0, 5.0, 6.0])
    assert scores.tolist() == [0.0, math.inf, 0.0, pytest.approx(200.0)]
    assert math.isnan(float(interval_scores(0.0, 0.0, np.nan)))


def test_a_segment_that_rests_is_calibrated_and_a_bucket_that_often_fails_at_width_zero_is_not() -> (
    None
):
    resting = np.zeros((MIN_GLOBAL, 3))
    resting[: MIN_GLOBAL // 20] = 1.0
    bands_of_zero = {0.9: (np.zeros_like(resting), np.zeros_like(resting))}
    fitted = fit(bands_of_zero, resting, [{}] * MIN_GLOBAL)
    assert [bucket.score for bucket in fitted[GLOBAL]["0.9"]] == [0.0, 0.0]
    resting[: MIN_GLOBAL // 5] = 1.0
    assert fit(bands_of_zero, resting, [{}] * MIN_GLOBAL) == {}


def test_k1_segments_are_tried_from_the_full_key_to_everything_whatever_their_order() -> None:
    own = {"tte_bucket": "0_24h", "liquidity_bucket": "high", "category": "politics"}
    keys = list(segment_keys(own))
    assert keys == [
        "category=politics|liquidity_bucket=high|tte_bucket=0_24h",
        "category=politics|liquidity_bucket=high",
        "category=politics|tte_bucket=0_24h",
        "liquidity_bucket=high|tte_bucket=0_24h",
        "category=politics",
        "liquidity_bucket=high",
        "tte_bucket=0_24h",
        GLOBAL,
    ]
    assert keys == list(segment_keys(dict(reversed(own.items()))))
    assert segments_of(keys[0]) == own
    assert segments_of("") == segments_of(GLOBAL) == {}
    assert list(segment_keys({"metric": "cpu", "tier": ""})) == ["metric=cpu", GLOBAL]


def test_k3_too_few_scores_leave_a_segment_to_a_wider_one() -> None:
    actual = normal(MIN_GLOBAL + MIN_SEGMENT)
    few, many = MIN_SEGMENT - 1, MIN_GLOBAL + 1
    segments = [{"metric": "few"}] * few + [{"metric": "many"}] * many
    fitted = fit({0.9: bands(actual, 1.0)}, actual, segments)
    # Step 1 has one score per forecast, steps 2 and 3 share a bucket.
    assert [bucket.first_step for bucket in fitted["metric=few"]["0.9"]] == [2, 4, 7]
    known = Calibration.of(fitted, horizon=12, **MODEL)
    low, high = np.full(12, -1.0), np.full(12, 1.0)

    def used(first_step: int, metric: str) -> str:
        steps = slice(first_step - 1, None)
        answer = known.apply(low[steps], high[steps], 0.9, {"metric": metric}, first_step)
        assert answer is not None
        return answer.segment

    assert used(1, "many") == "metric=many"
    assert used(1, "few") == GLOBAL
    assert used(2, "few") == "metric=few"
    assert used(1, "unseen") == GLOBAL


def test_k3_with_less_than_is_needed_nothing_is_calibrated() -> None:
    actual = normal(MIN_SEGMENT - 1, 1)
    fitted = fit({0.9: bands(actual, 1.0)}, actual, [{"metric": "cpu"}] * len(actual))
    assert fitted == {}
    nothing = Calibration.of(fitted, horizon=1, **MODEL)
    assert nothing.apply([0.0], [1.0], 0.9, {"metric": "cpu"}) is None


def test_d14_every_step_has_the_score_of_its_bucket_and_targets_keep_their_names() -> None:
    actual = normal(2_000) * np.sqrt(np.arange(1, 13))
    intervals = {0.8: bands(actual, 1.0), 0.9: bands(actual, 1.5)}
    known = Calibration.of(fit(intervals, actual, [{}] * 2_000), horizon=12, **MODEL)
    later = normal(4_000, seed=9) * np.sqrt(np.arange(1, 13))
    for target, half in ((0.8, 1.0), (0.9, 1.5)):
        answer = known.apply(np.full(12, -half), np.full(12, half), target, {})
        assert answer is not None
        covered = ((later >= answer.low) & (later <= answer.high)).mean(axis=0)  # [H]
        by_bucket = [covered[steps].mean() for steps in (slice(1), slice(1, 3), slice(6, 12))]
        np.testing.assert_allclose(by_bucket, target, atol=0.03)
        assert (np.diff(answer.high - answer.low) >= 0).all()
    assert known.apply(np.zeros(12), np.ones(12), 0.95, {}) is None


def test_d14_coverage_holds_on_rows_that_were_not_fitted() -> None:
    """n = 50, c = .9: plugging in the empirical quantile covers .892, the order statistic .902."""
    n, c, n_samples = 50, 0.9, 3_000
    actual = normal(n_samples, n + 1, seed=4)
    scores = interval_scores(-1.0, 1.0, actual)
    covered = np.mean([row[n] <= order_statistic(row[:n], c) for row in scores])
    assert covered > c - 2 * math.sqrt(c * (1 - c) / n_samples)


def test_the_median_stays_inside_and_the_ends_never_cross() -> None:
    actual = np.zeros((MIN_GLOBAL, 12))
    known = Calibration.of(
        fit({0.9: bands(actual, 10.0)}, actual, [{}] * MIN_GLOBAL), horizon=12, **MODEL
    )
    answer = known.apply(np.linspace(-3, 0, 12), np.linspace(2, 20, 12), 0.9, {})
    assert answer is not None
    np.testing.assert_allclose(answer.low, answer.high)
    np.testing.assert_allclose(answer.low, np.linspace(-0.5, 10, 12))


def test_steps_beyond_the_horizon_are_not_calibrated() -> None:
    known = calibration(horizon=12)
    ends = np.zeros(13), np.ones(13)
    assert known.apply(*ends, 0.9, {}) is None
    assert known.apply(ends[0][:12], ends[1][:12], 0.9, {}) is not None
    assert known.apply(ends[0][:2], ends[1][:2], 0.9, {}, first_step=12) is None


def test_the_number_of_scores_is_that_of_the_smallest_bucket() -> None:
    answer = calibration(metric="cpu").apply(np.zeros(12), np.ones(12), 0.9, {"metric": "cpu"})
    assert answer is not None
    assert (answer.segment, answer.n) == ("metric=cpu", 1_000)


def test_k3_the_published_file_is_read_as_it_was_written() -> None:
    known = calibration(metric="cpu", tier="premium")
    assert Calibration.model_validate_json(known.model_dump_json()) == known
    assert known.version == calibration(metric="cpu", tier="premium").version
    assert known.version != calibration(metric="mem", tier="premium").version


def test_a_file_that_was_changed_by_hand_is_refused() -> None:
    content = json.loads(calibration().model_dump_json())
    content["segments"][GLOBAL]["0.9"][0]["score"] = 0.0
    with pytest.raises(ValidationError, match="the file was changed after it was published"):
        Calibration.model_validate(content)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_bucket_can_hold_what_is_not_finite(value: float) -> None:
    with pytest.raises(ValidationError):
        Bucket(first_step=1, n=100, score=value)


def test_a_calibration_is_for_one_model_and_one_step() -> None:
    known, own = calibration(), ("local", "bundled", "29d05658f685", 5.0)
    assert known.fits(*own)
    for place, other in enumerate(("tollama", "chronos2", "0", 1.0)):
        asked: list[Any] = list(own)
        asked[place] = other
        assert not known.fits(*asked)


@pytest.mark.parametrize(
    ("actual", "n_segments"), [(np.zeros(5), 5), (np.zeros((5, 2)), 4), (np.zeros((5, 2)), 6)]
)
def test_k2_lengths_that_differ_are_refused(actual: NDArray[np.float64], n_segments: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        fit({0.9: (actual, actual)}, actual, [{}] * n_segments)


def test_k2_intervals_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"intervals of 0.9 have shape \(5, 2\)"):
        fit({0.9: (np.zeros((5, 2)), np.ones((5, 2)))}, np.zeros((5, 1)), [{}] * 5)
