"""Test `tsfm-pipeline gc`: it shows what nothing needs, deletes it only when it is told to, and
never touches a table, a record or what somebody may still be writing.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import obstore
import polars as pl
import pytest
import yaml

from tsfm_pipeline.catalogue import garbage
from tsfm_pipeline.catalogue.garbage import find_garbage
from tsfm_pipeline.catalogue.records import HISTORY, LEDGER, RecordTable
from tsfm_pipeline.defs import old_runs
from tsfm_pipeline.lake import FleetLake, Lake
from tsfm_pipeline.lock import FleetLockedError
from tsfm_pipeline.object_store import open_bucket
from tsfm_pipeline.settings import Settings
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.conftest import FAST
from tsfm_pipeline_tests.docs.pages import DOCS, blocks
from tsfm_pipeline_tests.s3_server import S3, serving_s3
from tsfm_pipeline_tests.spoken_run import spoken_run

LONG_AGO = time.time() - 400 * 86_400
SHARDS = [[0], [1]]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    return Desk(tmp_path / "desk", FAST)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving_s3() as server:
        yield server


def make(shard: Sequence[int], factor: int = 1) -> pl.DataFrame:
    return pl.DataFrame({"tenant_number": list(shard), "value": [factor * n for n in shard]})


def made(fleet: FleetLake) -> FleetLake:
    """Make a table of two parts, and put one part that its record does not name."""
    with fleet.lock("run"):
        fleet.map_shards("numbers", make, SHARDS)
    fleet.put("numbers", 1, SHARDS[1], make(SHARDS[1], factor=3))
    return fleet


def age(folder: Path) -> None:
    """Let every file of a folder be old."""
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


def unfolded(text: str) -> str:
    """A text without spaces and line breaks, of which tables have any number."""
    return "".join(text.split())


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".guard", ".lock")
    }


def opened(desk: Desk, *path: str) -> FleetLake:
    return Lake(desk.data.joinpath("lake", *path[:-1])).fleet(path[-1], {"numbers": "v1"})


def test_it_shows_the_bytes_and_deletes_nothing_unless_it_is_told_to(desk: Desk) -> None:
    fleet, study = made(opened(desk, "shop")), made(opened(desk, ".market", "spot"))
    unfinished = opened(desk, "other")
    unfinished.put("numbers", 0, SHARDS[0], make(SHARDS[0]))
    age(desk.data)
    fleet.put("numbers", 1, SHARDS[1], make(SHARDS[1], factor=7))
    before = files(desk.data)
    shown = desk.run("gc")
    assert shown.exit_code == 0, shown.output
    for owner in (fleet, study, unfinished):
        where = (owner.path / "numbers").relative_to(desk.data)
        assert unfolded(f"parts that no record names {where} 1 0.00 MiB") in unfolded(shown.output)
    assert "0.00 MiB can be freed; nothing was deleted: --delete deletes it" in shown.output
    assert files(desk.data) == before
    assert desk.run("gc", "--delete").exit_code == 0
    assert len(before - files(desk.data)) == 3
    assert fleet.read("numbers").height == study.read("numbers").height == 2
    assert len(list((fleet.path / "numbers").glob("part-*"))) == 3, "a part of today stays"
    assert "there is nothing to free" in desk.run("gc").output


def test_parts_of_a_fleet_that_is_held_and_of_an_unreadable_record_stay(desk: Desk) -> None:
    fleet, damaged = made(opened(desk, "shop")), made(opened(desk, "other"))
    (damaged.path / "numbers" / "_table.json").write_text("{")
    age(desk.data)
    with fleet.lock("a long run"):
        before = files(desk.data)
        done = desk.run("gc", "--delete")
        assert done.exit_code == 1
        assert unfolded("held by run a long run since") in unfolded(done.output)
        assert files(desk.data) == before


def test_temporary_files_are_freed_when_they_are_old(desk: Desk) -> None:
    old = [
        desk.data / "lake" / "shop" / "numbers" / ".part-00000.host-0123abcd.tmp",
        desk.data / "reports" / "shop" / ".report.html.host-0123abcd.tmp",
        desk.data / "cheap" / "lake" / "shop" / "numbers" / "._table.json.host-0123abcd.tmp",
    ]
    young = desk.data / "reports" / "shop" / ".headline.json.host-0123abcd.tmp"
    kept = desk.data / "records" / "full" / "shop" / LEDGER / ".x.parquet.host-0123abcd.tmp"
    for path in (*old, young, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    for path in (*old, kept):
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert desk.run("gc", "--delete").exit_code == 0
    assert [path.exists() for path in old] == [False] * 3
    assert young.exists()
    assert kept.exists()


def test_reports_are_freed_when_all_of_them_are_older_than_asked(desk: Desk) -> None:
    for fleet, n_days in (("old", 40), ("new", 1)):
        for name, days in (("report.html", n_days), ("headline.json", 40)):
            path = desk.data / "reports" / fleet / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            os.utime(path, (time.time() - days * 86_400,) * 2)
    assert "there is nothing to free" in desk.run("gc").output
    done = desk.run("gc", "--reports", "30", "--delete")
    assert done.exit_code == 0, done.output
    assert files(desk.data / "reports") == {"new/report.html", "new/headline.json"}


def test_records_are_never_touched_nor_those_of_an_earlier_release(desk: Desk) -> None:
    records = desk.data / "records" / "full" / "shop"
    RecordTable(records / LEDGER).append(pl.DataFrame({"row": [1]}))
    RecordTable(records / HISTORY).append(pl.DataFrame({"row": [1]}), "000001-x-y")
    earlier = desk.data / "reports" / "shop" / "experiment_ledger.parquet"
    earlier.parent.mkdir(parents=True)
    pl.DataFrame({"row": [0]}).write_parquet(earlier)
    fetched = desk.data / "lake" / "shop" / "raw" / "prometheus-1" / "2025-01-01.parquet"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(b"samples")
    age(desk.data)
    before = files(desk.data)
    done = desk.run("gc", "--reports", "0", "--delete")
    assert done.exit_code == 1
    assert unfolded("holds records of an earlier release") in unfolded(done.output)
    assert files(desk.data) == before


def reported(desk: Desk, fleet: str, days: float) -> Path:
    """Write a report of a fleet, and let it be this old."""
    path = desk.data / "reports" / fleet / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("report")
    os.utime(path, (time.time() - days * 86_400,) * 2)
    return path


def test_reports_of_today_and_those_of_a_fleet_that_is_held_stay(desk: Desk) -> None:
    young, held = reported(desk, "young", 0.5), reported(desk, "held", 40)
    free = reported(desk, "free", 2)
    with opened(desk, "held").lock("a long run"):
        done = desk.run("gc", "--reports", "0", "--delete")
        assert done.exit_code == 1
        assert unfolded("held by run a long run since") in unfolded(done.output)
    assert (young.exists(), held.exists(), free.exists()) == (True, True, False)
    assert not (desk.data / "lake" / "free").exists(), "no lock is made of a fleet without tables"


def test_a_report_that_is_made_again_before_it_is_deleted_stays(desk: Desk) -> None:
    made(opened(desk, "shop"))
    path = reported(desk, "shop", 40)
    (found,) = find_garbage(Settings(data_dir=desk.data), 30)
    reported(desk, "shop", 0)
    assert found.delete() == 0
    assert path.exists()
    reported(desk, "shop", 40)
    with opened(desk, "shop").lock("a run"), pytest.raises(FleetLockedError):
        found.delete()
    assert found.delete() == len("report")
    assert not path.exists()


def home_with(tmp_path: Path, title: str, **replaced: str) -> Path:
    """A DAGSTER_HOME with the logs of a block of the page; runs lie in SQLite."""
    (shown,) = [b for b in blocks(DOCS / "operating.md", "yaml") if b.title == title]
    stated = yaml.safe_load(shown.text)["compute_logs"]
    stated["config"] |= replaced
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(
        yaml.safe_dump({"telemetry": {"enabled": False}, "compute_logs": stated})
    )
    return home


def two_runs() -> tuple[str, str]:
    """Run a job that prints something twice; return the runs' ids."""
    with dg.DagsterInstance.get() as instance:
        return spoken_run(instance), spoken_run(instance)


