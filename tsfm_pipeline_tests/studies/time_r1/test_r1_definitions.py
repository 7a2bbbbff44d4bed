"""Test the study's code location and commands: one small recipe from data to the report.

What belongs here: what Dagster is told, and the whole chain with an untrained policy of small size.
What does not: the content of each table, and whether anything is learnt.
"""

import json

import dagster as dg
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.commands import application
from tsfm_pipeline.studies.time_r1.definitions import REPORT, build_definitions
from tsfm_pipeline.studies.time_r1.methods import DRAFT, METHODS, SLOW_THINKING
from tsfm_pipeline.studies.time_r1.operations import run_recipe
from tsfm_pipeline.studies.time_r1.scope import SCOPE, Experiment
from tsfm_pipeline.studies.time_r1.tables import (
    ANSWERS,
    DRAFTED,
    EVALUATED,
    FACTS,
    PLAIN,
    RUNS,
    SAMPLES,
    TABLES,
)
from tsfm_pipeline_tests.studies.locations import require_listed_and_light
from tsfm_pipeline_tests.studies.time_r1.small_recipe import PROFILE, RECIPE, write_recipe

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return write_recipe(tmp_path_factory.mktemp("time_r1") / "data")


@pytest.fixture(scope="module")
def experiment(settings: Settings) -> Experiment:
    """The recipe after a run of its job."""
    job = build_definitions(settings).resolve_job_def("slow_thinking")
    assert job.execute_in_process(partition_key="small").success
    return SCOPE.open(settings, "small")


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


def test_a_small_recipe_runs_from_data_to_a_report(
    settings: Settings, experiment: Experiment
) -> None:
    tables = experiment.tables
    facts = tables.read(FACTS)
    missing = facts.filter(~pl.col("is_present"))
    assert missing["data_set"].to_list() == ["ETTm2"]
    assert "ETTm2.csv" in missing["todo"][0]
    assert facts.filter("is_present")["problems"].explode().drop_nulls().is_empty()
    assert set(tables.read(SAMPLES)["variant"]) == {PLAIN, DRAFTED}
    runs = {row["variant"]: row for row in tables.read(RUNS).iter_rows(named=True)}
    assert set(runs) == {"grip", "grpo", "sft_more"}
    assert len(runs["grip"]["curve"]) == PROFILE["grip"]["steps"]  # type: ignore[index]
    assert runs["sft_more"]["n_tokens"] > 0

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
    assert "recipe small" in page
    assert "ETTm2" in page

    told: list[str] = []
    run_recipe(settings, "small", told.append)
    assert not any("written" in line for line in told), "what is current is kept"


def test_the_commands_show_recipes_data_sets_and_measures(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSFM_DATA_DIR", str(experiment.settings.data_dir))
    run = CliRunner().invoke
    listed = run(application, ["list"])
    assert listed.exit_code == 0
    assert "small" in listed.output
    sets = run(application, ["datasets"])
    assert sets.exit_code == 0
    assert "small_corpus" in sets.output
    assert "download https://" in sets.output
    shown = run(application, ["evaluate", "small"])
    assert "slow_thinking" in shown.output
    printed = run(application, ["evaluate", "small", "--json"])
    rows = json.loads(printed.output)["table_evaluation"]
    assert {row["method"] for row in rows} == set(METHODS)
    assert run(application, ["run", "nothing"]).exit_code != 0


def test_another_reward_makes_stale_what_was_trained_by_it_and_no_sample(
    settings: Settings, experiment: Experiment
) -> None:
    path = settings.data_dir / "time_r1" / "recipes" / "other.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "reward": {"length": 0.2, "error": 0.4}}))
    other = SCOPE.open(settings, "other").tables.expected
    same = {name for name, print_ in experiment.tables.expected.items() if other[name] == print_}
    assert SAMPLES in same
    assert not same & {RUNS, ANSWERS, EVALUATED}
