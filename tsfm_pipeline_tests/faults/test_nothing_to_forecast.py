"""Test unusable telemetry and wrong checkpoints: check and run both refuse them at once with a
clear message.

What belongs here: fleets without a single usable request, and the resource that loads the model.
What does not: fleets of which something remains (`test_odd_fleets`), single rules (`fleets`,
`forecaster`).
"""

import json
import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.cli.requests import request_findings
from tsfm_pipeline.defs.resources import ForecasterResource
from tsfm_pipeline.fleets import FleetDataError, open_fleet
from tsfm_pipeline.fleets.quality import EVERYONE, Checked, check_fleet
from tsfm_pipeline.forecaster.registry import REGISTRY
from tsfm_pipeline.steps.requests import forecast_requests
from tsfm_pipeline.steps.workloads import telemetry_provenance, telemetry_shard, tenant_manifest
from tsfm_pipeline_tests.cli.conftest import add_table_fleet
from tsfm_pipeline_tests.faults import fleets
from tsfm_pipeline_tests.project import Project

NAN = pl.lit(float("nan"))


def added(folder: Path, *frames: pl.DataFrame, **fields: object) -> Fleet:
    project = Project(folder, fleets.FAST)
    add_table_fleet(
        project,
        "mine",
        pl.concat(frames),
        "parquet",
        horizon=6,
        seasons=[fleets.STEPS_PER_DAY],
        **fields,
    )
    return project.fleet("mine")


def checked(fleet: Fleet) -> Checked:
    return check_fleet(
        fleet.spec, fleets_dir=fleet.settings.fleet_tables_dir, further=request_findings
    )


def run_until_requests(fleet: Fleet) -> pl.DataFrame:
    """What a run does before it forecasts anything."""
    source = fleet.source
    provenance = telemetry_provenance(source)
    fleet.tables.map_shards(
        "tenant_telemetry",
        lambda shard: telemetry_shard(source, shard),
        source.shards(3),
        provenance=provenance,
    )
    fleet.tables.write("tenant_manifest", tenant_manifest(fleet))
    return forecast_requests(fleet)


def two_tenants(**columns: pl.Expr) -> list[pl.DataFrame]:
    return [
        fleets.telemetry(name, fleets.N_DAYS, seed=i).with_columns(**columns)
        for i, name in enumerate(("a", "b"))
    ]


def test_a_fleet_of_nothing_but_nan_names_its_tenants(tmp_path: Path) -> None:
    fleet = added(tmp_path, *two_tenants(**{fleets.CPU: NAN, fleets.MEM: NAN}))
    with pytest.raises(
        FleetDataError,
        match=r"2 tenants without any observed value .*: 'a', 'b'; allowed: tenants with values",
    ):
        open_fleet(fleet.spec, fleets_dir=fleet.settings.fleet_tables_dir)
    assert {(f.severity, f.tenant) for f in checked(fleet).findings} == {
        ("unusable", "a"),
        ("unusable", "b"),
    }


def test_one_tenant_of_nothing_but_nan_is_named(tmp_path: Path) -> None:
    sound, empty = two_tenants()
    fleet = added(tmp_path, sound, empty.with_columns(NAN.alias(fleets.CPU), NAN.alias(fleets.MEM)))
    with pytest.raises(
        FleetDataError,
        match=r"1 tenants without any observed value .*: 'b'; allowed: .* remove the others from the table",
    ):
        open_fleet(fleet.spec, fleets_dir=fleet.settings.fleet_tables_dir)


def test_a_metric_that_no_tenant_has_leaves_no_request_and_check_and_run_say_so(
    tmp_path: Path,
) -> None:
    fleet = added(tmp_path, *two_tenants(**{fleets.MEM: NAN}))
    found = checked(fleet)
    assert found.worst == "unusable"
    assert any(
        f.tenant == EVERYONE and "every tenant lacks a metric" in f.problem for f in found.findings
    )
    with pytest.raises(
        ValueError,
        match=r"none of the \d+ test requests of 2 tenants is valid: history too short: 0 of",
    ):
        run_until_requests(fleet)


def test_too_little_history_of_all_is_said_by_check_and_run(tmp_path: Path) -> None:
    fleet = added(tmp_path, *(fleets.telemetry(name, 0.05) for name in ("a", "b")))
    assert checked(fleet).worst == "unusable"
    with pytest.raises(
        ValueError,
        match=r"none of the \d+ test requests of 2 tenants is valid: no room: 0 of",
    ):
        run_until_requests(fleet)


@pytest.mark.parametrize(
    ("value", "words"), [(float("inf"), "1 infinite values"), (-0.5, "1 values below 0")]
)
def test_one_infinite_or_forbidden_value_is_named_before_anything_is_written(
    tmp_path: Path, value: float, words: str
) -> None:
    sound, odd = two_tenants()
    here = pl.int_range(pl.len()) == 99
    fleet = added(
        tmp_path,
        sound,
        odd.with_columns(pl.when(here).then(value).otherwise(fleets.CPU).alias(fleets.CPU)),
    )
    with pytest.raises(
        FleetDataError, match=rf"'\.\./cpu': {words}: row {len(sound) + 100} \(tenant 'b'"
    ):
        run_until_requests(fleet)
    assert not (tmp_path / "data" / "lake" / "mine" / "tenant_telemetry").exists()


# -- checkpoints


def wrong_digest(folder: Path) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": "0" * 64}))
    return "expected 0000"


def flipped_weight(folder: Path) -> str:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    return "the file was altered or is another version"


def pickled(folder: Path) -> str:
    (folder / "model.safetensors").rename(folder / "model.pt")
    return "opening it runs any code that it contains"


def pickled_under_another_name(folder: Path) -> str:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/outside'\ntR.")
    return "not a safetensors file"


@pytest.mark.parametrize(
    "damage", [wrong_digest, flipped_weight, pickled, pickled_under_another_name]
)
def test_a_checkpoint_that_is_not_what_it_says_fails_the_step_without_a_second_try(
    tmp_path: Path, damage
) -> None:
    bundled = REGISTRY["bundled"].path
    assert bundled is not None
    folder = Path(shutil.copytree(bundled, tmp_path / "checkpoint"))
    words = damage(folder)
    with pytest.raises(dg.Failure, match=words) as failure:
        ForecasterResource(checkpoint=str(folder), device="cpu").load()
    assert failure.value.allow_retries is False
    assert not Path("/tmp/outside").exists()
