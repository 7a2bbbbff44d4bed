"""Test that two methods are compared request by request, and that every failure is counted."""

from datetime import date

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.steps.headline import compared, per_request

N = 24


def _losses(seed: int) -> pl.DataFrame:
    requests = np.arange(N)
    return pl.DataFrame(
        {
            "tier": ["standard"] * N,
            "request_id": requests,
            "tenant_number": requests // 4,
            "day": [date(2025, 1, 1 + int(r) % 4) for r in requests],
            "scaled_loss": np.random.default_rng(seed).exponential(size=N),
        }
    )


def test_a_comparison_has_an_interval_and_counts_its_requests() -> None:
    interval = compared(_losses(0), _losses(1), "scaled_loss", 300, 0)
    assert interval.low < interval.ratio < interval.high
    assert interval.win_low < interval.win_rate < interval.win_high
    assert (interval.n_requests, interval.n_tenants, interval.n_days, interval.n_dropped) == (
        N,
        6,
        4,
        0,
    )


@pytest.mark.parametrize(
    "other",
    [
        _losses(1).reverse(),
        _losses(1).head(N - 1),
        _losses(1).with_columns(pl.col("request_id") + 1),
    ],
)
def test_losses_of_other_requests_or_in_another_order_are_refused(other: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="are not of the same requests in the same order"):
        compared(_losses(0), other, "scaled_loss", 300, 0)


@pytest.mark.filterwarnings("error")
def test_failures_of_either_method_are_counted_and_a_method_that_always_failed_is_a_row_without_figures() -> (
    None
):
    failed = _losses(0).with_columns(
        pl.when(pl.col("request_id") < 5)
        .then(float("nan"))
        .otherwise("scaled_loss")
        .alias("scaled_loss")
    )
    interval = compared(failed, _losses(1), "scaled_loss", 300, 0)
    assert (interval.n_requests, interval.n_dropped) == (N - 5, 5)
    nothing = compared(
        _losses(0).with_columns(pl.lit(float("nan")).alias("scaled_loss")),
        _losses(1),
        "scaled_loss",
        300,
        0,
    )
    assert np.isnan([nothing.ratio, nothing.low, nothing.win_rate]).all()
    assert (nothing.n_requests, nothing.n_dropped) == (0, N)


def test_a_request_of_which_one_metric_failed_has_failed() -> None:
    """A method may not leave out the metrics that it cannot do."""
    losses = pl.DataFrame(
        {
            "tier": ["standard"] * 4,
            "method": ["search"] * 4,
            "request_id": [1, 1, 0, 0],
            "metric": ["cpu", "net", "cpu", "net"],
            "tenant_number": [0] * 4,
            "archetype": [""] * 4,
            "day": [date(2025, 1, 1)] * 4,
            "origin_step": [9, 9, 5, 5],
            **dict.fromkeys(
                (
                    "std_scaled_loss",
                    "floored_loss",
                    "violation_rate",
                    "scaled_slack",
                    "scaled_shortfall",
                    "scaled_crps",
                ),
                [0.0] * 4,
            ),
            "scaled_loss": [1.0, float("nan"), 1.0, 2.0],
        }
    )
    np.testing.assert_array_equal(per_request(losses)["scaled_loss"].to_numpy(), [1.5, np.nan])
    assert per_request(losses)["request_id"].to_list() == [0, 1]
