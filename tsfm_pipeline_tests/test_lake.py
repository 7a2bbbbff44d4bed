"""Test the lake: a reader gets whole tables or an error message, a shard is made once, and a fleet
has one writer.
"""

import errno
import fcntl
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsfm_pipeline.files import LakeError, fingerprint, write_atomically
from tsfm_pipeline.lake import FleetLake, Lake, Task, arrays_frame
from tsfm_pipeline.lock import FleetLockedError, FleetLostError
from tsfm_pipeline.parts import SCHEMA_VERSION, Part
from tsfm_pipeline.store import FolderStore, Hold

SHARDS = [[0, 1], [2, 3], [4]]


def opened(root: Path, version: str = "v1") -> FleetLake:
    return Lake(root).fleet("demo", {"numbers": version})


class Maker:
    """Makes the frame of a shard and remembers for which shards it was asked."""

    def __init__(self, factor: int = 10) -> None:
        self.factor = factor
        self.asked: list[list[int]] = []

    def __call__(self, shard: Sequence[int]) -> pl.DataFrame:
        self.asked.append(list(shard))
        return pl.DataFrame(
            {"tenant_number": list(shard), "value": [n * self.factor for n in shard]}
        )


@pytest.fixture
def fleet(tmp_path: Path) -> FleetLake:
    """A fleet whose table `numbers` is there, in three parts."""
    fleet = opened(tmp_path)
    fleet.map_shards("numbers", Maker(), SHARDS)
    return fleet


def part_of(fleet: FleetLake, number: int) -> Path:
    """The file of a committed part."""
    return fleet.path / "numbers" / fleet.parts("numbers")[number].name


def on_disk(fleet: FleetLake) -> list[str]:
    """The names of all parts of the table's folder, committed or not."""
    return sorted(path.name for path in (fleet.path / "numbers").glob("*.parquet"))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


# -- atomic files


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_the_new_content_is_invisible_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "report.json"

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert not path.exists()

    write_atomically(path, write)
    assert path.read_text() == "new"


# -- shards


def test_a_table_is_written_part_by_part_and_described(fleet: FleetLake) -> None:
    assert fleet.read("numbers")["value"].to_list() == [0, 10, 20, 30, 40]
    assert fleet.read("numbers", 1)["value"].to_list() == [20, 30]
    assert fleet.read("numbers", columns=["value"]).columns == ["value"]
    record = fleet.record("numbers")
    assert (record["n_rows"], record["fingerprint"], record["schema_version"]) == (
        5,
        "v1",
        SCHEMA_VERSION,
    )
    assert [part["name"] for part in record["parts"]] == on_disk(fleet)
    assert [part["n_rows"] for part in record["parts"]] == [2, 2, 1]
    assert record["schema"] == {"tenant_number": "Int64", "value": "Int64"}


def test_shards_that_are_there_are_not_made_again(fleet: FleetLake) -> None:
    maker, log = Maker(factor=0), []
    summary = fleet.map_shards("numbers", maker, SHARDS, log=log.append)
    assert maker.asked == []
    assert (summary.n_parts, summary.n_skipped) == (3, 3)
    assert log == ["numbers: 3 of 3 shards were already there and are kept"]
    assert fleet.read("numbers")["value"].to_list() == [0, 10, 20, 30, 40]


def test_force_makes_every_shard_again(fleet: FleetLake) -> None:
    maker = Maker(factor=1)
    assert fleet.map_shards("numbers", maker, SHARDS, force=True).n_skipped == 0
    assert maker.asked == SHARDS
    assert fleet.read("numbers")["value"].to_list() == [0, 1, 2, 3, 4]


def test_an_interrupted_table_resumes_after_its_finished_shards(tmp_path: Path) -> None:
    fleet, maker = opened(tmp_path), Maker()

    def interrupted(shard: Sequence[int]) -> pl.DataFrame:
        if shard == SHARDS[2]:
            raise KeyboardInterrupt
        return maker(shard)

    with pytest.raises(KeyboardInterrupt):
        fleet.map_shards("numbers", interrupted, SHARDS)
    with pytest.raises(LakeError, match="'numbers' of fleet 'demo' is not there"):
        fleet.read("numbers")
    resumed = Maker()
    assert fleet.map_shards("numbers", resumed, SHARDS).n_skipped == 2
    assert resumed.asked == [SHARDS[2]]
    assert fleet.read("numbers").height == 5


