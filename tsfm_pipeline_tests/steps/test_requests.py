"""Test requests of tenants that come and go: each rejected one is counted with a reason, none stops
the others, and a fleet without any request is refused.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.scopes import schema_of
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.steps import requests, workloads
from tsfm_pipeline_tests.cli.conftest import add_table_fleet, telemetry
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.project import Project

N_ORIGINS = 3


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Fleet]:
    """A table fleet with telemetry and manifest in its lake."""

    def make(frame: pl.DataFrame, horizon: int = 4) -> Fleet:
        project = Project(tmp_path, FAST)
        add_table_fleet(project, "hosts", frame, origins_per_tenant=N_ORIGINS, horizon=horizon)
        fleet = project.fleet("hosts")
        shards = fleet.source.shards(fleet.settings.shard_tenants)
        provenance = workloads.telemetry_provenance(fleet.source)
        fleet.tables.map_shards(
            "tenant_telemetry",
            lambda shard: workloads.telemetry_shard(fleet.source, shard),
            shards,
            provenance=provenance,
        )
        fleet.tables.write("tenant_manifest", workloads.tenant_manifest(fleet))
        return fleet

    return make


def cut(frame: pl.DataFrame, **stays: tuple[int, int]) -> pl.DataFrame:
    """The first tenants keep only the rows from one number to another."""
    parts = dict(
        zip(
            frame["tenant_id"].unique(maintain_order=True),
            frame.partition_by("tenant_id", maintain_order=True),
            strict=True,
        )
    )
    return pl.concat(
        [
            part[slice(*stays.get(tenant.replace("-", "_"), (0, len(part))))]
            for tenant, part in parts.items()
        ]
    )


def test_a_tenant_without_time_or_outcomes_has_invalid_requests_and_the_others_all_of_theirs(
    made: Callable[..., Fleet],
) -> None:
    frame = cut(telemetry(5), host_00=(0, 20), host_01=(430, 480))
    gappy = (
        pl.when(
            (pl.col("tenant_id") == "host-02") & (pl.int_range(pl.len()).over("tenant_id") % 10 < 9)
        )
        .then(None)
        .otherwise("cpu")
    )
    fleet = made(frame.with_columns(gappy.alias("cpu")))
    table = requests.forecast_requests(fleet)
    assert table.height == 5 * 2 * N_ORIGINS
    by_tenant = dict(table.group_by("tenant_id").agg(pl.col("valid").sum()).iter_rows())
    assert by_tenant == {
        "host-00": 0,
        "host-01": N_ORIGINS,
        "host-02": 0,
        "host-03": 2 * N_ORIGINS,
        "host-04": 2 * N_ORIGINS,
    }
    reasons = requests.tenants_without_requests(table.filter(pl.col("role") == "tuning"))
    assert set(reasons) == {"host-00", "host-01", "host-02"}
    assert "no room: 0 of 3 tuning requests" in reasons["host-01"]
    assert "history too short" in reasons["host-02"]
    assert table["origin_step"].is_between(0, fleet.grid.n_steps - 1).all()
    assert table.schema == schema_of(FLEETS, fleet, TABLES["forecast_requests"])


def test_a_test_period_with_less_room_than_requests_asks_each_of_its_steps_once(
    made: Callable[..., Fleet],
) -> None:
    table = requests.forecast_requests(made(telemetry(2), horizon=95))
    for _, own in table.group_by("tenant_id", "role"):
        assert own["valid"].sum() == own.filter("valid")["origin_step"].n_unique() == 2
        assert own.filter(~pl.col("valid"))["reason"].item().startswith("no room: 2 of 3")


def test_a_fleet_in_which_nobody_can_be_asked_says_why_and_what_is_allowed(
    made: Callable[..., Fleet],
) -> None:
    fleet = made(
        telemetry(2).with_columns(
            pl.when(pl.int_range(pl.len()) % 10 < 9).then(None).otherwise("mem").alias("mem")
        )
    )
    with pytest.raises(
        ValueError, match=r"none of the 6 test requests of 2 tenants is valid: fewer than half"
    ) as error:
        requests.forecast_requests(fleet)
    for part in (
        "fleet 'hosts'",
        "allowed: at least one tenant with 32 values and 4 steps after them",
        "calendar: own",
    ):
        assert part in str(error.value)


def test_a_fold_without_tuning_requests_is_refused(made: Callable[..., Fleet]) -> None:
    fleet = made(cut(telemetry(2), host_00=(400, 480)))
    with pytest.raises(
        ValueError,
        match=r"none of the 3 tuning requests of 1 tenants is valid: no room: 0 of 3",
    ):
        requests.forecast_requests(fleet)


def test_every_request_of_a_whole_fleet_is_where_it_was(made: Callable[..., Fleet]) -> None:
    fleet = made(telemetry())
    table = requests.forecast_requests(fleet)
    assert table["valid"].all()
    test_start = int(fleet.manifest["test_start_step"].to_numpy().min())
    assert test_start == 480 - 96
    tuning = table.filter(pl.col("role") == "tuning")["origin_step"].to_numpy()
    assert (tuning >= test_start - 96 - 1).all()
    assert (tuning + fleet.spec.horizon < test_start).all()
    assert (
        np.diff(
            table.filter(pl.col("role") == "test")["origin_step"].to_numpy().reshape(-1, N_ORIGINS)
        )
        > 0
    ).all()