@pytest.mark.heavy
def test_what_old_runs_printed_is_counted_and_deleted_where_the_page_puts_it(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "shared-logs"
    monkeypatch.setenv("DAGSTER_COMPUTE_LOGS", str(logs))
    home_with(tmp_path, "dagster.yaml")
    run_id, other = two_runs()
    (printed,) = (logs / run_id).rglob("*.out")
    assert printed.stat().st_size
    with dg.DagsterInstance.get() as instance:
        assert printed in old_runs.files_of(instance, run_id)
        assert not any(other in str(path) for path in old_runs.files_of(instance, run_id))
    assert desk.run("gc", "--runs", "0").exit_code == 0
    assert printed.exists()
    assert desk.run("gc", "--runs", "0", "--delete").exit_code == 0
    assert not files(logs)


@pytest.mark.heavy
def test_what_old_runs_printed_is_counted_and_deleted_in_s3(
    desk: Desk, s3: S3, tmp_path: Path
) -> None:
    url = s3.bucket("logs-bucket")
    home_with(
        tmp_path, "compute_logs in S3", bucket="logs-bucket", local_dir=str(tmp_path / "staged")
    )
    run_id, other = two_runs()
    with dg.DagsterInstance.get() as instance:
        sizes = {one: old_runs.object_sizes(instance, one) for one in (run_id, other)}
        assert len("heard in the log\n") in sizes[run_id]
        old_runs.delete(instance, run_id)
        assert old_runs.object_sizes(instance, run_id) == []
        assert old_runs.object_sizes(instance, other) == sizes[other]
    assert desk.run("gc", "--runs", "0", "--delete").exit_code == 0
    assert not list(obstore.list(open_bucket(url, 5.0)))
    assert not files(tmp_path / "staged")


@pytest.mark.heavy
def test_old_runs_of_dagster_are_deleted_with_their_files(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.get() as instance:

        @dg.job
        def empty() -> None:
            """Does nothing."""

        done = empty.execute_in_process(instance=instance)
        log = home / "storage" / done.run_id / "compute_logs" / "step.err"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("said")
        assert old_runs.old_runs(instance, days=1) == []
        assert old_runs.old_runs(instance, days=0) == [done.run_id]
        assert log in old_runs.files_of(instance, done.run_id)
    shown = desk.run("gc", "--runs", "0")
    assert "1 runs of Dagster" in shown.output
    assert log.exists()
    assert desk.run("gc", "--runs", "0", "--delete").exit_code == 0
    assert not log.exists()
    with dg.DagsterInstance.get() as instance:
        assert list(instance.get_run_records()) == []


# -- in an object store


@pytest.mark.heavy
def test_parts_in_an_object_store_and_copies_of_them_are_freed(
    desk: Desk, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.bucket("gc-bucket")
    monkeypatch.setenv("TSFM_LAKE_URL", f"{url}/lake")
    fleet = made(Lake(desk.data / "lake", f"{url}/lake/full").fleet("shop", {"numbers": "v1"}))
    assert "there is nothing to free" in desk.run("gc").output, "it is of today"
    monkeypatch.setattr(garbage, "DAY_S", -60.0)
    shown = unfolded(desk.run("gc").output)
    assert unfolded(f"{url}/lake/full/shop/numbers 1 0.00 MiB") in shown
    assert unfolded("copies of parts lake/.cache/shop/numbers 1 0.00 MiB") in shown
    assert len(fleet.store.entries("numbers")) == 4
    assert desk.run("gc", "--delete").exit_code == 0
    assert len(fleet.store.entries("numbers")) == 3
    assert len(files(desk.data / "lake" / ".cache")) == 2
    assert fleet.read("numbers").height == 2
    monkeypatch.setenv("TSFM_CACHE_DIR", str(desk.root / "own"))
    assert fleet.read("numbers").height == 2
    shown = unfolded(desk.run("gc").output)
    assert unfolded("copies of parts lake/.cache/shop/numbers 2 0.00 MiB") in shown, "left over"
