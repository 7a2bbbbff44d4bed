"""Test which series a cycle is for."""

import numpy as np
import pytest

from tsfm_pipeline.evaluation.cycle import most_important


def test_standard_scores_are_weighted_six_to_four() -> None:
    # z of volume: 1.22, 0, -1.22; of open interest: -0.71, 1.41, -0.71
    volume, interest = [30.0, 20.0, 10.0], [0.0, 9.0, 0.0]
    assert most_important(volume, interest).tolist() == [1, 0, 2]
    # of open interest: -0.39, -0.98, 1.37
    assert most_important(volume, [1.0, 0.0, 4.0]).tolist() == [0, 2, 1]


def test_units_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    volume, interest = rng.exponential(size=(2, 500))
    np.testing.assert_array_equal(
        most_important(volume, interest), most_important(1e6 * volume + 5, interest / 1e3)
    )


def test_a_cycle_has_at_most_two_hundred_series_and_the_most_traded_are_among_them() -> None:
    volume = np.arange(1_000.0)
    chosen = most_important(volume, np.zeros(1_000))
    assert chosen.tolist() == list(range(999, 799, -1))


def test_the_unknown_count_as_nothing_and_equals_keep_their_order() -> None:
    assert most_important([np.nan, 1.0, np.nan], [np.nan] * 3).tolist() == [1, 0, 2]
    assert most_important([1.0] * 4, [2.0] * 4, size=3).tolist() == [0, 1, 2]
    assert most_important([], []).tolist() == []


def test_what_is_not_one_value_per_series_is_refused() -> None:
    with pytest.raises(ValueError, match="one value per series"):
        most_important([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        most_important([1.0], [1.0], size=0)
