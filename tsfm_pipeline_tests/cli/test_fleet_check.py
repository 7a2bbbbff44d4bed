"""Test `tsfm-pipeline fleet check` and `list`: every fault of a fleet, tenant by tenant, and the
exit status.
"""

from datetime import timedelta
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import yaml

from tsfm_pipeline_tests.baselines.conftest import shared_file
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.cli.conftest import START, telemetry
from tsfm_pipeline_tests.fleets.prometheus_server import FakePrometheus, daily, serving

pytestmark = pytest.mark.heavy


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk", {})


def checked(desk: Desk, frame: pl.DataFrame, **fields: object) -> tuple[int, str]:
    desk.run("fleet", "init", desk.table(frame=telemetry()), "--force")
    document = yaml.safe_load((desk.specs / "shop.yaml").read_text()) | fields
    (desk.specs / "shop.yaml").write_text(yaml.safe_dump(document))
    desk.table(frame=frame)
    done = desk.run("fleet", "check", "shop")
    assert "Traceback" not in done.output
    return done.exit_code, " ".join(done.output.split())


def test_a_sound_fleet_is_fine(desk: Desk) -> None:
    code, output = checked(desk, telemetry())
    assert code == 0
    assert "4 tenants, 2 metrics, 480 steps of 0:30:00" in output
    assert (
        "tiers and their alphas: premium 0.9, standard 0.75, basic 0.65; tenants get their tier by "
        "shares" in output
    )


def test_own_tiers_are_shown_and_those_of_the_table_are_checked_against_them(desk: Desk) -> None:
    own = {"iron": 0.7, "gold": {"shortage": 19, "slack": 1}}
    frame = telemetry().with_columns(pl.lit("gold").alias("plan"))
    code, output = checked(desk, frame, tiers=own, tier_column="plan")
    assert (
        code,
        "tiers and their alphas: gold 0.95, iron 0.7; tenants get their tier by column 'plan'"
        in output,
    ) == (0, True)
    code, output = checked(
        desk, frame.with_columns(pl.lit("basic").alias("plan")), tiers=own, tier_column="plan"
    )
    assert code == 2
    assert "unknown tiers" in output
    assert "allowed: gold, iron" in output


def test_what_costs_requests_is_told_by_tenant_with_exit_status_one(desk: Desk) -> None:
    frame = telemetry()
    at = pl.int_range(pl.len()).over("tenant_id")
    gap = (pl.col("tenant_id") == "host-01") & at.is_between(100, 130)
    repeated = frame.filter(pl.col("tenant_id") == "host-02").head(3)
    zero = pl.when(pl.col("tenant_id") == "host-03").then(0.0).otherwise("mem").alias("mem")
    code, output = checked(desk, pl.concat([frame.filter(~gap), repeated]).with_columns(zero))
    assert code == 1
    assert "host-01 note 1 gaps of more than 6 steps, the longest 15:30:00" in output
    assert "host-02 note 3 rows repeat a time" in output
    assert "host-03 left out nothing but zeros in mem" in output
    assert "usable; some" in output


def test_values_that_look_wrong_are_told_with_their_remedy_and_exit_status_one(desk: Desk) -> None:
    at = pl.int_range(pl.len()).over("tenant_id")
    high = pl.when((pl.col("tenant_id") == "host-02") & (at == 77)).then(6.5e6).otherwise("cpu")
    code, output = checked(desk, telemetry().with_columns(high.alias("cpu")))
    assert code == 1
    assert "host-02 looks wrong cpu is 6500000 at 2024-03-05 14:30, " in output
    assert "`bounds: {cpu: {upper: 20}}`" in output
    assert "usable, but some values look wrong" in output


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("raw-counter", "container_cpu_usage_seconds_total rises and falls only 2 times, first at"),
        ("one-spike", "web-1 looks wrong cpu is 6.507e+06 at 2024-03-21 00:00, 945,852 times its"),
    ],
)
def test_tables_that_people_complained_about_are_told(desk: Desk, case: str, said: str) -> None:
    table = shared_file(f"cases/{case}/t.csv")
    assert desk.run("fleet", "init", table, "--name", "x").exit_code == 0
    done = desk.run("fleet", "check", "x")
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())


