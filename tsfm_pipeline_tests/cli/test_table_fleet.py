"""Test a fleet from a CSV file through the whole chain: cross-fitting, no archetypes, gaps, tenants
that come and go, and configurations that are longer than the history.
"""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.forecaster import ForecastConfig
from tsfm_pipeline.reports.page.story import data_quality
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline_tests.cli.conftest import START, add_table_fleet, telemetry
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.project import Project

pytestmark = [pytest.mark.run, pytest.mark.slow]
FLEET = "hosts"
N_WHOLE = 7
N_ORIGINS = 4
COME_AND_GO = {"early": (0, 2.5), "late": (19.8, 21), "moment": (5, 5 + 1 / 48), "new": (18, 21)}
"""Tenants beside the whole ones, by the days from and to which they are there."""
N_TENANTS = N_WHOLE + len(COME_AND_GO)
GAP = slice(14 * 48 + 20, 14 * 48 + 40)
"""A gap longer than max_gap in the test period of the first tenant."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    project = Project(
        tmp_path_factory.mktemp("table-fleet"),
        FAST | {"SHARD_TENANTS": "3", "EVALUATION__LATENCY_REQUESTS": "10"},
    )
    frame = telemetry(N_WHOLE, n_days=21)
    frame = pl.concat([frame[: GAP.start], frame[GAP.stop :]])
    whole = frame.filter(pl.col("tenant_id") == "host-03")
    stays = [
        whole.filter(
            pl.col("timestamp").is_between(
                START + timedelta(days=begin), START + timedelta(days=end), closed="left"
            )
        )
        for begin, end in COME_AND_GO.values()
    ]
    named = [
        stay.with_columns(pl.lit(name).alias("tenant_id"))
        for name, stay in zip(COME_AND_GO, stays, strict=True)
    ]
    frame = pl.concat([frame, frame[100:103], *named])
    add_table_fleet(project, FLEET, frame, origins_per_tenant=N_ORIGINS)
    run = project.materialise(FLEET)
    assert run.returncode == 0, run.stdout[-8000:]
    return project.fleet(FLEET)


def test_the_grid_is_inferred_and_quality_is_counted(fleet: Fleet) -> None:
    assert fleet.grid.step_minutes == 30
    assert fleet.grid.seasons == (48, 336)
    first = fleet.manifest.row(by_predicate=pl.col("tenant_id") == "host-00", named=True)
    assert (first["n_duplicates"], first["longest_gap"], first["n_missing"]) == (3, 20, 2 * 20)
    assert fleet.manifest["archetype"].null_count() == N_TENANTS
    assert set(fleet.manifest["tier"]) <= set(TIERS)


def test_every_tenant_is_tested_once_and_never_by_its_own_experience(fleet: Fleet) -> None:
    folds = fleet.manifest["fold"].to_numpy()
    assert set(folds) == set(range(5))
    policies = fleet.tables.read("search_policy").sort("fold")
    assert policies["n_tuning_tenants"].to_list() == [
        int((folds != fold).sum()) for fold in range(5)
    ]
    tested = fleet.tables.read("scored_forecasts", columns=["tenant_number"])
    assert set(tested["tenant_number"]) == set(range(N_TENANTS))


def test_requests_after_a_long_gap_are_scored_and_those_without_room_are_not(fleet: Fleet) -> None:
    requests = fleet.tables.read("forecast_requests")
    invalid = requests.filter(~pl.col("valid"))
    assert set(invalid["tenant_id"]) == set(COME_AND_GO)
    assert (invalid["reason"].str.len_chars() > 0).all()
    gappy = requests.filter(pl.col("tenant_id") == "host-00")["basis"]
    assert "shortened" in gappy
    report = read_report(fleet, "headline_report")
    n_invalid = invalid.filter(pl.col("role") == "test").height
    assert n_invalid > 0
    assert report["n_invalid_requests"] == n_invalid
    assert report["n_requests"] == N_TENANTS * N_ORIGINS
    for tier in TIERS:
        assert report[f"{tier}_n_requests_scored"] == N_TENANTS * N_ORIGINS - n_invalid


def test_tenants_that_come_and_go_stop_nobody_and_are_counted(fleet: Fleet) -> None:
    whole = fleet.manifest.filter(pl.col("tenant_id").str.starts_with("host"))
    assert whole["test_start_step"].unique().to_list() == [14 * 48], (
        "one that left early shortens nobody's past"
    )
    requests = fleet.tables.read("forecast_requests").filter(
        ~pl.col("tenant_id").str.starts_with("host")
    )
    n_valid = {
        tuple(key): n
        for *key, n in requests.group_by("tenant_id", "role").agg(pl.col("valid").sum()).iter_rows()
    }
    assert {key for key, n in n_valid.items() if n} == {
        ("early", "tuning"),
        ("late", "test"),
        ("new", "test"),
    }
    assert read_report(fleet, "headline_report")["n_tenants_without_requests"] == 2
    shown = data_quality(fleet)["left_out"]
    assert set(shown) == {"early", "moment"}
    assert "no room" in shown["moment"]


def test_short_histories_bar_no_context_from_being_the_fixed_one_and_it_is_defined_wherever_the_search_answers(
    fleet: Fleet,
) -> None:
    """Requests of 'early' tune with 96 to 119 steps of history; those of 'new' are tested with
    fewer than 144.
    """
    report = read_report(fleet, "headline_report")
    fixed = {name for tier in TIERS for name in report[f"{tier}_fixed_config"].split(", ")}
    assert any(ForecastConfig.from_name(name).context_len > 119 for name in fixed), fixed
    for tier in TIERS:
        assert report[f"{tier}_n_failed_fixed"] == report[f"{tier}_n_failed_search"] == 0
        assert report[f"{tier}_n_tenants_scored"] == N_TENANTS - 2


def test_a_configuration_that_history_cannot_fill_is_unavailable_and_never_chosen(
    fleet: Fleet,
) -> None:
    grid = fleet.tables.read("forecast_grid", columns=["config", "forecast"])
    by_config = grid.partition_by("config", as_dict=True)
    available = {
        str(config): bool(np.isfinite(part["forecast"].to_numpy()).any())
        for (config,), part in by_config.items()
    }
    assert {config.name: config.context_len <= 21 * 48 - 8 for config in fleet.configs} == available
    valid = fleet.tables.read("forecast_requests").filter("valid")
    chosen = set(
        fleet.tables.read("autoresearch_forecasts").join(valid, on="request_id", how="semi")[
            "chosen"
        ]
    )
    assert chosen <= {config for config, there in available.items() if there}


def test_criteria_that_this_fleet_cannot_answer_say_so(fleet: Fleet) -> None:
    verdicts = {
        row["id"]: row for row in read_report(fleet, "acceptance_criteria")["table_criteria"]
    }
    for criterion in ("C3", "C6", "C7"):
        assert verdicts[criterion]["verdict"] == "N/A", verdicts[criterion]
        assert verdicts[criterion]["note"]
    assert len(verdicts) == 10


def test_the_report_is_there(fleet: Fleet) -> None:
    html = (fleet.reports_dir / "report.html").read_text(encoding="utf-8")
    assert "hosts" in html
    report = read_report(fleet, "headline_report")
    assert all(np.isfinite(report[f"{tier}_ratio"]) for tier in TIERS)
