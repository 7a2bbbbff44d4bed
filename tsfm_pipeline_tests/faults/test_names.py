"""Test odd names in fleet files and tables: nothing is written outside the data folder, and names
are treated as data only.

What belongs here: names of fleets, tenants, metrics and columns, and paths. What does not: whole
runs over them (`test_odd_fleets`).
"""

import re
from pathlib import Path

import polars as pl
import pytest
import typer
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tsfm_pipeline.cli.forecasting import write_table
from tsfm_pipeline.cli.screen import refuse, say, show
from tsfm_pipeline.fleets import FleetDataError, FleetSpecError, load_spec, open_fleet, raw_folder
from tsfm_pipeline.fleets.columns import find_columns
from tsfm_pipeline.fleets.fields import RESERVED_COLUMNS, fleet_name
from tsfm_pipeline.lake import Lake, LakeError
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.workloads import telemetry_shard
from tsfm_pipeline_tests.fleets.tables import opened, spec, table

WAYS_OUT = (
    *(
        "..",
        ".",
        "",
        "a/b",
        "/etc",
        "../a",
        "a/../../b",
        "a\0b",
        "a\\b",
        "C:",
        "~root",
        "$HOME",
        "a\nb",
        "-rf",
        "x" * 65,
        "é",
        "A",
        ".hidden",
    ),
)
nasty = st.text("./\\~$*?[]{}^'\"`;-<>|&%=+@#()\n\r\t\0 aé\u202e0", max_size=12)
names = st.one_of(nasty, st.text(max_size=70), st.sampled_from(WAYS_OUT))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(names)
@example("demo")
@settings(deadline=None)
def test_a_fleet_name_is_one_folder_in_the_lake_and_in_the_reports_or_it_is_refused(
    name: str,
) -> None:
    data = Path("/data")
    try:
        accepted = fleet_name(name)
    except ValueError:
        return
    for folder in (
        Settings(data_dir=data).lake_dir / accepted,
        Settings(data_dir=data).reports_dir / accepted,
    ):
        assert folder.resolve().parent == folder.parent
        assert folder.name == name
    assert (
        raw_folder(Settings(data_dir=data).records_dir / accepted).parent.parent
        == data / "records" / "full"
    )


@pytest.mark.parametrize("name", WAYS_OUT)
def test_every_way_out_is_refused_as_a_fleet_name(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid fleet name"):
        fleet_name(name)


@given(names)
@settings(deadline=None)
def test_the_lake_itself_opens_nothing_but_its_own_folders(name: str) -> None:
    root = Path("/somewhere/lake")
    try:
        fleet = Lake(root).fleet(name)
    except LakeError:
        return
    assert fleet.path.parent == root


@given(nasty.filter(lambda name: name and "/" not in name and "\0" not in name))
@settings(max_examples=50, deadline=None)
def test_a_fleet_file_of_such_a_name_is_refused_before_anything_is_read(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    path = tmp_path_factory.mktemp("specs") / f"{name}.yaml"
    assume(not re.fullmatch("[a0][a0-]*", path.stem))
    path.write_text("kind: synthetic\ntitle: T\ntenants: 2\ndays: 3\n")
    with pytest.raises(FleetSpecError, match=r"field 'name'|is not a valid fleet name"):
        load_spec(path)


def test_lines_of_yaml_that_name_each_other_do_not_fill_the_memory(tmp_path: Path) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)
    ]
    for fields in ("kind: synthetic\ntitle: *a11\ntenants: 2\ndays: 3", "kind: *a11\ntitle: T"):
        (tmp_path / "bomb.yaml").write_text("\n".join([*bomb, fields]))
        with pytest.raises(FleetSpecError) as error:
            load_spec(tmp_path / "bomb.yaml")
        assert len(str(error.value)) < 20_000


def test_brackets_without_end_are_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("title: " + "[" * 5_000)
    with pytest.raises(FleetSpecError, match=r"deep\.yaml: not valid YAML"):
        load_spec(tmp_path / "deep.yaml")


identifiers = st.lists(nasty.filter(bool), min_size=2, max_size=2, unique=True)


