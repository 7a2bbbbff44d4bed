"""Test that whatever a runtime answers becomes a sane answer, or is refused."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.special import logit

from tsfm_pipeline.evaluation.conformal import Calibrated
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.evaluation.quantiles import raw_interval
from tsfm_pipeline.serving.markets import Markets
from tsfm_pipeline.serving.postprocess import (
    LARGEST,
    WIDTH_TOLERANCE,
    Finished,
    Floats,
    InvalidOutput,
    finish,
    guarded,
)
from tsfm_pipeline.serving.preparation import Prepared, prepare
from tsfm_pipeline.serving.settings import InputSettings, SafetySettings
from tsfm_pipeline_tests.serving.wire import AS_OF, request

SAFETY = SafetySettings()
IDENTITY = {"space": "identity"}
CLOSED = Markets(frozenset({"web-1"}), {"cpu": (0.0, 8.0)})
HALF_OPEN = Markets(frozenset({"web-1"}), {"cpu": (0.0, None)})
OPEN = Markets()


@dataclass(frozen=True)
class Moved:
    """A calibration that moves both ends outwards by a multiple of the half width."""

    score: float
    only: tuple[float, ...] = (0.8, 0.9)
    version: str = "v1"
    as_of: datetime = AS_OF

    def apply(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        target: float,
        segments: Mapping[str, str],
        first_step: int = 1,
    ) -> Calibrated | None:
        if target not in self.only:
            return None
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        by = self.score * (high - low) / 2
        key = "|".join(f"{name}={segments[name]}" for name in sorted(segments)) or "global"
        return Calibrated(low - by, high + by, key, int(1_000 * target))


def asked(markets: Markets = OPEN, **changes: Any) -> Prepared:
    return prepare(request(**changes), InputSettings(), markets)


def spread(prepared: Prepared, median: float, half: float) -> Floats:
    """Deciles [H, 9] on the model's scale, symmetric in the client's unit: .1 and .9 at +- half."""
    steps = np.full((prepared.request.horizon_steps, 1), median)
    values = steps + half * (np.array(DECILES) - 0.5) / 0.4
    return np.asarray(logit(np.clip(values, 1e-9, 1 - 1e-9)) if prepared.is_logit else values)


def done(values: ArrayLike, prepared: Prepared, **options: Any) -> Finished:
    return finish(
        options.get("levels", DECILES),
        values,
        prepared,
        options.get("calibration"),
        options.get("safety", SAFETY),
    )


# -- what is refused


@pytest.mark.parametrize("shape", [(11, 9), (13, 9), (0, 9), (9,), (12, 9, 1)])
def test_f11_a_wrong_number_of_steps_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidOutput) as caught:
        done(np.zeros(shape), asked())
    assert caught.value.code == "horizon_mismatch"


@pytest.mark.parametrize(
    "levels",
    [
        DECILES[:-1],
        (*DECILES, 0.95),
        DECILES[::-1],
        (0.1, 0.1, *DECILES[2:]),
        (0.15, *DECILES[1:]),
        (float("nan"), *DECILES[1:]),
    ],
)
def test_f11_a_wrong_set_of_quantiles_is_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(InvalidOutput) as caught:
        done(np.zeros((12, 9)), asked(), levels=levels)
    assert caught.value.code == "quantile_set_mismatch"


def test_f11_levels_without_the_deciles_are_refused() -> None:
    with pytest.raises(InvalidOutput, match="quantile_set_mismatch"):
        done(np.zeros((12, 3)), asked(), levels=(0.1, 0.5, 0.9))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 10 * LARGEST])
@pytest.mark.parametrize("at", [(0, 0), (11, 8)])
def test_f11_a_value_that_is_not_finite_is_refused(wrong: float, at: tuple[int, int]) -> None:
    values = np.zeros((12, 9))
    values[at] = wrong
    with pytest.raises(InvalidOutput) as caught:
        done(values, asked())
    assert caught.value.code == "non_finite_value"


# -- order and reading off


def test_f10_crossing_quantiles_are_sorted_and_counted_once() -> None:
    own = asked(horizon_steps=12)
    crossing = np.tile(np.linspace(1.2, -0.2, 9), (12, 1))
    crossing[3] = np.sort(crossing[3])
    finished = done(crossing, own)
    q10, q50, q90 = (finished.quantiles[level] for level in (0.1, 0.5, 0.9))
    assert (q10 >= 0).all()
    assert ((q10 <= q50) & (q50 <= q90)).all()
    assert (q90 <= 1).all()
    assert finished.warnings["quantile_crossing_fixed"] == 11
    assert done(np.sort(crossing), own).warnings["quantile_crossing_fixed"] == 0


def test_f12_d11_other_quantiles_are_interpolated() -> None:
    own = asked(quantiles=[0.2, 0.333, 0.5, 0.85], transform=IDENTITY)
    values = np.sort(np.random.default_rng(0).normal(size=(12, 9)), axis=1)
    finished = done(values, own)
    for level, got in finished.quantiles.items():
        assert got == pytest.approx([np.interp(level, DECILES, row) for row in values])
    assert finished.quantiles[0.2].tolist() == values[:, 1].tolist()
    assert finished.warnings == Counter()


def test_d11_tails_follow_the_exponential_and_say_so() -> None:
    own = asked(quantiles=[0.01, 0.05, 0.5, 0.95], transform=IDENTITY)
    values = np.tile(np.arange(9.0), (12, 1))
    finished = done(values, own)
    assert finished.quantiles[0.05] == pytest.approx(-1.0)
    assert finished.quantiles[0.95] == pytest.approx(9.0)
    assert finished.quantiles[0.01] == pytest.approx(-np.log2(10))
    assert finished.warnings == {"tail_extrapolated": 3}


def test_a_quantile_that_the_runtime_answered_is_passed_on() -> None:
    own = asked(quantiles=[0.05, 0.5], transform=IDENTITY)
    values = np.tile([-7.0, *np.arange(9.0)], (12, 1))
    finished = done(values, own, levels=(0.05, *DECILES))
    assert finished.quantiles[0.05].tolist() == [-7.0] * 12
    assert finished.warnings == Counter()
    assert finished.deciles.tolist() == values[:, 1:].tolist()


def test_levels_that_went_through_float32_are_the_same_levels() -> None:
    own = asked()
    values = spread(own, 0.5, 0.1)
    levels = tuple(float(np.float32(level)) for level in DECILES)
    assert done(values, own, levels=levels).quantiles[0.1].tolist() == pytest.approx([0.4] * 12)


# -- intervals


def test_intervals_are_read_off_the_deciles() -> None:
    own = asked(transform=IDENTITY)
    values = np.sort(np.random.default_rng(1).normal(size=(12, 9)), axis=1)
    finished = done(values, own)
    for target in (0.8, 0.9):
        low, high = raw_interval(values, target)
        assert finished.intervals[target].low == pytest.approx(low)
        assert finished.intervals[target].high == pytest.approx(high)
    assert finished.conformal is None


def test_d14_calibration_moves_the_intervals_and_nothing_else() -> None:
    own = asked(CLOSED, segment={"category": "web"})
    values = spread(own, 0.5, 0.1)
    plain, moved = done(values, own), done(values, own, calibration=Moved(0.5))
    for level in plain.quantiles:
        assert moved.quantiles[level].tolist() == plain.quantiles[level].tolist()
    assert moved.intervals[0.8].low == pytest.approx(0.35)
    assert moved.intervals[0.8].high == pytest.approx(0.65)
    assert moved.conformal is not None
    assert moved.conformal.segment == "category=web|metric=cpu"
    assert (moved.conformal.version, moved.conformal.n) == ("v1", 800)
    assert moved.warnings == Counter()


def test_d13_intervals_are_calibrated_before_they_are_clipped() -> None:
    """Clipped first, the interval would lose half of its width before it is scaled."""
    own = asked(CLOSED, transform=IDENTITY)
    finished = done(spread(own, 0.0, 1.0), own, calibration=Moved(1.0))
    assert finished.intervals[0.8].high == pytest.approx(2.0)
    assert finished.intervals[0.8].low.tolist() == [0.0] * 12


@pytest.mark.parametrize("only", [(), (0.8,), (0.9,)])
def test_both_intervals_are_calibrated_or_none(only: tuple[float, ...]) -> None:
    own = asked()
    values = spread(own, 0.5, 0.1)
    finished = done(values, own, calibration=Moved(0.5, only))
    assert finished.conformal is None
    assert finished.warnings == {"not_calibrated": 1}
    assert finished.intervals[0.8].low == pytest.approx(0.4)


def test_a_calibration_that_gives_no_number_is_not_applied() -> None:
    finished = done(spread(asked(), 0.5, 0.1), asked(), calibration=Moved(np.inf))
    assert finished.warnings == {"not_calibrated": 1}


def test_d13_a_thin_interval_at_a_bound_slides_into_it() -> None:
    """The service before this one answered a width of .0109 here."""
    finished = done(spread(asked(), 0.0009, 0.0005), asked())
    for interval in finished.intervals.values():
        assert interval.low == pytest.approx(0.0)
        assert interval.high == pytest.approx(0.02)
    assert finished.warnings["interval_widened"] == 12
    upper = done(spread(asked(), 0.9991, 0.0005), asked())
    assert upper.intervals[0.8].low == pytest.approx(0.98)
    assert upper.intervals[0.8].high == pytest.approx(1.0)


@pytest.mark.parametrize(("scale", "width"), [(0.005, 0.02), (1.6, 0.60)])
def test_d13_a_width_is_changed_about_the_median_and_stays_as_skew_as_it_was(
    scale: float, width: float
) -> None:
    own = asked()
    below, above = 0.1 * scale, 0.3 * scale
    values = np.concatenate([np.linspace(-below, 0, 5), np.linspace(0, above, 5)[1:]]) + 0.45
    finished = done(np.tile(logit(values), (12, 1)), own)
    low, high = finished.intervals[0.8]
    assert high - low == pytest.approx(width)
    assert (0.45 - low) / (high - low) == pytest.approx(0.25)


def test_a_resting_series_gets_the_narrowest_interval_around_it() -> None:
    finished = done(spread(asked(), 0.4, 0.0), asked())
    for interval in finished.intervals.values():
        assert interval.low == pytest.approx(0.39)
        assert interval.high == pytest.approx(0.41)
    assert finished.quantiles[0.1] == pytest.approx(0.4)


def test_widths_are_guarded_on_the_logit_scale_only() -> None:
    own = asked(transform=IDENTITY)
    thin, wide = done(spread(own, 5.0, 0.0), own), done(spread(own, 5.0, 1e6), own)
    assert thin.intervals[0.8].high.tolist() == thin.intervals[0.8].low.tolist()
    assert wide.intervals[0.8].high - wide.intervals[0.8].low == pytest.approx(2e6)


def test_the_outer_interval_loses_only_what_lies_beyond_the_inner_one() -> None:
    own = asked()
    finished = done(spread(own, 0.5, 0.29), own)
    assert finished.intervals[0.8].low == pytest.approx(0.21)
    assert finished.intervals[0.9].low == pytest.approx(0.2)
    assert finished.intervals[0.9].high == pytest.approx(0.8)
    assert finished.warnings == {"interval_narrowed": 12}


@pytest.mark.parametrize(
    ("width_min", "width_max", "width"),
    [(1.0, 1.0, 1.0), (0.5, 0.1, 0.1), (0.0, 1.0, 0.2), (0.2, 0.2, 0.2)],
)
def test_where_rules_conflict_limits_come_first_and_width_max_second(
    width_min: float, width_max: float, width: float
) -> None:
    own = asked()
    safety = SafetySettings(width_min=width_min, width_max=width_max)
    finished = done(spread(own, 0.3, 0.1), own, safety=safety)
    low, high = finished.intervals[0.8]
    assert high - low == pytest.approx(width)
    assert ((low >= 0) & (high <= 1)).all()


@pytest.mark.parametrize("markets", [CLOSED, HALF_OPEN, OPEN])
def test_values_outside_of_a_metrics_limits_are_clipped_and_counted(markets: Markets) -> None:
    own = asked(markets, transform=IDENTITY)
    values = spread(own, 0.5, 100.0)
    values[:6] = spread(own, 0.5, 0.1)[:6]
    finished = done(values, own)
    lowest, highest = own.limits
    lows = [finished.quantiles[0.1], *(one.low for one in finished.intervals.values())]
    highs = [finished.quantiles[0.9], *(one.high for one in finished.intervals.values())]
    assert lowest is None or min(low.min() for low in lows) == lowest
    assert highest is None or max(high.max() for high in highs) == highest
    assert finished.warnings["clipped_to_limits"] == (0 if markets is OPEN else 6)
    assert finished.deciles.tolist() == values.tolist()  # recorded as the model gave them


# -- what holds for every answer (F13)

SPACES = st.sampled_from(["logit", "identity, closed", "identity, half open", "identity, open"])
KINDS = ("normal", "narrow", "wide", "far", "resting", "two values", "huge", "ascending")
SCORES = st.none() | st.sampled_from([0.0, -0.5, -1.0, -3.0, 0.3, 50.0, 1e12, 1e300])
SAFETIES = st.sampled_from(
    [
        SAFETY,
        SAFETY,
        SafetySettings(width_min=0, width_max=1),
        SafetySettings(width_min=0.5, width_max=0.1),
    ]
)
USUAL_LEVELS = st.sampled_from(
    [[0.1, 0.5, 0.9], list(DECILES), [0.5], [0.01, 0.99], [0.05, 0.123, 0.5, 0.777, 0.95]]
)
ANY_LEVELS = st.sets(st.integers(1, 99), min_size=1, max_size=19).map(
    lambda percent: [p / 100 for p in sorted(percent)]
)
TEMPLATES = {
    "logit": asked(horizon_steps=1),
    "identity, closed": asked(CLOSED, horizon_steps=1, transform=IDENTITY),
    "identity, half open": asked(HALF_OPEN, horizon_steps=1, transform=IDENTITY),
    "identity, open": asked(OPEN, horizon_steps=1, transform=IDENTITY),
}


def case(space: str, horizon: int, levels: list[float]) -> Prepared:
    """The prepared request of one case, without reading a request anew."""
    template = TEMPLATES[space]
    fields = {"horizon_steps": horizon, "quantiles": levels}
    return replace(template, request=template.request.model_copy(update=fields))


def drawn(kind: str, seed: int, horizon: int) -> Floats:
    """Output [H, 9] of a kind; most of it crosses."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(horizon, 9))
    centre = rng.normal(scale=3.0, size=(horizon, 1))
    return {
        "normal": centre + noise,
        "narrow": centre + 1e-3 * noise,
        "wide": 20 * noise,
        "far": rng.choice([-40.0, -709.0, 40.0, 1e5], size=(horizon, 1)) + noise,
        "resting": np.repeat(centre, 9, axis=1),
        "two values": rng.choice([-1.0, 1.0], size=(horizon, 9)) * rng.exponential(),
        "huge": rng.choice([-1.0, 1.0], size=(horizon, 9)) * LARGEST,
        "ascending": np.sort(centre + noise, axis=1),
    }[kind]


