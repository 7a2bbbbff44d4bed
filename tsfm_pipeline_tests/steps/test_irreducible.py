"""Test that the irreducible loss is that of the true quantile, its error is known, and no method
goes below it.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import ALPHAS, PROTOCOL, TIERS
from tsfm_pipeline.fleets import SyntheticFleet, TableFleet
from tsfm_pipeline.fleets.synthetic import simulate_forward, simulate_from_state, tenant_state
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.steps.irreducible import N_PATHS, irreducible_losses_shard, true_quantile_losses
from tsfm_pipeline_tests.conftest import N_ORIGINS, N_TENANTS


def _normal_losses(n_paths: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses and errors [A] of standard normal futures, averaged over 40,000 outcomes."""
    rng = np.random.default_rng(seed)
    futures = rng.standard_normal((n_paths, 400, 1)).astype(np.float32)
    losses, errors = [], []
    for _ in range(100):
        loss, error = true_quantile_losses(futures, rng.standard_normal((1, 400)), ALPHAS)
        losses.append(loss[0])
        errors.append(error[0])
    return np.mean(losses, axis=0), np.mean(errors, axis=0)


@pytest.mark.heavy
def test_the_loss_is_the_one_of_the_true_quantile_up_to_the_error_that_is_stated() -> None:
    """The least expected pinball loss of a standard normal at level alpha is its density at the
    alpha-quantile.
    """
    best = stats.norm.pdf(stats.norm.ppf(ALPHAS))
    few, error_of_few = _normal_losses(64, seed=0)
    many, error_of_many = _normal_losses(1024, seed=1)
    np.testing.assert_allclose(many, best, rtol=0.02)
    expected_error = np.array(ALPHAS) * (1 - np.array(ALPHAS)) / (2 * 64 * best)
    np.testing.assert_allclose(error_of_few, expected_error, rtol=0.3)
    np.testing.assert_allclose(few - many, error_of_few - error_of_many, atol=0.006)
    assert (error_of_many < error_of_few / 8).all()


def test_the_state_at_the_origin_gives_the_futures_of_the_fleet_itself() -> None:
    """Cut from the whole history, the state at an origin is the one that a simulation up to there
    would have reached.
    """
    spec = SyntheticFleet(
        name="fleet", title="A fleet", kind="synthetic", tenants=8, days=2, seed=5
    )
    origin = 1500
    forward = simulate_forward(spec, 3, origin, 60, 4000, seed=1)
    cut = simulate_from_state(
        tenant_state(spec, 3).until(origin), 60, 4000, np.random.default_rng(2)
    )
    np.testing.assert_allclose(
        np.median(cut, axis=0), np.median(forward, axis=0), rtol=0.1, atol=0.02
    )


def test_other_fleets_have_no_known_truth_and_an_empty_table() -> None:
    asked = SimpleNamespace(ids=np.zeros((2, 3), np.int64), tenant_numbers=np.arange(2))
    fleet: Any = SimpleNamespace(
        spec=TableFleet(name="mine", title="Mine", kind="table", path="mine.parquet", source="me"),
        grid=SimpleNamespace(metrics=("cpu",)),
        protocol=PROTOCOL,
        arrays=SimpleNamespace(requests=lambda role, shard: asked),
    )
    frame = irreducible_losses_shard(fleet, [0, 1])
    assert frame.height == 0
    assert frame.schema["irreducible_loss"] == frame.schema["monte_carlo_error"] == pl.Float32


def test_every_test_request_has_a_floor_and_its_error_is_small(mini_fleet: Fleet) -> None:
    table = mini_fleet.tables.read("irreducible_losses")
    assert table.height == N_TENANTS // 2 * N_ORIGINS * len(mini_fleet.grid.metrics) * len(TIERS)
    assert table["irreducible_loss"].is_finite().all()
    assert (table["irreducible_loss"] > 0).all()
    assert N_PATHS >= 400
    shares = table.group_by("metric", "tier").agg(
        (pl.col("monte_carlo_error").sum() / pl.col("irreducible_loss").sum()).alias("share")
    )
    assert shares["share"].abs().max() < 0.02


def test_the_floor_is_the_same_whichever_shard_asks(mini_fleet: Fleet) -> None:
    number = int(mini_fleet.arrays.requests("test").tenant_numbers[0])
    stored = mini_fleet.tables.read("irreducible_losses").filter(pl.col("tenant_number") == number)
    shard = next(shard for shard in mini_fleet.shards if number in shard)
    again = irreducible_losses_shard(mini_fleet, shard).filter(pl.col("tenant_number") == number)
    assert again.equals(stored)


@pytest.mark.parametrize("tier", TIERS)
def test_no_method_is_cheaper_than_the_floor(mini_fleet: Fleet, tier: str) -> None:
    """On so few requests luck may take a method a little below it, and none far."""
    rows = [
        row
        for row in read_report(mini_fleet, "ablation_report")["table_floor"]
        if row["tier"] == tier and row["scope"] == "all"
    ]
    assert {"search", "fixed_quantile", "last_value"} <= {row["method"] for row in rows}
    assert min(row["multiple"] for row in rows) > 0.95
