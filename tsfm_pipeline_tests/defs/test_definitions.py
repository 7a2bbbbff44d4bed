"""Test the code location as a whole: it loads quickly without heavy imports, and its graph equals
the snapshot.
"""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.defs.jobs import MAX_HEAVY, PRELOADED
from tsfm_pipeline.defs.materialise import HEAVY_KEY, HEAVY_VALUE
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline_tests.defs.graph import describe

REPORTS = {
    "headline_report",
    "ablation_report",
    "evidence_report",
    "latency_report",
    "cold_start_report",
    "sla_report",
    "forecast_quality_report",
    "acceptance_criteria",
    "experiment_ledger",
    "fleet_report",
}
RECOMMENDED = {"recommendation_report", "recommendation_review"}
SERVED = {"interval_evaluation"}
POLICY = {"promoted_policy"}
FORBIDDEN_ON_LOAD = ("torch", "numba", "timesfm", "faiss", "statsmodels", "matplotlib", "sklearn")
COMMAND_OF_THE_SNAPSHOT = (
    "python -m tsfm_pipeline_tests.defs.graph > tsfm_pipeline_tests/defs/graph.txt"
)


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(Settings(specs_dir=PROJECT_ROOT / "data" / "fleets"))


def assets(definitions: dg.Definitions) -> dict[str, dg.AssetsDefinition]:
    return {
        asset.key.to_user_string(): asset
        for asset in definitions.assets or ()
        if isinstance(asset, dg.AssetsDefinition)
    }


def test_the_graph_is_the_one_in_the_snapshot(definitions: dg.Definitions) -> None:
    agreed = (Path(__file__).parent / "graph.txt").read_text()
    assert describe(definitions) == agreed, f"if the change is meant: {COMMAND_OF_THE_SNAPSHOT}"


