"""Test every table of a materialised fleet: its columns, keys, rows, and what must hold of its
values.
"""

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.baselines import DIRECT_BASELINES
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.registry import made_from
from tsfm_pipeline.catalogue.scopes import columns_of, schema_of
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.methods import CONFIG_PREFIX, METHODS, SEARCH
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.parts import SCHEMA_VERSION
from tsfm_pipeline.steps.cold_start import STRATEGIES
from tsfm_pipeline.steps.headline import request_losses
from tsfm_pipeline_tests.conftest import N_ORIGINS, N_TENANTS

N_TEST = N_TENANTS // 2


def n_rows(fleet: Fleet) -> dict[str, int]:
    """The rows that follow from tenants, origins, metrics, configurations, methods and tiers."""
    metrics, configs, tiers = len(fleet.grid.metrics), len(fleet.configs), len(TIERS)
    lengths = len(fleet.settings.evaluation.cold_start_minutes)
    tuning, test = N_TENANTS * N_ORIGINS, N_TEST * N_ORIGINS
    searched = N_TEST * N_ORIGINS + test
    methods = len(METHODS) + configs
    return {
        "tenant_telemetry": N_TENANTS * 14 * 1440,
        "tenant_manifest": N_TENANTS,
        "tenant_features": N_TENANTS,
        "forecast_requests": tuning + test,
        "archetype_retrieval": N_TEST * (1 + lengths * N_ORIGINS),
        "request_targets": (tuning + test) * metrics,
        "irreducible_losses": test * metrics * tiers,
        "config_portfolio": len(fleet.ranked_configs(0)),
        "forecast_grid": (tuning + test) * metrics * configs,
        "validation_losses": searched * metrics * configs * len(fleet.offsets),
        "baseline_forecasts": test * metrics * len(DIRECT_BASELINES),
        "tuning_losses": tuning * metrics * configs,
        "config_priors": searched * metrics * configs,
        "search_policy": 1,
        "autoresearch_forecasts": test * metrics * tiers,
        "scored_forecasts": test * metrics * methods * tiers,
        "cold_start_tuning_losses": (N_TENANTS - N_TEST) * N_ORIGINS * metrics * 4,
        "cold_start_losses": test * lengths * tiers * len(STRATEGIES),
        "forecast_quality": test * metrics * (len(DIRECT_BASELINES) + configs + 2 + 3 * tiers),
    }


@pytest.mark.parametrize("table", TABLES)
def test_columns_and_types_are_the_ones_that_are_declared(mini_fleet: Fleet, table: str) -> None:
    declared = schema_of(FLEETS, mini_fleet, TABLES[table])
    stored = mini_fleet.tables.read(table).schema
    assert list(stored.items()) == list(declared.items())
    assert all(column.meaning for column in columns_of(FLEETS, mini_fleet, TABLES[table]).values())


@pytest.mark.parametrize("table", [name for name, table in TABLES.items() if table.n_rows])
def test_the_check_of_rows_expects_as_many_as_there_are(mini_fleet: Fleet, table: str) -> None:
    count = TABLES[table].n_rows
    assert count is not None
    assert count(mini_fleet) == n_rows(mini_fleet)[table]


def test_rows_are_as_many_as_follow_from_the_fleet(mini_fleet: Fleet) -> None:
    assert {
        table: mini_fleet.tables.record(table)["n_rows"] for table in n_rows(mini_fleet)
    } == n_rows(mini_fleet)


@pytest.mark.parametrize("table", [name for name, table in TABLES.items() if table.key])
def test_keys_name_a_row(mini_fleet: Fleet, table: str) -> None:
    keys = mini_fleet.tables.read(table, columns=TABLES[table].key)
    assert keys.null_count().sum_horizontal().item() == 0
    assert keys.is_unique().all()


@pytest.mark.parametrize("table", TABLES)
def test_a_table_says_what_it_was_made_from(mini_fleet: Fleet, table: str) -> None:
    record = mini_fleet.tables.record(table)
    assert record["fingerprint"] == mini_fleet.tables.expected[table]
    assert record["checkpoint_sha256"] == mini_fleet.context.checkpoint_digest
    assert record["schema_version"] == SCHEMA_VERSION
    expected = mini_fleet.tables.expected
    assert record["made_from"] == made_from(TABLES[table], mini_fleet.context, expected)


@pytest.mark.parametrize("table", ["config_portfolio", "forecast_grid", "validation_losses"])
def test_what_the_model_computed_says_where_in_which_batches_and_by_which_product(
    mini_fleet: Fleet, table: str
) -> None:
    plan = mini_fleet.tables.record(table)["plan"]
    assert plan["device"] == "cpu"
    assert plan["token_budget"] > 0
    assert plan["matrix_product"] in ("loops", "torch")


