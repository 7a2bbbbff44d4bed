"""Test forecast quality: its sums match their names, and the scores of a group are ratios of sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.evaluation.losses import DECILE_LEVELS
from tsfm_pipeline.evaluation.quality import (
    NOMINAL_COVERAGE,
    SCORES,
    compare,
    over_metrics,
    quality,
    seasonal_error,
    terms,
)
from tsfm_pipeline.evaluation.statistics import two_way_bootstrap, two_way_bootstrap_ratios

N_TENANTS, N_DAYS, N_METRICS, HORIZON = 12, 5, 3, 40
TENANT, DAY = (axis.ravel() for axis in np.indices((N_TENANTS, N_DAYS)))
DRAWS = {"n_draws": 300, "seed": 0}


def forecasts(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Actuals [R, D, H] and their true deciles [R, D, H, 9]."""
    rng = np.random.default_rng(seed)
    actual = rng.normal(10, 1, (len(TENANT), N_METRICS, HORIZON))
    true = np.quantile(rng.normal(10, 1, 100_000), DECILE_LEVELS)
    return actual, np.broadcast_to(true, (*actual.shape, 9))


def of_methods(actual: np.ndarray, *methods: np.ndarray) -> dict[str, np.ndarray]:
    """Columns [M, R, D] of some methods' deciles, with a seasonal error of 2."""
    columns = [quality(actual, deciles) for deciles in methods]
    sums = {name: np.stack([column[name] for column in columns]) for name in columns[0]}
    return sums | {"seasonal_error": np.full(sums["n_steps"].shape, 2.0)}


def test_the_columns_are_the_sums_that_they_are_called() -> None:
    actual = np.array([3.0, np.nan, -1.0])
    deciles = np.tile(np.arange(1.0, 10.0) / 2, (3, 1))
    columns = {name: float(value) for name, value in quality(actual, deciles).items()}
    error = actual[[0, 2], None] - deciles[[0, 2]]
    losses = 2 * np.abs(error * ((error <= 0) - DECILE_LEVELS)).mean(
        axis=1
    )  # written differently: fev's form of the quantile loss
    assert columns == pytest.approx(
        {
            "n_steps": 2,
            "crps": losses.mean(),
            "quantile_loss_sum": losses.sum(),
            "abs_actual_sum": 4.0,
            "abs_error_sum": abs(3 - 2.5) + abs(-1 - 2.5),
            "coverage_80": 0.5,
        }
    )


def test_an_unavailable_forecast_has_no_score_and_counts_nowhere() -> None:
    actual, deciles = forecasts()
    holed = deciles.copy()
    holed[3, 1] = np.nan
    columns = quality(actual, holed)
    for name in ("crps", "quantile_loss_sum", "abs_error_sum", "coverage_80"):
        assert np.isnan(columns[name]).sum() == 1
    sums = {**columns, "seasonal_error": np.full(columns["n_steps"].shape, 2.0)}
    for score in SCORES:
        above, below = terms(sums, score)
        assert (above[3, 1], below[3, 1]) == (0, 0)
        assert (below[np.isfinite(columns["crps"])] > 0).all()


def test_a_request_without_an_observed_step_counts_nowhere() -> None:
    columns = quality(np.full((1, 4), np.nan), np.zeros((1, 4, 9)))
    sums = {**columns, "seasonal_error": np.ones(1)}
    assert all((terms(sums, score)[0], terms(sums, score)[1]) == (0, 0) for score in SCORES)


def test_an_unknown_score_names_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"no score is named 'mape'; there are: wql, sql, mase, coverage_80"
    ):
        terms({"n_steps": np.ones(1), "seasonal_error": np.ones(1)}, "mape")


def test_the_seasonal_error_knows_nothing_after_its_end_and_has_no_floor() -> None:
    values = np.array(
        [
            [1.0, 5.0, 2.0, 8.0, 9.0, 9.0],
            [1e6, 0.0, 1e6, 0.0, 1e6, 7.0],
            [1.0, 2.0, np.nan, 1.0, 0.0, 0.0],
        ]
    )
    end = np.array([4, 5, 2])
    expected = [
        (1 + 3) / 2,
        np.nan,
        np.nan,
    ]  # two differences; repeats itself exactly; shorter than a season
    np.testing.assert_allclose(seasonal_error(values, end, 2), expected)
    later = values.copy()
    later[np.arange(6) >= end[:, None]] = 1e9
    np.testing.assert_allclose(seasonal_error(later, end, 2), expected)


