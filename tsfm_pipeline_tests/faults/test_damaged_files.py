"""Test damaged files: every reader refuses them by name, and the next run makes only the damaged
ones again.

What belongs here: damage to tables, records, reports and the ledger. What does not: kills
(`test_odd_fleets`), telemetry of others.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.files import LakeError, StorageError
from tsfm_pipeline.lake import FleetLake, Lake
from tsfm_pipeline.lock import FleetLockedError
from tsfm_pipeline.reports.acceptance.ledger import append_to_ledger, ledger
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.project import Project

SHARDS = [[0], [1], [2]]
N_ROWS = 2_000


def make(shard: Sequence[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "tenant_number": list(shard) * N_ROWS,
            "value": [row * 0.37 + shard[0] for row in range(N_ROWS)],
        }
    )


def opened(root: Path, version: str = "v1") -> FleetLake:
    return Lake(root).fleet("demo", {"numbers": version})


@pytest.fixture
def lake(tmp_path: Path) -> FleetLake:
    """A table in three parts, as a later process opens it."""
    opened(tmp_path).map_shards("numbers", make, SHARDS)
    return opened(tmp_path)


@pytest.fixture
def part(lake: FleetLake) -> Path:
    return lake.path / "numbers" / lake.parts("numbers")[1].name


def flip_a_value(part: Path) -> None:
    """Change one byte in the middle of the row groups; footer, statistics and size stay as they
    were.
    """
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 0x20
    part.write_bytes(content)


def cut_off(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-100])


def zero_a_page(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[200:700] = bytes(500)
    part.write_bytes(content)


def another_shard(part: Path) -> None:
    (other,) = part.parent.glob("part-00000-*.parquet")
    shutil.copy(other, part)


def gone(part: Path) -> None:
    part.unlink()


DAMAGES = (flip_a_value, cut_off, zero_a_page, another_shard, gone)


def remade(lake: FleetLake) -> list[list[int]]:
    """The shards that the next run makes again."""
    asked: list[list[int]] = []

    def remember(shard: Sequence[int]) -> pl.DataFrame:
        asked.append(list(shard))
        return make(shard)

    lake.map_shards("numbers", remember, SHARDS)
    return asked


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_refused_by_every_reader_and_only_that_part_is_made_again(
    lake: FleetLake, part: Path, damage: Callable[[Path], None]
) -> None:
    before = part.read_bytes()
    damage(part)
    readers: tuple[Callable[[str], object], ...] = (
        lake.read,
        lake.scan,
        lake.read_arrays,
        lambda table: lake.query("SELECT 1", table),
    )
    for read in (*readers, lambda table: lake.read(table, 1)):
        with pytest.raises(
            LakeError,
            match=r"'numbers' of fleet 'demo' is damaged: .*part-00001-.*parquet.* materialise the asset 'numbers'",
        ):
            read("numbers")
    assert lake.read("numbers", 0).height == N_ROWS, "the other shards can be read"
    assert remade(lake) == [[1]]
    assert part.read_bytes() == before
    assert lake.read("numbers").height == 3 * N_ROWS


def test_a_flipped_byte_is_one_that_parquet_itself_would_not_notice(
    lake: FleetLake, part: Path
) -> None:
    before = pl.read_parquet(part)
    flip_a_value(part)
    assert pl.read_parquet(part).shape == before.shape
    assert not pl.read_parquet(part).equals(before)


def test_damage_that_happens_while_a_process_reads_is_noticed_too(
    lake: FleetLake, part: Path
) -> None:
    assert lake.read("numbers").height == 3 * N_ROWS
    flip_a_value(part)
    with pytest.raises(
        LakeError,
        match=r"part-00001-\w+-\w+.parquet is not the file that was written \(its size or SHA-256 differs\)",
    ):
        lake.read("numbers")


def test_without_its_record_a_damaged_part_is_made_again_all_the_same(
    lake: FleetLake, part: Path
) -> None:
    """An interrupted run leaves none: names and footers say what is whole."""
    (lake.path / "numbers" / "_table.json").unlink()
    flip_a_value(part)
    assert remade(lake) == [[1]]
    assert lake.read("numbers").height == 3 * N_ROWS


def test_a_part_under_the_name_of_another_is_made_again(lake: FleetLake, part: Path) -> None:
    """Its bytes are those that its name promises, its footer tells whose they are."""
    (other,) = part.parent.glob("part-00000-*.parquet")
    shutil.copy(other, part.with_name(f"part-00001-{part.name[11:19]}-{other.name[20:28]}.parquet"))
    part.unlink()
    (lake.path / "numbers" / "_table.json").unlink()
    assert remade(lake) == [[1]]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"\xff\xfe"], ids=["empty", "cut off", "no object", "no text"]
)
def test_a_damaged_record_hides_the_table_until_the_next_run_which_keeps_its_parts(
    lake: FleetLake, content: bytes
) -> None:
    (lake.path / "numbers" / "_table.json").write_bytes(content)
    with pytest.raises(
        LakeError, match=r"cannot be read: .*_table\.json .*materialise the asset 'numbers' again"
    ):
        lake.read("numbers")
    assert remade(lake) == []
    assert lake.read("numbers").height == 3 * N_ROWS


def test_a_table_of_another_schema_version_is_refused_by_every_reader_and_made_again(
    tmp_path: Path, lake: FleetLake
) -> None:
    record = lake.path / "numbers" / "_table.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"schema_version": 0}))
    anyone = Lake(tmp_path).fleet("demo")
    for read in (
        lake.read,
        lake.scan,
        anyone.read,
        anyone.record,
        lambda table: anyone.query("SELECT 1", table),
    ):
        with pytest.raises(
            LakeError,
            match=r"has schema version 0, this release reads 2; materialise the asset 'numbers' again",
        ):
            read("numbers")
    newer = opened(
        tmp_path, "v2"
    )  # the version is part of every fingerprint (`tables.expected_fingerprints`)
    assert remade(newer) == SHARDS
    assert newer.read("numbers").height == 3 * N_ROWS


def test_a_lock_that_was_cut_short_still_keeps_others_out(tmp_path: Path) -> None:
    lake = opened(tmp_path)
    with lake.lock("run-a"):
        (lake.path / ".lock").write_text('{"pid": 1')
        with (
            pytest.raises(FleetLockedError, match=r"process \(not in .lock\)"),
            opened(tmp_path).lock("run-b"),
        ):
            pytest.fail("two runs hold one fleet")
    with opened(tmp_path).lock("run-b"):
        pass


@pytest.mark.parametrize("folder", ["[ab] *", "region=eu", "a?b", "{x,y}"])
def test_the_name_of_the_data_folder_is_no_pattern(tmp_path: Path, folder: str) -> None:
    other = opened(tmp_path / "a x")
    other.map_shards("numbers", lambda shard: make(shard).with_columns(value=-1.0), SHARDS)
    lake = opened(tmp_path / folder)
    lake.map_shards("numbers", make, SHARDS)
    assert lake.read("numbers").columns == ["tenant_number", "value"]
    assert lake.read("numbers")["value"].min() >= 0
    assert lake.query("SELECT * FROM numbers WHERE value < 0", "numbers").shape == (0, 2)
    assert lake.query("SELECT * FROM numbers", "numbers").height == 3 * N_ROWS


# -- reports


@pytest.fixture
def fleet(mini_project: Project, tmp_path: Path) -> Fleet:
    """A copy of the miniature fleet that a test may damage."""
    return mini_project.copy_to(tmp_path / "project").fleet(MINI)


def test_a_damaged_report_is_refused_by_name(fleet: Fleet) -> None:
    path = fleet.reports_dir / "headline_report.json"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(
        LakeError,
        match=r"headline_report\.json is damaged: .* materialise the asset 'headline_report'",
    ):
        read_report(fleet, "headline_report")


def test_a_damaged_ledger_is_never_written_over(fleet: Fleet) -> None:
    (path,) = ledger(fleet).paths()
    path.write_bytes(path.read_bytes()[:-500])
    damaged = path.read_bytes()
    with pytest.raises(
        StorageError,
        match=rf"{path.name} cannot be read: .* restore it from a backup, or move it away",
    ):
        append_to_ledger(fleet)
    assert path.read_bytes() == damaged
    assert ledger(fleet).paths() == [path]
