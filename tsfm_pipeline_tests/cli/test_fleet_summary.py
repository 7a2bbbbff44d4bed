"""Test the table that `fleet init` and `fleet check` end in: what was read, what was not, why, and the
option or line that changes it; and the options that change it.
"""

from pathlib import Path

import polars as pl
import pytest
import yaml

from tsfm_pipeline.fleets import load_spec, open_fleet
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.cli.conftest import telemetry

pytestmark = pytest.mark.heavy


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk", {})


def init(desk: Desk, frame: pl.DataFrame, *options: str) -> str:
    done = desk.run("fleet", "init", desk.table(frame=frame), "--force", *options)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def fields(desk: Desk) -> dict[str, object]:
    return yaml.safe_load((desk.specs / "shop.yaml").read_text())


def check(desk: Desk) -> tuple[int, str]:
    done = desk.run("fleet", "check", "shop")
    assert "Traceback" not in done.output
    return done.exit_code, " ".join(done.output.split())


def spoilt(column: str, cell: str, every: int = 7) -> pl.Expr:
    here = pl.int_range(pl.len()) % every == 0
    return pl.when(here).then(pl.lit(cell)).otherwise(pl.col(column).cast(pl.String)).alias(column)


def pods() -> pl.DataFrame:
    """Two pods per host; hosts of two clusters have the same names."""
    clusters = [telemetry(2).with_columns(pl.lit(c).alias("cluster")) for c in ("eu", "us")]
    frame = pl.concat([clusters[0], clusters[1].with_columns(pl.col("cpu") * 100)])
    return frame.rename({"tenant_id": "host"})


def test_what_was_chosen_stands_beside_its_reason_and_the_option_that_changes_it(
    desk: Desk,
) -> None:
    output = init(desk, telemetry())
    for part in (
        "to change it",
        "tenants 4 by tenant_id --tenant COLUMN (or A,B), --tenant-per-file, --one-tenant NAME",
        "needed to tell 75% of the rows from others of the same time",
        "times by timestamp, 2024-03-04 00:00 to 2024-03-13 23:30 UTC --timestamp COLUMN",
        "seasons: [48, 336]",
        "max_gap: 6",
    ):
        assert part in output


def test_a_column_that_is_left_out_is_listed_with_a_cell_the_reason_and_the_remedy(
    desk: Desk,
) -> None:
    frame = telemetry().with_columns(spoilt("mem", "915 MiB"), pl.lit("r1").alias("rack"))
    output = init(desk, frame)
    assert "not read 'mem' (like '915 MiB')" in output
    assert "not read 'rack' (like 'r1'): text, not numbers" in output
    assert (
        "# a column that is not read: 'mem' (like '915 MiB'): 1,645 of its 1,920 cells are "
        "numbers, a metric needs 90%; the cell of row 1 is not a number; '915 MiB' has a unit: "
        "set 'units: parse' (--units parse)"
    ) in (desk.specs / "shop.yaml").read_text()
    code, checked = check(desk)
    assert code == 0
    for part in ("'mem' (like '915 MiB')", "'rack' (like 'r1')", "do not list it"):
        assert part in checked


def test_words_for_missing_are_counted_by_init_and_check(desk: Desk) -> None:
    words = "column 'mem': 39 cells are read as missing: 'N/A' (39)"
    assert words in init(desk, telemetry().with_columns(spoilt("mem", "N/A", 50)))
    assert words in check(desk)[1]


def test_the_value_of_a_cell_that_is_refused_is_shown_with_what_reads_it(desk: Desk) -> None:
    frame = telemetry().with_columns(spoilt("mem", "1,234.5", 1_000))
    output = init(desk, frame)
    assert "It cannot be used as it is" in output
    assert "row 1 (tenant 'host-00'" in output
    code, checked = check(desk)
    assert code == 2
    assert "host-00 cannot be used 1 values that are not numbers in mem" in checked
    assert "'units: parse' (--units parse)" in checked
    init(desk, frame, "--units", "parse")
    assert fields(desk)["units"] == "parse"
    assert check(desk)[0] == 0


