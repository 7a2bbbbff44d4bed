"""Test which columns of an unknown table become metrics, values and tenants, and what is said about
the others.

What belongs here: the roles of columns. What does not: the columns of times, reading cells
(`fleets.test_numbers`), the command (`cli.test_fleet_init`).
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.fleets import FleetDataError, open_fleet
from tsfm_pipeline.fleets.columns import Columns, find_columns
from tsfm_pipeline.fleets.inference import look_at_table
from tsfm_pipeline_tests.fleets.tables import HOUR, N_HOURS, edited, spec, table

pytestmark = pytest.mark.heavy

Frame = pl.DataFrame


@pytest.fixture(params=["csv", "parquet"])
def roles(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Columns]:
    """Return the roles of the columns of one frame, written as a CSV and as a Parquet file."""

    def found(frame: Frame, **options: object) -> Columns:
        path = tmp_path / f"t.{request.param}"
        frame.write_csv(path) if request.param == "csv" else frame.write_parquet(path)
        return find_columns([path], **options)  # type: ignore[arg-type]

    return found


def one_series(n_hours: int = N_HOURS) -> Frame:
    return table(("a",), n_hours=n_hours).drop("tenant_id")


def left_out(columns: Columns) -> dict[str, str]:
    return {left.column: left.reason for left in columns.left_out}


def hour_of(column: str = "timestamp") -> pl.Expr:
    return pl.col(column).dt.hour()


LABELS = {
    "weather": pl.when(hour_of().is_between(6, 14)).then(pl.lit("sun")).otherwise(pl.lit("rain")),
    "weekday": pl.col("timestamp").dt.strftime("%a"),
    "time_of_day": pl.col("timestamp").dt.strftime("%H:%M"),
    "note": pl.lit("ok"),
    "request_id": pl.concat_str(pl.lit("r"), pl.int_range(pl.len()).cast(pl.String)),
    "shift": pl.when(hour_of() < 12).then(pl.lit("early")).otherwise(pl.lit("late")),
}


@pytest.mark.parametrize("label", LABELS)
def test_a_label_beside_one_series_is_no_tenant(roles, label: str) -> None:
    columns = roles(one_series(240).with_columns(LABELS[label].alias(label)))
    assert (columns.tenant, columns.metrics) == ((), ("cpu", "mem"))
    assert label in left_out(columns)
    assert "one series" in columns.why["tenant_column"]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_beside_many_tenants_is_no_tenant_either(roles, label: str) -> None:
    columns = roles(table().rename({"tenant_id": "zone"}).with_columns(LABELS[label].alias(label)))
    assert columns.tenant == ("zone",)
    assert "50% of the rows" in columns.why["tenant_column"]


def test_a_usual_name_names_the_only_tenant(roles) -> None:
    assert roles(table(("a",)).rename({"tenant_id": "host"})).tenant == ("host",)


def test_tenants_that_take_turns_are_told_apart_by_the_label_that_covers_their_time(roles) -> None:
    """No time repeats: every tenant has a clock of its own."""
    shift = pl.duration(minutes=pl.col("tenant_id").replace_strict({"a": 0, "b": 7, "c": 19}))
    frame = table(("a", "b", "c")).with_columns(pl.col("timestamp") + shift)
    frame = frame.rename({"tenant_id": "zone"}).with_columns(LABELS["weather"].alias("weather"))
    assert roles(frame).tenant == ("zone",)


def test_a_name_beats_an_id_where_both_identify(roles) -> None:
    frame = table().rename({"tenant_id": "vm_name"})
    numbers = pl.col("vm_name").replace_strict({"a": 3, "b": 8})
    columns = roles(frame.with_columns(numbers.alias("id")))
    assert (columns.tenant, columns.metrics) == (("vm_name",), ("cpu", "mem"))
    assert "an id" in left_out(columns)["id"]
    assert "'id' would do as well" in columns.why["tenant_column"]


@pytest.mark.parametrize("name", ["vm_id", "id", "store_nbr", "sensor"])
def test_whole_numbers_that_tell_rows_apart_are_ids(roles, name: str) -> None:
    numbers = pl.col("tenant_id").replace_strict({"a": 3, "b": 8})
    columns = roles(table().with_columns(numbers.alias(name)).drop("tenant_id"))
    assert (columns.tenant, columns.metrics) == ((name,), ("cpu", "mem"))


def test_a_row_number_is_no_id(roles) -> None:
    frame = table().with_columns(pl.int_range(pl.len()).alias("id"))
    columns = roles(frame.select("id", *frame.columns[:-1]))
    assert (columns.tenant, columns.metrics) == (("tenant_id",), ("cpu", "mem"))


def test_a_metric_with_a_word_in_it_is_no_tenant(roles) -> None:
    replicas = pl.int_range(pl.len()) % 3 + 2
    frame = one_series().with_columns(replicas.cast(pl.String).alias("api"))
    frame = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("null")).otherwise("api").alias("api")
    )
    columns = roles(frame)
    assert columns.tenant == ()
    expected = ("cpu", "mem", "api") if "api" not in left_out(columns) else ("cpu", "mem")
    assert columns.metrics == expected


def test_only_together_two_labels_name_a_tenant_and_the_reason_is_said(roles) -> None:
    parts = [
        table((t,)).with_columns(pl.lit(c).alias("cluster"), pl.col("cpu") + i)
        for i, (c, t) in enumerate([("eu", "n0"), ("eu", "n1"), ("us", "n0"), ("us", "n1")])
    ]
    columns = roles(pl.concat(parts).rename({"tenant_id": "hostname"}))
    assert columns.tenant == ("hostname", "cluster")
    assert "'hostname' alone leaves 50% of the rows" in columns.why["tenant_column"]


def test_identical_rows_do_not_make_a_label_look_insufficient(roles) -> None:
    frame = pl.concat([table(), table().head(40)]).with_columns(pl.lit("x").alias("rack"))
    assert roles(frame).tenant == ("tenant_id",)


def test_with_rows_to_join_the_usual_name_names_the_tenant(roles) -> None:
    frame = table(("p0", "p1", "p2")).rename({"tenant_id": "pod_uid"})
    frame = frame.with_columns(pl.lit("c").alias("customer"))
    assert roles(frame).tenant == ("pod_uid",)
    assert roles(frame, reading={"aggregate": "sum"}).tenant == ("customer",)


def test_lists_structs_and_categories_beside_the_metrics_disturb_nobody(tmp_path: Path) -> None:
    frame = pl.concat([table(), table().head(40)]).with_columns(
        pl.col("tenant_id").cast(pl.Categorical).alias("host"),
        pl.concat_list("cpu", "mem").alias("tags"),
        pl.struct("cpu").alias("labels"),
        pl.lit(True).alias("up"),
    )
    frame.drop("tenant_id").write_parquet(tmp_path / "t.parquet")
    columns = find_columns([tmp_path / "t.parquet"])
    assert (columns.tenant, columns.metrics) == (("host",), ("cpu", "mem"))
    assert set(left_out(columns)) == {"tags", "labels", "up"}
    assert "Struct" in left_out(columns)["labels"]
    summed = open_fleet(
        spec(tenant_column="host", aggregate="sum", metrics=["cpu"]), fleets_dir=tmp_path
    )
    assert summed.values([0])[0, 0, 5] == 10


def test_given_columns_are_not_questioned(roles) -> None:
    frame = table().with_columns(pl.lit("x").alias("rack"))
    assert roles(frame, tenant=("rack", "tenant_id")).tenant == ("rack", "tenant_id")
    with pytest.raises(FleetDataError, match="no column 'rock'"):
        roles(frame, tenant=("rock",))


ROW_NUMBERS = ["", "Unnamed: 0", "index", "row_number", "__index_level_0__"]


@pytest.mark.parametrize("name", ROW_NUMBERS)
@pytest.mark.parametrize("per_tenant", [False, True])
def test_a_column_that_counts_rows_is_no_metric(roles, name: str, per_tenant: bool) -> None:
    count = pl.int_range(pl.len()).over("tenant_id") if per_tenant else pl.int_range(pl.len())
    frame = table().with_columns(count.alias(name))
    columns = roles(frame.select(name, *frame.columns[:-1]))
    assert columns.metrics == ("cpu", "mem")
    assert left_out(columns)[name] == "it only counts the rows"


def test_a_number_that_goes_on_from_tenant_to_tenant_counts_rows_whatever_its_name(roles) -> None:
    columns = roles(table().with_columns((5_000 + pl.int_range(pl.len())).alias("seq")))
    assert columns.metrics == ("cpu", "mem")
    assert left_out(columns)["seq"] == "it only counts the rows"


def test_a_metric_that_happens_to_rise_by_one_stays_a_metric(roles) -> None:
    assert roles(one_series()).metrics == ("cpu", "mem")


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_an_epoch_beside_the_time_is_no_metric(roles, unit: str) -> None:
    epoch = pl.col("timestamp").dt.epoch(unit)
    columns = roles(table().with_columns(epoch.alias("when_it_was")))
    assert columns.metrics == ("cpu", "mem")
    assert "the time again" in left_out(columns)["when_it_was"]


@pytest.mark.parametrize("spread", [1_000, 100_000])
def test_bytes_as_large_as_an_epoch_stay_a_metric(roles, spread: int) -> None:
    """With little spread they are never far from the time, but do not rise as it does."""
    memory = 1_704_150_000 + spread * (pl.int_range(pl.len()) % 7)
    assert roles(table().with_columns(memory.alias("memory"))).metrics == ("cpu", "mem", "memory")


def test_a_fleet_file_without_metrics_leaves_counts_and_epochs_out_too(tmp_path: Path) -> None:
    epoch = pl.col("timestamp").dt.epoch("s")
    frame = table().with_columns(pl.int_range(pl.len()).alias("index"), epoch.alias("unix"))
    frame.write_parquet(tmp_path / "t.parquet")
    source = open_fleet(spec(), fleets_dir=tmp_path)
    assert source.metrics == ("cpu", "mem")
    assert {left.column for left in source.columns_left_out} == {"index", "unix"}
    listed = open_fleet(spec(metrics=["cpu", "mem", "unix"]), fleets_dir=tmp_path)
    assert listed.metrics == ("cpu", "mem", "unix")


@pytest.mark.parametrize("word", ["null", "nan", "1,5", "broken"])
def test_the_value_column_stays_it_whatever_one_cell_says(tmp_path: Path, word: str) -> None:
    nixtla = table().select(
        pl.col("tenant_id").alias("unique_id"),
        pl.col("timestamp").alias("ds"),
        pl.col("cpu").cast(pl.String).alias("y"),
        pl.lit(1.97).alias("price"),
    )
    edited(nixtla, 9, "y", word).write_csv(tmp_path / "n.csv")
    columns = find_columns([tmp_path / "n.csv"])
    assert (columns.layout, columns.value, columns.metric) == ("long", "y", None)
    long = table().with_columns(pl.lit(9100).alias("port"))
    long = long.unpivot(
        index=["tenant_id", "timestamp", "port"], variable_name="metric", value_name="value"
    ).with_columns(pl.col("value").cast(pl.String))
    edited(long, 9, "value", word).write_csv(tmp_path / "m.csv")
    columns = find_columns([tmp_path / "m.csv"])
    assert (columns.layout, columns.value, columns.metric) == ("long", "value", "metric")


def test_a_column_of_decimal_commas_is_named_with_what_reads_it(tmp_path: Path) -> None:
    frame = table().with_columns(
        ((pl.col("cpu") + 0.25).cast(pl.String).str.replace(".", ",", literal=True)).alias("cpu"),
        pl.lit(7).alias("mem"),
    )
    frame.write_csv(tmp_path / "t.csv")
    columns = find_columns([tmp_path / "t.csv"])
    (left,) = columns.left_out
    assert (columns.tenant, columns.metrics) == (("tenant_id",), ("mem",))
    assert (left.column, left.cell) == ("cpu", "0,25")
    assert "--decimal comma" in left.remedy
    read = find_columns([tmp_path / "t.csv"], reading={"decimal": "comma"})
    assert read.metrics == ("cpu", "mem")


def test_a_table_of_nothing_but_unreadable_numbers_names_what_reads_them(tmp_path: Path) -> None:
    frame = table().select("tenant_id", "timestamp", pl.lit("915 MiB").alias("mem"))
    frame.write_csv(tmp_path / "t.csv")
    with pytest.raises(FleetDataError, match=r"no column of numbers.*'mem'.*--units parse"):
        find_columns([tmp_path / "t.csv"])


def test_a_long_table_of_nothing_but_decimal_commas_is_refused_with_what_reads_them(
    tmp_path: Path,
) -> None:
    frame = table().select(
        pl.col("tenant_id").alias("unique_id"),
        pl.col("timestamp").alias("ds"),
        pl.lit("4,5").alias("y"),
    )
    frame.write_csv(tmp_path / "t.csv")
    with pytest.raises(FleetDataError, match=r"'y': 120 values that are not.*--decimal comma"):
        look_at_table(tmp_path / "t.csv", name="t", fleets_dir=tmp_path)


def periods(folder: Path, frame: Frame, n_files: int, hours: int, overlap: int = 0) -> list[Path]:
    paths = []
    for i in range(n_files):
        paths.append(folder / f"load-2024-01-{i + 1:02d}.csv")
        frame[i * hours : (i + 1) * hours + overlap].write_csv(paths[-1])
    return paths


@pytest.mark.parametrize("overlap", [0, 3])
def test_files_that_follow_each_other_are_one_tenant(tmp_path: Path, overlap: int) -> None:
    paths = periods(tmp_path, one_series(120), 5, 24, overlap)
    columns = find_columns(paths)
    assert (columns.tenant, columns.one_tenant) == ((), "load")
    assert "follow each other" in columns.why["one_tenant"]
    fields = {"timestamp_column": "timestamp", "seasons": [24], **columns.fields()}
    source = open_fleet(spec("*.csv", **fields), fleets_dir=tmp_path)
    assert source.manifest()["tenant_id"].to_list() == ["load"]
    np.testing.assert_array_equal(source.values([0])[0, 0], np.arange(120))


def test_a_missing_file_among_many_does_not_make_tenants_of_the_rest(tmp_path: Path) -> None:
    paths = periods(tmp_path, one_series(240), 10, 24)
    assert find_columns([*paths[:4], *paths[5:]]).one_tenant == "load"


def test_files_of_one_time_are_tenants(tmp_path: Path) -> None:
    for tenant in ("a", "b"):
        table((tenant,)).with_columns(pl.col("cpu") + len(tenant)).drop("tenant_id").write_csv(
            tmp_path / f"{tenant}.csv"
        )
    shifted = one_series().with_columns(pl.col("timestamp") + timedelta(minutes=1))
    shifted.write_csv(tmp_path / "b.csv")
    columns = find_columns([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert (columns.tenant, columns.one_tenant) == ((), None)


def test_files_that_contradict_each_other_are_tenants(tmp_path: Path) -> None:
    paths = periods(tmp_path, one_series(120), 2, 48, 12)
    other = pl.read_csv(paths[1]).with_columns(pl.col("cpu") * 3 + 1)
    other.write_csv(paths[1])
    assert find_columns(paths).one_tenant is None


def test_files_of_periods_with_a_label_are_one_table(tmp_path: Path) -> None:
    frame = table(n_hours=120).sort("timestamp")
    columns = find_columns(periods(tmp_path, frame, 5, 48))
    assert (columns.tenant, columns.one_tenant) == (("tenant_id",), None)


def test_files_can_be_said_to_be_tenants_or_one_tenant(tmp_path: Path) -> None:
    paths = periods(tmp_path, one_series(120), 5, 24)
    assert find_columns(paths, tenant=()).one_tenant is None
    assert find_columns(paths, reading={"one_tenant": "it"}).fields()["one_tenant"] == "it"
    with pytest.raises(ValueError, match="one_tenant needs 'tenant_column: null'"):
        spec("*.csv", one_tenant="it")


def test_one_series_is_described_and_read_under_the_name_of_its_file(tmp_path: Path) -> None:
    one_series(240).write_csv(tmp_path / "pjm.csv")
    facts = look_at_table(tmp_path / "pjm.csv", name="pjm", fleets_dir=tmp_path)
    assert (facts.n_tenants, facts.problem, facts.fields["tenant_column"]) == (1, "", None)
    source = open_fleet(facts.spec, fleets_dir=tmp_path)
    assert source.manifest()["tenant_id"].to_list() == ["pjm"]
    assert source.step == HOUR


def test_tenants_are_found_in_a_table_of_more_rows_than_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are sorted by tenant, so that the first ones are all of one tenant."""
    monkeypatch.setattr("tsfm_pipeline.fleets.tenants._MOST_ROWS", 50)
    table(("a", "b", "c")).rename({"tenant_id": "zone"}).write_parquet(tmp_path / "t.parquet")
    assert find_columns([tmp_path / "t.parquet"]).tenant == ("zone",)
