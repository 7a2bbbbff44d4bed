"""Test what a fleet file may contain, and the messages for anything else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tsfm_pipeline.evaluation.protocol import PROTOCOL, TIER_SHARES, TIERS, Protocol
from tsfm_pipeline.fleets import (
    FleetSpecError,
    PrometheusFleet,
    SqlFleet,
    SyntheticFleet,
    TableFleet,
    load_spec,
    load_specs,
)
from tsfm_pipeline.fleets.profiles import archetype_counts
from tsfm_pipeline.fleets.spec import fleet_files

SHIPPED = Path(__file__).parents[2] / "data" / "fleets"

SYNTHETIC = "kind: synthetic\ntitle: A fleet\ntenants: 10\ndays: 3\n"
PROMETHEUS = (
    "kind: prometheus\ntitle: A cluster\nurl: https://prom:9090/base/\nqueries: {cpu: "
    "up}\ntenant_label: job\n"
)
SQL = (
    "kind: sql\ntitle: A plant\ndatabase: postgresql://me@db/plant\nquery: SELECT * FROM load WHERE "
    "t >= :since AND t < :until\n"
)
TABLE = "kind: table\ntitle: A table\npath: t.parquet\nsource: the internet\n"


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str, name: str = "mine.yaml") -> str:
    with pytest.raises(FleetSpecError) as raised:
        load_spec(written(folder, text, name))
    return str(raised.value)


def test_shipped_fleets_are_read_in_the_order_of_their_names():
    specs = load_specs(SHIPPED)
    assert list(specs) == sorted(specs)
    assert {"asd", "demo", "smd", "synthetic"} <= set(specs)
    assert all(name == spec.name for name, spec in specs.items())


def test_nightly_runs_include_the_synthetic_fleets_and_no_real_one():
    for spec in load_specs(SHIPPED).values():
        assert spec.nightly == (spec.name in ("demo", "synthetic")), spec.name


def test_demo_has_every_archetype_three_times_and_the_headline_fleet_its_full_size():
    specs = load_specs(SHIPPED)
    demo, synthetic = specs["demo"], specs["synthetic"]
    assert isinstance(demo, SyntheticFleet)
    assert (demo.tenants, demo.days) == (48, 21)
    assert min(archetype_counts(demo.tenants).values()) >= 3
    assert isinstance(synthetic, SyntheticFleet)
    assert (synthetic.tenants, synthetic.days) == (1000, 30)


@pytest.mark.parametrize("name", ["demo", "synthetic"])
def test_the_last_seven_days_of_a_shipped_fleet_hold_a_whole_weekend(name):
    spec = load_specs(SHIPPED)[name]
    assert isinstance(spec, SyntheticFleet)
    last_week = {(spec.start + timedelta(days=spec.days - back)).weekday() for back in range(1, 8)}
    assert {5, 6} <= last_week


def test_defaults_are_those_of_the_protocol(tmp_path):
    spec = load_spec(written(tmp_path, SYNTHETIC))
    assert (spec.name, spec.horizon, spec.origins_per_tenant, spec.nightly) == (
        "mine",
        60,
        12,
        False,
    )
    assert spec.seasons_in_steps(1) == (1440, 10080)
    assert (spec.tiers, spec.tier_shares) == (TIERS, TIER_SHARES)
    assert Protocol(tiers=spec.tiers, tier_shares=spec.tier_shares) == PROTOCOL
    assert spec.bounds_of("cpu_util") == (0.0, None)


def test_a_fleet_has_its_own_tiers_by_alpha_or_by_prices_highest_first(tmp_path):
    own = (
        "tiers: {bronze: 0.6, gold: {shortage: 19, slack: 1}, silver: {shortage: 0.4, slack: "
        "0.1}}\n"
    )
    spec = load_spec(written(tmp_path, SYNTHETIC + own))
    assert list(spec.tiers.items()) == [("gold", 0.95), ("silver", 0.8), ("bronze", 0.6)]
    assert spec.tier_shares == {"gold": 1 / 3, "silver": 1 / 3, "bronze": 1 / 3}
    spec = load_spec(
        written(tmp_path, SYNTHETIC + own + "tier_shares: {gold: 0.25, bronze: 0.75}\n")
    )
    assert list(spec.tier_shares.items()) == [("gold", 0.25), ("silver", 0.0), ("bronze", 0.75)]


def test_prices_say_shares_that_an_alpha_may_not(tmp_path):
    """Alphas of the default tiers that sum to 1 are read as shares of an older file; their prices
    are not.
    """
    prices = "tiers: {premium: {shortage: 6, slack: 4}, basic: {shortage: 4, slack: 6}}\n"
    assert load_spec(written(tmp_path, SYNTHETIC + prices)).tiers == {"premium": 0.6, "basic": 0.4}


def test_default_tiers_with_other_alphas_keep_their_shares(tmp_path):
    spec = load_spec(
        written(tmp_path, SYNTHETIC + "tiers: {basic: 0.6, standard: 0.8, premium: 0.95}\n")
    )
    assert list(spec.tiers) == list(TIERS)
    assert list(spec.tier_shares.items()) == list(TIER_SHARES.items())


def test_seasons_default_to_a_day_and_a_week_in_steps(tmp_path):
    spec = load_spec(written(tmp_path, TABLE))
    assert spec.seasons_in_steps(5) == (288, 2016)
    assert spec.seasons_in_steps(1440) == (7,)


def test_bounds_of_a_metric_override_those_of_the_fleet(tmp_path):
    spec = load_spec(written(tmp_path, SYNTHETIC + "bounds: {cpu_util: {lower: 0, upper: 2}}\n"))
    assert spec.bounds_of("cpu_util") == (0, 2)
    assert spec.bounds_of("net_bytes") == (0, None)


def test_a_start_without_a_time_zone_is_utc(tmp_path):
    spec = load_spec(written(tmp_path, SYNTHETIC + "start: 2024-03-04 06:00:00\n"))
    assert isinstance(spec, SyntheticFleet)
    assert spec.start == datetime(2024, 3, 4, 6, tzinfo=UTC)


def test_variables_of_a_path_are_expanded(tmp_path, monkeypatch):
    text = TABLE.replace("t.parquet", "${TSFM_FLEETS_DIR}/$SITE/*.parquet")
    spec = load_spec(written(tmp_path, text))
    assert isinstance(spec, TableFleet)
    monkeypatch.setenv("SITE", "paris")
    assert spec.expanded_path(tmp_path) == tmp_path / "paris" / "*.parquet"
    monkeypatch.delenv("SITE")
    with pytest.raises(FleetSpecError, match="SITE"):
        spec.expanded_path(tmp_path)


def test_a_relative_path_starts_in_the_fleets_directory(tmp_path):
    spec = load_spec(written(tmp_path, TABLE))
    assert isinstance(spec, TableFleet)
    assert spec.expanded_path(tmp_path) == tmp_path / "t.parquet"


def test_a_relative_fleets_directory_is_counted_once(tmp_path):
    for path in ("t.parquet", "${TSFM_FLEETS_DIR}/t.parquet"):
        spec = load_spec(written(tmp_path, TABLE.replace("t.parquet", path)))
        assert isinstance(spec, TableFleet)
        assert (
            spec.expanded_path(Path("data/external"))
            == Path.cwd() / "data" / "external" / "t.parquet"
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("title: no kind\n", ["'kind'", "got nothing", "synthetic, table"]),
        ("kind: postgres\ntitle: x\n", ["'kind'", "'postgres'", "synthetic, table"]),
        (
            "kind: synthetic\ntitle: A fleet\ndays: 3\n",
            ["'tenants'", "missing", "whole number from 1"],
        ),
        (
            SYNTHETIC + "horizont: 3\n",
            ["'horizont'", "unknown", "did you mean 'horizon'", "allowed:"],
        ),
        (SYNTHETIC + "horizon: 0\n", ["'horizon'", "got 0", "1 to 1024"]),
        (SYNTHETIC + "horizon: an hour\n", ["'horizon'", "'an hour'", "1 to 1024"]),
        (SYNTHETIC + "seasons: [1440, 60]\n", ["'seasons'", "shortest first"]),
        (
            SYNTHETIC + "tiers: {premium: 0.2, standard: 0.5, basic: 0.3}\n",
            ["'tiers'", "rename the field to 'tier_shares'"],
        ),
        (SYNTHETIC + "tiers: {premium: 1}\n", ["'tiers'", "rename the field to 'tier_shares'"]),
        (SYNTHETIC + "tiers: {}\n", ["'tiers'", "at least one"]),
        (
            SYNTHETIC + "tiers: {gold: 0.98}\n",
            ["'tiers'", "alpha of tier gold is 0.98", "0.1 to 0.975"],
        ),
        (
            SYNTHETIC + "tiers: {gold: 0.05}\n",
            ["'tiers'", "alpha of tier gold is 0.05", "0.1 to 0.975"],
        ),
        (SYNTHETIC + "tiers: {gold: high}\n", ["'tiers.gold'", "'high'", "shortage: price"]),
        (
            SYNTHETIC + "tiers: {gold: {shortage: 19}}\n",
            ["'tiers.gold'", "'shortage' and 'slack'", "above 0"],
        ),
        (
            SYNTHETIC + "tiers: {gold: {shortage: 19, slack: 0}}\n",
            ["'tiers.gold'", "'shortage' and 'slack'", "above 0"],
        ),
        (
            SYNTHETIC + "tiers: {gold: {shortage: 19, slack: 1, x: 1}}\n",
            ["'tiers.gold'", "'shortage' and 'slack'"],
        ),
        (
            SYNTHETIC + "tiers: {gold: {shortage: 99, slack: 1}}\n",
            ["'tiers'", "alpha of tier gold is 0.99", "0.1 to 0.975"],
        ),
        (SYNTHETIC + "tiers: {median: 0.5}\n", ["'tiers'", "'median'", "letters, digits"]),
        (SYNTHETIC + "tiers: {All: 0.5}\n", ["'tiers'", "'All'", "letters, digits"]),
        (
            SYNTHETIC + "tiers: {'gold/silver': 0.5}\n",
            ["'tiers'", "'gold/silver'", "letters, digits"],
        ),
        (SYNTHETIC + "tiers: {gold: 0.9, Gold: 0.8}\n", ["'tiers'", "cannot be told apart"]),
        (
            SYNTHETIC + "tiers: {gold: 0.9, gold_eu: 0.8}\n",
            ["'tiers'", "gold and gold_eu cannot be told apart"],
        ),
        (SYNTHETIC + "tiers: {gold: 0.9, silver: 0.9}\n", ["'tiers'", "the same alpha"]),
        (
            SYNTHETIC + "tier_shares: {gold: 1}\n",
            ["'tier_shares'", "gold", "premium, standard, basic"],
        ),
        (
            SYNTHETIC + "tiers: {gold: 0.9}\ntier_shares: {premium: 1}\n",
            ["'tier_shares'", "no tier premium", "allowed: gold"],
        ),
        (SYNTHETIC + "tier_shares: {premium: 0.5}\n", ["'tier_shares'", "sum to 0.5"]),
        (SYNTHETIC + "tier_shares: {premium: 2, basic: -1}\n", ["'tier_shares.premium'", "got 2"]),
        (SYNTHETIC + "lower: 3\nupper: 1\n", ["lower (3)", "upper (1)"]),
        (SYNTHETIC + "lower: .inf\n", ["'lower'", "a number, or null"]),
        (SYNTHETIC + "bounds: {gpu: {upper: 1}}\n", ["'gpu'", "cpu_util"]),
        (
            SYNTHETIC + "bounds: {cpu_util: {uper: 1}}\n",
            ["'bounds.cpu_util.uper'", "did you mean 'upper'"],
        ),
        (SYNTHETIC + "start: 2024-01-01T00:00:30Z\n", ["'start'", "whole minute"]),
        (
            SYNTHETIC + "minimum_per_archetype: 3\n",
            ["10 tenants", "minimum_per_archetype is 3", "46 tenants"],
        ),
        (SYNTHETIC + "name: other\n", ["'name'", "named after its file"]),
        (SYNTHETIC + "path: x.csv\n", ["'path'", "unknown"]),
        ("kind: table\ntitle: A table\npath: t.parquet\n", ["'source'", "missing", "published"]),
        (TABLE.replace("t.parquet", "t.xlsx"), ["'path'", "t.xlsx", ".parquet or .csv"]),
        (TABLE + "step: 7\n", ["'step'", "got 7", "divisor of one day"]),
        (TABLE + "step: 0\n", ["'step'", "got 0", "divisor of one day"]),
        (TABLE + "step: hourly\n", ["'step'", "'hourly'", "'infer'"]),
        (TABLE + "metrics: []\n", ["'metrics'", "at least one"]),
        (TABLE + "metrics: [a, a]\n", ["'metrics'", "each given once"]),
        (TABLE + "metrics: [a, tenant_id]\n", ["'tenant_id'", "more than one role"]),
        (
            SYNTHETIC + "prices: {cpu_util: 0}\ncurrency: EUR\n",
            ["'prices.cpu_util'", "got 0", "greater than 0", "for one hour"],
        ),
        (
            SYNTHETIC + "prices: {cpu_util: dear}\ncurrency: EUR\n",
            ["'prices.cpu_util'", "'dear'", "a number above 0"],
        ),
        (
            SYNTHETIC + "prices: {watts: 1}\ncurrency: EUR\n",
            ["prices name 'watts'", "the metrics are cpu_util"],
        ),
        (
            PROMETHEUS + "prices: {mem: 1}\ncurrency: EUR\n",
            ["prices name 'mem'", "the metrics are cpu"],
        ),
        (
            TABLE + "metrics: [a]\nprices: {b: 1}\ncurrency: EUR\n",
            ["prices name 'b'", "the metrics are a"],
        ),
        (SYNTHETIC + "prices: {cpu_util: 0.03}\n", ["prices but no currency", "give both"]),
        (SYNTHETIC + "currency: EUR\n", ["currency but no prices", "give both"]),
        (
            TABLE + "metrics: [a]\nbounds: {b: {lower: 0}}\n",
            ["bounds name 'b'", "the metrics are a"],
        ),
        (
            TABLE + "tier_column: tier\ntier_shares: {premium: 1}\n",
            ["tier_column", "tier_shares", "not both"],
        ),
        (TABLE + "layout: long\nmetrics: [a]\n", ["metric_column", "leave metrics out"]),
        (TABLE + "metric_column: m\n", ["metric_column", "layout: long"]),
        (TABLE + "layout: long\nmetric_column: y\n", ["'y'", "more than one role"]),
        (TABLE + "layout: tall\n", ["'layout'", "'tall'", "'long'"]),
        (PROMETHEUS.replace("https", "ftp"), ["'url'", "http:// or https://"]),
        (PROMETHEUS.replace("prom:", "me:hunter2@prom:"), ["'url'", "headers_from_env"]),
        (PROMETHEUS.replace("base/", "base?token=hunter2"), ["'url'", "query or fragment"]),
        (PROMETHEUS.replace("cpu: up", ""), ["'queries'", "at least 1"]),
        (
            PROMETHEUS.replace("cpu: up", "../../evil: up"),
            ["'queries'", "'../../evil'", "letters, digits"],
        ),
        (PROMETHEUS.replace("cpu: up", "timestamp: up"), ["'queries'", "'timestamp'"]),
        (PROMETHEUS.replace("cpu: up", "cpu: ' '"), ["'queries'", "query of 'cpu' is empty"]),
        (PROMETHEUS.replace("label: job", "label: a-b"), ["'tenant_label'", "'a-b'"]),
        (PROMETHEUS + "step: 7\n", ["'step'", "whole seconds"]),
        (PROMETHEUS + "step: 0.0001\n", ["'step'", "whole seconds"]),
        (PROMETHEUS + "lookback_days: 0\n", ["'lookback_days'", "1 to 3660"]),
        (
            PROMETHEUS + "headers_from_env: {Authorization: Bearer hunter2}\n",
            ["'headers_from_env'", "NAME_OF_AN_ENVIRONMENT_VARIABLE"],
        ),
        (
            PROMETHEUS + "headers: {Authorization: Bearer hunter2}\n",
            ["'headers'", "did you mean 'headers_from_env'"],
        ),
        (PROMETHEUS + "bounds: {mem: {lower: 0}}\n", ["'mem'", "cpu"]),
        (SQL.replace("me@", "me:hunter2@"), ["'database'", "password_env", "url_from_env"]),
        (SQL.replace("/plant", "/plant?password=hunter2"), ["'database'", "password_env"]),
        (SQL.replace("postgresql", "oracle"), ["'database'", "no postgresql:// or mysql://"]),
        (SQL + "password: hunter2\n", ["'password'", "did you mean 'password_env'"]),
        (SQL + "password_env: hunter2\n", ["'password_env'", "NAME_OF_AN_ENVIRONMENT_VARIABLE"]),
        (SQL + "url_from_env: PLANT_URL\n", ["either database or url_from_env"]),
        (SQL.replace("database: postgresql://me@db/plant\n", ""), ["database or url_from_env"]),
        (
            SQL.replace("postgresql://me@db/plant", "plant.db") + "password_env: PLANT\n",
            ["password_env belongs to the address of a server"],
        ),
        (SQL.replace("SELECT *", "DELETE"), ["'query'", "not one SELECT"]),
        (SQL.replace("SELECT", "SELECT 1; SELECT"), ["'query'", "not one SELECT"]),
        (SQL.replace("t < :until", "t < 'x'::until"), ["'query'", "does not use :until"]),
        (SQL + "tenant_column: null\n", ["'tenant_column'", "in one column"]),
        (SQL + "timestamp_column: [day, clock]\n", ["'timestamp_column'", "in one column"]),
        (SQL + "layout: series\n", ["wide or long"]),
        (SQL + "metrics: [cpu, cpu]\n", ["'metrics'", "each given once"]),
        (SQL + "path: plant.db\n", ["'path'", "unknown"]),
        (SQL + "delay_seconds: 700000\n", ["'delay_seconds'", "up to a week"]),
        ("- kind: table\n", ["mapping"]),
        ("", ["mapping"]),
        ("kind: [unclosed\n", ["not valid YAML"]),
    ],
)
def test_a_wrong_field_is_named_with_its_file_its_value_and_what_is_allowed(
    tmp_path, text, expected
):
    message = complaint(tmp_path, text)
    assert "mine.yaml" in message
    for part in expected:
        assert part in message
    assert "hunter2" not in message, "what may be a secret is not repeated"


def test_a_cluster_is_described_by_its_address_queries_and_label(tmp_path):
    spec = load_spec(
        written(tmp_path, PROMETHEUS + "step: 0.5\nheaders_from_env: {Authorization: PROM_TOKEN}\n")
    )
    assert isinstance(spec, PrometheusFleet)
    assert (spec.url, spec.queries, spec.tenant_label, spec.step) == (
        "https://prom:9090/base",
        {"cpu": "up"},
        "job",
        0.5,
    )
    assert spec.seasons_in_steps(spec.step) == (2880, 20160)
    assert (spec.lookback_days, spec.headers_from_env) == (30, {"Authorization": "PROM_TOKEN"})


def test_a_plant_is_described_by_its_database_and_query(tmp_path):
    spec = load_spec(
        written(tmp_path, SQL.replace(":until", ":until;") + "layout: long\npassword_env: PLANT\n")
    )
    assert isinstance(spec, SqlFleet)
    assert (spec.database, spec.password_env) == ("postgresql://me@db/plant", "PLANT")
    assert spec.query.endswith("t < :until")
    assert (spec.tenant_column, spec.step, spec.lookback_days) == ("unique_id", "infer", 30)


def test_the_long_layout_has_nixtlas_columns_unless_others_are_given(tmp_path):
    spec = load_spec(written(tmp_path, TABLE + "layout: long\ntimestamp_column: at\n"))
    assert isinstance(spec, TableFleet)
    assert (spec.tenant_column, spec.timestamp_column, spec.value_column, spec.metric_column) == (
        "unique_id",
        "at",
        "y",
        None,
    )


def test_every_wrong_field_is_reported_at_once(tmp_path):
    message = complaint(tmp_path, SYNTHETIC + "horizon: 0\nmax_gap: -1\n")
    assert "'horizon'" in message
    assert "'max_gap'" in message


def test_only_the_wrong_field_is_named(tmp_path):
    assert len(complaint(tmp_path, SYNTHETIC + "horizon: 0\n").splitlines()) == 1


def test_events_are_dates_or_times_and_any_other_is_named_by_its_number(tmp_path):
    text = SYNTHETIC + "events: [2024-01-02, {start: 2024-01-02T08:00, end: 2024-01-02T09:00}]\n"
    day, hour = load_spec(written(tmp_path, text)).events
    assert (day.end - day.start, hour.end - hour.start) == (timedelta(days=1), timedelta(hours=1))
    said = complaint(tmp_path, SYNTHETIC + "events: [2024-01-02, noon, {start: 2024-01-03}]\n")
    first, second = said.splitlines()
    assert "field 'events.1': got 'noon': an event is a date like 2024-03-08" in first
    assert "field 'events.2.end': missing" in second


@pytest.mark.parametrize(
    "name",
    [
        "Mine.yaml",
        "my fleet.yaml",
        "-x.yaml",
        "a.b.yaml",
        "..yaml",
        "...yaml",
        "x" * 65 + ".yaml",
        "a\nb.yaml",
    ],
)
def test_a_file_name_that_is_no_fleet_name_is_refused(tmp_path, name):
    assert "a-z, 0-9" in complaint(tmp_path, SYNTHETIC, name)


@pytest.mark.parametrize(
    "line",
    [
        "start: 2024-13-45",
        "nightly: !!bool perhaps",
        "start: !!timestamp soon",
        "start: 0001-01-01T00:00:00+14:00",
        "tiers: {gold: {shortage: 1" + "0" * 400 + ", slack: 1}}",
        "seed: 1" + "0" * 5000,
        "minimum_per_archetype: 1" + "0" * 400,
    ],
)
def test_what_yaml_or_python_cannot_hold_is_refused_with_the_file(tmp_path, line):
    assert "mine.yaml: " in complaint(tmp_path, SYNTHETIC + line + "\n")


def test_a_wrong_file_stops_no_other_fleet_and_is_named(tmp_path):
    written(tmp_path, SYNTHETIC, "good.yaml")
    written(tmp_path, "kind: table\ntitle: [oops\n", "open.yaml")
    written(tmp_path, SYNTHETIC, "misnamed.yml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere.yaml")
    told: list[str] = []
    assert list(load_specs(tmp_path, log=told.append)) == ["good"]
    said = "\n".join(told)
    assert len(told) == 5
    for reason in (
        "open.yaml: not valid YAML",
        "misnamed.yml: the ending must be .yaml",
        "binary.yaml: not readable",
        "folder.yaml: not readable",
        "dangling.yaml: no such file",
    ):
        assert reason in said


def test_a_fleet_is_read_from_its_own_file_only(tmp_path):
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    own.mkdir()
    shipped.mkdir()
    written(shipped, SYNTHETIC, "good.yaml")
    written(shipped, SYNTHETIC, "shadowed.yaml")
    written(own, "kind: tabel\n", "shadowed.yaml")
    written(own, SYNTHETIC, "misnamed.yml")
    files = fleet_files(shipped, own)
    assert files.spec("good").name == "good"
    with pytest.raises(FleetSpecError, match=r"own/shadowed\.yaml: field 'kind': got 'tabel'"):
        files.spec("shadowed")
    with pytest.raises(FleetSpecError, match=r"misnamed\.yml: the ending must be \.yaml"):
        files.spec("misnamed")
    with pytest.raises(ValueError, match=r"no fleet 'nobody' in .*; there are: good, shadowed"):
        files.spec("nobody")


def test_wrong_files_without_any_good_one_are_an_error(tmp_path):
    written(tmp_path, "kind: tabel\n", "a.yaml")
    written(tmp_path, "kind: fleet\n", "b.yaml")
    with pytest.raises(FleetSpecError, match=r"(?s)a\.yaml: field 'kind'.*b\.yaml: field 'kind'"):
        load_specs(tmp_path)


def test_a_directory_must_exist_and_hold_a_fleet_with_the_right_ending(tmp_path):
    with pytest.raises(FleetSpecError, match="no such directory"):
        load_specs(tmp_path / "absent")
    with pytest.raises(FleetSpecError, match="no fleet found"):
        load_specs(tmp_path)
    written(tmp_path, SYNTHETIC, "a.yml")
    with pytest.raises(FleetSpecError, match=r"a\.yml: the ending must be \.yaml"):
        load_specs(tmp_path)
    with pytest.raises(FleetSpecError, match="no such file"):
        load_spec(tmp_path / "absent.yaml")
