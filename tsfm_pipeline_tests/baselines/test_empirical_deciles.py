"""Test that the sample quantile agrees with numpy's, whatever values are missing."""

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tsfm_pipeline.baselines.empirical import empirical_deciles, trailing_windows
from tsfm_pipeline.forecaster import QUANTILE_LEVELS

samples = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    # Between subnormal numbers float32 has no digits left in which an interpolation could agree.
    elements=st.one_of(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), st.just(np.nan)),
)


@given(samples)
def test_deciles_are_numpys_over_what_is_observed(values: npt.NDArray[np.float32]) -> None:
    deciles = empirical_deciles(values, min_samples=3)
    for row, answer in zip(values, deciles, strict=True):
        observed = row[~np.isnan(row)]
        if len(observed) < 3:
            assert np.isnan(answer).all()
        else:
            expected = np.quantile(observed.astype(np.float64), QUANTILE_LEVELS)
            np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6 * np.ptp(observed))


def test_a_window_ends_with_its_origin_and_is_missing_before_the_first_step() -> None:
    windows = trailing_windows(np.arange(5, dtype=np.float32), np.array([0, 3]), 3)
    np.testing.assert_array_equal(windows, [[np.nan, np.nan, 0], [1, 2, 3]])
