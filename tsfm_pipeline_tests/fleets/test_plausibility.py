"""Test what is said about fleets whose values look wrong, and that sound fleets are left alone."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.fleets import SyntheticFleet, open_fleet
from tsfm_pipeline.fleets.kinds import TableFleet
from tsfm_pipeline.fleets.plausibility import Doubt, Plausibility
from tsfm_pipeline.fleets.quality import EVERYONE, Finding, check_fleet
from tsfm_pipeline.fleets.source import FleetSource
from tsfm_pipeline.fleets.spec import load_spec, load_specs
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.baselines.conftest import shared_file
from tsfm_pipeline_tests.cli.conftest import START, STEP, telemetry
from tsfm_pipeline_tests.fleets.tables import spec

FLEETS = PROJECT_ROOT / "data" / "fleets"
AT = pl.int_range(pl.len()).over("tenant_id")


def doubts(source: FleetSource, n_tenants: int | None = None) -> list[Doubt]:
    """What the rules say about the first tenants."""
    judged = Plausibility(source)
    for numbers in source.shards(16):
        for number in numbers[: n_tenants and max(0, n_tenants - numbers[0])]:
            judged.look(f"tenant {number}", source.values([number])[0])
    return list(judged.doubts())


def findings(folder: Path, frame: pl.DataFrame, **fields: object) -> list[Finding]:
    """The implausible findings of `fleet check` about a table."""
    frame.write_parquet(folder / "t.parquet")
    found = check_fleet(spec(**fields), fleets_dir=folder).findings
    return [finding for finding in found if finding.severity == "implausible"]


def spoilt(values: pl.Expr, *tenants: str, metric: str = "cpu") -> pl.DataFrame:
    """Telemetry in which the metric of these tenants, or of all, is replaced."""
    concerned = pl.col("tenant_id").is_in(tenants) if tenants else pl.lit(True)
    return telemetry().with_columns(pl.when(concerned).then(values).otherwise(metric).alias(metric))


def named(step: int) -> str:
    return f"{START + step * STEP:%Y-%m-%d %H:%M}"


def test_sound_telemetry_is_left_alone(tmp_path: Path) -> None:
    assert findings(tmp_path, telemetry()) == []


@pytest.mark.heavy
@pytest.mark.parametrize(
    "fleet",
    [
        name
        for name, fleet in load_specs(FLEETS).items()
        if isinstance(fleet, SyntheticFleet) and name != "synthetic-400"
    ],
)
def test_no_rule_fires_on_a_synthetic_fleet(fleet: str, tmp_path: Path) -> None:
    """synthetic-400 holds tenants of `synthetic`."""
    assert doubts(open_fleet(load_spec(FLEETS / f"{fleet}.yaml"), fleets_dir=tmp_path), 64) == []


@pytest.mark.heavy
@pytest.mark.parametrize("fleet", ["smd", "asd"])
def test_no_rule_fires_on_a_real_fleet(fleet: str) -> None:
    folder = shared_file(f"fleets/{fleet}.parquet").parent
    assert doubts(open_fleet(load_spec(FLEETS / f"{fleet}.yaml"), fleets_dir=folder)) == []


@pytest.mark.heavy
def test_no_rule_fires_on_cloud_metrics(tmp_path: Path) -> None:
    path = shared_file("fleets/nab_aws_raw.parquet")
    nab = TableFleet.model_validate(
        {
            **{"name": "nab", "title": "NAB", "kind": "table", "path": str(path), "source": "NAB"},
            **{"tenant_column": "series_id", "align": "up", "step": 5},
        }
    )
    assert doubts(open_fleet(nab, fleets_dir=tmp_path)) == []


def test_a_counter_of_one_tenant_is_named_with_its_first_fall_and_its_rate(tmp_path: Path) -> None:
    total = (
        pl.when(AT < 300)
        .then(AT * 900.0 + pl.col("cpu"))
        .otherwise((AT - 300) * 900.0 + pl.col("cpu"))
    )
    (found,) = findings(tmp_path, spoilt(total, "host-01"))
    assert found.tenant == "host-01"
    assert found.problem == f"cpu rises and falls once at {named(300)}: a cumulative counter?"
    assert "`df['cpu'] = df.groupby(['tenant_id'])['cpu'].diff().clip(lower=0) / 1800`" in (
        found.remedy
    )


def test_what_all_tenants_have_is_said_once(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, spoilt(AT * 900.0 + pl.col("cpu")))
    assert found.tenant == EVERYONE
    assert found.problem == (
        "cpu rises and never falls: a cumulative counter? (host-00; all others alike)"
    )


def test_one_value_far_too_high_is_named_with_its_time_and_a_bound(tmp_path: Path) -> None:
    high = pl.when(AT == 77).then(6.5e6).otherwise("cpu")
    (found,) = findings(tmp_path, spoilt(high, "host-02"))
    assert found.tenant == "host-02"
    assert f"cpu is 6500000 at {named(77)}, " in found.problem
    assert "times its 99th percentile" in found.problem
    assert "`bounds: {cpu: {upper: 20}}` refuses such rows" in found.remedy
    bounded = check_fleet(spec(bounds={"cpu": {"upper": 20}}), fleets_dir=tmp_path)
    assert "1 values above 20: row 1038 (tenant 'host-02'" in bounded.reasons[0]


def test_a_value_that_other_tenants_reach_is_not_too_high(tmp_path: Path) -> None:
    small = telemetry().with_columns(
        pl.when(pl.col("tenant_id") == "host-02")
        .then(pl.col("cpu") / 1e5)
        .otherwise("cpu")
        .alias("cpu")
    )
    burst = pl.when((pl.col("tenant_id") == "host-02") & (AT == 77)).then(5.0).otherwise("cpu")
    assert findings(tmp_path, small.with_columns(burst.alias("cpu"))) == []


def test_a_marker_is_named_with_its_count_and_its_line_of_yaml(tmp_path: Path) -> None:
    marked = pl.when(AT.is_in([5, 80])).then(-999.0).otherwise("mem")
    (found,) = findings(tmp_path, spoilt(marked, "host-03", metric="mem"))
    assert found.tenant == "host-03"
    assert f"mem is -999 2 times, first at {named(5)}, and otherwise at least" in found.problem
    assert found.remedy == "if it stands for a missing value, add `missing: [-999]`"


def test_a_marker_counts_once_it_is_repeated_anywhere_in_the_fleet(tmp_path: Path) -> None:
    marked = pl.when(AT == 5).then(-999.0).otherwise("mem")
    assert findings(tmp_path, spoilt(marked, "host-03", metric="mem")) == []
    both = findings(tmp_path, spoilt(marked, "host-01", "host-03", metric="mem"))
    assert [found.tenant for found in both] == ["host-01", "host-03"]


def test_a_change_of_unit_is_named_with_its_date_for_one_tenant_and_for_all(tmp_path: Path) -> None:
    changed = pl.when(AT >= 240).then(pl.col("mem") * 2**20).otherwise("mem")
    (one,) = findings(tmp_path, spoilt(changed, "host-03", metric="mem"))
    assert one.tenant == "host-03"
    assert one.problem == (
        f"mem is about 1,000,000 or 1,048,576 times larger from {named(240)} on: another unit?"
    )
    (everyone,) = findings(tmp_path, spoilt(changed, metric="mem"))
    assert everyone.tenant == EVERYONE
    assert everyone.problem == f"{one.problem} (host-00; all others alike)"
    assert everyone.remedy == (
        f"multiply the values before {named(240)} by 1,000,000 or 1,048,576, or leave them out"
    )


def test_a_change_in_the_last_hours_is_found_because_all_tenants_share_it(tmp_path: Path) -> None:
    changed = pl.when(AT >= 468).then(pl.col("mem") / 1000).otherwise("mem")
    assert findings(tmp_path, spoilt(changed, "host-03", metric="mem")) == []
    (found,) = findings(tmp_path, spoilt(changed, metric="mem"))
    assert f"mem is about 1,000 or 1,024 times smaller from {named(468)} on" in found.problem


def test_seconds_are_part_of_a_time_that_has_them(tmp_path: Path) -> None:
    frame = spoilt(pl.when(AT == 77).then(6.5e6).otherwise("cpu"), "host-02").with_columns(
        pl.col("timestamp") + timedelta(seconds=30)
    )
    (found,) = findings(tmp_path, frame)
    assert f"at {START + 77 * STEP + timedelta(seconds=30):%Y-%m-%d %H:%M:%S}," in found.problem


def test_gaps_and_silent_metrics_are_passed_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = telemetry()
    holes = frame.with_columns(
        pl.when(pl.Series(rng.random(frame.height) < 0.3)).then(None).otherwise("cpu").alias("cpu"),
        pl.when(pl.col("tenant_id") == "host-00").then(None).otherwise("mem").alias("mem"),
    )
    assert findings(tmp_path, holes) == []
