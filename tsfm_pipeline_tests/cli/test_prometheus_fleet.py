"""Test a Prometheus fleet through the assets: every run of its telemetry reads the new samples, and
later steps read what that run read.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.files import LakeError
from tsfm_pipeline_tests.cli.conftest import FIRST_TABLES
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.fleets.prometheus_server import (
    HOUR_S,
    NEWEST,
    FakePrometheus,
    daily,
    serving,
)
from tsfm_pipeline_tests.project import Project

pytestmark = pytest.mark.run
FLEET = "cluster"
TENANTS = tuple(f"team-{i}" for i in range(4))
QUERIES = {"cpu": "sum by (tenant) (cpu)", "mem": "sum by (tenant) (mem)"}


@pytest.mark.slow
def test_a_nightly_run_sees_fresh_telemetry_and_fetches_only_that(tmp_path: Path) -> None:
    project = Project(tmp_path, FAST)
    series = {
        query: [({"tenant": tenant}, partial(daily, tenant)) for tenant in TENANTS]
        for query in QUERIES.values()
    }
    with serving(FakePrometheus(series)) as server:
        grid = {
            "queries": QUERIES,
            "tenant_label": "tenant",
            "step": 60,
            "lookback_days": 9,
            "lower": 0,
        }
        project.add_fleet(
            FLEET,
            kind="prometheus",
            url=server.url,
            **grid,
            horizon=4,
            origins_per_tenant=3,
            max_gap=2,
        )
        first = project.materialise(FLEET, FIRST_TABLES)
        assert first.returncode == 0, first.stdout[-6000:]
        n_steps = project.fleet(FLEET).grid.n_steps
        assert n_steps == 9 * 24 + 1
        asked = len(server.ranges)

        server.clock += 8 * HOUR_S
        fleet = project.fleet(FLEET)
        assert fleet.grid.n_steps == n_steps, "nothing is fetched by looking"
        second = project.materialise(FLEET, ["tenant_telemetry"])
        assert second.returncode == 0, second.stdout[-6000:]
        assert {(start, end) for _, start, end in server.ranges[asked:]} == {
            (NEWEST + HOUR_S, NEWEST + 8 * HOUR_S)
        }
    fleet = project.fleet(FLEET)
    assert fleet.grid.n_steps == n_steps + 8
    times = [fleet.grid.time_of(step).timestamp() for step in range(n_steps + 8)]
    np.testing.assert_allclose(
        fleet.arrays.values([0, 1, 2, 3])[2, 0],
        [daily(TENANTS[2], time) for time in times],
        rtol=1e-6,
    )
    with pytest.raises(LakeError, match="materialise the asset 'tenant_manifest' again"):
        fleet.tables.read("tenant_manifest")


@pytest.mark.slow
def test_a_server_that_is_away_fails_the_telemetry_and_keeps_the_tables(tmp_path: Path) -> None:
    project = Project(tmp_path, FAST)
    project.add_fleet(
        FLEET,
        kind="prometheus",
        url="http://127.0.0.1:9",
        queries={"cpu": "up"},
        tenant_label="job",
    )
    run = project.materialise(FLEET, FIRST_TABLES)
    assert run.returncode != 0
    text = " ".join(run.stdout.split())
    assert "no answer after" in text
    assert "STEP_UP_FOR_RETRY" not in text
    assert "tenant_manifest - STEP_START" not in text
