"""Test the codebook: the page is the generated one, its queries run, and every column and key is
explained.
"""

import json
import re

import duckdb
import polars as pl
import pytest
from typer.testing import CliRunner

from tsfm_pipeline.catalogue.columns import COLUMNS
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.cli.app import app
from tsfm_pipeline.reports.models import REPORTS
from tsfm_pipeline.reports.page.codebook import codebook_markdown, column_meaning, shown_columns
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.reports.shared.model import Report
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.project import Project

PAGE = PROJECT_ROOT / "docs" / "codebook.md"
QUERIES = re.findall(r"```sql\n(.*?)```", codebook_markdown(), re.DOTALL)


def answer(query: str, project: Project) -> pl.DataFrame:
    """A query of the page, asked of the miniature fleet."""
    with duckdb.connect() as connection:
        return connection.sql(
            query.replace("data/lake/demo", str(project.data_dir / "lake" / MINI))
        ).pl()


def test_the_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == codebook_markdown(), (
        "tsfm-pipeline codebook > docs/codebook.md"
    )


def test_the_command_prints_the_page() -> None:
    assert CliRunner().invoke(app, ["codebook"]).output == codebook_markdown()


@pytest.mark.parametrize("table", TABLES)
def test_every_table_says_what_a_row_and_every_column_is(table: str) -> None:
    page = codebook_markdown()
    assert f"#### {table}\n\nOne row per {TABLES[table].row}." in page
    for name, column in shown_columns(TABLES[table]).items():
        dtype, unit, meaning = column_meaning(column)
        assert dtype, name
        assert meaning, name
        assert f"| `{name}` | {dtype} |" in page
        if re.match(r"Int|Float|[HK] ", dtype) and name != "<feature>":
            assert unit, f"column {name!r} of table {table!r} has no unit"


def test_every_declared_column_is_one_of_a_table() -> None:
    used = {column.name for table in TABLES.values() for column in table.columns}
    assert set(COLUMNS) == used


def test_a_name_means_the_same_in_every_table_but_for_two_that_are_known() -> None:
    other = {
        (table.name, column.name)
        for table in TABLES.values()
        for column in table.columns
        if column != COLUMNS[column.name]
    }
    assert other == {("archetype_retrieval", "actual"), ("headline_scores", "violation_rate")}


def test_what_the_search_costs_is_what_the_headline_says(
    mini_project: Project, mini_fleet: Fleet
) -> None:
    answered = answer(QUERIES[0], mini_project)
    headline = pl.DataFrame(read_report(mini_fleet, "headline_report")["table_archetypes"])
    both = answered.join(
        headline,
        left_on=["tier", "archetype"],
        right_on=["tier", "scope_value"],
        suffix="_reported",
    )
    assert both.height == answered.height == headline.height
    assert both["ratio"].to_list() == pytest.approx(both["ratio_reported"].to_list(), rel=1e-4)


def test_wql_and_mase_are_what_the_report_says(mini_project: Project, mini_fleet: Fleet) -> None:
    answered = answer(QUERIES[1], mini_project)
    reported = pl.DataFrame(
        read_report(mini_fleet, "forecast_quality_report")["table_metrics"],
        infer_schema_length=None,
    )
    both = answered.join(reported, on=["metric", "method", "tier"], suffix="_reported")
    assert both.height == reported.height
    for score in ("wql", "mase", "coverage_80"):
        assert both[score].to_list() == pytest.approx(both[f"{score}_reported"].to_list(), rel=1e-6)


def test_a_request_is_unrolled_step_by_step(mini_project: Project, mini_fleet: Fleet) -> None:
    answered = answer(QUERIES[2], mini_project)
    horizon = mini_fleet.spec.horizon
    assert answered.height == horizon * len(mini_fleet.grid.metrics)
    first = (
        mini_fleet.tables.read("autoresearch_forecasts")
        .sort("request_id", "metric")
        .filter(pl.col("tier") == "premium")[0]
    )
    assert answered["decision"][:horizon].to_list() == first["decision"].to_list()[0]
    deciles = first["deciles"].to_numpy().reshape(horizon, 9)
    assert answered["median"][:horizon].to_list() == pytest.approx(deciles[:, 4].tolist())
    assert len(QUERIES) == 3


@pytest.mark.parametrize("report", sorted(set(REPORTS) - {"evidence_report"}))
def test_the_model_of_a_report_gives_its_json_back(mini_fleet: Fleet, report: str) -> None:
    content = read_report(mini_fleet, report)
    again = REPORTS[report].from_flat(content).flat()
    assert json.loads(json.dumps(again, default=str), parse_constant=lambda _: None) == content


def test_the_codebook_lists_every_key_of_every_model() -> None:
    page = codebook_markdown()
    for name, model in REPORTS.items():
        section = page.split(f"### {name}.json\n")[1].split("\n### ")[0]
        for kind in (model, *model.tables().values()):
            everywhere = set(Report.model_fields) if issubclass(kind, Report) else set()
            for key in kind.codebook_keys():
                assert key.meaning, key
                assert (
                    key.name in everywhere or f"| `{key.name}` | {key.unit or 'text'} | " in section
                ), key
        for table in model.tables():
            assert f"`{table}`, a list of records:" in section
