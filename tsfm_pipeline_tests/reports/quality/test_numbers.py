"""Test the forecast quality of a materialised fleet: the table, the report, and the summary that
fev reads.
"""

from typing import Any

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.baselines import DIRECT_BASELINES
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.losses import DECILE_LEVELS
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, FIXED, SEARCH
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.reports.quality.fev_summary import FILE
from tsfm_pipeline.reports.shared.files import read_report

ONE_TIER = {"fixed_median", "uniform_average"} | set(DIRECT_BASELINES)
PER_TIER = {SEARCH, FIXED, "static_ensemble"}


@pytest.fixture(scope="module")
def table(mini_fleet: Fleet) -> pl.DataFrame:
    return mini_fleet.tables.read("forecast_quality")


@pytest.fixture(scope="module")
def report(mini_fleet: Fleet) -> dict[str, Any]:
    return read_report(mini_fleet, "forecast_quality_report")


@pytest.fixture(scope="module")
def summary(mini_fleet: Fleet) -> pl.DataFrame:
    return pl.read_csv(mini_fleet.reports_dir / FILE)


def forecasts_of_the_search(fleet: Fleet, tier: str) -> tuple[np.ndarray, np.ndarray]:
    """Deciles [R, D, H, 9] that are stored for the search, and actuals [R, D, H]."""
    requests, n_metrics = fleet.arrays.requests("test"), len(fleet.grid.metrics)
    (deciles,) = fleet.arrays.of(
        "autoresearch_forecasts", requests, ["deciles"], (n_metrics, len(TIERS))
    )
    (actual,) = fleet.arrays.of("request_targets", requests, ["actual"], (n_metrics,))
    return deciles[:, :, list(TIERS).index(tier)].reshape(*actual.shape, 9), actual


def test_methods_have_a_row_per_tier_where_their_deciles_differ(
    mini_fleet: Fleet, table: pl.DataFrame
) -> None:
    configs = {f"{CONFIG_PREFIX}{config.name}" for config in mini_fleet.configs}
    expected = {(method, "all") for method in ONE_TIER | configs} | {
        (method, tier) for method in PER_TIER for tier in TIERS
    }
    assert set(table.select("method", "tier").unique().iter_rows()) == expected


def test_crps_is_the_one_of_the_scores(mini_fleet: Fleet, table: pl.DataFrame) -> None:
    scores = mini_fleet.tables.read(
        "scored_forecasts", columns=["request_id", "metric", "method", "tier", "crps"]
    )
    of_one = table.filter(pl.col("tier") == "all").join(
        scores, on=["request_id", "metric", "method"], suffix="_scored"
    )
    of_tiers = table.filter(pl.col("tier") != "all").join(
        scores, on=["request_id", "metric", "method", "tier"], suffix="_scored"
    )
    assert (of_one.height, of_tiers.height) == (
        3 * len(table.filter(pl.col("tier") == "all")),
        len(table.filter(pl.col("tier") != "all")),
    )
    for joined in (of_one, of_tiers):
        np.testing.assert_allclose(joined["crps"], joined["crps_scored"], rtol=1e-5, atol=1e-7)