def assert_sane(finished: Finished, prepared: Prepared, safety: SafetySettings) -> None:
    horizon = prepared.request.horizon_steps
    low, high = prepared.limits
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    quantiles = list(finished.quantiles.values())
    assert list(finished.quantiles) == prepared.request.quantiles
    assert list(finished.intervals) == [0.8, 0.9]
    inner, outer = finished.intervals[0.8], finished.intervals[0.9]
    median = np.clip(finished.deciles[:, 4], low, high)
    for array in (*quantiles, *inner, *outer):
        assert array.shape == (horizon,)
        assert np.isfinite(array).all()
        assert ((array >= low) & (array <= high)).all()
    ladder = [outer.low, inner.low, median, inner.high, outer.high]
    for rungs in (quantiles, ladder):
        assert all((a <= b).all() for a, b in pairwise(rungs))
    if prepared.is_logit:
        widest, narrowest = safety.width_max, min(safety.width_min, safety.width_max)
        for interval in (inner, outer):
            width = interval.high - interval.low
            assert (width >= narrowest - 2 * WIDTH_TOLERANCE).all()
            assert (width <= widest + 2 * WIDTH_TOLERANCE).all()
        again = guarded(median, inner, outer, (0.0, 1.0), safety)
        assert [end.tobytes() for ends in again[:2] for end in ends] == [
            end.tobytes() for ends in (inner, outer) for end in ends
        ]
    counts = {name: n for name, n in finished.warnings.items() if name != "tail_extrapolated"}
    assert all(1 <= n <= horizon for n in counts.values())
    assert (finished.conformal is None) or "not_calibrated" not in finished.warnings


