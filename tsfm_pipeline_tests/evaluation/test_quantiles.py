"""Test quantiles at any level: interpolation, tails, and the raw intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.protocol import DECILES, HIGHEST_ALPHA
from tsfm_pipeline.evaluation.quantiles import quantiles_at, raw_interval

LEVELS = np.array(DECILES)
DRAWN = np.sort(np.random.default_rng(3).normal(size=(5, 4, 9)), axis=-1)


@given(st.floats(0.1, HIGHEST_ALPHA))
def test_from_deciles_it_is_the_rule_of_decisions(level: float) -> None:
    np.testing.assert_allclose(
        quantiles_at(DECILES, DRAWN, (level,))[..., 0], decision_quantile(DRAWN, level), atol=1e-7
    )


@given(st.floats(0.001, 0.999))
def test_tails_are_mirrored(level: float) -> None:
    mirrored = -quantiles_at(DECILES, -DRAWN[..., ::-1], (1 - level,))
    np.testing.assert_allclose(quantiles_at(DECILES, DRAWN, (level,)), mirrored, atol=1e-6)


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=9, unique=True))
def test_quantiles_ascend_with_their_levels(wanted: list[float]) -> None:
    found = quantiles_at(DECILES, DRAWN, sorted(wanted))
    assert (np.diff(found, axis=-1) >= -1e-9).all()


def test_an_exponential_distribution_is_continued_exactly_by_its_tail() -> None:
    exponential = -np.log1p(-LEVELS)
    wanted = np.array([0.95, 0.975, 0.99])
    found = quantiles_at(DECILES, exponential, wanted.tolist())
    np.testing.assert_allclose(found, -np.log1p(-wanted))


def test_other_levels_than_deciles_have_tails_of_their_own() -> None:
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    exponential = -np.log1p(-levels)
    assert float(quantiles_at(levels.tolist(), exponential, (0.99,))[0]) == pytest.approx(
        -np.log(0.01)
    )


def test_the_raw_intervals_are_deciles_and_the_first_step_into_the_tails() -> None:
    deciles = np.arange(1.0, 10.0)
    assert raw_interval(deciles, 0.8) == (1.0, 9.0)
    low, high = raw_interval(deciles, 0.9)
    assert (float(low), float(high)) == pytest.approx((0.0, 10.0))


def test_a_single_level_is_repeated_in_both_tails() -> None:
    assert quantiles_at((0.5,), [7.0], (0.05, 0.5, 0.95)).tolist() == [7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("levels", "values", "wanted", "message"),
    [
        ((0.5, 0.5), [1.0, 2.0], (0.5,), "must ascend"),
        ((0.1, 0.9), [1.0, 2.0], (1.0,), "between 0 and 1"),
        ((0.1, 0.9), [1.0, 2.0, 3.0], (0.5,), "last axis must be 2"),
    ],
)
def test_what_is_no_quantile_function_is_refused(
    levels: tuple[float, ...], values: list[float], wanted: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quantiles_at(levels, values, wanted)