@given(st.floats(1e-3, 1e6))
def test_the_mean_over_metrics_does_not_depend_on_a_metrics_unit(factor: float) -> None:
    rng = np.random.default_rng(1)
    above, below = rng.random((2, 1, 20, 3))
    unit = np.array([1.0, factor, 1.0])
    in_units = over_metrics(above * unit, below * unit)
    expected = np.mean(above.sum(axis=1) / below.sum(axis=1))
    assert in_units[0].sum() / in_units[1].sum() == pytest.approx(expected)


def test_a_metric_that_is_always_zero_is_left_out_of_the_mean() -> None:
    above, below = np.ones((1, 4, 2)), np.array([2.0, 0.0]) * np.ones((1, 4, 2))
    numerator, denominator = over_metrics(above * (below > 0), below)
    assert numerator.sum() / denominator.sum() == pytest.approx(0.5)


def test_methods_are_scored_beside_the_reference() -> None:
    actual, true = forecasts()
    perfect = np.repeat(actual[..., None], 9, axis=-1)
    scores = compare(of_methods(actual, true, true + 1.0, perfect), 1, TENANT, DAY, **DRAWS)
    wql, mase, skill, coverage = (
        scores[name] for name in ("wql", "mase", "wql_skill", "coverage_80")
    )
    assert wql[2].figure == mase[2].figure == 0
    assert [round(s.figure, 9) for s in skill][1:] == [0, 1]
    assert 0.1 < skill[0].low < skill[0].figure < skill[0].high < 0.9
    assert wql[0].figure / wql[1].figure == pytest.approx(1 - skill[0].figure)
    assert coverage[0].low < NOMINAL_COVERAGE < coverage[0].high
    assert mase[0].figure == pytest.approx(np.abs(actual - true[..., 4]).mean() / 2.0)


def test_skill_is_over_what_both_answered() -> None:
    actual, true = forecasts()
    holed, hard = true.copy(), true.copy()
    holed[:30, 0] = np.nan
    hard[:30, 0] += 5.0
    hard[:, 1] += 1.0
    sums = of_methods(actual, hard, holed)
    losses, sizes = sums["quantile_loss_sum"], sums["abs_actual_sum"]
    both = np.isfinite(losses[1])
    wql = [
        np.mean(
            [own[both[:, d], d].sum() / sizes[0][both[:, d], d].sum() for d in range(N_METRICS)]
        )
        for own in losses
    ]
    scores = compare(sums, 1, TENANT, DAY, **DRAWS)
    assert scores["wql_skill"][0].figure == pytest.approx(1 - wql[0] / wql[1]), (
        "what only one of the two answered decides nothing"
    )
    assert scores["wql"][0].figure > wql[0]


def test_a_series_without_a_seasonal_error_is_left_out_of_mase_alone() -> None:
    actual, true = forecasts()
    sums = of_methods(actual, true, true + 1.0)
    sums["seasonal_error"][:, :30, 0] = np.nan
    scores = compare(sums, 1, TENANT, DAY, **DRAWS)
    errors = np.abs(actual - true[..., 4]).mean(axis=-1) / 2.0
    expected = np.mean([errors[30:, 0].mean(), errors[:, 1].mean(), errors[:, 2].mean()])
    assert scores["mase"][0].figure == pytest.approx(expected)
    assert (
        scores["wql"][0]
        == compare(of_methods(actual, true, true + 1.0), 1, TENANT, DAY, **DRAWS)["wql"][0]
    )


def test_ratios_have_the_intervals_that_they_have_alone() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((2, len(TENANT)))
    together = two_way_bootstrap_ratios(
        [a, b, np.zeros_like(a)], [b, b, np.zeros_like(a)], TENANT, DAY, **DRAWS
    )
    alone = two_way_bootstrap(a, b, TENANT, DAY, **DRAWS)
    np.testing.assert_allclose(together[0], [alone.ratio, alone.low, alone.high])
    np.testing.assert_allclose(together[1], 1)
    assert np.isnan(together[2]).all()


def test_pairs_of_different_shapes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"\(1, 60\) and denominators \(60,\) must both be \[P, R\]"
    ):
        two_way_bootstrap_ratios(np.ones((1, 60)), np.ones(60), TENANT, DAY, **DRAWS)