def as_bytes(finished: Finished) -> list[bytes]:
    arrays = [
        *finished.quantiles.values(),
        *(end for one in finished.intervals.values() for end in one),
    ]
    return [array.tobytes() for array in arrays]


def check(values: Floats, prepared: Prepared, score: float | None, safety: SafetySettings) -> None:
    calibration = None if score is None else Moved(score)
    with np.errstate(over="ignore"):
        finished = done(values, prepared, calibration=calibration, safety=safety)
        again = done(values, prepared, calibration=calibration, safety=safety)
    assert_sane(finished, prepared, safety)
    assert as_bytes(finished) == as_bytes(again)
    assert finished.warnings == again.warnings
    if not prepared.is_logit:  # what was made sane stays as it is
        with np.errstate(over="ignore"):
            twice = done(finished.deciles, prepared, calibration=calibration, safety=safety)
        assert as_bytes(twice) == as_bytes(finished)
        assert "quantile_crossing_fixed" not in twice.warnings


RANDOM = given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 12, 30]),
    SPACES,
    USUAL_LEVELS,
    SCORES,
    SAFETIES,
)


def check_random(
    seed: int,
    horizon: int,
    space: str,
    levels: list[float],
    score: float | None,
    safety: SafetySettings,
) -> None:
    """Check one case of every kind: drawing a case costs more than checking one."""
    for kind in KINDS:
        check(drawn(kind, seed, horizon), case(space, horizon, levels), score, safety)


test_f13_every_answer_is_sane = settings(max_examples=40)(RANDOM(check_random))
test_f13_every_answer_of_8000_is_sane = pytest.mark.slow(
    settings(max_examples=1_000)(RANDOM(check_random))
)
FINITE = given(
    st.lists(
        st.lists(st.floats(-LARGEST, LARGEST), min_size=9, max_size=9), min_size=1, max_size=3
    ),
    SPACES,
    ANY_LEVELS,
    SCORES,
    SAFETIES,
)


def check_finite(
    values: list[list[float]],
    space: str,
    levels: list[float],
    score: float | None,
    safety: SafetySettings,
) -> None:
    check(np.array(values), case(space, len(values), levels), score, safety)


test_f13_every_answer_to_any_finite_numbers_is_sane = settings(max_examples=50)(
    FINITE(check_finite)
)
test_f13_every_answer_to_2000_finite_numbers_is_sane = pytest.mark.slow(
    settings(max_examples=2_000)(FINITE(check_finite))
)