def interrupted_after(number: int, fleet: FleetLake, numerics: str) -> None:
    """Make the first shards with these numerics, and be killed."""

    def run(tasks: Sequence[Task]) -> Iterator[Part]:
        for task, shard in tasks[:number]:
            yield fleet.put("numbers", task, shard, Maker()(shard), numerics)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fleet.complete("numbers", SHARDS, run, numerics=numerics)


def completed(fleet: FleetLake, numerics: str) -> tuple[list[list[int]], list[str]]:
    """Complete the table with these numerics. Return the shards that were made, and the log."""
    maker, log = Maker(), list[str]()

    def run(tasks: Sequence[Task]) -> Iterator[Part]:
        for number, shard in tasks:
            yield fleet.put("numbers", number, shard, maker(shard), numerics)

    fleet.complete(
        "numbers",
        SHARDS,
        run,
        provenance={"numerics": json.loads(numerics)},
        numerics=numerics,
        log=log.append,
    )
    return maker.asked, log


HASWELL, ZEN = '{"blas": "openblas Haswell"}', '{"blas": "openblas Zen"}'


def test_parts_of_another_machine_s_numerics_are_made_again_after_an_interruption(
    tmp_path: Path,
) -> None:
    fleet = opened(tmp_path)
    interrupted_after(2, fleet, HASWELL)
    asked, log = completed(fleet, ZEN)
    assert asked == SHARDS
    assert [line for line in log if "made again" in line] == [
        "numbers: 2 of 3 shards were already there, but their last digits may differ from this "
        "run's, because they were made with another BLAS kernel, decoder or device; they are made "
        "again"
    ]
    assert fleet.record("numbers")["numerics"] == {"blas": "openblas Zen"}
    assert on_disk(fleet) == [part.name for part in fleet.parts("numbers")]


def test_a_late_part_of_another_machine_s_numerics_is_not_kept(tmp_path: Path) -> None:
    """A worker of the run before puts it after the next run has begun the table."""
    fleet = opened(tmp_path)
    interrupted_after(1, fleet, ZEN)
    fleet.put("numbers", 1, SHARDS[1], Maker(factor=3)(SHARDS[1]), HASWELL)
    asked, _ = completed(fleet, ZEN)
    assert asked == SHARDS[1:]
    assert fleet.read("numbers")["value"].to_list() == [0, 10, 20, 30, 40]


def test_parts_of_equal_numerics_are_kept_after_an_interruption(tmp_path: Path) -> None:
    fleet = opened(tmp_path)
    interrupted_after(2, fleet, HASWELL)
    asked, log = completed(fleet, HASWELL)
    assert asked == SHARDS[2:]
    assert not any("made again" in line for line in log)


@pytest.mark.parametrize("made_with", [HASWELL, None], ids=["other numerics", "earlier release"])
def test_a_whole_table_stays_as_it_is_and_its_record_says_how_it_was_made(
    tmp_path: Path, made_with: str | None
) -> None:
    fleet = opened(tmp_path)
    if made_with is None:
        fleet.map_shards("numbers", Maker(), SHARDS)
    else:
        completed(fleet, made_with)
    before = fleet.record("numbers")
    assert fleet.state("numbers") == "current"
    assert completed(fleet, ZEN)[0] == []
    assert fleet.record("numbers") == before


def test_a_damaged_table_of_other_numerics_is_made_again_as_a_whole(tmp_path: Path) -> None:
    fleet = opened(tmp_path)
    completed(fleet, HASWELL)
    part_of(fleet, 1).write_bytes(b"damaged")
    assert completed(fleet, ZEN)[0] == SHARDS
    part_of(fleet, 1).write_bytes(b"damaged")
    assert completed(fleet, ZEN)[0] == [SHARDS[1]]
    assert fleet.record("numbers")["numerics"] == {"blas": "openblas Zen"}


def test_a_repair_with_other_numerics_that_is_killed_before_its_commit_says_how_it_was_made(
    tmp_path: Path,
) -> None:
    fleet = opened(tmp_path)
    completed(fleet, HASWELL)
    part_of(fleet, 1).write_bytes(b"damaged")
    interrupted_after(3, fleet, ZEN)
    assert completed(fleet, ZEN)[0] == []
    assert fleet.record("numbers")["numerics"] == {"blas": "openblas Zen"}


