"""Test rows that repeat a tenant's time: identical ones, contradicting ones, and rows that are finer
than the tenant.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.fleets import FleetDataError, FleetSource, open_fleet
from tsfm_pipeline.fleets.quality import check_fleet
from tsfm_pipeline_tests.fleets.tables import N_HOURS, edited, opened, opened_csv, spec, table

READERS = pytest.mark.parametrize("read", [opened, opened_csv])


def pods() -> pl.DataFrame:
    """Two namespaces with a pod 'x' each, whose loads differ, and a pod of its own each."""
    frames = []
    for i, (namespace, pod) in enumerate((("a", "x"), ("b", "x"), ("a", "y"), ("b", "z"))):
        frame = table(("t",)).with_columns(
            pl.lit(namespace).alias("namespace"), pl.lit(pod).alias("pod"), pl.col("cpu") + 100 * i
        )
        frames.append(frame.drop("tenant_id"))
    return pl.concat(frames)


def by_tenant(source: FleetSource) -> dict[str, np.ndarray]:
    ids = source.manifest()["tenant_id"].to_list()
    return {tenant: source.values([number])[0, 0] for number, tenant in enumerate(ids)}


@READERS
def test_identical_repeats_are_counted_and_change_nothing(tmp_path: Path, read) -> None:
    source = read(tmp_path, pl.concat([table(), table().head(30)]))
    np.testing.assert_array_equal(source.values([0, 1])[:, 0, 3], [3, 1003])
    assert source.manifest()["n_duplicates"].to_list() == [30, 0]
    assert source.contradictions == {}
    assert any("30 rows repeat" in n and "all with the same values" in n for n in source.notes)


def test_missing_values_in_both_rows_are_no_contradiction(tmp_path: Path) -> None:
    frame = table().with_columns(pl.col("cpu").cast(pl.Float64))
    frame = edited(edited(frame, 4, "cpu", None), 5, "cpu", float("nan"))
    again = edited(edited(frame, 4, "cpu", float("nan")), 5, "cpu", None)
    assert opened(tmp_path, pl.concat([frame, again])).contradictions == {}


@READERS
def test_contradicting_rows_above_one_percent_are_refused_with_the_label_and_the_remedies(
    tmp_path: Path, read
) -> None:
    with pytest.raises(FleetDataError) as error:
        read(tmp_path, pods(), tenant_column="pod")
    for part in (
        "60 of 240 rows (25%)",
        "tenant 'x' (60)",
        "'namespace' tells them apart",
        "'tenant_column: [namespace, pod]' (--tenant namespace,pod)",
        "--aggregate sum",
        "'aggregate: last'",
    ):
        assert part in str(error.value)
    assert set(error.value.tenants) == {"x"}
    assert error.value.remedy == (
        "tenant_column: [namespace, pod], or aggregate: sum (or mean, max, last)"
    )


def test_the_check_names_the_tenants_whose_rows_contradict(tmp_path: Path) -> None:
    pods().write_parquet(tmp_path / "t.parquet")
    (finding,) = check_fleet(spec(tenant_column="pod"), fleets_dir=tmp_path).findings
    assert (finding.severity, finding.tenant) == ("unusable", "x")
    assert "60 rows have the time of another row" in finding.problem
    assert "tenant_column: [namespace, pod]" in finding.remedy


def test_up_to_one_percent_the_last_row_counts_and_the_others_are_counted(tmp_path: Path) -> None:
    frame = pl.concat([table(), edited(table().head(2), 1, "cpu", 77.0)])
    source = opened(tmp_path, frame)
    assert source.values([0])[0, 0, 0] == 77
    assert source.contradictions == {"a": 1}
    assert any("2 rows repeat" in n and "1 of them have other values" in n for n in source.notes)
    problems = [finding.problem for finding in check_fleet(spec(), fleets_dir=tmp_path).findings]
    assert "2 rows repeat a time, 1 of them with other values; the last of each counts" in problems


@READERS
def test_several_columns_name_a_tenant_together(tmp_path: Path, read) -> None:
    source = read(tmp_path, pods(), tenant_column=["namespace", "pod"])
    loads = by_tenant(source)
    assert list(loads) == ["a/x", "a/y", "b/x", "b/z"]
    assert [load[0] for load in loads.values()] == [0, 200, 100, 300]
    assert source.manifest()["n_duplicates"].sum() == 0


def test_one_column_in_a_list_is_that_column(tmp_path: Path) -> None:
    assert (
        opened(tmp_path, table(), tenant_column=["tenant_id"]).fingerprint()
        == opened(tmp_path, table()).fingerprint()
    )


def test_a_part_of_a_tenants_name_that_is_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetDataError, match=r"'namespace, pod': 1 empty tenant ids: row 4"):
        opened(tmp_path, edited(pods(), 4, "namespace", ""), tenant_column=["namespace", "pod"])


@READERS
@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_rows_finer_than_the_tenant_are_joined(tmp_path: Path, read, how: str) -> None:
    source = read(tmp_path, pods(), tenant_column="namespace", aggregate=how)
    a = by_tenant(source)["a"]
    growth = 2 if how == "sum" else 1
    pods_of_a = {"sum": 200, "mean": 100, "max": 200}[how]
    np.testing.assert_array_equal(a, pods_of_a + growth * np.arange(N_HOURS))
    b = by_tenant(source)["b"]
    pods_of_b = {"sum": 400, "mean": 200, "max": 300}[how]
    np.testing.assert_array_equal(b, pods_of_b + growth * np.arange(N_HOURS))
    assert source.metrics == ("cpu", "mem")


def test_a_row_that_is_there_twice_is_not_summed_twice(tmp_path: Path) -> None:
    once = opened(tmp_path, pods(), tenant_column="namespace", aggregate="sum").values([0, 1])
    twice = opened(
        tmp_path, pl.concat([pods(), pods()]), tenant_column="namespace", aggregate="sum"
    )
    np.testing.assert_array_equal(twice.values([0, 1]), once)
    assert twice.manifest()["n_duplicates"].to_list() == [120, 120]
    assert any("240 rows are identical in every column" in note for note in twice.notes)


def test_equal_loads_of_two_workloads_without_a_label_are_both_summed(tmp_path: Path) -> None:
    frame = pl.concat([table(("a",)), table(("a",))])
    source = opened(tmp_path, frame, aggregate="sum")
    np.testing.assert_array_equal(source.values([0])[0, 0], 2 * np.arange(N_HOURS))


def test_a_sum_leaves_out_what_is_missing_and_a_sum_of_nothing_is_missing(tmp_path: Path) -> None:
    frame = pods().with_columns(pl.col("cpu").cast(pl.Float64))
    frame = edited(edited(frame, 1, "cpu", None), N_HOURS * 2 + 1, "cpu", float("nan"))
    frame = edited(frame, 2, "cpu", None)
    cpu = by_tenant(opened(tmp_path, frame, tenant_column="namespace", aggregate="sum"))["a"]
    assert np.isnan(cpu[0])
    assert cpu[1] == 201


def test_long_rows_are_joined_by_metric(tmp_path: Path) -> None:
    long = pods().unpivot(
        index=["namespace", "pod", "timestamp"], variable_name="metric", value_name="y"
    )
    names = {"tenant_column": "namespace", "timestamp_column": "timestamp"}
    fields = {**names, "layout": "long", "metric_column": "metric"}
    source = opened(tmp_path, long, **fields, aggregate="sum")
    np.testing.assert_array_equal(source.values([0])[0, 0], 200 + 2 * np.arange(N_HOURS))
    np.testing.assert_array_equal(source.values([0])[0, 1], np.ones(N_HOURS))
    with pytest.raises(FleetDataError, match="'pod' tells them apart"):
        opened(tmp_path, long, **fields)


def test_later_files_correct_earlier_ones_where_the_fleet_file_says_so(tmp_path: Path) -> None:
    table(("a",)).write_parquet(tmp_path / "1.parquet")
    table(("a",)).with_columns(pl.col("cpu") + 5).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(FleetDataError, match=r"no other column tells these rows apart"):
        open_fleet(spec("*.parquet"), fleets_dir=tmp_path)
    source = open_fleet(spec("*.parquet", aggregate="last"), fleets_dir=tmp_path)
    np.testing.assert_array_equal(source.values([0])[0, 0], 5 + np.arange(N_HOURS))


def test_rows_in_one_step_that_do_not_repeat_a_time_do_not_contradict(tmp_path: Path) -> None:
    """Clocks that jitter put two rows into one step now and then; the last one counts."""
    late = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.duration(seconds=3))
    frame = table(("a",)).with_columns(
        pl.col("timestamp") + late.otherwise(pl.duration(seconds=-3))
    )
    source = opened(tmp_path, frame, align="up")
    assert source.contradictions == {}
    assert source.manifest()["n_duplicates"].to_list() == [N_HOURS // 2]


def test_rows_that_are_moved_to_one_step_are_not_said_to_be_the_same(tmp_path):
    late = table().with_columns(pl.col("timestamp") - pl.duration(minutes=10))
    twin = late[5:6].with_columns(pl.col("timestamp") + pl.duration(minutes=3), cpu=pl.lit(9.0))
    notes = opened(tmp_path, pl.concat([late, twin.cast(late.schema)]), align="up").notes
    assert "1 row repeats a tenant's step, of which the last counts" in notes
    same = opened(tmp_path, pl.concat([table(), table()[5:6]])).notes
    assert (
        "1 row repeats a tenant's time, of which the last counts, all with the same values" in same
    )
