"""Test the constants that operators set from recent usage."""

import numpy as np
import pytest

from tsfm_pipeline.evaluation.usage import histogram_targets, usage_quantiles

ORIGIN = np.array([[7]])


def test_a_histogram_weighs_days_and_returns_the_end_of_a_bucket_with_a_margin() -> None:
    """By hand: the newest of eight days weighs 1, and the seven before together 127/128. Their
    value 1, half of the largest, lies in bucket 25 (3.5 = 1.05^25.7), which ends at .2 (1.05^26 -
    1) = .511134 of the largest; the largest lies in bucket 36, which ends at 1.016281.
    """
    values = np.array([[1.0] * 7 + [2.0]])
    found = histogram_targets(values, ORIGIN, 1, (0.49, 0.5))
    np.testing.assert_allclose(found, [[[2 * 1.15 * 0.511134, 2 * 1.15 * 1.016281]]], rtol=1e-5)


def test_old_days_are_forgotten() -> None:
    values = np.array([[9.0] * 40 + [1.0] * 80])
    ((soon, later),) = histogram_targets(values, np.array([[49, 119]]), 10, (0.9,))[..., 0]
    assert soon > 9
    assert later == pytest.approx(1.0, rel=0.2)


def test_nothing_after_the_origin_counts_and_units_do_not_matter() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=(3, 400))
    origins = np.array([[150, 250], [200, 300], [100, 399]])
    later = values.copy()
    for row, of_row in zip(later, origins, strict=True):
        row[of_row.max() + 1 :] = 1e6
    for find in (
        lambda v: histogram_targets(v, origins, 24, (0.65, 0.9)),
        lambda v: usage_quantiles(v, origins, 24, (0.65, 0.9)),
    ):
        found = find(values)
        assert found.shape == (3, 2, 2)
        assert (np.diff(found, axis=-1) >= 0).all()
        np.testing.assert_array_equal(find(later), found)
        np.testing.assert_allclose(find(1024 * values), 1024 * found)


def test_what_is_missing_has_no_weight_and_nothing_at_all_no_constant() -> None:
    values = np.array([[np.nan, 1.0, 2.0, np.nan, 3.0], [np.nan] * 5])
    quantiles = usage_quantiles(values, np.array([[4], [4]]), 4, (0.5,))
    assert quantiles[0, 0, 0] == 2
    assert np.isnan(quantiles[1, 0, 0])
    targets = histogram_targets(values, np.array([[4], [4]]), 1, (0.0, 1.0))
    assert targets[0, 0, 1] == pytest.approx(3 * 1.15, rel=0.05)
    assert np.isnan(targets[1]).all()


def test_usage_of_nothing_is_nothing() -> None:
    assert histogram_targets(np.zeros((1, 8)), ORIGIN, 1, (0.9,)).tolist() == [[[0.0]]]
    assert histogram_targets(-np.ones((1, 8)), ORIGIN, 1, (0.9,)).tolist() == [[[0.0]]]