def test_another_fingerprint_makes_all_shards_again_and_hides_the_table_meanwhile(
    tmp_path: Path, fleet: FleetLake
) -> None:
    newer = opened(tmp_path, "v2")

    def interrupted(shard: Sequence[int]) -> pl.DataFrame:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        newer.map_shards("numbers", interrupted, SHARDS)
    for reader in (fleet, newer):
        with pytest.raises(LakeError, match="materialise the asset 'numbers' first"):
            reader.read("numbers")
    maker = Maker()
    newer.map_shards("numbers", maker, SHARDS)
    assert maker.asked == SHARDS


def test_other_shards_of_the_same_fingerprint_replace_the_old_parts(fleet: FleetLake) -> None:
    maker = Maker()
    fleet.map_shards("numbers", maker, [[0, 1], [2, 3, 4]])
    assert maker.asked == [[2, 3, 4]]
    assert fleet.read("numbers")["value"].to_list() == [0, 10, 20, 30, 40]
    assert on_disk(fleet) == [part.name for part in fleet.parts("numbers")]
    assert [name[:10] for name in on_disk(fleet)] == ["part-00000", "part-00001"]


@pytest.mark.parametrize(
    "content", [b"", b"not parquet at all", None], ids=["empty", "garbage", "cut off"]
)
def test_an_unreadable_part_is_made_again(fleet: FleetLake, content: bytes | None) -> None:
    part = part_of(fleet, 1)
    part.write_bytes(part.read_bytes()[:-20] if content is None else content)
    maker = Maker()
    assert fleet.map_shards("numbers", maker, SHARDS).n_skipped == 2
    assert maker.asked == [SHARDS[1]]
    assert fleet.read("numbers")["value"].to_list() == [0, 10, 20, 30, 40]


def test_a_shard_that_fails_leaves_no_temporary_file_and_those_of_killed_runs_are_swept(
    fleet: FleetLake,
) -> None:
    folder = fleet.path / "numbers"
    (folder / ".part-00000.parquet.host-0123abcd.tmp").write_bytes(b"half")
    fleet.map_shards("numbers", Maker(), SHARDS, force=True)
    assert leftovers(folder) == []

    def fail(shard: Sequence[int]) -> pl.DataFrame:
        raise ValueError("bad telemetry")

    with pytest.raises(ValueError, match="bad telemetry"):
        fleet.map_shards("numbers", fail, SHARDS, force=True)
    assert leftovers(folder) == []


def test_writing_a_table_without_a_known_fingerprint_is_refused(fleet: FleetLake) -> None:
    with pytest.raises(
        LakeError, match="no fingerprint is known for table 'letters'; known: numbers"
    ):
        fleet.map_shards("letters", Maker(), SHARDS)


# -- parts


def test_a_part_s_name_holds_what_it_was_made_under_and_what_it_holds(fleet: FleetLake) -> None:
    for number, (part, shard) in enumerate(zip(fleet.parts("numbers"), SHARDS, strict=True)):
        content = part_of(fleet, number).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        assert (part.number, part.n_bytes, part.sha256) == (number, len(content), sha256)
        assert part.name == f"part-{number:05d}-{fingerprint('v1', shard)[:8]}-{sha256[:8]}.parquet"


def test_writers_of_other_content_never_write_over_each_other(
    fleet: FleetLake, tmp_path: Path
) -> None:
    """A worker that goes on after its run was given up, under another fingerprint or with other
    bytes.
    """
    before = {path: path.read_bytes() for path in map(partial(part_of, fleet), range(3))}
    late = [
        opened(tmp_path, "v2").put("numbers", 1, SHARDS[1], Maker()(SHARDS[1])),
        fleet.put("numbers", 1, SHARDS[1], Maker(factor=3)(SHARDS[1])),
    ]
    assert len({part.name for part in [*fleet.parts("numbers"), *late]}) == 5
    assert {path: path.read_bytes() for path in before} == before
    assert fleet.read("numbers")["value"].to_list() == [0, 10, 20, 30, 40], (
        "parts that no record names are no part of the table"
    )
    fleet.map_shards("numbers", Maker(), SHARDS)
    assert on_disk(fleet) == [part.name for part in fleet.parts("numbers")], (
        "the next run sweeps them"
    )