def test_options_set_the_fields_that_read_cells(desk: Desk) -> None:
    commas = telemetry().with_columns(
        pl.col("cpu", "mem").round(3).cast(pl.String).str.replace(".", ",", literal=True)
    )
    frame = commas.with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("off")).otherwise("cpu").alias("cpu"),
        pl.when(pl.int_range(pl.len()) == 4).then(pl.lit("-999")).otherwise("mem").alias("mem"),
    )
    output = init(
        desk, frame, "--decimal", "comma", "--missing", "off", "--missing", "-999", "--force"
    )
    assert (fields(desk)["decimal"], fields(desk)["missing"]) == ("comma", ["off", -999])
    assert "cells are read as missing: '-999' (1)" in output
    source = open_fleet(load_spec(desk.specs / "shop.yaml"), fleets_dir=desk.tables)
    assert source.manifest()["n_missing"].sum() == 2


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--decimal", ",", "'point': 1234.5"), ("--aggregate", "median", "'sum', 'mean'")],
)
def test_other_values_of_these_options_are_refused(
    desk: Desk, option: str, value: str, words: str
) -> None:
    done = desk.run("fleet", "init", desk.table(), option, value)
    assert done.exit_code == 2
    assert f"{option}: got {value!r}; allowed: {words}" in " ".join(done.output.split())
    assert not desk.specs.exists()


def test_two_columns_that_name_the_tenant_are_found_or_given(desk: Desk) -> None:
    output = init(desk, pods())
    assert fields(desk)["tenant_column"] == ["host", "cluster"]
    assert "tenants 4 by host and cluster" in output
    assert check(desk)[0] == 0
    for options in (("--tenant", "cluster,host"), ("--tenant", "cluster", "--tenant", "host")):
        init(desk, pods(), *options)
        assert fields(desk)["tenant_column"] == ["cluster", "host"]
    source = open_fleet(load_spec(desk.specs / "shop.yaml"), fleets_dir=desk.tables)
    assert source.manifest()["tenant_id"].to_list()[0] == "eu/host-00"


def test_contradicting_rows_are_refused_with_the_lines_that_solve_it(desk: Desk) -> None:
    output = init(desk, pods(), "--tenant", "host")
    assert "960 of 1920 rows (50%) have the tenant and time of another row" in output
    assert "tenant_column: [host, cluster], or aggregate: sum (or mean, max, last)" in output
    code, checked = check(desk)
    assert code == 2
    assert "host-00 cannot be used 480 rows have the time of another row" in checked
    assert "to do 2 tenants, such as host-00" in checked
    init(desk, pods(), "--tenant", "host", "--aggregate", "sum")
    assert fields(desk)["aggregate"] == "sum"
    assert check(desk)[0] == 0


def test_files_of_periods_are_one_tenant_unless_told_otherwise(desk: Desk) -> None:
    frame = telemetry(1).drop("tenant_id")
    for week in range(2):
        desk.table(f"load/load-2024-0{week}.csv", frame[240 * week : 240 * (week + 1)])
    folder = desk.tables / "load"
    written = {}
    for options in ((), ("--tenant-per-file",), ("--one-tenant", "mine")):
        done = desk.run("fleet", "init", folder, "--force", *options)
        assert done.exit_code == 0, done.output
        spec = load_spec(desk.specs / "load.yaml")
        manifest = open_fleet(spec, fleets_dir=desk.tables).manifest()
        written[options] = manifest["tenant_id"].to_list()
    assert list(written.values()) == [["load"], ["load-2024-00", "load-2024-01"], ["mine"]]
    both = desk.run("fleet", "init", folder, "--force", "--tenant", "x", "--tenant-per-file")
    assert both.exit_code == 2
    assert "give one of --tenant" in both.output


def test_a_name_with_line_breaks_does_not_break_the_fleet_file(desk: Desk) -> None:
    frame = telemetry().with_columns(pl.lit("a\nkind: synthetic").alias("ra\nck"))
    init(desk, frame)
    assert load_spec(desk.specs / "shop.yaml").kind == "table"
