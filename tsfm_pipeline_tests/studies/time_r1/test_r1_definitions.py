"""Test the study's code location and commands: the recipe `smoke` from data to the report.

What belongs here: what Dagster is told, and the whole chain with an untrained policy of small size.
What does not: the content of each table, and whether anything is learnt.
"""

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1 import making_training
from tsfm_pipeline.studies.time_r1.adapters import ParameterCounts
from tsfm_pipeline.studies.time_r1.commands import application
from tsfm_pipeline.studies.time_r1.definitions import REPORT, build_definitions
from tsfm_pipeline.studies.time_r1.making import data_set_facts
from tsfm_pipeline.studies.time_r1.methods import DRAFT, METHODS, SLOW_THINKING
from tsfm_pipeline.studies.time_r1.mlflow_export import MISSING, export, record_of, store_of
from tsfm_pipeline.studies.time_r1.own_policy import new_policy, save_policy
from tsfm_pipeline.studies.time_r1.recipes import profile, recipe_files
from tsfm_pipeline.studies.time_r1.scope import SCOPE, Experiment
from tsfm_pipeline.studies.time_r1.tables import (
    ADAPTERS,
    ANSWERS,
    DRAFTED,
    EVALUATED,
    FACTS,
    PLAIN,
    RUNS,
    SAMPLES,
    SFT,
    TABLES,
)
from tsfm_pipeline.studies.time_r1.warm_up import WarmUpResult
from tsfm_pipeline_tests.studies.locations import require_listed_and_light
from tsfm_pipeline_tests.studies.time_r1.small_recipe import SHAPE

