"""Test runs of the same fleet again: from nothing, by force, and with nothing to do. Value tables
have the same bytes each time.
"""

import sys

import dagster as dg
import pytest

from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.project import Project, environment

FORCED = """
import os
import sys
os.environ["OMP_NUM_THREADS"] = "3"
import dagster as dg
from tsfm_pipeline.definitions import defs
from tsfm_pipeline.catalogue.tables import TABLES

with dg.DagsterInstance.ephemeral() as instance:
    defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        partition_key=sys.argv[1],
        asset_selection=[dg.AssetKey(table) for table in TABLES],
        run_config={"resources": {"workspace": {"config": {"force": True}}}},
    )
"""
"""Another process with more threads, but one for all steps: what is tested is the bytes, not the
executor.
"""


@pytest.fixture(scope="module")
def copy(mini_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the miniature fleet that a test may write to."""
    return mini_project.copy_to(tmp_path_factory.mktemp("again"))


def kept(result: dg.ExecuteInProcessResult) -> dict[str, tuple[int, int]]:
    """Shards and kept shards of every table that was materialised."""
    counts = {}
    for event in result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        counts[event.asset_key.to_user_string()] = (
            metadata["n_shards"].value,
            metadata["n_shards_kept"].value,
        )
    return counts


def test_with_nothing_to_do_every_shard_is_kept_untouched(copy: Project) -> None:
    paths = {path: path.stat().st_mtime_ns for table in TABLES for path in copy.parts(MINI, table)}
    with environment(copy.environment), dg.DagsterInstance.ephemeral() as instance:
        definitions = build_definitions(copy.settings)
        job = definitions.resolve_implicit_global_asset_job_def()
        selection = [dg.AssetKey(table) for table in TABLES]
        result = job.execute_in_process(
            instance=instance, asset_selection=selection, partition_key=MINI
        )
        versions = {
            event.asset_key.to_user_string(): event.materialization.tags["dagster/data_version"]
            for event in result.get_asset_materialization_events()
        }
        evaluations = result.get_asset_check_evaluations()
    assert result.success
    assert kept(result) == {table: (len(copy.parts(MINI, table)),) * 2 for table in TABLES}
    assert {path: path.stat().st_mtime_ns for path in paths} == paths
    assert versions == copy.fleet(MINI).tables.expected, "the fingerprint is the data version"
    assert all(evaluation.passed for evaluation in evaluations)
    leakage = [
        evaluation
        for evaluation in evaluations
        if evaluation.check_name == "future_shuffle_leakage"
    ]
    assert {evaluation.asset_key.to_user_string() for evaluation in leakage} == {
        "forecast_grid",
        "validation_losses",
        "baseline_forecasts",
    }


@pytest.mark.slow
def test_by_force_and_on_more_threads_everything_is_made_again_and_is_the_same(
    copy: Project, mini_project: Project
) -> None:
    before = {path: path.stat().st_mtime_ns for table in TABLES for path in copy.parts(MINI, table)}
    run = copy.run([sys.executable, "-c", FORCED, MINI])
    assert run.returncode == 0, run.stdout[-6000:]
    assert all(path.stat().st_mtime_ns > before[path] for path in before)
    assert "were already there and are kept" not in run.stdout
    assert copy.digests(MINI) == mini_project.digests(MINI)


def test_an_unknown_fleet_is_refused_with_the_names_there_are(mini_project: Project) -> None:
    run = mini_project.run([sys.executable, "-m", "tsfm_pipeline.cli.run", "nobody"])
    assert run.returncode == 2
    assert "no fleet 'nobody'" in run.stdout
    assert "there are: mini" in run.stdout
    assert "Traceback" not in run.stdout
