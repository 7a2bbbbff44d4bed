"""Test that files are read in whatever dialect they are written, and that what stands above the
rows is named for what it is.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.fleets import FleetDataError, open_fleet
from tsfm_pipeline.fleets.columns import find_columns
from tsfm_pipeline.fleets.inference import look_at_table, table_paths
from tsfm_pipeline_tests.fleets.tables import (
    N_HOURS,
    START,
    edited,
    opened,
    opened_csv,
    panel,
    spec,
    table,
)

pytestmark = pytest.mark.heavy

TEXT = table().with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
COMMAS = TEXT.write_csv()


def separated(separator: str) -> str:
    return TEXT.write_csv(separator=separator)


DIALECTS: dict[str, str | bytes] = {
    "semicolons": separated(";"),
    "tabs": separated("\t"),
    "vertical bars": separated("|"),
    "sep=;": "sep=;\n" + separated(";"),
    "sep=, with a byte-order mark": b"\xef\xbb\xbfsep=,\r\n"
    + COMMAS.replace("\n", "\r\n").encode(),
    "a byte-order mark": b"\xef\xbb\xbf" + COMMAS.encode(),
    "quoted sep": '"sep=\t"\n' + separated("\t"),
    "comments": "# exported by a script\n# on Monday, by hand; twice\n" + COMMAS,
    "empty lines above": "\n\n" + COMMAS,
    "CRLF": COMMAS.replace("\n", "\r\n"),
    "every value quoted": TEXT.write_csv(quote_style="always"),
    "a comment, then sep=": "# one\nsep=;\n" + separated(";"),
}


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", DIALECTS)
def test_the_same_rows_are_read_from_every_dialect(tmp_path: Path, name: str) -> None:
    expected = panel(opened(tmp_path, table()))
    path = written(tmp_path, DIALECTS[name])
    assert panel(open_fleet(spec("t.csv"), fleets_dir=tmp_path)) == expected
    found = find_columns([path])
    assert (found.tenant, found.timestamp, found.metrics) == (
        ("tenant_id",),
        "timestamp",
        ("cpu", "mem"),
    )


def test_what_was_skipped_is_said(tmp_path: Path) -> None:
    written(tmp_path, "# exported by a script\n" + separated(";"))
    notes = open_fleet(spec("t.csv"), fleets_dir=tmp_path).notes
    assert notes == (
        "line 1 is a comment and is not read: # exported by a script",
        "values are separated by semicolons",
    )


def test_semicolons_are_found_where_decimals_have_commas(tmp_path: Path) -> None:
    """The cells are still no numbers, and the error is about them and not about the columns."""
    text = TEXT.with_columns(pl.col("mem").cast(pl.String).str.replace(".", ",", literal=True))
    written(tmp_path, text.write_csv(separator=";"))
    with pytest.raises(
        FleetDataError, match=r"column 'mem': 120 values that are not numbers: row 1"
    ):
        open_fleet(spec("t.csv", metrics=["cpu", "mem"]), fleets_dir=tmp_path)


ABOVE: dict[str, tuple[str, tuple[str, ...]]] = {
    "a title": ("CPU usage\n" + COMMAS, ("line 1", "'CPU usage'", "in line 2", "Delete the lines")),
    "a title of two values": ("CPU, by host\n" + COMMAS, ("line 1", "in line 2")),
    "a title and its date": ("CPU usage\n2024-03-01\n\n" + COMMAS, ("line 1", "in line 4")),
    "no header": (
        COMMAS.split("\n", 1)[1],
        ("line 1", "'a, 2024-01-01T00:00:00Z", "no header"[3:]),
    ),
    "no header, an epoch": ("1704067200,a,0.5\n1704070800,a,0.7\n", ("line 1", "reads as a row")),
    "no header, a word for missing": (
        "2024-01-01,a,null\n2024-01-02,a,0.5\n2024-01-03,a,1.5\n",
        ("line 1", "reads as a row"),
    ),
    "the header is a comment": (
        "#tenant_id,timestamp,cpu,mem\n" + COMMAS.split("\n", 1)[1],
        ("line 2", "Line 1 begins with '#'", "delete the '#'"),
    ),
    "UTF-16": ("UTF-16", ("UTF-16", "UTF-8")),
}


@pytest.mark.parametrize("name", ABOVE)
def test_what_stands_above_the_rows_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    content, words = ABOVE[name]
    path = written(tmp_path, COMMAS.encode("utf-16") if content == "UTF-16" else content)
    with pytest.raises(FleetDataError) as error:
        find_columns([path])
    for word in (str(path), "allowed", *words):
        assert word in str(error.value)
    with pytest.raises(FleetDataError):
        open_fleet(spec("t.csv"), fleets_dir=tmp_path)


@pytest.mark.parametrize("header", ["host,time,95", "host,time,1,2", "0,1,2", "id,2024,cpu"])
def test_a_header_of_odd_names_is_a_header(tmp_path: Path, header: str) -> None:
    names = header.split(",")
    row = ",".join(["a", "2024-01-01T00:00:00Z", *["1.5"] * (len(names) - 2)])
    written(tmp_path, f"{header}\n{row}\n")
    fields = {"tenant_column": names[0], "timestamp_column": names[1], "step": 60, "seasons": [2]}
    source = open_fleet(spec("t.csv", **fields), fleets_dir=tmp_path)
    assert (source.metrics, source.n_steps) == (tuple(names[2:]), 1)


def influx(frame: pl.DataFrame, annotated: bool, number: int) -> str:
    """One table of InfluxDB's answer: the fields of one series as rows."""
    rows = frame.select(
        pl.lit("").alias(""),
        pl.lit("").alias("result"),
        pl.lit(number).alias("table"),
        pl.lit("2024-01-01T00:00:00Z").alias("_start"),
        pl.lit("2024-02-01T00:00:00Z").alias("_stop"),
        pl.col("timestamp").alias("_time"),
        pl.col("y").alias("_value"),
        pl.col("metric").alias("_field"),
        *(["rack"] if "rack" in frame.columns else []),
        pl.col("tenant_id").alias("host"),
    )
    n_tags = len(rows.columns) - 8
    annotations = [
        ["#group", "false", "false", "true", "true", "false", "false", *["true"] * (n_tags + 1)],
        ["#datatype", "string", "long", *["dateTime:RFC3339"] * 3, "double", *["string"] * 2],
        ["#default", "_result", *[""] * (n_tags + 6)],
    ]
    above = "".join(",".join(line) + "\r\n" for line in annotations) if annotated else ""
    return above + rows.write_csv(line_terminator="\r\n") + "\r\n"