def test_every_broken_rule_is_told_at_once_for_every_tenant_with_exit_status_two(
    desk: Desk,
) -> None:
    frame = telemetry().with_columns(pl.col("cpu").cast(pl.String), pl.col("mem").cast(pl.String))
    at = pl.int_range(pl.len()).over("tenant_id")
    cpu = (
        pl.when((pl.col("tenant_id") == "host-01") & (at < 2))
        .then(pl.lit("n/x"))
        .otherwise("cpu")
        .alias("cpu")
    )
    mem = (
        pl.when((pl.col("tenant_id") != "host-00") & (at == 7))
        .then(pl.lit("-3"))
        .otherwise("mem")
        .alias("mem")
    )
    code, output = checked(desk, frame.with_columns(cpu, mem))
    assert code == 2
    assert "host-01 cannot be used 2 values that are not numbers in cpu" in output
    for tenant in ("host-01", "host-02", "host-03"):
        assert f"{tenant} cannot be used 1 values below 0 in mem" in output
    assert "host-00" not in output
    assert "row 481 (tenant 'host-01'" in output, "the message names the first rows"


def test_every_tenant_with_too_little_history_is_told_and_bars_no_other(desk: Desk) -> None:
    short = (pl.col("tenant_id") >= "host-02") & (
        pl.col("timestamp") >= START + timedelta(hours=12)
    )
    code, output = checked(desk, telemetry().filter(~short))
    assert code == 1
    for tenant in ("host-02", "host-03"):
        for role in ("tuning", "test"):
            assert (
                f"{tenant} left out none of its 12 {role} requests can be asked: 0 steps" in output
            )
    assert "host-00" not in output
    code, output = checked(
        desk, telemetry().filter(pl.col("timestamp") < START + timedelta(hours=12))
    )
    assert code == 2
    assert "no tuning request of any tenant can be asked" in output


def test_tenants_without_room_for_their_requests_are_told_before_a_run_finds_out(
    desk: Desk,
) -> None:
    late = (pl.col("tenant_id") != "host-02") | (
        pl.col("timestamp") >= START + timedelta(days=7, hours=16)
    )
    code, output = checked(desk, telemetry().filter(late))
    assert code == 1
    assert "host-02 left out none of its 12 tuning requests can be asked" in output
    assert "host-02 left out not all of its 12 test requests" in output
    assert "host-00" not in output
    code, output = checked(desk, telemetry(), horizon=300)
    assert code == 2
    assert "no test request of any tenant can be asked" in output


def test_a_missing_table_and_an_unknown_fleet_are_unusable(desk: Desk) -> None:
    desk.run("fleet", "init", desk.table())
    (desk.tables / "shop.csv").unlink()
    gone, unknown = desk.run("fleet", "check", "shop"), desk.run("fleet", "check", "nobody")
    assert (gone.exit_code, unknown.exit_code) == (2, 2)
    assert "no table at" in gone.output
    assert "demo, shop, smd" in unknown.output
    assert desk.run("fleet", "check", desk.specs / "shop.yaml").exit_code == 2, (
        "a YAML file will do as well"
    )


def test_a_synthetic_fleet_can_be_checked_too(desk: Desk) -> None:
    desk.specs.mkdir(parents=True)
    (desk.specs / "tiny.yaml").write_text("kind: synthetic\ntitle: Tiny\ntenants: 3\ndays: 5\n")
    assert "3 tenants, 4 metrics" in desk.run("fleet", "check", "tiny").output


