"""Test long tables, one file per tenant, and other clocks: the same telemetry in another shape
reads as the same fleet.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.fleets import FleetDataError, FleetSource, open_fleet
from tsfm_pipeline.fleets.quality import check_fleet
from tsfm_pipeline_tests.fleets.tables import (
    HOUR,
    N_HOURS,
    START,
    edited,
    opened,
    opened_csv,
    spec,
    table,
)

LONG = {"layout": "long", "metric_column": "metric"}


def long_form(frame: pl.DataFrame) -> pl.DataFrame:
    names = {"tenant_id": "unique_id", "timestamp": "ds"}
    return frame.unpivot(
        index=["tenant_id", "timestamp"], variable_name="metric", value_name="y"
    ).rename(names)


def below(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def assert_same(one: FleetSource, other: FleetSource) -> None:
    assert (one.metrics, one.start, one.step, one.n_steps) == (
        other.metrics,
        other.start,
        other.step,
        other.n_steps,
    )
    np.testing.assert_array_equal(one.values([0, 1]), other.values([0, 1]))
    assert one.manifest().equals(other.manifest())


@pytest.mark.parametrize("read", [opened, opened_csv])
def test_nixtlas_columns_with_several_metrics_read_as_the_wide_table(tmp_path, read):
    wide = opened(below(tmp_path, "wide"), table())
    long = long_form(table()).sample(fraction=1.0, shuffle=True, seed=3)
    assert_same(read(tmp_path, long, **LONG), wide)


def test_nixtlas_three_columns_are_a_fleet_of_one_metric(tmp_path):
    frame = table().select(
        pl.col("tenant_id").alias("unique_id"),
        pl.col("timestamp").alias("ds"),
        pl.col("cpu").alias("y"),
    )
    source = opened(tmp_path, frame, layout="long")
    assert source.metrics == ("y",)
    np.testing.assert_array_equal(source.values([1])[0, 0], np.arange(N_HOURS) + 1000)


def test_columns_of_the_long_layout_can_have_other_names(tmp_path):
    frame = long_form(table()).rename(
        {"unique_id": "host", "ds": "at", "y": "reading", "metric": "kpi"}
    )
    names = {
        "tenant_column": "host",
        "timestamp_column": "at",
        "value_column": "reading",
        "metric_column": "kpi",
    }
    assert_same(
        opened(tmp_path, frame, layout="long", **names), opened(below(tmp_path, "wide"), table())
    )


def test_only_the_metrics_that_are_asked_for_are_read(tmp_path):
    frame = pl.concat(
        [
            long_form(table()),
            long_form(table()).with_columns(
                pl.lit("junk").alias("metric"), pl.lit(np.inf, pl.Float32).alias("y")
            ),
        ]
    )
    source = opened(tmp_path, frame, **LONG, metrics=["mem", "cpu"])
    assert source.metrics == ("mem", "cpu")
    assert source.values([0])[0, 0, 0] == 0.5
    with pytest.raises(FleetDataError, match="no rows of metric 'gpu'; there are: cpu, junk, mem"):
        opened(tmp_path, frame, **LONG, metrics=["gpu"])


def test_of_repeated_rows_the_last_one_of_each_metric_counts(tmp_path):
    frame = long_form(table())
    again = frame.head(1).with_columns(pl.lit(7.0, pl.Float32).alias("y"))
    source = opened(tmp_path, pl.concat([frame, again]), **LONG)
    assert source.values([0])[0, 0, 0] == 7
    assert source.manifest()["n_duplicates"].to_list() == [1, 0]
    assert source.values([0])[0, 1, 0] == 0.5


def test_rows_that_are_not_there_are_missing_in_their_metric_only(tmp_path):
    frame = long_form(table()).filter(
        ~((pl.col("metric") == "mem") & (pl.col("ds") == START + 9 * HOUR))
    )
    missing = np.isnan(opened(tmp_path, frame, **LONG).values([0])[0])
    assert np.argwhere(missing).tolist() == [[1, 9]]


def test_faults_are_named_by_metric_tenant_and_row(tmp_path):
    frame = long_form(table())
    with pytest.raises(
        FleetDataError, match=r"column 'mem': 1 infinite values: row 124 \(tenant 'a'"
    ):
        opened(tmp_path, edited(frame, 2 * N_HOURS + 4, "y", np.inf), **LONG)
    with pytest.raises(FleetDataError, match="1 empty metric names: row 3"):
        opened(tmp_path, edited(frame, 3, "metric", ""), **LONG)
    with pytest.raises(FleetDataError, match=r"column 'cpu': 1 values that are not numbers: row 5"):
        opened_csv(
            tmp_path, edited(frame.with_columns(pl.col("y").cast(pl.String)), 5, "y", "n/x"), **LONG
        )
    with pytest.raises(FleetDataError, match=r"'timestamp'|'ds'.*1 timestamps off the grid.*row 6"):
        opened(tmp_path, edited(frame, 6, "ds", START + HOUR / 2), **LONG)
    with pytest.raises(FleetDataError, match="'mem': 120 values below 1"):
        opened(tmp_path, frame, **LONG, bounds={"mem": {"lower": 1}})


def test_a_metric_column_that_names_something_else_is_refused(tmp_path):
    frame = long_form(table()).with_columns(pl.int_range(pl.len()).cast(pl.String).alias("metric"))
    with pytest.raises(FleetDataError, match=r"240 different metrics, such as '0'.*another column"):
        opened(tmp_path, frame, **LONG)
    with pytest.raises(FleetDataError, match="'timestamp': the name is taken"):
        opened(
            tmp_path,
            long_form(table().rename({"mem": "timestamp_"})).with_columns(
                pl.lit("timestamp").alias("metric")
            ),
            **LONG,
        )


def test_a_nixtla_table_read_as_a_wide_one_says_what_to_add(tmp_path):
    with pytest.raises(FleetDataError, match="Nixtla's long format: add 'layout: long'"):
        opened(tmp_path, long_form(table()).drop("metric"))


def test_tiers_and_archetypes_are_read_from_long_rows_too(tmp_path):
    frame = long_form(table()).with_columns(
        pl.lit("premium").alias("tier"), pl.lit("web").alias("kind")
    )
    manifest = opened(
        tmp_path, frame, **LONG, tier_column="tier", archetype_column="kind"
    ).manifest()
    assert manifest.select("tier", "archetype").unique().rows() == [("premium", "web")]


def test_each_file_can_be_one_tenant(tmp_path):
    for tenant in "ab":
        table().filter(pl.col("tenant_id") == tenant).drop("tenant_id").write_parquet(
            tmp_path / f"{tenant}.parquet"
        )
    source = open_fleet(spec("*.parquet", tenant_column=None), fleets_dir=tmp_path)
    table().write_parquet(tmp_path / "t.pq")
    assert source.manifest()["tenant_id"].to_list() == ["a", "b"]
    np.testing.assert_array_equal(source.values([1])[0, 0], np.arange(N_HOURS) + 1000)


def test_two_files_of_one_name_are_not_two_tenants(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        table(("a",)).drop("tenant_id").write_parquet(tmp_path / folder / "a.parquet")
    with pytest.raises(FleetDataError, match=r"called 'a'.*one file per tenant"):
        open_fleet(spec("*/a.parquet", tenant_column=None), fleets_dir=tmp_path)


def test_brackets_in_the_name_of_a_single_csv_mean_themselves(tmp_path):
    (tmp_path / "old [1]").mkdir()
    table().write_csv(tmp_path / "old [1]" / "t.csv")
    assert open_fleet(spec("old [[]1]/t.csv"), fleets_dir=tmp_path).n_tenants == 2


def test_aligned_upwards_a_value_is_never_there_before_it_was_known(tmp_path):
    late = pl.when(pl.col("tenant_id") == "b").then(pl.duration(minutes=7)).otherwise(pl.duration())
    source = opened(tmp_path, table().with_columns(pl.col("timestamp") + late), align="up")
    assert (source.start, source.n_steps) == (START, N_HOURS + 1)
    values = source.values([0, 1])
    np.testing.assert_array_equal(values[0, 0, :-1], np.arange(N_HOURS))
    np.testing.assert_array_equal(values[1, 0, 1:], np.arange(N_HOURS) + 1000)
    assert np.isnan(values[1, :, 0]).all()


def test_jitter_within_a_step_is_one_value_per_step_and_the_last_counts(tmp_path):
    early = (
        pl.when(pl.int_range(pl.len()) % 2 == 1)
        .then(pl.duration(seconds=-3))
        .otherwise(pl.duration())
    )
    frame = table(("a",)).with_columns(pl.col("timestamp") + early)
    for step in ("infer", 60):
        source = opened(below(tmp_path, str(step)), frame, align="up", step=step)
        np.testing.assert_array_equal(source.values([0])[0, 0], np.arange(N_HOURS))
    with pytest.raises(FleetDataError, match="sets steps of 0:30:00, but rows"):
        opened(tmp_path, frame, align="up", step=30)


def test_a_table_that_lies_on_the_grid_is_the_same_aligned_or_not(tmp_path):
    exact, up = (opened(below(tmp_path, align), table(), align=align) for align in ("exact", "up"))
    assert_same(up, exact)
    assert up.fingerprint() != exact.fingerprint()


def test_fields_that_came_later_leave_older_fleets_their_fingerprint(tmp_path):
    plain = opened(tmp_path, table()).fingerprint()
    assert opened(tmp_path, table(), layout="wide", align="exact").fingerprint() == plain
    long = long_form(table())
    assert (
        opened(tmp_path, long, **LONG).fingerprint()
        != opened(tmp_path, long, **LONG, metrics=["cpu"]).fingerprint()
    )


def test_a_metric_whose_column_of_units_says_several_looks_wrong(tmp_path):
    in_bytes = long_form(table()).with_columns(pl.lit("Bytes").alias("Unit"))
    kilo = pl.col("metric").eq("mem") & pl.col("unique_id").eq("b")
    mixed = in_bytes.with_columns(
        pl.when(kilo).then(pl.lit("Kilobytes")).otherwise("Unit").alias("Unit")
    )
    for frame, expected in ((in_bytes, []), (mixed, ["mem is in several units by the column"])):
        frame.write_parquet(tmp_path / "t.parquet")
        found = check_fleet(spec(**LONG), fleets_dir=tmp_path).findings
        said = [one.problem for one in found if "units" in one.problem]
        assert [problem.split(" 'Unit'")[0] for problem in said] == expected
    assert "Bytes, Kilobytes" in said[0]