@pytest.mark.parametrize("annotated", [True, False])
def test_influxdbs_answers_are_read_whatever_their_tables(tmp_path: Path, annotated: bool) -> None:
    expected = panel(opened(tmp_path, table()))
    long = TEXT.unpivot(
        index=["tenant_id", "timestamp"], variable_name="metric", value_name="y"
    ).with_columns(pl.lit("r1").alias("rack"))
    parts = long.partition_by("tenant_id", "metric", maintain_order=True)
    tables = [
        influx(part if i % 2 else part.drop("rack"), annotated, i) for i, part in enumerate(parts)
    ]
    path = written(tmp_path, "".join(tables))
    found = find_columns([path])
    assert (found.tenant, found.timestamp, found.value, found.metric) == (
        ("host",),
        "_time",
        "_value",
        "_field",
    )
    assert any("'_start', '_stop'" in note for note in found.notes)
    source = open_fleet(spec("t.csv", **found.fields()), fleets_dir=tmp_path)
    assert panel(source) == expected
    assert any("InfluxDB's CSV, 4 tables" in note for note in source.notes)


def test_what_an_annotation_says_of_empty_cells_is_heard(tmp_path: Path) -> None:
    text = influx(
        TEXT.select(
            "tenant_id", "timestamp", pl.lit("cpu").alias("metric"), pl.col("cpu").alias("y")
        ),
        annotated=True,
        number=0,
    )
    text = text.replace("#default,_result,,,,,,,", "#default,_result,,,,,,,a").replace(
        ",cpu,a\r", ",cpu,\r"
    )
    path = written(tmp_path, text)
    source = open_fleet(spec("t.csv", **find_columns([path]).fields()), fleets_dir=tmp_path)
    assert source.manifest()["tenant_id"].to_list() == ["a", "b"]


def panels(names: tuple[str, ...] = ("web-0", "web-1", "web-2")) -> pl.DataFrame:
    """One column per series, as Grafana exports a panel."""
    rows = table(names).with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S"))
    return rows.pivot(on="tenant_id", index="timestamp", values="cpu").rename({"timestamp": "Time"})


LABELS = ('{instance="a", job="n"}', '{instance="b", job="n"}')


@pytest.mark.parametrize("names", [("web-0", "web-1", "web-2"), LABELS, ("101", "102")])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_one_column_per_series_reads_as_one_row_per_series(
    tmp_path: Path, names: tuple[str, ...], suffix: str
) -> None:
    expected = panel(opened(tmp_path, table(names), metrics=["cpu"]))
    path = tmp_path / f"wide.{suffix}"
    panels(names).write_csv(path) if suffix == "csv" else panels(names).write_parquet(path)
    found = find_columns([path])
    assert found.fields() == {
        "layout": "series",
        "timestamp_column": "Time",
        "value_column": "value",
    }
    source = open_fleet(spec(path.name, **found.fields()), fleets_dir=tmp_path)
    assert panel(source) == expected
    assert source.metrics == ("value",)
    np.testing.assert_array_equal(source.values([1])[0], source.values([0, 1])[1])