def test_the_list_names_fleets_kinds_and_reports(desk: Desk) -> None:
    desk.run("fleet", "init", desk.table())
    (desk.data / "reports" / "shop").mkdir(parents=True)
    (desk.data / "reports" / "shop" / "report.html").write_text("<html>")
    output = " ".join(desk.run("fleet", "list").output.split())
    assert "shop table yes Shop" in output
    (desk.specs / "bad.yaml").write_text("kind: tabel\n")
    bad = desk.run("fleet", "list")
    assert bad.exit_code == 1
    said = " ".join(bad.output.split())
    assert "shop table yes Shop" in said
    assert "bad.yaml: field 'kind': got 'tabel'" in said


def test_a_wrong_fleet_file_concerns_no_other_fleet(desk: Desk) -> None:
    desk.run("fleet", "init", desk.table())
    (desk.specs / "zz-other.yaml").write_text("kind: table\ntitle: [oops\n")
    good, wrong = desk.run("fleet", "check", "shop"), desk.run("fleet", "check", "zz-other")
    assert good.exit_code == 0, good.output
    assert "zz-other" not in good.output
    assert wrong.exit_code == 2
    assert "zz-other.yaml: not valid YAML" in wrong.output


def test_a_prometheus_fleet_is_fetched_by_its_first_check_and_only_on_demand_afterwards(
    desk: Desk,
) -> None:
    series = {
        query: [({"tenant": f"t{i}"}, partial(daily, f"t{i}")) for i in range(4)]
        for query in ("cpu", "mem")
    }
    with serving(FakePrometheus(series)) as server:
        desk.specs.mkdir(parents=True)
        fields = {
            "kind": "prometheus",
            "title": "Cluster",
            "url": server.url,
            "queries": {"cpu": "cpu", "mem": "mem"},
        }
        grid = {
            "tenant_label": "tenant",
            "step": 60,
            "lookback_days": 9,
            "horizon": 4,
            "origins_per_tenant": 3,
            "max_gap": 2,
        }
        (desk.specs / "cluster.yaml").write_text(yaml.safe_dump(fields | grid))
        before = desk.files()
        first = desk.run("fleet", "check", "cluster")
        assert first.exit_code == 0, first.output
        assert "4 tenants, 2 metrics, 217 steps of 1:00:00" in first.output
        written = desk.files() - before
        raw = desk.data / "records" / "full" / "cluster" / "fetched"
        assert {path for path in written if path.suffix == ".parquet"} == set(
            raw.rglob("*.parquet")
        )
        assert len(written) == 10 + len({".lock", ".guard"})
        server.clock += 5 * 3600
        n_before = len(server.requests)
        desk.run("fleet", "check", "cluster")
        assert len(server.requests) == n_before
        assert "222 steps" in desk.run("fleet", "check", "cluster", "--fetch").output
    silent = desk.run("fleet", "check", "cluster")
    assert silent.exit_code == 0, "what is stored needs no server"


def test_a_prometheus_fleet_without_a_server_says_so(desk: Desk) -> None:
    desk.specs.mkdir(parents=True)
    text = (
        "kind: prometheus\ntitle: C\nurl: http://127.0.0.1:9\nqueries: {cpu: "
        "up}\ntenant_label: job\n"
    )
    text += "headers_from_env: {X-Key: NO_SUCH_KEY}\n"
    (desk.specs / "cluster.yaml").write_text(text)
    done = desk.run("fleet", "check", "cluster")
    assert done.exit_code == 2
    assert "NO_SUCH_KEY is not set" in done.output


def test_the_requests_of_a_run_are_counted_by_what_they_rest_on(desk: Desk) -> None:
    gap = (pl.col("tenant_id") == "host-01") & pl.int_range(pl.len()).over("tenant_id").is_between(
        330, 360
    )
    _, output = checked(desk, telemetry().filter(~gap))
    assert "tuning requests 48 on full history (100%)" not in output
    assert "on a shortened one" in output
    _, output = checked(desk, telemetry())
    assert "test requests 48 on full history (100%)" in output
