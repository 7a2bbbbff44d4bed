"""Test tables in an object store: they are those of a folder, one run commits them, and faults of
the store cost nothing that was finished.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from tsfm_pipeline import commits, lease, object_store
from tsfm_pipeline.cli.doctor.folders import object_store as object_store_finding
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.lake import FleetLake, Lake, open_lake
from tsfm_pipeline.lease import LEASE, take
from tsfm_pipeline.lock import FleetLockedError, FleetLostError
from tsfm_pipeline.object_store import ObjectStore, open_bucket
from tsfm_pipeline.parts import Part
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.store import ABSENT, FolderStore, Store, SwapError
from tsfm_pipeline_tests.s3_server import S3, Fault, serving_s3

pytestmark = pytest.mark.heavy
SHARDS = [[0, 1], [2, 3], [4]]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving_s3() as server:
        yield server


@pytest.fixture
def url(s3: S3, request: pytest.FixtureRequest) -> str:
    """The URL of an empty bucket."""
    s3.faults.clear()
    s3.requests.clear()
    return s3.bucket(f"b{abs(hash(request.node.name)):x}")


@pytest.fixture
def fleet(url: str, tmp_path: Path) -> FleetLake:
    return opened(url, tmp_path / "one")


@pytest.fixture(params=["folder", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The store of a fleet, of each kind."""
    if request.param == "folder":
        return FolderStore(tmp_path / "demo")
    return ObjectStore(request.getfixturevalue("url"), "demo", tmp_path)


def opened(url: str | None, root: Path, version: str = "v1") -> FleetLake:
    """The fleet as another machine sees it: with another folder of copies."""
    return Lake(root, url).fleet("demo", {"numbers": version})


def make(shard: Sequence[int]) -> pl.DataFrame:
    return pl.DataFrame({"tenant_number": list(shard), "value": [n * 10 for n in shard]})


def made(fleet: FleetLake, run_id: str = "run-a", **options: bool) -> FleetLake:
    with fleet.lock(run_id):
        fleet.map_shards("numbers", make, SHARDS, **options)
    return fleet


def without_tags(parts: Sequence[Part]) -> list[Part]:
    """Parts as they are in a folder."""
    return [part._replace(tag="") for part in parts]


def content(fleet: FleetLake) -> list[int]:
    values: list[int] = fleet.read("numbers")["value"].to_list()
    return values


# -- the three operations


def test_an_object_is_put_once_and_swapped_only_if_it_is_the_one_that_was_read(
    store: Store,
) -> None:
    assert store.get("t/x") == (None, ABSENT)
    assert store.put_if_absent("t/x", b"one")
    assert not store.put_if_absent("t/x", b"two")
    content, tag = store.get("t/x")
    assert (content, store.tag("t/x")) == (b"one", tag)
    newer = store.swap("t/x", b"three", tag)
    with pytest.raises(SwapError, match="was written by another process"):
        store.swap("t/x", b"four", tag)
    with pytest.raises(SwapError):
        store.swap("t/x", b"four", ABSENT)
    assert store.get("t/x") == (b"three", newer)
    withdrawn = store.swap("t/x", None, newer)
    assert store.get("t/x") == (None, withdrawn)
    store.swap("t/x", b"five", withdrawn)
    assert [(entry.key, entry.n_bytes) for entry in store.entries("t")] == [("t/x", 4)]
    store.remove(["t/x", "t/y"])
    assert (store.get("t/x").content, store.entries("t")) == (None, [])


