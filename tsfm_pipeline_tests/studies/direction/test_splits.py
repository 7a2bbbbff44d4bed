"""Test the yearly walk-forward: what each part has, and that no label looks into a later part.

What belongs here: folds. What does not: which days are usable (`test_problems`).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.options import SplitOptions
from tsfm_pipeline.studies.direction.splits import folds
from tsfm_pipeline_tests.studies.direction.prices import sp500, walk


def every_day(bars: Bars) -> np.ndarray:
    return np.ones(len(bars), bool)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 99),
    share=st.floats(0.5, 1),
    horizon=st.integers(1, 30),
    embargo=st.integers(0, 20),
    training_years=st.integers(2, 4),
)
def test_no_label_of_an_earlier_part_looks_into_a_later_one(
    seed: int, share: float, horizon: int, embargo: int, training_years: int
) -> None:
    bars = walk(1500, seed=0, start="2010-06-01")
    usable = np.random.default_rng(seed).random(len(bars)) < share
    options = SplitOptions(embargo=embargo, training_years=training_years, least_days=20)
    made = folds(bars, usable, horizon, options)
    assert [fold.year for fold in made] == list(range(2010 + training_years, 2017))[: len(made)]
    for fold in made:
        parts = (fold.train, fold.validation, fold.test)
        for part, later, last_year in zip(
            parts, (*parts[1:], None), (fold.year - 2, fold.year - 1, fold.year), strict=True
        ):
            assert usable[part].all()
            assert (np.diff(part) > 0).all()
            assert part[-1] + horizon < len(bars), "the label is known"
            assert bars.years[part].max() == last_year
            if later is not None:
                first_of_later = np.searchsorted(bars.years, last_year + 1)
                assert part[-1] + horizon + embargo < first_of_later <= later[0]
        assert (bars.years[fold.validation] == fold.year - 1).all()
        assert (bars.years[fold.test] == fold.year).all()


def test_nothing_more_than_purge_and_embargo_is_left_out() -> None:
    bars = sp500()
    made = folds(bars, every_day(bars), 5, SplitOptions())
    assert [fold.year for fold in made] == list(range(2005, 2019))
    first = made[0]
    start = {year: int(np.searchsorted(bars.years, year)) for year in (2004, 2005, 2006)}
    np.testing.assert_array_equal(first.train, np.arange(start[2004] - 10))
    np.testing.assert_array_equal(first.validation, np.arange(start[2004], start[2005] - 10))
    np.testing.assert_array_equal(first.test, np.arange(start[2005], start[2006]))
    assert made[-1].test[-1] == len(bars) - 6


def test_short_years_are_left_out_and_the_last_ones_can_be_asked_for() -> None:
    bars = sp500().until(int(np.searchsorted(sp500().years, 2018)) + 58)
    made = folds(bars, every_day(bars), 1, SplitOptions(last_years=2))
    assert [fold.year for fold in made] == [2016, 2017], "2018 has 58 days with a label"
    longer = sp500().until(len(bars) + 1)
    made = folds(longer, every_day(longer), 1, SplitOptions(last_years=2))
    assert [fold.year for fold in made] == [2017, 2018]


def test_without_a_fold_the_error_says_what_there_is_and_what_is_needed() -> None:
    bars = walk(1300, seed=0)
    with pytest.raises(ValueError, match=r"2010-01-04 to 2014-12-26.*6 calendar years.*No year"):
        folds(bars, every_day(bars), 1, SplitOptions())
    usable = every_day(bars)
    usable[:1200] = False
    with pytest.raises(ValueError, match=r"60 days.*2014 has 0 training, 0 validation and 99 test"):
        folds(bars, usable, 1, SplitOptions(training_years=3))
    with pytest.raises(ValueError, match="no usable day"):
        folds(bars, np.zeros(len(bars), bool), 1, SplitOptions(training_years=3))