def test_the_title_of_a_panel_is_skipped_and_a_pandas_frame_with_its_index_is_read(
    tmp_path: Path,
) -> None:
    expected = panel(opened(tmp_path, table(("web-0", "web-1", "web-2")), metrics=["cpu"]))
    for content, name in (
        ("CPU by instance\n\n" + panels().write_csv(), "Time"),
        (panels().rename({"Time": ""}).write_csv(), ""),
    ):
        path = written(tmp_path, content)
        found = find_columns([path])
        assert (found.layout, found.timestamp) == ("series", name)
        source = open_fleet(spec("t.csv", **found.fields()), fleets_dir=tmp_path)
        assert panel(source) == expected


def test_a_count_of_rows_is_no_series(tmp_path: Path) -> None:
    frame = panels().with_row_index("Unnamed: 0")
    found = find_columns([written(tmp_path, frame.write_csv())])
    source = open_fleet(spec("t.csv", **found.fields()), fleets_dir=tmp_path)
    assert source.manifest()["tenant_id"].to_list() == ["web-0", "web-1", "web-2"]
    assert any("Unnamed: 0" in note for note in source.notes)


@pytest.mark.parametrize("cell", ["null", "N/A", "-", "3.87 GiB", ""])
def test_a_column_of_numbers_never_names_tenants_whatever_a_cell_says(
    tmp_path: Path, cell: str
) -> None:
    frame = panels(("api", "worker")).with_columns(pl.col("api").cast(pl.String))
    path = written(tmp_path, edited(frame, 9, "api", cell).write_csv())
    assert find_columns([path]).layout == "series"


def test_metrics_of_one_tenant_are_no_series(tmp_path: Path) -> None:
    path = written(tmp_path, panels(("cpu_usage", "mem_usage")).write_csv())
    found = find_columns([path])
    assert (found.layout, found.tenant, found.metrics) == ("wide", (), ("cpu_usage", "mem_usage"))
    assert find_columns([path], layout="series").layout == "series"
    path = written(tmp_path, panels().write_csv())
    assert (find_columns([path]).layout, find_columns([path], layout="wide").layout) == (
        "series",
        "wide",
    )


def test_a_word_in_a_series_is_named_with_its_row_and_tenant(tmp_path: Path) -> None:
    frame = edited(panels().with_columns(pl.col("web-1").cast(pl.String)), 9, "web-1", "broken")
    written(tmp_path, frame.write_csv())
    with pytest.raises(
        FleetDataError, match=r"1 values that are not numbers: row 9 \(tenant 'web-1'"
    ):
        open_fleet(spec("t.csv", layout="series", timestamp_column="Time"), fleets_dir=tmp_path)


@pytest.mark.parametrize(
    "field", [{"metrics": ["a"]}, {"tenant_column": "host"}, {"tier_column": "tier"}]
)
def test_fields_that_the_series_layout_does_not_have_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"leave {next(iter(field))} out"):
        spec(layout="series", **field)


TYPES: dict[str, pl.Expr] = {
    "bytes": pl.col("tenant_id").cast(pl.Binary),
    "categories": pl.col("tenant_id").cast(pl.Categorical),
    "decimals": pl.col("cpu").cast(pl.Decimal(12, 4)),
    "integers": pl.col("cpu").cast(pl.Int64),
    "unsigned integers": pl.col("cpu").cast(pl.UInt32),
    "doubles": pl.col("cpu").cast(pl.Float64),
}


@pytest.mark.parametrize("name", TYPES)
def test_parquet_columns_of_other_types_read_the_same(tmp_path: Path, name: str) -> None:
    expected = panel(opened(tmp_path, table()))
    assert panel(opened(tmp_path, table().with_columns(TYPES[name]))) == expected


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    frame = table().with_columns(pl.lit(b"\xff\xfe").alias("tenant_id"))
    with pytest.raises(FleetDataError, match="a column of bytes is not UTF-8: write it as text"):
        opened(tmp_path, frame)
    assert opened(tmp_path, table().with_columns(pl.lit(b"\xff\xfe").alias("blob"))).n_tenants == 2
    (left,) = find_columns([tmp_path / "t.parquet"]).left_out
    assert (left.column, left.reason) == ("blob", "bytes that are not UTF-8")


def test_types_of_numbers_and_instants_may_differ_from_file_to_file(tmp_path: Path) -> None:
    expected = panel(opened(tmp_path, table()))
    first, second = (table().filter(pl.col("tenant_id") == tenant) for tenant in "ab")
    first.with_columns(pl.col("cpu").cast(pl.Int64)).write_parquet(tmp_path / "part-1.parquet")
    second.with_columns(
        pl.col("cpu").cast(pl.Float64),
        pl.col("tenant_id").cast(pl.Binary),
        pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ns"),
    ).write_parquet(tmp_path / "part-2.parquet")
    assert panel(open_fleet(spec("part-*.parquet"), fleets_dir=tmp_path)) == expected


