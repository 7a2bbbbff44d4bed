"""Test bad input: the run fails, the message says what is wrong, where and what is allowed, and no
table is left behind; once through the command line, and otherwise in the test's process.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline_tests.cli.conftest import SOURCE, add_table_fleet, telemetry
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.project import Project

pytestmark = pytest.mark.run
FLEET = "mine"
FRAME = telemetry(n_tenants=2, n_days=4)
ROW = 48 * 4 + 7
"""A row of the second tenant, counted from 1 as in messages."""


def missing_table(project: Project) -> None:
    add_table_fleet(project, FLEET, FRAME)
    (project.fleets_dir / f"{FLEET}.csv").unlink()


def infinite_value(project: Project) -> None:
    cpu = pl.when(pl.int_range(pl.len()) == ROW - 1).then(np.inf).otherwise("cpu").alias("cpu")
    add_table_fleet(project, FLEET, FRAME.with_columns(cpu), "parquet")


def unknown_metric(project: Project) -> None:
    add_table_fleet(project, FLEET, FRAME, metrics=["cpu", "memory"])


def missing_inputs(project: Project) -> None:
    add_table_fleet(project, FLEET, FRAME)


CASES = {
    missing_table: ("tenant_telemetry", "tenant_manifest"),
    infinite_value: ("tenant_telemetry", "tenant_manifest"),
    unknown_metric: ("tenant_telemetry", "tenant_manifest"),
    missing_inputs: ("forecast_grid",),
}
THROUGH_THE_COMMAND = missing_table


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Project, str]]:
    """Project and output of each run, every one of which must fail."""
    ran = {}
    for case, select in CASES.items():
        project = Project(tmp_path_factory.mktemp(case.__name__), FAST)
        case(project)
        if case is THROUGH_THE_COMMAND:
            command = project.materialise(FLEET, select)
            success, text = command.returncode == 0, " ".join(command.stdout.split())
        else:
            success, text = project.materialise_here(FLEET, select)
        assert not success, text
        ran[case.__name__] = (project, text)
    return ran


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_nothing_is_left_half_written_run_downstream_or_tried_again(
    outputs: Mapping[str, tuple[Project, str]], case: str
) -> None:
    project, text = outputs[case]
    left = [path.name for path in project.data_dir.rglob("*") if path.is_file()]
    assert set(left) <= {".lock", ".guard"}
    assert "tenant_manifest - STEP_START" not in text
    assert "STEP_UP_FOR_RETRY" not in text, "what a person must mend is not tried again"


def test_a_missing_table_says_where_it_was_looked_for_and_where_it_is_published(
    outputs: Mapping[str, tuple[Project, str]],
) -> None:
    project, text = outputs["missing_table"]
    for part in ("fleet 'mine'", str(project.fleets_dir / "mine.csv"), SOURCE):
        assert part in text


def test_an_infinite_value_is_named_by_tenant_column_and_row(
    outputs: Mapping[str, tuple[Project, str]],
) -> None:
    _, text = outputs["infinite_value"]
    for part in ("mine.parquet", "'cpu'", "host-01", f"row {ROW}", "allowed"):
        assert part in text


def test_an_unknown_metric_is_named_beside_the_columns_there_are(
    outputs: Mapping[str, tuple[Project, str]],
) -> None:
    _, text = outputs["unknown_metric"]
    assert "no column 'memory'" in text
    assert "mem " in text.split("no column 'memory'; columns:")[1][:200]


def test_missing_inputs_name_the_asset_to_run_first(
    outputs: Mapping[str, tuple[Project, str]],
) -> None:
    _, text = outputs["missing_inputs"]
    assert "table 'tenant_telemetry' of fleet 'mine' is not there" in text
    assert "materialise the asset 'tenant_telemetry' first" in text
