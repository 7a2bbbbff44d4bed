"""Test what the logger `progress` tells a waiting terminal, in runs of two small assets that write
tables to a lake.
"""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.defs.progress import ANSWER, LOGGER, figure_of, loggers
from tsfm_pipeline.lake import Lake
from tsfm_pipeline.progress import Event, EventReader
from tsfm_pipeline.settings import Settings

pytestmark = pytest.mark.heavy

SHARDS = [[0], [1], [2]]


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.touch()
    return path


def run(tmp_path: Path, events: Path, fails: bool = False) -> list[Event]:
    """Run two assets, and return what was told."""
    materialise(tmp_path, events, fails)
    return EventReader(events).new()


def materialise(tmp_path: Path, events: Path, fails: bool = False) -> None:
    """Run an asset that makes a table, and one that depends on it."""

    @dg.asset
    def usage(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """How much was used? One row per tenant."""
        tables = Lake(tmp_path / "lake").fleet("shop", {"usage": "f" * 64})
        summary = tables.map_shards(
            "usage",
            lambda shard: pl.DataFrame({"tenant": list(shard)}),
            SHARDS,
            log=context.log.info,
        )
        return dg.MaterializeResult(metadata={"dagster/row_count": summary.n_rows})

    @dg.asset(deps=[usage])
    def usage_report() -> dg.MaterializeResult:
        """Was it
        too much?
        """
        if fails:
            raise dg.Failure("the disk is full: make room", allow_retries=False)
        return dg.MaterializeResult(metadata={ANSWER: "It was 12 % too much. Nobody knows why."})

    questions = {
        key.to_user_string(): str(text)
        for asset in (usage, usage_report)
        for key, text in asset.descriptions_by_key.items()
    }
    definitions = dg.Definitions(assets=[usage, usage_report], loggers=loggers(questions))
    with dg.DagsterInstance.ephemeral() as instance:
        definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            run_config={"loggers": {LOGGER: {"config": {"path": str(events)}}}},
            raise_on_error=False,
        )


def test_a_run_tells_questions_shards_and_figures(tmp_path: Path, events: Path) -> None:
    told = run(tmp_path, events)
    assert [(event.kind, event.step) for event in told] == [
        ("run", ""),
        ("start", "usage"),
        *[("shards", "usage")] * 3,
        ("end", "usage"),
        ("start", "usage_report"),
        ("end", "usage_report"),
    ]
    assert told[0].n_total == 2
    assert [event.text for event in told if event.kind == "start"] == [
        "How much was used?",
        "Was it too much?",
    ]
    assert [(event.n_done, event.n_total) for event in told if event.kind == "shards"] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    assert [event.text for event in told if event.kind == "end"] == [
        "3 rows",
        "It was 12 % too much.",
    ]
    assert all(event.at > 0 for event in told)


def test_shards_of_an_earlier_run_count_as_done_from_the_start(
    tmp_path: Path, events: Path
) -> None:
    run(tmp_path, events)
    table = tmp_path / "lake" / "shop" / "usage"
    (table / "_table.json").unlink()
    next(table.glob("part-00001-*")).unlink()
    (tmp_path / "second.jsonl").touch()
    told = run(tmp_path, tmp_path / "second.jsonl")
    shards = [
        (event.n_done, event.n_kept)
        for event in told
        if event.kind in ("shards", "end") and event.step == "usage"
    ]
    assert shards == [(2, 2), (3, 2), (3, 2)]


def test_a_failure_is_told_in_the_words_of_its_cause(tmp_path: Path, events: Path) -> None:
    told = run(tmp_path, events, fails=True)
    failures = [event for event in told if event.kind == "failure"]
    assert (failures[0].step, failures[0].text) == ("usage_report", "the disk is full: make room")


def test_a_run_goes_on_where_nobody_waits_any_more(tmp_path: Path) -> None:
    gone = tmp_path / "gone.jsonl"
    materialise(tmp_path, gone)
    assert (tmp_path / "lake" / "shop" / "usage" / "_table.json").exists()
    assert not gone.exists()


def test_figures_are_counts_before_rows() -> None:
    described = {"dagster/row_count": 9, "n_shards": 3, "n_shards_kept": 0, "n_tenants": 1200}
    assert figure_of(described) == "1,200 tenants"
    assert figure_of({"dagster/row_count": 1234, "n_shards": 3}) == "1,234 rows"
    assert figure_of({"size_kib": 812.4, "ratio": 0.9}) == "812 KiB"
    assert figure_of({}) == ""


def test_every_asset_has_a_question_to_be_shown() -> None:
    definitions = build_definitions(Settings())
    assert definitions.loggers is not None
    assert set(definitions.loggers) == {"console", LOGGER}
    descriptions = {
        key.to_user_string(): text
        for asset in definitions.assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for key, text in asset.descriptions_by_key.items()
    }
    assert set(TABLES) < set(descriptions)
    assert all(descriptions.values())