def test_the_searchs_sums_follow_from_what_it_ships(mini_fleet: Fleet, table: pl.DataFrame) -> None:
    deciles, actual = forecasts_of_the_search(mini_fleet, "premium")
    order = np.argsort(mini_fleet.grid.metrics)
    rows = table.filter((pl.col("method") == SEARCH) & (pl.col("tier") == "premium")).sort(
        "request_id", "metric"
    )
    error = actual[..., None] - deciles
    expected = {
        "quantile_loss_sum": 2
        * np.maximum(DECILE_LEVELS * error, (DECILE_LEVELS - 1) * error).mean(axis=-1).sum(axis=-1),
        "abs_actual_sum": np.abs(actual).sum(axis=-1),
        "abs_error_sum": np.abs(error[..., 4]).sum(axis=-1),
        "coverage_80": ((error[..., 0] >= 0) & (error[..., 8] <= 0)).mean(axis=-1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(
            rows[name].to_numpy().reshape(values.shape),
            values[:, order],
            rtol=1e-4,
            atol=1e-6,
            err_msg=name,
        )


def test_the_seasonal_error_is_from_before_the_test_period(
    mini_fleet: Fleet, table: pl.DataFrame
) -> None:
    shard = mini_fleet.shards[1]
    values, day = mini_fleet.arrays.values(shard).astype(np.float64), mini_fleet.grid.steps_per_day
    own = table.filter(pl.col("tenant_number").is_in(shard)).unique(["tenant_number", "metric"])
    assert own.height
    for row in own.iter_rows(named=True):
        series = values[
            row["tenant_number"] - shard[0], mini_fleet.grid.metrics.index(row["metric"])
        ]
        past = series[: mini_fleet.manifest["test_start_step"][row["tenant_number"]]]
        assert row["seasonal_error"] == pytest.approx(
            np.abs(past[day:] - past[:-day]).mean(), rel=1e-6
        )


def test_the_overall_scores_are_means_over_metrics(report: dict[str, Any]) -> None:
    per_metric = pl.DataFrame(report["table_metrics"], infer_schema_length=None)
    for row in report["table_methods"]:
        if not row["method"].startswith(CONFIG_PREFIX):
            own = per_metric.filter(
                (pl.col("method") == row["method"]) & (pl.col("tier") == row["tier"])
            )
            for score in ("wql", "mase", "sql", "coverage_80"):
                assert row[score] == pytest.approx(own[score].mean(), rel=1e-9), (
                    row["method"],
                    score,
                )


def test_skill_is_relative_to_seasonal_naive_and_has_an_interval(report: dict[str, Any]) -> None:
    rows = {(row["method"], row["tier"]): row for row in report["table_methods"]}
    naive, search = rows["seasonal_naive", "all"], rows[SEARCH, "standard"]
    assert (naive["wql_skill"], naive["mase_skill"]) == (0, 0)
    for score in ("wql", "mase"):
        assert search[f"{score}_skill"] == pytest.approx(1 - search[score] / naive[score])
        assert (
            search[f"{score}_skill_low"] < search[f"{score}_skill"] < search[f"{score}_skill_high"]
        )
        assert report[f"search_{score}"] == search[score]
        fixed = rows[FIXED, "standard"]
        assert report[f"search_{score}_skill_over_fixed"] == pytest.approx(
            1 - search[score] / fixed[score]
        )
    assert search["wql_skill"] > 0, "a forecaster that does not beat seasonal naive is broken"
    assert [row["wql"] for row in report["table_methods"]] == sorted(
        row["wql"] for row in report["table_methods"]
    )


def test_the_figure_is_drawn(mini_fleet: Fleet) -> None:
    assert (mini_fleet.reports_dir / "quality_figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_summary_has_one_row_per_metric_and_method(
    mini_fleet: Fleet, report: dict[str, Any], summary: pl.DataFrame
) -> None:
    n_methods = len(report["table_methods"])
    assert summary.height == report["fev_summary_rows"] == n_methods * len(mini_fleet.grid.metrics)
    assert summary.select("target", "model_name").is_unique().all()
    assert summary["training_time_s"].is_null().all(), "nothing was measured"
    trained = dict(summary.select("model_name", "trained_on_this_dataset").iter_rows())
    assert (trained["search[standard]"], trained["seasonal_naive"]) == (True, False)
    assert (summary["test_error"] == summary["WQL"]).all()
    assert (summary["num_forecasts"] == report["n_requests"]).all()


def by_window(fleet: Fleet, values: np.ndarray) -> np.ndarray:
    """[R, D, ...] -> [windows, tenants, D, ...]: the requests of one number are a window."""
    n_tenants, n_origins = fleet.arrays.requests("test").ids.shape
    return values.reshape(n_tenants, n_origins, *values.shape[1:]).swapaxes(0, 1)


def test_errors_of_the_summary_are_means_over_windows(
    mini_fleet: Fleet, table: pl.DataFrame, summary: pl.DataFrame
) -> None:
    deciles, actual = (
        by_window(mini_fleet, values) for values in forecasts_of_the_search(mini_fleet, "standard")
    )
    metric = mini_fleet.grid.metrics[1]
    y, f = actual[:, :, 1].astype(np.float64), deciles[:, :, 1].astype(np.float64)
    own = (
        table.filter((pl.col("method") == "last_value") & (pl.col("metric") == metric))
        .sort("request_id")["seasonal_error"]
        .to_numpy()
    )
    scale = own.reshape(y.shape[1], y.shape[0])[:, 0]
    losses = 2 * np.abs((y[..., None] - f) * ((y[..., None] <= f) - DECILE_LEVELS)).mean(axis=-1)
    expected = {
        "WQL": np.mean(
            [window.sum() / np.abs(truth).sum() for window, truth in zip(losses, y, strict=True)]
        ),
        "SQL": np.mean(losses / scale[:, None]),
        "MASE": np.mean(np.abs(y - f[..., 4]) / scale[:, None]),
    }
    row = summary.row(
        by_predicate=(pl.col("target") == metric) & (pl.col("model_name") == "search[standard]"),
        named=True,
    )
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_fev_reads_the_summary_and_computes_the_same(
    mini_fleet: Fleet, summary: pl.DataFrame
) -> None:
    fev = pytest.importorskip(
        "fev",
        reason="fev is no dependency of this project; `pip install fev` to hold the summary "
        "against it",
    )
    from dataclasses import fields

    from fev.metrics import get_metric

    keys = [
        "model_name",
        *(field.name for field in fields(fev.Task)),
        "test_error",
        "training_time_s",
        "inference_time_s",
        "num_forecasts",
    ]
    keys += ["dataset_fingerprint", "trained_on_this_dataset", "fev_version", "WQL", "MASE", "SQL"]
    assert summary.columns == [*keys, "computed_by"], (
        "the columns of Task.evaluation_summary, in its order"
    )

    leaderboard = fev.leaderboard(
        [str(mini_fleet.reports_dir / FILE)], baseline_model="seasonal_naive"
    )
    assert set(leaderboard.index) == set(summary["model_name"])
    assert (
        leaderboard.loc["search[standard]", "skill_score"]
        > 0
        == leaderboard.loc["seasonal_naive", "skill_score"]
    )
    pairs = fev.pairwise_comparison(
        str(mini_fleet.reports_dir / FILE), included_models=["search[standard]", "seasonal_naive"]
    )
    assert pairs.loc[("search[standard]", "seasonal_naive"), "skill_score"] > 0

    row = summary.row(
        by_predicate=(pl.col("target") == mini_fleet.grid.metrics[0])
        & (pl.col("model_name") == "search[premium]"),
        named=True,
    )
    deciles, actual = (
        by_window(mini_fleet, array)[:, :, 0].astype(np.float64)
        for array in forecasts_of_the_search(mini_fleet, "premium")
    )
    starts = mini_fleet.manifest["test_start_step"].to_numpy()
    tenants = mini_fleet.arrays.requests("test").tenant_numbers
    pasts = [
        mini_fleet.arrays.values(shard)[t - shard[0], 0, : starts[t]]
        for shard in mini_fleet.shards
        for t in tenants
        if t in shard
    ]
    for name in ("WQL", "MASE", "SQL"):
        by_fev = [
            get_metric(name).compute(
                y_true=y[..., None],
                y_pred=f[..., 4][..., None],
                y_past=np.concatenate(pasts)[:, None].astype(np.float64),
                y_past_lengths=np.array([len(past) for past in pasts]),
                q_pred=f[:, :, None, :],
                seasonality=mini_fleet.grid.seasons[0],
                quantile_levels=DECILE_LEVELS.tolist(),
            )
            for y, f in zip(actual, deciles, strict=True)
        ]
        assert row[name] == pytest.approx(np.mean(by_fev), rel=1e-5), name