def test_what_appears_during_a_run_is_swept_by_the_next(fleet: FleetLake) -> None:
    """It may be half written by another process that is still at it."""
    folder = fleet.path / "numbers"

    class Interfering(Maker):
        def __call__(self, shard: Sequence[int]) -> pl.DataFrame:
            (folder / ".part-00000.parquet.elsewhere-0123abcd.tmp").write_bytes(b"half")
            return super().__call__(shard)

    fleet.map_shards("numbers", Interfering(), SHARDS, force=True)
    assert leftovers(folder) == [".part-00000.parquet.elsewhere-0123abcd.tmp"]
    fleet.map_shards("numbers", Maker(), SHARDS)
    assert leftovers(folder) == []


def test_no_file_of_a_table_is_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    put, swap = FolderStore.put_if_absent, FolderStore.swap

    def putting(store: FolderStore, key: str, content: bytes) -> bool:
        written.append(key)
        return put(store, key, content)

    def swapping(store: FolderStore, key: str, *arguments: Any) -> str:
        written.append(key)
        return swap(store, key, *arguments)

    monkeypatch.setattr(FolderStore, "put_if_absent", putting)
    monkeypatch.setattr(FolderStore, "swap", swapping)
    fleet = opened(tmp_path)
    fleet.map_shards("numbers", Maker(), [[number] for number in range(20)])
    assert len(written) == len(set(written)) == 21
    assert written[-1] == "numbers/_table.json"


def test_an_executor_may_make_shards_in_any_order_but_must_make_all(tmp_path: Path) -> None:
    fleet = opened(tmp_path)

    def backwards(tasks: Sequence[Task]) -> Iterator[Part]:
        for number, shard in reversed(tasks):
            yield fleet.put("numbers", number, shard, Maker()(shard))

    assert fleet.complete("numbers", SHARDS, backwards).n_rows == 5
    assert fleet.read("numbers")["value"].to_list() == [0, 10, 20, 30, 40]
    newer = opened(tmp_path, "v2")
    with pytest.raises(
        LakeError,
        match=r"'numbers' of fleet 'demo': shards 2, 3 of 3 were not made; materialise the asset",
    ):
        newer.complete(
            "numbers",
            SHARDS,
            lambda tasks: [newer.put("numbers", 0, SHARDS[0], Maker()(SHARDS[0]))],
        )
    assert newer.map_shards("numbers", Maker(), SHARDS).n_skipped == 1


def test_one_shard_is_read_without_opening_another(fleet: FleetLake) -> None:
    for number in (0, 2):
        part_of(fleet, number).unlink()
    assert fleet.read("numbers", 1)["value"].to_list() == [20, 30]
    assert fleet.scan("numbers", 1, 1).collect()["value"].to_list() == [20, 30, 20, 30]


def test_a_table_of_the_release_before_is_refused_by_name_and_made_again(fleet: FleetLake) -> None:
    """Schema version 1: parts without digests in their names, and their seals in `_parts.json`."""
    folder = fleet.path / "numbers"
    for number in range(3):
        part_of(fleet, number).rename(folder / f"part-{number:05d}.parquet")
    (folder / "_parts.json").write_text("{}")
    record = {
        "fingerprint": "v0",
        "schema_version": 1,
        "parts": [f"part-{number:05d}.parquet" for number in range(3)],
    }
    (folder / "_table.json").write_text(json.dumps(record))
    message = rf"table 'numbers' of fleet 'demo' cannot be read: .* has schema version 1, this release reads {SCHEMA_VERSION}; materialise"
    with pytest.raises(LakeError, match=message):
        fleet.read("numbers")
    assert fleet.map_shards("numbers", Maker(), SHARDS).n_skipped == 0
    assert sorted(path.name for path in folder.iterdir()) == ["_table.json", *on_disk(fleet)], (
        "nothing of it is left"
    )


# -- reading


def test_a_missing_table_names_the_asset_to_materialise(tmp_path: Path) -> None:
    with pytest.raises(
        LakeError,
        match=r"table 'numbers' of fleet 'demo' is not there .*; materialise the asset 'numbers' first",
    ):
        opened(tmp_path).read("numbers")


def test_a_table_of_other_settings_is_refused_by_every_reader(
    tmp_path: Path, fleet: FleetLake
) -> None:
    newer = opened(tmp_path, "v2")
    message = r"fingerprint v1, expected v2\); materialise the asset 'numbers' again"
    for read in (
        newer.read,
        newer.scan,
        newer.record,
        newer.read_arrays,
        lambda table: newer.query("SELECT 1", table),
    ):
        with pytest.raises(LakeError, match=message):
            read("numbers")


