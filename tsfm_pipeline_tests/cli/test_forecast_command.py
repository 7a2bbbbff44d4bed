"""Test `tsfm-pipeline forecast`: one table in, decisions and quantiles per tier out, through a
fleet's search or one configuration.
"""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.steps.bundle import bundle_path
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.cli.conftest import START, STEP, telemetry
from tsfm_pipeline_tests.conftest import FAST, MINI
from tsfm_pipeline_tests.project import CHECKPOINT, Project

pytestmark = pytest.mark.heavy

QUANTILES = [f"q{level}" for level in range(10, 100, 10)]
END = START + 480 * STEP


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk", {"CHECKPOINT": CHECKPOINT})


def answered(desk: Desk, table: Path, *options: str, name: str = "out.parquet") -> pl.DataFrame:
    out = desk.root / name
    done = desk.run("forecast", table, "--out", out, *options)
    assert done.exit_code == 0, done.output
    return (
        pl.read_parquet(out) if out.suffix == ".parquet" else pl.read_csv(out, try_parse_dates=True)
    )


def test_every_tenant_metric_and_tier_gets_decisions_and_ordered_quantiles_for_the_steps_after_its_last(
    desk: Desk,
) -> None:
    rows = answered(desk, desk.table())
    assert rows.columns == [
        "tenant_id",
        "metric",
        "timestamp",
        "tier",
        "decision",
        *QUANTILES,
        "config",
        "basis",
        "demand_interval",
    ]
    assert rows.height == 4 * 2 * 3 * 12
    assert rows["timestamp"].unique().sort().to_list() == [END + i * STEP for i in range(12)]
    quantiles = rows.select(QUANTILES).to_numpy()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert quantiles.min() >= 0, "no metric of the table is ever negative"
    for tier, alpha in TIERS.items():
        own = rows.filter(pl.col("tier") == tier)
        np.testing.assert_allclose(
            own["decision"], decision_quantile(own.select(QUANTILES).to_numpy(), alpha), rtol=1e-5
        )
    level = (
        telemetry()
        .group_by("tenant_id")
        .agg(pl.col("cpu").mean())
        .sort("tenant_id")["cpu"]
        .to_numpy()
    )
    medians = (
        rows.filter(pl.col("metric") == "cpu")
        .group_by("tenant_id")
        .agg(pl.col("q50").mean())
        .sort("tenant_id")["q50"]
        .to_numpy()
    )
    np.testing.assert_allclose(medians, level, rtol=0.8)


def test_nixtlas_names_come_out_where_they_came_in(desk: Desk) -> None:
    names = {"tenant_id": "unique_id", "timestamp": "ds", "cpu": "y"}
    rows = answered(desk, desk.table(frame=telemetry().drop("mem").rename(names)), name="out.csv")
    assert rows.columns[:4] == ["unique_id", "metric", "ds", "tier"]
    assert set(rows["metric"]) == {"y"}
    wide = answered(desk, desk.table("wide.csv", telemetry().drop("mem")))
    np.testing.assert_allclose(rows["decision"], wide["decision"], rtol=1e-5)


def test_csv_and_parquet_hold_the_same_and_csv_times_say_utc(desk: Desk) -> None:
    table = desk.table()
    parquet, csv = answered(desk, table), answered(desk, table, name="out.csv")
    assert csv["timestamp"].to_list() == parquet["timestamp"].to_list()
    np.testing.assert_allclose(csv["decision"], parquet["decision"], rtol=1e-5)
    assert "2024-03-14T00:00:00Z" in (desk.root / "out.csv").read_text()


def test_each_tenant_is_forecast_from_its_own_last_step(desk: Desk) -> None:
    frame = telemetry().filter(
        (pl.col("tenant_id") != "host-01") | (pl.col("timestamp") < END - timedelta(days=2))
    )
    rows = answered(desk, desk.table(frame=frame))
    first = dict(rows.group_by("tenant_id").agg(pl.col("timestamp").min()).iter_rows())
    assert first == {f"host-{i:02d}": END - timedelta(days=2 if i == 1 else 0) for i in range(4)}


def test_the_future_of_other_tenants_changes_nothing(desk: Desk) -> None:
    alone = answered(
        desk, desk.table("one.csv", telemetry().filter(pl.col("tenant_id") == "host-02"))
    )
    together = answered(desk, desk.table()).filter(pl.col("tenant_id") == "host-02")
    np.testing.assert_allclose(alone["decision"], together["decision"], rtol=1e-5)