def test_sharded_tables_lie_in_one_part_per_shard_of_tenants(mini_fleet: Fleet) -> None:
    for table in (
        "tenant_telemetry",
        "forecast_grid",
        "autoresearch_forecasts",
        "scored_forecasts",
    ):
        assert len(mini_fleet.tables.record(table)["parts"]) == len(mini_fleet.shards) == 3


def test_telemetry_is_sorted_and_regular(mini_fleet: Fleet) -> None:
    frame = mini_fleet.tables.read("tenant_telemetry", columns=["tenant_id", "timestamp"])
    for _, tenant in frame.group_by("tenant_id"):
        steps = tenant["timestamp"].diff().drop_nulls().unique()
        assert steps.dt.total_minutes().to_list() == [1]
    assert (
        frame["tenant_id"].unique(maintain_order=True).to_list()
        == mini_fleet.manifest["tenant_id"].to_list()
    )


def test_tuning_and_test_tenants_are_disjoint_and_alike(mini_fleet: Fleet) -> None:
    manifest = mini_fleet.manifest
    assert manifest["fold"].value_counts().sort("fold").rows() == [
        (-1, N_TENANTS - N_TEST),
        (0, N_TEST),
    ]
    shares = manifest.group_by("archetype").agg(
        (pl.col("fold") >= 0).sum().alias("test"), pl.len().alias("all")
    )
    assert all(abs(row["test"] - row["all"] / 2) <= 1 for row in shares.iter_rows(named=True))


def test_nothing_that_is_shared_has_seen_the_test_period(mini_fleet: Fleet) -> None:
    requests = mini_fleet.tables.read("forecast_requests").join(
        mini_fleet.manifest, on="tenant_number"
    )
    test_start = int(mini_fleet.manifest["test_start_step"].to_numpy().min())
    tuning, test = (
        requests.filter(pl.col("role") == "tuning"),
        requests.filter(pl.col("role") == "test"),
    )
    assert int(tuning["origin_step"].to_numpy().max()) + mini_fleet.spec.horizon < test_start
    assert (test["origin_step"] >= test["test_start_step"] - 1).all()
    assert (test["fold"] >= 0).all()
    assert set(tuning["tenant_number"]) == set(range(N_TENANTS))


def test_every_request_is_valid_and_has_all_of_its_targets(mini_fleet: Fleet) -> None:
    assert mini_fleet.tables.read("forecast_requests")["valid"].all()
    actual = mini_fleet.tables.read("request_targets", columns=["actual"])["actual"].to_numpy()
    assert np.isfinite(actual).all()


def test_targets_are_the_telemetry_after_the_origin(mini_fleet: Fleet) -> None:
    shard = mini_fleet.shards[1]
    requests, values = mini_fleet.arrays.requests("test", shard), mini_fleet.arrays.values(shard)
    (actual,) = mini_fleet.arrays.of("request_targets", requests, ["actual"], (values.shape[1],))
    actual = actual.reshape(*requests.ids.shape, *actual.shape[1:])
    for tenant, row in enumerate(requests.rows):
        for origin in range(requests.ids.shape[1]):
            first = requests.origins[tenant, origin] + 1
            np.testing.assert_array_equal(
                actual[tenant, origin], values[row, :, first : first + mini_fleet.spec.horizon]
            )


@pytest.mark.parametrize("table", [name for name, table in TABLES.items() if table.deciles])
def test_deciles_never_decrease(mini_fleet: Fleet, table: str) -> None:
    column = TABLES[table].deciles
    assert column is not None
    stored = mini_fleet.tables.read(table, columns=[column.name])[column.name].to_numpy()
    values = stored.reshape(-1, column.per_entry)[:, -9:]
    known = np.isfinite(values).all(axis=1)
    assert known.mean() > 0.9
    assert (np.diff(values[known], axis=1) >= 0).all()


def test_forecasts_stay_within_the_bounds_of_the_fleet(mini_fleet: Fleet) -> None:
    forecast = mini_fleet.tables.read("forecast_grid", columns=["forecast"])["forecast"].to_numpy()
    assert np.nanmin(forecast) >= 0


