"""Test what a real run records in Dagster: plottable figures, column schemas and lineage,
references to the code.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.steps.makers import MAKERS
from tsfm_pipeline_tests.conftest import MINI, N_TENANTS
from tsfm_pipeline_tests.project import Project

HEADLINE = {
    *(
        f"{tier}_{figure}"
        for tier in TIERS
        for figure in ("ratio", "win_rate", "violation_rate_search")
    ),
    *(f"n_criteria_{verdict}" for verdict in ("pass", "fail", "null", "na")),
    *("p95_latency_ms", "n_tenants", "n_test_tenants", "n_requests", "n_invalid_requests"),
}


@pytest.fixture(scope="module")
def instance(mini_project: Project) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(mini_project.root / "dagster_home")) as instance:
        yield instance


def metadata(instance: dg.DagsterInstance, asset: str) -> dict[str, Any]:
    """The metadata of the last materialisation of an asset of the miniature fleet."""
    records = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[MINI])
    (record,) = instance.fetch_materializations(records, limit=1).records
    assert record.asset_materialization is not None
    return dict(record.asset_materialization.metadata)


def test_the_headline_figures_are_numbers_that_the_ui_plots(instance: dg.DagsterInstance) -> None:
    shown = metadata(instance, "fleet_report")
    assert set(shown) >= HEADLINE
    assert all(isinstance(shown[name], dg.FloatMetadataValue) for name in HEADLINE)
    assert shown["n_tenants"].value == N_TENANTS
    assert (
        sum(shown[f"n_criteria_{verdict}"].value for verdict in ("pass", "fail", "null", "na"))
        == 10
    )


def test_every_report_says_its_profile_and_has_its_figures_as_numbers(
    instance: dg.DagsterInstance,
) -> None:
    for report in (
        "headline_report",
        "latency_report",
        "acceptance_criteria",
        "experiment_ledger",
        "fleet_report",
    ):
        shown = metadata(instance, report)
        assert shown["profile"].value == "full"
        assert sum(isinstance(value, dg.FloatMetadataValue) for value in shown.values()) >= 4, (
            report
        )
    criteria = metadata(instance, "acceptance_criteria")["criteria"].value
    assert [row["id"] for row in criteria] == [f"C{n}" for n in range(1, 11)], (
        "the sensor failing_criteria compares these"
    )


def test_every_table_shows_its_columns_with_meanings_and_where_they_come_from(
    instance: dg.DagsterInstance,
) -> None:
    for table in TABLES:
        shown = metadata(instance, table)
        columns = shown["dagster/column_schema"].schema.columns
        assert all(column.description for column in columns), table
        assert set(shown["dagster/column_lineage"].value.deps_by_column) <= {
            column.name for column in columns
        }
    scored = metadata(instance, "scored_forecasts")["dagster/column_lineage"].value.deps_by_column
    assert dg.TableColumnDep(dg.AssetKey("request_targets"), "request_id") in scored["request_id"]
    assert "slack" not in scored, "it is computed here"


def test_every_asset_links_to_the_lines_that_make_it() -> None:
    definitions = build_definitions(Settings(specs_dir=PROJECT_ROOT / "data" / "fleets"))
    for asset in definitions.assets or ():
        assert isinstance(asset, dg.AssetsDefinition)
        name = asset.key.to_user_string()
        (reference,) = asset.metadata_by_key[asset.key]["dagster/code_references"].code_references
        lines = Path(reference.file_path).read_text().splitlines()[reference.line_number - 1 :]
        if name in MAKERS:
            module, _, function = MAKERS[name].function.partition(":")
            assert Path(reference.file_path) == PROJECT_ROOT / f"{module.replace('.', '/')}.py"
            assert lines[0].startswith(f"def {function}(")
        else:
            assert any(f"def {name}(" in line for line in lines[:15]), name