def test_a_configuration_a_tier_and_a_horizon_can_be_chosen(desk: Desk) -> None:
    rows = answered(desk, desk.table(), "--config", "ctx128", "--tier", "premium", "--horizon", "3")
    assert (set(rows["config"]), set(rows["tier"]), rows.height) == (
        {"ctx128"},
        {"premium"},
        4 * 2 * 3,
    )


def test_options_say_how_a_table_is_read_that_is_not_plain(desk: Desk) -> None:
    plain = answered(desk, desk.table(), "--config", "ctx128", "--tier", "premium")
    odd = telemetry().with_columns(
        pl.col("cpu", "mem").round(6).cast(pl.String).str.replace(".", ",", literal=True)
    )
    options = ("--config", "ctx128", "--tier", "premium", "--tenant", "tenant_id")
    table = desk.root / "odd.csv"
    odd.write_csv(table, separator=";")
    rows = answered(desk, table, *options, "--decimal", "comma")
    assert rows["metric"].unique().sort().to_list() == ["cpu", "mem"]
    np.testing.assert_allclose(rows["decision"], plain["decision"], rtol=1e-3)
    wrong = desk.run("forecast", table, "--out", desk.root / "o.csv", "--decimal", "dot")
    assert wrong.exit_code == 2
    assert "--decimal: got 'dot'" in wrong.output


def test_the_longest_context_that_history_fills_is_taken_for_each_tenant(desk: Desk) -> None:
    short = telemetry().filter(
        (pl.col("tenant_id") != "host-03") | (pl.col("timestamp") >= END - 70 * STEP)
    )
    rows = answered(desk, desk.table(frame=short))
    assert dict(rows.group_by("tenant_id").agg(pl.col("config").unique().item()).iter_rows()) == {
        "host-00": "ctx256",
        "host-01": "ctx256",
        "host-02": "ctx256",
        "host-03": "ctx64",
    }


def test_a_tenant_with_too_little_history_has_empty_rows_a_note_and_exit_status_one(
    desk: Desk,
) -> None:
    short = telemetry().filter(
        (pl.col("tenant_id") != "host-03") | (pl.col("timestamp") >= END - 20 * STEP)
    )
    done = desk.run("forecast", desk.table(frame=short), "--out", desk.root / "out.parquet")
    assert done.exit_code == 1
    assert "too little history" in done.output
    rows = pl.read_parquet(desk.root / "out.parquet")
    assert rows.filter(pl.col("decision").is_null())["tenant_id"].unique().to_list() == ["host-03"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tier", "gold"), "premium, standard, basic"),
        (("--config", "ctx"), "ctx<steps>"),
        (("--config", "ctx999999"), "16384"),
        (("--horizon", "5000"), "1024"),
        (("--fleet", "nobody"), "nobody"),
    ],
)
def test_what_cannot_be_asked_is_refused(desk: Desk, options: tuple[str, str], words: str) -> None:
    desk.run("fleet", "init", desk.table())
    done = desk.run("forecast", desk.table(), "--out", desk.root / "out.csv", *options)
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output
    assert not (desk.root / "out.csv").exists()


def test_the_output_is_a_csv_or_parquet_file_and_never_the_table_itself(desk: Desk) -> None:
    table = desk.table()
    before = table.read_bytes()
    for out, words in (
        (desk.root / "out.xlsx", ".csv or .parquet"),
        (table, "is the table itself"),
    ):
        done = desk.run("forecast", table, "--out", out)
        assert done.exit_code == 2
        assert words in done.output
    assert table.read_bytes() == before


def test_a_fleet_that_was_never_run_says_what_to_do(desk: Desk) -> None:
    desk.run("fleet", "init", desk.table())
    done = desk.run("forecast", desk.table(), "--out", desk.root / "out.csv", "--fleet", "shop")
    assert done.exit_code == 2
    assert "tsfm-pipeline run shop" in done.output
    assert "without --fleet" in done.output


def history_until(fleet: Fleet, tenant: int, origin: int) -> pl.DataFrame:
    """A tenant's telemetry up to an origin."""
    shard = next(shard for shard in fleet.shards if tenant in shard)
    frame = fleet.tables.read("tenant_telemetry", fleet.arrays.shard_number(shard))
    rows = frame.slice((tenant - shard[0]) * fleet.grid.n_steps, fleet.grid.n_steps)
    return rows.head(origin + 1)


