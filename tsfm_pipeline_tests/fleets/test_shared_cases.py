"""Test the small tables beside the checkout that were read wrongly once: cells, repeats and roles of
columns.
"""

import numpy as np
import pytest

from tsfm_pipeline.fleets import open_fleet
from tsfm_pipeline.fleets.inference import TableFacts, look_at_table
from tsfm_pipeline_tests.baselines.conftest import shared_file

pytestmark = pytest.mark.heavy


def facts(name: str, **options: object) -> TableFacts:
    path = shared_file(f"cases/{name}")
    return look_at_table(path, name="case", fleets_dir=path.parent, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "tenant", "metrics"),
    [
        ("words-for-missing/one-cell.csv", "host", ["cpu", "mem"]),
        ("words-for-missing/late-cell.csv", "host", ["cpu", "mem"]),
        ("words-for-missing/t-NaN-l.csv", "host", ["cpu", "mem"]),
        ("words-for-missing/t-dash-l.csv", "host", ["cpu", "mem"]),
        ("words-for-missing/t-nan-l.csv", "host", ["cpu", "mem"]),
        ("words-for-missing/t-null-l.csv", "host", ["cpu", "mem"]),
        ("decimal-comma-quoted/t.csv", "host", ["memory"]),
        ("nixtla-one-nan/t.csv", "unique_id", ["y"]),
        ("nixtla-one-nan/metric-port.csv", "host", ["cpu", "mem"]),
        ("overlap/identical.csv", "host", ["cpu"]),
        ("pod-collision/pods.csv", ("namespace", "pod"), ["cpu"]),
        ("pod-collision/clusters.csv", ("cluster", "hostname"), ["cpu"]),
        ("rows-per-pod/t.csv", "pod", ["cpu_cores"]),
        ("file-per-period/per-week", None, ["load"]),
        ("file-per-period/per-day", None, ["load"]),
        ("one-series/t.csv", None, ["value"]),
        ("pandas-index/frame.csv", "host", ["cpu", "mem"]),
        ("pandas-index/frame-named.csv", "host", ["cpu", "mem"]),
        ("epoch-times/both.csv", "host", ["cpu"]),
    ],
)
def test_the_roles_of_its_columns_are_right(
    name: str, tenant: str | tuple[str, ...] | None, metrics: list[str]
) -> None:
    found = facts(name)
    assert found.problem == ""
    assert found.fields["tenant_column"] == tenant
    assert [metric.name for metric in found.metrics] == metrics


def test_a_metric_spoilt_by_a_word_is_never_the_tenant() -> None:
    found = facts("grafana-wide/replicas-with-null.csv")
    assert found.fields.get("tenant_column") is None
    assert any("18 cells are read as missing: 'null' (18)" in note for note in found.notes) or (
        found.fields["layout"] == "series"
    )


def test_decimal_commas_are_named_and_read_where_it_is_said() -> None:
    (left,) = facts("decimal-comma-quoted/t.csv").left_out
    assert (left.column, left.cell) == ("cpu", "4,18")
    assert "--decimal comma" in left.remedy
    read = facts("decimal-comma-quoted/t.csv", reading={"decimal": "comma"})
    assert [metric.name for metric in read.metrics] == ["cpu", "memory"]
    assert 1 < read.metrics[0].low < read.metrics[0].high < 20


def test_identical_rows_are_told_from_contradicting_ones() -> None:
    notes = facts("overlap/identical.csv").notes
    assert any("288 rows repeat" in note and "all with the same values" in note for note in notes)
    refused = facts("pod-collision/pods.csv", tenant=("pod",))
    assert "336 of 3696 rows (9%)" in refused.problem
    assert refused.remedy.startswith("tenant_column: [namespace, pod]")


def test_rows_finer_than_the_tenant_are_refused_or_joined() -> None:
    name = "rows-per-pod/t.csv"
    assert "12096 of 15120 rows (80%)" in facts(name, tenant=("customer",)).problem
    summed = facts(name, tenant=("customer",), reading={"aggregate": "sum"})
    folder = shared_file(f"cases/{name}").parent
    pods = open_fleet(facts(name).spec, fleets_dir=folder)
    source = open_fleet(summed.spec, fleets_dir=folder)
    np.testing.assert_allclose(
        source.values([0])[0, 0], pods.values(range(5))[:, 0].sum(axis=0), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["per-week", "per-day"])
def test_one_series_in_a_file_per_period_is_one_tenant(name: str) -> None:
    found = facts(f"file-per-period/{name}")
    assert (found.n_tenants, found.fields["one_tenant"]) == (1, "load")
