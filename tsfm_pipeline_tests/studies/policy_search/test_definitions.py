"""Test the study's code location: its assets, its job and its schedule.

What belongs here: what Dagster is told. What does not: the study behind it.
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search import definitions, operations
from tsfm_pipeline.studies.policy_search.definitions import (
    EXPERIMENTS,
    JOB,
    REPORT,
    YARDSTICK,
    build_definitions,
)
from tsfm_pipeline.studies.policy_search.report import importance
from tsfm_pipeline.studies.policy_search.tables import TABLES
from tsfm_pipeline_tests.studies.locations import require_listed_and_light
from tsfm_pipeline_tests.studies.policy_search import simulated
from tsfm_pipeline_tests.studies.policy_search.conftest import Study


def location(settings: Settings) -> dg.Definitions:
    return build_definitions(settings)


@pytest.mark.heavy
def test_the_location_is_listed_and_loads_nothing_heavy() -> None:
    require_listed_and_light("tsfm_pipeline.studies.policy_search.definitions")


@pytest.mark.heavy
def test_tables_are_partitioned_by_fleet_and_the_study_is_not() -> None:
    defs = location(Settings())
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    keys = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    assert {name for name, node in keys.items() if node.partitions_def} == set(TABLES)
    assert {*TABLES, YARDSTICK, EXPERIMENTS, REPORT} == set(keys)
    parents = {
        name: {key.to_user_string() for key in node.parent_keys} for name, node in keys.items()
    }
    assert parents[YARDSTICK] == set(TABLES)
    assert parents[EXPERIMENTS] == {YARDSTICK}
    assert parents[REPORT] == {EXPERIMENTS}
    for name, node in keys.items():
        assert node.description is not None, name
        assert "?" in node.description
    job = defs.resolve_job_def(JOB)
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == {
        YARDSTICK,
        EXPERIMENTS,
        REPORT,
    }
    assert job.partitions_def is None


def test_the_jobs_few_fields_reach_its_assets() -> None:
    given = {"driver": "random", "hours": 0.5, "experiments": 3, "seed": 7, "fleets": ["demo"]}
    resolved = definitions.flat_config.resolve_from_unvalidated_config(given)
    assert resolved["ops"][YARDSTICK]["config"] == {"fleets": ["demo"]}
    assert resolved["ops"][EXPERIMENTS]["config"] == {
        name: given[name] for name in ("driver", "hours", "experiments", "seed")
    }


@pytest.mark.heavy
def test_the_schedule_is_off_and_asks_for_weekend_nights_on_a_sealed_yardstick(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    defs = location(settings)
    schedule = defs.resolve_schedule_def("weekend_nights")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    friday = datetime(2026, 11, 27, 20, tzinfo=UTC)
    with dg.build_schedule_context(scheduled_execution_time=friday) as context:
        asked = schedule.evaluate_tick(context)
        assert not asked.run_requests
        assert "prepare" in str(asked.skip_message)
        yardstick = simulated.sealed(settings)
        (request,) = schedule.evaluate_tick(context).run_requests
    assert request.tags["yardstick"] == yardstick.digest
    assert request.run_key == "policy-search-2026-11-27"
    definitions.flat_config.resolve_from_unvalidated_config(request.run_config)


@pytest.mark.heavy
def test_every_line_is_observed_while_the_job_runs_and_the_report_follows(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The yardstick is a simulated one, so nothing is checked against code and tables here."""
    from tsfm_pipeline.studies.policy_search import yardstick

    monkeypatch.setattr(importance, "N_FORESTS", 2)
    monkeypatch.setattr(yardstick, "require_untouched", lambda *_: None)
    monkeypatch.setattr(operations, "require_untouched", lambda *_: None)
    monkeypatch.setattr(
        "tsfm_pipeline.studies.policy_search.process.run_experiment", simulated.outcome
    )
    shutil.copytree(study.settings.data_dir, tmp_path / "data")
    job = location(Settings(data_dir=tmp_path / "data")).resolve_job_def(JOB)
    with dg.instance_for_test() as instance:
        ran = job.execute_in_process(
            run_config={"driver": "random", "hours": None, "experiments": 2, "seed": 11},
            instance=instance,
        )
        assert ran.success
        observed = instance.fetch_observations(dg.AssetKey(EXPERIMENTS), limit=10).records
    assert len(observed) == 2
    numbers = [
        record.asset_observation.metadata["n_experiments"].value for record in reversed(observed)
    ]
    assert numbers == [92, 93]
    (made,) = ran.asset_materializations_for_node(EXPERIMENTS)
    assert made.metadata["n_experiments_of_this_run"].value == 2
    (report,) = ran.asset_materializations_for_node(REPORT)
    assert report.metadata["n_experiments"].value == 93
    assert "Of 93 experiments" in str(report.metadata["answer"].value)
    assert str(report.metadata["progress_figure"].value).startswith("![progress_figure](data:")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("config", "message"),
    [({"driver": "random"}, "no yardstick"), ({"driver": "random", "fleets": []}, "prepare")],
)
def test_without_a_yardstick_the_job_fails_with_words_that_help(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    job = location(Settings(data_dir=tmp_path / "data")).resolve_job_def(JOB)
    with pytest.raises(dg.Failure, match=message):
        job.execute_in_process(run_config=config)
