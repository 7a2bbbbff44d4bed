"""Test that this release opens the previous release's files or refuses them by name, and loses
nothing that cannot be made again.

What belongs here: files that an earlier release really wrote (`fixtures/release-before`). What does
not: interrupted moves (`test_moves`).
"""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.reports.acceptance.ledger import ledger
from tsfm_pipeline.reports.recommendations.publication import past_runs
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.docs.pages import blocks
from tsfm_pipeline_tests.project import environment

LEFT = PROJECT_ROOT / "tsfm_pipeline_tests" / "fixtures" / "release-before"
TABLES_LEFT = sorted(path.name for path in (LEFT / "data" / "lake" / "small").iterdir())
REPORTS_LEFT = sorted(path.stem for path in (LEFT / "data" / "reports" / "small").glob("*.json"))
OPTIONS: dict[str, str] = json.loads((LEFT / "settings.json").read_text())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of what was left; the specs lie where a project has them."""
    shutil.copytree(LEFT / "data", tmp_path / "data")
    shutil.copytree(LEFT / "specs", tmp_path / "data" / "fleets")
    return tmp_path / "data"


def opened(data: Path, name: str, profile: str = "full") -> Fleet:
    with environment(
        {f"TSFM_{key}": value for key, value in OPTIONS.items()} | {"TSFM_PROFILE": profile}
    ):
        return open_workspace_fleet(Settings(data_dir=data), name)


def ledger_left(profile: str) -> pl.DataFrame:
    folder = LEFT / "data" if profile == "full" else LEFT / "data" / "cheap"
    return pl.read_parquet(folder / "reports" / "small" / "experiment_ledger.parquet")


def test_no_table_has_been_forgotten() -> None:
    new = {"search_bundle", "cold_start_tuning_losses", "cold_start_losses"}
    new |= {name for name, table in TABLES.items() if table.group == "serving"}
    assert set(TABLES_LEFT) == set(TABLES) - new, (
        "a table was renamed, or a new one has to be left out here"
    )


@pytest.mark.parametrize("table", TABLES_LEFT)
def test_every_table_is_read_or_refused_by_name_with_the_asset_to_materialise(
    data: Path, table: str
) -> None:
    fleet = opened(data, "small")
    record: dict[str, Any] = json.loads(
        (LEFT / "data" / "lake" / "small" / table / "_table.json").read_text()
    )
    try:
        rows = fleet.tables.read(table)
    except LakeError as error:
        refusal = str(error)
        assert f"table '{table}' of fleet 'small'" in refusal
        assert f"materialise the asset '{table}'" in refusal
    else:
        assert rows.height == record["n_rows"]
        assert {name: str(dtype) for name, dtype in rows.schema.items()} == record["schema"]


@pytest.mark.parametrize("report", REPORTS_LEFT)
def test_every_report_is_read_or_refused_by_name_with_the_asset_to_materialise(
    data: Path, report: str
) -> None:
    try:
        content = read_report(opened(data, "small"), report)
    except LakeError as error:
        refusal = str(error)
        assert f"{report}.json was made from outdated scores" in refusal
        assert f"materialise the asset '{report}' of fleet 'small' again" in refusal
    else:
        assert content == json.loads(
            (LEFT / "data" / "reports" / "small" / f"{report}.json").read_text()
        )


@pytest.mark.parametrize(("profile", "n_rows"), [("full", 2), ("cheap", 1)])
def test_no_row_and_no_figure_of_the_ledger_is_lost(data: Path, profile: str, n_rows: int) -> None:
    rows = ledger(opened(data, "small", profile)).read()
    assert rows.height == n_rows
    assert rows.select(ledger_left(profile).columns).rows() == ledger_left(profile).rows()
    reports = data / "reports" if profile == "full" else data / profile / "reports"
    assert not (reports / "small" / "experiment_ledger.parquet").exists()


def test_duckdb_reads_the_ledger_as_the_documentation_says(data: Path) -> None:
    table = ledger(opened(data, "small"))
    table.append(
        pl.DataFrame({"time": [datetime(2030, 1, 1, tzinfo=UTC)], "of a later release": [1]})
    )
    (statement,) = [block.text for block in blocks(PROJECT_ROOT / "docs" / "operating.md", "sql")]
    with duckdb.connect() as connection:
        rows = connection.sql(
            statement.replace("data/records/full/shop", str(data / "records" / "full" / "small"))
        ).pl()
    assert rows["standard_ratio"].to_list() == [*ledger_left("full")["standard_ratio"], None]


def test_the_rows_of_a_cheap_run_stay_apart(data: Path) -> None:
    assert set(ledger(opened(data, "small")).read()["profile"]) == {"full"}
    assert set(ledger(opened(data, "small", "cheap")).read()["profile"]) == {"cheap"}


def test_earlier_recommendations_are_found_again(data: Path) -> None:
    left = sorted(
        (LEFT / "data" / "reports" / "small" / "recommendation_history").glob("*.parquet")
    )
    runs = past_runs(opened(data, "small"))
    assert [run.number for run in runs] == [1, 2]
    assert [run.fingerprint for run in runs] == [path.stem.split("-")[2] for path in left]
    for run, path in zip(runs, left, strict=True):
        assert run.read().equals(pl.read_parquet(path))


def test_fetched_samples_are_the_same_fleet_as_before(data: Path) -> None:
    fleet, expected = opened(data, "cluster"), json.loads((LEFT / "expected.json").read_text())
    assert fleet.context.source_fingerprint == expected["cluster_fingerprint"]
    assert fleet.source.n_steps == expected["cluster_steps"]
    rows = pl.concat(
        pl.read_parquet(path) for path in (LEFT / "data" / "lake" / "cluster").rglob("*.parquet")
    )
    first = rows.filter(pl.col("tenant_id") == "t0").sort("timestamp")
    assert fleet.source.values([0])[0, 0].tolist() == first["cpu"].to_list()


def test_a_check_before_any_run_finds_the_samples_and_asks_no_server(
    tmp_path: Path, data: Path
) -> None:
    desk = Desk(tmp_path, OPTIONS)
    assert desk.data == data
    done = desk.run("fleet", "check", "cluster")
    assert "2 tenants, 2 metrics, 102 steps of 1:00:00" in done.output, (
        "the address in the spec is nobody's"
    )
    assert list((data / "records" / "full" / "cluster" / "fetched").rglob("*.parquet"))
    assert not (data / "lake" / "cluster" / "raw").exists()
