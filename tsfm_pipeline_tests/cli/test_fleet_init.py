"""Test that `tsfm-pipeline fleet init` turns a table into a fleet file that reads it, and writes
nothing elsewhere.
"""

from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.fleets import load_spec, open_fleet
from tsfm_pipeline.lake import Lake
from tsfm_pipeline.steps.workloads import telemetry_shard
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.cli.conftest import START, telemetry

pytestmark = pytest.mark.heavy


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk", {})


def long_form(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.unpivot(
        index=["tenant_id", "timestamp"], variable_name="metric", value_name="y"
    ).rename({"tenant_id": "unique_id", "timestamp": "ds"})


def test_a_table_becomes_a_fleet_file_that_reads_it_and_says_why(desk: Desk) -> None:
    done = desk.run("fleet", "init", desk.table())
    assert done.exit_code == 0, done.output
    for part in (
        "4",
        "0:30:00",
        "48 steps (one day",
        "336 steps (one week",
        "12 steps (6:00:00)",
        "shop.yaml",
    ):
        assert part in done.output
    text = (desk.specs / "shop.yaml").read_text()
    fields = yaml.safe_load(text)
    assert fields["path"] == "${TSFM_FLEETS_DIR}/shop.csv"
    assert (fields["step"], fields["horizon"], fields["max_gap"], fields["seasons"]) == (
        30,
        12,
        6,
        [48, 336],
    )
    assert (fields["tenant_column"], fields["timestamp_column"], fields["metrics"]) == (
        "tenant_id",
        "timestamp",
        ["cpu", "mem"],
    )
    assert fields["lower"] == 0
    assert text.count("#") >= 8, "the file explains its fields"
    source = open_fleet(load_spec(desk.specs / "shop.yaml"), fleets_dir=desk.tables)
    assert (source.n_tenants, source.n_steps) == (4, 480)


@pytest.mark.parametrize(
    "columns", [("host", "ts"), ("instance", "datetime"), ("Customer", "Date"), ("zone", "when")]
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_are_found_whatever_they_are_called(
    desk: Desk, columns: tuple[str, str], suffix: str
) -> None:
    tenant, time = columns
    frame = (
        telemetry()
        .rename({"tenant_id": tenant, "timestamp": time})
        .select("mem", time, "cpu", tenant)
    )
    assert desk.run("fleet", "init", desk.table(f"t.{suffix}", frame)).exit_code == 0
    fields = yaml.safe_load((desk.specs / "t.yaml").read_text())
    assert (fields["tenant_column"], fields["timestamp_column"], fields["metrics"]) == (
        tenant,
        time,
        ["mem", "cpu"],
    )


def test_of_several_labels_the_one_that_tells_rows_apart_is_the_tenant(desk: Desk) -> None:
    region = (
        pl.when(pl.col("tenant_id").is_in(["host-00", "host-01"]))
        .then(pl.lit("eu"))
        .otherwise(pl.lit("us"))
        .alias("account")
    )
    assert (
        desk.run("fleet", "init", desk.table(frame=telemetry().with_columns(region))).exit_code == 0
    )
    assert yaml.safe_load((desk.specs / "shop.yaml").read_text())["tenant_column"] == "tenant_id"


def test_tiers_and_archetypes_are_labels_and_other_words_are_not_tiers(desk: Desk) -> None:
    frame = telemetry().with_columns(
        pl.lit("basic").alias("tier"), pl.lit("web").alias("archetype")
    )
    desk.run("fleet", "init", desk.table(frame=frame))
    fields = yaml.safe_load((desk.specs / "shop.yaml").read_text())
    assert (fields["tier_column"], fields["archetype_column"]) == ("tier", "archetype")
    done = desk.run(
        "fleet",
        "init",
        desk.table(frame=frame.with_columns(pl.lit("gold").alias("tier"))),
        "--force",
    )
    assert "tier_column" not in yaml.safe_load((desk.specs / "shop.yaml").read_text())
    assert "column 'tier' holds gold: set the alpha of each in 'tiers'" in " ".join(
        done.output.replace("│", " ").split()
    )


def test_the_file_says_how_the_tiers_can_be_changed(desk: Desk) -> None:
    """With the line uncommented it is a fleet file still, of the same tiers."""
    desk.run("fleet", "init", desk.table())
    text = (desk.specs / "shop.yaml").read_text()
    (desk.specs / "shop.yaml").write_text(text.replace("# tiers:", "tiers:"))
    assert load_spec(desk.specs / "shop.yaml").tiers == TIERS
    assert "tiers: {" in text


def test_the_file_says_which_columns_may_be_what_is_reserved_today(desk: Desk) -> None:
    frame = telemetry().with_columns(cpu_requested=9.0, mem_limit=20.0, spare_capacity=1.0)
    assert desk.run("fleet", "init", desk.table(frame=frame)).exit_code == 0
    text = (desk.specs / "shop.yaml").read_text()
    (line,) = [line for line in text.splitlines() if "reserved_columns" in line]
    assert line.startswith("# reserved_columns: {cpu: cpu_requested, mem: mem_limit}  #")
    chosen = text.replace(line, line.removeprefix("# ")).replace(
        ", cpu_requested, mem_limit, spare_capacity]", "]"
    )
    (desk.specs / "shop.yaml").write_text(chosen)
    source = open_fleet(load_spec(desk.specs / "shop.yaml"), fleets_dir=desk.tables)
    assert source.metrics == ("cpu", "mem")


@pytest.mark.parametrize(("mark", "otherwise"), [(1, 0), (True, False), ("spring sale", None)])
def test_the_file_says_which_column_may_mark_known_events(
    desk: Desk, mark: object, otherwise: object
) -> None:
    is_sale = pl.int_range(pl.len()) % 50 == 7
    cell = pl.when(is_sale).then(pl.lit(mark)).otherwise(pl.lit(otherwise))
    frame = telemetry().with_columns(cell.alias("campaign"))
    assert desk.run("fleet", "init", desk.table(frame=frame)).exit_code == 0
    text = (desk.specs / "shop.yaml").read_text()
    (line,) = [line for line in text.splitlines() if "event_column" in line]
    assert line.startswith("# event_column: campaign  # if it marks known events: ")
    assert ("delete it from metrics" in line) == (mark == 1 and mark is not True)
    chosen = text.replace(line, line.removeprefix("# ")).replace(", campaign]", "]")
    (desk.specs / "shop.yaml").write_text(chosen)
    source = open_fleet(load_spec(desk.specs / "shop.yaml"), fleets_dir=desk.tables)
    assert source.metrics == ("cpu", "mem")
    assert source.marked_steps().height == frame["campaign"].is_in([mark]).sum()


def test_what_is_reserved_is_found_by_the_words_of_its_name_too(desk: Desk) -> None:
    frame = telemetry().rename({"mem": "system.mem.used"}).with_columns(mem_limit_bytes=9e9)
    assert desk.run("fleet", "init", desk.table(frame=frame)).exit_code == 0
    text = (desk.specs / "shop.yaml").read_text()
    assert "# reserved_columns: {system.mem.used: mem_limit_bytes}" in text


def test_a_table_without_such_a_column_says_nothing_about_events(desk: Desk) -> None:
    assert desk.run("fleet", "init", desk.table()).exit_code == 0
    assert "event_column" not in (desk.specs / "shop.yaml").read_text()


def test_nixtlas_long_format_is_recognised_with_one_metric_and_with_several(desk: Desk) -> None:
    several = long_form(telemetry())
    assert desk.run("fleet", "init", desk.table("several.parquet", several)).exit_code == 0
    one = (
        several.filter(pl.col("metric") == "cpu")
        .drop("metric")
        .with_columns(pl.lit(0.0).alias("holiday"))
    )
    assert desk.run("fleet", "init", desk.table("one.csv", one)).exit_code == 0
    for name, metrics in (("several", ("cpu", "mem")), ("one", ("y",))):
        source = open_fleet(load_spec(desk.specs / f"{name}.yaml"), fleets_dir=desk.tables)
        assert source.metrics == metrics
        wide = open_fleet(load_spec(init_wide(desk)), fleets_dir=desk.tables)
        np.testing.assert_allclose(source.values([2])[0, 0], wide.values([2])[0, 0], rtol=1e-6)


def init_wide(desk: Desk) -> Path:
    desk.run("fleet", "init", desk.table("wide.parquet"), "--force")
    return desk.specs / "wide.yaml"


def test_a_directory_is_one_fleet_whether_its_files_name_tenants_or_are_tenants(desk: Desk) -> None:
    for tenant, rows in telemetry().group_by("tenant_id"):
        desk.table(f"named/{tenant[0]}.csv", rows)
        desk.table(f"files/{tenant[0]}.csv", rows.drop("tenant_id"))
    values = []
    for name in ("named", "files"):
        done = desk.run("fleet", "init", desk.tables / name)
        assert done.exit_code == 0, done.output
        source = open_fleet(load_spec(desk.specs / f"{name}.yaml"), fleets_dir=desk.tables)
        assert source.manifest()["tenant_id"].to_list() == [f"host-{i:02d}" for i in range(4)]
        values.append(source.values([0, 1, 2, 3]))
    np.testing.assert_array_equal(*values)


def test_a_path_outside_the_fleets_folder_is_written_in_full_and_its_brackets_mean_themselves(
    desk: Desk, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "dumps [old]" / "t.csv"
    elsewhere.parent.mkdir()
    telemetry().write_csv(elsewhere)
    assert desk.run("fleet", "init", elsewhere).exit_code == 0
    assert open_fleet(load_spec(desk.specs / "t.yaml"), fleets_dir=desk.tables).n_tenants == 4
    assert desk.run("fleet", "init", elsewhere.parent, "--name", "folder").exit_code == 0
    assert open_fleet(load_spec(desk.specs / "folder.yaml"), fleets_dir=desk.tables).n_tenants == 4


def test_negative_metrics_get_no_lower_bound(desk: Desk) -> None:
    desk.run("fleet", "init", desk.table(frame=telemetry().with_columns(pl.col("cpu") - 100)))
    spec = load_spec(desk.specs / "shop.yaml")
    assert (spec.bounds_of("cpu"), spec.bounds_of("mem")) == ((None, None), (0, None))


def daily_rows(season: int, trend: float, n: int = 200) -> pl.DataFrame:
    step = np.arange(n)
    rng = np.random.default_rng(season)
    return pl.concat(
        pl.DataFrame(
            {
                "store": [f"s{i}"] * n,
                "day": [(START + timedelta(days=int(d))).date() for d in step],
                "sales": 50
                + step * trend
                + 10 * np.sin(2 * np.pi * (step + i) / season)
                + rng.normal(size=n),
            }
        )
        for i in range(3)
    )


@pytest.mark.parametrize("trend", [0.1, 10.0])
@pytest.mark.parametrize("season", [7, 10])
def test_the_season_of_daily_rows_is_detected_under_a_trend(
    desk: Desk, season: int, trend: float
) -> None:
    done = desk.run("fleet", "init", desk.table(frame=daily_rows(season, trend)))
    assert done.exit_code == 0, done.output
    assert yaml.safe_load((desk.specs / "shop.yaml").read_text())["seasons"] == [season]
    assert "correlation 0.9" in done.output


def test_less_than_two_days_still_give_a_season_where_there_is_one(desk: Desk) -> None:
    minutes = np.arange(30 * 60)
    frame = pl.concat(
        pl.DataFrame(
            {
                "tenant_id": [tenant] * len(minutes),
                "timestamp": [START + timedelta(minutes=int(m)) for m in minutes],
                "cpu": 2 + np.sin(2 * np.pi * minutes / 60),
            }
        )
        for tenant in "ab"
    )
    desk.run("fleet", "init", desk.table(frame=frame))
    assert yaml.safe_load((desk.specs / "shop.yaml").read_text())["seasons"] == [60]


def test_tenants_with_clocks_of_their_own_are_aligned_and_it_is_said(desk: Desk) -> None:
    late = (
        pl.when(pl.col("tenant_id") == "host-03")
        .then(pl.duration(minutes=7))
        .otherwise(pl.duration())
    )
    done = desk.run(
        "fleet", "init", desk.table(frame=telemetry().with_columns(pl.col("timestamp") + late))
    )
    assert "480 timestamps lie off the grid" in done.output
    assert load_spec(desk.specs / "shop.yaml").model_dump()["align"] == "up"
    source = open_fleet(load_spec(desk.specs / "shop.yaml"), fleets_dir=desk.tables)
    own = telemetry().filter(pl.col("tenant_id") == "host-03")["cpu"].to_numpy()
    values = source.values([3])[0, 0]
    assert np.isnan(values[0]), "nothing was known of it at the first step"
    last = source.start + (source.n_steps - 1) * source.step
    assert f"{source.start:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}" in done.output
    np.testing.assert_allclose(values[1:], own, rtol=1e-6)


def test_what_was_chosen_is_said_beside_what_lies_off_the_grid(desk: Desk) -> None:
    late = pl.when(pl.col("tenant_id") == "host-01").then(pl.duration(minutes=7))
    frame = telemetry().with_columns(
        pl.col("timestamp") + late.otherwise(pl.duration()),
        pl.lit("2024-03-01T00:00:00Z").alias("created_at"),
    )
    output = " ".join(desk.run("fleet", "init", desk.table(frame=frame)).output.split())
    assert "480 timestamps lie off the grid" in output
    assert "left out are others that hold times: 'created_at'" in output


def test_clocks_that_jitter_by_seconds_still_have_a_step(desk: Desk) -> None:
    jitter = pl.duration(seconds=pl.int_range(pl.len()) * 37 % 11)
    assert (
        desk.run(
            "fleet",
            "init",
            desk.table(frame=telemetry().with_columns(pl.col("timestamp") + jitter)),
        ).exit_code
        == 0
    )
    fields = yaml.safe_load((desk.specs / "shop.yaml").read_text())
    assert (fields["step"], fields["align"]) == (30, "up")
    assert desk.run("fleet", "check", "shop").exit_code == 0


def test_a_fleet_file_is_never_overwritten_by_accident(desk: Desk) -> None:
    desk.run("fleet", "init", desk.table())
    (desk.specs / "shop.yaml").write_text("mine")
    done = desk.run("fleet", "init", desk.table())
    assert done.exit_code == 2
    assert "--force" in done.output
    assert (desk.specs / "shop.yaml").read_text() == "mine"
    assert desk.run("fleet", "init", desk.table(), "--force").exit_code == 0


def test_a_table_with_faulty_rows_is_described_all_the_same_and_the_fault_is_said(
    desk: Desk,
) -> None:
    frame = telemetry().with_columns(
        pl.when(pl.int_range(pl.len()) == 700).then(np.inf).otherwise("cpu").alias("cpu")
    )
    done = desk.run("fleet", "init", desk.table("t.parquet", frame))
    assert done.exit_code == 0
    assert "cannot be used as it is" in done.output
    assert "row 701" in done.output


BAD_TABLES = {
    "no such file": (None, "no such file or directory"),
    "no times": (telemetry().drop("timestamp"), "no column holds times"),
    "numbers for times": (
        telemetry().with_columns(pl.int_range(pl.len()).alias("timestamp")),
        "no epoch of the years 1973 to 2103",
    ),
    "words for times": (
        telemetry().with_columns(pl.lit("yesterday").alias("timestamp")),
        "no column holds times",
    ),
    "no tenants": (telemetry().drop("tenant_id"), "nothing tells tenants apart"),
    "a label for many tenants": (
        telemetry().with_columns(pl.lit("eu").alias("tenant_id")).rename({"tenant_id": "region"}),
        "75% of the rows",
    ),
    "nothing but labels": (telemetry().select("tenant_id", "timestamp"), "no column of numbers"),
    "an empty metric": (
        telemetry().with_columns(pl.lit(None, pl.Float64).alias("cpu")),
        "not a single number in 'cpu'",
    ),
    "no rows": (telemetry().clear(), "no rows"),
    "no step": (
        pl.DataFrame(
            {
                "tenant_id": ["a"] * 40,
                "timestamp": [START + timedelta(minutes=i * i) for i in range(40)],
                "cpu": [1.0] * 40,
            }
        ),
        "--step",
    ),
    "steps of a month": (
        pl.DataFrame(
            {
                "tenant_id": ["a"] * 40,
                "timestamp": [START + timedelta(days=30 * i) for i in range(40)],
                "cpu": [1.0] * 40,
            }
        ),
        "steps of a month; allowed: steps of at most a week",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_input_is_refused_with_a_sentence_and_leaves_no_file(desk: Desk, case: str) -> None:
    frame, words = BAD_TABLES[case]
    path = desk.tables / "absent.parquet" if frame is None else desk.table("t.parquet", frame)
    done = desk.run("fleet", "init", path)
    assert done.exit_code == 2, done.output
    assert words in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not desk.specs.exists()


def test_files_that_are_no_tables_are_refused(desk: Desk) -> None:
    (desk.tables / "mixed").mkdir(parents=True)
    cases = {
        "t.parquet": ("not readable", "noise"),
        "t.xlsx": ("allowed: .parquet or .csv", "x"),
        "semi.csv": ("no column holds times", "host;time\na;b\n"),
    }
    for name, (words, content) in cases.items():
        (desk.tables / name).write_text(content)
        done = desk.run("fleet", "init", desk.tables / name)
        assert done.exit_code == 2
        assert words in done.output
    assert "neither .parquet nor .csv" in desk.run("fleet", "init", desk.tables / "mixed").output


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/b", "..", ".", "", "UPPER", "-x", "a.b", "a\nb", "x" * 65]
)
def test_a_name_that_could_lead_elsewhere_is_refused_and_nothing_is_written(
    desk: Desk, name: str
) -> None:
    table = desk.table()
    before = desk.files()
    done = desk.run("fleet", "init", table, f"--name={name}")
    assert done.exit_code == 2
    assert "is not a valid fleet name" in done.output
    assert desk.files() == before
    assert not Path("/tmp/evil.yaml").exists()


def test_columns_and_tenants_that_look_like_paths_stay_inside_the_data_folder(desk: Desk) -> None:
    frame = telemetry().rename({"cpu": "../../evil", "mem": "/tmp/evil"})
    frame = frame.with_columns(pl.concat_str(pl.lit("../../"), "tenant_id").alias("tenant_id"))
    desk.run("fleet", "init", desk.table(frame=frame))
    assert desk.run("fleet", "check", "shop").exit_code == 0
    source = open_fleet(load_spec(desk.specs / "shop.yaml"), fleets_dir=desk.tables)
    before = desk.files()
    lake = Lake(desk.data / "lake").fleet("shop", {"tenant_telemetry": "a fingerprint"})
    lake.map_shards("tenant_telemetry", partial(telemetry_shard, source), source.shards(2))
    written = desk.files() - before
    assert len(written) == 4, "two parts, the record and what guards it"
    assert all(path.is_relative_to(desk.data / "lake" / "shop") for path in written)


def test_what_a_check_would_refuse_is_said_when_the_file_is_written(desk: Desk) -> None:
    """Twenty weeks have no room for a test period after two seasons of seven weeks."""
    weeks = [START + timedelta(weeks=i) for i in range(20)]
    noise = np.random.default_rng(0).normal(size=20)
    frame = pl.concat(
        pl.DataFrame({"tenant_id": [tenant] * 20, "timestamp": weeks, "cpu": noise})
        for tenant in "ab"
    )
    done = desk.run("fleet", "init", desk.table(frame=frame))
    assert done.exit_code == 0, done.output
    refused = desk.run("fleet", "check", "shop").exit_code == 2
    assert ("It cannot be used as it is" in done.output) == refused
    fine = desk.run("fleet", "init", desk.table("fine.csv"))
    assert "cannot be used" not in fine.output


def test_a_column_of_times_and_a_layout_can_be_chosen(desk: Desk) -> None:
    day, clock = (pl.col("timestamp").dt.strftime(form) for form in ("%Y-%m-%d", "%H:%M"))
    frame = telemetry().with_columns(day.alias("day"), clock.alias("clock"))
    path = desk.table(frame=frame.with_columns(pl.col("timestamp").max().alias("created_at")))
    done = desk.run("fleet", "init", path)
    for words in ("the times are in column 'timestamp'", "'created_at'", "--timestamp chooses"):
        assert words in done.output
    desk.run("fleet", "init", path, "--timestamp", "day,clock", "--force")
    fields = yaml.safe_load((desk.specs / "shop.yaml").read_text())
    assert fields["timestamp_column"] == ["day", "clock"]
    wide = frame.pivot(on="tenant_id", index="timestamp", values="cpu")
    done = desk.run("fleet", "init", desk.table("wide.csv", wide))
    assert "each column beside the times is one tenant" in done.output
    assert desk.run("fleet", "check", "wide").exit_code == 0
    assert yaml.safe_load((desk.specs / "wide.yaml").read_text())["layout"] == "series"
    assert desk.run("fleet", "init", desk.tables / "wide.csv", "--layout=wide").exit_code == 2