def test_no_scale_with_a_floor_is_below_half_the_typical_deviation_of_the_metric(
    mini_fleet: Fleet,
) -> None:
    losses = request_losses(mini_fleet, [SEARCH], ["standard"])
    targets = mini_fleet.tables.read(
        "request_targets", columns=["tenant_number", "metric", "std_scale"]
    )
    series = targets.unique(["tenant_number", "metric"])
    typical = series.group_by("metric").agg(pl.col("std_scale").median().alias("typical"))
    own = losses.join(typical, on="metric")
    assert own.height == losses.height
    scale = own["loss"].to_numpy() / own["floored_loss"].to_numpy()
    floored = own["scale"].to_numpy() < 0.5 * own["typical"].to_numpy()
    assert 0 < floored.sum() < len(floored)
    expected = np.where(floored, 0.5 * own["typical"].to_numpy(), own["scale"].to_numpy())
    positive = own["loss"].to_numpy() > 0
    np.testing.assert_allclose(scale[positive], expected[positive], rtol=1e-6)


def test_every_method_is_scored_on_the_same_requests(mini_fleet: Fleet) -> None:
    scores = mini_fleet.tables.read("scored_forecasts")
    configs = {f"{CONFIG_PREFIX}{config.name}" for config in mini_fleet.configs}
    assert set(scores["method"]) == set(METHODS) | configs
    per_method = scores.group_by("method", "tier").agg(
        pl.col("request_id").n_unique(), pl.col("loss").is_finite().all()
    )
    assert per_method["request_id"].unique().to_list() == [N_TEST * N_ORIGINS]
    assert per_method["loss"].all()


def test_losses_follow_from_decisions_and_targets(mini_fleet: Fleet) -> None:
    requests = mini_fleet.arrays.requests("test")
    n_metrics, tiers = len(mini_fleet.grid.metrics), list(TIERS)
    (decision,) = mini_fleet.arrays.of(
        "autoresearch_forecasts", requests, ["decision"], (n_metrics, len(tiers))
    )
    actual, scale = mini_fleet.arrays.of(
        "request_targets", requests, ["actual", "scale"], (n_metrics,)
    )
    scores = (
        mini_fleet.tables.read("scored_forecasts")
        .filter(pl.col("method") == SEARCH)
        .sort("request_id", "metric")
    )
    order = np.argsort(mini_fleet.grid.metrics)
    for a, (tier, alpha) in enumerate(TIERS.items()):
        under = actual - decision[:, :, a]
        loss = np.maximum(alpha * under, (alpha - 1) * under).mean(axis=-1)[:, order]
        stored = scores.filter(pl.col("tier") == tier)
        np.testing.assert_allclose(
            stored["loss"].to_numpy().reshape(loss.shape), loss, rtol=1e-4, atol=1e-9
        )
        np.testing.assert_allclose(
            stored["scaled_loss"].to_numpy().reshape(loss.shape),
            loss / scale[:, order],
            rtol=1e-4,
            atol=1e-9,
        )


def test_the_decision_is_the_tiers_quantile_and_not_the_median(mini_fleet: Fleet) -> None:
    requests = mini_fleet.arrays.requests("test")
    shape = (len(mini_fleet.grid.metrics), len(TIERS))
    decision, scale = (
        mini_fleet.arrays.of("autoresearch_forecasts", requests, ["decision"], shape)[0],
        mini_fleet.arrays.of("request_targets", requests, ["scale"], shape[:1])[0],
    )
    level = (decision.mean(axis=-1) / scale[..., None]).mean(axis=(0, 1))
    assert level[0] > level[1] > level[2]


def test_weights_sum_to_one_and_the_chosen_configuration_is_the_heaviest(mini_fleet: Fleet) -> None:
    frame = mini_fleet.tables.read("autoresearch_forecasts")
    weights = frame["weights"].to_numpy()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    names = np.array([config.name for config in mini_fleet.configs])
    assert names[weights.argmax(axis=1)].tolist() == frame["chosen"].to_list()


def test_a_tenant_is_left_out_of_its_own_prior(mini_fleet: Fleet) -> None:
    priors = mini_fleet.tables.read("config_priors")
    manifest = mini_fleet.manifest.select("tenant_number", (pl.col("fold") < 0).alias("tunes"))
    one = priors.filter(
        (pl.col("config") == mini_fleet.configs[0].name)
        & (pl.col("metric") == mini_fleet.grid.metrics[0])
    )
    by_tenant = one.join(manifest, on="tenant_number").unique(["tunes", "tenant_number"])
    assert by_tenant.filter(~pl.col("tunes"))["fleet_standard"].n_unique() == 1, (
        "test tenants share one fleet prior"
    )
    assert by_tenant.filter("tunes")["fleet_standard"].n_unique() == N_TENANTS - N_TEST, (
        "each tuning tenant sees the others only"
    )