pytestmark = pytest.mark.heavy
SMOKE = "smoke"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings under which the profile `smoke` starts from a small untrained policy, and is as
    shipped in all else.
    """
    data = tmp_path_factory.mktemp("time_r1") / "data"
    (data / "time_r1" / "recipes").mkdir(parents=True)
    base = data / "base"
    save_policy(new_policy(0, SHAPE), base, {"name": "small", "licence": "MIT"})
    shipped = profile(Settings(), SMOKE).model_dump(mode="json")
    profiles = {SMOKE: {**shipped, "model": str(base)}}
    (data / "time_r1" / "profiles.yaml").write_text(yaml.safe_dump(profiles))
    return Settings(data_dir=data)


@pytest.fixture(scope="module")
def experiment(settings: Settings) -> Experiment:
    """The shipped recipe `smoke` after a run of its job."""
    job = build_definitions(settings).resolve_job_def("slow_thinking")
    done = job.execute_in_process(partition_key=SMOKE)
    assert done.success
    checks = {each.check_name: each.passed for each in done.get_asset_check_evaluations()}
    assert checks["data_as_described"]
    return SCOPE.open(settings, SMOKE)


def test_the_location_is_listed_and_loads_nothing_heavy() -> None:
    require_listed_and_light("tsfm_pipeline.studies.time_r1.definitions")


def test_every_asset_is_partitioned_by_recipe_and_asks_a_question() -> None:
    defs = build_definitions(Settings())
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    assert set(nodes) == {*TABLES, REPORT}
    for name, node in nodes.items():
        assert node.partitions_def is not None, name
        assert "etth1" in node.partitions_def.get_partition_keys()
        assert "?" in (node.description or ""), name


def test_the_smoke_recipe_runs_from_data_to_a_report(experiment: Experiment) -> None:
    assert not experiment.missing, "it must need no file and no fleet"
    tables = experiment.tables
    assert tables.read(FACTS)["problems"].explode().drop_nulls().is_empty()
    assert set(tables.read(SAMPLES)["variant"]) == {PLAIN, DRAFTED}
    runs = {row["variant"]: row for row in tables.read(RUNS).iter_rows(named=True)}
    assert set(runs) == {"grip", "grpo", "sft_more"}
    assert len(runs["grip"]["curve"]) == experiment.profile.grip.steps
    spent, matched = (runs[variant]["n_tokens"] for variant in ("grip", "sft_more"))
    of_one_step = matched / len(runs["sft_more"]["curve"])
    assert abs(matched - spent) <= of_one_step

    evaluated = tables.read(EVALUATED)
    assert set(evaluated["method"]) == set(METHODS)
    answers = tables.read(ANSWERS).filter(method=SLOW_THINKING)
    drafts = tables.read(ANSWERS).filter(method=DRAFT)
    for thought, draft in zip(
        answers.iter_rows(named=True), drafts.iter_rows(named=True), strict=True
    ):
        assert thought["kept"] or thought["points"] == draft["points"]
        assert thought["reason"]
    page = (experiment.reports_dir / "report.html").read_text()
    assert "recipe smoke" in page
    shown = json.loads((experiment.reports_dir / "slow_thinking_report.json").read_text())
    losses = [row for row in shown["table_warm_ups"] if row["part"] == "validation"]
    assert {row["run"] for row in losses} == {"sft_plain", "sft_draft", "sft_more"}
    assert all(row["number"] > 0 for row in losses)


@pytest.mark.parametrize("epochs", [0.1, 0.3, 1.0, 2.6, 7.2])
def test_more_sft_costs_as_many_tokens_as_grip_to_within_one_update(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, epochs: float
) -> None:
    def counted(*arguments: Any) -> tuple[None, WarmUpResult]:
        history = np.zeros((arguments[-1], 1))
        return None, WarmUpResult(history, (), 0, {}, False, ParameterCounts(1, 1))

    monkeypatch.setattr(making_training, "_warmed_up", counted)
    monkeypatch.setattr(making_training, "stored", lambda _: [])
    texts = experiment.tables.read(SAMPLES).filter(variant=DRAFTED, part="train")
    words = sum(
        len(f"{r['prompt']} {r['completion']}".split()) for r in texts.iter_rows(named=True)
    )
    updates = -(-len(texts) // experiment.profile.warm_up.batch)
    budget = round(3 * words * epochs)
    sft = experiment.tables.read(SFT)
    row = making_training._more(experiment, sft, budget, experiment.settings.data_dir)
    assert len(row["curve"]) == max(1, round(updates * epochs))
    assert abs(row["n_tokens"] - budget) <= 3 * words / updates


def test_the_commands_show_recipes_data_sets_and_measures(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSFM_DATA_DIR", str(experiment.settings.data_dir))
    run = CliRunner().invoke
    listed = run(application, ["list"])
    assert listed.exit_code == 0
    assert {SMOKE, "etth1"} <= set(listed.output.split())
    sets = run(application, ["datasets"])
    assert sets.exit_code == 0
    assert "corpus-small" in sets.output
    assert "download https://" in sets.output
    again = run(application, ["run", SMOKE])
    assert again.exit_code == 0
    assert "written" not in again.output, "what is current is kept"
    assert str(experiment.reports_dir / "report.html") in "".join(again.output.split())
    assert run(application, ["run", "nothing"]).exit_code != 0


def test_the_evaluation_states_every_measure_with_its_unit_and_interval(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSFM_DATA_DIR", str(experiment.settings.data_dir))
    run = CliRunner().invoke
    shown = run(application, ["evaluate", SMOKE])
    assert "slow_thinking" in shown.output
    printed = json.loads(run(application, ["evaluate", SMOKE, "--json"]).output)
    rows = {row["method"]: row for row in printed["table_evaluation"]}
    assert set(rows) == set(METHODS)
    units = {column["name"]: column["unit"] for column in printed["table_columns"]}
    for measure in ("mse", "mae", "mape", "r2", "nrmse", "mase", "wql"):
        assert units[measure], measure
        for end in ("", "_low", "_high"):
            assert isinstance(rows[SLOW_THINKING][measure + end], float), measure + end


def test_a_data_set_that_is_missing_is_named_and_left_out(settings: Settings) -> None:
    recipe = recipe_files(settings).spec(SMOKE)
    _written(settings, "missing", {"evaluate": [*recipe.evaluate, "ETTm2"]})
    experiment = SCOPE.open(settings, "missing")
    told: list[str] = []
    experiment.prepare(told.append)
    assert "ETTm2.csv" in told[0]
    assert experiment.present(experiment.recipe.evaluate) == ["corpus-small"]
    (row,) = data_set_facts(experiment).filter(~pl.col("is_present")).iter_rows(named=True)
    assert row["data_set"] == "ETTm2"
    assert "ETTm2.csv" in row["todo"]


def test_another_reward_makes_stale_what_was_trained_by_it_and_no_sample(
    settings: Settings, experiment: Experiment
) -> None:
    _written(settings, "other", {"reward": {"length": 0.2, "error": 0.4}})
    other = SCOPE.open(settings, "other").tables.expected
    same = {name for name, print_ in experiment.tables.expected.items() if other[name] == print_}
    assert SAMPLES in same
    assert not same & {RUNS, ANSWERS, EVALUATED}


def test_a_run_is_exported_with_its_options_curves_and_measures(experiment: Experiment) -> None:
    record = record_of(experiment)
    assert record.parameters["recipe.horizon"] == "8"
    assert record.parameters["profile.grip.steps"] == "2"
    assert record.parameters["recipe.train"] == '["corpus-small"]'
    points = {(point.name, point.step): point.value for point in record.points}
    assert len(points) == len(record.points)
    for name in ("sft_plain/template", "sft_more/number", "grip/reward_all", "grpo/gradient_norm"):
        assert (name, 1) in points, name
    (grip,) = experiment.tables.read(RUNS).filter(variant="grip").iter_rows(named=True)
    assert points["grip/reward_all", 2] == grip["curve"][1][0]
    assert points["grip/validation/reward", 2] == pytest.approx(
        sum(grip["validation"][-1]) / len(grip["validation"][-1])
    )
    assert {name for name, _ in points} >= {"policy/kl_exact", "policy/readable_free"}
    for row in experiment.tables.read(EVALUATED).iter_rows(named=True):
        name = f"test/{row['data_set']}/8/{row['window_set']}/{row['method']}/mase"
        assert points[name, 0] == row["mase"]
    adapters = dict(experiment.tables.read(ADAPTERS).select("variant", "sha256").iter_rows())
    assert {name: record.tags[f"tsfm.adapter.{name}"] for name in adapters} == adapters


def test_the_same_run_stands_in_mlflow_once(
    settings: Settings, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("TSFM_DATA_DIR", str(settings.data_dir))
    told = CliRunner().invoke(application, ["export-mlflow", SMOKE])
    assert told.exit_code == 0, told.output
    assert str(store_of(settings)) in told.output.replace("\n", "")
    assert store_of(settings).is_relative_to(settings.data_dir)
    again = export(settings, SMOKE)
    assert not again.is_new
    assert again.run_id in told.output.replace("\n", "")
    client = MlflowClient(f"sqlite:///{again.store}")
    record, run = record_of(experiment), client.get_run(again.run_id)
    assert run.data.params == dict(record.parameters)
    assert record.tags.items() <= run.data.tags.items()
    curve = client.get_metric_history(again.run_id, "grip/reward_all")
    stored = {(point.step, point.value) for point in curve}
    assert stored == {(p.step, p.value) for p in record.points if p.name == "grip/reward_all"}
    assert set(run.data.metrics) == {point.name for point in record.points}

    client.set_terminated(again.run_id, "FAILED")  # as if the export had been stopped
    repaired = export(settings, SMOKE)
    assert repaired.is_new
    (left,) = client.search_runs([run.info.experiment_id])
    assert left.info.run_id == repaired.run_id


def test_without_mlflow_the_export_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSFM_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlflow", None)
    told = CliRunner().invoke(application, ["export-mlflow", SMOKE])
    assert told.exit_code != 0
    assert MISSING in told.output
    assert list(tmp_path.iterdir()) == []


def _written(settings: Settings, name: str, changes: dict[str, Any]) -> None:
    """Write the recipe `smoke` with some changes under another name."""
    recipe = recipe_files(settings).spec(SMOKE).model_dump(mode="json", exclude={"name"})
    path = settings.data_dir / "time_r1" / "recipes" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**recipe, **changes}))