def test_with_a_fleet_the_answer_is_what_the_run_scored(
    mini_project: Project, mini_fleet: Fleet, tmp_path: Path
) -> None:
    requests = mini_fleet.arrays.requests("test")
    tenant, origin, request = (
        int(values[0, 0])
        for values in (requests.tenant_numbers[:, None], requests.origins, requests.ids)
    )
    desk = Desk(
        tmp_path,
        FAST
        | {
            "CHECKPOINT": CHECKPOINT,
            "SPECS_DIR": str(mini_project.specs_dir),
            "DATA_DIR": str(mini_project.data_dir),
        },
    )
    table = tmp_path / "now.parquet"
    history_until(mini_fleet, tenant, origin).write_parquet(table)
    rows = answered(desk, table, "--fleet", MINI)
    begun = answered(desk, table, "--fleet", MINI, "--horizon", "3", name="begun.parquet")
    first = pl.col("timestamp") < mini_fleet.grid.time_of(origin + 4)
    assert begun.equals(rows.filter(first))
    longer = str(mini_fleet.spec.horizon + 1)
    done = desk.run(
        "forecast", table, "--out", tmp_path / "o.csv", "--fleet", MINI, "--horizon", longer
    )
    assert done.exit_code == 2
    assert f"allowed: 1 to {mini_fleet.spec.horizon}" in done.output
    scored = mini_fleet.tables.read("autoresearch_forecasts").filter(
        pl.col("request_id") == request
    )
    scale = mini_fleet.tables.read("request_targets").filter(pl.col("request_id") == request)
    for row in scored.iter_rows(named=True):
        own = rows.filter((pl.col("metric") == row["metric"]) & (pl.col("tier") == row["tier"]))
        unit = scale.filter(pl.col("metric") == row["metric"])["scale"].item()
        np.testing.assert_allclose(
            own["decision"].to_numpy() / unit, np.asarray(row["decision"]) / unit, atol=1e-4
        )
        assert set(own["config"]) == {row["chosen"]}
    assert rows["timestamp"].min() == mini_fleet.grid.time_of(origin + 1)


def test_a_bundle_answers_as_its_fleet_does_where_there_is_neither_lake_nor_fleet(
    mini_project: Project, mini_fleet: Fleet, tmp_path: Path
) -> None:
    numbers = mini_fleet.arrays.requests("test").tenant_numbers[:2].tolist()
    renamed, known = mini_fleet.manifest["tenant_id"].gather(numbers).to_list()
    frame = pl.concat([history_until(mini_fleet, number, 9000 + number) for number in numbers])
    frame.with_columns(pl.col("tenant_id").replace({renamed: "new"})).write_parquet(
        tmp_path / "now.parquet"
    )
    here = FAST | {"CHECKPOINT": CHECKPOINT}
    at_home = Desk(
        tmp_path / "home",
        here | {"SPECS_DIR": str(mini_project.specs_dir), "DATA_DIR": str(mini_project.data_dir)},
    )
    away = Desk(tmp_path / "away", here)
    for desk in (at_home, away):
        desk.root.mkdir(exist_ok=True)
    copy = shutil.copy(bundle_path(mini_fleet), tmp_path / "copied.bundle")
    expected = answered(at_home, tmp_path / "now.parquet", "--fleet", MINI)
    rows = answered(away, tmp_path / "now.parquet", "--bundle", str(copy))
    assert rows.equals(expected)
    assert rows["decision"].is_not_null().all()
    assert set(rows["tenant_id"]) == {"new", known}
    assert not (away.data / "lake").exists()


def test_a_bundle_that_cannot_answer_is_refused(
    desk: Desk, mini_fleet: Fleet, tmp_path: Path
) -> None:
    bundle = bundle_path(mini_fleet)
    cut = tmp_path / "cut.bundle"
    cut.write_bytes(bundle.read_bytes()[:-100])
    for options, words in (
        (("--bundle", cut), "is damaged"),
        (("--bundle", tmp_path / "none.bundle"), "cannot be read"),
        (("--bundle", bundle, "--fleet", MINI), "allowed: one of them"),
        (
            ("--bundle", bundle),
            f"no metric 'cpu_util', 'disk_iops', 'mem_util', 'net_bytes'; fleet '{MINI}' has",
        ),
    ):
        done = desk.run("forecast", desk.table(), "--out", desk.root / "out.csv", *options)
        assert done.exit_code == 2
        assert words in done.output
        assert "Traceback" not in done.output
