"""A fleet of one's own from a CSV file, through the whole chain: cross-fitting, no archetypes, gaps, and configurations it cannot fill."""

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.settings import TIERS
from tsfm_pipeline.workspace import Fleet
from tsfm_pipeline_tests.cli.conftest import add_table_fleet, telemetry
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.project import Project

FLEET = "hosts"
N_TENANTS = 7
N_ORIGINS = 4
GAP = slice(14 * 48 + 20, 14 * 48 + 40)
"""A gap longer than max_gap in the test period of the first tenant."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    project = Project(tmp_path_factory.mktemp("table-fleet"), FAST | {"SHARD_TENANTS": "3", "EVALUATION__LATENCY_REQUESTS": "10"})
    frame = telemetry(N_TENANTS, n_days=21)
    frame = pl.concat([frame[: GAP.start], frame[GAP.stop :]])
    frame = pl.concat([frame, frame[100:103]])
    add_table_fleet(project, FLEET, frame, origins_per_tenant=N_ORIGINS)
    run = project.materialise(FLEET)
    assert run.returncode == 0, run.stdout[-8000:]
    return project.fleet(FLEET)


def test_the_grid_is_inferred_and_quality_is_counted(fleet: Fleet) -> None:
    assert fleet.grid.step_minutes == 30
    assert fleet.grid.seasons == (48, 336)
    first = fleet.manifest.row(0, named=True)
    assert (first["n_duplicates"], first["longest_gap"], first["n_missing"]) == (3, 20, 2 * 20)
    assert fleet.manifest["archetype"].null_count() == N_TENANTS
    assert set(fleet.manifest["tier"]) <= set(TIERS)


def test_every_tenant_is_tested_once_and_never_by_its_own_experience(fleet: Fleet) -> None:
    folds = fleet.manifest["fold"].to_numpy()
    assert set(folds) == set(range(5))
    policies = fleet.tables.read("search_policy").sort("fold")
    assert policies["n_tuning_tenants"].to_list() == [int((folds != fold).sum()) for fold in range(5)]
    tested = fleet.tables.read("scored_forecasts", columns=["tenant_number"])
    assert set(tested["tenant_number"]) == set(range(N_TENANTS))


def test_requests_into_a_long_gap_are_invalid_with_a_reason_and_never_scored(fleet: Fleet) -> None:
    requests = fleet.tables.read("forecast_requests")
    invalid = requests.filter(~pl.col("valid"))
    assert set(invalid["tenant_number"]) == {0}
    assert (invalid["reason"].str.len_chars() > 0).all()
    report = fleet.read_report("headline_report")
    n_invalid = invalid.filter(pl.col("role") == "test").height
    assert n_invalid > 0
    assert report["n_invalid_requests"] == n_invalid
    assert report["n_requests"] == N_TENANTS * N_ORIGINS
    for tier in TIERS:
        assert report[f"{tier}_n_requests_scored"] == N_TENANTS * N_ORIGINS - n_invalid


def test_a_configuration_that_history_cannot_fill_is_unavailable_and_never_chosen(fleet: Fleet) -> None:
    grid = fleet.tables.read("forecast_grid", columns=["config", "forecast"])
    by_config = grid.partition_by("config", as_dict=True)
    available = {str(config): bool(np.isfinite(part["forecast"].to_numpy()).any()) for (config,), part in by_config.items()}
    assert {config.name: config.context_len <= 21 * 48 - 8 for config in fleet.configs} == available
    chosen = set(fleet.tables.read("autoresearch_forecasts", columns=["chosen"])["chosen"])
    assert chosen <= {config for config, there in available.items() if there}


def test_criteria_that_this_fleet_cannot_answer_say_so(fleet: Fleet) -> None:
    verdicts = {row["id"]: row for row in fleet.read_report("acceptance_criteria")["table_criteria"]}
    for criterion in ("C3", "C6", "C7"):
        assert verdicts[criterion]["verdict"] == "N/A", verdicts[criterion]
        assert verdicts[criterion]["note"]
    assert len(verdicts) == 10


def test_the_report_is_there(fleet: Fleet) -> None:
    html = (fleet.reports_dir / "report.html").read_text(encoding="utf-8")
    assert "hosts" in html
    report = fleet.read_report("headline_report")
    assert all(np.isfinite(report[f"{tier}_ratio"]) for tier in TIERS)