def test_duckdb_queries_the_parts_of_a_table(fleet: FleetLake) -> None:
    assert fleet.query("SELECT sum(value) AS total, count(*) AS n FROM numbers", "numbers").row(
        0
    ) == (100, 5)


arrays = st.sampled_from(["f4", "f8", "i8", "?"]).flatmap(
    lambda dtype: st.lists(st.integers(0, 3), min_size=0, max_size=3).map(
        lambda shape: np.arange(int(np.prod(shape)), dtype="i8").reshape(shape).astype(dtype)
    )
)


@pytest.mark.heavy
@given(st.dictionaries(st.text("abc/_", min_size=1, max_size=5), arrays, max_size=4))
def test_arrays_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, named: dict[str, np.ndarray]
) -> None:
    fleet = opened(tmp_path_factory.mktemp("lake"))
    fleet.write("numbers", arrays_frame(named))
    back = fleet.read_arrays("numbers")
    assert back.keys() == named.keys()
    for name, array in named.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)


def test_text_and_special_floats_survive_the_round_trip(fleet: FleetLake) -> None:
    named = {"ids": np.array(["a", "größer"]), "values": np.array([np.nan, -np.inf, -0.0, 5e-324])}
    fleet.write("numbers", arrays_frame(named))
    back = fleet.read_arrays("numbers")
    assert back["ids"].tolist() == ["a", "größer"]
    assert back["values"].tobytes() == named["values"].tobytes()


def test_the_same_frame_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        fleet = opened(tmp_path / name)
        fleet.map_shards("numbers", Maker(), SHARDS)
        contents.append(
            [path.read_bytes() for path in sorted((fleet.path / "numbers").glob("*.parquet"))]
        )
    assert contents[0] == contents[1]


# -- names and fingerprints


@pytest.mark.parametrize("name", ["../elsewhere", "..", ".", "a/b", "/etc", ""])
def test_a_fleet_cannot_leave_the_lake(tmp_path: Path, name: str) -> None:
    with pytest.raises(LakeError, match="would leave the lake"):
        Lake(tmp_path).fleet(name)


def test_fingerprints_tell_content_apart_and_ignore_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2, None]}) == fingerprint({"b": [2, None], "a": 1})
    different = [
        fingerprint(part)
        for part in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": None}, ["a", 1], "a1")
    ]
    assert len(set(different)) == len(different)
    assert fingerprint("a", "b") != fingerprint("ab")


