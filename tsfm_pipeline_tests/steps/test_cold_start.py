"""Test the losses of requests with short histories, on a small fleet with a stand-in for the model.

What belongs here: what a short history may see, whose experience it borrows, and what is empty.
What does not: shards and their bytes (`test_cohort`, `catalogue/test_on_ray`), the report
(`reports/test_reports_of_a_fleet`).
"""

from types import ModuleType

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.reports.cold_start.numbers import cold_start_report
from tsfm_pipeline.steps.cold_start import (
    STRATEGIES,
    cold_start_experience,
    cold_start_losses_shard,
    cold_start_tuning_losses_shard,
    short_configs,
    usable_lengths,
)
from tsfm_pipeline.steps.evidence import tunes
from tsfm_pipeline.steps.policies import folds_and_tuners

pytestmark = pytest.mark.heavy

MINUTES = (60, 240)


@pytest.fixture(scope="module")
def fleet(scaling: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    settings = {
        "shard_tenants": 5,
        "search": {"candidates": ("ctx64", "ctx256"), "portfolio_size": 2},
        "evaluation": {
            "bootstrap_draws": 200,
            "permutations": 100,
            "cold_start_minutes": MINUTES,
        },
    }
    root = tmp_path_factory.mktemp("cold-start")
    made: Fleet = scaling.open_fleet(root, 20, 14, origins_per_tenant=2, settings=settings)
    for table in TABLES:
        scaling.make(made, table)
        if table == "cold_start_losses":
            break
    return made


def losses(fleet: Fleet) -> pl.DataFrame:
    return fleet.tables.read("cold_start_losses")


def test_every_test_request_has_a_loss_for_each_length_tier_and_strategy(fleet: Fleet) -> None:
    requests = fleet.arrays.requests("test")
    table = losses(fleet)
    assert table.height == requests.ids.size * len(MINUTES) * 3 * len(STRATEGIES)
    valid = requests.frame.filter("valid")["request_id"].implode()
    known = table.with_columns(valid=pl.col("request_id").is_in(valid))
    assert known.filter("valid")["scaled_loss"].is_finite().all()
    assert known.filter(~pl.col("valid"))["scaled_loss"].is_nan().all()


def test_a_short_history_sees_nothing_before_its_minutes(
    fleet: Fleet, scaling: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise before the last 60 minutes changes no strategy at 60 minutes but the one that has the
    full history, whose losses are those of the search.
    """
    shard = next(s for s in fleet.cohort_shards if (fleet.folds[list(s)] == 0).any())
    before = fleet.arrays.requests("test", shard)
    taught = cold_start_experience(fleet)
    first = cold_start_losses_shard(fleet, shard, scaling.STAND_IN, taught)
    latest = before.origins.max(axis=1)
    honest = type(fleet.arrays).values

    def noisy(arrays: object, tenants: list[int]) -> np.ndarray:
        """Telemetry whose past up to an hour before each tenant's last request is noise."""
        values = honest(arrays, tenants).copy()
        noise = np.random.default_rng(0).uniform(0, 90, values.shape)
        for row, number in enumerate(np.asarray(tenants).tolist()):
            (place,) = np.flatnonzero(before.tenant_numbers == number).tolist() or [None]
            if place is not None:
                values[row, :, : latest[place] - 59] = noise[row, :, : latest[place] - 59]
        return values

    monkeypatch.setattr(type(fleet.arrays), "values", noisy)
    second = cold_start_losses_shard(fleet, shard, scaling.STAND_IN, taught)
    last = before.ids[np.arange(len(latest)), before.origins.argmax(axis=1)].tolist()
    both = first.join(second, on=["request_id", "minutes", "tier", "strategy"], suffix="_noisy")
    asked = both.filter(pl.col("request_id").is_in(last))
    same = asked.filter(pl.col("minutes") == 60)
    np.testing.assert_array_equal(same["scaled_loss"], same["scaled_loss_noisy"])
    longer = asked.filter((pl.col("minutes") == 240) & (pl.col("strategy") == "no_prior"))
    assert (longer["scaled_loss"] != longer["scaled_loss_noisy"]).any()


def test_the_fixed_configuration_is_the_best_one_of_the_tuning_tenants(fleet: Fleet) -> None:
    configs = short_configs(fleet)
    assert [config.context_len for config in configs] == [30, 60, 120, 240]
    table = fleet.tables.read("cold_start_tuning_losses")
    assert set(table["tenant_number"]) == set(np.flatnonzero(tunes(fleet)))
    (fold, tuners), *_ = folds_and_tuners(fleet)
    scales = fleet.tables.read("request_targets", columns=["request_id", "metric", "scale"])
    valid = fleet.arrays.requests("tuning").frame.filter("valid")["request_id"].implode()
    mean = (
        table.filter(
            pl.col("request_id").is_in(valid) & pl.col("tenant_number").is_in(tuners.tolist())
        )
        .join(scales, on=["request_id", "metric"])
        .group_by("config")
        .agg((pl.col("loss_premium") / pl.col("scale")).mean())
        .sort("loss_premium")
    )
    experience = cold_start_experience(fleet)[fold]
    names = [config.name for config in configs]
    assert names[experience.fixed[1, 0]] == mean["config"][0]
    fits_an_hour = mean.filter(pl.col("config").is_in(names[:2]))
    assert names[experience.fixed[0, 0]] == fits_an_hour["config"][0]


def test_full_history_has_the_losses_of_the_search(fleet: Fleet) -> None:
    of_search = (
        fleet.tables.read("scored_forecasts")
        .filter(pl.col("method") == "autoresearch")
        .group_by("request_id", "tier")
        .agg(pl.col("scaled_loss").mean().alias("search"))
    )
    full = losses(fleet).filter(pl.col("strategy") == "full_history")
    joined = full.join(of_search, on=["request_id", "tier"]).filter(pl.col("search").is_finite())
    np.testing.assert_allclose(joined["scaled_loss"], joined["search"], rtol=1e-6)


def test_steps_longer_than_every_short_history_leave_empty_tables_and_a_report_without_rows(
    fleet: Fleet, scaling: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = fleet.settings.evaluation.model_copy(update={"cold_start_minutes": (1,)})
    monkeypatch.setattr(
        fleet, "settings", fleet.settings.model_copy(update={"evaluation": evaluation})
    )
    assert short_configs(fleet) == ()
    assert usable_lengths(fleet) == cold_start_experience(fleet) == {}
    shard = fleet.cohort_shards[0]
    for frame, table in (
        (
            cold_start_tuning_losses_shard(fleet, shard, scaling.STAND_IN),
            "cold_start_tuning_losses",
        ),
        (cold_start_losses_shard(fleet, shard, scaling.STAND_IN, {}), "cold_start_losses"),
    ):
        assert frame.height == 0
        assert frame.schema == fleet.tables.read(table).schema
    empty = losses(fleet).clear()
    monkeypatch.setattr(
        fleet.tables,
        "scan",
        lambda name, scan=fleet.tables.scan: (
            empty.lazy() if name == "cold_start_losses" else scan(name)
        ),
    )
    assert cold_start_report(fleet).table_cold_start == ()