def test_definitions_are_loadable(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_loading_the_definitions_loads_nothing_heavy() -> None:
    code = (
        f"import sys, tsfm_pipeline.definitions; print([m for m in {FORBIDDEN_ON_LOAD!r} if m "
        "in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert loaded.stdout.strip() == "[]"
    assert "Warning" not in loaded.stderr


def test_what_steps_fork_from_has_all_that_opening_the_instance_imports(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((PROJECT_ROOT / "dagster.yaml").read_text())
    code = (
        "import importlib, sys, dagster as dg\n"
        f"for name in {PRELOADED!r}: importlib.import_module(name)\n"
        "before = set(sys.modules)\n"
        f"with dg.DagsterInstance.from_config({str(tmp_path)!r}) as instance:\n"
        "    instance.get_runs(), instance.compute_log_manager\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        f"print(sorted(new), [m for m in {FORBIDDEN_ON_LOAD!r} if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == "['dagster'] []", "of each step, a second is saved"


def test_every_table_is_an_asset_and_every_other_asset_a_report_or_the_policy(
    definitions: dg.Definitions,
) -> None:
    assert set(assets(definitions)) == set(TABLES) | REPORTS | RECOMMENDED | SERVED | POLICY


def test_assets_depend_on_what_their_fingerprints_cover(definitions: dg.Definitions) -> None:
    for name, table in TABLES.items():
        (spec,) = assets(definitions)[name].specs
        policy = POLICY if name in ("config_portfolio", "search_policy") else set()
        upstream = {dep.asset_key.to_user_string() for dep in spec.deps}
        assert upstream == set(table.inputs) | policy
        assert (spec.group_name, spec.code_version) == (table.group, table.code_version)


def test_every_asset_asks_a_question_and_has_an_owner(definitions: dg.Definitions) -> None:
    for asset in assets(definitions).values():
        (spec,) = asset.specs
        assert spec.description
        assert "?" in spec.description or spec.description.startswith("The whole answer"), spec.key
        assert spec.owners
        assert asset.op.retry_policy is not None


def test_tables_are_checked_before_anything_reads_them(definitions: dg.Definitions) -> None:
    for name, table in TABLES.items():
        checks = {check.name: check.blocking for check in assets(definitions)[name].check_specs}
        assert all(checks.values())
        assert ("row_count" in checks) == bool(table.key)
        assert ("future_shuffle_leakage" in checks) == (
            name in ("forecast_grid", "validation_losses", "baseline_forecasts")
        )
    criteria = assets(definitions)["acceptance_criteria"].check_specs
    assert {check.name: check.blocking for check in criteria} == {
        f"C{n}": False for n in range(1, 11)
    }


def test_heavy_steps_run_one_at_a_time_and_latency_is_measured_alone_and_last(
    definitions: dg.Definitions,
) -> None:
    everything = assets(definitions)
    heavy = {
        name for name, asset in everything.items() if asset.op.tags.get(HEAVY_KEY) == HEAVY_VALUE
    }
    with_a_model = {
        name for name, asset in everything.items() if "torch" in next(iter(asset.specs)).kinds
    }
    assert with_a_model <= heavy
    assert MAX_HEAVY == 1
    executor = definitions.executor
    assert isinstance(executor, dg.ExecutorDefinition)
    configured = executor.apply_config_mapping({"config": {}})
    assert configured.success
    assert configured.value["config"]["tag_concurrency_limits"] == [
        {"key": HEAVY_KEY, "value": HEAVY_VALUE, "limit": 1}
    ]
    upstream = {
        dep.asset_key.to_user_string()
        for dep in next(iter(everything["latency_report"].specs)).deps
    }
    assert {
        "headline_report",
        "ablation_report",
        "cold_start_report",
        "sla_report",
        "forecast_quality_report",
    } <= upstream
    assert "evidence_report" in heavy, "it never runs beside the latency measurement"
    assert int(everything["latency_report"].op.tags["dagster/priority"]) < 0


def test_only_what_is_about_all_fleets_has_no_partition(definitions: dg.Definitions) -> None:
    everything = assets(definitions)
    assert {name for name, asset in everything.items() if asset.partitions_def is None} == {
        "evidence_report",
        "promoted_policy",
    }
    (dep,) = next(iter(everything["evidence_report"].specs)).deps
    assert dep.asset_key.to_user_string() == "headline_scores"
    assert isinstance(dep.partition_mapping, dg.AllPartitionMapping)


def test_jobs_select_what_their_names_say(definitions: dg.Definitions) -> None:
    whole = ("demo", "nightly", "full", "cheap")
    selected = {
        job.name: {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
        for job in definitions.resolve_all_job_defs()
        if job.name in whole or job.name in ("reports_only", "serving")
    }
    everything = set(TABLES) | REPORTS | RECOMMENDED | SERVED | POLICY
    serving = {name for name, table in TABLES.items() if table.group == "serving"}
    assert selected == dict.fromkeys(whole, everything) | {
        "reports_only": REPORTS,
        "serving": serving | SERVED | {"fleet_report"},
    }


def test_a_new_yaml_file_is_a_new_partition(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("kind: synthetic\ntitle: Mine\ntenants: 2\ndays: 3\n")
    definitions = build_definitions(Settings(specs_dir=tmp_path))
    (spec,) = assets(definitions)["forecast_grid"].specs
    assert spec.partitions_def is not None
    assert list(spec.partitions_def.get_partition_keys()) == ["mine"]


def test_a_bad_yaml_file_is_named_in_the_log_and_is_no_partition(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "good.yaml").write_text("kind: synthetic\ntitle: Good\ntenants: 2\ndays: 3\n")
    (tmp_path / "mine.yaml").write_text("kind: synthetic\ntitle: Mine\ntenants: many\ndays: 3\n")
    definitions = build_definitions(Settings(specs_dir=tmp_path))
    (spec,) = assets(definitions)["forecast_grid"].specs
    assert spec.partitions_def is not None
    assert list(spec.partitions_def.get_partition_keys()) == ["good"]
    assert "mine.yaml: field 'tenants': got 'many'" in caplog.text


def test_a_location_without_any_good_yaml_file_stops_with_file_and_field(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("kind: synthetic\ntitle: Mine\ntenants: many\ndays: 3\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: field 'tenants': got 'many'"):
        build_definitions(Settings(specs_dir=tmp_path))