def test_nested_columns_are_left_out_by_name_and_refused_as_a_metric(tmp_path: Path) -> None:
    frame = table().with_columns(
        pl.struct("cpu", "mem").alias("both"), pl.concat_list("cpu", "mem").alias("list")
    )
    left_out = {left.column: left.reason for left in opened(tmp_path, frame).columns_left_out}
    assert left_out.keys() == {"both", "list"}
    assert left_out["list"].startswith("its type is List")
    with pytest.raises(FleetDataError, match="column 'list': List"):
        opened(tmp_path, frame, metrics=["cpu", "list"])
    frame.drop("cpu", "mem").write_parquet(tmp_path / "t.parquet")
    with pytest.raises(FleetDataError, match=r"'both', 'list' each cell holds a list"):
        find_columns([tmp_path / "t.parquet"])


def in_partitions(folder: Path, frame: pl.DataFrame, suffix: str = "parquet") -> Path:
    """The table in folders by week and host, without the column of hosts."""
    for week, tenant in ((w, t) for w in range(2) for t in "ab"):
        below = folder / "hive" / f"week={week}" / f"host={tenant}"
        below.mkdir(parents=True)
        half = pl.int_range(pl.len()) // (N_HOURS // 2) == week
        rows = frame.filter(pl.col("tenant_id") == tenant).filter(half).drop("tenant_id")
        path = below / f"part-0.{suffix}"
        rows.write_csv(path) if suffix == "csv" else rows.write_parquet(path)
    return folder / "hive"


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_partitioned_folders_are_one_table_with_their_keys_as_columns(
    tmp_path: Path, suffix: str
) -> None:
    expected = panel(opened(tmp_path, table()))
    folder = in_partitions(tmp_path, table(), suffix)
    facts = look_at_table(folder, name="mine", fleets_dir=tmp_path)
    assert facts.fields["path"] == f"${{TSFM_FLEETS_DIR}}/hive/**/*.{suffix}"
    assert (facts.fields["tenant_column"], facts.fields["metrics"]) == ("host", ("cpu", "mem"))
    source = open_fleet(spec(f"hive/**/*.{suffix}", tenant_column="host"), fleets_dir=tmp_path)
    assert panel(source) == expected
    assert any("week" in note for note in source.notes)


def test_the_fingerprint_follows_the_keys_that_are_used_and_no_others(tmp_path: Path) -> None:
    folder = in_partitions(tmp_path, table())

    def fingerprint(**fields: object) -> str:
        path = "hive/**/*.parquet"
        return open_fleet(spec(path, **fields), fleets_dir=tmp_path).fingerprint()

    before = fingerprint(tenant_column="host")
    (folder / "week=1").rename(folder / "week=7")
    assert fingerprint(tenant_column="host") == before
    (folder / "week=7" / "host=b").rename(folder / "week=7" / "host=c")
    assert fingerprint(tenant_column="host") != before


def test_folders_without_keys_are_not_searched(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    table().write_parquet(tmp_path / "deep" / "er" / "t.parquet")
    with pytest.raises(FleetDataError, match="give that directory"):
        table_paths(tmp_path / "deep")


def with_comment(text: str) -> str:
    return "# a comment\n" + text


REWRITES: tuple[Callable[[str], str], ...] = (
    str,
    with_comment,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: "\n" + text,
)


@given(
    separator=st.sampled_from(",;\t|"),
    declared=st.booleans(),
    rewrite=st.sampled_from(REWRITES),
    mark=st.booleans(),
    quoted=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_any_mixture_of_dialects_gives_the_same_panel(
    tmp_path_factory: pytest.TempPathFactory,
    separator: str,
    declared: bool,
    rewrite: Callable[[str], str],
    mark: bool,
    quoted: bool,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("mixed")
    noise = np.random.default_rng(seed).normal(size=2 * N_HOURS).astype(np.float32)
    frame = table(start=START).with_columns(pl.Series("cpu", noise))
    expected = panel(opened(folder, frame))
    buffer = io.BytesIO()
    frame.write_csv(buffer, separator=separator, quote_style="always" if quoted else "necessary")
    text = (f"sep={separator}\n" if declared else "") + buffer.getvalue().decode()
    written(folder, b"\xef\xbb\xbf" * mark + rewrite(text).encode())
    assert panel(open_fleet(spec("t.csv"), fleets_dir=folder)) == expected
    assert panel(opened_csv(folder, frame)) == expected
