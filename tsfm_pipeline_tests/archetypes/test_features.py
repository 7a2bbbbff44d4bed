"""Test that features measure what their names say, with and without missing values, for one tenant
or for many at once.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsfm_pipeline.archetypes.features import (
    BASE_FEATURES,
    feature_names,
    log_features,
    movement_feature_names,
    movement_features,
    retrieval_feature_names,
    retrieval_features,
    tenant_features,
    window_features,
    window_starts,
)

METRICS = ("cpu_util", "mem_util", "net_bytes", "disk_iops")


def _telemetry(n_tenants: int = 6, n_metrics: int = 4, n_steps: int = 500) -> np.ndarray:
    return (
        np.random.default_rng(0).gamma(2.0, size=(n_tenants, n_metrics, n_steps)).astype(np.float32)
    )


def _feature(values: np.ndarray, name: str) -> float:
    return float(tenant_features(values.reshape(1, 1, -1))[0, BASE_FEATURES.index(name)])


def test_four_metrics_have_the_28_features_of_the_evidence_page() -> None:
    names = feature_names(METRICS)
    assert len(names) == 28
    assert names[:8] == (
        "cpu_util_mean",
        "cpu_util_std",
        "cpu_util_min",
        "cpu_util_max",
        "cpu_util_p90",
        "cpu_util_autocorrelation",
        "cpu_util_share_high",
        "mem_util_mean",
    )


@pytest.mark.parametrize("n_metrics", [1, 4, 19])
def test_every_column_has_a_name_whatever_the_number_of_metrics(n_metrics: int) -> None:
    values = _telemetry(n_metrics=n_metrics)
    metrics = [f"m{i}" for i in range(n_metrics)]
    assert tenant_features(values).shape == (6, len(feature_names(metrics)))
    assert movement_features(values).shape == (6, len(movement_feature_names(metrics)))
    assert retrieval_features(values).shape == (6, len(retrieval_feature_names(metrics)))
    assert len(set(retrieval_feature_names(metrics))) == 20 * n_metrics


@given(arrays(np.float32, 40, elements=st.floats(-1e3, 1e3, width=32)))
def test_features_are_those_of_numpy(series: np.ndarray) -> None:
    exact = series.astype(np.float64)
    expected = [exact.mean(), exact.std(), exact.min(), exact.max(), np.percentile(exact, 90)]
    np.testing.assert_allclose(
        tenant_features(series.reshape(1, 1, -1))[0, :5], expected, rtol=1e-9, atol=1e-9
    )


@given(
    arrays(np.float32, 40, elements=st.floats(-1e3, 1e3, width=32)),
    st.sets(st.integers(0, 39), max_size=37).map(sorted),
)
def test_missing_values_count_for_nothing(series: np.ndarray, missing: list[int]) -> None:
    with_gaps = series.copy()
    with_gaps[missing] = np.nan
    kept = np.delete(series, missing)
    features, expected = (tenant_features(x.reshape(1, 1, -1))[0] for x in (with_gaps, kept))
    neighbours_matter = BASE_FEATURES.index("autocorrelation")
    np.testing.assert_allclose(
        np.delete(features, neighbours_matter), np.delete(expected, neighbours_matter), atol=1e-9
    )


def test_autocorrelation_tells_a_persistent_series_from_noise_and_an_alternating_one() -> None:
    rng = np.random.default_rng(0)
    assert _feature(np.cumsum(rng.normal(size=5000)), "autocorrelation") > 0.98
    assert abs(_feature(rng.normal(size=5000), "autocorrelation")) < 0.05
    assert _feature(np.tile([0.0, 1.0], 2500), "autocorrelation") == pytest.approx(-1.0)


def test_autocorrelation_uses_only_pairs_of_observed_neighbours() -> None:
    walk = np.cumsum(np.random.default_rng(0).normal(size=5000))
    gappy = walk.copy()
    gappy[::5] = np.nan
    assert _feature(gappy, "autocorrelation") == pytest.approx(
        _feature(walk, "autocorrelation"), abs=0.01
    )


def test_share_high_is_the_share_above_mean_plus_one_and_a_half_standard_deviations() -> None:
    series = np.zeros(100)
    series[:10] = 1.0
    assert _feature(series, "share_high") == pytest.approx(0.1)


@pytest.mark.parametrize("level", [0.0, 0.1, -7.3e5])
def test_a_constant_series_neither_varies_nor_correlates(level: float) -> None:
    values = np.full((1, 2, 1000), level)
    features = dict(zip(feature_names(["a", "b"]), tenant_features(values)[0], strict=True))
    assert (features["a_std"], features["a_autocorrelation"], features["a_share_high"]) == (
        0.0,
        0.0,
        0.0,
    )
    assert features["a_mean"] == pytest.approx(level, rel=1e-6)
    assert (movement_features(values) == 0.0).all()


def test_a_metric_that_was_never_observed_has_no_features_and_spoils_no_other() -> None:
    values = _telemetry()
    values[2, 1] = np.nan
    base, complete = (
        tenant_features(values).reshape(6, 4, 7),
        tenant_features(_telemetry()).reshape(6, 4, 7),
    )
    assert np.isnan(base[2, 1]).all()
    base[2, 1] = complete[2, 1]
    np.testing.assert_array_equal(base, complete)
    assert np.isnan(retrieval_features(values)).sum() == 20


def test_a_tenant_s_features_do_not_depend_on_the_others() -> None:
    values = _telemetry(n_tenants=40, n_steps=20_000)
    values[7, 1, 100:200] = np.nan
    together = retrieval_features(values)
    for tenant in (0, 7, 39):
        np.testing.assert_array_equal(retrieval_features(values[[tenant]])[0], together[tenant])


def test_the_values_are_left_as_they_were() -> None:
    values = _telemetry()
    before = values.copy()
    retrieval_features(values)
    np.testing.assert_array_equal(values, before)


def test_jumps_are_counted_and_do_not_move_the_typical_step() -> None:
    series = np.random.default_rng(0).normal(0, 0.1, 10_000)
    spiky = series.copy()
    spiky[100::500] += 10.0
    calm, jumpy = (movement_features(x.reshape(1, 1, -1))[0] for x in (series, spiky))
    assert jumpy[0] == pytest.approx(calm[0], rel=0.02)
    assert calm[1] == 0.0
    assert jumpy[1] == pytest.approx(2.0, rel=0.01)


def test_comovement_tells_metrics_with_a_common_load_from_independent_ones() -> None:
    rng = np.random.default_rng(0)
    load = np.cumsum(rng.normal(size=2000))
    together = np.stack([load, 100 * load])[None]
    apart = np.cumsum(rng.normal(size=(1, 2, 2000)), axis=2)
    assert movement_features(together).reshape(2, 3)[:, 2].tolist() == [1.0, 1.0]
    assert np.abs(movement_features(apart).reshape(2, 3)[:, 2]).max() < 0.1


def test_log_features_stand_beside_the_raw_ones_and_keep_sign_and_order() -> None:
    raw = np.array([[-5.0, -0.001, 0.0, 0.002, 800.0]])
    both = log_features(raw)
    np.testing.assert_array_equal(both[:, :5], raw)
    assert (np.diff(both[0, 5:]) > 0).all()
    np.testing.assert_array_equal(np.sign(both[0, 5:]), np.sign(raw[0]))


@pytest.mark.parametrize(
    "values", [np.zeros((2, 3)), np.zeros((2, 3, 1)), np.zeros((2, 3, 9), dtype=int)]
)
def test_anything_but_floats_by_tenant_metric_and_step_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected floats \[tenants, metrics, steps\]"):
        tenant_features(values)


@given(st.integers(2, 50), st.integers(1, 12), st.integers(0, 100))
def test_windows_lie_within_the_steps_they_may_see(length: int, n_windows: int, first: int) -> None:
    starts = window_starts([0, 1, 2], first, first + 99, length, n_windows, seed=0)
    assert starts.shape == (3, n_windows)
    assert starts.min() >= first
    assert starts.max() + length <= first + 100


def test_windows_are_spread_and_depend_on_seed_and_tenant_alone() -> None:
    starts = window_starts(range(50), 0, 9_999, 100, 8, seed=0)
    np.testing.assert_array_equal(window_starts([7], 0, 9_999, 100, 8, seed=0)[0], starts[7])
    assert (starts[1] != starts[2]).any()
    assert np.diff(np.sort(starts, axis=1), axis=1).min() > 500


def test_windows_longer_than_the_history_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of 101 steps do not fit into steps 0 to 99"):
        window_starts([0], 0, 99, 101, 1, seed=0)


def test_window_features_are_the_features_of_the_windows() -> None:
    values = _telemetry(n_tenants=3)
    starts = np.array([[0, 400], [10, 20], [470, 3]])
    features = window_features(values, starts, 30)
    assert features.shape == (3, 2, 80)
    np.testing.assert_array_equal(features[2, 0], retrieval_features(values[2:, :, 470:500])[0])