@pytest.mark.heavy
@given(tenants=identifiers, metrics=identifiers, columns=identifiers)
@example(
    tenants=["../../out", "/tmp/out"],
    metrics=["../cpu", "mem'; DROP TABLE tenant_telemetry; --"],
    columns=["who/../", 'when"'],
)
@settings(max_examples=15, deadline=None)
def test_tenants_metrics_and_columns_of_any_name_stay_inside_and_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory,
    tenants: list[str],
    metrics: list[str],
    columns: list[str],
) -> None:
    assume(not {*metrics} & {*columns, *RESERVED_COLUMNS, "*"} and "*" not in columns)
    assume(not any(name.startswith("^") and name.endswith("$") for name in (*metrics, *columns)))
    folder = tmp_path_factory.mktemp("names")
    renamed = dict(zip(("tenant_id", "timestamp", "cpu", "mem"), (*columns, *metrics), strict=True))
    frame = (
        table()
        .with_columns(pl.col("tenant_id").replace_strict(["a", "b"], tenants))
        .rename(renamed)
    )
    source = opened(
        folder, frame, tenant_column=columns[0], timestamp_column=columns[1], metrics=metrics
    )
    before = contents(folder)
    lake = Lake(folder / "data" / "lake").fleet("mine", {"tenant_telemetry": "v1"})
    lake.map_shards(
        "tenant_telemetry", lambda shard: telemetry_shard(source, shard), source.shards(1)
    )
    written = {Path(path) for path in contents(folder).keys() - before.keys()}
    written.remove(lake.path / ".guard")
    assert {path.parent for path in written} == {lake.path / "tenant_telemetry"}
    back = lake.read("tenant_telemetry", columns=["tenant_id", *metrics])
    assert back.columns == ["tenant_id", *metrics]
    assert set(back["tenant_id"]) == set(tenants)
    counted = lake.query(
        "SELECT count(*), count(tenant_id) FROM tenant_telemetry", "tenant_telemetry"
    )
    assert counted.row(0) == (back.height, back.height)


@pytest.mark.parametrize("name", ["*", "^.*$", "^cpu$"])
def test_a_column_whose_name_is_a_pattern_is_refused_by_name(tmp_path: Path, name: str) -> None:
    frame = table().rename({"cpu": name})
    with pytest.raises(FleetDataError, match="reads as a pattern; allowed: any name but"):
        opened(tmp_path, frame)
    with pytest.raises(FleetDataError, match="reads as a pattern"):
        find_columns([tmp_path / "t.parquet"])


def test_a_path_that_leads_elsewhere_is_read_and_never_written(tmp_path: Path) -> None:
    outside, data = tmp_path / "outside", tmp_path / "data"
    outside.mkdir()
    (data / "external").mkdir(parents=True)
    table().write_parquet(outside / "t.parquet")
    before = contents(outside)
    for path in ("../../outside/*.parquet", str(outside / "t.parquet"), "../../**/t.parquet"):
        source = open_fleet(spec(path), fleets_dir=data / "external")
        assert source.values([0, 1]).shape[0] == 2
    assert contents(outside) == before
    assert contents(data) == {}


def test_a_folder_whose_name_is_a_pattern_holds_tables_like_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "[prod] *"
    folder.mkdir()
    assert opened(folder, table()).n_tenants == 2


def test_the_home_of_nobody_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FleetSpecError, match=r"fleet 'mine', field 'path': '~nobody-of-that-name/t.csv': .*home"
    ):
        open_fleet(spec("~nobody-of-that-name/t.csv"), fleets_dir=tmp_path)


def test_what_is_exported_keeps_names_as_they_are_quoted_where_they_must_be(tmp_path: Path) -> None:
    tenants = ["=1+1", "@SUM(A1)", "-2", 'a"b', "c,d", "e\nf", "<script>alert(1)</script>"]
    frame = pl.DataFrame({"tenant_id": tenants, "decision": [1.0] * len(tenants)})
    for suffix, read in (("csv", pl.read_csv), ("parquet", pl.read_parquet)):
        write_table(frame, tmp_path / f"out.{suffix}")
        assert read(tmp_path / f"out.{suffix}").equals(frame)  # type: ignore[operator]


def test_a_name_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("tenant a\x1b[2J")
    show("fleet", ("tenant",), [("b\x1b]0;title\x07",), ("[red]c[/red]",), ("d\u202e",)])
    with pytest.raises(typer.Exit):
        refuse("no tenant e\x1b[8m")
    seen = "".join(capsys.readouterr())
    assert "\x1b" not in seen
    assert "\u202e" not in seen
    for name in (r"a\x1b[2J", r"b\x1b]0;title\x07", "[red]c[/red]", r"d\u202e", r"e\x1b[8m"):
        assert name in seen