def test_fingerprints_are_the_same_in_another_process() -> None:
    code = (
        "from tsfm_pipeline.files import fingerprint; print(fingerprint({'x': ('a', 1.5, None)}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    other = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert other.stdout.strip() == fingerprint({"x": ("a", 1.5, None)})


# -- the lock

HOLD = """
import sys, time
from pathlib import Path
from tsfm_pipeline.lake import Lake
with Lake(Path(sys.argv[1])).fleet("demo").lock(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(root: Path, run_id: str) -> subprocess.Popen[str]:
    """A process that holds the fleet for a run until it reads a line or is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    return process


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = hold(tmp_path, "run-a")
    yield process
    process.kill()
    process.wait(timeout=30)


def test_a_second_run_fails_at_once_and_is_told_who_holds_the_fleet(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    message = rf"fleet 'demo' is being written by process {holder.pid} of run run-a since 20\d\d-.*; wait for it, or end that process"
    with pytest.raises(FleetLockedError, match=message), opened(tmp_path).lock("run-b"):
        pytest.fail("two runs hold one fleet")


def test_steps_of_one_run_share_the_fleet(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with opened(tmp_path).lock("run-a"), opened(tmp_path).lock("run-a"):
        assert holder.poll() is None


def test_the_process_that_is_named_is_one_that_still_lives(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    later = hold(tmp_path, "run-a")
    try:
        holder.kill()
        holder.wait(timeout=30)
        with (
            pytest.raises(FleetLockedError, match=f"process {later.pid} of run run-a"),
            opened(tmp_path).lock("run-b"),
        ):
            pytest.fail("two runs hold one fleet")
    finally:
        later.kill()
        later.wait(timeout=30)


def test_a_killed_holder_lets_go(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait(timeout=30)
    with opened(tmp_path).lock("run-b"):
        pass


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step failed"), opened(tmp_path).lock("run-a"):
        raise ValueError("step failed")
    with opened(tmp_path).lock("run-b"):
        pass


def test_files_are_opened_as_nfs_wants_them_for_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS makes a lock of a range of bytes of it, which wants a file that was opened for writing if
    the lock is exclusive, and for reading if it is shared (flock(2)).
    """
    on_a_disk = fcntl.flock

    def on_nfs(file: Any, operation: int) -> None:
        mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        wrong = {fcntl.LOCK_EX: os.O_RDONLY, fcntl.LOCK_SH: os.O_WRONLY}
        if wrong.get(operation & ~fcntl.LOCK_NB) == mode:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        on_a_disk(file, operation)

    monkeypatch.setattr(fcntl, "flock", on_nfs)
    fleet = opened(tmp_path)
    with fleet.lock("run-a"):
        found = fleet.holder()
        assert found is not None
        assert found["run_id"] == "run-a"
    assert fleet.holder() is None


def test_a_holder_that_was_superseded_commits_nothing_and_says_so(tmp_path: Path) -> None:
    """Its lock went to another run, as when an NFS server gives up a host that it cannot reach."""
    first, second = opened(tmp_path), opened(tmp_path)

    def overtaken(shard: Sequence[int]) -> pl.DataFrame:
        if shard == SHARDS[2]:
            (first.path / ".lock").unlink()
            with second.lock("run-b"):
                second.map_shards("numbers", Maker(), SHARDS)
            return Maker(factor=3)(shard)
        return Maker()(shard)

    message = r"run run-a has lost fleet 'demo', which it took in epoch 1; process \d+ of run run-b"
    with pytest.raises(FleetLostError, match=message), first.lock("run-a"):
        first.map_shards("numbers", overtaken, SHARDS, force=True)
    assert second.read("numbers")["value"].to_list() == [0, 10, 20, 30, 40]


def test_a_holder_that_was_superseded_withdraws_no_table(tmp_path: Path, fleet: FleetLake) -> None:
    newer = opened(tmp_path, "v2")
    with newer.lock("run-a"):
        (newer.path / ".lock").write_text("")
        with pytest.raises(FleetLostError, match="nothing was committed"):
            newer.map_shards("numbers", Maker(), SHARDS)
    assert fleet.read("numbers").height == 5


def test_every_take_over_has_the_next_epoch_and_steps_of_a_run_share_one(tmp_path: Path) -> None:
    for epoch in (1, 2):
        with opened(tmp_path).lock("run-a") as one, opened(tmp_path).lock("run-a") as two:
            assert (one.epoch, two.epoch) == (epoch, epoch)


def test_a_process_of_another_host_counts_as_living(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    """Its number says nothing here, where another process or none may have it."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(timeout=30)
    elsewhere = {"pid": gone.pid, "host": "elsewhere", "run_id": "run-a", "since": "noon"}
    here = {**elsewhere, "host": socket.gethostname()}
    with (tmp_path / "demo" / ".lock").open("a") as lock:
        lock.writelines(json.dumps({**own, "epoch": 1}) + "\n" for own in (elsewhere, here))
    message = f"by process {gone.pid} on elsewhere of run run-a since noon"
    with pytest.raises(FleetLockedError, match=message), opened(tmp_path).lock("run-b"):
        pytest.fail("two runs hold one fleet")


def test_fleets_are_held_independently(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with Lake(tmp_path).fleet("smd").lock("run-b"):
        assert holder.poll() is None


class CountingStore(FolderStore):
    """A folder that counts what is written into it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.puts, self.swaps = 0, 0

    def put_if_absent(self, key: str, content: bytes) -> bool:
        self.puts += 1
        return super().put_if_absent(key, content)

    def swap(self, key: str, content: bytes | None, tag: str, hold: Hold | None = None) -> str:
        self.swaps += 1
        return super().swap(key, content, tag, hold)


@pytest.mark.parametrize("n_parts", [5, 50])
def test_a_table_of_many_parts_writes_each_part_once_and_its_record_at_most_twice(
    tmp_path: Path, n_parts: int
) -> None:
    for version, swaps in (("v1", 1), ("v2", 2)):  # the second withdraws the record of the first
        store = CountingStore(tmp_path / "demo")
        fleet = FleetLake(store, {"numbers": version})
        fleet.map_shards("numbers", Maker(), [[number] for number in range(n_parts)])
        assert (store.puts, store.swaps) == (n_parts, swaps)