def test_of_many_that_swap_at_once_one_wins(store: Store) -> None:
    tag, winners, barrier = store.swap("t/x", b"0", ABSENT), [], threading.Barrier(4)

    def swap(content: bytes) -> None:
        barrier.wait()
        try:
            store.swap("t/x", content, tag)
        except SwapError:
            return
        winners.append(content)

    threads = [threading.Thread(target=swap, args=(b"%d" % number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert winners == [store.get("t/x").content]


# -- tables


def test_a_table_is_that_of_a_folder_to_the_byte_and_read_by_polars_and_duckdb(
    fleet: FleetLake, url: str, tmp_path: Path
) -> None:
    local = opened(None, tmp_path / "local")
    local.map_shards("numbers", make, SHARDS)
    made(fleet)
    elsewhere = opened(url, tmp_path / "two")
    assert without_tags(elsewhere.parts("numbers")) == local.parts("numbers")
    for part in local.parts("numbers"):
        stored = elsewhere.store.get(f"numbers/{part.name}").content
        assert stored == (local.path / "numbers" / part.name).read_bytes()
    assert content(elsewhere) == content(local) == [0, 10, 20, 30, 40]
    sql = "SELECT sum(value) AS total FROM numbers"
    assert elsewhere.query(sql, "numbers").item() == 100
    record = json.loads(json.dumps(elsewhere.record("numbers")))
    assert [record.pop("epoch"), *(bool(part.pop("tag")) for part in record["parts"])] == [1] * 4
    assert record == local.record("numbers")
    assert (elsewhere.state("numbers"), elsewhere.size("numbers") > 0) == ("current", True)
    with pytest.raises(LakeError, match=r"which is not a folder; unset TSFM_LAKE_URL"):
        _ = elsewhere.path


def test_each_part_is_fetched_once_and_a_damaged_copy_is_fetched_again(
    fleet: FleetLake, url: str, tmp_path: Path, s3: S3
) -> None:
    made(fleet)
    s3.requests.clear()
    assert content(fleet) == [0, 10, 20, 30, 40]
    assert not [request for request in s3.requests if request.endswith(".parquet")], (
        "the machine that made them has them"
    )
    elsewhere = opened(url, tmp_path / "two")
    for _ in range(2):
        assert elsewhere.read("numbers", 1)["value"].to_list() == [20, 30]
    fetched = [request for request in s3.requests if request.endswith(".parquet")]
    assert len(fetched) == 1
    copy = elsewhere.store.file(f"numbers/{elsewhere.parts('numbers')[1].name}")
    copy.write_bytes(copy.read_bytes()[::-1])
    assert content(opened(url, tmp_path / "two")) == [0, 10, 20, 30, 40]


def overwritten(fleet: FleetLake, number: int) -> None:
    """Put other bytes of the same number in place of a part."""
    part = fleet.parts("numbers")[number]
    key = f"numbers/{part.name}"
    fleet.store.swap(key, b"x" * part.n_bytes, fleet.store.tag(key))


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_damaged_or_missing_object_is_refused_and_made_again(
    fleet: FleetLake, url: str, tmp_path: Path, damaged: int
) -> None:
    made(fleet)
    gone = (damaged + 1) % 3
    overwritten(fleet, damaged)
    elsewhere = opened(url, tmp_path / "two")
    assert elsewhere.state("numbers") == "damaged"
    with pytest.raises(LakeError, match=r"damaged: s3://.* \(its size or SHA-256 differs\)"):
        elsewhere.read("numbers", damaged)
    fleet.store.remove([f"numbers/{fleet.parts('numbers')[gone].name}"])
    with pytest.raises(LakeError, match=r"damaged: s3://.* \(it is gone\); materialise the asset"):
        elsewhere.read("numbers", gone)
    assert elsewhere.state("numbers") == "damaged"
    made(elsewhere)
    assert elsewhere.state("numbers") == "current"
    assert content(opened(url, tmp_path / "three")) == [0, 10, 20, 30, 40]


def test_an_object_that_was_written_again_with_its_bytes_is_kept(
    fleet: FleetLake, url: str, tmp_path: Path
) -> None:
    """Its new tag is recorded once its bytes were checked. So are those of a table of an earlier
    release, whose record has no tags.
    """
    made(fleet)
    record = fleet.recorded("numbers")
    for part, tag in zip(record["parts"], ("another tag", None, None), strict=True):
        part.pop("tag")
        if tag:
            part["tag"] = tag
    key = "numbers/_table.json"
    fleet.store.swap(key, json.dumps(record).encode(), fleet.store.tag(key))
    elsewhere = opened(url, tmp_path / "two")
    assert elsewhere.state("numbers") == "damaged"
    with elsewhere.lock("run-b"):
        assert elsewhere.map_shards("numbers", make, SHARDS).n_skipped == 3
    assert elsewhere.state("numbers") == "current"
    assert all(part.tag for part in elsewhere.parts("numbers"))


def test_a_damaged_copy_of_the_first_part_does_not_keep_a_table_from_its_commit(
    fleet: FleetLake,
) -> None:
    made(fleet)
    fleet.store.file(f"numbers/{fleet.parts('numbers')[0].name}").write_bytes(b"damaged")
    made(fleet)
    assert content(fleet) == [0, 10, 20, 30, 40]


def test_an_interrupted_table_goes_on_and_a_finished_one_is_kept_without_fetching_it(
    url: str, tmp_path: Path, s3: S3
) -> None:
    one = opened(url, tmp_path / "one")
    with one.lock("run-a"):
        one.put("numbers", 0, SHARDS[0], make(SHARDS[0]))
    assert one.state("numbers") == "interrupted"
    asked: list[Sequence[int]] = []

    def counted(shard: Sequence[int]) -> pl.DataFrame:
        asked.append(shard)
        return make(shard)

    two = opened(url, tmp_path / "two")
    with two.lock("run-b"):
        assert two.map_shards("numbers", counted, SHARDS).n_skipped == 1
    assert asked == SHARDS[1:]
    s3.requests.clear()
    three = opened(url, tmp_path / "three")
    with three.lock("run-c"):
        assert three.map_shards("numbers", counted, SHARDS).n_skipped == 3
    fetched = [
        request for request in s3.requests if request.startswith("GET") and "part-" in request
    ]
    assert len(fetched) == 1, "the schema is read from the first part"


def test_a_table_of_other_settings_is_withdrawn_until_the_new_one_is_whole(
    fleet: FleetLake, url: str, tmp_path: Path
) -> None:
    made(fleet)
    newer = opened(url, tmp_path / "two", "v2")

    def interrupted(shard: Sequence[int]) -> pl.DataFrame:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), newer.lock("run-b"):
        newer.map_shards("numbers", interrupted, SHARDS)
    for reader in (fleet, newer):
        with pytest.raises(LakeError, match="materialise the asset 'numbers' first"):
            reader.read("numbers")
    made(newer)
    assert content(newer) == [0, 10, 20, 30, 40]


def test_parts_that_no_record_names_are_swept_after_a_day(
    fleet: FleetLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(fleet)
    fleet.put("numbers", 1, SHARDS[1], make([7, 8]))
    made(fleet)
    assert len(fleet.store.entries("numbers")) == 5
    monkeypatch.setattr(commits, "DAY_S", -60.0)
    made(fleet)
    assert len(fleet.store.entries("numbers")) == 4
    assert content(fleet) == [0, 10, 20, 30, 40]


def test_only_a_run_that_holds_the_fleet_writes_a_table(fleet: FleetLake) -> None:
    with pytest.raises(LakeError, match="can only be written by a run that holds the fleet"):
        fleet.map_shards("numbers", make, SHARDS)


def test_the_url_is_a_setting_and_every_profile_has_a_lake_of_its_own(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, lake_url="s3://tables/here/")
    assert (
        open_lake(settings).fleet("demo").where("numbers") == "s3://tables/here/full/demo/numbers"
    )
    cheap = settings.model_copy(update={"profile": "cheap"})
    assert open_lake(cheap).fleet("demo").where("x") == "s3://tables/here/cheap/demo/x"
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert open_lake(Settings(data_dir=tmp_path)).fleet("demo").where("") == str(
        tmp_path / "lake" / "demo"
    )
    with pytest.raises(ValidationError, match="allowed: s3://bucket/folder, gs://"):
        Settings(data_dir=tmp_path, lake_url="/mnt/tables")


@pytest.mark.parametrize(
    ("url", "kind", "bucket", "folder"),
    [
        ("s3://tables/here", "S3Store", {"bucket": "tables"}, "here/full"),
        ("s3://tables", "S3Store", {"bucket": "tables"}, "full"),
        ("gs://tables/here/and", "GCSStore", {"bucket": "tables"}, "here/and/full"),
        ("az://tables/here", "AzureStore", {"container_name": "tables"}, "here/full"),
    ],
)
def test_a_url_opens_this_bucket_or_container_and_this_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    kind: str,
    bucket: dict[str, str],
    folder: str,
) -> None:
    """Nothing is asked over the network."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    lake = open_lake(Settings(data_dir=tmp_path, lake_url=url))
    assert lake.url is not None
    opened = open_bucket(lake.url, 1.0)
    # Its attributes are compared one by one: obstore panics when it shows an AzureStore.
    assert (type(opened).__name__, opened.prefix) == (kind, folder)
    assert {name: opened.config.get(name) for name in bucket} == bucket


def test_a_container_without_an_account_is_refused_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    message = "Account must be specified.*az://container/folder with AZURE_STORAGE_ACCOUNT_NAME"
    with pytest.raises(LakeError, match=re.compile(message, re.DOTALL)):
        open_bucket("az://nobodys/here", 1.0)


def test_copies_lie_where_the_setting_says_apart_for_every_profile(tmp_path: Path) -> None:
    def cache(**values: Any) -> Path:
        settings = Settings(data_dir=tmp_path / "data", lake_url="s3://tables/here", **values)
        store = open_lake(settings).fleet("demo").store
        assert isinstance(store, ObjectStore)
        return store.cache

    assert cache() == tmp_path / "data" / "lake" / ".cache" / "demo"
    own = tmp_path / "own"
    assert cache(cache_dir=own) == own / "parts" / "full" / "demo"
    assert cache(cache_dir=own, profile="cheap") == own / "parts" / "cheap" / "demo"


# -- the lease


def race(stores: Sequence[Store], n_races: int) -> list[int]:
    """Let two runs take a fleet at once, again and again. Return the number of winners of each
    race.
    """
    barrier, winners = threading.Barrier(2, timeout=30), [0] * n_races

    def run(store: Store, run_id: str) -> None:
        for number in range(n_races):
            barrier.wait()
            try:
                with store.hold(run_id):
                    winners[number] += 1
                    barrier.wait()
            except FleetLockedError:
                barrier.wait()

    threads = [
        threading.Thread(target=run, args=(store, f"run-{number}"))
        for number, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners


def test_of_two_that_take_a_fleet_in_a_folder_one_wins_in_a_thousand_races(tmp_path: Path) -> None:
    assert race([FolderStore(tmp_path / "demo") for _ in range(2)], 1000) == [1] * 1000


@pytest.mark.parametrize("n_races", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_of_two_that_take_a_fleet_in_an_object_store_one_wins(
    url: str, tmp_path: Path, n_races: int
) -> None:
    stores = [ObjectStore(url, "demo", tmp_path) for _ in range(2)]
    assert race(stores, n_races) == [1] * n_races
    assert lease.read_lease(stores[0]) == (n_races, [])


def test_steps_of_one_run_share_the_lease_and_a_second_run_is_refused(
    url: str, tmp_path: Path
) -> None:
    one, two = opened(url, tmp_path), opened(url, tmp_path)
    with one.lock("run-a") as first, two.lock("run-a") as second:
        assert (first.epoch, second.epoch) == (1, 1)
        with (
            pytest.raises(FleetLockedError, match=rf"by process {os.getpid()} of run run-a since"),
            opened(url, tmp_path).lock("run-b"),
        ):
            pytest.fail("two runs hold one fleet")
    assert one.holder() is None
    with two.lock("run-b") as third:
        assert third.epoch == 2
        assert (two.holder() or {})["run_id"] == "run-b"


def test_a_lease_is_renewed_while_it_is_held(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(lease, "OVER_S", 0.8)
    fleet = opened(url, tmp_path)
    with fleet.lock("run-a") as held:
        time.sleep(1.2)
        held.check()
        with pytest.raises(FleetLockedError), opened(url, tmp_path).lock("run-b"):
            pytest.fail("two runs hold one fleet")


def test_a_renewal_that_fails_is_tried_again(
    url: str, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    fleet = opened(url, tmp_path)
    with fleet.lock("run-a") as held:
        s3.faults.append(Fault("PUT", LEASE, "403 Forbidden", times=2))
        time.sleep(0.4)
        assert s3.faults[0].times == 0
        held.check()


def test_the_epoch_says_which_of_two_holders_may_commit(url: str, tmp_path: Path) -> None:
    """The first holder is cut off in the middle of its table, and comes back."""
    one, two = opened(url, tmp_path / "one"), opened(url, tmp_path / "two")
    first = take(one.store, "run-a")
    one.held = first

    def overtaken(shard: Sequence[int]) -> pl.DataFrame:
        if shard == SHARDS[1]:
            over(one.store)
            made(two, "run-b")
            return make([n + 100 for n in shard])
        return make(shard)

    message = (
        r"run run-a has lost fleet 'demo', which it took in epoch 1.*; nothing was committed. "
        "Finished shards are kept"
    )
    with pytest.raises(FleetLostError, match=message):
        one.map_shards("numbers", overtaken, SHARDS)
    assert content(opened(url, tmp_path / "three")) == [0, 10, 20, 30, 40]
    assert two.record("numbers")["epoch"] == 2
    with pytest.raises(FleetLostError):
        first.renew()
    first.release()


def over(store: Store) -> None:
    """Let the time of every holder of a fleet be over."""
    stored = store.get(LEASE)
    written = json.loads(stored.content or b"")
    for holder in written["holders"]:
        holder["until"] = 0.0
    store.swap(LEASE, json.dumps(written).encode(), stored.tag)


def test_an_expired_holder_commits_nothing_even_if_nobody_took_over(
    url: str, tmp_path: Path
) -> None:
    fleet = opened(url, tmp_path)
    fleet.held = take(fleet.store, "run-a")

    def late(shard: Sequence[int]) -> pl.DataFrame:
        over(fleet.store)
        return make(shard)

    with pytest.raises(FleetLostError, match="because it did not renew its lease for 60 seconds"):
        fleet.map_shards("numbers", late, SHARDS)
    assert fleet.state("numbers") == "interrupted"


def test_a_commit_that_was_on_its_way_when_the_lease_changed_hands_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was checked in time, and arrives after the next holder has begun the table."""
    one, two = opened(url, tmp_path / "one"), opened(url, tmp_path / "two")
    put = ObjectStore._put

    def delayed(store: ObjectStore, key: str, content: bytes, tag: str) -> str:
        if store is one.store and b'"parts"' in content:
            over(one.store)
            with two.lock("run-b"):
                two._writer("numbers")._begin(force=False)
        return put(store, key, content, tag)

    monkeypatch.setattr(ObjectStore, "_put", delayed)
    one.held = take(one.store, "run-a")
    with pytest.raises(LakeError, match="was written by another run meanwhile"):
        one.map_shards("numbers", make, SHARDS)
    assert two.state("numbers") == "interrupted"


HOLD = """
import socket, sys
socket.gethostname = lambda: "host-b"  # before lock.py imports it
from pathlib import Path
from tsfm_pipeline.lake import Lake
with Lake(Path(sys.argv[1]), sys.argv[2] or None).fleet("demo").lock("run-b"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("place", ["folder", "object store"])
def test_of_two_runs_on_two_hosts_the_second_is_told_the_host_of_the_first(
    place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue("url") if place == "object store" else None
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), url or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        fleet = opened(url, tmp_path)
        message = rf"by process {other.pid} on host-b of run run-b since 20.*; wait for it"
        with pytest.raises(FleetLockedError, match=message), fleet.lock("run-a"):
            pytest.fail("two runs hold one fleet")
        other.communicate("\n", timeout=30)
        assert other.returncode == 0
        made(fleet)
    finally:
        other.kill()
        other.wait(timeout=30)


# -- faults of the store


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Slow Down"])
def test_answers_500_and_503_are_asked_again(url: str, tmp_path: Path, s3: S3, status: str) -> None:
    s3.faults += [
        Fault("PUT", ".parquet", status, times=2),
        Fault("PUT", "_table.json", status),
        Fault("PUT", LEASE, status),
        Fault("GET", "_table.json", status),
        Fault("GET", "", status),
    ]
    made(opened(url, tmp_path / "one"))
    assert content(opened(url, tmp_path / "two")) == [0, 10, 20, 30, 40]
    assert not any(fault.times for fault in s3.faults)


def test_a_put_that_arrived_though_its_answer_was_lost_counts(
    url: str, tmp_path: Path, s3: S3
) -> None:
    """The client asks again and is told that the object is there, or that its tag is another."""
    s3.faults += [
        Fault("PUT", LEASE, carried_out=True),
        Fault("PUT", ".parquet", carried_out=True),
        Fault("PUT", "_table.json", carried_out=True, times=2),
    ]
    made(opened(url, tmp_path / "one"))
    assert not any(fault.times for fault in s3.faults)
    assert content(opened(url, tmp_path / "two")) == [0, 10, 20, 30, 40]


def test_a_put_that_timed_out_and_arrived_counts(
    url: str, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "SMALL_S", 0.5)
    fleet = opened(url, tmp_path)
    with fleet.lock("run-a"):
        fleet.map_shards("numbers", make, SHARDS)
        s3.faults.append(Fault("PUT", "_table.json", delay_s=1.0, carried_out=True))
        fleet.map_shards("numbers", make, SHARDS)
    assert s3.faults[0].times == 0
    assert content(fleet) == [0, 10, 20, 30, 40]


def test_a_store_that_refuses_is_named_and_what_is_finished_is_kept(
    url: str, tmp_path: Path, s3: S3
) -> None:
    fleet = opened(url, tmp_path)
    s3.faults.append(Fault("PUT", "-00002", "403 Forbidden"))
    with fleet.lock("run-a"):
        parts = [fleet.put("numbers", 0, SHARDS[0], make(SHARDS[0]))]
        s3.faults.append(Fault("PUT", ".parquet", "403 Forbidden"))
        with pytest.raises(
            LakeError, match=r"s3://.*part-00001.* cannot be used: .*check TSFM_LAKE"
        ):
            fleet.map_shards("numbers", make, SHARDS)
        assert fleet.map_shards("numbers", make, SHARDS).n_skipped == len(parts)


def test_a_bucket_that_is_not_there_is_named(s3: S3, tmp_path: Path) -> None:
    fleet = opened("s3://nowhere", tmp_path)
    with (
        pytest.raises(LakeError, match=r"s3://nowhere/demo/_lease.json cannot be used"),
        fleet.lock("run-a"),
    ):
        pytest.fail("there is nothing to hold")


def test_the_doctor_says_whether_the_store_honours_conditions(
    url: str, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = object_store_finding(url, tmp_path)
    assert (good.status, good.finding) == (
        "ok",
        f"{url}: writable, and honours the conditions of a put",
    )
    monkeypatch.setattr(s3, "ignores_conditions", True)
    bad = object_store_finding(url, tmp_path)
    assert (bad.status, "two runs could overwrite each other" in bad.finding) == ("problem", True)
    monkeypatch.setattr(s3, "ignores_conditions", False)
    assert object_store_finding("s3://nowhere", tmp_path).status == "problem"
    assert ObjectStore(url, ".doctor", tmp_path).folders() == []


def test_a_fleet_s_tables_are_made_there_to_the_byte_and_by_a_worker_from_its_settings(
    url: str, tmp_path: Path
) -> None:
    """The tables up to the requests, which need no model; a worker gets the URL as JSON."""
    from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
    from tsfm_pipeline.catalogue.fleet_scope import FLEETS
    from tsfm_pipeline.catalogue.shards import make_shard, shard_work
    from tsfm_pipeline.catalogue.tables import TABLES
    from tsfm_pipeline.steps.makers import MAKERS
    from tsfm_pipeline.steps.making import make as make_table

    names = ("tenant_telemetry", "tenant_manifest", "forecast_requests", "request_targets")
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "small.yaml").write_text("kind: synthetic\ntitle: small\ntenants: 4\ndays: 8\n")
    settings = Settings(data_dir=tmp_path / "local", specs_dir=specs, shard_tenants=2)
    there = settings.model_copy(update={"data_dir": tmp_path / "data", "lake_url": url})
    made = []
    for own in (settings, there):
        fleet = open_workspace_fleet(own, "small")
        with fleet.tables.lock("run"):
            for name in names:
                make_table(FLEETS, fleet, TABLES[name], MAKERS[name], own)
        made.append([without_tags(fleet.tables.parts(name)) for name in names])
    assert made[0] == made[1]
    work = shard_work(there, FLEETS.opener, fleet, names[0], MAKERS[names[0]].function)
    assert without_tags([make_shard(work, (1, fleet.shards[1]))]) == [made[0][0][1]]
